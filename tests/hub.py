"""A fake of the Hugging Face Hub: of its API what is asked here, as its library asks it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
from tests.libraries import library

TOKEN = "hf_s3cr3t0ftests"


class Hub:
    """Repositories of datasets: name → file → bytes.

    Attributes:
        commits: the files that each has changed, and its message. ``heads``: the last of each repository, by number.
        echo: what it answers everything with instead, a status and a text in which ``{}`` is whoever asks.
        hangs: it answers nothing any more until this is set.
        meanwhile: is called, once each, when the next commits arrive, before these are looked at.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[tuple[str, list[str]]] = []
        self.heads: dict[str, int] = {}
        self.meanwhile: list[Callable[[], object]] = []
        self.refuses = False
        self.echo: tuple[int, str] | None = None
        self.hangs: threading.Event | None = None

    def head(self, repo: str) -> str:
        return f"{self.heads.get(repo, 0):040}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Hub]:
    constants = library("huggingface_hub.constants")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.daemon_threads = True
    _Answers.hub = found = Hub()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(library("huggingface_hub").HfFileSystem, "_cache", {})
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_POST(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self._chunks()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" or self.hub.refuses:
            self._send({"error": "Invalid username or password."}, 401)
            return
        if self.hub.hangs is not None:
            self.hub.hangs.wait()
        if self.hub.echo is not None:
            self._echo(*self.hub.echo)
            return
        path = unquote(self.path.partition("?")[0])
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization") or "me", asked["name"])))
            is_new = name not in self.hub.repos
            self.hub.repos.setdefault(name, {".gitattributes": b""})
            is_private = (
                asked.get("private") or asked.get("visibility") == "private"
            )  # in older and newer ones
            self.hub.private.setdefault(name, is_private)
            self._send({"url": f"http://{self.headers['Host']}/datasets/{name}"}, 200 if is_new else 409)
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            told = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            self._send({"files": told})
        elif "/commit/" in path:
            self._commit(path.split("/commit/")[0].removeprefix("/api/datasets/"), body)
        elif "/paths-info/" in path:
            repo, _, _ = path.removeprefix("/api/datasets/").partition("/paths-info/")
            wanted = json.loads(body) if body.startswith(b"{") else {}
            names = wanted.get("paths", [])
            self._send([_entry(name, data) for name, data in self.hub.repos[repo].items() if name in names])
        else:
            self._send({"error": path}, 404)

    def _echo(self, status: int, text: str) -> None:
        said = text.format(self.headers.get("Authorization"))
        data = said.encode()
        self.send_response(status)
        self.send_header("X-Error-Message", said)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _commit(self, repo: str, body: bytes) -> None:
        changed: list[str] = []
        message = ""
        if self.hub.meanwhile:
            self.hub.meanwhile.pop(0)()
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", self.hub.head(repo)) != self.hub.head(
                repo
            ):
                self._send({"error": "A commit has happened since. Please refresh and try again."}, 412)
                return
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                self.hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
                changed.append(value["path"])
            elif line["key"] == "deletedFile":
                del self.hub.repos[repo][value["path"]]
                changed.append(f"-{value['path']}")
        self.hub.commits.append((message, changed))
        self.hub.heads[repo] = len(self.hub.commits)
        head = self.hub.head(repo)
        url = f"http://{self.headers['Host']}/datasets/{repo}/commit/{head}"
        self._send({"commitUrl": url, "commitOid": head, "success": True})

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if "/resolve/" in path:
            self._file(path)
            return
        repo, _, rest = path.removeprefix("/api/datasets/").partition("/tree/")
        repo = repo.partition("/revision/")[0]
        if repo not in self.hub.repos:
            self._send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif rest:
            self._tree(repo, rest.partition("/")[2])
        else:
            siblings = [{"rfilename": name} for name in self.hub.repos[repo]]
            self._send(
                {"id": repo, "sha": self.hub.head(repo), "siblings": siblings, "private": False, "tags": []}
            )

    do_HEAD = do_GET  # noqa: N815  as its base has it

    def _tree(self, repo: str, folder: str) -> None:
        start = f"{folder}/" if folder else ""
        inside = {name: data for name, data in self.hub.repos[repo].items() if name.startswith(start)}
        listed: dict[str, dict[str, Any]] = {}
        for name, data in inside.items():
            child, slash, _ = name.removeprefix(start).partition("/")
            is_folder = slash and "recursive=true" not in self.path.lower()
            listed[start + child if is_folder else name] = (
                {"type": "directory", "path": start + child, "oid": "0" * 40, "size": 0}
                if is_folder
                else _entry(name, data)
            )
        if folder and not inside:
            self._send({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._send(list(listed.values()))

    def _file(self, path: str) -> None:
        repo, _, rest = path.removeprefix("/datasets/").partition("/resolve/")
        data = self.hub.repos.get(repo, {}).get(rest.partition("/")[2])
        if data is None:
            self._send({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        given = self.headers.get("Range")
        status, size = 200, len(data)
        headers = {
            "ETag": f'"{_oid(data)}"',
            "X-Repo-Commit": self.hub.head(repo),
            "Accept-Ranges": "bytes",
        }
        if given:
            first, _, last = given.removeprefix("bytes=").partition("-")
            data = data[int(first) : int(last or size) + 1]
            status, headers["Content-Range"] = 206, f"bytes {first}-{int(first) + len(data) - 1}/{size}"
        self._send(data, status, headers)

    def _send(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header(
            "Content-Type", "application/json" if data is not body else "application/octet-stream"
        )
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  as its base has it
        pass


def _oid(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "oid": _oid(data), "size": len(data)}
