"""What names a run, in a call or a command that is to be shown to somebody."""

from __future__ import annotations

import shlex
from pathlib import Path

from msgspec import Struct

from mistill.kinds.kept_settings import ledger_beside, output_of
from mistill.ledger.shard_files import run_of_shard
from mistill.same_place import is_same_file


class RunName(Struct, frozen=True):
    """What names a run: its output or its ledger, and its ledger too where that is not beside the output."""

    path: str
    ledger: str | None = None

    @classmethod
    def of(cls, out: str | None, ledger: Path) -> RunName:
        """``out``: its output; ``None`` or ``-``: it has none that is known, or that stays."""
        if out is None or out == "-":
            return cls(str(ledger))
        return cls(out, None if is_same_file(ledger, ledger_beside(out)) else str(ledger))

    @classmethod
    def of_all_shards(cls, ledger: Path) -> RunName | None:
        """Of the run whose shard has this ledger; ``None``: it is that of no shard."""
        folder = run_of_shard(ledger)
        return None if folder is None else cls.of(output_of(folder), folder)

    def call(self, function: str, *arguments: str) -> str:
        """A call of Python that takes the run first."""
        named = [repr(self.path), *arguments]
        if self.ledger is not None:
            named.append(f"ledger={self.ledger!r}")
        return f"{function}({', '.join(named)})"

    def command(self, name: str, *arguments: str) -> str:
        """A command of the command line."""
        return " ".join(("mistill", name, self.command_arguments(), *arguments))

    def command_arguments(self) -> str:
        """What a command of the command line takes for the run."""
        ledger = () if self.ledger is None else ("--ledger", shlex.quote(self.ledger))
        return " ".join((shlex.quote(self.path), *ledger))
