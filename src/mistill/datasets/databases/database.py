"""What is the same of every database, and what each does in its own way."""

from __future__ import annotations

import logging
import pkgutil
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mistill.datasets.databases.table_address import TableAddress
from mistill.datasets.encoding import encode_record
from mistill.datasets.far_places import told
from mistill.datasets.optional_library import PYARROW
from mistill.errors import InputError, MistillError
from mistill.wording import Setting, words

if TYPE_CHECKING:
    from pathlib import Path

    from mistill.datasets.sources.row import Input

_log = logging.getLogger("mistill")

TAKEN: Final = "let that process come to its end, or have it close the file; then try again"

_BY_KIND: Final = {
    "sqlite": "mistill.datasets.databases.sqlite:SQLite",
    "postgresql": "mistill.datasets.databases.postgresql:PostgreSQL",
    "duckdb": "mistill.datasets.databases.duckdb:DuckDB",
}


class Database(ABC):
    """A table of a database, or what a query gives.

    Attributes:
        errors: what its library raises.
        folds_case: two names are one if they differ in case alone.
        text_or_comment: in its SQL, what may have any other word of it inside.
        log_ending: of the file that it keeps beside another one while that is written.
    """

    errors: tuple[type[Exception], ...]
    folds_case: ClassVar[bool] = True
    text_or_comment: ClassVar[re.Pattern[str]] = re.compile(
        r"""\b[eE]'(?:\\.|''|[^'\\])*' | '(?:''|[^'])*' | "(?:""|[^"])*" | (?<![\w$])\$(\w*)\$.*?\$\1\$
            | (?P<comment>--[^\n]*|/\*.*?\*/)""",
        re.DOTALL | re.VERBOSE,
    )
    log_ending: ClassVar[str] = "-journal"

    def __init__(self, address: TableAddress) -> None:
        self.address = address
        self.name = address.name

    @abstractmethod
    def connected(self, *, to_write: bool) -> AbstractContextManager[Any]:
        """A connection; one that is not ``to_write`` cannot change anything.

        Raises:
            InputError: what it needs is not installed, or the database is not there.
        """

    # --- reading ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def described(self, connection: Any) -> tuple[list[str], Mapping[str, Any]]:
        """The columns, and pyarrow's types of those that have one."""

    @abstractmethod
    def records(self, origin: Input, first_index: int) -> Iterator[Mapping[str, Any]]:
        """The rows, some at a time, in the order of a key where there is one.

        Args:
            origin, first_index: for messages, as for `Input.rows`.
        """

    def unordered(self, connection: Any) -> str | None:  # noqa: ARG002  others have to look
        """Why the rows may come in another order at another time; ``None`` where they come in one order."""
        query = self.address.query
        return None if query is None or self._is_ordered(query) else "the query has no ORDER BY"

    def count(self, connection: Any) -> int:
        """How many rows."""
        (found,) = connection.execute(f"SELECT count(*) FROM {self.source('counted')}").fetchone()
        return found

    def source(self, name: str) -> str:
        """What stands behind FROM; ``name``: of a query."""
        query = self.address.query
        return self.table if query is None else f"({self._without_end(query)}) AS {quoted(name)}"

    def _without_end(self, query: str) -> str:
        """A query that may stand in another one: no comment takes what follows with it, and no ``;`` ends it."""
        told = self.text_or_comment.sub(lambda found: " " if found["comment"] else found[0], query)
        return told.rstrip("; \t\r\n")

    def _is_ordered(self, query: str) -> bool:
        """Whether the rows themselves are ordered, and not those of a window or of another query within it."""
        rest, within = self.text_or_comment.sub(" ", query), 1
        while within:
            rest, within = re.subn(r"\([^()]*\)", " ", rest)
        return re.search(r"\border\s+by\b", rest, re.IGNORECASE) is not None

    @property
    def table(self) -> str:
        """The table's name, quoted."""
        return ".".join(map(quoted, self.address.table))

    # --- writing ----------------------------------------------------------------------------------------------------

    def schema(self, connection: Any) -> tuple[str, ...]:  # noqa: ARG002  others have to look
        """The names of what the table is in, or would be made in, from the outermost."""
        return self.address.table[:-1]

    @abstractmethod
    def name_there(self, connection: Any) -> str | None:
        """The table's name as the database writes it; ``None``: there is no such table."""

    @abstractmethod
    def check_writable(self, connection: Any) -> None:
        """
        Raises:
            InputError: the table cannot be made, or take the place of the one that has its name.
        """

    def make_file(self, path: Path) -> None:
        """The file of a new database, without a table, which its owner alone may read."""
        path.touch(0o600)

    def begin(self, connection: Any) -> None:
        """What is written from now on is seen by others together, or not at all."""
        connection.execute("BEGIN")

    def is_empty(self, connection: Any) -> bool:  # noqa: ARG002  of a server there is no file
        """Whether there is nothing in its file, nor does anybody else write there."""
        return False

    @abstractmethod
    def is_json(self, kind: Any) -> bool:
        """Whether it has no type for pyarrow's, but JSON: objects, and lists of them."""

    @abstractmethod
    def column_types(self, connection: Any, kinds: Sequence[Any], as_json: Sequence[bool]) -> list[str]:
        """What columns of pyarrow's types are called in SQL. ``as_json``: of each, whether it is to hold JSON."""

    def create(self, connection: Any, table: str, columns: Sequence[str], types: Sequence[str]) -> None:
        """A table, whose name is quoted, with these columns.

        Raises:
            InputError: it cannot have them by these names.
        """
        told = ", ".join(f"{quoted(name)} {kind}" for name, kind in zip(columns, types, strict=True))
        try:
            connection.execute(f"CREATE TABLE {table} ({told})")
            found = [one[0] for one in connection.execute(f"SELECT * FROM {table} LIMIT 0").description]
        except self.errors as error:
            if not self.is_refusal(error):
                raise
            odd = [name for name in columns if not name or "\0" in name]  # of which it says little
            raise self._refused_columns(told_by(error) + "".join(f", at {name!r}" for name in odd)) from None
        for name, made in zip(columns, found, strict=True):
            if name != made:  # it cuts a name rather than refuse it
                raise self._refused_columns(f"{name!r} would be called {made!r}")

    def _refused_columns(self, why: str) -> InputError:
        return InputError(
            f"{self.name}: a table of this database cannot have these columns: {why}",
            hint=words(
                "leave columns out with ",
                Setting("drop"),
                ", or rename ours: ",
                Setting("columns", {"generation": "answer"}),
                "; another case makes no other name" if self.folds_case else "",
            ),
        )

    def check_columns(self, connection: Any, columns: Sequence[str]) -> None:
        """A table with these columns is made, and that is taken back.

        Raises:
            InputError: it cannot have them by these names.
        """
        with self.taken_back(connection):
            self.create(connection, self.unused_name(connection), columns, ["integer"] * len(columns))

    @abstractmethod
    def insert(self, connection: Any, table: str, batch: Any, as_json: Sequence[bool]) -> None:
        """Rows of Arrow data into a table, whose name is quoted.

        Args:
            as_json: of each column, whether it holds JSON.
        """

    def swap(self, connection: Any, made: str) -> None:
        """The table that was made takes its name, and the place of the one beside it that has it."""
        # Another case of it is no new name.
        name = quoted(self.name_there(connection) or self.address.table[-1])
        around, dot, _ = made.rpartition(".")
        connection.execute(f"DROP TABLE IF EXISTS {around}{dot}{name}")
        connection.execute(f"ALTER TABLE {made} RENAME TO {name}")

    def commit(self, connection: Any) -> None:
        """What was written is there for good, and all of it where the database is."""
        connection.execute("COMMIT")

    def rehearse_swap(self, connection: Any) -> None:
        """What comes last, done and taken back: whether an old table can go is known to the database alone."""
        with self.taken_back(connection):
            self.swap(connection, self.create_any(connection))

    @contextmanager
    def taken_back(self, connection: Any) -> Generator[None]:
        """What is done is undone."""
        self.begin(connection)
        try:
            yield
        finally:
            with suppress(*self.errors):  # some errors have done it already
                connection.execute("ROLLBACK")

    def create_any(self, connection: Any) -> str:
        """A table to rehearse with; its name, quoted."""
        made = self.unused_name(connection)
        connection.execute(f"CREATE TABLE {made} (a integer)")
        return made

    def not_replaced(self, why: str, first: str = "drop that") -> InputError:
        """The error where an old table has to stay. ``first``: what lets it go."""
        return InputError(
            f"{self.name}: cannot be replaced: {why}", hint=f"{first} first, or write into another table"
        )

    def unused_name(self, connection: Any) -> str:
        """Of a table that is made, beside the other."""
        return ".".join(map(quoted, [*self.schema(connection), f"mistill_{secrets.token_hex(8)}"]))

    # --- what goes wrong --------------------------------------------------------------------------------------------

    @contextmanager
    def explaining(self, doing: str, *, hint: str | None = None) -> Generator[None]:
        """An `InputError` for whatever the library raises; it may have the address with its password."""
        try:
            yield
        except MistillError:
            raise
        except self.errors as error:
            hint = TAKEN if self.is_taken(error) else hint
            raise InputError(f"{self.name}: cannot be {doing}: {told_by(error)}", hint=hint) from None

    @abstractmethod
    def is_refusal(self, error: Exception) -> bool:
        """Whether it is about what was asked for, and not about the disk or the connection."""

    def is_taken(self, error: Exception) -> bool:  # noqa: ARG002  of a server, several have it
        """Whether another process has the file."""
        return False

    def say_taken(self, seconds: float) -> None:
        """It is waited for."""
        _log.warning(
            "%s: another process has it: it is waited for, %.0f seconds at the most", self.name, seconds
        )


def told_by(error: BaseException) -> str:
    """A library's own words, in one line; its error's name where they have something secret in them, or there are none.

    Of psycopg's, the server's message; of all, nothing of the lines of SQL that they show.
    """
    said = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    return told(re.split(r"\n\s*LINE \d+:", said)[0], type(error).__name__)


def database_of(address: str) -> Database:
    """The database of a table's address.

    Raises:
        InputError: it names no table, or what reaches it is not installed.
    """
    parsed = TableAddress.of(address)
    kind: type[Database] = pkgutil.resolve_name(_BY_KIND[parsed.kind])
    return kind(parsed)


def quoted(name: str) -> str:
    """A name as SQL has it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def python_columns(batch: Any, as_json: Iterable[bool]) -> list[list[Any]]:
    """The columns of Arrow data as what every driver takes: plain values and lists of them; dates, times, decimals as
    their text, which loses nothing; as its JSON what a database has no type for."""
    columns = zip(batch.columns, as_json, strict=True)
    return [_json_texts(column) if is_json else _plain(column) for column, is_json in columns]


def _plain(column: Any) -> list[Any]:
    types = PYARROW.load("writing a table").types
    kind = column.type
    if types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    elif types.is_duration(kind):
        return [
            None if value is None else f"{value} {kind.unit}" for value in column.cast("int64").to_pylist()
        ]
    elif types.is_temporal(kind) or types.is_decimal(kind) or types.is_uint64(kind):
        column = column.cast("string")
    return column.to_pylist()


def _json_texts(column: Any) -> list[Any]:
    if PYARROW.load("writing a table").types.is_string(column.type):
        return column.to_pylist()
    return [
        None if value is None else encode_record({"": value})[4:-1].decode() for value in column.to_pylist()
    ]
