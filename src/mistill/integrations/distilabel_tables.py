"""One mend of distilabel, without which a table cannot begin with rows that failed.

Its write buffer makes a Parquet file of every 50 rows and at the end reads all of them with the schema of the first. A
first file without one answer has columns of type null, which no text can be read as: the run ends in an
``ArrowNotImplementedError`` after everything was paid for (distilabel#975; 1.5.3 is the newest release).
"""

# distilabel has no types to be strict about, and need not be installed where types are checked.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from distilabel.pipeline.write_buffer import _WriteBuffer


def let_tables_begin_with_failures() -> None:
    """From now on, the schema that a table's files are read with is the one that fits all of them."""
    theirs = _WriteBuffer.close
    if hasattr(theirs, "__wrapped__"):
        return

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

    _WriteBuffer.close = close
