"""SQLite's own locks on a ledger that is open: nothing that this process does beside drops them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mistill.errors import MistillError
from mistill.kinds.kept_settings import find_run, refuse_unwritten
from mistill.ledger import Ledger, LedgerReader
from mistill.ledger.database import open_to_note
from mistill.ledger.files import is_database, is_ledger, lock_of, owner_of
from mistill.ledger.lock import LedgerLock, is_held
from mistill.ledger.targets import check_targets

if sys.platform == "win32":
    pytest.skip("locks are of handles there", allow_module_level=True)

_TRY = """
import fcntl, sys
with open(sys.argv[1], "rb+") as file:  # SQLite's shared locks are in these 510 bytes
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
    except OSError:
        print("refused")
"""


def is_refused(path: Path) -> bool:
    """Whether another process cannot have it for itself."""
    command = [sys.executable, "-c", _TRY, str(path)]
    return "refused" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _read(path: Path) -> None:
    with LedgerReader(path) as reader:
        reader.counts()


BESIDE: dict[str, Callable[[Path], object]] = {
    "read": _read,
    "mark": lambda path: open_to_note(path).close(),
    "find": find_run,
    "input": lambda path: refuse_unwritten([path]),
    "output": lambda path: check_targets(path, path.with_name("other"), []),
    "ledger": lambda path: check_targets("a.jsonl", path, [path]),
    "export": lambda path: check_targets(path.with_name(f"{path.name}-wal"), None, [path]),
    "table": lambda path: check_targets(f"sqlite:///{path}?table=t", None, []),
    "looks": lambda path: (is_database(path), is_ledger(path), owner_of(path), is_held(path)),
}


def test_nothing_beside_a_ledger_that_is_open_drops_its_locks(tmp_path: Path) -> None:
    path = tmp_path / "out.ledger"
    with Ledger.open(path, {}):
        assert is_refused(path)
        for beside in BESIDE.values():
            with suppress(MistillError):
                beside(path)
        assert is_refused(path)
    assert not is_refused(path)


def test_a_file_that_is_opened_by_itself_would(tmp_path: Path) -> None:
    path = tmp_path / "out.ledger"
    with Ledger.open(path, {}):
        path.read_bytes()
        assert not is_refused(path)


@contextmanager
def nobody() -> Iterator[None]:
    """Rights count for nothing when root runs the tests."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_read_only_lock_says_whether_a_run_is_on_the_ledger() -> None:
    with tempfile.TemporaryDirectory() as directory:  # others may not look into those of pytest
        path = Path(directory) / "out.ledger"
        Path(directory).chmod(0o755)
        lock = LedgerLock(path)
        lock_of(path).chmod(0o444)
        with nobody():
            assert is_held(path)
        lock.leave_to_parent()  # as if its process had been killed: the file stays
        with nobody():
            assert not is_held(path)
