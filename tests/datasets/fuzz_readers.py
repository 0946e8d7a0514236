"""Damaged files through every reader: a read ends in rows or in an ``InputError``, never in anything else.

    python -m tests.datasets.fuzz_readers [--tries 10000] [--seed 0] [--only a.parquet]

Each try damages one small file (bytes changed, cut, put in or left out) and reads it to its end. It runs in a process
of its own with little memory: a file that claims to hold gigabytes must not get them, and a crash of pyarrow is seen.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import decimal
import gzip
import io
import json
import random
import resource
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistill.datasets.sources import open_source
from mistill.errors import InputError

_MEMORY_BYTES = 4 << 30
_BYTES_OF_SYNTAX = b'\x00\xff\x80\x7f\x01\n\r"\\{[,:'
_ROWS = 40
_MAX_SHOWN = 5
_TRIES_IN_ONE_PROCESS = 500


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.datasets.fuzz_readers")
    options.add_argument("--tries", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", help="one of the files")
    chosen = options.parse_args()
    if chosen.tries > _TRIES_IN_ONE_PROCESS:
        return _in_processes(chosen)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    files = {name: data for name, data in whole_files().items() if chosen.only in (None, name)}
    found = 0
    with tempfile.TemporaryDirectory() as directory:
        for number in range(chosen.tries):
            name = list(files)[number % len(files)]
            seed = f"{name} {chosen.seed + number // len(files)}"
            print(seed, file=sys.stderr, flush=True)  # the last line, if the process crashes
            path = Path(directory) / name
            path.write_bytes(damage(files[name], random.Random(seed)))
            try:
                read(path)
            except BaseException:
                found += 1
                print(f"{seed}:\n{traceback.format_exc()}" if found <= _MAX_SHOWN else seed)
    print(f"{chosen.tries} tries, {found} unexpected exceptions")
    return 1 if found else 0


def _in_processes(chosen: argparse.Namespace) -> int:
    """One process after another, since what a claim of gigabytes took is not all given back."""
    wrong = 0
    for start in range(0, chosen.tries, _TRIES_IN_ONE_PROCESS):
        tries = min(_TRIES_IN_ONE_PROCESS, chosen.tries - start)
        command = [sys.executable, "-m", "tests.datasets.fuzz_readers"]
        command += ["--tries", str(tries), "--seed", str(chosen.seed + start)]
        command += ["--only", chosen.only] if chosen.only else []
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            wrong += 1
            print(f"exit code {done.returncode} at {done.stderr[-500:]}")
    return 1 if wrong else 0


def read(path: Path) -> None:
    """Reads all that a run would read of a file; what is refused is as good as what is read."""
    with suppress(InputError):
        source = open_source(path)
        _ = source.total, source.columns
        for row in source:
            with suppress(InputError):
                _ = row.record


def damage(data: bytes, chance: random.Random) -> bytes:
    """A copy of ``data`` with one of the usual kinds of damage; its end, where footers are, gets more of it."""
    place = chance.randrange(len(data))
    length = chance.randrange(1, 20)
    match chance.randrange(8):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + chance.randbytes(length) + data[place:]
        case 2:
            return data[:place] + data[place + length :]
        case 3:
            return data[:place] + bytes(length) + data[place + length :]
        case _:
            changed = bytearray(data)
            for _ in range(chance.choice([1, 1, 2, 4, 10])):
                from_end = int(chance.expovariate(1 / 300)) % len(data)
                place = chance.choice([chance.randrange(len(data)), len(data) - 1 - from_end])
                other = changed[place] ^ (1 << chance.randrange(8))
                changed[place] = chance.choice([other, chance.choice(_BYTES_OF_SYNTAX)])
            return bytes(changed)


def whole_files() -> dict[str, bytes]:
    """A small file of every format, with every kind of column."""
    table = _table()
    rows = [json.loads(json.dumps(row, default=str)) for row in table.to_pylist()]
    lines = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    table_as_csv = text.getvalue().encode()
    return {
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines, mtime=0),
        "a.jsonl.zst": _zstd(lines),
        "a.json": json.dumps(rows, ensure_ascii=False).encode(),
        "inner.json": json.dumps({"version": 1, "rows": rows}, indent=1).encode(),
        "a.csv": table_as_csv,
        "a.csv.zst": _zstd(table_as_csv),
        "a.parquet": _parquet(table),
        "checksums.parquet": _parquet(table, write_page_checksum=True),
        "plain.parquet": _parquet(table, compression="none", use_dictionary=False),
        "v2.parquet": _parquet(table, data_page_version="2.0", compression="zstd"),
        "file.arrow": _arrow(table, pa.ipc.new_file),
        "stream.arrow": _arrow(table, pa.ipc.new_stream),
        "lz4.arrow": _arrow(table, pa.ipc.new_file, compression="lz4"),
    }


def _table() -> Any:
    day = datetime.date(2026, 1, 1)
    rows = [
        {
            "id": number,
            "text": f"grüß {number} " * (number % 3),
            "fraction": number / 3,
            "flag": number % 2 == 0 or None,
            "list": [number, None],
            "object": {"a": number, "b": "x" * number},
            "day": day + datetime.timedelta(number),
            "time": datetime.datetime.combine(day, datetime.time(number % 24)),
            "price": decimal.Decimal(number) / 100,
        }
        for number in range(_ROWS)
    ]
    table = pa.Table.from_pylist(rows)
    pairs = pa.array([[("k", number)] for number in range(_ROWS)], pa.map_(pa.string(), pa.int64()))
    return table.append_column("word", table["text"].dictionary_encode()).append_column("map", pairs)


def _parquet(table: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=15, **options)
    return sink.getvalue().to_pybytes()


def _arrow(table: Any, new: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=15)
    return sink.getvalue().to_pybytes()


def _zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


if __name__ == "__main__":
    sys.exit(main())
