"""Which model answers for the name that a run asks for: an alias such as ``mistral-small-latest`` moves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from shlex import quote

from mistill.errors import Stopped
from mistill.llms.generation import Server
from mistill.progress.formatting import count
from mistill.wording import Phrase, Setting, words

_log = logging.getLogger("mistill")

_MOST_TOLD = 5
"""A server that names each answer's node must not fill the log."""


class ModelWatch:
    """Says once of each model that another one answers than before.

    Args:
        server: what is asked.
        before: which models have answered the same settings in earlier starts, and how often; the last one at the end.
        pins: whether that ends the start. ``pinned``: the model that earlier starts were pinned to.

    Attributes:
        answers: which model answers; pinned, the one that has answered most. ``None``: none has, that is known.
    """

    def __init__(
        self, server: Server, before: Mapping[str, int], *, pins: bool, pinned: str | None = None
    ) -> None:
        self._server = server
        self._before = before
        self._pins = pins
        self._told = set[str]()
        self._has_told_of_turns = False
        if pins:
            names = [name for name in before if not self._is_no_more_than_a_name(name)] or [*before]
            self.answers = pinned or max(names, key=before.__getitem__, default=None)
        else:
            self.answers = [*before][-1] if before else None

    def see(self, model: str | None) -> Stopped | None:
        """An answer names this model. Gives why nothing more is asked, where that is so."""
        last = self.answers
        if not model or model == last:
            return None
        if last is None or self._is_no_more_than_a_name(last):
            self.answers = model
            return None
        if self._pins:
            return self._refused(last, model)
        self.answers = model
        if model not in self._told and len(self._told) <= _MOST_TOLD:
            self._told |= {last, model}
            self._tell(last, model)
        elif not self._has_told_of_turns:
            self._has_told_of_turns = True
            _log.warning("several models answer by turns, %s and %s last; that is told no more", last, model)
        return None

    def is_of_another(self, model: str | None) -> bool:
        """Whether an answer is none for this start, since its model is not the pinned one."""
        return self._pins and bool(model) and self.answers is not None and model != self.answers

    def _is_no_more_than_a_name(self, last: str) -> bool:
        """The server gave back the alias as it was asked for, and says now what stands behind it."""
        return last == self._server.model and self._server.tariff.is_of_alias

    def _moved(self, last: str, model: str) -> str:
        asked = self._server.model
        subject = f"{asked} is answered" if asked != last else "answers come"
        had = f", of which this run has {count(self._before[last], 'answer')}" if last in self._before else ""
        unpriced = ""
        if self._server.price is not None and self._server.tariff.price_of(model, None) is None:
            unpriced = "; of the new one no price is known"
        return f"{subject} by {model} now, and no longer by {last}{had}{unpriced}"

    def _tell(self, last: str, model: str) -> None:
        again = Phrase(
            f"Run.retry(…, {f'model={model}'!r}, llm={{'model': {last!r}}})",
            f"mistill retry … --where {quote(f'model={model}')} --model {quote(last)}",
        )
        _log.warning(
            words(
                self._moved(last, model),
                "; to ask its rows of the earlier one: ",
                again,
                "; ",
                Setting("pin", True),
                " ends a run where this happens",
            )
        )

    def _refused(self, last: str, model: str) -> Stopped:
        return Stopped(
            words(Setting("pin", True), f": {self._moved(last, model)}"),
            reason="moved",
            hint=words(
                "ask the rows that are left by that model: ",
                Phrase(
                    f"Run.retry(…, 'state=pending', llm={{'model': {last!r}}})",
                    f"mistill retry … --where state=pending --model {quote(last)}",
                ),
                "; or go on without ",
                Setting("pin"),
            ),
        )
