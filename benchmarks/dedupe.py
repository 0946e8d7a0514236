"""``python -m benchmarks.dedupe``: near duplicates among 10,000 and 100,000 vectors of 1,024 numbers: time and memory.

A fifth of the vectors are near another one. The Parquet file goes to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.__main__ import machine

_PART = """
import json, resource, sys, time
from mistill import dedupe
began = time.perf_counter()
found = dedupe(sys.argv[1], sys.argv[2], threshold=0.95)
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "dropped": len(found.dropped), "peak_mib": peak}))
"""


def make(path: Path, rows: int, length: int) -> None:
    import numpy
    import pyarrow
    import pyarrow.parquet

    random = numpy.random.default_rng(1)
    vectors = random.standard_normal((rows, length), dtype=numpy.float32)
    near = rows // 5
    vectors[rows - near :] = vectors[:near] + 0.05 * vectors[rows - near :]
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), length)
    pyarrow.parquet.write_table(pyarrow.table({"id": numpy.arange(rows), "embedding": column}), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--length", type=int, default=1024)
    given = parser.parse_args()
    print(json.dumps(machine(("numpy", "pyarrow"))))
    print("| vectors | dropped | seconds | peak of memory |\n|--:|--:|--:|--:|")
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            source, to = Path(folder, "in.parquet"), Path(folder, "out.parquet")
            # In a process of its own: the peak of one is counted from that of whoever started it.
            making = multiprocessing.get_context("spawn").Process(
                target=make, args=(source, rows, given.length)
            )
            making.start()
            making.join()
            command = [sys.executable, "-c", _PART, str(source), str(to)]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"| {rows:,} | {told['dropped']:,} | {told['seconds']:.0f} | {told['peak_mib']:.0f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
