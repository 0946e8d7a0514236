"""Rows of a run that are looked at one by one: some of the answered ones, drawn at random, and examples of failures."""

from __future__ import annotations

import json
import random
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from msgspec import Struct

from mistill.characters import cut
from mistill.datasets.sources import name_of
from mistill.errors import InputError, MistillError
from mistill.kinds.kept_settings import read_manifest
from mistill.ledger import LedgerReader, LedgerRow
from mistill.ledger.error_record import decode_error
from mistill.records.distributions import Distributions, FieldDistribution, Spread, spread_of
from mistill.runs.record_lines import answer_values, decoded_value
from mistill.runs.record_shape import RecordShape, shape_of
from mistill.runs.row_settings import RowSettings

if TYPE_CHECKING:
    from mistill.runs.report import RunReport

_MOST_DRAWN: Final = 10_000
_SAMPLES: Final = 20
_EXAMPLES: Final = 3
_LONGEST_TEXT: Final = 3_000
_LONGEST_EXAMPLE: Final = 1_200
_MOST_ANSWERS: Final = 4


class SampleRow(Struct, frozen=True):
    """An answered row: what it is called, its prompt and its answers, as texts, long ones cut."""

    name: str
    prompt: str
    answers: list[str]


class FailedRow(Struct, frozen=True):
    """A row that failed; ``answer``: its last one, where it had any."""

    name: str
    prompt: str
    error: str
    answer: str


class DrawnRows:
    """Some rows of a ledger, read once.

    Args:
        report: of the same moment as what the reader reads.

    Attributes:
        seen: how many were looked at. ``of``: how many are answered. ``unreadable``: how many have an answer that
            cannot be read.
        fields: what their answers are like; ``left_out``: fields of which nothing is said.
        input_tokens, output_tokens: how many they took.
        samples: a few of them.
    """

    def __init__(self, reader: LedgerReader, report: RunReport) -> None:
        self._reader = reader
        self._kind, manifest = read_manifest(reader)
        self._own = RowSettings(self._kind, manifest, self._kind.reader_of(manifest, {}))
        self._id_column: str | None = report.options.get("id_column")
        self.of = report.completions
        self.seen = self.unreadable = 0
        self.samples: list[SampleRow] = []
        distributions = Distributions()
        tokens_in, tokens_out = list[int](), list[int]()
        positions = reader.draw_positions(_MOST_DRAWN, self.of)
        # By each look the same ones, and at no distance that rows made in turn might have.
        draw = random.Random(0).sample  # noqa: S311  nothing is kept secret by it
        shown = set(draw(positions, min(_SAMPLES, len(positions))))
        for row in reader.rows_at(positions):
            if row.state != "completion":  # it is damaged
                continue
            self.seen += 1
            tokens_in.append(row.input_tokens)
            tokens_out.append(row.output_tokens)
            self._see(row, distributions)
            if row.position in shown:
                self.samples.append(self._sample(row))
        self.fields: list[FieldDistribution] = distributions.fields()
        self.left_out = distributions.left_out
        self.input_tokens: Spread | None = spread_of(tokens_in) if any(tokens_in) else None
        self.output_tokens: Spread | None = spread_of(tokens_out) if any(tokens_out) else None

    @property
    def is_sample(self) -> bool:
        """Not all answered rows were looked at."""
        return self.seen < self.of

    @property
    def of_a_sample(self) -> str:
        """For the end of a title."""
        return f", of {self.seen:,} drawn at random" if self.is_sample else ""

    @cached_property
    def _shape(self) -> RecordShape | None:
        try:
            return shape_of(self._reader)
        except InputError:  # its schema is a class that is not here
            return None

    def _see(self, row: LedgerRow, distributions: Distributions) -> None:
        values = self._values(row)
        if not values:
            self.unreadable += 1
        for value in values:
            distributions.see(value)

    def _values(self, row: LedgerRow) -> list[Any]:
        if self._shape is not None:
            return answer_values(row, self._shape)
        return [decoded_value(self._kind.text_of(body)) for body in row.answers]

    def _sample(self, row: LedgerRow) -> SampleRow:
        answers = [_pretty(self._kind.text_of(body)) for body in row.answers[:_MOST_ANSWERS]]
        return SampleRow(
            self._name(row),
            self._prompt(row, _LONGEST_TEXT),
            [cut(answer, _LONGEST_TEXT) for answer in answers],
        )

    def failed(self) -> dict[str, list[FailedRow]]:
        """Kind of error → the first rows that failed so."""
        places = self._reader.first_failures(_EXAMPLES)
        kinds = {position: kind for kind, positions in places.items() for position in positions}
        found: dict[str, list[FailedRow]] = {}
        for row in self._reader.rows_at(sorted(kinds), with_unfit=True):
            if row.error is not None:
                found.setdefault(kinds[row.position], []).append(self._failed(row, row.error))
        return found

    def _failed(self, row: LedgerRow, error: str) -> FailedRow:
        answer = "" if row.unfit is None else cut(self._kind.text_of(row.unfit), _LONGEST_EXAMPLE)
        message = decode_error(error).message
        return FailedRow(self._name(row), self._prompt(row, _LONGEST_EXAMPLE), message, answer)

    def _name(self, row: LedgerRow) -> str:
        row_id = name_of(row.record, self._id_column)
        return f"row {row.position:,}" + (f" ({cut(row_id, 120)})" if row_id else "")

    def _prompt(self, row: LedgerRow, longest: int) -> str:
        settings = self._own if self._shape is None else self._shape.settings_of(row)
        try:
            prompt = settings.prompt_of(row)
        except MistillError as error:
            return cut(f"none can be made: {error.message}", longest)
        return cut(prompt if isinstance(prompt, str) else "\n\n".join(map(_message, prompt)), longest)


def _message(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") or _short(part) for part in cast("list[dict[str, Any]]", content)]
        content = "\n".join(map(str, parts))
    return f"{message.get('role')}: {content if isinstance(content, str) else _short(message)}"


def _short(value: Any) -> str:
    return cut(json.dumps(value, ensure_ascii=False, default=str), _LONGEST_EXAMPLE)


def _pretty(text: str) -> str:
    """An answer, if it is a JSON object or list, with a line for each field."""
    if len(text) > 10 * _LONGEST_TEXT or text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return msgspec.json.format(text, indent=2)
    except (msgspec.DecodeError, RecursionError):
        return text
