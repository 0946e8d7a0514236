"""The processes that a program has started, as Linux lists them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children_of(process: int) -> list[int]:
    """Those that are there now. Each is listed by the thread that has started it."""
    found: list[int] = []
    for children in Path("/proc").glob(f"{process}/task/*/children"):
        with suppress(OSError):
            found += map(int, children.read_text().split())
    return found


def descendants_of(process: int) -> list[int]:
    """They, and theirs: each after the one that has started it."""
    found: list[int] = []
    for child in children_of(process):
        found += [child, *descendants_of(child)]
    return found


def is_spawned(process: int) -> bool:
    """Whether Python has started it as a worker of another one (``multiprocessing``)."""
    return b"spawn_main" in read(process, "cmdline")


def spawned_by(process: int) -> list[int]:
    """The workers that it has now."""
    return [child for child in children_of(process) if is_spawned(child)]


def read(process: int, name: str) -> bytes:
    """A file of a process; empty once it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/{name}").read_bytes()
    return b""
