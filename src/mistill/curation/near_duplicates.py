"""Near duplicates among vectors: rows whose embeddings point almost the same way. Exact, in blocks.

A row is a near duplicate of the first kept row whose vector has a cosine similarity of at least the threshold with its
own. In this way one of each cluster is kept, the first in the order of the input, and whatever is dropped is as near to
a row that was kept as the threshold says; a chain of small steps does not drop what is far away.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from mistill.datasets.optional_library import OptionalLibrary
from mistill.datasets.sources import Row, Source, open_source
from mistill.datasets.writers import CsvDialect, Writer, check_target, open_writer
from mistill.errors import InputError, did_you_mean
from mistill.ledger.files import is_same
from mistill.ledger.targets import check_no_loss
from mistill.records.columns import add_columns
from mistill.runs.kept_settings import refuse_unwritten

NUMPY: Final = OptionalLibrary("numpy", extra="dedupe")

_BLOCK_ROWS = 1024
"""Rows that are compared at once with as many: 1024 × 1024 similarities are 4 MiB."""

_decode_record = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
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

    100,000 vectors of 1,024 numbers are 5 × 10⁹ pairs, and some minutes. Vectors of kept rows lie
    in a temporary file meanwhile, 4 bytes a number, so memory does not grow with them.

    Args:
        source: as for `Run`; read twice where ``to`` is given.
        to: where the rows go that are kept; ``None``: nowhere.
        threshold: vectors are alike from this cosine similarity on, above 0 and at most 1.
        column: has the vectors, all of one length. Null is no vector: such a row is kept.
        mark: ``to`` has all rows instead, with two columns more: ``duplicate_of``, the row (from 0) that stands for it,
            and ``similarity``; null in those that are kept.
        overwrite: replace ``to`` if it is there.
        input_format, output_format: where the suffix does not tell.
        delimiter, encoding: of the input, ``csv_dialect``: of the output, as for `Run`.

    Raises:
        InputError: a vector is none, or of another length; it names the row.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold is {threshold}, and must be above 0 and at most 1")
    refuse_unwritten(source)
    rows = open_source(source, format=input_format, delimiter=delimiter, encoding=encoding)
    if to is not None:
        check_target(to, output_format, csv_dialect)
        if any(is_same(Path(to), Path(path)) for path in rows.paths):
            raise InputError(
                f"{to} is the input, and the output would replace it", hint="give it another name"
            )
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
            vector = _vector_of(row, column)
            if vector is None:
                without_vector += 1
                continue
            places.append(row.index)
            yield numpy.asarray(vector, dtype=numpy.float64)

    dropped = [
        NearDuplicate(places[found.row], places[found.kept], found.similarity)
        for found in _find(numpy, vectors(), threshold, places, column)
    ]
    result = Deduped(total, without_vector, dropped)
    if to is not None:
        writer = open_writer(
            to, format=output_format, types=rows.types(), csv_dialect=csv_dialect, made_of=rows.paths
        )
        _write(rows, writer, result, mark=mark)
    return result


def _vector_of(row: Row, column: str) -> list[float] | None:
    fields = _decode_record(row.raw)
    if column not in fields:
        raise InputError(
            f"{row.where}: it has no column {column!r}",
            hint=did_you_mean(column, fields),
            index=row.index,
        )
    try:
        vector = _decode_vector(fields[column])
    except msgspec.MsgspecError as error:
        raise InputError(f"{row.where}: {column!r} is no vector: {error}", index=row.index) from error
    if vector == []:
        raise InputError(f"{row.where}: {column!r} is an empty vector", index=row.index)
    return vector


def _find(
    numpy: Any, vectors: Iterator[Any], threshold: float, places: list[int], column: str
) -> Iterator[NearDuplicate]:
    with tempfile.TemporaryFile() as file:
        kept_rows: list[int] = []
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
            unit = _unit_vectors(numpy, block)
            best, like = _nearest_kept(numpy, unit, file, len(kept_rows), length)
            fresh: list[int] = []
            inside = unit @ unit.T
            for offset in range(len(block)):
                near = float(best[offset])
                of: int = kept_rows[int(like[offset])] if near >= threshold else -1
                if near < threshold and fresh:
                    similar = inside[offset, fresh]
                    place = int(similar.argmax())
                    near, of = float(similar[place]), row + fresh[place]
                if near >= threshold:
                    yield NearDuplicate(row + offset, of, min(1.0, near))
                else:
                    fresh.append(offset)
            file.seek(0, 2)
            file.write(unit[fresh].tobytes())
            kept_rows += [row + offset for offset in fresh]
            row += len(block)


def _unit_vectors(numpy: Any, block: list[Any]) -> Any:
    """Of length 1, as float32; a vector of zeros stays one, and is like no other."""
    vectors = numpy.stack(block)
    lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return (vectors / lengths).astype(numpy.float32)


def _nearest_kept(numpy: Any, unit: Any, file: Any, kept: int, length: int) -> tuple[Any, Any]:
    """For each vector of a block, its similarity to the nearest of those that are kept, and which that is."""
    best = numpy.full(len(unit), -2.0, dtype=numpy.float32)
    like = numpy.zeros(len(unit), dtype=numpy.int64)
    file.seek(0)
    for start in range(0, kept, _BLOCK_ROWS):
        count = min(_BLOCK_ROWS, kept - start)
        others = numpy.frombuffer(file.read(count * length * 4), dtype=numpy.float32).reshape(count, length)
        similar = unit @ others.T
        places = similar.argmax(axis=1)
        nearest = similar[numpy.arange(len(unit)), places]
        is_nearer = nearest > best
        best[is_nearer] = nearest[is_nearer]
        like[is_nearer] = places[is_nearer] + start
    return best, like


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
            writer.write_raw(add_columns(row.raw, marks))
