"""JSON, TOML and YAML that somebody wrote: settings, schemas, prices, dumps. What is wrong there is an `InputError`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mistill.errors import InputError


def read_json(text: str, name: str) -> Any:
    """What the JSON ``text`` holds; ``name`` is what it is called in errors.

    Raises:
        InputError: it is no JSON, or nobody can read it.
    """
    return _read(json.loads, text, name, "JSON")


def read_toml(text: str, name: str) -> dict[str, Any]:
    """As `read_json`, of TOML."""
    import tomllib  # 4 ms, which importing the library need not cost

    return _read(tomllib.loads, text, name, "TOML")


def read_yaml(text: str, name: str) -> Any:
    """As `read_json`, of YAML."""
    import yaml

    return _read(yaml.safe_load, text, name, "YAML")


def _read(parse: Callable[[str], Any], text: str, name: str, form: str) -> Any:
    try:
        return parse(text)
    except RecursionError:
        raise InputError(f"{name} is nested too deep") from None
    except Exception as error:  # for a date or a number that cannot be, what Python's own types raise
        # Neither chained nor quoted: what is written there may be a key.
        words = _place_in_yaml(error) if form == "YAML" else " ".join(str(error).split())
        raise InputError(f"{name} is not {form}: {words}") from None


def _place_in_yaml(error: Exception) -> str:
    """What is wrong, and where; not what is written there, which may be a key."""
    mark: Any = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or "it cannot be read")
    return problem if mark is None else f"{problem} (line {mark.line + 1}, column {mark.column + 1})"
