"""Two mends of distilabel's write buffer, without which a run that has paid for all its answers ends in an Arrow error.

- It writes a Parquet file of every 50 rows and at the end reads all of them with the schema of the first. A first file
  without one answer has columns of type null, which no text can be read as (distilabel#975).
- Where a row has a schema of its own, the input that it keeps in ``distilabel_metadata`` is a pair of a list and a
  dict, for which Arrow has no type.

1.5.3, where this was found, is the newest release.
"""

# distilabel has no types to be strict about, and need not be installed where types are checked.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from distilabel.constants import DISTILABEL_METADATA_KEY
from distilabel.pipeline.write_buffer import _WriteBuffer


def mend_tables() -> None:
    """From now on, for every pipeline of this process."""
    if not hasattr(_WriteBuffer.close, "__wrapped__"):
        _WriteBuffer.add_batch = _with_pairs_as_text(_WriteBuffer.add_batch)
        _WriteBuffer.close = _with_one_schema_for_all(_WriteBuffer.close)


def _with_pairs_as_text(theirs: Any) -> Any:
    @functools.wraps(theirs)
    def add_batch(self: Any, batch: Any) -> None:
        for row in batch.data[0]:
            metadata = row.get(DISTILABEL_METADATA_KEY)
            for part in metadata if isinstance(metadata, list) else [metadata or {}]:
                part.update(
                    {name: json.dumps(value) for name, value in part.items() if isinstance(value, tuple)}
                )
        theirs(self, batch)

    return add_batch


def _with_one_schema_for_all(theirs: Any) -> Any:
    @functools.wraps(theirs)
    def close(self: Any) -> None:
        for step_name, rows in self._buffers.items():
            if rows:
                self._write(step_name)
            files = sorted(Path(self._path, step_name).glob("*.parquet"))
            if files:
                self._buffer_last_schema[step_name] = pa.unify_schemas(
                    [pq.read_schema(file) for file in files], promote_options="permissive"
                )
        theirs(self)

    return close
