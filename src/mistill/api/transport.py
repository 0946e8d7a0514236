"""The way to a server: the one importer of pyreqwest, whose clients are built here, and whose errors become ours."""

from __future__ import annotations

import asyncio
import atexit
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from mistill.api.endpoint import is_this_machine
from mistill.errors import AttemptTimeout, ConnectFailed, Disconnected, InputError, TransportError
from mistill.wording import Setting, words


@contextmanager
def _variable(name: str, value: str) -> Generator[None]:
    """The environment variable ``name`` is ``value`` meanwhile, unless it has one already."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


# What the transport's allocator reads as it is loaded. In huge pages, a connection would take a third more memory.
with _variable("MIMALLOC_ALLOW_THP", "0"):
    from pyreqwest.client import Client, ClientBuilder
    from pyreqwest.exceptions import (
        BodyDecodeError,
        BuilderError,
        ConnectError,
        ConnectTimeoutError,
        PyreqwestError,
        RequestTimeoutError,
    )
    from pyreqwest.http import Url
    from pyreqwest.multipart import FormBuilder, PartBuilder
    from pyreqwest.request import RequestBuilder
    from pyreqwest.response import Response
    from pyreqwest.runtime import runtime_worker_threads

__all__ = [
    "Client",
    "PyreqwestError",
    "RequestBuilder",
    "Response",
    "Url",
    "build_client",
    "error_of_transport",
    "heeding_cancellation",
    "with_file",
]

_EXIT_PAUSE_S = 0.002
_CONNECT_TIMEOUT_S = 10.0
"""A server that is there takes a connection within seconds, however long its answers take."""
_CONNECTING = "client error (Connect)"


class _Runtime:
    """Which of pyreqwest's two runtimes clients are built on: the single-threaded one, if that can be.

    A fork leaves the threads of a runtime that had started behind, and it cannot start again; the other one still can.
    Source: https://github.com/MarkusSintonen/pyreqwest/issues/51

    Attributes:
        multithreaded: the one in use. ``started``: by this process. ``none_left``: both were left to parents.
    """

    started = False
    multithreaded = False
    none_left = False

    @classmethod
    def after_fork(cls) -> None:
        if not cls.started:
            return
        cls.started = False
        if cls.multithreaded:
            cls.none_left = True
        else:
            cls.multithreaded = True
            runtime_worker_threads(1)

    @classmethod
    def at_exit(cls) -> None:
        """Lets the runtime's thread finish with Python: the process aborts where the interpreter's end overtakes it."""
        if cls.started:
            time.sleep(_EXIT_PAUSE_S)


atexit.register(_Runtime.at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Runtime.after_fork)


def build_client(endpoint: str, api_key: str, timeout_s: float, *, is_admin: bool = False) -> Client:
    """A pool of connections to ``endpoint``, for all threads and event loops.

    Args:
        api_key: goes out with every request. ``is_admin``: it is one of the Admin API, which has a header of its own.
        timeout_s: for one attempt, from connecting to the last byte of the body.

    Raises:
        InputError: the key cannot be sent, this machine has no CA certificates, or this process was forked by one that
            was forked itself, and each of them had clients.
    """
    if _Runtime.none_left:
        raise InputError(
            "this process was forked by a forked process, and both had sent requests: no more can be sent from here",
            hint="start it by spawn or forkserver (multiprocessing.get_context), or fork before the first request",
        )
    builder = _with_key({"x-api-key": api_key} if is_admin else {"authorization": f"Bearer {api_key}"})
    if builder is None:  # raised here, since what that came from shows the header
        raise InputError("api_key has characters that no HTTP header can hold")
    _Runtime.started = True
    builder = (
        builder.user_agent("mistill")
        .timeout(timedelta(seconds=timeout_s))
        .connect_timeout(timedelta(seconds=min(timeout_s, _CONNECT_TIMEOUT_S)))
        .follow_redirects(False)
        .runtime_multithreaded(_Runtime.multithreaded)
    )
    if is_this_machine(endpoint):
        builder = builder.no_proxy()  # one in the environment is for the world outside
        if endpoint.startswith("http:"):
            # There is no TLS anywhere, so there are no certificates to load either.
            builder = builder.danger_accept_invalid_certs(True)
    try:
        return builder.build()
    except BuilderError as error:
        causes = "; ".join(_causes(error))
        hint = None
        if "CA cert" in causes:
            hint = "install them (ca-certificates), or set SSL_CERT_FILE to a file of them"
        raise InputError(f"no client can be built for {endpoint}: {causes}", hint=hint) from error


def _with_key(header: Mapping[str, str]) -> ClientBuilder | None:
    try:
        return ClientBuilder().default_headers({**header, "content-type": "application/json"})
    except (BuilderError, ValueError):
        return None


async def with_file(
    request: RequestBuilder, path: Path, name: str, fields: Mapping[str, str]
) -> RequestBuilder:
    """The request with a form in it: the fields, and a file of lines, which is read from ``path`` as it is sent.

    Raises:
        OSError: the file cannot be read.
    """
    form = FormBuilder()
    for field, value in fields.items():
        form = form.text(field, value)
    part = (await PartBuilder.from_file(path)).file_name(name).mime("application/jsonl")
    # The boundary has to be said here, since every request of the client says that it is JSON.
    content_type = f"multipart/form-data; boundary={form.boundary}"
    return request.headers({"content-type": content_type}).multipart(form.part("file", part))


# --- what went wrong on the way -------------------------------------------------------------------------------------


def error_of_transport(error: PyreqwestError, endpoint: str, timeout_s: float) -> TransportError:
    """The error of an attempt that has no answer. See "pyreqwest's errors, seen" in docs/errors.md."""
    causes = _causes(error)
    reason = "; ".join(causes)
    if never_left(error):
        hint = "is the endpoint right, and up?"
        if "certificate" in reason:
            hint = (
                "this machine does not trust its certificate: set SSL_CERT_FILE to a file with its issuer's"
            )
        message = f"cannot connect to {endpoint}: {reason}"
        return ConnectFailed(message, endpoint=endpoint, why=reason, hint=hint)
    if isinstance(error, RequestTimeoutError):
        return AttemptTimeout(
            f"no answer within {timeout_s:g} s",
            hint=words("raise ", Setting("timeout"), ", or lower ", Setting("max_new_tokens")),
        )
    if isinstance(error, BodyDecodeError):
        return Disconnected(f"the answer was cut off: {reason or error.message}")
    return Disconnected(f"the connection ended before an answer: {reason or error.message}")


def never_left(error: PyreqwestError) -> bool:
    """Whether it is certain that nothing of the request was sent, so that it cannot have been billed.

    pyreqwest has one class for a connection that could not be made and for one that broke as the request was on its
    way; a text among its causes tells them apart. It is taken for certain only where a whole cause is this text: the
    first one has the URL in it, which may hold any words.
    """
    return isinstance(error, ConnectError | ConnectTimeoutError) and _CONNECTING in _causes(error)


def _causes(error: PyreqwestError) -> list[str]:
    details: dict[str, Any] = getattr(error, "details", None) or {}
    return [cause["message"] for cause in cast("list[dict[str, str]]", details.get("causes") or [])]


@contextmanager
def heeding_cancellation() -> Generator[None]:
    """A task that is cancelled within is cancelled behind this at the latest.

    Where an answer, or an error, is there and only not taken yet, pyreqwest gives that, and the cancellation is lost.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError
