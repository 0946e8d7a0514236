"""An audit as lines of text for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mistill.audits.report import Audit, AuditLine, Difference, Share
from mistill.progress.formatting import count

_TEXTS = ("day (UTC)", "model", "lane")
_AT_NEED = ("minutes", "maybe billed", "with the server")
"""Columns that are left out where there is nothing in them."""
_COLUMNS = (
    *_TEXTS,
    "requests",
    "tokens in",
    "cached",
    "tokens out",
    "minutes",
    "$",
    "maybe billed",
    "with the server",
)
_TOO_SMALL = 0.000_000_5
"""An amount below this is shown as nothing."""


def audit_lines(audit: Audit) -> Iterator[str]:
    """The table, what is to be known of it, and how it differs from the bill."""
    yield from ledger_lines(audit)
    if audit.difference is not None:
        yield ""
        yield from bill_lines(audit.difference)


def ledger_lines(audit: Audit) -> Iterator[str]:
    """What attempts have taken, by day, model and lane."""
    if not audit.lines:
        yield "nothing was asked yet"
        return
    total = audit.total
    rows = [(line.day or "?", line.model, line.lane, *_numbers(line)) for line in audit.lines]
    rows.append(("in all", "", "", *_numbers(total)))
    shown = [place for place, name in enumerate(_COLUMNS) if name not in _AT_NEED or rows[-1][place]]
    yield from _table([[row[place] for place in shown] for row in (_COLUMNS, *rows)], texts=len(_TEXTS))
    if total.unpriced:
        yield f"no price is known of {count(total.unpriced, 'answer')}: the cost leaves them out"
    if total.estimated:
        yield f"{count(total.estimated, 'answer')} did not say what they took: an estimate is counted"


def _numbers(line: AuditLine) -> tuple[str, ...]:
    return (
        f"{line.requests:,}",
        f"{line.input_tokens:,}",
        f"{line.cached_tokens:,}",
        f"{line.output_tokens:,}",
        f"{line.minutes:,.1f}" if line.minutes else "",
        "?" if line.cost is None else _amount(line.cost),
        f"{line.maybe_billed:,}" if line.maybe_billed else "",
        f"{line.with_server:,}" if line.with_server else "",
    )


def bill_lines(found: Difference) -> Iterator[str]:
    """How ledgers differ from the bill."""
    whose = "all workspaces" if found.workspace is None else f"workspace {found.workspace}"
    until = "nothing on it" if found.last_day is None else f"up to {found.last_day}"
    yield f"bill of {', '.join(found.months)}, {whose}, {until}"
    rows = [
        ("", found.currency or "its currency", "tokens in", "tokens out"),
        _row("on the bill", found.billed),
        _row("answers in the ledger", found.answers),
        _row("difference", found.total),
        ("  price table", "?" if found.prices is None else _amount(found.prices), "", ""),
    ]
    if found.estimates != Share():
        rows.append(_row("  estimates of answers that did not say", found.estimates))
    rows += [
        _row("  maybe billed", found.maybe_billed),
        _row("  other programs", found.other_programs),
        _row("  unexplained", found.unexplained),
    ]
    if abs(found.included) > _TOO_SMALL:
        rows.append(("used, and not charged", _amount(found.included), "", ""))
    yield from _table(rows, texts=1)
    yield from _notes(found)


def _notes(found: Difference) -> Iterator[str]:
    if found.unanswered:
        yield (
            f"{count(found.unanswered, 'request')} without an answer may be on the bill; "
            f"if they are like the others, with about {found.likely_tokens:,} tokens"
        )
    if found.at_edge:
        yield (
            f"{count(found.at_edge, 'answer')} came near midnight between months, "
            f"and may be on the other bill: ask for that of {' and '.join(found.beside)} too"
        )
    if found.prices is None:
        yield "the bill is not in US dollars: answers have its prices, and the table of prices is not held against it"
    if found.unpriced:
        yield f"the bill has no price for {count(found.unpriced, 'unit')}: that of the table is taken"
    if not found.tells_lanes:
        yield "the bill does not tell batch jobs apart: where there were some, what they cost less is in its prices"
    if found.unexplained != Share():
        yield (
            "unexplained: the ledger has answers that are not on the bill. It may come later than they do; "
            "or they are of another workspace or organisation"
        )


def _row(name: str, share: Share) -> tuple[str, str, str, str]:
    return name, _amount(share.amount), f"{share.input_tokens:,}", f"{share.output_tokens:,}"


def _amount(amount: float) -> str:
    return f"{0.0 if abs(amount) < _TOO_SMALL else amount:,.6f}"


def _table(rows: Sequence[Sequence[str]], *, texts: int) -> Iterator[str]:
    """Columns of text, so many, and of numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
