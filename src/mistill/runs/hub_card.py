"""The card of a dataset at the Hugging Face Hub: the README.md that its page shows, written from a run's report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
import yaml
from msgspec import Struct

from mistill.progress.formatting import count
from mistill.runs.report import RunReport
from mistill.struct_types import look_at
from mistill.visible import visible

_SIZES: Final = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
"""Source: huggingface.co/docs/hub/datasets-cards, ``size_categories``."""
_FRONT = re.compile(r"\A---\n(.*?)^---$", re.DOTALL | re.MULTILINE)


class Pushed(Struct, frozen=True):
    """What a card is about, beside the report.

    Attributes:
        repo: its repository. ``split``: the part of it. ``run``: what tells the run from others.
        records: how many there are. ``columns``: with their types. ``where``: of which rows; ``None``: of all.
    """

    repo: str
    split: str
    run: str
    records: int
    columns: Mapping[str, str]
    where: str | None


def card_of(report: RunReport, pushed: Pushed) -> str:
    """The whole text, in Markdown. What rows or prompts say is text in it, whatever it looks like.

    Money is not in it: what a run has cost is its owner's affair.
    """
    parts = [_front(pushed, report), f"# {pushed.repo.rpartition('/')[2]}\n", _summary(report, pushed)]
    parts += [
        "## What was asked\n",
        *_asked(report),
        "## Columns\n",
        _table(("column", "type"), _columns(pushed)),
    ]
    parts += ["## How it went\n", _table(("", "rows"), _outcomes(report)), _tokens(report)]
    load = f'from datasets import load_dataset\n\ndataset = load_dataset("{pushed.repo}", split="{pushed.split}")'
    return "\n".join([*parts, "## To load it\n", _fenced(load, "python")])


def run_of_card(text: str) -> str | None:
    """Which run has written a card; ``None``: it is none of ours."""
    front = _FRONT.match(text)
    try:
        return None if front is None else msgspec.convert(yaml.safe_load(front[1]), _Front).mistill.run
    except (yaml.YAMLError, msgspec.ValidationError):
        return None


class _Ours(Struct):
    run: str


class _Front(Struct):
    mistill: _Ours


def _front(pushed: Pushed, report: RunReport) -> str:
    size = next((size for place, size in enumerate(_SIZES) if pushed.records < 10 ** (place + 3)), "n>1B")
    fields = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": pushed.split, "path": f"data/{pushed.split}-*"}],
            }
        ],
        "size_categories": [size],
        "tags": ["synthetic", "mistral", "mistill"],
        "mistill": {"run": pushed.run, "version": report.last_start.version},
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"


def _summary(report: RunReport, pushed: Pushed) -> str:
    days = sorted({_day(start.started_at) for start in report.starts})
    when = f", {days[0]}" if len(days) == 1 else f", {days[0]} to {days[-1]}" if days else ""
    of_all = "" if pushed.where is None else f", those of which {_code(pushed.where)} holds"
    return (
        f"{count(pushed.records, 'row')}{of_all}: answered by {_code(report.model)} with "
        f"[mistill](https://pypi.org/project/mistill/) {report.last_start.version}{when}.\n"
    )


def _day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).date().isoformat()


def _asked(report: RunReport) -> Iterator[str]:
    models = [by.model for by in report.answers_by_model if by.model and by.model != report.model]
    if models:
        yield f"Model: {_code(report.model)}, behind which {', '.join(map(_code, models))} answered.\n"
    settings = {
        name: value for name, value in report.settings.items() if name not in ("kind", "model") and value
    }
    prompt: Any = settings.pop("prompt", None)
    texts = cast("dict[str, Any]", prompt) if isinstance(prompt, dict) else {"prompt": prompt}
    for name, text in texts.items():
        if text is not None:
            yield f"{name.replace('_', ' ').capitalize()}:\n"
            yield _fenced(
                text if isinstance(text, str) else json.dumps(text, indent=2, ensure_ascii=False), "jinja"
            )
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
        yield f"finish reason {_code(reason)}", f"{rows:,}"


def _tokens(report: RunReport) -> str:
    return f"{report.input_tokens:,} tokens went in, {report.output_tokens:,} came out.\n"


def _table(header: Sequence[str], rows: Iterator[tuple[str, str]]) -> str:
    lines = [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """A text in a line or a cell, which is no Markdown and no end of either."""
    line = " ".join(visible(text).split()).replace("|", "\\|")
    fence = "`" * (_longest_ticks(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}\n"


def _longest_ticks(text: str) -> int:
    return max((len(ticks) for ticks in re.findall("`+", text)), default=0)


look_at(_Front)
