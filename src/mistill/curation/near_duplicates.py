"""Near duplicates among vectors: rows whose embeddings point almost the same way. Exact, in blocks.

Rows are taken in the order of the input. One is dropped if its vector has a cosine similarity of at least the threshold
with that of a row that was kept before it; the row that stands for it is the nearest of those, the first of equally
near ones. In this way one of each cluster is kept, its first, and whatever is dropped is as near to a row that was kept
as the threshold says; a chain of small steps does not drop what is far away.

Numbers are taken as float32, after a power of two was taken out of each vector, so that none is too large or too small.
Which rows come into question is found in float32; whether one is near enough, and which is nearest, in float64.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from mistill.addresses import keep_secrets
from mistill.datasets.optional_library import OptionalLibrary
from mistill.datasets.sources import Row, Source, open_source
from mistill.datasets.writers import CsvDialect, Writer, check_no_loss, check_target, open_writer
from mistill.errors import InputError, did_you_mean
from mistill.kinds.kept_settings import refuse_unwritten
from mistill.ledger.targets import check_targets
from mistill.records.columns import add_columns
from mistill.wording import Setting, words

NUMPY: Final = OptionalLibrary("numpy", extra="dedupe")

_BLOCK_ROWS = 1024
"""Rows that are compared at once with as many: 1024 × 1024 similarities are 4 MiB."""

_EXACT_PAIRS = 1024
"""Pairs whose similarity is worked out in float64 at once."""

_ROUNDING = 1e-12
"""By what part of it a similarity may be below the threshold: vectors that are equal but for their lengths, whose
numbers are rounded, are alike at a threshold of 1."""

_UNIT_ROUNDOFF = 2.0**-24
"""Of float32: the relative error of one operation. Source: IEEE 754."""

_decode_record = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_MARKS: Final = ("duplicate_of", "similarity")

_decode_text = msgspec.json.Decoder(str).decode
_decode_vector = msgspec.json.Decoder(list[float] | None).decode


class NearDuplicate(Struct, frozen=True):
    """A row like one that is kept. Rows count from 0.

    Attributes:
        kept: the row that stands for it. ``similarity``: of their vectors, the cosine.
    """

    row: int
    kept: int
    similarity: float


class Deduped(Struct, frozen=True):
    """What became of a file.

    Attributes:
        rows: those of the input. ``without_vector``: some of them have none; they are kept.
        dropped: rows whose like is kept.
    """

    rows: int
    without_vector: int
    dropped: list[NearDuplicate]

    @property
    def kept(self) -> int:
        return self.rows - len(self.dropped)

    def __repr__(self) -> str:
        return f"Deduped({self.rows:,} rows: {self.kept:,} kept, {len(self.dropped):,} like another)"


def dedupe(
    source: Any,
    to: str | Path | None = None,
    *,
    threshold: float = 0.95,
    column: str = "embedding",
    mark: bool = False,
    overwrite: bool = False,
    input_format: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    output_format: str | None = None,
    csv_dialect: CsvDialect = "unix",
) -> Deduped:
    """Keeps one of each cluster of near duplicates: the first in the order of the input.

    100,000 vectors of 1,024 numbers are 5 × 10⁹ pairs, and some minutes. Vectors of kept rows lie in a temporary file
    meanwhile, 4 bytes a number: of them, memory holds 1,024 at a time.

    Args:
        source: as for `Run`; read twice where ``to`` is given.
        to: where the rows go that are kept; ``None``: nowhere.
        threshold: vectors are alike from this cosine similarity on, above 0 and at most 1.
        column: has the vectors, or their JSON text, all of one length. Null is no vector: such a row is kept.
        mark: ``to`` has all rows instead, with two columns more: ``duplicate_of``, the row (from 0) that stands for it,
            and ``similarity``; null in those that are kept. They take the place of both where a row has them already.
        overwrite: replace ``to`` if it is there. An input, a ledger and what belongs to one are never replaced.
        input_format, output_format: where the suffix does not tell.
        delimiter, encoding: of the input, ``csv_dialect``: of the output, as for `Run`.

    Raises:
        InputError: a vector is none, or of another length, or its row is no row of a run; it names the row. Something
            given is wrong, or ``to`` may not be replaced.
    """
    _check_threshold(threshold)
    refuse_unwritten(source)
    if to is None:
        _refuse_without_output(mark, overwrite, output_format, csv_dialect)
    rows = open_source(source, format=input_format, delimiter=delimiter, encoding=encoding)
    if to is not None:
        to = keep_secrets(str(to))
        check_target(to, output_format, csv_dialect)
        check_targets(to, None, rows.paths)
        if not overwrite:
            check_no_loss(to, "overwrite")
        if not rows.repeatable:
            raise InputError(
                f"{rows.name} can be read only once, and is needed twice", hint="save it as a file"
            )
    numpy = NUMPY.load("finding near duplicates")
    total = without_vector = 0
    places: list[int] = []

    def vectors() -> Iterator[Any]:
        nonlocal total, without_vector
        for row in rows:
            total += 1
            if mark:
                _check_marks(row)
            vector = _vector_of(row, column)
            if vector is None:
                without_vector += 1
                continue
            places.append(row.index)
            yield vector

    dropped = [
        NearDuplicate(places[found.row], places[found.kept], found.similarity)
        for found in _find(numpy, _blocks(numpy, vectors(), places, column), threshold)
    ]
    result = Deduped(total, without_vector, dropped)
    if to is not None:
        writer = open_writer(
            to,
            format=output_format,
            types={name: kind for name, kind in rows.types().items() if not mark or name not in _MARKS},
            features=rows.features(),
            csv_dialect=csv_dialect,
            made_of=rows.paths,
        )
        _write(rows, writer, result, mark=mark)
    return result


def _check_threshold(threshold: object) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 < float(threshold) <= 1:
        raise InputError(f"threshold is {threshold!r}, and must be a number above 0 and at most 1")


def _refuse_without_output(
    mark: bool, overwrite: bool, output_format: str | None, csv_dialect: CsvDialect
) -> None:
    given = {
        "mark": mark or None,
        "overwrite": overwrite or None,
        "output_format": output_format,
        "csv_dialect": csv_dialect if csv_dialect != "unix" else None,
    }
    for name, value in given.items():
        if value is not None:
            raise InputError(
                words(Setting(name, value), " is about the file that is written, and none is"),
                hint=words("name it: ", Setting("to", "unique.jsonl"), "; or leave it out"),
            )


def _vector_of(row: Row, column: str) -> list[float] | None:
    if row.problem is not None:
        raise InputError(f"{row.where}: {row.problem}", hint=row.hint, index=row.index)
    fields = _decode_record(row.raw)
    if column not in fields:
        raise InputError(
            f"{row.where}: it has no column {column!r}",
            hint=_hint_of_vectors(column, fields),
            index=row.index,
        )
    try:
        vector = _vector_in(fields[column])
    except msgspec.MsgspecError as error:
        raise InputError(f"{row.where}: {column!r} is no vector: {error}", index=row.index) from error
    if vector == []:
        raise InputError(f"{row.where}: {column!r} is an empty vector", index=row.index)
    return vector


def _vector_in(value: msgspec.Raw) -> list[float] | None:
    """A vector or the JSON text of one, as CSV files and sheets hold it, where a blank one stands for null."""
    raw = bytes(value)
    if not raw.startswith(b'"'):
        return _decode_vector(raw)
    text = _decode_text(raw)
    return _decode_vector(text) if text.strip() else None


def _check_marks(row: Row) -> None:
    """Refuses a column of the row's own that has the name of a mark; both are those of an earlier time."""
    if row.problem is None:
        own = [name for name in _MARKS if name in _decode_record(row.raw)]
        if len(own) == 1:
            raise InputError(
                words(
                    f"{row.where}: it has a column {own[0]!r}, and ",
                    Setting("mark", True),
                    " adds one of that name",
                ),
                hint="rename the row's own column",
                index=row.index,
            )


def _hint_of_vectors(column: str, fields: Mapping[str, msgspec.Raw]) -> str:
    """Which columns have vectors, where one was named that is not there."""
    found = [name for name, value in fields.items() if _is_vector(value)]
    if not found:
        return did_you_mean(column, fields)
    return words("vectors stand in ", Setting("column", found[0]), *(f", {name!r}" for name in found[1:]))


def _is_vector(value: msgspec.Raw) -> bool:
    try:
        return bool(_vector_in(value))
    except msgspec.MsgspecError:
        return False


class _Vectors(Struct, frozen=True):
    """Some vectors, scaled by powers of two.

    Attributes:
        numbers: float32, one vector a line. ``squares``: the squares of their lengths, float64; 0 of a vector of zeros.
        units: of length 1, float32; of a vector of zeros still zeros.
    """

    numbers: Any
    squares: Any
    units: Any

    @classmethod
    def of(cls, numpy: Any, numbers: Any) -> _Vectors:
        squares = (numbers.astype(numpy.float64) ** 2).sum(axis=1)
        lengths = numpy.sqrt(numpy.where(squares > 0, squares, 1))
        return cls(numbers, squares, (numbers / lengths[:, None]).astype(numpy.float32))


def _blocks(numpy: Any, vectors: Iterator[list[float]], places: list[int], column: str) -> Iterator[_Vectors]:
    """``places``: of each vector that was taken, the row."""
    length: int | None = None
    row = 0
    while block := list(islice(vectors, _BLOCK_ROWS)):
        length = length or len(block[0])
        for offset, vector in enumerate(block):
            if len(vector) != length:
                raise InputError(
                    f"row {places[row + offset]}: {column!r} has {len(vector)} numbers, where others have {length}",
                    index=places[row + offset],
                )
        row += len(block)
        numbers = numpy.array(block, dtype=numpy.float64)
        _, exponents = numpy.frexp(numpy.abs(numbers).max(axis=1))
        scaled = numpy.ldexp(numbers, -exponents[:, None])
        yield _Vectors.of(numpy, scaled.astype(numpy.float32))


def _find(numpy: Any, blocks: Iterator[_Vectors], threshold: float) -> Iterator[NearDuplicate]:
    with tempfile.TemporaryFile() as file:
        kept_rows: list[int] = []
        row = 0
        for block in blocks:
            nearest = _Nearest(numpy, block, threshold)
            for start, others in _kept(numpy, file, len(kept_rows), block.numbers.shape[1]):
                nearest.compare_all(others, kept_rows[start : start + len(others.squares)])
            fresh = nearest.keep(row)
            for offset, of in enumerate(nearest.kept):
                if of is not None:
                    yield NearDuplicate(row + offset, of, min(1.0, float(nearest.similarity[offset])))
            file.seek(0, 2)
            file.write(block.numbers[fresh].tobytes())
            kept_rows += [row + offset for offset in fresh]
            row += len(block.squares)


def _kept(numpy: Any, file: Any, kept: int, length: int) -> Iterator[tuple[int, _Vectors]]:
    """The vectors that were kept of earlier blocks, a block at a time, with the number of each one's first."""
    file.seek(0)
    for start in range(0, kept, _BLOCK_ROWS):
        count = min(_BLOCK_ROWS, kept - start)
        numbers = numpy.frombuffer(file.read(count * length * 4), dtype=numpy.float32)
        yield start, _Vectors.of(numpy, numbers.reshape(count, length))


class _Nearest:
    """For each vector of a block, the nearest of those that it was compared with, if one is near enough.

    Attributes:
        kept: which row that is. ``similarity``: of both; where there is none, what another must have more than.
    """

    def __init__(self, numpy: Any, block: _Vectors, threshold: float) -> None:
        self._numpy = numpy
        self._block = block
        count, length = block.numbers.shape
        least = threshold * (1 - _ROUNDING)
        self.kept: list[int | None] = [None] * count
        self.similarity = numpy.full(count, numpy.nextafter(least, 0), dtype=numpy.float64)
        # Twice what a dot product of unit vectors may be off by, at the most, however it is added up.
        self._slack = 2 * (length + 8) * _UNIT_ROUNDOFF

    def compare_all(self, others: _Vectors, kept: list[int]) -> None:
        """``kept``: which rows the others are, in the order of the input."""
        numpy = self._numpy
        similar = self._block.units @ others.units.T
        least = numpy.maximum(self.similarity, similar.max(axis=1)) - self._slack
        offsets, columns = numpy.nonzero(similar >= least.astype(numpy.float32)[:, None])
        self._take(offsets, columns, others, kept)

    def keep(self, first_row: int) -> list[int]:
        """Compares the vectors with those that are kept before them in the block itself, and says which are kept.

        Args:
            first_row: which row the block's first vector is.
        """
        numpy, block = self._numpy, self._block
        similar = block.units @ block.units.T
        rows = list(range(first_row, first_row + len(self.kept)))
        has_near = (numpy.tril(similar, -1) >= float(self.similarity.min()) - self._slack).any(axis=1)
        fresh: list[int] = []
        for offset, may_be_near in enumerate(has_near.tolist()):
            if may_be_near and fresh:
                before = numpy.array(fresh)
                near = similar[offset, before]
                least = max(float(self.similarity[offset]), float(near.max())) - self._slack
                columns = before[near >= least]
                self._take(numpy.full(len(columns), offset), columns, block, rows)
            if self.kept[offset] is None:
                fresh.append(offset)
        return fresh

    def _take(self, offsets: Any, columns: Any, others: _Vectors, kept: list[int]) -> None:
        """Works out, of some pairs, which are nearer than what was found so far."""
        numpy, block = self._numpy, self._block
        for start in range(0, len(offsets), _EXACT_PAIRS):
            ours, theirs = offsets[start : start + _EXACT_PAIRS], columns[start : start + _EXACT_PAIRS]
            one = block.numbers[ours].astype(numpy.float64)
            # As a sum of each line: it is the same for a pair, whatever others there are.
            products = (one * others.numbers[theirs]).sum(axis=1)
            squares = block.squares[ours] * others.squares[theirs]
            found = numpy.where(squares > 0, products / numpy.sqrt(numpy.where(squares > 0, squares, 1)), -2)
            for offset, column, similarity in zip(
                ours.tolist(), theirs.tolist(), found.tolist(), strict=True
            ):
                if similarity > self.similarity[offset]:
                    self.similarity[offset] = similarity
                    self.kept[offset] = kept[column]


def _write(rows: Source, opened: AbstractContextManager[Writer], result: Deduped, *, mark: bool) -> None:
    dropped = {found.row: found for found in result.dropped}
    with opened as writer:
        for row in rows:
            found = dropped.get(row.index)
            if not mark:
                if found is None:
                    writer.write_raw(row.raw)
                continue
            marks = {"duplicate_of": found and found.kept, "similarity": found and round(found.similarity, 6)}
            fields = _decode_record(row.raw)
            own = {name: value for name, value in fields.items() if name not in _MARKS}
            raw = row.raw if len(own) == len(fields) else msgspec.json.encode(own)
            writer.write_raw(add_columns(raw, marks))
