"""Every ```python block of README.md and docs/*.md runs, against the simulator.

The blocks of one file run one after the other in one namespace, in which ``endpoint`` is the simulator's address. A
block that names no endpoint reaches the simulator too, since the class's default is put there meanwhile: so what README
shows is what runs, letter by letter.

Links between documents are checked in those for contributors too.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from mistill.cli import main
from mistill.llms import MistralEmbeddings, MistralLLM
from mistill.simulator import Simulator

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOR_CONTRIBUTORS = [
    *(ROOT / name for name in ("CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md")),
    *sorted((ROOT / "design").glob("*.md")),
]
NEEDS = {
    "telemetry.md": "opentelemetry.sdk",
    "local-model.md": "xllamacpp",
    "distilabel.md": "distilabel",
    "chains.md": "mistralai",
    "engines.md": "pyarrow",
}

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def endpoint(simulator: Simulator) -> Iterator[str]:
    fields = [kind.model_fields["endpoint"] for kind in (MistralLLM, MistralEmbeddings)]
    defaults = [field.default for field in fields]
    try:
        _set_defaults([simulator.url] * len(fields))
        yield simulator.url
    finally:
        _set_defaults(defaults)


def _set_defaults(endpoints: list[str]) -> None:
    for kind, endpoint in zip((MistralLLM, MistralEmbeddings), endpoints, strict=True):
        kind.model_fields["endpoint"].default = endpoint
        kind.model_rebuild(force=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_examples_run(path: Path, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = list(_BLOCK.finditer(path.read_text("utf-8")))
    if not blocks:
        pytest.skip("no python in it")
    if (package := NEEDS.get(path.name)) and not _is_there(package):
        pytest.skip(f"needs {package}")
    monkeypatch.chdir(tmp_path)
    if path.name == "telemetry.md":
        _configure_later(monkeypatch)
    namespace = {"endpoint": endpoint, "__name__": path.stem}
    for block in blocks:
        line = path.read_text("utf-8")[: block.start()].count("\n") + 1
        code = compile("\n" * line + block[1], str(path), "exec")
        exec(code, namespace)


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # nor is what it is a part of
        return False


def _configure_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers may be set once a process: afterwards it is as if they had not been."""
    from opentelemetry import trace
    from opentelemetry.metrics import _internal
    from opentelemetry.util._once import Once

    for module, name in ((trace, "_TRACER_PROVIDER"), (_internal, "_METER_PROVIDER")):
        monkeypatch.setattr(module, name, None)
        monkeypatch.setattr(module, f"{name}_SET_ONCE", Once())


CHAINS = ROOT / "docs" / "chains.md"


def test_the_chain_runs_as_commands(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert endpoint
    monkeypatch.chdir(tmp_path)
    text = CHAINS.read_text("utf-8")
    for name, content in re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        Path(name).write_text(content)
    (block,) = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    assert len(commands) == 5
    for program, *arguments in commands:
        assert program == "mistill"
        assert main(arguments) == 0, capfd.readouterr().err
    lines = [json.loads(line) for line in Path("sft.jsonl").read_text().splitlines()]
    assert lines
    assert {tuple(one["role"] for one in line["messages"]) for line in lines} == {("user", "assistant")}


@pytest.mark.parametrize(("told", "marked"), [("mistill", "chain"), ("sdk", "sdk")])
def test_the_lines_of_a_chain_are_counted(told: str, marked: str) -> None:
    text = CHAINS.read_text("utf-8")
    (code,) = re.findall(rf"^# <{marked}>\n(.*?)^# </{marked}>", text, re.MULTILINE | re.DOTALL)
    count = sum(1 for line in code.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    assert re.findall(rf"<!-- lines {told} -->(\d+)<!-- /lines -->", text) == [str(count)]


def test_links_between_documents_lead_somewhere() -> None:
    for path in (*FILES, *FOR_CONTRIBUTORS):
        for target in re.findall(r"\]\(([^)#\s]+\.md)", path.read_text("utf-8")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"
