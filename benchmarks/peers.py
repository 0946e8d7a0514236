"""Tools of others beside ours: each in an environment of its own, over the same cases, into one table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

from benchmarks.__main__ import machine

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "mistill-benchmarks")
_RESULTS = Path(__file__).parent / "results"


class Named(Protocol):
    """What goes wrong."""

    @property
    def name(self) -> str: ...


class Peer(Named, Protocol):
    """A tool.

    Attributes:
        environment: the folder of its own environment; empty: it is this one. ``packages``: what is installed there.
    """

    @property
    def environment(self) -> str: ...

    @property
    def packages(self) -> tuple[str, ...]: ...


P = TypeVar("P", bound=Peer)
C = TypeVar("C", bound=Named)
S = TypeVar("S")
Found: TypeAlias = "dict[str, dict[str, S | None]]"
"""What goes wrong → tool → what came of it; ``None``: it is not installed."""


def python_of(peer: Peer, peers: Path) -> Path:
    """What runs it; ``peers``: the folder of all environments."""
    return peers / peer.environment / "bin" / "python" if peer.environment else Path(sys.executable)


def versions(tools: Sequence[Peer]) -> str:
    """What is installed for them, for people."""
    packages = (" with ".join(tool.packages).replace("==", " ") for tool in tools if tool.packages)
    return ", ".join(dict.fromkeys(packages))


def compare(
    name: str,
    doc: str | None,
    tools: Sequence[P],
    cases: Sequence[C],
    measure: Callable[[P, C, Path], S],
    print_tables: Callable[[Found[S], Sequence[P]], None],
    *,
    cell: Callable[[S | None], str] = str,
) -> None:
    """A benchmark as a command: measures, or installs, and prints; all of it is kept in ``results/NAME.json``.

    Args:
        doc: what its help says. ``cell``: what is said of each measurement as soon as it is there.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="make the environments of the others, and end")
    parser.add_argument(
        "--peers", type=Path, default=_CACHE, help="the folder that these are in (%(default)s)"
    )
    parser.add_argument("--only", default="", help="what goes wrong: those with this in their name")
    parser.add_argument("--tools", default="", help="the tools with this in their name")
    given = parser.parse_args()
    chosen = [tool for tool in tools if given.tools in tool.name]
    if given.install:
        _install(chosen, given.peers)
        return
    found: Found[S] = {}
    for case in (each for each in cases if given.only in each.name):
        found[case.name] = {}
        for tool in chosen:
            is_there = python_of(tool, given.peers).exists()
            seen = found[case.name][tool.name] = measure(tool, case, given.peers) if is_there else None
            print(f"{case.name}: {tool.name}: {cell(seen)}", file=sys.stderr)
    print_tables(found, chosen)
    if not given.only and not given.tools:
        _RESULTS.mkdir(parents=True, exist_ok=True)
        kept = json.dumps({"machine": machine(()), "found": found}, default=asdict, indent=1)
        (_RESULTS / f"{name}.json").write_text(kept)


def _install(tools: Sequence[Peer], peers: Path) -> None:
    for name, packages in {tool.environment: tool.packages for tool in tools if tool.environment}.items():
        print(f"installing {', '.join(packages)} into {peers / name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(peers / name)], check=True)
        pip = [str(peers / name / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(pip, check=True)
