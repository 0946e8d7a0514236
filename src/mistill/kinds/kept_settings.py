"""What a ledger has of a run besides its rows, typed: its manifest, its model, its options."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Generator, Iterable
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias, cast
from urllib.parse import quote, unquote, unquote_to_bytes

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mistill.addresses import database_file, is_elsewhere, keep_secrets, scheme_of, shown
from mistill.api.prices import Prices, factors_of, load_prices
from mistill.datasets.formats import format_by_suffix
from mistill.datasets.hugging_face import features_of, with_features
from mistill.datasets.optional_library import PYARROW
from mistill.datasets.sources import Source
from mistill.errors import InputError, LedgerError, MistillError
from mistill.kinds import KINDS
from mistill.kinds.kind import Kind
from mistill.kinds.manifest import RunManifest
from mistill.kinds.options import RunOptions
from mistill.ledger import LedgerReader
from mistill.ledger.far_outputs import address_of_ledger, ledger_of_address
from mistill.ledger.files import is_database, is_ledger
from mistill.ledger.permissions import check_may_read
from mistill.ledger.shard_files import check_plan_is_there, is_in_shards, is_memory, whole_run
from mistill.same_place import canonical, is_same_file, refuse_unclear
from mistill.struct_types import look_at
from mistill.wording import Phrase, Setting, words

LEDGER_SUFFIX: Final = ".ledger"
_MOST_NAMED: Final = 5


def ledger_beside(out: str | Path) -> Path:
    """Where the run that writes ``out`` remembers, unless it was told another place: the same however that is written.

    Earlier versions went by how it is written; a ledger that is there stays what it is.
    """
    name = str(out).rstrip("/") or str(out)
    beside, as_written = _named(canonical(name)), _named(shown(name))
    return as_written if as_written != beside and _is_there(as_written) and not _is_there(beside) else beside


def _named(out: str) -> Path:
    if is_elsewhere(out):
        return ledger_of_address(out, LEDGER_SUFFIX)
    if (file := database_file(out)) is not None:
        table = out.partition("?")[2].removeprefix("table=")
        return Path(f"{file}.{quote(unquote(table), safe=' ')}{LEDGER_SUFFIX}")
    return Path(f"{out}{LEDGER_SUFFIX}")


def output_of(ledger: str | Path) -> str | None:
    """The output of the run that remembers here, as its ledger says it, or its name where that cannot be asked.

    Beside the ledger it is where that is by now: both may have been moved together. Another one is named from the
    working directory, if it is in there.

    Returns:
        ``None`` where it has none, where it is stdout, where another run writes it by now, and where nobody knows: see
        `is_output_unknown`.
    """
    return output_as_said(ledger, said_output(Path(ledger)))


def output_as_said(ledger: str | Path, said: SaidOutput) -> str | None:
    """The same, of a ledger that says of its output what `said_output` has found in it."""
    path = Path(ledger)
    if (address := address_of_ledger(path, LEDGER_SUFFIX)) is not None:
        return address
    if not isinstance(said, str):
        return None if said is None else _by_name(ledger)
    out = _placed(said, path)
    if out is None:
        return None
    if _is_of_another(out, path):
        return _by_name(ledger)
    # Both may have been renamed, too.
    return out if Path(database_file(out) or out).exists() else _by_name(ledger, is_there=True) or out


def _by_name(ledger: str | Path, *, is_there: bool = False) -> str | None:
    """The output beside which a ledger is called as one is that remembers of it; ``is_there``: only if it exists."""
    out = str(ledger).removesuffix(LEDGER_SUFFIX)
    if out == str(ledger):
        return None
    return out if Path(out).exists() or (not is_there and format_by_suffix(out) is not None) else None


def is_output_unknown(reader: LedgerReader) -> bool:
    """Whether a ledger of whose run no output is found does not say that it has none."""
    return _stored(reader).out is not None


SaidOutput: TypeAlias = "str | UnsetType | None"


def said_output(ledger: Path, reader: LedgerReader | None = None) -> SaidOutput:
    """What a ledger says of its run's output; ``UNSET``: nothing, or nobody can read it.

    Args:
        reader: of the ledger, where it is open already.
    """
    with (
        suppress(MistillError, OSError),
        LedgerReader(ledger) if reader is None else nullcontext(reader) as reader,
    ):
        if (said := _stored(reader).out) is not UNSET:
            return said and os.fsdecode(unquote_to_bytes(said))
        with explained_meta(reader):  # of earlier versions, those starts alone that came to their end
            records = [msgspec.json.decode(start.record, type=_Wrote) for start in reader.starts()]
        return next((record.output for record in reversed(records) if record.output is not None), UNSET)
    return UNSET


def _placed(said: str, ledger: Path) -> str | None:
    """Where an output is by now that a ledger names."""
    if said == "-" or "…" in said:  # what is hidden of an address, nobody can open
        return None
    if is_elsewhere(said):
        return said
    file = database_file(said)
    path = Path(said if file is None else file)
    if ledger.name in (_named(canonical(said)).name, _named(said).name):
        near = ledger.with_name(ledger.name.removesuffix(LEDGER_SUFFIX) if file is None else path.name)
    elif path.is_absolute() and path.parent.is_dir():
        near = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    else:  # of another machine, or from a working directory that nobody knows
        return None
    return str(near) if file is None else _in_file(said, near)


def _is_of_another(out: str, ledger: Path) -> bool:
    """Whether another ledger stands where that of this output belongs: one that was put aside does not write it."""
    beside = ledger_beside(out)
    return beside.exists() and not is_same_file(beside, ledger)


def _lasting(out: str | None) -> str | None:
    """An output as a ledger keeps it: found from any working directory, without secrets, and quoted as in a URL."""
    if out is not None and out != "-" and not is_elsewhere(out):
        file = database_file(out := canonical(out))
        out = str(Path(out).absolute()) if file is None else _in_file(out, Path(file).absolute())
    return out and quote(os.fsencode(out))


def _in_file(address: str, file: Path) -> str:
    """The address of a table, in a database that is another file."""
    return f"{scheme_of(address)}:///{quote(str(file))}?{address.partition('?')[2]}"


def find_run(path: str | Path | None, ledger: str | Path | None = None) -> tuple[str | None, Path]:
    """The output and the ledger of a run that was started before.

    Args:
        path: its output, which need not be there, or its ledger; ``None``: it has no output.
        ledger: where it remembers, if not beside its output.

    Returns:
        The output, ``None`` where nothing says it, and the ledger.

    Raises:
        InputError: there is no such ledger.
        LedgerError: this user may not read it, or it is of a run in shards whose plan is gone.
    """
    if path is None:
        if ledger is None:
            raise InputError("no run is named", hint=words("give its output, or its ", Setting("ledger")))
        path, ledger = ledger, None
    name = keep_secrets(str(path).rstrip("/") or str(path))
    refuse_unclear(name)
    beside = whole_run(Path(ledger)) if ledger is not None else ledger_beside(name)
    check_may_read(beside)
    if ledger is None and not is_memory(beside) and (tables := _tables_of_runs(name)):
        raise InputError(
            f"no run is known for {name}, but for {'a table' if len(tables) == 1 else 'tables'} of it",
            hint=f"name {'it' if len(tables) == 1 else 'one of them'}: {', '.join(tables[:_MOST_NAMED])}",
        )
    if ledger is None and not is_memory(beside) and _is_ledger(name):
        beside = whole_run(Path(name))
        out = output_of(beside)
    else:
        out = name
    check_may_read(beside)
    if not is_memory(beside):
        check_plan_is_there(beside)
        missing = f"there is no file {beside}"
        if scheme_of(name) is None and not Path(name).name:  # `.`, which no ledger is called after
            missing = "it is a folder"
        raise InputError(
            f"no run is known for {name}: {missing}",
            hint=words("give the output of the run, or its ", Setting("ledger"), _elsewhere(name)),
        )
    return out, beside


def _tables_of_runs(name: str) -> list[str]:
    """The addresses of tables of a database in a file that runs write, by their ledgers, which are beside it."""
    file = database_file(name)
    path = Path(name if file is None else file)
    if file is None and not is_database(path):
        return []
    scheme = "sqlite" if file is None else scheme_of(name)
    ledgers = path.parent.glob(f"{glob.escape(path.name)}.*{LEDGER_SUFFIX}")
    tables = (ledger.name.removeprefix(f"{path.name}.").removesuffix(LEDGER_SUFFIX) for ledger in ledgers)
    return sorted(f"{scheme}:///{path}?table={table}" for table in tables if table)


def _elsewhere(name: str) -> str:
    """Of an output that is elsewhere, the ledger is where its run was started."""
    return (
        "" if not is_elsewhere(name) else "; if the run was started on another machine, its ledger is there"
    )


def _is_ledger(name: str) -> bool:
    return name.endswith(LEDGER_SUFFIX) or is_database(Path(name)) or is_in_shards(Path(name))


def refuse_unwritten(source: Any) -> None:
    """``InputError`` if a file of an input is not there because the run that writes it has not come to its end, or is a
    ledger: that is read by SQLite alone, see `is_database`."""
    several = cast("Iterable[Any]", source) if isinstance(source, list | tuple) else (source,)
    for path in several:
        if not isinstance(path, str | Path) or scheme_of(path) is not None:
            continue
        if is_ledger(Path(path)):
            raise InputError(
                f"{path} is a ledger, and no input",
                hint=words(
                    "name the output of its run, or write one: ", Phrase("export_run(…)", "`mistill export`")
                ),
            )
        if _is_there(path) or not _is_there(ledger_beside(path)):
            continue
        name = str(path)
        raise InputError(
            f"{name} is not there: the run that writes it has not come to its end",
            hint=words(
                "start that run again; what it has so far: ",
                Phrase(f"Run.open({name!r}).results()", f"mistill rows {shlex.quote(name)}"),
            ),
        )


def _is_there(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # no name that a file can have
        return False


class KeptSettings(Struct, frozen=True):
    """A run's settings as its ledger has them.

    Attributes:
        llm: the model as dumped. ``options``: those of the last start.
    """

    kind: type[Kind[Any]]
    manifest: RunManifest
    llm: dict[str, Any]
    options: RunOptions


class _Stored(Struct, frozen=True):
    llm: dict[str, Any] | None = None
    out: str | UnsetType | None = UNSET  # as `_lasting` has it; of earlier versions nothing is known
    options: dict[str, Any] = {}
    inputs: list[str] = []  # quoted as in a URL: a path may be no text
    types: bytes = b""  # of the input's columns: an Arrow schema, as base64
    versions: dict[str, str] = {}  # of inputs that are elsewhere, by their addresses


class _KindOf(Struct, frozen=True):
    kind: str | None = None


class _Wrote(Struct, frozen=True):
    output: str | None = None


def settings_to_keep(
    llm: dict[str, Any], options: RunOptions, source: Source, out: str | None
) -> dict[str, Any]:
    """The model, the output, the options, the input files and their types of a start as a ledger keeps them;
    `read_settings` reads them."""
    files = [quote(os.fsencode(_from_anywhere(path))) for path in source.paths if path != "-"]
    types = source.types()
    schema = b""
    if types:
        plain = PYARROW.load("keeping types").schema(list(types.items()))
        schema = with_features(plain, source.features()).serialize()
    return msgspec.to_builtins(
        _Stored(llm, _lasting(out), options.kept(), files, bytes(schema), source.versions())
    )


def _from_anywhere(path: str) -> str | Path:
    return Path(path).absolute() if scheme_of(path) is None else path


def read_types(reader: LedgerReader) -> tuple[dict[str, Any], dict[str, Any]]:
    """pyarrow's types of columns of the input, as the last start found them, and Hugging Face's features."""
    data = _stored(reader).types
    if not data:
        return {}, {}
    pyarrow = PYARROW.load("reading types")
    with explained_meta(reader):
        schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(data))
        return dict(zip(schema.names, schema.types, strict=True)), features_of(schema)


class KeptRetry(Struct, frozen=True):
    """A retry's settings as its ledger has them."""

    manifest: msgspec.Raw
    llm: dict[str, Any]


def read_retried_manifests(reader: LedgerReader) -> dict[int, RunManifest]:
    """What the retries of a run asked, by the numbers of their settings."""
    kind, _ = read_manifest(reader)
    found: dict[int, RunManifest] = {}
    for number, data in reader.retry_settings().items():
        with explained_meta(reader):
            kept = msgspec.json.decode(data, type=KeptRetry)
            found[number] = kind.manifest_type.decode(bytes(kept.manifest))
    return found


@contextmanager
def explained_meta(reader: LedgerReader) -> Generator[None]:
    """What a ledger has may be somebody else's, or a newer version's: what cannot be read of it is a `LedgerError`."""
    try:
        yield
    except MistillError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LedgerError(
            f"the settings of the run in {reader.path} cannot be read: {reason}",
            hint="use the version that wrote it, or start over with another output",
        ) from error


def _stored(reader: LedgerReader) -> _Stored:
    with explained_meta(reader):
        return msgspec.json.decode(reader.settings(), type=_Stored)


def read_inputs(reader: LedgerReader) -> list[str]:
    """The files that the last start read, by absolute paths, or addresses."""
    stored = _stored(reader)
    return [os.fsdecode(unquote_to_bytes(path)) for path in stored.inputs]


def changed_inputs(reader: LedgerReader, source: Source) -> list[str]:
    """Inputs that are elsewhere, and are not what they were when the last start read them."""
    before = _stored(reader).versions
    return [name for name, version in source.versions().items() if before.get(name, version) != version]


def read_manifest(reader: LedgerReader) -> tuple[type[Kind[Any]], RunManifest]:
    """Of which kind a run is, and what makes it the same run.

    Raises:
        LedgerError: it is of a kind that this version does not know, or nobody can read it.
    """
    data = reader.manifest()
    with explained_meta(reader):
        name = msgspec.json.decode(data, type=_KindOf).kind
    kind = KINDS.get(name or "")
    if kind is None:
        raise LedgerError(
            f"{reader.path} is of a run of the kind {name!r}, which this version of mistill does not know",
            hint="use the version that wrote it",
        )
    with explained_meta(reader):
        return kind, kind.manifest_type.decode(data)


def read_options(reader: LedgerReader) -> dict[str, Any]:
    """The options of the last start that were given, as JSON values."""
    return _stored(reader).options


def read_endpoint(reader: LedgerReader) -> str | None:
    """The server that the last start asked; ``None``: it is not kept."""
    endpoint = (_stored(reader).llm or {}).get("endpoint")
    return endpoint if isinstance(endpoint, str) else None


def read_batch_factor(reader: LedgerReader) -> float:
    """What prices were multiplied with in batch jobs, by the run's own table or the shipped one."""
    return factors_of(read_prices(reader)).batch


def read_prices(reader: LedgerReader) -> Prices | None:
    """The run's own table of prices; ``None`` where it has none, or its file is not here any more."""
    prices = (_stored(reader).llm or {}).get("prices")
    if prices is not None:
        with suppress(InputError):
            return load_prices(prices)
    return None


def read_settings(reader: LedgerReader) -> KeptSettings:
    """The settings of a run.

    Raises:
        InputError: its first start never got so far as to have some.
        LedgerError: it is of a kind that this version does not know, or nobody can read it.
    """
    stored = _stored(reader)
    if stored.llm is None:
        raise InputError(f"{reader.path} has no row yet: its run never got that far", hint="start the run")
    kind, manifest = read_manifest(reader)
    with explained_meta(reader):
        options = RunOptions.of(stored.options | manifest.options())
    return KeptSettings(kind, manifest, stored.llm, options)


look_at(KeptRetry, _Stored, _KindOf, _Wrote)
