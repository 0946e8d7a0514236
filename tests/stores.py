"""Stores for tests, on 127.0.0.1: moto's server for S3, and a server of the web that can be made to fail."""

from __future__ import annotations

import multiprocessing
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

import pytest
from tests.libraries import library

BUCKET = "bucket"


class S3:
    """A stand-in for S3, and a client of its own beside ours."""

    def __init__(self, endpoint: str) -> None:
        session = library("botocore.session").get_session()
        session.set_credentials("a-key", "a-secret")
        self.client = session.create_client("s3", endpoint_url=endpoint, region_name="us-east-1")

    def put(self, key: str, data: bytes) -> str:
        """Its address."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)
        return f"s3://{BUCKET}/{key}"

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def names(self) -> list[str]:
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def uploads(self) -> list[Any]:
        """Multipart uploads that have neither ended nor been aborted."""
        return self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])


def _serve_moto(told: Connection) -> None:
    server = library("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    told.send(server.get_host_and_port())
    told.recv()


@pytest.fixture(scope="session")
def moto() -> Iterator[S3]:
    """In a process of its own: what is late to come there is in no other test's memory, nor does it take its turn."""
    library("s3fs")
    library("moto")
    ours, told = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve_moto, args=(told,), daemon=True)
    process.start()
    told.close()
    host, port = ours.recv()
    yield S3(f"http://{host}:{port}")
    process.kill()
    process.join()
    ours.close()


@pytest.fixture
def s3(moto: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """An empty bucket."""
    for name, value in {
        "AWS_ENDPOINT_URL": moto.client.meta.endpoint_url,
        "AWS_ACCESS_KEY_ID": "a-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    moto.client.create_bucket(Bucket=BUCKET)
    for key in moto.names():
        moto.client.delete_object(Bucket=BUCKET, Key=key)
    return moto


class Web:
    """Files by their paths. ``breaks``: so many answers end after half of their bytes; ``breaks_from``: all do that
    begin at that byte, or after it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.asked: list[tuple[str, str]] = []
        self.breaks = 0
        self.breaks_from: int | None = None
        self.wait_to_break: Callable[[], object] | None = None
        self.while_put: Callable[[], object] | None = None
        self.gives_parts = True
        self.version = 1

    def has(self, path: str, data: bytes) -> str:
        self.files[path] = data
        return self.url + path


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    library("fsspec")
    library("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.daemon_threads = True
    _Answers.web = found = Web(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_PUT(self) -> None:
        path = self.path.partition("?")[0]
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.web.asked.append(("PUT", self.path))
        if self.web.while_put is not None:
            self.web.while_put()
        status = self.web.statuses.get(path, 201)
        if status == 201:
            self.web.files[path] = data
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, *, with_body: bool) -> None:
        web, path = self.web, self.path.partition("?")[0]
        web.asked.append((self.command, self.path))
        data, status = web.files.get(path), web.statuses.get(path, 200)
        if data is None or status != 200:
            self.send_response(404 if data is None else status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if web.gives_parts else None
        first, size = 0, len(data)
        if part is not None:
            first, last = int(part[1]), min(int(part[2] or size), size - 1)
            data = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        else:
            self.send_response(200)
        if web.gives_parts:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{web.version}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not with_body:
            return
        if web.breaks > 0 or (web.breaks_from is not None and first >= web.breaks_from):
            if web.wait_to_break is not None:
                web.wait_to_break()
            web.breaks = max(0, web.breaks - 1)
            data = data[: len(data) // 2]
            self.close_connection = True
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  as its base has it
        pass
