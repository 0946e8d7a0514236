"""A row, and what every kind of input has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mistill.datasets.encoding import encode_record, encode_what_can_be
from mistill.datasets.sources.json_problems import explain_json
from mistill.errors import InputError, let_interrupt_pass


class Input(Protocol):
    """One of the inputs of a source: a file, a frame, an iterable."""

    @property
    def name(self) -> str:
        """For messages: a path as the user wrote it, or what kind of object it is."""
        ...

    @property
    def repeatable(self) -> bool:
        """Whether ``rows`` can be called again."""
        ...

    @property
    def is_far(self) -> bool:
        """Whether its rows come over a network: nobody may wait for them on an event loop, or read them to count."""
        ...

    @property
    def folders(self) -> Sequence[Path]:
        """Where the paths that its rows hold begin, besides the working directory: beside the file itself."""
        ...

    def columns(self) -> tuple[str, ...] | None:
        """Column names where they stand in a header or schema; None where only the rows tell."""
        ...

    def types(self) -> Mapping[str, Any]:
        """pyarrow's types of columns, where they have some; for the output, which gives them the same."""
        ...

    def features(self) -> Mapping[str, Any]:
        """Hugging Face's features of columns, where they have some; for the output, as `types`."""
        ...

    def total(self) -> int | None:
        """How many rows, where that is known without reading them."""
        ...

    def rows(self, first_index: int) -> Iterator[Row]:
        """The rows, numbered on from ``first_index``. Each is a JSON object by then.

        Raises:
            InputError: on iterating: the input cannot be read, or a row is no JSON object.
        """
        ...

    def where(self, place: int) -> str:
        """``place`` in words: "prompts.jsonl line 17", "prompts.xlsx sheet row 17", "prompts.parquet row 16". Lines and
        rows of a sheet count from 1, rows from 0."""
        ...


class UntypedInput:
    """What inputs have in common whose columns have no types of their own: the values alone say what they are."""

    is_far: bool = False

    def types(self) -> Mapping[str, Any]:
        return {}

    def features(self) -> Mapping[str, Any]:
        return {}


class Row(msgspec.Struct, eq=False):
    """One record in.

    Attributes:
        index: its number over all inputs together, from 0.
        raw: the row as JSON: of a JSON Lines file the line itself without surrounding blanks, of anything else its
            compact encoding (see ``encoding.encode_record``).
        origin: the input that it came from.
        place: its number there, from 1, of lines or of rows.
        within: which part of it, where it is one of several rows that were made of one.
        problem: why it cannot be a row of a run, though it was read; ``None`` where it can.
        hint: what to do about that.
        id_column: the column that names it in messages.
        binary: columns that hold bytes, which are base64 in ``raw``, where the input tells.
    """

    index: int
    raw: bytes
    origin: Input
    place: int
    _record: dict[str, Any] | None = None
    within: str = ""
    problem: str | None = None
    hint: str | None = None
    id_column: str | None = None
    binary: Sequence[str] = ()

    @classmethod
    def of(cls, record: Mapping[Any, Any], origin: Input, index: int, place: int) -> Row:
        """The row of a mapping. One that holds what JSON cannot carry has a ``problem``, and null in its place."""
        try:
            raw, problem = encode_record(record), None
        except BaseException as error:  # a value's own tolist or model_dump may raise anything
            let_interrupt_pass(error)
            raw, problem = encode_what_can_be(record)
            problem = problem or str(error)
        binary = () if _BYTES.isdisjoint(map(type, record.values())) else _columns_of_bytes(record)
        return cls(index, raw, origin, place, problem=problem, binary=binary)

    @property
    def record(self) -> dict[str, Any]:
        """The row as a dict of JSON values, decoded at first use. Treat it as read-only: it is shared.

        Raises:
            InputError: a value in it is beyond what can be read.
        """
        if self._record is None:
            try:
                self._record = _decode(self.raw)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise InputError(
                    f"{self.where}: {explain_json(self.raw).message}", index=self.index
                ) from error
        return self._record

    @property
    def where(self) -> str:
        """Where the row came from, and what it calls itself, for messages: "prompts.jsonl line 17 (id 'a7')"."""
        place = f"{self.origin.where(self.place)}{self.within}"
        name = name_of(self.raw, self.id_column)
        return place if name is None else f"{place} ({name})"


_BYTES = frozenset((bytes, bytearray, memoryview))


def _columns_of_bytes(record: Mapping[Any, Any]) -> Sequence[str]:
    return [str(name) for name, value in record.items() if type(value) in _BYTES]


def name_of(raw: bytes, id_column: str | None) -> str | None:
    """What a row calls itself, "id 'a7'", by its JSON and the column that says it; ``None`` where nothing does."""
    if id_column is None:
        return None
    try:
        value = _decode(raw).get(id_column)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return None if value is None else f"{id_column} {value!r}"


_decode = msgspec.json.Decoder(dict[str, Any]).decode
