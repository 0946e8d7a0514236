"""A file at a store (S3, Google Cloud Storage, Azure, the Hugging Face Hub) or on the web, through fsspec.

Needs the extra ``remote``. Reading goes on where a connection breaks. Writing: the file is made in a temporary folder
of this machine, and then sent in one upload, of which nothing can be seen before it is complete: S3's multipart uploads
and the like of the others, a commit of the Hub, a PUT of HTTP.
"""

from __future__ import annotations

import glob
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from msgspec import Struct

from mistill.addresses import STORES, keep_secrets, scheme_of, shown, whole
from mistill.datasets import far_places
from mistill.datasets.far_places import GOES_ON
from mistill.datasets.formats import files_in
from mistill.datasets.optional_library import OptionalLibrary
from mistill.datasets.places.output_stream import OutputStream, write_all
from mistill.datasets.places.patience import patiently
from mistill.datasets.places.place import Place
from mistill.datasets.places.steady_file import SteadyFile
from mistill.datasets.places.store_errors import is_of_nothing_known, problem_of, told_by
from mistill.errors import InputError, MistillError
from mistill.redaction import hide, hide_settings
from mistill.wording import START_AGAIN, words

_log = logging.getLogger("mistill")

_T = TypeVar("_T")

_LONGEST_NAME: Final = 60
"""In characters, of at most four bytes each."""
_BLOCK_BYTES = 4 << 20
"""Read ahead at a time: at 50 ms a request that is still 80 MB a second, and little for whoever wants the first row."""
_CONNECT_S = 30
_SILENCE_S = 60
"""After which a server of the web counts as gone. aiohttp's own limit is five minutes for a whole file."""


class _Store(Struct, frozen=True):
    """Attributes: ``library`` that reaches it; ``credentials``: how it is told who asks; ``reads``, ``writes``: what it
    calls the rights to these, where it has them one by one."""

    library: OptionalLibrary
    credentials: str
    reads: str | None = None
    writes: str | None = None


_STORES: Final = {
    "s3": _Store(
        OptionalLibrary("s3fs", extra="remote"),
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket FSSPEC_S3_ANON=true",
        reads="s3:GetObject and s3:ListBucket",
        writes="s3:PutObject",
    ),
    "gs": _Store(
        OptionalLibrary("gcsfs", extra="remote"),
        "set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login; for a public bucket "
        "FSSPEC_GS_TOKEN=anon",
        reads="storage.objects.get and storage.objects.list",
        writes="storage.objects.create and storage.objects.delete",
    ),
    "az": _Store(
        OptionalLibrary("adlfs", extra="remote"),
        "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        reads="of a role Storage Blob Data Reader, of a signature r and l",
        writes="of a role Storage Blob Data Contributor, of a signature c and w",
    ),
    "hf": _Store(OptionalLibrary("huggingface_hub", extra="remote"), "set HF_TOKEN, or run hf auth login"),
    "http": _Store(
        OptionalLibrary("aiohttp", extra="remote"), "the address itself must say who asks: a signed one"
    ),
}
_FSSPEC = OptionalLibrary("fsspec", extra="remote")


class RemoteFile(Place):
    """A file that is elsewhere. Whether it is there is asked when that must be known, not before."""

    is_far = True

    def __init__(self, address: str) -> None:
        self.name = keep_secrets(address)
        self._address = whole(address)
        scheme = scheme_of(address)
        assert scheme is not None, "it is an address"
        self._kind = STORES[scheme]
        self._store = _STORES[self._kind]
        self._version: str | None = None

    # --- reading ----------------------------------------------------------------------------------------------------

    def check_readable(self) -> None:
        info = self._info()
        self._version = _version_of(info)
        if info["type"] == "directory":
            raise InputError(
                f"{self.name} is a directory", hint=f"name its files: {files_in(self.name, self._listed())}"
            )

    def _listed(self) -> list[str]:
        """What is in it, as a directory; nothing where the store does not say."""
        fs, path = self._found
        with suppress(Exception):  # of any type: each store has its own
            return [str(name) for name in self._asked(lambda: fs.ls(path, detail=False))]
        return []

    @contextmanager
    def open(self) -> Generator[IO[bytes]]:
        info = self._info()
        self._version = _version_of(info)
        # Of a server that gives no parts of a file, nothing can be read on or read back.
        if info.get("size") is None or not info.get("partial", True):
            with self._fetched() as file:
                yield file
            return
        with SteadyFile(self._opened, self.check_unchanged, self._broken_off) as steady:
            yield steady  # pyright: ignore[reportReturnType]  a RawIOBase reads bytes

    @contextmanager
    def for_library(self) -> Generator[str | IO[bytes]]:
        with self.open() as file:
            yield file

    @property
    def version(self) -> str | None:
        return self._version

    def check_unchanged(self) -> None:
        if self._version is not None and _version_of(self._info()) != self._version:
            raise self._changed()

    def matches(self) -> list[str]:
        """The files that it names, sorted, as addresses: itself, unless it is a glob.

        Raises:
            InputError: the store cannot be asked, or nothing matches.
        """
        if self._kind == "http" or not glob.has_magic(self._address):
            return [self._address]
        fs, path = self._found
        with self.explaining():
            fs.invalidate_cache()
            found: dict[str, dict[str, Any]] = self._asked(lambda: fs.glob(path, detail=True))
        start = self._address.removesuffix(path) if self._address.endswith(path) else None
        files = sorted(name for name, info in found.items() if info.get("type") == "file")
        if not files:
            raise InputError(f"no file matches {self.name!r}")
        return [fs.unstrip_protocol(name) if start is None else start + name for name in files]

    @cached_property
    def _found(self) -> tuple[Any, str]:
        """The file system of fsspec's, and the path in it."""
        core = _FSSPEC.load(self.name, "fsspec.core")
        library = self._store.library.load(self.name)
        settings: dict[str, Any] = {}
        if self._kind == "http":
            timeout = library.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
            # What is quoted already, a signature above all, must leave as it is.
            settings = {"client_kwargs": {"timeout": timeout}, "encoded": "%" in self._address}
        try:
            return core.url_to_fs(self._address, **settings)
        except Exception as error:  # nothing has been asked yet: what is wrong are settings, or the address
            raise InputError(f"{self.name}: {self._told(error)}", hint=self._store.credentials) from None

    def _info(self) -> dict[str, Any]:
        fs, path = self._found
        with self.explaining():
            fs.invalidate_cache()
            return self._asked(lambda: fs.info(path))

    def _info_if_there(self) -> dict[str, Any] | None:
        fs, path = self._found
        with self.explaining(is_output=True):
            fs.invalidate_cache()
            try:
                return self._asked(lambda: fs.info(path))
            except Exception as error:
                if problem_of(error) != "missing":
                    raise
                return None

    def _asked(self, ask: Callable[[], _T], *, upload_bytes: int = 0) -> _T:
        """What a store answers: the Hub's library would wait for ever, those of others end by themselves."""
        return patiently(self.name, ask, upload_bytes=upload_bytes) if self._kind == "hf" else ask()

    def _opened(self) -> Any:
        fs, path = self._found
        fs.invalidate_cache()
        return fs.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="readahead")

    @contextmanager
    def _fetched(self) -> Generator[IO[bytes]]:
        """The whole file, in a temporary one."""
        fs, path = self._found
        with tempfile.TemporaryFile(prefix="mistill-") as copy:
            for wait_s in (*far_places.WAITS_S, None):
                try:
                    with fs.open(path, "rb") as stream:
                        shutil.copyfileobj(stream, copy, _BLOCK_BYTES)
                    break
                except Exception as error:
                    if wait_s is None or problem_of(error) != "broken":
                        raise self._broken_off(error, copy.tell()) from None
                copy.seek(0)
                copy.truncate()
                time.sleep(wait_s)
            copy.seek(0)
            yield copy

    # --- writing ----------------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        if self._kind == "http":  # an address that is signed for PUT answers nothing else
            _ = self._found
            return
        info = self._info_if_there()
        if info is not None and info["type"] == "directory":
            raise InputError(f"{self.name} is a directory", hint="name a file in it")
        if info is None:
            self._check_container()

    def _check_container(self) -> None:
        fs, path = self._found
        container = "/".join(path.split("/")[: 3 if self._kind == "hf" else 1])
        with self.explaining(is_output=True):
            is_there = path != container and self._asked(lambda: fs.exists(container))
        if not is_there:
            what = "repository" if self._kind == "hf" else "bucket or container"
            raise InputError(f"{self.name}: there is no {what} {container}", hint="make it, or name another")

    def holds_something(self) -> bool:
        try:
            info = self._info_if_there()
        except InputError:
            if self._kind == "http":
                return False
            raise
        return info is not None and info["type"] == "file" and info.get("size") != 0

    @contextmanager
    def writing(self, made_of: Sequence[str | Path] = ()) -> Generator[OutputStream]:  # noqa: ARG002  a store has rights of its own
        with tempfile.TemporaryDirectory(prefix="mistill-") as folder:
            # Stores see the kind of a file by its suffix; a file has a shorter name than theirs may be.
            file = Path(folder, self.name.rpartition("/")[2][-_LONGEST_NAME:] or "output")
            with file.open("wb", buffering=0) as raw:
                output = OutputStream(f"{self.name} (its copy in {folder})", partial(write_all, raw.fileno()))
                try:
                    yield output
                    output.emit_pending()
                except BaseException:
                    output.discard()
                    raise
            self._send(file)

    def _send(self, file: Path) -> None:
        fs, path = self._found
        # aiohttp would send it in chunks without a length, which S3 and others refuse.
        length = {"Content-Length": str(file.stat().st_size)}
        settings = {"method": "put", "headers": length} if self._kind == "http" else {}
        for wait_s in (*far_places.WAITS_S, None):
            try:
                self._asked(
                    lambda: fs.put_file(str(file), path, **settings), upload_bytes=file.stat().st_size
                )
                fs.invalidate_cache()
            except Exception as error:
                if wait_s is None or problem_of(error) != "broken":
                    raise self._not_written(error) from None
            else:
                return
            _log.warning("%s: the upload broke off, and is tried again", self.name)
            time.sleep(wait_s)

    # --- what goes wrong --------------------------------------------------------------------------------------------

    @contextmanager
    def explaining(self, *, to_go_on: str = GOES_ON, is_output: bool = False) -> Generator[None]:
        """An `InputError` for whatever a library raises; what that says of addresses is secret.

        Args:
            to_go_on: what to do once the store can be reached.
            is_output: it is asked what an output would replace.
        """
        try:
            yield
        except MistillError:
            raise
        except Exception as error:
            raise self._refusal(error, to_go_on, is_output=is_output) from None

    def _refusal(self, error: Exception, to_go_on: str = GOES_ON, *, is_output: bool = False) -> InputError:
        problem = problem_of(error)
        if problem == "missing":
            hint = None if self._kind != "hf" else "or it is private: set HF_TOKEN, or run hf auth login"
            return InputError(f"{self.name}: no such file", hint=hint)
        if problem == "denied":
            return self._not_read(is_output=is_output)
        if problem == "credentials":
            return InputError(f"{self.name}: no credentials were found", hint=self._store.credentials)
        if problem == "changed":
            return self._changed()
        if self._kind == "hf" and is_of_nothing_known(error):
            return InputError(
                f"{self.name}: what answers at {self._hub_address()} is no Hugging Face Hub",
                hint="see whether HF_ENDPOINT is right, and whether a proxy or a login answers in its place",
            )
        store = f"the Hub at {self._hub_address()}" if self._kind == "hf" else "the store"
        return InputError(f"{self.name}: {store} cannot be reached: {self._told(error)}", hint=to_go_on)

    def _hub_address(self) -> str:
        return shown(str(self._store.library.load(self.name, "huggingface_hub.constants").ENDPOINT))

    def _told(self, error: Exception) -> str:
        """What a library says, without what it has from settings of its own: fsspec's, and the token of a login."""
        if _FSSPEC.is_there:
            hide_settings(_FSSPEC.load(self.name, "fsspec.config").conf)
        if self._kind == "hf":
            with suppress(Exception):  # whatever is wrong with its files
                hide(self._store.library.load(self.name).get_token())
        return told_by(error)

    def _broken_off(self, error: Exception, at: int) -> Exception:
        if isinstance(error, MistillError):
            return error
        if at == 0 or problem_of(error) != "broken":
            return self._refusal(error)
        return InputError(
            f"{self.name}: the connection broke after {at:,} bytes: {self._told(error)}", hint=GOES_ON
        )

    def _changed(self) -> InputError:
        return InputError(
            f"{self.name} was changed while it was read",
            hint=words(START_AGAIN, ": rows that are as they were keep their answers"),
        )

    def _not_read(self, *, is_output: bool) -> InputError:
        rights, asks = self._store.reads, self._store.credentials
        if rights is None:
            return InputError(f"{self.name}: the store refuses access", hint=asks)
        right = f"who asks needs the right to read there ({rights})"
        if not is_output:
            return InputError(
                f"{self.name}: the store refuses access", hint=f"{right}; if that is another, {asks}"
            )
        return InputError(
            f"{self.name}: the store refuses to say whether it is there",
            hint=f"{right}, beside that to write: what is there is not replaced unseen; if that is another, "
            f"{asks.partition('; for a public')[0]}",
        )

    def _not_written(self, error: Exception) -> MistillError:
        if isinstance(error, MistillError):
            return error
        told = {"denied": "the store refuses it", "credentials": "no credentials were found"}
        problem = problem_of(error)
        asks = self._store.credentials
        if problem == "denied":  # who asks is known, or it had failed before
            right = "the right to write there" + (f" ({self._store.writes})" if self._store.writes else "")
            asks = f"who asks needs {right}; if that is another, {asks.partition('; for a public')[0]}"
        return MistillError(
            f"{self.name} could not be written: {told.get(problem or '', self._told(error))}",
            hint="no answer is lost, the ledger has them; export again once that is mended"
            + (f": {asks}" if problem in told else ""),
        )


def _version_of(info: dict[str, Any]) -> str | None:
    """By what the stores say of a file: an ETag, a hash, a moment; and its size."""
    names = (
        "ETag",
        "etag",
        "md5Hash",
        "Content-MD5",
        "generation",
        "blob_id",
        "LastModified",
        "last_modified",
    )
    found = next((info[name] for name in (*names, "Last-Modified", "mtime") if info.get(name)), None)
    return None if found is None else f"{found} {info.get('size')}"
