"""What makes it the same run: a typed struct, written into the ledger and read from it by the same type.

Each kind of run has its own (see ``mistill.kinds``). What is not in it may change between starts: where the model
is, how fast, how the output looks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

import msgspec
from msgspec import Struct

from mistill.wording import Part, Setting

_MAX_SHOWN = 80


class RunManifest(Struct, frozen=True, kw_only=True):
    """What decides the answers of a run.

    Attributes:
        kind: of which kind it is.
        model: the model's name as it was given.
    """

    kind: str
    model: str

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """What a ledger has, in this version's form."""
        return msgspec.json.decode(data, type=cls)

    def values(self) -> dict[str, Any]:
        """As JSON values, for the ledger."""
        return msgspec.to_builtins(self)

    def settings(self) -> dict[str, Any]:
        """The same by the names of the settings that a user gives; what is not set is not there."""
        return {"model": self.model}

    def options(self) -> dict[str, Any]:
        """The options of a run (see `RunOptions`) that it came of, to make the same run again."""
        return {}


def changed_settings(before: RunManifest, now: RunManifest) -> dict[str, tuple[Any, Any]]:
    """Setting → what it was and is, ``None`` where it is not set; of those that differ."""
    old, new = before.settings(), now.settings()
    return {
        name: (old.get(name), new.get(name))
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    }


def shown_changes(changes: Mapping[str, tuple[object, object]]) -> list[Part]:
    """`changed_settings` for a message."""
    shown: list[Part] = []
    for name, (old, new) in changes.items():
        shown += ["; " if shown else "", Setting(name), f": {_told(name, old, new)}"]
    return shown


def _told(name: str, old: object, new: object) -> str:
    """``"a" → "b"``; a schema is known by a fingerprint, which tells nobody anything."""
    if name == "schema" and old is not None and new is not None:
        return "another one"
    return f"{_short(name, old)} → {_short(name, new)}"


def _short(name: str, value: object) -> str:
    if value is None:
        return "none"
    text = "one" if name == "schema" else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
