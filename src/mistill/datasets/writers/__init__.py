"""Records to files: JSONL, JSON, CSV, TSV, Parquet, Arrow, each in bounded memory and whole or not at all.

with open_writer("answers.csv.gz", columns=["id", "generation"]) as writer:
    writer.write({"id": 1, "generation": "…"})
"""

from mistill.datasets.writers.destination import CsvDialect, Vectors, Writer
from mistill.datasets.writers.open_writer import check_columns, check_no_loss, check_target, open_writer

__all__ = ["CsvDialect", "Vectors", "Writer", "check_columns", "check_no_loss", "check_target", "open_writer"]
