"""Rows that are already in this process: iterables of mappings, pandas and polars frames, Hugging Face
datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, cast

from mistill.datasets.encoding import encode_row
from mistill.datasets.sources.arrow_table import ArrowData, check_columns_once, rows_of_batch
from mistill.datasets.sources.row import Part, Row
from mistill.errors import InputError

_HUGGING_FACE_BATCH = 1000

_ACCEPTED = (
    "give a path, several paths, an iterable of dicts, an Arrow table, a pandas or polars frame, "
    "or a Hugging Face dataset"
)


def part_of(data: Any) -> Part:
    """The part that reads ``data``. Libraries are told by the name of the type's module, and not imported
    for it."""
    library = type(data).__module__.partition(".")[0]
    kind = f"{library}.{type(data).__name__}"
    if kind == "pandas.DataFrame":
        return PandasFrame(data)
    if kind == "polars.DataFrame":
        return PolarsFrame(data)
    if kind == "polars.LazyFrame":
        raise InputError("a polars LazyFrame has no rows yet", hint="pass frame.collect()")
    if kind == "datasets.Dataset":
        return HuggingFaceDataset(data)
    if kind in ("datasets.DatasetDict", "datasets.IterableDatasetDict"):
        splits = ", ".join(repr(split) for split in data)
        raise InputError("a Hugging Face DatasetDict is several datasets", hint=f"pick one of {splits}")
    if hasattr(data, "__arrow_c_stream__") or kind == "pyarrow.RecordBatch":
        return ArrowData(data)
    if isinstance(data, Iterable) and not isinstance(data, (Mapping, bytes, bytearray)):
        return Items(cast("Iterable[object]", data))
    raise InputError(f"rows cannot be read from a {kind.removeprefix('builtins.')}", hint=_ACCEPTED)


class InMemory:
    """Base of what is given as an object. ``where`` counts rows from 1."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.name = f"the {type(data).__name__}"
        self.repeatable = True

    def total(self) -> int | None:
        return len(self._data) if isinstance(self._data, Sized) else None

    def where(self, place: int) -> str:
        return f"row {place} of {self.name}"


class Items(InMemory):
    """An iterable of mappings. An iterator, such as a generator, can be read once."""

    def __init__(self, data: Iterable[object]) -> None:
        super().__init__(data)
        self.repeatable = not isinstance(data, Iterator)
        self._started = False

    def columns(self) -> tuple[str, ...] | None:
        # A Hugging Face IterableDataset may know them; of anything else the first row tells.
        names: Sequence[str] | None = getattr(self._data, "column_names", None)
        return None if names is None else tuple(names)

    def rows(self, first_index: int) -> Iterator[Row]:
        if self._started and not self.repeatable:
            raise InputError(f"{self.name} can be read only once", hint="pass a list, or a path")
        self._started = True
        for place, item in enumerate(self._data, 1):
            index = first_index + place - 1
            if not isinstance(item, Mapping):
                hint = 'for example {"prompt": text}' if isinstance(item, str) else None
                raise InputError(
                    f"{self.where(place)}: a {type(item).__name__}, where a row must be a mapping",
                    hint=hint,
                    index=index,
                )
            record = cast("Mapping[Any, Any]", item)
            yield Row(index, encode_row(record, self.where(place), index), self, place)


class PandasFrame(InMemory):
    """A pandas frame without its index. Missing values (NaN, NaT, NA) are null."""

    def __init__(self, frame: Any) -> None:
        super().__init__(frame)
        if frame.columns.nlevels > 1:
            raise InputError(
                "the DataFrame's columns have several levels", hint="flatten them to plain names"
            )
        self._columns = check_columns_once([str(name) for name in frame.columns], self.name)

    def columns(self) -> tuple[str, ...]:
        return self._columns

    def rows(self, first_index: int) -> Iterator[Row]:
        for place, values in enumerate(self._data.itertuples(index=False, name=None), 1):
            index = first_index + place - 1
            record = dict(zip(self._columns, values, strict=True))
            yield Row(index, encode_row(record, self.where(place), index), self, place)


class PolarsFrame(InMemory):
    """A polars frame."""

    def columns(self) -> tuple[str, ...]:
        return tuple(self._data.columns)

    def rows(self, first_index: int) -> Iterator[Row]:
        for place, record in enumerate(self._data.iter_rows(named=True), 1):
            index = first_index + place - 1
            yield Row(index, encode_row(record, self.where(place), index), self, place)


class HuggingFaceDataset(InMemory):
    """A ``datasets.Dataset``, read as the Arrow data that it is: images and audio are their bytes, not
    decoded."""

    def columns(self) -> tuple[str, ...]:
        return tuple(self._data.column_names)

    def rows(self, first_index: int) -> Iterator[Row]:
        place = 0
        for table in self._data.with_format("arrow").iter(batch_size=_HUGGING_FACE_BATCH):
            yield from rows_of_batch(table, self, first_index + place, place)
            place += table.num_rows
