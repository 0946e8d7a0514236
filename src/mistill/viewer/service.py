"""The viewer over HTTP: a page and its modules, and JSON of what it shows. Nothing is written but marks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import msgspec
from aiohttp import web
from msgspec import Struct

from mistill.errors import InputError, MistillError
from mistill.ledger import LedgerReader, Mark
from mistill.ledger.marks import write_mark
from mistill.pages.page import colors
from mistill.runs.row_report import position_of
from mistill.struct_types import look_at
from mistill.viewer.access import HEADERS, Access, is_own_host, is_own_page
from mistill.viewer.catalogue import Catalogue, RunLine
from mistill.viewer.one_row import show_row, whole_text
from mistill.viewer.one_run import Summaries
from mistill.viewer.pages import MAX_PAGE_ROWS, PAGE_ROWS, RunRows
from mistill.viewer.side_by_side import EARLIER, NOW, compare_runs, compare_settings
from mistill.visible import visible, visible_json
from mistill.wording import in_python, worded

T = TypeVar("T")

_log = logging.getLogger("mistill")

_MAX_BODY_BYTES = 100_000
_READERS = 4
"""So many questions are answered at once; others wait for their turn."""

_MAX_POSITION = 2**62
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Home(Struct, frozen=True):
    """What the page begins with.

    Attributes:
        place: the folder or the run. ``single``: the only run, where there is one.
        annotate: rows may be marked. ``left_out``: how many runs there are that are older than those.
    """

    place: str
    single: str | None
    annotate: bool
    runs: list[RunLine]
    left_out: int


class Marking(Struct, frozen=True, forbid_unknown_fields=True):
    """What is said of an outcome: of the one that came at ``outcome_at``, see `write_mark`."""

    run: str
    row: int
    outcome_at: float
    mark: Mark | None = None
    note: str | None = None


class Service:
    """Answers the page's questions.

    Args:
        catalogue: the runs that may be looked at.
        annotate: rows may be marked.
    """

    def __init__(self, catalogue: Catalogue, access: Access, *, annotate: bool) -> None:
        self._catalogue = catalogue
        self._access = access
        self._annotate = annotate
        self._summaries = Summaries()
        self._turns = asyncio.Semaphore(_READERS)
        self._files = _page_files()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=_MAX_BODY_BYTES)
        for name in self._files:
            app.router.add_get(f"/page/{name}", self._file)
        app.router.add_get("/api/home", self._home)
        app.router.add_get("/api/run", self._run)
        app.router.add_get("/api/rows", self._rows)
        app.router.add_get("/api/row", self._row)
        app.router.add_get("/api/text", self._text)
        app.router.add_get("/api/side-by-side", self._side_by_side)
        app.router.add_post("/api/mark", self._mark)
        for path in ("/", "/run", "/row", "/side-by-side"):
            app.router.add_get(path, self._page)
        return app

    # --- who may ask ------------------------------------------------------------------------------------------------

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            answer = self._refusal(request) or await handler(request)
        except web.HTTPException as error:
            answer = _problem(error.status, error.reason)
        except MistillError as error:
            answer = _problem(400 if isinstance(error, InputError) else 409, *_words_of(error))
        except OSError as error:
            answer = _problem(409, str(error))
        except Exception as error:
            _log.exception("a question of the viewer's page")
            answer = _problem(500, f"this cannot be shown: {type(error).__name__}: {error}")
        answer.headers.update(HEADERS)
        return answer

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Why it is not answered; ``None``: it is."""
        headers, is_page = request.headers, not request.path.startswith("/api/")
        if not is_own_host(headers.get("Host")):
            return _problem(403, "this server answers to 127.0.0.1 and localhost only")
        if request.path.startswith("/page/"):
            return None  # of the package, the same for everybody
        if not is_page and not is_own_page(
            headers.get("Sec-Fetch-Site"), headers.get("Origin"), headers.get("Host")
        ):
            return _problem(403, "another page has asked this")
        if is_page and self._access.is_token(request.query.get("token")):
            return None
        if not self._access.has_cookie(headers.get("Cookie")):
            told = "open the address that mistill view has shown: it has a token in it"
            return web.Response(status=401, text=told) if is_page else _problem(401, told)
        return None

    # --- the page ---------------------------------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.Response:
        answer = self._file_named("index.html")
        if self._access.is_token(request.query.get("token")):
            answer.headers["Set-Cookie"] = self._access.cookie
        return answer

    async def _file(self, request: web.Request) -> web.Response:
        return self._file_named(request.path.rpartition("/")[2])

    def _file_named(self, name: str) -> web.Response:
        kind = _TYPES[name.rpartition(".")[2]]
        return web.Response(body=self._files[name], content_type=kind, charset="utf-8")

    # --- what it shows ----------------------------------------------------------------------------------------------

    async def _home(self, _: web.Request) -> web.Response:
        runs, left_out = await self._in_turn(self._catalogue.lines)
        return _json(Home(self._catalogue.place, self._catalogue.single, self._annotate, runs, left_out))

    async def _run(self, request: web.Request) -> web.Response:
        name = _given(request, "run")

        def read() -> Any:
            run = self._catalogue.find(name)
            with LedgerReader(run.ledger) as reader:
                return self._summaries.of(run, RunRows(reader))

        return _json(await self._in_turn(read))

    async def _rows(self, request: web.Request) -> web.Response:
        where, search = request.query.get("where") or None, request.query.get("search") or None
        first, limit = _place(request, "first"), _limit(request)
        return await self._read(request, lambda rows: rows.page(where, search, first, limit))

    async def _row(self, request: web.Request) -> web.Response:
        row = request.query.get("row", "0")
        position = _place(request, "row") if row.isascii() and row.isdigit() else None

        def read(rows: RunRows) -> Any:
            return show_row(rows, position_of(row, None, rows.reader) if position is None else position)

        return await self._read(request, read)

    async def _side_by_side(self, request: web.Request) -> web.Response:
        first, limit = _place(request, "first"), _limit(request)
        differing = request.query.get("differing") == "1"
        other = request.query.get("with")
        if other is None:
            left, right = request.query.get("left", EARLIER), request.query.get("right", NOW)
            return await self._read(
                request, lambda rows: compare_settings(rows, left, right, first, limit, differing=differing)
            )

        def compare(rows: RunRows) -> Any:
            with LedgerReader(self._catalogue.find(other).ledger) as reader:
                return compare_runs(rows, RunRows(reader), first, limit, differing=differing)

        return await self._read(request, compare)

    async def _text(self, request: web.Request) -> web.Response:
        """A whole text, as a file: of any length, and nothing that a browser would show as a page."""
        position, name = _place(request, "row"), _given(request, "name")
        text = await self._in_run(request, lambda rows: whole_text(rows, position, name))
        file = quote(f"row-{position}-{name}.txt")
        return web.Response(
            body=text.encode("utf-8", "replace"),
            content_type="text/plain",
            charset="utf-8",
            headers={"Content-Disposition": f"attachment; filename*=UTF-8''{file}"},
        )

    async def _read(self, request: web.Request, read: Callable[[RunRows], Any]) -> web.Response:
        return _json(await self._in_run(request, read))

    async def _in_run(self, request: web.Request, read: Callable[[RunRows], T]) -> T:
        name = _given(request, "run")

        def open_and_read() -> T:
            with LedgerReader(self._catalogue.find(name).ledger) as reader:
                return read(RunRows(reader))

        return await self._in_turn(open_and_read)

    async def _in_turn(self, read: Callable[[], T]) -> T:
        """Reads in a thread: SQLite and big answers hold nobody else up."""
        async with self._turns:
            return await asyncio.to_thread(read)

    # --- marks ------------------------------------------------------------------------------------------------------

    async def _mark(self, request: web.Request) -> web.Response:
        if not self._annotate:
            return _problem(
                403,
                "this viewer only reads",
                "start it so that rows may be marked: with annotate",
            )
        if request.content_type != "application/json":
            return _problem(415, "a mark is JSON")
        try:
            given = msgspec.json.decode(await request.read(), type=Marking)
        except msgspec.DecodeError as error:
            return _problem(400, f"this is no mark: {error}")
        ledger = self._catalogue.find(given.run).ledger
        at = given.outcome_at
        said = await self._in_turn(
            lambda: write_mark(ledger, given.row, given.mark, given.note, outcome_at=at)
        )
        return _json(
            {"mark": None if said is None else said.mark, "note": None if said is None else said.note}
        )


def _page_files() -> Mapping[str, bytes]:
    """What a browser gets, by name."""
    folder = resources.files("mistill.viewer").joinpath("page")
    files = {
        file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES
    }
    return files | {"colors.css": colors().encode()}


def _json(value: Any, status: int = 200) -> web.Response:
    """With nothing in it that a terminal or a page would obey, wherever a text is from; it means the same."""
    body = visible_json(msgspec.json.encode(value).decode()).encode()
    return web.Response(status=status, body=body, content_type="application/json")


def _problem(status: int, message: str, hint: str | None = None) -> web.Response:
    return _json({"problem": visible(message), "hint": None if hint is None else visible(hint)}, status)


def _words_of(error: MistillError) -> tuple[str, str | None]:
    return worded(error.headline, in_python), None if error.hint is None else worded(error.hint, in_python)


def _given(request: web.Request, name: Literal["run", "name"]) -> str:
    value = request.query.get(name)
    if not value:
        raise InputError(f"the question names no {name}")
    return value


def _place(request: web.Request, name: str) -> int:
    text = request.query.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < _MAX_POSITION):
        raise InputError(f"there is no row {text[:40]!r}", hint="rows count from 0")
    return int(text)


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", str(PAGE_ROWS))
    return (
        max(1, min(int(text), MAX_PAGE_ROWS))
        if text.isascii() and text.isdigit() and len(text) < 9
        else PAGE_ROWS
    )


look_at(Marking)
