"""The command line: arguments to library calls, and all terminal output."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program ``mistill``; its exit code. Ctrl-C ends it quietly, while it is still being loaded too."""
    try:
        from mistill.cli.program import main as run

        return run(arguments)
    except KeyboardInterrupt:
        return 130  # `Exit.INTERRUPTED`, which may not be there yet
