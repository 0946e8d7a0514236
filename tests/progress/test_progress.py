"""What somebody sees who looks at work while it goes on: on a terminal, in a notebook, in a log."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec import structs
from msgspec.structs import replace
from rich.console import Console
from tests.conftest import Simulate

from mistill import MistralEmbeddings, MistralLLM, Run
from mistill.api.usage import Usage
from mistill.delivery.diagnostics import WaitCause
from mistill.delivery.governor import Governor
from mistill.progress import display
from mistill.progress.display import Display
from mistill.progress.formatting import age, latency, moment, money, rounded, seconds, time_split
from mistill.progress.progress import Progress
from mistill.progress.screens import Drawn, Lines, as_html
from mistill.progress.view import View, Watch
from mistill.simulator import Simulator

FAR = View(
    total=200_000,
    known=400,
    completions=12_095,
    failures=5,
    cost=1.25,
    usage=Usage(1_000_000, 200_000),
    elapsed_s=100.0,
    left_s=1_550.0,
    in_flight=49,
    waiting_for="quota_requests",
    seconds_by_cause={"server": 30.0, "quota_requests": 70.0},
)
WAITING = View(
    total=100_000,
    known=100,
    cost=0.05,
    usage=Usage(1_000, 200),
    elapsed_s=3_600.0,
    jobs=3,
    with_server=99_900,
    server_requests=100_000,
    server_done=45_210,
    oldest_job_s=735.0,
    waiting_for="jobs",
    seconds_by_cause={"jobs": 99.0, "idle": 1.0},
)
LEAVING = View(total=2000, completions=100, elapsed_s=1.0, jobs=3, cut_off_in_s=30.0, interrupted=True)
STOPPING = View(total=2000, completions=100, elapsed_s=1.0, in_flight=49, cut_off_in_s=30.0, interrupted=True)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def llm_of(simulator: Simulator) -> MistralLLM:
    settings: Any = {"endpoint": simulator.url, "api_key": "k"}
    return MistralLLM(model="mistral-small-latest", **settings)


def drawn(view: View, width: int, *, color: bool = False) -> list[str]:
    file = io.StringIO()
    console = Console(width=width, file=file, force_terminal=True, color_system="standard" if color else None)
    console.print(Drawn(view))
    return file.getvalue().splitlines()


# --- views ------------------------------------------------------------------------------------------------------------


def test_a_view_tells_rows_time_tokens_money_and_what_is_waited_for() -> None:
    assert FAR.texts() == [
        "12,500 of 200,000 rows",
        "5 failed",
        "25 min 50 s left",
        "121.0 rows/s",
        "now $1.25 of about $20.62",
        "1,000,000 tokens in, 200,000 out",
        "49 in flight, waiting for: quota of requests",
    ]
    assert FAR.time() == "time: 70% quota of requests, 30% server"


def test_what_is_not_known_is_left_out() -> None:
    view = View(completions=3, usage=Usage(1000, 200), elapsed_s=1.0)
    assert view.texts() == [
        "3 rows",
        "3.0 rows/s",
        "1,000 tokens in, 200 out",
        "0 in flight, waiting for: this machine",
    ]
    assert view.left is None
    assert View(total=10).left_s is None
    assert View(total=10, cost=0.0).expected_cost is None


def test_money_and_tokens_of_this_start_are_told_so_where_rows_are_of_earlier_ones_too() -> None:
    view = View(total=1_200, known=500, completions=105, cost=0.0037, usage=Usage(735, 500))
    assert view.texts()[0] == "605 of 1,200 rows"
    assert drawn(view, 80)[1].rstrip() == "now $0.0037 of about $0.025 · 735 tokens in, 500 out"
    assert replace(view, cost=None).texts()[-2] == "now 735 tokens in, 500 out"
    assert replace(view, is_last=True).money() == "now $0.0037"
    assert replace(view, known=0).money() == "$0.0037 of about $0.042"


def test_what_all_starts_cost_is_told_beside_what_this_one_does() -> None:
    view = View(
        total=1_200, known=500, completions=105, cost=0.0037, earlier_cost=0.02, usage=Usage(735, 500)
    )
    assert drawn(view, 80)[1].rstrip() == (
        "now $0.0037 of about $0.025, $0.024 in all · 735 tokens in, 500 out"
    )
    assert replace(view, is_last=True).money() == "now $0.0037, $0.024 in all"
    assert (replace(view, known=0).money() or "").startswith("now $0.0037 of")  # a retry, or all had failed
    assert replace(view, cost=None).money() == "$0.020 in all"
    assert replace(view, earlier_cost=0.0).money() == "now $0.0037 of about $0.025"


def test_a_pause_that_is_over_holds_nothing_back() -> None:
    progress, began = Progress(), Governor().snapshot()
    spent: dict[WaitCause, float] = {}
    watch = Watch(progress, lambda: structs.replace(began, seconds=dict(spent)), at_once=lambda: 1)
    progress.pause({})
    spent["paused"] = 5.0
    assert watch.view().waiting_for == "paused"
    progress.resume({})
    assert watch.view().waiting_for == "idle"
    spent |= {"paused": 5.6, "server": 0.4}
    assert watch.view().waiting_for == "server"
    assert watch.view().seconds_by_cause == spent


def test_while_jobs_are_waited_for_they_are_told_and_no_speed() -> None:
    assert WAITING.texts() == [
        "100 of 100,000 rows",
        "now $0.050",
        "1,000 tokens in, 200 out",
        "3 jobs at Mistral: 45,210 of 100,000 requests done, the oldest 12 min",
    ]
    assert WAITING.time() == "time: 99% Mistral's batch jobs, 1% this machine"
    assert LEAVING.texts()[-1] == "stopping: 3 jobs stay at Mistral"
    unsent = structs.replace(WAITING, unsent_jobs=2, oldest_job_s=1.0)
    assert (
        unsent.at_server()
        == "1 job at Mistral: 45,210 of 100,000 requests done, the oldest 1 s; 2 not sent yet"
    )
    assert structs.replace(WAITING, unsent_jobs=3).at_server() == "3 jobs not sent yet"
    assert drawn(WAITING, 60)[2].strip() == "3 jobs at Mistral: 45,210 of 100,000 requests done"
    beside = structs.replace(WAITING, in_flight=2, waiting_for="server", completions=5)
    assert beside.texts()[-2:] == [WAITING.texts()[-1], "2 in flight, waiting for: server"]


def test_what_jobs_answered_says_nothing_of_how_long_the_rest_takes_live() -> None:
    progress = Progress(
        total=1_000_110, completions=1_000_010, by_jobs=1_000_000, busy_s=10.0, requests=1_000_010
    )
    watch = Watch(progress, Governor().snapshot, at_once=lambda: 1)
    assert watch.view().left_s == pytest.approx(100.0)  # a second a row, one at a time
    progress.see_jobs([_Job(100, 100, 0, 0.0)])
    assert watch.view().left_s is None
    progress.see_jobs([])
    progress.by_jobs = progress.completions
    assert watch.view().left_s is None  # none went live yet


class _Job(NamedTuple):
    lines: int
    rows: int
    completed: int | None
    planned_at: float
    job_id: str | None = "id"


def test_progress_counts_jobs_and_how_long_there_were_any() -> None:
    progress = Progress(started_at_s=time.monotonic())
    assert progress.waited_for_jobs_s() == 0.0
    progress.see_jobs(
        [
            _Job(10, 20, 3, 5000.0),
            _Job(5, 5, None, 4000.0),
            _Job(2, 2, 9, 6000.0),
            _Job(7, 7, None, 1.0, None),
        ]
    )
    counted = progress.jobs, progress.with_server, progress.server_requests, progress.server_done
    assert (counted, progress.oldest_job_at) == ((4, 34, 17, 5), 4000.0)
    assert progress.unsent_jobs == 1
    assert progress.waited_for_jobs_s() > 0.0
    progress.see_jobs([])
    waited_s = progress.waited_for_jobs_s()
    assert (progress.jobs, progress.oldest_job_at) == (0, None)
    assert progress.waited_for_jobs_s() == waited_s > 0.0  # it stands


def test_a_log_is_not_filled_with_jobs_that_stand(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for view in (WAITING, WAITING, structs.replace(WAITING, server_done=45_300), WAITING):
        lines.show(view)
    told = capsys.readouterr().err.splitlines()
    assert [line.partition("Mistral: ")[2].split()[0] for line in told] == ["45,210", "45,300", "45,210"]
    lines.show(LEAVING)
    assert capsys.readouterr().err == "stopping: 3 jobs stay at Mistral\n"


def test_numbers_are_told_as_people_say_them() -> None:
    assert [seconds(value) for value in (0.42, 59.4, 61, 7800)] == [
        "0.4 s",
        "59 s",
        "1 min 1 s",
        "2 h 10 min",
    ]
    assert [money(value) for value in (12.345, 0.0, 0.0042, None)] == [
        "$12.35",
        "$0.00",
        "$0.0042",
        "no known price",
    ]
    assert (
        time_split({"server": 3.0, "quota_tokens": 1.0, "idle": 0.001}) == "75% server, 25% quota of tokens"
    )
    assert time_split({}) == ""
    assert [latency(value) for value in (0.0874, 0.09999, 0.3124, 0.9999, 1.236, 12.44, 185.0, 0.0)] == [
        "87.4 ms",
        "100 ms",
        "312 ms",
        "1.00 s",
        "1.24 s",
        "12.4 s",
        "3 min 5 s",
        "0 s",
    ]
    assert [
        rounded(number) for number in (940, 1_000, 12_345, 99_960, 999_999, 12_345_678, 2_000_000_000)
    ] == [
        "940",
        "1.0k",
        "12.3k",
        "100k",
        "1.0M",
        "12.3M",
        "2.0G",
    ]
    assert [age(value) for value in (-1, 40.9, 720, 7200, 7800, 273_600)] == [
        "0 s",
        "40 s",
        "12 min",
        "2 h",
        "2 h 10 min",
        "3 d 4 h",
    ]


# --- on a terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("view", [FAR, STOPPING, WAITING, LEAVING, View()])
def test_no_line_is_wider_than_the_terminal_and_its_echo_of_ctrl_c(view: View, width: int) -> None:
    assert max(len(line.rstrip()) for line in drawn(view, width)) <= width - len("^C")


def test_where_it_is_narrow_the_time_left_goes_before_the_speed_and_the_bar() -> None:
    assert drawn(FAR, 120)[0].split("12,500")[0].strip("━╸ ") == ""  # the bar
    assert drawn(FAR, 120)[0].endswith("12,500 of 200,000 rows, 5 failed · 25 min 50 s left · 121.0 rows/s")
    assert drawn(FAR, 60)[0].rstrip() == "12,500 of 200,000 rows, 5 failed · 25 min 50 s left"
    assert drawn(FAR, 40)[0].rstrip() == "12,500 of 200,000 rows, 5 failed"


@pytest.mark.parametrize(("width", "shown"), [
    (120, "$12.00 of about $4,800.00 · 12,345,678 tokens in (89% cached, $10.39 less), 1,234,567 out"),
    (80, "$12.00 of about $4,800.00 · 12.3M in (89% cached, $10.39 less), 1.2M out"),
])  # fmt: skip
def test_what_the_cache_has_saved_is_seen_where_it_is_narrow_too(width: int, shown: str) -> None:
    usage = Usage(12_345_678, 1_234_567, 11_000_000)
    view = View(total=400_000, completions=1_000, cost=12.0, usage=usage, saved_by_cache=10.39)
    assert drawn(view, width)[1].rstrip() == shown


def test_where_the_time_went_is_told_in_whole_parts() -> None:
    assert drawn(FAR, 120)[-1].rstrip() == "time: 70% quota of requests, 30% server"
    assert drawn(FAR, 40)[-1].rstrip() == "time: 70% quota of requests"


def test_failures_are_red() -> None:
    assert "\x1b[31m5 failed\x1b[0m" in drawn(FAR, 120, color=True)[0]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_while_it_stops_what_ctrl_c_does_is_never_cut(width: int) -> None:
    text = " ".join(" ".join(drawn(STOPPING, width)).split())
    assert "stopping: 49 in flight, up to 30 s; Ctrl-C again cuts them off" in text


def test_where_nothing_is_in_flight_nothing_is_cut_off() -> None:
    assert replace(STOPPING, in_flight=0).waiting() == "stopping"


def run_on_terminal(command: list[str], *, until: str = "", columns: int = 100) -> tuple[str, int]:
    """What a terminal is shown on stderr; Ctrl-C once ``until`` is read. And the exit code."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": str(columns)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    shown, is_pressed = "", False
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux tells that the other end is closed
            break
        if not part:
            break
        shown += part.decode()
        if until and until in shown and not is_pressed:
            is_pressed = True
            process.send_signal(signal.SIGINT)
    os.close(ours)
    return shown, process.wait()


def run_command(rows: int, simulator: Simulator, *more: str) -> list[str]:
    Path("in.jsonl").write_text('{"prompt": "a"}\n' * rows)
    model = ["--model", "mistral-small-latest", "--endpoint", simulator.url]
    return [sys.executable, "-m", "mistill", "run", "in.jsonl", "--out", "out.jsonl", *model, *more]


def test_a_terminal_sees_a_bar_and_then_the_summary(simulate: Simulate) -> None:
    shown, code = run_on_terminal(run_command(4, simulate(latency_s=0.6)))
    assert code == 0
    assert "of 4 rows" in shown
    assert "in flight, waiting for: " in shown
    assert "\x1b[2K" in shown  # lines are drawn over
    assert "4 rows: 4 answered" in shown


def test_one_ctrl_c_is_told_in_the_bar(simulate: Simulate) -> None:
    command = run_command(20, simulate(latency_s=1.5), "--max-concurrent-requests", "4")
    shown, code = run_on_terminal(command, until="4 in flight")
    assert code == 130
    assert re.search(r"stopping: 4 in flight, up to (30|29) s; Ctrl-C again cuts them off", shown)
    assert "4 answered" in shown  # they were waited for
    last = shown.rsplit("\x1b[2K", 1)[-1]
    assert "in flight" not in last  # no ghost of the bar is left
    assert "stopped: " in last


PROGRAM = """
import sys
from mistill import MistralLLM, Run
llm = MistralLLM(model="mistral-small-latest", endpoint=sys.argv[1], api_key="k", max_concurrent_requests=2)
if sys.argv[2] == "run":
    Run([{"prompt": "a"}] * 4, llm=llm, **eval(sys.argv[3])).start()
else:
    llm.generate(["a"] * 6, **eval(sys.argv[3]))
print("done")
"""


@pytest.mark.parametrize("call", ["run", "generate"])
def test_in_python_too(call: str, simulate: Simulate) -> None:
    program = [sys.executable, "-c", PROGRAM, simulate(latency_s=0.8).url, call]
    with ThreadPoolExecutor() as both:  # it takes seconds until they show something, or would
        told = both.submit(run_on_terminal, [*program, "{}"])
        untold = both.submit(run_on_terminal, [*program, "{'progress': False}"])
    shown, code = told.result()
    assert code == 0
    assert f"of {4 if call == 'run' else 6} rows" in shown
    assert untold.result() == ("", 0)


def test_a_short_call_shows_nothing(simulator: Simulator) -> None:
    assert run_on_terminal([sys.executable, "-c", PROGRAM, simulator.url, "generate", "{}"]) == ("", 0)


def test_a_log_has_nothing_unless_it_is_wanted(simulate: Simulate) -> None:
    command = [sys.executable, "-c", PROGRAM, simulate(latency_s=0.3).url, "run"]
    ended = subprocess.run([*command, "{}"], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("done\n", "")


# --- whoever wants numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", ["generate", "complete", "generate_outputs", "parse", "embed", "run", "iter"]
)
def test_on_progress_is_told_the_end(call: str, simulator: Simulator) -> None:
    views: list[View] = []
    settings: Any = {"endpoint": simulator.url, "api_key": "k"}
    llm = llm_of(simulator)
    match call:
        case "embed":
            MistralEmbeddings(**settings).embed(["a", "b", "c"], on_progress=views.append)
        case "run":
            Run([{"prompt": "a"}] * 3, llm=llm, on_progress=views.append).start()
        case "iter":
            list(Run([{"prompt": "a"}] * 3, llm=llm, on_progress=views.append))
        case "parse":
            llm.parse(["a", "b", "c"], dict[str, int], on_progress=views.append)
        case _:
            getattr(llm, call)(["a", "b", "c"], on_progress=views.append)
    last = views[-1]
    assert (last.total, last.completions, last.failures, last.left) == (3, 3, 0, 0)
    assert last.usage.input_tokens > 0


def test_a_callback_that_fails_costs_no_row(simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    def fail(view: View) -> None:
        raise ValueError("mine")

    llm = llm_of(simulator)
    assert len(llm.generate(["a"], on_progress=fail)) == 1
    assert "on_progress failed" in caplog.text


# --- totals -----------------------------------------------------------------------------------------------------------


def write_csv(path: Path) -> None:
    path.write_text('prompt,note\n"a\nb",x\n\nb,5" nails\n')


def write_gzipped(path: Path) -> None:
    import gzip

    path.write_bytes(gzip.compress(b'{"prompt": "a"}\n\n{"prompt": "b"}'))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("in.jsonl", lambda path: path.write_text('{"prompt": "a"}\n\n{"prompt": "b"}')),
        ("in.csv", write_csv),
        ("in.json", lambda path: path.write_text('[{"prompt": "a"}, {"prompt": "b"}]')),
        ("in.jsonl.gz", write_gzipped),
    ],
)
def test_the_rows_of_a_file_are_counted_beside_the_run(
    name: str, write: Callable[[Path], object], simulate: Simulate
) -> None:
    write(Path(name))
    views: list[View] = []
    llm = llm_of(simulate(latency_s=0.5))
    Run(name, llm=llm, on_progress=views.append).start()
    assert views[-1].total == 2


def test_the_rows_of_a_stream_are_known_from_an_earlier_start(simulate: Simulate) -> None:
    llm = llm_of(simulate(latency_s=0.3))
    views: list[View] = []

    def start() -> None:
        rows = ({"prompt": str(number)} for number in range(3))
        Run(rows, llm=llm, ledger="run.ledger", on_progress=views.append).start()

    start()
    assert {view.total for view in views} == {None}
    views.clear()
    start()
    assert {view.total for view in views} == {3}


# --- in a notebook ----------------------------------------------------------------------------------------------------


def test_a_page_has_the_same_words_and_no_script() -> None:
    assert "<br>3 jobs at Mistral: 45,210 of 100,000 requests done, the oldest 12 min<br>" in as_html(WAITING)
    page = as_html(FAR)
    for text in FAR.texts():
        assert text in page
    assert '<progress max="200000" value="12500"' in page
    assert "<script" not in page


def test_a_notebook_has_one_output_that_is_drawn_again(simulate: Simulate) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    cell = (
        "from mistill import MistralLLM, Run\n"
        f"llm = MistralLLM(model='mistral-small-latest', endpoint={simulate(latency_s=0.7).url!r}, api_key='k',\n"
        "                 max_concurrent_requests=2)\n"
        "_ = Run([{'prompt': 'a'}] * 4, llm=llm).start()\n"
        "_ = llm.generate(['a'] * 4)\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    pages = [output["data"]["text/html"] for output in notebook.cells[0].outputs]
    assert len(pages) == 2  # one for each, that was updated
    for page in pages:  # what stays says how long it took, and waits for nothing
        assert re.search(r"4 of 4 rows</b> · in \d", page)
        assert "waiting for" not in page
        assert "left" not in page


def test_a_moment_is_of_one_zone_which_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert moment(1_795_725_688.9) == "2026-11-26 20:41 UTC"
        assert moment(1_795_725_688.9, to_seconds=True) == "2026-11-26 20:41:28 UTC"
        assert moment(None) == moment(1e300) == "not known"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_screen_is_free_again_though_nothing_could_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    showing = Display(True).showing(Watch(Progress(), Governor().snapshot, at_once=lambda: 1))
    with pytest.raises(RuntimeError, match="new thread"), showing:
        pass
    assert not display._taken.locked()
