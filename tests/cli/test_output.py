"""What came from elsewhere is printed so that no terminal obeys it."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.live import Live
from tests.cli.conftest import Mistill

from mistill.cli.terminal.log_lines import logged_lines
from mistill.cli.terminal.output import is_terminal, say, say_error
from mistill.simulator import Fault, Simulator
from mistill.visible import visible, visible_json

CLIPBOARD = "\x1b]52;c;ZXZpbA==\x07"
EVIL = f"{CLIPBOARD}\x1b[2J\x9b31mred\u202eesrever"


@given(st.text())
def test_what_is_visible_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = visible(text)
    assert not any(ord(character) < 32 and character not in "\n\t" for character in shown)
    assert not any(0x7F <= ord(character) <= 0x9F for character in shown)


@given(st.text())
def test_json_means_the_same_made_visible(text: str) -> None:
    shown = visible_json(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text
    assert visible(shown) == shown


def test_plain_text_is_left_as_it_is() -> None:
    assert visible("Zürich\t→ 1\n") == "Zürich\t→ 1\n"


def test_an_error_of_a_server_is_made_visible(mistill: Mistill, simulator: Simulator) -> None:
    simulator.script([Fault.status(400, {"message": f"bad {EVIL}", "code": "1"})])
    Path("rows.jsonl").write_text('{"prompt": "hello"}\n')
    given_ = ("--model", "mistral-small-latest", "--endpoint", simulator.url)
    ended = mistill("run", "rows.jsonl", "--out", "answers.jsonl", *given_)
    assert ended.code == 1
    assert "\\x1b]52;c;" in ended.stderr
    assert "\x1b" not in ended.stderr
    for command in (["status"], ["status", "--json"]):
        looked = mistill(command[0], "answers.jsonl", *command[1:])
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(looked.stdout + looked.stderr)


def test_an_answer_on_a_terminal_is_made_visible(simulator: Simulator) -> None:
    simulator.script([EVIL])
    ours, theirs = pty.openpty()
    code = "import sys; from mistill.cli import main; sys.exit(main(sys.argv[1:]))"
    command = ["chat", "Hi", "--model", "mistral-small-latest", "--endpoint", simulator.url]
    process = subprocess.Popen([sys.executable, "-c", code, *command], stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait(30) == 0
    assert b"\\x1b]52;c;" in seen
    assert b"\x1b" not in seen


def test_an_answer_in_a_pipe_is_as_it_came(mistill: Mistill, simulator: Simulator) -> None:
    simulator.script([EVIL])
    given_ = ("--model", "mistral-small-latest", "--endpoint", simulator.url)
    assert mistill("chat", "Hi", *given_).stdout == EVIL + "\n"


@pytest.mark.parametrize("closed", [("1",), ("2",), ("1", "2")])
def test_closed_streams_are_no_error(simulator: Simulator, tmp_path: Path, closed: tuple[str, ...]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hello"}\n')
    arguments = f"run rows.jsonl --out answers.jsonl --model mistral-small-latest --endpoint {simulator.url}"
    code = "import sys; from mistill.cli import main; sys.exit(main(sys.argv[1:]))"
    shut = " ".join(f"{number}>&-" for number in closed)
    ended = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{code}" {arguments} {shut}'], cwd=tmp_path, timeout=60
    )
    assert ended.returncode == 0
    assert json.loads((tmp_path / "answers.jsonl").read_text())["generation"] == "Echo: hello"


@pytest.mark.parametrize(
    ("command", "streams", "code", "said"),
    [
        ("chat Hi", "<&-", 0, ""),
        ("chat Hi", ">&-", 0, ""),
        ("chat Hi", "<&- >&- 2>&-", 0, ""),
        ("chat Hi", ">/dev/full", 3, "stdout could not be written: No space left"),
        ("--help", ">/dev/full", 3, "stdout could not be written: No space left"),
        ("run rows.jsonl --out answers.jsonl", "2>/dev/full", 0, ""),
        ("run rows.jsonl --out answers.jsonl", ">&- 2>/dev/full", 0, ""),
    ],
)
def test_streams_that_take_nothing(
    simulator: Simulator, tmp_path: Path, command: str, streams: str, code: int, said: str
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hello"}\n')
    if not command.startswith("-"):
        command += f" --model mistral-small-latest --endpoint {simulator.url}"
    ended = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m mistill {command} {streams}'],
        cwd=tmp_path,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == code
    assert said in ended.stderr
    assert "internal error" not in ended.stderr
    if command.startswith("run"):
        assert (tmp_path / "answers.jsonl").exists()


@pytest.mark.parametrize(("stdout", "code"), [("| head -1 >/dev/null", 141), (">&-", 2), (">/dev/full", 3)])
def test_rows_for_a_stdout_that_takes_none(
    mistill: Mistill, simulator: Simulator, tmp_path: Path, stdout: str, code: int
) -> None:
    Path("rows.jsonl").write_text("".join(f'{{"prompt": "{"long " * 500}{n}"}}\n' for n in range(100)))
    given_ = ("--model", "mistral-small-latest", "--endpoint", simulator.url)
    assert mistill("run", "rows.jsonl", "--out", "answers.jsonl", *given_).code == 0
    script = f'{{ "{sys.executable}" -m mistill rows answers.jsonl; echo $? >code; }} {stdout}'
    if not stdout.startswith("|"):
        script = f'"{sys.executable}" -m mistill rows answers.jsonl {stdout}; echo $? >code'
    ended = subprocess.run(["sh", "-c", script], cwd=tmp_path, timeout=60, capture_output=True, text=True)
    assert int((tmp_path / "code").read_text()) == code
    assert "internal error" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("level", ["mistill", "mistill.estimates.budget", "another.library"])
def test_what_is_logged_is_made_visible_and_said_once(
    mistill: Mistill, capfd: pytest.CaptureFixture[str], level: str
) -> None:
    with logged_lines():
        for _ in range(3):
            logging.getLogger(level).warning("odd %s", CLIPBOARD)
            logging.getLogger(level).error("as odd", exc_info=ValueError(CLIPBOARD))
    said = capfd.readouterr().err
    assert said.count("\\x1b]52") == 2
    assert "\x1b" not in said


def test_a_warning_of_the_library_is_made_visible(mistill: Mistill, simulator: Simulator) -> None:
    reason = f"odd {CLIPBOARD}"
    choice = {"index": 0, "message": {"role": "assistant", "content": None}, "finish_reason": reason}
    simulator.script([Fault.status(200, {"choices": [choice]})] * 2)
    Path("rows.jsonl").write_text('{"prompt": "hello"}\n' * 2)
    given_ = ["--model", "mistral-small-latest", "--endpoint", simulator.url]
    said = mistill("run", "rows.jsonl", "--out", "answers.jsonl", *given_).stderr
    assert said.count("\\x1b]52") >= 1
    assert said.count("gave no content") == 1
    assert "\x1b" not in said


def test_a_traceback_is_made_visible(mistill: Mistill, simulator: Simulator) -> None:
    simulator.script([Fault.status(400, {"message": f"no {CLIPBOARD}"})] * 2)
    given_ = ("--model", "mistral-small-latest", "--endpoint", simulator.url)
    for more in ([], ["--schema", "{}"]):
        said = mistill("chat", "Hi", "--debug", *given_, *more).stderr
        assert "Traceback" in said
        assert said.count("\\x1b]52") >= 2
        assert "\x1b" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_end_stops_as_with_ctrl_c(
    tmp_path: Path, simulator: Simulator, number: signal.Signals
) -> None:
    simulator.change(latency_s=1.0)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hello"}\n' * 50)
    code = "import sys; from mistill.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["run", "rows.jsonl", "--out", "answers.jsonl", "--model", "mistral-small-latest"]
    arguments += ["--endpoint", simulator.url, "--max-concurrent-requests", "4"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    simulator.wait_until(lambda: simulator.in_flight == 4, timeout_s=60)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping: 4 in flight, up to 30 s; Ctrl-C again cuts them off" in said
    assert "maybe billed" not in said  # what was in flight was waited for


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
@pytest.mark.parametrize(
    ("source", "out", "prompt", "code"),
    [
        ("in.jsonl", "out\udcff.jsonl", "{{ text }}", 0),
        ("in\udcff.jsonl", "out.jsonl", "{{ text }}", 0),
        ("in\udcff.jsonl", "out\udcff.jsonl", "{{ nope }}", 2),
        ("gone\udcff.jsonl", "out.jsonl", "{{ text }}", 2),
    ],
)
def test_names_of_files_that_are_no_text(
    mistill: Mistill, simulator: Simulator, source: str, out: str, prompt: str, code: int
) -> None:
    for name in ("in.jsonl", "in\udcff.jsonl"):
        Path(name).write_text('{"text": "a"}\n')
    given_ = ("--model", "mistral-small-latest", "--endpoint", simulator.url, "--prompt", prompt)
    for more in ((), ("--json",)):
        ended = mistill("run", source, "--out", out, *given_, *more)
        assert ended.code == code, ended.stderr
        assert "internal error" not in ended.stderr
    if code == 0:
        assert mistill("status", out, "--json").code == 0
        assert mistill("export", out, "--to", "again\udcff.csv").code == 0
        assert json.loads(Path(out).read_text())["generation"] == "Echo: a"


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_every_path_may_be_no_text(mistill: Mistill, simulator: Simulator) -> None:
    Path("in\udcff.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    Path("p\udcff.txt").write_text("{{ text }}\n")
    Path("m\udcff.toml").write_text('[models."mistral-small-latest"]\ninput = 1e6\noutput = 0\n')
    Path("s\udcff.toml").write_text("limit = 1\n")
    ledger = ("--ledger", "l\udcff.ledger")
    given_ = ("--model", "mistral-small-latest", "--endpoint", simulator.url, "--prompt-file", "p\udcff.txt")
    files = ("--prices", "m\udcff.toml", "--settings", "s\udcff.toml")
    ended = mistill("run", "in\udcff.jsonl", "--out", "out.jsonl", *ledger, *given_, *files, "--json")
    assert (ended.code, ended.json["completions"]) == (0, 1), ended.stderr
    assert ended.json["cost"] == ended.json["input_tokens"]
    assert mistill("status", "out.jsonl", *ledger).code == 0
    assert len(mistill("rows", "l\udcff.ledger").records) == 1
    assert mistill("retry", "out.jsonl", *ledger, "--where", "row=0", "--quiet").code == 0
    assert mistill("show", "out.jsonl", "0", *ledger).code == 0


def test_an_empty_input_and_a_choice_of_no_row_are_said(mistill: Mistill, simulator: Simulator) -> None:
    Path("none.jsonl").write_text("\n")
    Path("one.jsonl").write_text('{"text": "a"}\n')
    given_ = ("--model", "mistral-small-latest", "--endpoint", simulator.url, "--prompt", "{{ text }}")
    for more in ((), ("--quiet",), ("--dry-run",)):
        ended = mistill("run", "none.jsonl", "--out", "none-out.jsonl", *given_, *more)
        assert ended.code == 0
        assert "the input is empty: none.jsonl has no row\n" in ended.stderr
    assert mistill("run", "one.jsonl", "--out", "out.jsonl", *given_, "--quiet").stderr == ""
    assert mistill("run", "one.jsonl", "--out", "cut.jsonl", *given_, "--quiet", "--limit", "0").stderr == ""
    no_row = "no row of out.jsonl matches 'row=7'\n"
    assert mistill("retry", "out.jsonl", "--where", "row=7", "--quiet").stderr == no_row
    assert mistill("rows", "out.jsonl", "--where", "row=7").stderr == no_row
    assert no_row in mistill("export", "out.jsonl", "--to", "-", "--where", "row=7").stderr


class _TerminalStream(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.TextIOWrapper, _TerminalStream])
def test_what_is_said_above_a_bar_has_its_colours_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.TextIOWrapper]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    drawn = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", stream(drawn, "utf-8", write_through=True))
    is_looked_at = stream is _TerminalStream
    console = Console(file=sys.stderr, force_terminal=True, color_system="standard")
    assert is_terminal(stderr=True) is is_looked_at
    with Live("a bar", console=console, auto_refresh=False, transient=True, redirect_stdout=False):
        assert is_terminal(stderr=True) is is_looked_at
        say_error("it is so")
    told = b"\x1b[31merror: \x1b[0mit is so\n" if is_looked_at else b"error: it is so\n"
    assert told in drawn.getvalue()
    say_error("it is so")
    assert drawn.getvalue().endswith(told)


def test_what_is_said_while_a_bar_is_drawn_is_printed_above_it() -> None:
    drawn = io.TextIOWrapper(io.BytesIO(), "utf-8")
    console = Console(file=drawn, force_terminal=True, width=80)
    with Live("a bar", console=console, auto_refresh=False, transient=True, redirect_stdout=False):
        say("root: paused")
    drawn.flush()
    shown = drawn.detach()
    assert isinstance(shown, io.BytesIO)
    # The bar is wiped, then the line, then the bar again: never a line behind a bar.
    assert "a barroot: paused" not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue().decode())
    assert b"root: paused\n" in shown.getvalue()
