"""The records of a run as a dataset at the Hugging Face Hub: Parquet and a card, in one commit."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from msgspec import Struct
from msgspec.structs import replace

from mistill._version import __version__
from mistill.addresses import keep_secrets
from mistill.datasets.optional_library import PYARROW, OptionalLibrary
from mistill.datasets.places.patience import patiently
from mistill.datasets.places.remote_file import RemoteFile
from mistill.datasets.places.store_errors import problem_of
from mistill.errors import InputError
from mistill.kinds.kept_settings import KeptSettings, find_run, read_settings
from mistill.ledger import LedgerReader
from mistill.redaction import hide
from mistill.runs.export import export_run
from mistill.runs.hub_card import AskedAgain, CardParts, Pushed, Split, card_of, parts_of, path_of
from mistill.runs.record_shape import shape_of
from mistill.runs.report import RunReport, read_report
from mistill.runs.row_settings import changes_of, read_retry
from mistill.runs.where import RunFilter
from mistill.wording import Setting, words

_HUB: Final = OptionalLibrary("huggingface_hub", extra="remote")
_PURPOSE: Final = "pushing to the Hub"
_CARD = "README.md"
_TRIES: Final = 6
"""Of several that push at the same time, one is there first each time."""
_FILES_TOLD: Final = 5
_PUSH_AGAIN: Final = "see whether the network and HF_ENDPOINT are right, then push again, which does no harm"
_is_split = re.compile(r"\w+(?:\.\w+)*").fullmatch
"""Source: huggingface.co/docs/datasets, names of splits."""


def push_run(
    out: str | Path | None,
    repo: str,
    *,
    ledger: str | Path | None = None,
    where: str | None = None,
    extra_columns: Iterable[str] = (),
    partial: bool = False,
    private: bool | None = None,
    revision: str | None = None,
    split: str = "train",
    overwrite: bool = False,
    token: str | None = None,
) -> str:
    """The records of the run that writes ``out`` as a dataset at the Hub, with a card from its report. One commit.

    Args:
        out, ledger: the run, as for `export_run`.
        repo: ``"org/name"``, or ``"name"`` in the name of whoever the token is of. It is made unless it is there.
        where, partial: which rows, as for `export_run`. ``extra_columns``: as for it, such as ``"mark"``.
        private: whether a repository that is made is; as the Hub's account has it unless given.
        revision: a branch other than ``main``, which must be there.
        split: the part of the dataset that it is.
        overwrite: replace what another run, or somebody else, has put there: the card, and the data of that split;
            other splits stay, in the card too.
        token: of the Hub; from ``HF_TOKEN`` or ``hf auth login`` unless given. It is kept nowhere.

    Returns:
        The address of the commit.

    Raises:
        InputError: there is no such run, the repository holds another dataset, or data that its card does not name, or
            is changed by others again and again; the Hub refuses, or a library is missing.
        LedgerError: the run is not finished and ``partial`` is not wanted.
    """
    repo = repo.removeprefix("hf://").removeprefix("datasets/").strip("/")
    if not _is_split(split):
        raise InputError(
            words(Setting("split"), f": {split!r} is no name of one"), hint="for example train, or test"
        )
    hide(token)
    hub: Any = _HUB.load(_PURPOSE)
    PYARROW.load("pushing to the Hub")
    _check_name(repo)
    found, path = find_run(out, ledger)
    named = str(path if out is None else keep_secrets(str(out)))
    if where is not None:
        _check_some_match(path, where, named)
    api: Any = hub.HfApi(token=token, library_name="mistill", library_version=__version__)
    with tempfile.TemporaryDirectory(prefix="mistill-") as folder:
        data = Path(folder, "data.parquet")
        # By the ledger: the run's own output may be elsewhere, and is not written.
        written = export_run(path, data, where=where, extra_columns=extra_columns, partial=partial)
        if not written.records:
            raise InputError(f"{named} has no row with an outcome", hint="nothing was pushed")
        with LedgerReader(path) as reader:
            run = hashlib.sha256(reader.manifest()).hexdigest()[:16]
            kept = read_settings(reader)
            schemas = _schemas_of_retries(reader, kept)
        place = RemoteFile(f"hf://datasets/{repo}/{_CARD}")
        with place.explaining(to_go_on=_PUSH_AGAIN):
            make = functools.partial(
                api.create_repo, repo, repo_type="dataset", private=private, exist_ok=True
            )
            repo = str(patiently(place.name, make).repo_id)
        report = read_report(found, ledger=path)
        pushed = Pushed(
            repo=repo,
            split=split,
            run=run,
            records=written.records,
            columns=_columns(data),
            where=where,
            there=CardParts(),
            schema=_schema_of(kept.llm),
            retries=_retries(report, schemas),
        )
        return _push(hub, api, data, report, pushed, revision, overwrite=overwrite)


def _push(
    hub: Any,
    api: Any,
    data: Path,
    report: RunReport,
    pushed: Pushed,
    revision: str | None,
    *,
    overwrite: bool,
) -> str:
    """The address of the commit, which is made anew on what others commit meanwhile.

    Args:
        pushed: without what is there beside it.
    """
    message = f"{pushed.records:,} rows by mistill {__version__}"
    for _ in range(_TRIES):
        there = _read_repository(api, pushed.repo, revision)
        if not overwrite:
            _check_own(there, pushed.split, pushed.run)
        _check_named(there)
        kept = [one for one in there.parts.splits if there.keeps(one, pushed.split)]
        beside = replace(pushed, there=replace(there.parts, splits=kept))
        operations = _operations(hub, pushed.split, data, card_of(report, beside), there.files)
        if address := _commit(api, there, operations, message, revision, data.stat().st_size):
            return address
    raise InputError(
        f"hf://datasets/{pushed.repo} was changed by somebody else {_TRIES} times in turn, each time before this was "
        "there",
        hint="nothing was pushed: push again when nobody else does",
    )


def _check_name(repo: str) -> None:
    """``InputError`` if the Hub can have no repository of that name."""
    utils: Any = _HUB.load(
        _PURPOSE, "huggingface_hub.utils"
    )  # which the library alone does not bring with it
    try:
        utils.validate_repo_id(repo)
    except ValueError as error:
        raise InputError(
            f"{repo!r} names no repository",
            hint=words(
                "give organisation/name, or name, of letters, digits, -, _ and . alone; a branch has an option of its "
                "own, ",
                Setting("revision", "branch"),
            ),
        ) from error


def _check_some_match(ledger: Path, where: str, run: str) -> None:
    """``InputError`` if no row with an outcome is chosen: a dataset without one would take the place of a better."""
    with LedgerReader(ledger) as reader:
        chosen = RunFilter(where, reader, shape_of(reader))
        if all(row.state == "pending" for row in chosen.rows(reader)):
            raise InputError(chosen.nothing(run), hint="nothing was pushed")


def _schemas_of_retries(reader: LedgerReader, own: KeptSettings) -> dict[str, Any]:
    """The schema of each retry that has one of its own, by its changed settings as JSON."""
    found: dict[str, Any] = {}
    for number in reader.retry_settings():
        asked = read_retry(reader, number)
        changes = changes_of(own.manifest, asked.manifest, asked.llm)
        if changes.get("schema") is not None:
            found[json.dumps(changes)] = _schema_of(asked.llm)
    return found


def _retries(report: RunReport, schemas: Mapping[str, Any]) -> list[AskedAgain]:
    """What retries asked by other settings than the run's, each once, in their order."""
    found: dict[tuple[str, str], AskedAgain] = {}
    for retry in (start.retry for start in report.starts if not start.is_look):
        if retry is not None and retry.settings:
            changes = json.dumps(retry.settings)
            asked = AskedAgain(retry.where, retry.settings, schemas.get(changes))
            found.setdefault((retry.where, changes), asked)
    return list(found.values())


def _schema_of(llm: Mapping[str, Any]) -> Any:
    """What answers are asked to fit, as JSON Schema, however the model was given it."""
    schema: Any = cast("dict[str, Any]", llm.get("structured_output") or {}).get("schema")
    return cast("dict[str, Any]", schema).get("json_schema", schema) if isinstance(schema, dict) else schema


class _Repository(Struct, frozen=True):
    """A dataset's repository, all of it at one commit.

    Attributes:
        name: with its owner. ``head``: the commit. ``files``: their names. ``parts``: what its card names.
    """

    name: str
    head: str | None
    files: list[str]
    parts: CardParts

    def keeps(self, one: Split, split: str) -> bool:
        """Whether one that is there has files left when ``split`` is replaced."""
        return one.path != path_of(split) and not all(
            found and all(_is_of(split, file) for file in found) for found in one.files(self.files)
        )


def _read_repository(api: Any, repo: str, revision: str | None) -> _Repository:
    place = RemoteFile(f"hf://datasets/{repo}/{_CARD}")
    with place.explaining(to_go_on=_PUSH_AGAIN):
        info = functools.partial(api.repo_info, repo, repo_type="dataset", revision=revision)
        head: str | None = patiently(place.name, info).sha
        at = head or revision
        listed = functools.partial(api.list_repo_files, repo, repo_type="dataset", revision=at)
        files: list[str] = patiently(place.name, listed)
        card = None
        if _CARD in files:
            download = functools.partial(api.hf_hub_download, repo, _CARD, repo_type="dataset", revision=at)
            path: str = patiently(place.name, download)
            card = Path(path).read_text("utf-8-sig", errors="replace")
    return _Repository(repo, head, files, parts_of(card, files))


def _operations(hub: Any, split: str, data: Path, card: str, files: list[str]) -> list[Any]:
    name = f"data/{split}-00000-of-00001.parquet"
    return [
        hub.CommitOperationAdd(name, str(data)),
        hub.CommitOperationAdd(_CARD, card.encode()),
        *(hub.CommitOperationDelete(file) for file in files if _is_of(split, file) and file != name),
    ]


def _commit(
    api: Any, there: _Repository, operations: list[Any], message: str, revision: str | None, size: int
) -> str | None:
    """The address of the commit; ``None`` if there is another one by now: the card would not know of it.

    Args:
        size: of what is sent, in bytes.
    """
    place = RemoteFile(f"hf://datasets/{there.name}/{_CARD}")
    commit = functools.partial(
        api.create_commit,
        there.name,
        operations,
        repo_type="dataset",
        commit_message=message,
        revision=revision,
        parent_commit=there.head,
    )
    with place.explaining(to_go_on=_PUSH_AGAIN):
        try:
            return str(patiently(place.name, commit, upload_bytes=size).commit_url)
        except Exception as error:
            if problem_of(error) != "changed":
                raise
            return None


def _is_of(split: str, file: str) -> bool:
    return re.fullmatch(rf"data/{re.escape(split)}-[^/]*\.parquet", file) is not None


def _columns(data: Path) -> dict[str, str]:
    schema: Any = PYARROW.load("pushing to the Hub", "pyarrow.parquet").read_schema(data)
    return {field.name: str(field.type) for field in schema}


def _check_own(there: _Repository, split: str, run: str) -> None:
    """``InputError`` if what would be replaced may be dear to somebody: the card, and the data of the split."""
    if not [file for file in there.files if file != ".gitattributes"]:
        return
    is_known = any(one.run == run for one in there.parts.splits)
    if is_known and all(one.run == run for one in there.parts.splits if one.path == path_of(split)):
        return
    raise InputError(
        f"hf://datasets/{there.name} holds another dataset"
        if not is_known
        else f"the split {split!r} of hf://datasets/{there.name} is of another run",
        hint=words(
            "choose another repository, or replace it with "
            if not is_known
            else "choose another split, or replace it with ",
            Setting("overwrite", True),
        ),
    )


def _check_named(there: _Repository) -> None:
    """``InputError`` if data would be found no more, which is found by its name as long as a card names none."""
    unnamed = there.parts.unnamed
    if unnamed:
        more = len(unnamed) - _FILES_TOLD
        told = ", ".join(unnamed[:_FILES_TOLD]) + (f" and {more:,} more" if more > 0 else "")
        raise InputError(
            f"hf://datasets/{there.name} has data that its card does not name: {told}; beside splits that are named, "
            "it would be of none, and could not be loaded any more",
            hint="name it in the card first (configs, as of huggingface.co/docs/hub/datasets-manual-configuration), or "
            "choose another repository",
        )
