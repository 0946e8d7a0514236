"""Imports go down only, rooms are of a size, and importing the library loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mistill

SOURCE = Path(mistill.__file__).parent

MAY_IMPORT = {
    "ledger": set[str](),
    "datasets": set[str](),
    "api": set[str](),
    "delivery": {"api"},
    "structured": {"api"},
    "progress": {"api", "delivery"},
    "telemetry": {"api", "delivery"},
    "llms": {"api", "delivery", "structured", "progress", "telemetry"},
    "prompts": {"api", "delivery", "llms", "datasets"},
    "records": {"structured", "datasets", "ledger", "progress"},
    "estimates": {"api", "delivery", "progress", "llms", "prompts", "ledger", "datasets"},
    "steering": {"ledger", "progress"},
    "jobs": {"telemetry", "api", "delivery", "estimates", "ledger", "progress"},
    "shards": {"api", "delivery", "progress", "ledger", "datasets", "steering"},
    "kinds": {"shards", "api", "delivery", "structured", "progress", "llms", "prompts", "ledger", "datasets"},
    "audits": {"api", "delivery", "estimates", "kinds", "ledger", "llms", "progress"},
    "pages": {"audits", "datasets", "estimates", "ledger", "progress", "records"},
    "runs": {
        "shards",
        "audits",
        "pages",
        "jobs",
        "steering",
        "telemetry",
        "kinds",
        "api",
        "delivery",
        "structured",
        "progress",
        "llms",
        "prompts",
        "records",
        "ledger",
        "datasets",
        "estimates",
    },
    "curation": {"ledger", "datasets", "records", "kinds", "runs"},
    "viewer": {"ledger", "kinds", "records", "pages", "steering", "runs", "datasets"},
    "simulator": {"api"},
    "local": {"api"},
    "integrations": {
        "api",
        "delivery",
        "structured",
        "llms",
        "datasets",
        "ledger",
        "prompts",
        "records",
        "runs",
    },
    "cli": {
        "audits",
        "pages",
        "api",
        "delivery",
        "structured",
        "progress",
        "llms",
        "prompts",
        "records",
        "ledger",
        "datasets",
        "estimates",
        "kinds",
        "runs",
        "steering",
        "curation",
        "viewer",
        "simulator",
        "local",
    },
}
"""Beside the ground: ``mistill.errors``, ``mistill.addresses``, ``mistill.user_folders`` and others, which every room
may know and which know none."""

HEAVY = (
    "opentelemetry",
    "pyarrow",
    "jinja2",
    "rich",
    "instructor",
    "aiohttp",
    "xllamacpp",
    "openai",
    "mistralai",
    "yaml",
    "click",
    "fsspec",
    "duckdb",
    "psycopg",
)


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each room of ours that a module imports, at its top or in a function."""
    package = path.relative_to(SOURCE.parent).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            origin = (
                ".".join((*package[: len(package) - node.level + 1], node.module or ""))
                if node.level
                else None
            )
            module = origin.rstrip(".") if origin is not None else node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == "mistill" and len(parts) > 1 and (SOURCE / parts[1]).is_dir():
                yield node.lineno, parts[1]


@pytest.mark.parametrize(
    "room", sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists())
)
def test_imports_go_down_only(room: str) -> None:
    up = [
        f"{path.relative_to(SOURCE)}:{line} imports {imported}"
        for path in sorted((SOURCE / room).rglob("*.py"))
        for line, imported in imported_rooms(path)
        if imported != room and imported not in MAY_IMPORT[room]
    ]
    assert up == []


def test_the_ground_knows_nothing() -> None:
    for name in (
        "addresses.py",
        "errors.py",
        "directories.py",
        "runtime_folder.py",
        "user_folders.py",
    ):
        assert list(imported_rooms(SOURCE / name)) == []
        assert "mistill" not in _imports(SOURCE / name)


def test_every_room_is_known_here() -> None:
    assert {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()} == MAY_IMPORT.keys()


def test_no_room_has_more_than_16_percent_of_the_lines() -> None:
    lines = {
        room: sum(path.read_text("utf-8").count("\n") for path in (SOURCE / room).rglob("*.py"))
        for room in MAY_IMPORT
    }
    whole = sum(path.read_text("utf-8").count("\n") for path in SOURCE.rglob("*.py"))
    assert {room: count for room, count in lines.items() if count > 0.16 * whole} == {}


def test_pyreqwest_has_one_importer() -> None:
    importers = {
        str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if "pyreqwest" in _imports(path)
    }
    assert importers == {"api/transport.py"}


def _imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    origins = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in plain | origins}


@pytest.mark.parametrize("module", ["mistill", "mistill.llms"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert module in loaded
    assert [name for name in HEAVY if name in loaded] == []
    assert [name for name in loaded if name.startswith(("mistill.local", "mistill.simulator"))] == []


def test_what_is_loaded_on_first_use_is_listed_all_the_same() -> None:
    assert set(mistill.__all__) <= set(dir(mistill))
    assert dir(mistill) == sorted(dir(mistill))
