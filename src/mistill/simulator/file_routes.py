"""The paths of files: ``/v1/files`` and below."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import BodyPartReader, web
from aiohttp.web_request import BaseRequest
from multidict import MultiMapping

from mistill.simulator import refusals
from mistill.simulator.batch_files import FileStore, FileWriter, StoredFile
from mistill.simulator.faults import happens
from mistill.simulator.payloads import Json
from mistill.simulator.reply import Reply
from mistill.simulator.requests import detail, invalid_field
from mistill.simulator.settings import Settings
from mistill.simulator.visit import Visit

FILES: Final = "/v1/files"
SIGNED: Final = "/simulator/files/"
"""Below it are signed addresses, which need no key."""
_CHUNK_BYTES = 2**18
_FIELD_BYTES = 1024
_PURPOSES = ("fine-tune", "batch", "ocr")
_SAMPLE_TYPES = {"fine-tune": "instruct", "batch": "batch_request", "ocr": "pretrain"}
_VISIBILITIES = ("workspace", "user")


def is_upload(request: BaseRequest) -> bool:
    """Whether its body is a form, to be read as it comes."""
    return request.method == "POST" and request.path.rstrip("/") == FILES


class FileRoutes:
    """Answers what is asked of files."""

    def __init__(self, files: FileStore, rng: random.Random) -> None:
        self._files = files
        self._rng = rng
        self._signed: dict[str, tuple[str, float]] = {}

    async def answer(self, visit: Visit) -> web.StreamResponse:
        method = visit.request.method
        file_id, part = visit.id_after(FILES)
        match method, bool(file_id), part:
            case "POST", False, "":
                return await self._upload(visit)
            case "GET", False, "":
                return visit.reply.whole(self._list(visit), {})
            case "GET", True, "":
                return visit.reply.whole(self._files.found(file_id).card() | {"deleted": False}, {})
            case "GET", True, "content":
                return await self._content(self._files.found(file_id), visit.reply, visit.settings)
            case "GET", True, "url":
                return visit.reply.whole({"url": self._sign(self._files.found(file_id), visit)}, {})
            case "DELETE", True, "":
                self._files.remove(self._files.found(file_id))
                return visit.reply.whole({"id": file_id, "object": "file", "deleted": True}, {})
            case _:
                raise refusals.not_found(visit.path)

    async def signed(self, path: str, reply: Reply, settings: Settings) -> web.StreamResponse:
        """The content of a file at one of our signed addresses."""
        file_id, until = self._signed.get(path.removeprefix(SIGNED), ("", 0.0))
        if time.time() >= until:
            raise refusals.not_found(path)
        return await self._content(self._files.found(file_id), reply, settings)

    async def _upload(self, visit: Visit) -> web.StreamResponse:
        with FileWriter(self._files.new_path()) as writer:
            form = await _read_form(visit, writer)
            file = _from_form(form, writer, visit.settings)
        visit.received.note_form(form)
        self._files.add(file)
        if happens(self._rng, visit.settings.batch_upload_lost):
            return visit.reply.disconnect()
        return visit.reply.whole(file.card(), {})

    def _list(self, visit: Visit) -> Json:
        query, given = visit.query, visit.request.query
        page, page_size = query.number("page", 0), query.number("page_size", 100, least=1, most=100)
        has_total = query.flag("include_total", default=True)
        files = list(self._files.newest_first())
        if visit.settings.batch_filter != "ignored":
            files = [file for file in files if _is_asked_for(file, given)]
        shown = [file.card() for file in files[page * page_size : (page + 1) * page_size]]
        return {"object": "list", "data": shown, "total": len(files) if has_total else None}

    async def _content(self, file: StoredFile, reply: Reply, settings: Settings) -> web.StreamResponse:
        cut = None
        if happens(self._rng, settings.batch_download_cut):
            cut = self._rng.choice(("connection", "end"))
        return await reply.file(file.path, file.size, cut)

    def _sign(self, file: StoredFile, visit: Visit) -> str:
        hours = visit.query.number("expiry", 24, least=1, most=168)
        token = secrets.token_urlsafe(24)
        self._signed[token] = (file.id, time.time() + hours * visit.settings.batch_hour_s)
        return f"http://{visit.request.host}{SIGNED}{token}"


def _is_asked_for(file: StoredFile, given: MultiMapping[str]) -> bool:
    """By the filters of a list: each value of a list of them is a parameter of its own."""
    if given.get("search", "").lower() not in file.filename.lower():
        return False
    fields = {
        "purpose": file.purpose,
        "sample_type": file.sample_type,
        "source": file.source,
        "mimetypes": "application/jsonl",
    }
    return all(name not in given or value in given.getall(name) for name, value in fields.items())


async def _read_form(visit: Visit, writer: FileWriter) -> dict[str, str]:
    """The fields of an upload, ``file`` being the file's name; its content goes to the writer."""
    max_bytes = visit.settings.batch_max_bytes
    form: dict[str, str] = {}
    async for part in _parts(visit):
        name = part.name or ""
        if name != "file":
            form[name] = (await part.read_chunk(_FIELD_BYTES)).decode(errors="replace")
            continue
        form["file"] = part.filename or "file"
        while chunk := await part.read_chunk(_CHUNK_BYTES):
            if writer.size + len(chunk) > max_bytes:
                raise refusals.too_large(max_bytes)
            writer.write(chunk)
    return form


async def _parts(visit: Visit) -> AsyncIterator[BodyPartReader]:
    if visit.request.content_type != "multipart/form-data":
        raise invalid_field("file", "Input should be multipart/form-data", visit.settings)
    try:
        async for part in await visit.request.multipart():
            if isinstance(part, BodyPartReader):
                yield part
    except ValueError as error:  # a form without its boundary, or cut off
        raise invalid_field("file", str(error), visit.settings) from error


def _from_form(form: dict[str, str], writer: FileWriter, settings: Settings) -> StoredFile:
    checks: dict[str, Callable[[str], bool]] = {
        "file": bool,
        "purpose": _PURPOSES.__contains__,
        "visibility": _VISIBILITIES.__contains__,
        "expiry": lambda hours: hours.isascii() and hours.isdecimal() and int(hours) > 0,
    }
    if "file" not in form:
        raise refusals.invalid_fields([detail("missing", ["file"], None)], settings)
    for name, value in form.items():
        if name not in checks:
            raise refusals.invalid_fields([detail("extra_forbidden", [name], value)], settings)
        if not checks[name](value):
            raise invalid_field(name, f"Invalid {name}: {value}", settings)
    purpose = form.get("purpose", "fine-tune")
    file = writer.stored(form["file"], purpose=purpose, sample_type=_SAMPLE_TYPES[purpose], source="upload")
    file.visibility = form.get("visibility", "workspace")
    if "expiry" in form:
        file.ends_at = file.created_at + int(form["expiry"]) * settings.batch_hour_s
    return file
