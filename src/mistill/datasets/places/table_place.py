"""A table as an output: made under another name in one transaction, at the end of which it takes its own."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from mistill.datasets.databases.database import Database, database_of, told_by
from mistill.datasets.places.file_modes import mode_within, usual_mode
from mistill.datasets.places.place import Target
from mistill.errors import InputError, MistillError
from mistill.wording import words


class TablePlace(Target):
    """A table that is to be made. Nobody sees it before it is whole; till then, and if that fails, an old one stays."""

    def __init__(self, address: str) -> None:
        self._database = database_of(address)
        self.name = self._database.name
        if not self._database.address.table:
            raise InputError(
                f"{self.name}: records go into a table, not into a query", hint="name one: ?table=answers"
            )

    def check_writable(self) -> None:
        file = self._database.address.file
        if file is not None and not Path(file).absolute().parent.is_dir():
            raise InputError(f"{self.name}: there is no directory {Path(file).absolute().parent}")
        with self._to_try() as (database, connection):
            database.check_writable(connection)

    def check_columns(self, columns: Sequence[str]) -> None:
        with self._to_try() as (database, connection):
            database.check_columns(connection, columns)

    @contextmanager
    def _to_try(self) -> Generator[tuple[Database, Any]]:
        """A connection for what is tried and taken back: to a file of the same name elsewhere, where there is none yet,
        as looking at it would make it."""
        database = self._database
        file = database.address.file
        with ExitStack() as stack:
            if file is not None and not Path(file).exists():
                folder = stack.enter_context(TemporaryDirectory(prefix="mistill-"))
                address = msgspec.structs.replace(database.address, file=str(Path(folder, Path(file).name)))
                database = type(database)(address)
            stack.enter_context(database.explaining("written"))
            yield database, stack.enter_context(database.connected(to_write=True))

    def holds_something(self) -> bool:
        """Whether there is such a table: one without rows may be dear to somebody, too."""
        file = self._database.address.file
        if file is not None and not Path(file).exists():
            return False
        with self._database.explaining("read"), self._database.connected(to_write=False) as connection:
            return self._database.name_there(connection) is not None

    @contextmanager
    def writing(self, made_of: Sequence[str | Path] = ()) -> Generator[TableOutput]:
        """``made_of``: of a file that is made for the table; one that is there has its own rights, as a server has."""
        database = self._database
        file = None if database.address.file is None else Path(database.address.file)
        is_new = file is not None and not file.exists()
        try:
            mode = self._make_file(file) if file is not None and is_new else None
            with database.connected(to_write=True) as connection:
                output = TableOutput(database, connection)
                try:
                    database.begin(connection)
                    yield output
                    output.finish()
                    database.commit(connection)
                except BaseException:
                    output.roll_back()
                    if is_new:
                        output.remove_file()
                    raise
        except database.errors as error:
            raise MistillError(
                f"{self.name} could not be written: {told_by(error)}",
                hint="no answer is lost, the ledger has them; export again once that is mended",
            ) from None
        finally:
            if file is not None and is_new and not file.exists():
                Path(f"{file}{database.log_ending}").unlink(missing_ok=True)
        if file is not None and mode is not None:
            with suppress(OSError):  # where files have no modes
                file.chmod(mode_within(mode, made_of, file.stat()))

    def _make_file(self, file: Path) -> int:
        """One that its owner alone may read while it is written, and so its log; the mode that it gets then."""
        try:
            mode = usual_mode(file.with_name(f"{file.name}.{secrets.token_hex(4)}.partial"))
            self._database.make_file(file)
        except OSError as error:
            raise InputError(f"{self.name}: cannot be written: {error.strerror}") from error
        return mode


class TableOutput:
    """A table in the making."""

    def __init__(self, database: Database, connection: Any) -> None:
        self._database = database
        self._connection = connection
        self._made = database.unused_name(connection)
        self._as_json: list[bool] = []

    def begin(self, schema: Any, as_text: Collection[str]) -> None:
        """The table, empty.

        Args:
            schema: Arrow's. ``as_text``: columns that hold the JSON text of each value.
        """
        database = self._database
        self._as_json = [field.name in as_text or database.is_json(field.type) for field in schema]
        types = database.column_types(self._connection, schema.types, self._as_json)
        try:
            database.create(self._connection, self._made, schema.names, types)
        except InputError as error:  # of columns that no row had before the first request
            hint = words("no answer is lost, the ledger has them: export again, and ", error.hint or "")
            raise MistillError(error.message, hint=hint) from None

    def write_table(self, table: Any) -> None:
        """Rows of Arrow data."""
        self._database.insert(self._connection, self._made, table, self._as_json)

    def finish(self) -> None:
        self._database.swap(self._connection, self._made)

    def roll_back(self) -> None:
        with suppress(*self._database.errors):
            self._connection.execute("ROLLBACK")

    def remove_file(self) -> None:
        """The file that was made for the table goes, unless somebody has put something into it meanwhile."""
        file = self._database.address.file
        with suppress(*self._database.errors, OSError):
            if file is not None and self._database.is_empty(self._connection):
                Path(file).unlink()
