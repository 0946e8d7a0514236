"""Rows of anything: JSONL, JSON, CSV, Parquet, Arrow, stdin, iterables, frames; in bounded memory.

    for row in open_source("prompts-*.jsonl.gz", limit=1000):
        row.index, row.raw, row.record, row.where

What comes out of a source is a JSON object in UTF-8; anything else is an ``InputError`` that says where it stands. At
most one chunk of a file is held (1 MiB, or one row where that is longer), never the file.
"""

from mistill.datasets.sources.row import Input, Row, UntypedInput, name_of
from mistill.datasets.sources.source import NotWanted, Source, open_source
from mistill.datasets.sources.steps import Exploded, Filtered, Named

__all__ = [
    "Exploded",
    "Filtered",
    "Input",
    "Named",
    "NotWanted",
    "Row",
    "Source",
    "UntypedInput",
    "name_of",
    "open_source",
]
