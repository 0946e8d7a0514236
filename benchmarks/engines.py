"""What each engine's recovery pays again when a worker, or all of it, is killed with SIGKILL half-way.

    pip install 'ray[data]' daft      of which what is missing is left out
    python -m benchmarks.engines [--rows 4000] [--only "Ray Data"]

Each case asks the same rows of one simulator, which counts how often it has answered each: 2 workers where the engine
has workers, 64 requests in flight in each. When more than half of the rows are answered, one of the processes that ask
is killed, or all of them; what does not go on by itself is started again. Writes ``benchmarks/results/engines.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from benchmarks.__main__ import machine
from benchmarks.child_processes import descendants_of, is_spawned
from mistill.simulator import Settings, Simulator

_LATENCY_S = 0.3
_TIMEOUT_S = 300.0
_KILLED_AT = 0.56
"""So far is the work by then: not where a block of 500 or a shard ends, with nothing in flight."""
_FILES = 8
_MODEL = "mistral-small-latest"
_PROMPT = "{{ text }}"
_OF_MISTILL = ("--model", _MODEL, "--prompt", _PROMPT, "--output-format", "parquet", "--quiet")


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        engine: what has to be installed. ``killed``: one that asks, or all there is.
        block: rows of a block, where the engine cuts; ``at_once``: blocks of one worker.
        options: of ``mistill run``.
    """

    name: str
    engine: Literal["ray", "daft", "mistill"]
    killed: Literal["worker", "all"]
    block: int | None = None
    at_once: int = 1
    options: tuple[str, ...] = ()


_SHARDS = ("--on", "processes:2", "--shards", "8")
CASES = (
    Case("Ray Data, blocks as they come", "ray", "worker"),
    Case("Ray Data, blocks of 500", "ray", "worker", 500),
    Case("Ray Data, blocks of 100, four at once", "ray", "worker", 100, 4),
    Case("Ray Data, blocks of 500, job killed", "ray", "all", 500),
    Case("Daft, process killed", "daft", "all"),
    Case("mistill run --on processes:2", "mistill", "worker", options=_SHARDS),
    Case("mistill run --on processes:2, all killed", "mistill", "all", options=_SHARDS),
    Case("mistill run, killed", "mistill", "all"),
)


# --- what is killed ---------------------------------------------------------------------------------------------------


def _ask_by_ray(case: Case, folder: Path, url: str) -> None:
    import ray
    import ray.data

    from mistill.integrations.engines import Stage

    class Telling(Stage):
        """Says in which process it is called."""

        def __call__(self, table: Any) -> Any:
            folder.joinpath("asking", str(os.getpid())).touch()
            return super().__call__(table)

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    rows = ray.data.read_parquet(str(folder / "in"))
    if case.block is not None:
        rows = rows.repartition(target_num_rows_per_block=case.block)
    strategy = ray.data.ActorPoolStrategy(
        size=2, max_concurrent_calls_per_actor=case.at_once, enable_true_multi_threading=case.at_once > 1
    )
    rows.map_batches(
        Telling,
        fn_constructor_args=(_llm(url),),
        fn_constructor_kwargs={"prompt": _PROMPT},
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=0.1,
        compute=strategy,
    ).write_parquet(str(folder / "out"))


def _ask_by_daft(case: Case, folder: Path, url: str) -> None:  # noqa: ARG001  as the others
    import daft
    import pyarrow as pa

    from mistill.integrations.engines import Stage

    stage = Stage(_llm(url), prompt=_PROMPT)

    @daft.func.batch(return_dtype=daft.DataType.from_arrow_type(stage.type), unnest=True, batch_size=500)
    def ask(text: daft.Series) -> Any:
        return stage.answers(pa.table({"text": text.to_arrow()})).to_struct_array().combine_chunks()

    frame = daft.read_parquet(str(folder / "in" / "*.parquet"))
    frame.select("*", ask(frame["text"])).write_parquet(str(folder / "out"), write_mode="overwrite")


def _ask_by_mistill(case: Case, folder: Path, url: str) -> None:
    from mistill.cli import main

    out = folder / "out" if "--on" in case.options else folder / "out.parquet"
    given = [str(path) for path in sorted((folder / "in").iterdir())]
    ended = main(["run", *given, "--out", str(out), "--endpoint", url, *_OF_MISTILL, *case.options])
    raise SystemExit(int(ended))


_WORK = {"ray": _ask_by_ray, "daft": _ask_by_daft, "mistill": _ask_by_mistill}


def _llm(url: str) -> Any:
    from mistill import MistralLLM

    return MistralLLM(model=_MODEL, endpoint=url)


# --- who kills --------------------------------------------------------------------------------------------------------


def measure(case: Case, rows: int) -> dict[str, Any]:
    """Runs a case, and counts."""
    settings = Settings(latency_s=_LATENCY_S, requests_kept=10 * rows)
    with _folder() as folder, Simulator(settings) as simulator:
        _write_rows(folder / "in", rows)
        began_s = time.monotonic()
        first = _Started(case, folder, simulator.url)
        while simulator.answered < _KILLED_AT * rows:
            assert first.process.poll() is None, first.why()
            assert time.monotonic() < began_s + _TIMEOUT_S, "it hangs"
            time.sleep(0.01)
        in_flight = simulator.in_flight
        first.kill(case.killed)
        last = first
        if case.killed == "all":
            simulator.wait_until(lambda: simulator.in_flight == 0)
            last = _Started(case, folder, simulator.url)
        assert last.process.wait(_TIMEOUT_S) == 0, last.why()
        seconds = time.monotonic() - began_s
        last.kill("all")  # an engine's own processes
        answered = Counter(
            request.body["messages"][-1]["content"] for request in simulator.requests if request.status == 200
        )
        sent = len(simulator.requests)
        out = _rows_out(folder)
        known = _marked(folder)
    return {
        "case": case.name,
        "rows": rows,
        "in_flight_at_the_kill": in_flight,
        "asked_again": sent - rows,
        "paid_twice": sum(answered.values()) - len(answered),
        "known": known,
        "rows_out": len(out),
        "lost": rows - len(set(out)),
        "seconds": round(seconds, 1),
        "load": round(os.getloadavg()[0], 1),
    }


@contextmanager
def _folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mb"))
    try:
        path.joinpath("asking").mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _write_rows(folder: Path, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    texts = [f"row {number} " + "of some length " * 20 for number in range(rows)]
    each = -(-rows // _FILES)
    for number in range(_FILES):
        table = pa.table({"text": texts[number * each : (number + 1) * each]})
        pq.write_table(table, folder / f"{number}.parquet")


class _Started:
    """A case at work, in a session of its own: whatever it starts is in that too."""

    def __init__(self, case: Case, folder: Path, url: str) -> None:
        self._folder = folder
        self._case = case
        own = {
            "XDG_RUNTIME_DIR": str(folder),
            "MISTILL_CACHE_DIR": str(folder),
            "MISTRAL_API_KEY": "benchmark",
        }
        command = [sys.executable, "-m", "benchmarks.engines", "--work", case.name, str(folder), url]
        with folder.joinpath("said").open("wb") as said:
            self.process = subprocess.Popen(
                command, env=os.environ | own, start_new_session=True, stdout=said, stderr=said
            )

    def why(self) -> str:
        """The last that it said."""
        return f"exit code {self.process.poll()}: {self._folder.joinpath('said').read_text()[-2_000:]}"

    def kill(self, what: Literal["worker", "all"]) -> None:
        """With SIGKILL."""
        victims = self._asking()[:1] if what == "worker" else self._all()
        assert victims or what == "all", "nobody asks"
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if what == "all":
            self.process.wait()

    def _asking(self) -> list[int]:
        """The processes that send requests, with the one first that has most of them."""
        if self._case.engine == "ray":
            found = [int(path.name) for path in self._folder.joinpath("asking").iterdir()]
        else:
            found = [one for one in self._all() if is_spawned(one)]
        return sorted(found, key=_sockets, reverse=True)

    def _all(self) -> list[int]:
        """The process itself and what is of it, the last of them first: what they would start is started no more."""
        return [self.process.pid, *descendants_of(self.process.pid)]


def _sockets(process: int) -> int:
    with suppress(OSError):
        names = [path.readlink().name for path in Path(f"/proc/{process}/fd").iterdir()]
        return sum(name.startswith("socket:") for name in names)
    return 0


def _rows_out(folder: Path) -> list[str]:
    """The rows that were answered, as often as they came out."""
    import pyarrow.parquet as pq

    found: list[str] = []
    for path in sorted([*folder.glob("out/*.parquet"), *folder.glob("out.parquet")]):
        table = pq.read_table(path, columns=["text", "generation"])
        pairs = zip(table["text"].to_pylist(), table["generation"].to_pylist(), strict=True)
        found += [text for text, answer in pairs if answer is not None]
    return found


def _marked(folder: Path) -> int:
    """Attempts of which ledgers say that they may have been billed."""
    marked = 0
    for path in folder.rglob("*.ledger"):
        if path.is_file() and path.name != "run.ledger":
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                query = "SELECT count(*) FROM attempts WHERE status = 'maybe_billed'"
                marked += connection.execute(query).fetchone()[0]
    return marked


def main() -> None:
    """Measures all cases, or does the work of one."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--work", nargs=3, metavar=("CASE", "FOLDER", "URL"))
    arguments.add_argument("--rows", type=int, default=4_000)
    arguments.add_argument("--only", default="", help="cases with this in their name")
    given = arguments.parse_args()
    if given.work:
        name, folder, url = given.work
        case = next(case for case in CASES if case.name == name)
        _WORK[case.engine](case, Path(folder), url)
        return
    results: list[dict[str, Any]] = []
    for case in CASES:
        if given.only not in case.name:
            continue
        if find_spec(case.engine) is None:
            print(f"{case.name}: {case.engine} is not installed", flush=True)
            continue
        results.append(measure(case, given.rows))
        print(json.dumps(results[-1]), flush=True)
    if not given.only:
        path = Path(__file__).parent / "results" / "engines.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps({"machine": machine(("ray", "daft")), "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
