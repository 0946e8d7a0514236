"""Starting a run, shown and told: what `mistill run` and `mistill retry` have in common."""

from __future__ import annotations

import logging

from mistill.cli.command import OTHER, option
from mistill.cli.exit_codes import Exit
from mistill.cli.program import say_error
from mistill.cli.terminal.live import Watch, shown
from mistill.cli.terminal.summary import exit_code_of, tell, tell_as_json
from mistill.runs.run import Run

json_option = option(
    "--json",
    "as_json",
    group=OTHER,
    is_flag=True,
    help="Tell the summary as JSON, on stdout (on stderr where stdout has the records).",
)
quiet_option = option("--quiet", "-q", group=OTHER, is_flag=True, help="Tell nothing but errors.")
grace_option = option(
    "--grace",
    group="Durability",
    type=float,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long Ctrl-C waits for what is in flight.",
)


def start(
    run: Run,
    *,
    out: str,
    watch: Watch | None = None,
    grace_s: float,
    as_json: bool,
    quiet: bool,
    is_sample: bool = False,
) -> Exit:
    """Starts the run, shows it, tells how it ended, and gives the exit code."""
    with _warnings_once(), shown(watch or Watch(run, ()), quiet=quiet, grace_s=grace_s):
        summary = run.start()
    code = exit_code_of(summary, is_sample=is_sample)
    if as_json:
        tell_as_json(summary, code, to_stderr=out == "-")
    elif not quiet:
        tell(summary, out)
    elif summary.stopped is not None:
        say_error(str(summary.stopped))
    return code


class _warnings_once(logging.Filter):  # noqa: N801  used as a function
    """Lets each warning of the library through once: what is wrong with a thousand rows is told once."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = text not in self._told
        self._told.add(text)
        return is_new

    def __enter__(self) -> None:
        logging.getLogger("mistill").addFilter(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("mistill").removeFilter(self)
