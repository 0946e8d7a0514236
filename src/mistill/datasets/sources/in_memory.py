"""Rows that are in this process: iterables of mappings, Arrow data, pandas and polars frames, Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from mistill.characters import whole_characters
from mistill.datasets.column_names import check_columns_once
from mistill.datasets.hugging_face import features_of
from mistill.datasets.optional_library import PYARROW
from mistill.datasets.sources.arrow_rows import column_values, rows_of_batch
from mistill.datasets.sources.row import Input, Row, UntypedInput
from mistill.errors import InputError

_BATCH_ROWS = 1000

_ACCEPTED = (
    "give a path, several paths, an iterable of dicts, an Arrow table, a pandas or polars frame, "
    "or a Hugging Face dataset"
)


_ONE_COLUMN = {
    "pandas.Series": 'make a frame of it: series.to_frame("text")',
    "polars.Series": 'make a frame of it: series.to_frame("text")',
    "pyarrow.ChunkedArray": 'make a table of it: pyarrow.table({"text": column})',
    "pyarrow.StringArray": 'make a table of it: pyarrow.table({"text": column})',
    "datasets.Column": "pass the dataset itself",
}
"""What is no table, by its kind, and what to do."""


def input_of(data: Any) -> Input:
    """The input that reads ``data``. Libraries are known by the name of the type's module, and not imported for it.

    Raises:
        InputError: no rows can be read from it.
    """
    kind = _kind_of(data)
    if kind == "pandas.DataFrame":
        return PandasFrame(data)
    if kind == "polars.DataFrame":
        return PolarsFrame(data)
    if kind == "polars.LazyFrame":
        raise InputError("a polars LazyFrame has no rows yet", hint="pass frame.collect()")
    if kind == "datasets.Dataset":
        return TransformedDataset(data) if _has_transform(data) else HuggingFaceDataset(data)
    if kind in ("datasets.DatasetDict", "datasets.IterableDatasetDict"):
        splits = ", ".join(repr(split) for split in data)
        raise InputError("a Hugging Face DatasetDict is several datasets", hint=f"pick one of {splits}")
    if kind in _ONE_COLUMN:
        raise InputError(f"rows cannot be read from a {kind}, which is one column", hint=_ONE_COLUMN[kind])
    if hasattr(data, "__arrow_c_stream__") or kind == "pyarrow.RecordBatch":
        return ArrowData(data)
    if isinstance(data, Iterable) and not isinstance(data, (Mapping, bytes, bytearray)):
        return Items(cast("Iterable[object]", data))
    raise InputError(f"rows cannot be read from a {kind.removeprefix('builtins.')}", hint=_ACCEPTED)


def is_one_column(data: Any) -> bool:
    """Whether it is a column of a library's table, and no table, however it may look."""
    return _kind_of(data) in _ONE_COLUMN


def _kind_of(data: Any) -> str:
    return f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"


def _has_transform(dataset: Any) -> bool:
    """Whether its rows are made by a function as they are read (``set_transform``, ``with_transform``)."""
    return getattr(dataset, "format", {}).get("type") == "custom"


class InMemory(UntypedInput):
    """Base of what is given as an object."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.name = f"the {type(data).__name__}"
        self.repeatable = True

    @property
    def folders(self) -> Sequence[Path]:
        return ()

    def total(self) -> int | None:
        return len(self._data) if isinstance(self._data, Sized) else None

    def where(self, place: int) -> str:
        return f"row {place - 1} of {self.name}"


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
            yield Row.of(record, self, index, place)


class TransformedDataset(Items):
    """A ``datasets.Dataset`` whose rows are made by a function: any columns may come of it."""

    def columns(self) -> None:
        return None


class PandasFrame(InMemory):
    """A pandas frame without its index. Missing values (NaN, NaT, NA) are null."""

    def __init__(self, frame: Any) -> None:
        super().__init__(frame)
        if frame.columns.nlevels > 1:
            raise InputError(
                "the DataFrame's columns have several levels", hint="flatten them to plain names"
            )
        names = [whole_characters(str(name)) for name in frame.columns]
        self._columns = check_columns_once(names, self.name)

    def columns(self) -> tuple[str, ...]:
        return self._columns

    def types(self) -> Mapping[str, Any]:
        """By their dtypes; a column of objects by the first of them."""
        if not PYARROW.is_there:
            return {}
        pyarrow = PYARROW.load(f"reading {self.name}")
        found: dict[str, Any] = {}
        for number, name in enumerate(self._columns):
            column = self._data.iloc[:, number]
            some = column.dropna().iloc[:_BATCH_ROWS] if column.dtype == object else column.iloc[:0]
            with suppress(pyarrow.ArrowException, TypeError, ValueError):
                found[name] = pyarrow.array(some, from_pandas=True).type
        return found

    def rows(self, first_index: int) -> Iterator[Row]:
        for start in range(0, len(self._data), _BATCH_ROWS):
            part = self._data.iloc[start : start + _BATCH_ROWS]
            columns = [
                self._values(part.iloc[:, number], number, first_index, start)
                for number in range(part.shape[1])
            ]
            for place, values in enumerate(zip(*columns, strict=True), start + 1):
                index = first_index + place - 1
                record = dict(zip(self._columns, values, strict=True))
                yield Row.of(record, self, index, place)

    def _values(self, column: Any, number: int, first_index: int, start: int) -> list[Any]:
        try:
            return list(column)
        except Exception:  # it has one of Arrow's types, and holds a date that Python has no type for
            array = PYARROW.load(f"reading {self.name}").array(column.array)
            return column_values(array, self._columns[number], self, first_index + start, start)


class PolarsFrame(InMemory):
    """A polars frame."""

    def columns(self) -> tuple[str, ...]:
        return tuple(self._data.columns)

    def types(self) -> Mapping[str, Any]:
        """Those that Arrow has; it has no integers of 128 bits."""
        if not PYARROW.is_there:
            return {}
        with suppress(Exception), _refusing_panic():
            return {field.name: field.type for field in self._data.head(0).to_arrow().schema}
        found: dict[str, Any] = {}
        for name in self._data.columns:  # some column has a type that Arrow has not
            with suppress(Exception), _refusing_panic():
                found[name] = self._data.select(name).head(0).to_arrow().schema.field(0).type
        return found

    def rows(self, first_index: int) -> Iterator[Row]:
        for start in range(0, len(self._data), _BATCH_ROWS):
            part = self._data.slice(start, _BATCH_ROWS)
            try:
                with _refusing_panic():
                    records = part.rows(named=True)
            except Exception:  # it holds a date that Python has no type for
                yield from rows_of_batch(self._arrow(part), self, first_index + start, start)
                continue
            for place, record in enumerate(records, start + 1):
                index = first_index + place - 1
                yield Row.of(record, self, index, place)

    def _arrow(self, part: Any) -> Any:
        PYARROW.load(f"reading {self.name}")
        try:
            with _refusing_panic():
                return part.to_arrow()
        except Exception as error:
            raise InputError(
                f"{self.name}: a column cannot be read: {error}",
                hint="cast it to a type that Arrow has, or to text",
            ) from error


@contextmanager
def _refusing_panic() -> Generator[None]:
    """Polars may even panic at a value, which is no Exception; it is one here."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise ValueError(str(error)) from error
        raise


class HuggingFaceDataset(InMemory):
    """A ``datasets.Dataset``, read as the Arrow data that it is: images and audio are their bytes, not decoded."""

    def columns(self) -> tuple[str, ...]:
        return tuple(self._data.column_names)

    def types(self) -> Mapping[str, Any]:
        features = getattr(self._data, "features", None)
        return {} if features is None else _types_of(features.arrow_schema)

    def features(self) -> Mapping[str, Any]:
        features = getattr(self._data, "features", None)
        return {} if features is None else features_of(features.arrow_schema)

    def rows(self, first_index: int) -> Iterator[Row]:
        place = 0
        for table in self._data.with_format("arrow").iter(batch_size=_BATCH_ROWS):
            yield from rows_of_batch(table, self, first_index + place, place)
            place += table.num_rows


class ArrowData(InMemory):
    """Anything that exports an Arrow stream (PyCapsule interface): an Arrow table, a reader, a DuckDB relation."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        pyarrow = PYARROW.load("reading Arrow data")
        self.repeatable = not isinstance(data, pyarrow.RecordBatchReader)
        if isinstance(data, pyarrow.RecordBatch):
            self._data = pyarrow.Table.from_batches([data])
        names = getattr(getattr(data, "schema", None), "names", None)
        self._columns = None if names is None else check_columns_once(names, self.name)

    def columns(self) -> tuple[str, ...] | None:
        return self._columns

    def types(self) -> Mapping[str, Any]:
        schema = getattr(self._data, "schema", None)
        return _types_of(schema) if isinstance(schema, PYARROW.load(f"reading {self.name}").Schema) else {}

    def features(self) -> Mapping[str, Any]:
        schema = getattr(self._data, "schema", None)
        return features_of(schema) if isinstance(schema, PYARROW.load(f"reading {self.name}").Schema) else {}

    def total(self) -> int | None:
        total = getattr(self._data, "num_rows", None)
        return total if isinstance(total, int) else None

    def rows(self, first_index: int) -> Iterator[Row]:
        pyarrow = PYARROW.load("reading Arrow data")
        try:
            batches = pyarrow.RecordBatchReader.from_stream(self._data)
        except Exception as error:  # of any type: it is the object's own method that is called
            raise InputError(f"rows cannot be read from {self.name}: {error}", hint=_ACCEPTED) from error
        place = 0
        while (batch := self._next(batches, first_index + place)) is not None:
            yield from rows_of_batch(batch, self, first_index + place, place)
            place += batch.num_rows

    def _next(self, batches: Any, index: int) -> Any:
        try:
            return next(batches, None)
        except Exception as error:  # of whoever makes the stream
            raise InputError(f"rows cannot be read from {self.name}: {error}", index=index) from error


def _types_of(schema: Any) -> dict[str, Any]:
    return dict(zip(schema.names, schema.types, strict=True))
