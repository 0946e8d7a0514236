"""A run's report as a small piece of HTML, for notebooks: no script, no style sheet, and all that came from elsewhere
escaped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mistill.progress.preformatted import in_html, preformatted

if TYPE_CHECKING:
    from mistill.runs.report import RunReport

_MAX_CHARS = 200
_HEAD = ' style="text-align: left"'
_CELL = (
    ' style="text-align: left; vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere; '
    'min-width: 5em; max-width: 40em"'
)


def report_html(report: RunReport | None, *, problem: str | None = None) -> str:
    """The report's text, and its first records as a table.

    Args:
        report: ``None`` of a run that was never started.
        problem: why there is no report, if it is another reason.
    """
    if report is None:
        return f"<p>{in_html(problem or 'a run that was not started yet')}</p>"
    return preformatted(str(report)) + _table(report.samples)


def _table(records: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for record in records for name in record))
    if not columns:
        return ""
    head = "".join(f"<th{_HEAD}>{in_html(name)}</th>" for name in columns)
    rows = "".join(
        f"<tr>{''.join(f'<td{_CELL}>{_cell(record.get(name))}</td>' for name in columns)}</tr>"
        for record in records
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div style="overflow-x: auto">{table}</div>'


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return in_html(text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}…")
