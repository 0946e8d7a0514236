"""The wheel that a user installs: what is in it, and what it says of itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mistill

pytest.importorskip("hatchling", reason="building a wheel needs pip install hatchling")

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mistill"
COMES_WITH = {
    "annotated_types": "pydantic",
    "datasets": "distilabel",
    "packaging": "pytest",
    "pydantic_core": "pydantic",
    "yaml": "pyyaml",
}
"""Module → the requirement that brings it."""

FOR_DEVELOPERS = {"test", "test-all", "test-engines", "coverage", "lint", "bench"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = directory.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_it_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    sources = {path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == {f"mistill/{path.relative_to(SOURCE).as_posix()}" for path in sources}
    assert {"mistill/py.typed", "mistill/api/prices.toml", "mistill/viewer/page/index.html"} <= packed
    assert {Path(name).suffix for name in packed if "/page/" not in name} == {
        ".css",
        ".html",
        ".py",
        ".toml",
        ".typed",
    }


def test_it_has_the_licence_whole(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
    text = wheel.read(name).decode()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_it_names_itself(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("mistill", mistill.__version__)
    assert metadata["Requires-Python"] == ">=3.11"
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "mistill = mistill.cli:main" in wheel.read(name).decode()


def test_the_readme_tells_of_every_extra_and_of_no_other(metadata: Message) -> None:
    documented = set(re.findall(r"^\| `([a-z]+)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
    assert set(metadata.get_all("Provides-Extra", [])) == documented | FOR_DEVELOPERS | {"all"}


def test_all_holds_every_extra(metadata: Message) -> None:
    required = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    of_extra = {
        extra: {one.name for one in required if one.marker and one.marker.evaluate({"extra": extra})}
        for extra in metadata.get_all("Provides-Extra", [])
    }
    for extra in of_extra.keys() - FOR_DEVELOPERS:
        assert of_extra[extra] <= of_extra["all"], extra
    assert of_extra["all"] <= of_extra["test-all"]
    assert not of_extra["test"] & of_extra["all"], "the runner alone needs no extra"


def test_tests_ask_for_libraries_that_may_be_missing(metadata: Message) -> None:
    """With no extra installed the suite is collected all the same: what is imported at a module's top is there, or was
    asked for with ``pytest.importorskip`` above. Within a test, `tests.libraries.library` does it."""
    always = {"mistill", "tests"}
    for text in metadata.get_all("Requires-Dist", []):
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate({"extra": "test"}):
            always.add(one.name.replace("-", "_"))
    missing = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for line, name in _imports_at_top(ast.parse(path.read_text("utf-8")))
        if name not in always | sys.stdlib_module_names
    ]
    assert not missing, missing


def _imports_at_top(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each library that importing the module needs, but for those that it asks for."""
    asked_for: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found = {node.module or ""}
        elif isinstance(node, ast.Expr):
            asked_for |= {
                call.args[0].value.partition(".")[0]
                for call in ast.walk(node)
                if isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr == "importorskip"
                and isinstance(call.args[0], ast.Constant)
                and isinstance(call.args[0].value, str)
            }
            continue
        else:
            continue
        for name in {name.partition(".")[0] for name in found}:
            library = COMES_WITH.get(name, name)
            if library not in asked_for:
                yield node.lineno, library
