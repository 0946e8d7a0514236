"""The card of a dataset at the Hugging Face Hub: the README.md that its page shows, written from a run's report."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import UnionType
from typing import Any, Final, cast

import msgspec
import yaml
from msgspec import Struct

from mistill.characters import cut
from mistill.finish_reasons import MOST_REASON_CHARS
from mistill.progress.formatting import count
from mistill.runs.hub_patterns import files_of
from mistill.runs.report import RunReport
from mistill.struct_types import look_at
from mistill.visible import visible

_SIZES: Final = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
"""Source: huggingface.co/docs/hub/datasets-cards, ``size_categories``."""
_FRONT = re.compile(r"\s*---\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
"""The head of a card. Source: ``REGEX_YAML_BLOCK`` of `huggingface_hub.repocard`, where lines end in ``\\n``."""
_is_table = re.compile(
    r".*\.(csv|tsv|json|jsonl|ndjson|parquet|arrow|txt|xml|tar|zip)(\.(gz|bz2|xz|zst|lz4))?", re.IGNORECASE
).fullmatch
_is_data = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}\.parquet").fullmatch


class AskedAgain(Struct, frozen=True):
    """What a retry asked.

    Attributes:
        where: which rows. ``settings``: what differs from the run's own. ``schema``: of their answers, where it does.
    """

    where: str
    settings: dict[str, Any]
    schema: Any = None


class Pushed(Struct, frozen=True):
    """What a card is about, beside the report.

    Attributes:
        repo: its repository. ``split``: the part of it. ``run``: what tells the run from others.
        records: how many there are. ``columns``: with their types. ``where``: of which rows; ``None``: of all.
        there: what is there beside it.
        schema: of the answers, as JSON values; ``None``: they are texts, or it is not kept. ``retries``: with settings
            of their own.
    """

    repo: str
    split: str
    run: str
    records: int
    columns: Mapping[str, str]
    where: str | None
    there: CardParts
    schema: Any = None
    retries: Sequence[AskedAgain] = ()


class Split(Struct, omit_defaults=True):
    """One part of a dataset, as its card remembers it. What is not known of it is ``None``: it is not ours.

    Attributes:
        name, path: how it is called, and which files it is: patterns. ``config``: those of one configuration have the
            same columns, or none of them could be loaded.
        run, model, rows, where, columns: as in `Pushed`.
    """

    name: str
    config: str
    path: str | list[str]
    run: str | None = None
    model: str | None = None
    rows: int | None = None
    where: str | None = None
    columns: dict[str, str] | None = None

    def files(self, there: Sequence[str]) -> list[list[str]]:
        """Which it is of those that are there, by each of its patterns."""
        patterns = [self.path] if isinstance(self.path, str) else self.path
        return [files_of(pattern, there) for pattern in patterns]


class CardParts(Struct):
    """What there is in a repository, by its card and its files.

    Attributes:
        splits: those of ours that have files, and all of others.
        settings: what configurations say beside their splits (``default: true``, ``sep``), by their names.
        configs: configurations whose splits are not known, as they are written: they have files by a ``data_dir``, or
            by their names.
        unnamed: data that has a split by its name, since there are no configurations; with one, it would have none.
        head: what the head of the card says besides (``license``, ``language``), and its ``tags``.
    """

    splits: list[Split] = []
    settings: dict[str, dict[Any, Any]] = {}
    configs: list[dict[Any, Any]] = []
    unnamed: list[str] = []
    head: dict[Any, Any] = {}

    def names(self) -> set[str]:
        """Of configurations whose splits are not known."""
        return {str(config.get("config_name", "default")) for config in self.configs}


def card_of(report: RunReport, pushed: Pushed) -> str:
    """The whole text, in Markdown. What rows or prompts say is text in it, whatever it looks like.

    Money is not in it: what a run has cost is its owner's affair.
    """
    own = _split_of(pushed, ", ".join(_models(report)))
    others = pushed.there.splits
    splits = [*others, own]
    parts = [
        _front(splits, pushed.there, report),
        f"# {pushed.repo.rpartition('/')[2]}\n",
        _summary(report, pushed),
    ]
    if others:
        header = ("split", "rows", "those of which", "answered by")
        parts += ["## Splits\n", _table(header, map(_cells, splits))]
        if any(one.run != own.run for one in others):
            parts.append(f"What follows is of {_code(pushed.split)}.\n")
    parts += [
        "## What was asked\n",
        *_asked(report, pushed),
        "## Columns\n",
        _table(("column", "type"), _columns(pushed)),
    ]
    parts += ["## How it went\n"]
    if pushed.records != report.completions + report.failures:
        parts.append(f"With all rows of the run, of which {_code(pushed.split)} is a part:\n")
    parts += [_table(("", "rows"), _outcomes(report)), _tokens(report)]
    config = "" if own.config == "default" else f', "{own.config}"'
    load = (
        "from datasets import load_dataset\n\n"
        f'dataset = load_dataset("{pushed.repo}"{config}, split="{pushed.split}")'
    )
    return "\n".join([*parts, "## To load it\n", _fenced(load, "python")])


def parts_of(card: str | None, files: Sequence[str]) -> CardParts:
    """What a repository has: what its card names, and the splits that files are named as.

    Args:
        card: its text; ``None``: there is none. ``files``: all that are there; a split of ours that has none is left
            out, and one of others stays as it is written: its files may be elsewhere, or still to come.
    """
    head = _head_of(card)
    parts = CardParts(head={name: value for name, value in head.items() if name not in _OF_DATA})
    ours = _converted(head.get("mistill"), _Ours) or _Ours()
    configs = _configs_in(head)
    known = list(ours.splits)
    for config in configs:
        name, data_files = config.get("config_name", "default"), _data_files(config)
        if isinstance(name, str) and data_files is not None:
            known += (Split(split, name, path) for split, path in data_files.items())
            parts.settings[name] = {key: value for key, value in config.items() if key not in _OF_SPLITS}
        else:
            parts.configs.append(config)
    listed = {file for one in known for found in one.files(files) for file in found}
    names = dict.fromkeys(data[1] for file in files if file not in listed and (data := _is_data(file)))
    taken = parts.names()
    known += (Split(name, _free(("default", name), taken), path_of(name)) for name in names)
    by_name: dict[tuple[str, str], Split] = {}
    for one in known:
        by_name.setdefault((one.config, one.name), one)  # ours are in `configs` too
    parts.splits = [one for one in by_name.values() if one.run is None or any(one.files(files))]
    if not configs:
        named = {file for one in parts.splits for found in one.files(files) for file in found}
        parts.unnamed = [file for file in files_of("**", files) if file not in named and _is_table(file)]
    return parts


_OF_DATA: Final = frozenset({"configs", "dataset_info", "size_categories", "mistill"})
"""Fields of a head that are of the data, which changes. Whoever wrote the others knows what they are of."""
_OF_SPLITS: Final = ("config_name", "data_files")


def _data_files(config: dict[Any, Any]) -> dict[str, str | list[str]] | None:
    """Split → its files; ``None``: it does not say so. Source: huggingface.co/docs/hub/datasets-manual-configuration;
    `datasets.data_files.sanitize_patterns` has all the forms."""
    files = config.get("data_files")
    if not files or "data_dir" in config:  # they would be of that folder
        return None
    if (patterns := _converted(files, str | list[str])) is not None:
        return {"train": patterns}
    if (splits := _converted(files, list[_Data])) is not None:
        return {one.split: one.path for one in splits}
    return _converted(files, dict[str, str | list[str]])


def _free(names: Sequence[str], taken: Container[str]) -> str:
    """The first name of a configuration that is not another's."""
    last = names[-1]
    while last in taken:
        last += "_"
    return next((name for name in names if name not in taken), last)


def path_of(split: str) -> str:
    """Which files of a repository are a split."""
    return f"data/{split}-*"


class _Data(Struct, forbid_unknown_fields=True):
    split: str
    path: str | list[str]


class _Ours(Struct):
    splits: list[Split] = []


def _head_of(card: str | None) -> dict[Any, Any]:
    """What stands at the head of a card; nothing, where that is no table."""
    front = None if card is None else _FRONT.match(card)
    try:
        return {} if front is None else _converted(yaml.safe_load(front[1]), dict[Any, Any]) or {}
    except yaml.YAMLError:
        return {}


def _configs_in(head: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    """Each is read alone: others write what they like."""
    each = _converted(head.get("configs"), list[Any]) or ()
    return [config for one in each if (config := _converted(one, dict[Any, Any]))]


def _converted(value: Any, kind: type | UnionType) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def _split_of(pushed: Pushed, model: str) -> Split:
    columns = dict(pushed.columns)
    others = pushed.there.splits
    unlike = {one.config for one in others if one.columns != columns} | pushed.there.names()
    alike = (one.config for one in others if one.config not in unlike)
    config = _free((*alike, "default", pushed.split), unlike)
    return Split(
        pushed.split, config, path_of(pushed.split), pushed.run, model, pushed.records, pushed.where, columns
    )


def _front(splits: Sequence[Split], there: CardParts, report: RunReport) -> str:
    rows = sum(one.rows or 0 for one in splits)
    size = next((size for place, size in enumerate(_SIZES) if rows < 10 ** (place + 3)), "n>1B")
    configs: dict[str, list[dict[str, Any]]] = {}
    for one in splits:
        configs.setdefault(one.config, []).append({"split": one.name, "path": one.path})
    tags: list[str] = _converted(there.head.get("tags"), list[str]) or []
    fields: dict[Any, Any] = there.head | {
        "configs": [
            *(
                {"config_name": name, "data_files": data} | there.settings.get(name, {})
                for name, data in configs.items()
            ),
            *there.configs,
        ],
        "size_categories": [size],
        "tags": list(dict.fromkeys([*tags, "synthetic", "mistral", "mistill"])),
        "mistill": {
            "version": report.last_start.version,
            "splits": [msgspec.to_builtins(one) for one in splits if one.run is not None],
        },
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"


def _cells(one: Split) -> tuple[str, ...]:
    rows = "" if one.rows is None else f"{one.rows:,}"
    return (_code(one.name), rows, *("" if text is None else _code(text) for text in (one.where, one.model)))


def _summary(report: RunReport, pushed: Pushed) -> str:
    days = sorted({_day(start.started_at) for start in report.starts})
    when = f", {days[0]}" if len(days) == 1 else f", {days[0]} to {days[-1]}" if days else ""
    of_all = "" if pushed.where is None else f", those of which {_code(pushed.where)} holds"
    models = " and ".join(map(_code, _models(report)))
    return (
        f"{count(pushed.records, 'row')}{of_all}: answered by {models} with "
        f"[mistill](https://pypi.org/project/mistill/) {report.last_start.version}{when}.\n"
    )


def _day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).date().isoformat()


def _models(report: RunReport) -> list[str]:
    """Those that were asked for what is answered; the run's own first, and alone where nothing is."""
    asked = {by.asked: None for by in report.answers_by_model}
    return sorted(asked, key=lambda model: model != report.model) or [report.model]


def _asked(report: RunReport, pushed: Pushed) -> Iterator[str]:
    others = [by.model for by in report.answers_by_model if by.model not in (None, by.asked)]
    if len(_models(report)) > 1:
        rows = [(_code(by.asked), _code(by.model or ""), f"{by.answers:,}") for by in report.answers_by_model]
        yield _table(("model", "answered by", "answers"), rows)
    elif others:
        yield f"Model: {_code(report.model)}, behind which {', '.join(map(_code, filter(None, others)))} answered.\n"
    own = {name: value for name, value in report.settings.items() if name != "model" and value}
    yield from _settings(own, pushed.schema, pushed.columns)
    for retry in pushed.retries:
        yield f"### Once more: rows of which {_code(retry.where)} held\n"
        yield from _settings(retry.settings, retry.schema, pushed.columns)


def _settings(given: Mapping[str, Any], schema: Any, columns: Collection[str]) -> Iterator[str]:
    """Texts as they are, and the rest as JSON; a schema is not its fingerprint. Of columns that a prompt may stand in,
    those that there are."""
    settings = {name: value for name, value in given.items() if name != "kind"}
    prompt: Any = settings.pop("prompt", None)
    texts = cast("dict[str, Any]", prompt) if isinstance(prompt, dict) else {"prompt": prompt}
    if isinstance(settings.get("system"), str):
        texts = texts | {"system": settings.pop("system")}
    for name, text in texts.items():
        if name.endswith("_column"):
            if text in columns:
                yield f"{name.replace('_', ' ').capitalize()}: {_code(text)}\n"
        elif text is not None:
            yield f"{name.replace('_', ' ').capitalize()}:\n"
            yield _fenced(
                text if isinstance(text, str) else json.dumps(text, indent=2, ensure_ascii=False), "jinja"
            )
    if schema is not None:
        settings.pop("schema", None)
        yield "Schema:\n"
        yield _fenced(json.dumps(schema, indent=2, ensure_ascii=False), "json")
    if settings:
        yield "Settings:\n"
        yield _fenced(json.dumps(settings, indent=2, ensure_ascii=False), "json")


def _columns(pushed: Pushed) -> Iterator[tuple[str, str]]:
    return ((_code(name), _code(kind)) for name, kind in pushed.columns.items())


def _outcomes(report: RunReport) -> Iterator[tuple[str, str]]:
    yield "answered", f"{report.completions:,}"
    yield "failed", f"{report.failures:,}"
    for cause in report.causes:
        yield f"failed: {_code(cause.kind)}", f"{cause.count:,}"
    for reason, rows in report.finish_reasons.items():
        yield f"finish reason {_code(cut(reason, MOST_REASON_CHARS))}", f"{rows:,}"


def _tokens(report: RunReport) -> str:
    return f"{report.input_tokens:,} tokens went in, {report.output_tokens:,} came out.\n"


def _table(header: Sequence[str], rows: Iterable[tuple[str, ...]]) -> str:
    # A "|" ends a cell, in a code span too; outside of tables a backslash in such a span is one.
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """A text in a line, which is no Markdown and no end of it."""
    line = " ".join(visible(text).split())
    fence = "`" * (_longest_ticks(line) + 1)
    pad = " " if line[:1] in ("", "`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}\n"


def _longest_ticks(text: str) -> int:
    return max((len(ticks) for ticks in re.findall("`+", text)), default=0)


for _struct in (_Data, _Ours):
    look_at(_struct)
