"""Dates and times of any year as ISO 8601 text; Python's own types end with the years 1 and 9999."""

from __future__ import annotations

import datetime
import re

_CYCLE_DAYS = 146_097
"""After 400 years the calendar repeats itself."""
_CYCLE_YEARS = 400
_EPOCH_DAYS = datetime.date(1970, 1, 1).toordinal() - 1
_DAY_S = 86_400
_YEAR = re.compile(r"^(-?)(\d+)(?=-\d\d-\d\d)")


def iso_date(days: int) -> str:
    """The date so many days after 1970-01-01, in the Gregorian calendar without end in either direction."""
    cycles, rest = divmod(days + _EPOCH_DAYS, _CYCLE_DAYS)
    date = datetime.date.fromordinal(rest + 1)
    return f"{_year(date.year + cycles * _CYCLE_YEARS)}-{date:%m-%d}"


def iso_datetime(ticks: int, ticks_per_s: int, *, utc: bool) -> str:
    """The moment so many ticks after 1970-01-01T00:00:00, with a fraction of a second where there is one.

    Args:
        ticks_per_s: a power of ten.
        utc: it is a moment in UTC, not a time of no zone.
    """
    days, ticks_of_day = divmod(ticks, _DAY_S * ticks_per_s)
    return f"{iso_date(days)}T{iso_time(ticks_of_day, ticks_per_s)}{'Z' if utc else ''}"


def iso_time(ticks: int, ticks_per_s: int) -> str:
    """The time of day so many ticks after midnight, with a fraction of a second where there is one."""
    second, fraction = divmod(ticks, ticks_per_s)
    time = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    return time + _fraction(fraction, ticks_per_s)


def iso_duration(ticks: int, ticks_per_s: int) -> str:
    """A length of time: ``P1DT3661.5S``."""
    seconds, fraction = divmod(abs(ticks), ticks_per_s)
    days, second = divmod(seconds, _DAY_S)
    date = f"{days}D" if days or not ticks else ""
    time = f"T{second}{_fraction(fraction, ticks_per_s).rstrip('0')}S" if second or fraction else ""
    return f"{'-' if ticks < 0 else ''}P{date}{time}"


def with_signed_year(text: str) -> str:
    """A date or time as libraries write it, with a year as ISO 8601 wants it: four digits, or a sign before more."""
    return _YEAR.sub(lambda found: _year(int(found[0])), text)


def _year(year: int) -> str:
    return f"{year:04}" if 0 <= year <= datetime.MAXYEAR else f"{year:+05}"


def _fraction(fraction: int, ticks_per_s: int) -> str:
    return f".{fraction:0{len(str(ticks_per_s)) - 1}}" if fraction else ""
