"""Who may look at ledgers, and that looking changes nothing."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path

import pytest
from tests.viewer.conftest import Client, Look, Runs, View

from mistill import InputError, view
from mistill.viewer import running
from mistill.viewer.access import Access, is_own_host, is_own_page
from mistill.viewer.catalogue import Catalogue


def state_of(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_who_has_the_token_gets_a_cookie_and_nobody_else_gets_anything(runs: Runs, views: View) -> None:
    runs.run("answers.jsonl", ["a", "b"])
    viewer = views(runs.folder)
    client = Client(viewer.url)
    assert client.opened.status == 200
    cookie = client.opened.headers["Set-Cookie"]
    assert re.fullmatch(r"mistill_view_\d+=[\w-]{43}; Path=/; HttpOnly; SameSite=Strict", cookie)
    assert viewer.url.partition("token=")[2] not in cookie
    assert len(client.ask("home")["runs"]) == 1
    other = Client(viewer.url)
    other.jar.clear()
    for path in (
        "/",
        "/run?run=answers.jsonl",
        "/?token=",
        "/?token=wrong",
        "/?token=%ff",
        "/api/home",
        "/api/rows?run=x",
    ):
        refused = other.get(path)
        assert (refused.status, "Set-Cookie" in refused.headers) == (401, False), path
        assert b"it has a token in it" in refused.body
    assert other.get("/api/home?token=" + viewer.url.partition("token=")[2]).status == 401  # in pages alone
    assert other.get("/api/home", Cookie="=; ;,").status == 401
    assert other.get("/page/app.js").status == 200  # of the package, and nobody's


def test_what_is_odd_is_refused_as_all_else_is_and_nothing_is_said_of_it(
    runs: Runs, look: Look, caplog: pytest.LogCaptureFixture
) -> None:
    runs.run("answers.jsonl", ["a"])
    client = look(runs.folder)
    port = int(client.base.rpartition(":")[2])
    name = next(iter(client.jar)).name
    for cookie in (b'%s="\xff"', b"%s=\xff", b'%s="\\377"', b"%s=\xed\xa0\x80"):
        answer = raw(port, b"GET /api/home HTTP/1.1", b"Cookie: " + cookie % name.encode())
        assert answer.split()[1] == b"401", cookie
        assert b"Content-Security-Policy" in answer
    assert raw(port, b"GET /?token=\xff HTTP/1.1").split()[1] in (b"400", b"401")
    assert client.get("/api/rows?run=answers.jsonl&search=" + "x" * 20_000).json["rows"] == []
    assert raw(port, b"GET /" + b"x" * 100_000 + b" HTTP/1.1").split()[1] == b"400"
    assert raw(port, b"\x16\x03\x01").split()[1] == b"400"
    assert caplog.text == ""


def raw(port: int, *lines: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"\r\n".join((*lines, b"Host: 127.0.0.1", b"Connection: close", b"", b"")))
        with connection.makefile("rb") as file:
            return file.read()


def test_another_host_name_and_another_page_are_refused(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", ["a"])
    client = look(runs.folder, annotate=True)
    port = client.base.rpartition(":")[2]
    assert client.get("/api/home", Host=f"localhost:{port}").status == 200
    assert client.get("/api/home", Host="127.0.0.1:9").status == 200  # by a port that is forwarded
    for host in ("evil.example", f"127.0.0.1.evil.example:{port}", "evil.example:127.0.0.1", "[::1", ""):
        assert client.get("/api/home", Host=host).status == 403, host
        assert client.get("/", Host=host).status == 403, host
    for headers in (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},  # which is sent the same cookies
        {"Origin": "null"},
    ):
        assert client.get("/api/home", **headers).status == 403, headers
        assert client.post("/api/mark", {}, **headers).status == 403, headers
    allowed = client.get("/api/home", Sec_Fetch_Site="same-origin", Origin=client.base)
    assert allowed.status == 200
    assert "Access-Control-Allow-Origin" not in allowed.headers


def test_a_browser_is_told_to_run_nothing_but_our_own_modules(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", ["a"])
    client = look(runs.folder)
    for path in ("/", "/row?run=x", "/api/home", "/api/rows", "/page/style.css", "/nothing"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
    page = client.get("/").body.decode()
    modules = set(re.findall(r'(?:src|href)="(/[^"]*)"', page))
    assert modules == {"/page/icon.svg", "/page/colors.css", "/page/style.css", "/page/app.js"}
    assert "http" not in page.replace("http-equiv", "")
    for name in ("app.js", "rows.js", "row.js", "runs.js", "sides.js", "dom.js"):
        text = client.get(f"/page/{name}").body.decode()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|DOMParser", text
        ), name
    for path in ("/page/../service.py", "/page/%2e%2e/service.py", "/page/nothing.js", "/page/"):
        assert client.get(path).status == 404, path


def test_looking_changes_nothing(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", ["a", "b", "c"])
    before = state_of(runs.folder)
    client = look(runs.folder)
    for what, given in (
        ("home", {}),
        ("run", {}),
        ("rows", {"where": "state=completion"}),
        ("row", {"row": 1}),
        ("text", {"row": 1, "name": "value"}),
        ("side-by-side", {}),
    ):
        assert (
            client.get(
                f"/api/{what}?run=answers.jsonl&" + "&".join(f"{k}={v}" for k, v in given.items())
            ).status
            == 200
        )
    at = client.ask("rows", run="answers.jsonl")["rows"][0]["ended_at"]
    refused = client.post("/api/mark", {"run": "answers.jsonl", "row": 0, "outcome_at": at, "mark": "good"})
    assert (refused.status, refused.json["problem"]) == (403, "this viewer only reads")
    assert "annotate" in refused.json["hint"]
    assert state_of(runs.folder) == before


def test_only_runs_that_are_listed_are_read(
    runs: Runs, look: Look, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = Runs(tmp_path_factory.mktemp("elsewhere"), runs.simulator)
    elsewhere.run("secret.jsonl", ["a"])
    runs.run("answers.jsonl", ["a"])
    (runs.folder / "linked").symlink_to(elsewhere.folder)
    client = look(runs.folder)
    secret = elsewhere.folder / "secret.jsonl"
    assert [run["name"] for run in client.ask("home")["runs"]] == ["answers.jsonl"]
    for name in (
        str(secret),
        os.path.relpath(secret, runs.folder),
        "linked/secret.jsonl",
        "answers.jsonl.ledger",
        "\0",
    ):
        refused = (
            client.post("/api/nothing", {})
            if not name
            else client.get(f"/api/rows?run={name.replace(chr(0), '%00')}")
        )
        assert (refused.status, "there is no run" in refused.json["problem"]) == (400, True), name


def test_it_listens_on_this_machine_alone(runs: Runs, views: View) -> None:
    runs.run("answers.jsonl", ["a"])
    viewer = views(runs.folder / "answers.jsonl")
    assert viewer.url.startswith("http://127.0.0.1:")
    assert (
        viewer.url not in viewer._repr_html_().partition("</a>")[0].partition(">")[2]
    )  # no token where one may look on
    port = int(viewer.url.partition("/?")[0].rpartition(":")[2])
    with socket.socket() as taken, pytest.raises(ConnectionRefusedError):
        taken.connect(("127.0.0.2", port))
    with pytest.raises(InputError, match=f"cannot listen at 127.0.0.1, port {port}"):
        view(runs.folder, port=port)
    viewer.close()
    viewer.close()
    with socket.socket() as gone, pytest.raises(ConnectionRefusedError):
        gone.connect(("127.0.0.1", port))


async def test_what_cannot_start_leaves_its_port(
    runs: Runs, views: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiohttp import web

    async def fail(_: object) -> None:
        raise OSError("no more files")

    monkeypatch.setattr(web.SockSite, "start", fail)
    place = running._Place(Catalogue(runs.folder), 0, annotate=False)
    with pytest.raises(OSError, match="no more files"):
        async with place:
            pass
    assert place._bound.fileno() == -1


def test_what_is_no_run_is_refused_before_anything_listens(tmp_path: Path, views: View) -> None:
    with pytest.raises(InputError, match="there is no run and no folder at"):
        view(tmp_path / "nothing")
    tmp_path.joinpath("rows.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="no run is known for"):
        view(tmp_path / "rows.jsonl")
    assert Client(views(tmp_path).url).ask("home")["runs"] == []


def test_names_and_tokens_are_compared_as_wholes() -> None:
    access = Access(80)
    assert [access.is_token(given) for given in (access.token, access.token[:-1], "", None, "ä")] == [
        True
    ] + [False] * 4
    assert access.has_cookie(access.cookie.partition(";")[0])
    assert not Access(80).has_cookie(access.cookie.partition(";")[0])
    assert [
        is_own_host(host)
        for host in ("localhost", "127.0.0.1:1", "LOCALHOST", "10.0.0.1", "a@127.0.0.1x", None)
    ] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert not is_own_page("none", "https://127.0.0.1", "127.0.0.1")
