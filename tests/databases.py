"""Databases for tests: a PostgreSQL of this machine, started for them, and files of SQLite and DuckDB."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.libraries import library

Execute = Callable[[str], Sequence[Sequence[Any]]]


def _programs() -> Path | None:
    """Of the newest PostgreSQL; Debian has them in no path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class PostgreSQL:
    """A server. ``address``: of its database, without a table, with a password."""

    PASSWORD = "s3cr3t-of-a-database"

    def __init__(self, folder: Path, programs: Path) -> None:
        self.address = f"postgresql://postgres:{self.PASSWORD}@/postgres?host={folder}"
        self._folder = folder
        self._programs = programs
        # As root it does not run.
        self._owner: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
        if self._owner:
            shutil.chown(folder, "nobody")
        password = folder / "password"
        password.write_text(self.PASSWORD)
        password.chmod(0o644)
        made = ["initdb", "--auth=scram-sha-256", f"--pwfile={password}", "--username=postgres", "--no-sync"]
        self._run(*made, "-E", "UTF8", "--no-locale", "-D", str(folder / "data"))
        settings = (
            f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c max_connections=20"
            " -c dynamic_shared_memory_type=mmap"  # an immediate stop leaves what is in /dev/shm
        )
        self._run(
            "pg_ctl", "start", "-w", "-D", str(folder / "data"), "-l", str(folder / "log"), "-o", settings
        )

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._owner)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self._folder / "data"))

    def execute(self, query: str) -> Sequence[Sequence[Any]]:
        with library("psycopg").connect(self.address, autocommit=True) as connection:
            found = connection.execute(query)
            return found.fetchall() if found.description else ()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    library("psycopg")
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's server: apt-get install postgresql")
    # A socket's path has about a hundred bytes; pytest's own folders are longer.
    with tempfile.TemporaryDirectory(prefix="mistill-pg-", dir="/tmp") as folder:
        server = PostgreSQL(Path(folder), programs)
        yield server
        server.stop()


class Tables:
    """A database, the same to each test: ``address("t")`` of a table in it, ``execute`` beside the library."""

    def __init__(self, address: str, execute: Execute) -> None:
        self.database = address
        self.execute = execute

    def address(self, table: str) -> str:
        return f"{self.database}{'&' if '?' in self.database else '?'}table={table}"

    def query(self, text: str) -> str:
        return f"{self.database}{'&' if '?' in self.database else '?'}query={text}"


@pytest.fixture
def postgresql(postgresql_server: PostgreSQL) -> Tables:
    postgresql_server.execute("DROP SCHEMA public CASCADE")
    postgresql_server.execute("CREATE SCHEMA public")
    return Tables(postgresql_server.address, postgresql_server.execute)


@pytest.fixture
def sqlite(tmp_path: Path) -> Tables:
    import sqlite3

    library("pyarrow")
    path = tmp_path / "a b.db"

    def execute(query: str) -> Sequence[Sequence[Any]]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return connection.execute(query).fetchall()

    return Tables(f"sqlite:///{path}", execute)


@pytest.fixture
def duckdb(tmp_path: Path) -> Tables:
    library("pyarrow")
    path = tmp_path / "a b.duckdb"

    def execute(query: str) -> Sequence[Sequence[Any]]:
        with closing(library("duckdb").connect(path)) as connection:
            return connection.execute(query).fetchall()

    return Tables(f"duckdb:///{path}", execute)


@pytest.fixture(params=["sqlite", "duckdb", "postgresql"])
def tables(request: pytest.FixtureRequest) -> Tables:
    """Each of them."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["sqlite", "duckdb"])
def files(request: pytest.FixtureRequest) -> Tables:
    """Each that is a file."""
    return request.getfixturevalue(request.param)
