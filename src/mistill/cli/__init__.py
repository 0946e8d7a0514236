"""The command line: arguments to library calls, and all terminal output."""

from __future__ import annotations

from mistill.cli.program import main

__all__ = ["main"]
