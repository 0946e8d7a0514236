"""The client of the HTTP API, one attempt a call: no retries, no pacing, no policy.

An attempt either returns an answer or raises one error of ``mistill.errors``, whatever the server sends. A server that
echoes the key back finds it cut out of the error.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, NoReturn, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from mistill.api.admin import USAGE_PATH, Bill, decode_bill
from mistill.api.batch import (
    FILES_PATH,
    JOBS_PATH,
    BatchJob,
    FileCard,
    Page,
    T,
    check_deleted,
    decode_file,
    decode_files,
    decode_job,
    decode_jobs,
    job_body,
)
from mistill.api.batch_lines import ResultLine
from mistill.api.chat import CHAT, ChatChunk
from mistill.api.error_bodies import error_in_answer, error_of_status
from mistill.api.limits import parse_limits
from mistill.api.models import MODELS_PATH, ModelCard, decode_models
from mistill.api.new_file import NewFile, new_file
from mistill.api.operation import MAX_BYTES, Operation, R
from mistill.api.prices import Price
from mistill.api.stream import PROXY_HINT, ChunkReader, begins_stream
from mistill.api.tariff import Tariff
from mistill.api.transport import (
    PyreqwestError,
    RequestBuilder,
    Response,
    Url,
    build_client,
    error_of_transport,
    heeding_cancellation,
    with_file,
)
from mistill.api.usage import Usage, usage_of
from mistill.api.watched_answer import WatchedAnswer
from mistill.errors import (
    APIError,
    AttemptTimeout,
    Disconnected,
    InputError,
    InvalidModel,
    MalformedAnswer,
    MistillError,
    NotFound,
    RateLimited,
    RateLimits,
    TransportError,
)
from mistill.redaction import Redactor
from mistill.wording import Setting, words

A = TypeVar("A")

_GOOD = range(200, 300)  # whether an answer came with it, its body says
_CORRELATION_ID = "mistral-correlation-id"
_EXCERPT_BYTES = 200
_GATHERED_BYTES = 2**16
"""Of any answer, what the transport gathers by itself before it gives any of it: some 300 events of a stream."""
_WATCHED_BYTES = 2**14
"""Of a stream that is watched, looked at together from then on: some 80 events. To be woken by each of them would cost
ten times as much."""

MAX_RESULT_BYTES: Final = 16 * 2**30
"""No file of results is larger: a broken server must not fill this machine's disk."""
_SLOWEST_BYTES_PER_S = 50_000
_LONGEST_DOWNLOAD = timedelta(days=1)
_PAGE_SIZE = 100
_MAX_PAGES = 10_000
_LONGER = words("raise ", Setting("timeout"))

_LIMITS_EVERY_S = 0.01
"""Limits are read from one good answer in so much time: at thousands of answers a second, each has what the last had,
and reading them all would cost more than the rest of the answer. Those of an error are always read."""


class HTTPAnswer(Struct, Generic[R], frozen=True, gc=False):
    """A good HTTP answer.

    Attributes:
        response: its body, decoded. ``raw``: the body as it came.
        limits: the quota and the wait in its headers, where they were read: see `_LIMITS_EVERY_S`.
        correlation_id: what Mistral's support asks for.
        latency_s: seconds from sending to the last byte.
        usage: tokens billed for it. ``cost``: US dollars, or ``None`` where the model has no known price.
        failure: it is none after all: the server failed in the middle of it, and says so in it.
        is_cut: it repeated itself and was cut off here, before the server could say what it took: usage and cost are
            estimates of what had come.
    """

    response: R
    raw: bytes
    limits: RateLimits | None
    correlation_id: str | None
    latency_s: float
    usage: Usage
    cost: float | None
    failure: MistillError | None = None
    is_cut: bool = False


class ChatStream:
    """The chunks of a streamed completion, as they come; ``limits`` and ``correlation_id`` from its headers.

    Raises:
        MistillError: on iterating: the server's error where it sends one, `Disconnected` where the stream ends before
            its answer.
    """

    def __init__(self, http: Response, redactor: Redactor) -> None:
        self.limits = _limits(http)
        self.correlation_id = _correlation_id(http)
        self._http = http
        self._redactor = redactor

    async def __aiter__(self) -> AsyncIterator[ChatChunk]:
        reader = ChunkReader(self.correlation_id, clean=self._redactor.clean)
        try:
            while not reader.is_done and (piece := await self._next_piece(reader)) is not None:
                for chunk in reader.feed(piece):
                    yield chunk
            for chunk in reader.finish():
                yield chunk
        except MistillError as error:
            self._redactor.redact_error(error)
            raise

    async def _next_piece(self, reader: ChunkReader) -> bytes | None:
        try:
            piece = await self._http.body_reader.read_chunk()
        except PyreqwestError:
            if reader.has_finished:  # all of the answer has come: how the connection ended is no matter
                return None
            raise
        return None if piece is None else piece.to_bytes()


class MistralClient:
    """One endpoint and one key. Safe to share by threads and event loops; connections are pooled for all of them.

    Args:
        endpoint: base URL without ``/v1``, see ``mistill.api.endpoint``.
        api_key: sent as a bearer token; never shown again.
        timeout_s: for one attempt, from connecting to the last byte of the body.
        tariff: what the answers of the model that is asked for cost; without one, nobody asks for a model here.
        is_admin: the key is one of the Admin API: for `bill` alone.

    Raises:
        InputError: the key cannot be sent, or this machine has no CA certificates.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str,
        timeout_s: float,
        *,
        tariff: Tariff | None = None,
        is_admin: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self._tariff = tariff
        self.timeout_s = timeout_s
        self._redactor = Redactor(api_key)
        self._urls: dict[str, Url] = {}
        self._limits_due_at = 0.0
        self._tier: str | None = None  # of the newest answer
        self._http = build_client(endpoint, api_key, timeout_s, is_admin=is_admin)

    def __repr__(self) -> str:
        return f"MistralClient({self.endpoint!r})"

    async def close(self) -> None:
        """Ends the pooled connections. Requests after it fail."""
        await self._http.close()

    async def exchange(
        self,
        operation: Operation[R],
        body: bytes,
        *,
        watched: WatchedAnswer | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HTTPAnswer[R]:
        """One attempt at a request.

        Args:
            body: the request as JSON.
            watched: reads the answer as it comes (``body`` has ``"stream": true``), so that one which repeats itself is
                cut off: the connection is closed. All else is as where it comes in one piece.
            headers: further ones of this request.

        Raises:
            MistillError: whatever the server does, if it does not answer.
        """
        sent_at = time.perf_counter()
        url = self._urls.get(operation.path) or self._url(operation.path)
        is_cut = False
        try:
            post = self._http.post(url).body_bytes(body)
            if headers:
                post = post.headers(headers)
            async with post.build_streamed() as http:
                if watched is None:
                    # As `_body` does: this is called for every request.
                    read = await http.body_reader.read(operation.max_bytes + 1)
                    raw = b"" if read is None else read.to_bytes()
                else:
                    raw, is_cut = await self._watch(http, watched, operation.max_bytes)
        except PyreqwestError as error:
            self._raise_transport(error)
        if http.status not in _GOOD:
            self._raise_status(http, raw)
        if (echo := self._redactor.echo) is not None and echo in raw:
            raw = self._redactor.clean(raw)
        if len(raw) > operation.max_bytes:
            self._raise_too_large(http, raw, operation.max_bytes)
        try:
            response = operation.decode(raw)
            missing = operation.check(response) if operation.check is not None else None
        except Exception as error:
            # Whatever reading may stumble over: an answer that cannot be read has one kind of error.
            self._raise_malformed(http, raw, error)
        if missing:
            self._raise_malformed(http, raw, missing)
        try:
            correlation_id = http.get_header(_CORRELATION_ID)
        except ValueError:  # not ASCII
            correlation_id = None
        if echo is not None and correlation_id is not None and echo in correlation_id.encode():
            correlation_id = None
        answered_at = time.perf_counter()
        limits = None
        if answered_at >= self._limits_due_at:
            limits = _limits(http)
            self._limits_due_at = answered_at + _LIMITS_EVERY_S
        usage = usage_of(response)
        if is_cut and watched is not None:
            usage = watched.estimated_usage(body)
        cost = None
        if (tariff := self._tariff) is not None:
            if response.usage is not None:
                self._tier = response.usage.service_tier
            elif not is_cut:  # of one that we cut off, nobody says it: it is taken to be that of the others
                self._tier = None
            price = tariff.price_of(response.model, self._tier)
            cost = None if price is None else price.cost(usage)
        said = None if operation.gave_up is None else operation.gave_up(response)
        failure = self._failure_of(http, said) if said else None
        latency_s = answered_at - sent_at
        return HTTPAnswer(response, raw, limits, correlation_id, latency_s, usage, cost, failure, is_cut)

    async def _watch(self, http: Response, answer: WatchedAnswer, max_bytes: int) -> tuple[bytes, bool]:
        """The body that a streamed answer makes, and whether it was cut off. What is no stream is read as it is."""
        read, reader = http.body_reader.read, None
        try:
            while (piece := await read(_WATCHED_BYTES if reader else _GATHERED_BYTES)) is not None:
                came = piece.to_bytes()
                if reader is None:
                    if http.status not in _GOOD or not begins_stream(came):
                        return came + await _body(http, max_bytes), False
                    reader = ChunkReader(
                        _correlation_id(http), clean=self._redactor.clean, raises_failure=False
                    )
                answer.add(reader.feed(came))
                if reader.is_done:
                    break
                if not reader.has_finished and answer.is_looping:
                    return answer.body(is_cut=True), True
            if reader is None:
                return b"", False
            answer.add(reader.finish())
        except APIError as error:
            raise self._complete(error, http) from error.__cause__
        except MistillError as error:
            self._redactor.redact_error(error)
            raise
        return answer.body(is_cut=False), False

    @asynccontextmanager
    async def stream(
        self, body: bytes, *, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[ChatStream]:
        """One attempt at a streamed completion (``body`` has ``"stream": true``). ``headers``: as for `exchange`.

        Entered when the answer's headers are there; leaving it before the stream's end closes the connection.

        Raises:
            MistillError: whatever the server does, if it does not answer.
        """
        # Otherwise the first piece would wait for 64 KiB of answer, which most streams never reach.
        request = self._http.post(self._url(CHAT.path)).body_bytes(body).streamed_read_buffer_limit(1)
        if headers:
            request = request.headers(headers)
        try:
            async with request.build_streamed() as http:
                if http.status not in _GOOD:
                    self._raise_status(http, await _body(http, MAX_BYTES))
                yield ChatStream(http, self._redactor)
        except PyreqwestError as error:
            self._raise_transport(error)

    async def models(self) -> list[ModelCard]:
        """What the endpoint serves: ``GET /v1/models``.

        Raises:
            MistillError: whatever the server does, if it does not answer.
        """
        return await self._call(self._http.get(self._url(MODELS_PATH)), decode_models)

    async def bill(self, month: date, *, workspace: str | None = None) -> Bill:
        """What was used in a month: ``GET /v1/admin/usage``.

        Args:
            month: any day of it.
            workspace: the id of one; ``None``: all of the organisation.

        Raises:
            MistillError: whatever the server does, if it does not answer.
        """
        query = {"month": str(month.month), "year": str(month.year)}
        if workspace is not None:
            query["workspace_id"] = workspace
        return await self._call(self._http.get(self._url(USAGE_PATH)).query(query), decode_bill)

    # --- files and batch jobs -----------------------------------------------------------------------------------------

    async def upload_file(self, path: Path, *, name: str, expiry_hours: int | None = None) -> FileCard:
        """Sends a file of lines as the input of batch jobs. It is read from disk as it goes.

        Args:
            name: what the server calls it; `files` finds it by that.
            expiry_hours: after which the server forgets it; ``None``: as long as the server likes.

        Raises:
            MistillError: whatever the server does, if it does not answer. It may have the file all the same.
            OSError: the file cannot be read.
        """
        fields = {"purpose": "batch"}
        if expiry_hours is not None:
            fields["expiry"] = str(expiry_hours)
        size = (await asyncio.to_thread(path.stat)).st_size
        timeout_s = self.timeout_s + size / _SLOWEST_BYTES_PER_S
        request = self._http.post(self._url(FILES_PATH)).timeout(timedelta(seconds=timeout_s))
        return await self._call(await with_file(request, path, name, fields), decode_file, timeout_s)

    async def download_file(self, file_id: str, path: Path, *, max_bytes: int = MAX_RESULT_BYTES) -> int:
        """Puts the content of a file at ``path``, whole or not at all, and gives its size in bytes.

        It is written beside, as ``path`` with ``.part`` behind its name, synced and renamed. Only its owner may read
        it. `timeout_s` is how long it may stand still.

        Raises:
            MistillError: whatever the server does, if it does not answer: `NotFound` where there is no such file any
                more, `Disconnected` where it was cut off, `MalformedAnswer` where it is larger than ``max_bytes``.
            OSError: it cannot be written.
        """
        async with new_file(path) as out:
            with heeding_cancellation():
                said = await self._read_into(out, file_id, max_bytes)
            if said is None:  # of a body that is compressed, or comes in chunks, the file's card has the size
                said = (await self.file(file_id)).size
            if said is not None and said != out.size:
                reason = f"the download was cut off: {out.size:,} of {said:,} bytes came"
                raise Disconnected(reason, maybe_billed=False)
        return out.size

    async def file(self, file_id: str) -> FileCard:
        """What the server says of a file.

        Raises:
            MistillError: whatever the server does, if it does not answer: `NotFound` where there is none.
        """
        return await self._call(self._http.get(self._below(FILES_PATH, file_id)), decode_file)

    def files(self, *, search: str | None = None) -> AsyncIterator[FileCard]:
        """The files that batch jobs read, and that they wrote, page by page, the newest first.

        Args:
            search: part of their names. Whether the server obeys it is not known.

        Raises:
            MistillError: on iterating: whatever the server does, if it does not answer.
        """
        filters = {"purpose": "batch"} if search is None else {"purpose": "batch", "search": search}
        return self._listed(FILES_PATH, decode_files, filters)

    async def delete_file(self, file_id: str) -> None:
        """Has the server forget a file.

        Raises:
            MistillError: whatever the server does, if it does not answer: `NotFound` where there is none.
        """
        await self._call(self._http.delete(self._below(FILES_PATH, file_id)), check_deleted)

    async def create_job(
        self,
        endpoint: str,
        input_files: Sequence[str],
        *,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout_hours: int = 24,
    ) -> BatchJob:
        """Has the server answer all lines of its files. There is no key that makes it safe to ask twice.

        Args:
            endpoint: the path that the lines are requests to: ``/v1/chat/completions``.
            metadata: by which the job is found again: keys of 1 to 32 characters, values of 1 to 512.
            timeout_hours: after which it ends as far as it came, from 1 to 168.

        Raises:
            InputError: Mistral would refuse it.
            MistillError: whatever the server does, if it does not answer. With ``maybe_billed``, or a `ServerError`,
                the job may be there all the same.
        """
        body = job_body(endpoint, input_files, model=model, metadata=metadata, timeout_hours=timeout_hours)
        return await self._call(
            self._http.post(self._url(JOBS_PATH)).body_bytes(body), decode_job, may_cost=True
        )

    async def job(self, job_id: str) -> BatchJob:
        """A job as it is now.

        Raises:
            MistillError: whatever the server does, if it does not answer: `NotFound` where there is none.
        """
        return await self._call(self._http.get(self._below(JOBS_PATH, job_id)), decode_job)

    async def jobs(self, *, created_after: datetime | None = None) -> AsyncGenerator[BatchJob]:
        """The jobs of the key's workspace, page by page, the newest first, each once.

        No filter of the server's is trusted: older ones are left out here too, by the server's clock, to the second.

        Raises:
            MistillError: on iterating: whatever the server does, if it does not answer.
        """
        filters = {"order_by": "-created"}
        if created_after is not None:
            filters["created_after"] = created_after.astimezone(UTC).isoformat()
        second = 0 if created_after is None else math.floor(created_after.timestamp())
        async for job in self._listed(JOBS_PATH, decode_jobs, filters):
            if job.created_at is None or job.created_at >= second:
                yield job

    async def cancel_job(self, job_id: str) -> BatchJob:
        """Asks the server to end a job early; it goes on until it says that it has ended.

        Raises:
            MistillError: whatever the server does, if it does not answer: `NotFound` where there is none.
        """
        return await self._call(self._http.post(self._below(JOBS_PATH, job_id, "cancel")), decode_job)

    def answer_of_line(
        self, operation: Operation[R], line: ResultLine, *, price: Price | None = None
    ) -> HTTPAnswer[R]:
        """A line of a job's results as what `exchange` would have given for its request, had it been live.

        It has no limits and no latency of its own (0 s), and its correlation id is that of the line.

        Args:
            price: of the model that the job asks for, as it was when the job was made, where that was known. It
                counts unless another model answered.

        Raises:
            MistillError: the line has no answer: the same error as live.
        """
        if (failure := line.failure()) is not None:
            self._name_successor(failure)
            self._redactor.redact_error(failure)
            raise failure
        raw = self._redactor.clean(line.body or b"")
        status = line.status or 200
        try:
            if len(raw) > operation.max_bytes:
                raise ValueError(_too_large(operation.max_bytes))  # noqa: TRY301  told like what cannot be read
            response = operation.decode(raw)
            missing = operation.check(response) if operation.check is not None else None
        except Exception as error:
            raise self._malformed(status, raw, error, line.line_id) from error
        if missing:
            raise self._malformed(status, raw, missing, line.line_id)
        usage = usage_of(response)
        if self._tariff is not None:
            price = self._tariff.in_job(response.model, price)
        cost = None if price is None else price.cost(usage)
        said = None if operation.gave_up is None else operation.gave_up(response)
        failure = self._failure(line.line_id, said) if said else None
        return HTTPAnswer(response, raw, None, line.line_id, 0.0, usage, cost, failure)

    async def _listed(
        self, path: str, decode: Callable[[bytes], Page[T]], filters: dict[str, str]
    ) -> AsyncIterator[T]:
        """All of a list, each once, however the server pages.

        What is not found is made, and paid, once more. So a page is the last one only if it is not full and the whole
        total is there, or if it has nothing new.
        """
        seen: set[str] = set()
        unreadable = 0
        for number in range(_MAX_PAGES):
            query = filters | {"page": str(number), "page_size": str(_PAGE_SIZE)}
            page = await self._call(self._http.get(self._url(path)).query(query), decode)
            new = {item.id: item for item in page.items if item.id not in seen}
            for item in new.values():
                yield item
            seen.update(new)
            unreadable += page.count - len(page.items)
            is_all = page.total is not None and len(seen) + unreadable >= page.total
            if not new or (is_all and page.count < _PAGE_SIZE):
                return
        raise MalformedAnswer(f"the list at {path} does not end: {_MAX_PAGES:,} pages came")

    async def _read_into(self, out: NewFile, file_id: str, max_bytes: int) -> int | None:
        """Writes the content of a file; its size as its answer says it, or ``None``."""
        request = self._http.get(self._below(FILES_PATH, file_id, "content")).timeout(_LONGEST_DOWNLOAD)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout_s) as patience, request.build_streamed() as http:
                if http.status not in _GOOD:
                    self._raise_status(http, await _body(http, MAX_BYTES))
                if (_header(http, "content-type") or "").startswith("text/html"):
                    _raise_no_file("a page came in the place of the file", PROXY_HINT)
                while (piece := await http.body_reader.read_chunk()) is not None:
                    out.write(piece.to_bytes())
                    if out.size > max_bytes:
                        _raise_no_file(f"the file is larger than {max_bytes:,} bytes")
                    patience.reschedule(loop.time() + self.timeout_s)
                length = _header(http, "content-length") or ""
                return int(length) if length.isdecimal() else None
        except PyreqwestError as error:
            raise self._error_of_call(error, self.timeout_s) from error
        except TimeoutError as error:
            reason = f"the download stood still for {self.timeout_s:g} s"
            raise AttemptTimeout(reason, maybe_billed=False, hint=_LONGER) from error

    async def _call(
        self,
        request: RequestBuilder,
        decode: Callable[[bytes], A],
        timeout_s: float | None = None,
        *,
        may_cost: bool = False,
    ) -> A:
        """One attempt at a request that is no generation.

        Args:
            timeout_s: of this request, where it is not the client's.
            may_cost: it makes something that is billed.
        """
        try:
            with heeding_cancellation():
                async with request.build_streamed() as http:
                    raw = await _body(http, MAX_BYTES)
            if http.status not in _GOOD:
                self._raise_status(http, raw)
            if len(raw) > MAX_BYTES:
                self._raise_too_large(http, raw, MAX_BYTES)
            try:
                return decode(self._redactor.clean(raw))
            except Exception as error:
                self._raise_malformed(http, raw, error)
        except PyreqwestError as error:
            raise self._error_of_call(error, timeout_s or self.timeout_s, may_cost=may_cost) from error
        except MalformedAnswer as error:
            error.maybe_billed = may_cost
            raise

    def _error_of_call(
        self, error: PyreqwestError, timeout_s: float, *, may_cost: bool = False
    ) -> TransportError:
        failure = error_of_transport(error, self.endpoint, timeout_s)
        failure.maybe_billed &= may_cost
        if isinstance(failure, AttemptTimeout):
            failure.hint = _LONGER
        return failure

    def _below(self, path: str, its_id: str, part: str = "") -> Url:
        """The address of one file or job. Its id is a server's word, and may lead to no other path."""
        if its_id in ("", ".", ".."):
            raise InputError(f"{its_id!r} is the id of no file and of no job")
        steps = [path, quote(its_id, safe=""), part] if part else [path, quote(its_id, safe="")]
        return Url(self.endpoint + "/".join(steps))

    def _url(self, path: str) -> Url:
        """Parsed once a path: parsing costs more than the rest of building a request."""
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = Url(self.endpoint + path)
        return url

    def _raise_too_large(self, http: Response, raw: bytes, max_bytes: int) -> NoReturn:
        self._raise_malformed(http, raw, _too_large(max_bytes))

    def _raise_status(self, http: Response, raw: bytes) -> NoReturn:
        raise self._complete(error_of_status(http.status, raw, _correlation_id(http)), http)

    def _raise_malformed(self, http: Response, raw: bytes, problem: Exception | str) -> NoReturn:
        error = self._malformed(http.status, raw, problem, _correlation_id(http))
        if isinstance(error, APIError):
            self._complete(error, http)
        raise error from (problem if isinstance(problem, Exception) else None)

    def _malformed(
        self, status: int, raw: bytes, problem: Exception | str, correlation_id: str | None
    ) -> MistillError:
        """Of a status of success, and no answer: the server's own error if it sends one, else the problem."""
        error = error_in_answer(raw, correlation_id)
        if error is None:
            reason, hint = str(problem), None
            if isinstance(problem, Exception):
                excerpt = self._redactor.redact(raw[:_EXCERPT_BYTES].decode("utf-8", "replace"))
                reason = f"HTTP {status}, but the body is no answer: {problem}: {excerpt!r}"
                hint = PROXY_HINT
            error = MalformedAnswer(reason, correlation_id=correlation_id, hint=hint)
        self._redactor.redact_error(error)
        return error

    def _failure_of(self, http: Response, said: Any) -> MistillError:
        error = self._failure(_correlation_id(http), said)
        return self._complete(error, http) if isinstance(error, APIError) else error

    def _failure(self, correlation_id: str | None, said: Any) -> MistillError:
        """The error of an answer that says of itself that it failed: in the server's words, or by its finish reason."""
        error = None if isinstance(said, str) else error_in_answer(_error_body(said), correlation_id)
        if error is None:
            reason = f"the server gave up in the middle of its answer: {said!r}"
            error = MalformedAnswer(reason, correlation_id=correlation_id)
        self._redactor.redact_error(error)
        return error

    def _complete(self, error: APIError, http: Response) -> APIError:
        """The error with what its headers say of limits, and without the key."""
        error.limits = _limits(http)
        error.retry_after_s = error.limits.retry_after_s if error.limits else None
        self._name_successor(error)
        if isinstance(error, RateLimited) and error.limit_is_zero:
            error.hint = (
                "the limit of this key for this model is 0: it may not use it; choose another model or key"
            )
        self._redactor.redact_error(error)
        return error

    def _name_successor(self, error: MistillError) -> None:
        """A model that is not there may be known to be gone."""
        gone = None if self._tariff is None else self._tariff.retired
        if gone is not None and isinstance(error, InvalidModel | NotFound):
            error.hint = words(gone, *(("; ", error.hint) if error.hint else ()))

    def _raise_transport(self, error: PyreqwestError) -> NoReturn:
        raise error_of_transport(error, self.endpoint, self.timeout_s) from error


def _raise_no_file(reason: str, hint: str | None = None) -> NoReturn:
    error = MalformedAnswer(reason, hint=hint)
    error.maybe_billed = False  # a download makes nothing
    raise error


def _too_large(max_bytes: int) -> str:
    return f"the answer is larger than {max_bytes:,} bytes"


def _error_body(said: Any) -> bytes:
    try:
        return msgspec.json.encode({"error": said})
    except (ValueError, RecursionError):  # nested too deeply to be written
        return b"{}"


async def _body(http: Response, max_bytes: int) -> bytes:
    """An answer's body, decompressed; of one that is larger, one byte more than it may have."""
    read = await http.body_reader.read(max_bytes + 1)
    return b"" if read is None else read.to_bytes()


def _header(http: Response, name: str) -> str | None:
    """A header of an answer; one that is not ASCII counts as absent."""
    try:
        return http.get_header(name)
    except ValueError:
        return None


def _correlation_id(http: Response) -> str | None:
    return _header(http, _CORRELATION_ID)


def _limits(http: Response) -> RateLimits | None:
    try:
        return parse_limits(http.get_header)
    except ValueError:
        return parse_limits(partial(_header, http))
