"""Settings in the words of the command line: ``--max-new-tokens``, where Python has ``max_new_tokens``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, cast

from mistill.kinds.options import RunOptions, Written
from mistill.wording import Phrase, Setting

_FLAGS = {
    "api_key": "--api-key-env",
    "admin_key": "--admin-key-env",
    "structured_output": "--schema",
    "turns": "--turn",
    "as_": "--as",
}
"""Those that the command line calls by another name, beside a run's options, which say so themselves."""
_UNITS: Mapping[str, Mapping[str, int]] = {
    "duration": {"h": 3600, "m": 60, "s": 1},
    "bytes": {"GB": 10**9, "MB": 10**6, "KB": 10**3},
}
"""The units of a form of values, the largest first."""


def on_the_command_line(part: Setting | Phrase) -> str:
    """A setting as its option is written, a phrase as the command line has it."""
    if isinstance(part, Phrase):
        return part.command_line
    flag = flag_of(part.name)
    written = _written(part.name)
    joint = "=" if written is not None and written.form == "flattening" else " "
    if written is not None and written.negates:
        return flag
    if written is not None and written.either:
        return flag if part.value is not False else f"--no-{flag[2:]}"
    return " ".join(
        flag if value is None else f"{flag}{joint}{shlex.quote(value)}"
        for value in _values(shown_value(part.value, written))
    )


def flag_of(name: str) -> str:
    """The option of the setting that Python calls so."""
    written = _written(name)
    if written is not None and written.flag is not None:
        return written.flag
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def shown_value(value: Any, written: Written | None) -> Any:
    """A value as the command line writes it: ``24h``, ``200MB``."""
    if written is None or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    units: Mapping[str, int] = _UNITS.get(written.form or "", {})
    return next(
        (f"{value / size:g}{unit}" for unit, size in units.items() if value >= size and value % size == 0),
        value,
    )


def _written(name: str) -> Written | None:
    field = RunOptions.model_fields.get(name)
    return next((one for one in field.metadata if isinstance(one, Written)), None) if field else None


def _values(value: Any) -> Iterator[str | None]:
    """The values that a flag is given, once for each time that it is written; ``None``: it stands alone."""
    if value is None or value is True:
        yield None
    elif isinstance(value, dict):
        for name, one in cast("dict[str, Any]", value).items():
            yield f"{name}={one}"
    elif isinstance(value, list | tuple):
        yield ",".join(str(one) for one in cast("list[Any]", value))
    else:
        yield str(value)
