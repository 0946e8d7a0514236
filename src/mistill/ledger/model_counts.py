"""How many answers came of which model: counted as they are written, in the same commit.

The bodies of the answers say it too, each its own; to read them all, for every look at a run, would take minutes for
millions. A ledger of before this was counted is counted once.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import msgspec

from mistill.ledger.commits import Values
from mistill.ledger.damage import DamagedMeta
from mistill.ledger.database import read_meta, write_meta
from mistill.struct_types import look_at
from mistill.visible import visible

_KEY = "answers_by_model"
_LONGEST_NAME = 100
_PINNED = "pinned_models"
MOST_NAMES = 256
"""A server that names each answer's node must not make the line of counts longer with each: the others are one."""

ModelOf = Callable[[bytes], "str | None"]
"""Which model an answer's body says that it is of."""


class AnswersOfModel(msgspec.Struct, frozen=True, array_like=True):
    """How many answers one model gave, as the answers say it.

    Attributes:
        settings: the number of a retry's settings that were asked with; ``None``: the run's own.
        model: ``None``: the answers name none, or there are too many names to count each.
    """

    settings: int | None
    model: str | None
    answers: int


class ModelCounts:
    """A way to count answers, of whose ``(settings, model)`` each line is: a `Statement`.

    Attributes:
        is_known: what there was before is counted too. Until then nothing is written.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        found = read_model_counts(connection)
        is_new = (
            found is None and not connection.execute("SELECT EXISTS (SELECT 1 FROM answers)").fetchone()[0]
        )
        self.is_known = found is not None or is_new
        self._counts = {(one.settings, one.model): one.answers for one in found or ()}

    def write(self, connection: sqlite3.Connection, rows: list[Values]) -> None:
        if not self.is_known:
            return
        counts = self._counts
        for (settings, model), answers in Counter(rows).items():  # who answered last stands last
            line = settings, named(model)
            name = line if line in counts or len(counts) < MOST_NAMES else (line[0], None)
            counts[name] = counts.pop(name, 0) + answers
        self._keep(connection)

    def count(self, connection: sqlite3.Connection, model_of: ModelOf) -> None:
        """Counts what there is by the answers' bodies."""
        self._counts = {(one.settings, one.model): one.answers for one in count_bodies(connection, model_of)}
        self.is_known = True
        self._keep(connection)

    def of(self, settings: int | None) -> dict[str, int]:
        """How many answers to these settings came of which model, the one that answered last at the end."""
        return {
            model: answers
            for (one, model), answers in list(self._counts.items())
            if one == settings and model is not None
        }

    def _keep(self, connection: sqlite3.Connection) -> None:
        found = [AnswersOfModel(*key, answers) for key, answers in self._counts.items()]
        write_meta(connection, _KEY, msgspec.json.encode(found).decode())


class PinnedModels:
    """Which model's answers alone are taken, by the number of the settings that they are asked with: a `Statement`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._models: dict[int | None, str | None] = {}
        with suppress(DamagedMeta, msgspec.DecodeError):
            text = read_meta(connection, _PINNED) or "[]"
            self._models = dict(msgspec.json.decode(text, type=list[tuple[int | None, str | None]]))

    def of(self, settings: int | None) -> str | None:
        return self._models.get(settings)

    def note(self, settings: int | None, model: str | None) -> None:
        """It is so from now on; the next commit has it."""
        self._models[settings] = model

    def write(self, connection: sqlite3.Connection, rows: list[Values]) -> None:
        for settings, model in rows:
            self._models[settings] = model
        write_meta(connection, _PINNED, msgspec.json.encode(list(self._models.items())).decode())


def read_model_counts(connection: sqlite3.Connection) -> list[AnswersOfModel] | None:
    """What is counted, the model that answered last at the end; ``None``: nobody has, or it is damaged."""
    try:
        text = read_meta(connection, _KEY)
        return None if text is None else msgspec.json.decode(text, type=list[AnswersOfModel])
    except (DamagedMeta, msgspec.DecodeError):
        return None


def count_bodies(connection: sqlite3.Connection, model_of: ModelOf) -> list[AnswersOfModel]:
    """The same by the bodies of all answers."""
    found = connection.execute("SELECT settings, body FROM attempts JOIN answers ON attempt = id ORDER BY id")
    counts: dict[tuple[int | None, str | None], int] = {}
    for settings, body in found:
        name = settings, named(_model(body, model_of))
        name = name if name in counts or len(counts) < MOST_NAMES else (settings, None)
        counts[name] = counts.get(name, 0) + 1
    return [AnswersOfModel(*key, answers) for key, answers in counts.items()]


def named(model: str | None) -> str | None:
    """A model's name as it is kept and shown, whatever the server says; ``None``: it says none."""
    return " ".join(visible(model[:_LONGEST_NAME]).split()) or None if model else None


def _model(body: object, model_of: ModelOf) -> str | None:
    return model_of(body) if isinstance(body, bytes) else None


look_at(AnswersOfModel)
