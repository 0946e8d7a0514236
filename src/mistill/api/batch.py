"""Wire structs of files and batch jobs: what goes out, what comes back. Pure data, no network.

Facts about the API: https://docs.mistral.ai/capabilities/batch/ and its OpenAPI specification of August 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Generic, TypeVar, cast

import msgspec
from msgspec import Meta, Raw, Struct

from mistill.api.decoding import Incoming, is_error, tolerant_decoder
from mistill.errors import InputError

FILES_PATH: Final = "/v1/files"
JOBS_PATH: Final = "/v1/batch/jobs"

MAX_REQUESTS: Final = 100_000
"""Requests of one job. Source: the known limitations of Mistral's batch jobs; other pages allow a million."""
MAX_FILE_BYTES: Final = 512 * 2**20
"""Of one file that is uploaded."""
MAX_TIMEOUT_HOURS: Final = 168
_MAX_KEY_CHARS = 32
_MAX_VALUE_CHARS = 512

ENDED_STATES: Final = frozenset({"SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED"})
"""A job in one of these changes no more. In every other, those too that nobody knows yet, it is taken to be at work."""

Number = Annotated[int, Meta(ge=0, le=2**53)]
T = TypeVar("T", "FileCard", "BatchJob")


class FileCard(Incoming, frozen=True, gc=False, rename={"size": "bytes"}):
    """What the server says of a file.

    Attributes:
        size: in bytes. ``created_at``, ``expires_at``: Unix times in seconds.
        num_lines: of a file of lines, as the server counted them.
    """

    id: str
    filename: str = ""
    size: Number | None = None
    purpose: str | None = None
    created_at: Number | None = None
    expires_at: Number | None = None
    num_lines: Number | None = None


class JobProblem(Incoming, frozen=True, gc=False):
    """Why requests of a job, or all of it, failed. ``count``: how many did for that reason."""

    message: str
    count: Number = 1


class BatchJob(Incoming, frozen=True, gc=False):
    """What the server says of a batch job.

    Attributes:
        status: its state. Servers may have others than those of the specification: see `has_ended`.
        output_file, error_file: ids of the files with its results; either may be missing, also of a job that succeeded.
        errors: why it failed, or requests of it did.
        created_at, started_at, completed_at: Unix times in whole seconds.
    """

    ESSENTIAL: ClassVar[frozenset[str]] = frozenset({"output_file", "error_file"})

    id: str
    status: str
    endpoint: str | None = None
    model: str | None = None
    input_files: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None
    output_file: str | None = None
    error_file: str | None = None
    errors: tuple[JobProblem, ...] | None = None
    total_requests: Number | None = None
    completed_requests: Number | None = None
    succeeded_requests: Number | None = None
    failed_requests: Number | None = None
    created_at: Number | None = None
    started_at: Number | None = None
    completed_at: Number | None = None

    @classmethod
    def mended(cls, given: dict[str, Any]) -> dict[str, Any]:
        errors = given.get("errors")
        if not isinstance(errors, list):
            return given
        return given | {"errors": list(map(_problem, cast("list[Any]", errors)))}

    @property
    def has_ended(self) -> bool:
        """Whether it will change no more."""
        return self.status in ENDED_STATES


def _problem(said: Any) -> dict[str, Any]:
    fields = cast("dict[str, Any]", said) if isinstance(said, dict) else {"message": said}
    message: object = fields.get("message")
    return fields | {"message": message if isinstance(message, str) else repr(message)}


class Page(Struct, Generic[T], frozen=True):
    """One page of a list.

    Attributes:
        items: those that can be read. ``count``: how many it has.
        total: of the whole list, where the server says so.
    """

    items: list[T]
    count: int
    total: int | None


class _List(Incoming, frozen=True, gc=False):
    data: list[Raw]
    total: Number | None = None
    error: Any = None


class _Deleted(Incoming, frozen=True, gc=False):
    deleted: bool = True
    error: Any = None


class _JobRequest(Struct, frozen=True, omit_defaults=True):
    endpoint: str
    input_files: Sequence[str]
    model: str | None = None
    metadata: Mapping[str, str] | None = None
    timeout_hours: int = 24


def job_body(
    endpoint: str,
    input_files: Sequence[str],
    *,
    model: str | None,
    metadata: Mapping[str, str] | None,
    timeout_hours: int,
) -> bytes:
    """The request that creates a job.

    Raises:
        InputError: Mistral would refuse it.
    """
    if not input_files:
        raise InputError("a batch job needs an input file")
    if not 1 <= timeout_hours <= MAX_TIMEOUT_HOURS:
        raise InputError(
            f"a batch job's time-out is from 1 to {MAX_TIMEOUT_HOURS} hours, not {timeout_hours}"
        )
    for key, value in (metadata or {}).items():
        if not 1 <= len(key) <= _MAX_KEY_CHARS or not 1 <= len(value) <= _MAX_VALUE_CHARS:
            raise InputError(
                f"metadata of a batch job has keys of 1 to {_MAX_KEY_CHARS} characters and values of 1 to "
                f"{_MAX_VALUE_CHARS}: {key!r} has not"
            )
    return msgspec.json.encode(_JobRequest(endpoint, input_files, model, metadata, timeout_hours))


def request_line(custom_id: str, body: bytes) -> bytes:
    """A line of an input file. ``body``: the request as JSON, without a newline in it."""
    return b'{"custom_id":' + msgspec.json.encode(custom_id) + b',"body":' + body + b"}\n"


def _with_id(kind: type[T]) -> Callable[[bytes], T]:
    decode = tolerant_decoder(kind)

    def decode_one(raw: bytes) -> T:
        decoded = decode(raw)
        if not decoded.id:
            raise ValueError("its id is empty")
        return decoded

    return decode_one


decode_file = _with_id(FileCard)
decode_job = _with_id(BatchJob)
_decode_list = tolerant_decoder(_List)
_decode_deleted = tolerant_decoder(_Deleted)


def _page_of(decode_one: Callable[[bytes], T]) -> Callable[[bytes], Page[T]]:
    def decode_page(raw: bytes) -> Page[T]:
        found = _decode_list(raw)
        if is_error(found.error):
            raise ValueError("the list has an error beside it")
        items: list[T] = []
        for each in found.data:
            try:
                items.append(decode_one(bytes(each)))
            except ValueError:
                continue  # one that nobody can read must not hide the others
        return Page(items, len(found.data), found.total)

    return decode_page


decode_files = _page_of(decode_file)
decode_jobs = _page_of(decode_job)


def check_deleted(raw: bytes) -> None:
    """Raises `ValueError` where the answer to a deletion does not say that something was deleted."""
    answer = _decode_deleted(raw)
    if is_error(answer.error) or not answer.deleted:
        raise ValueError("the server did not delete it")
