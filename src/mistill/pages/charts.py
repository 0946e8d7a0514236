"""Charts as static SVG: specifications in Vega-Lite, drawn by vl-convert (extra ``report``), in the page's colours.

A colour is a variable of the page's theme, so that one drawing is right in the light, in the dark and on paper.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from mistill.characters import whole_characters
from mistill.datasets.optional_library import OptionalLibrary
from mistill.pages.series_colors import OTHERWISE
from mistill.progress.preformatted import in_html
from mistill.visible import visible

_log = logging.getLogger("mistill")

VL_CONVERT = OptionalLibrary("vl_convert", extra="report")
_VERSION: Final = "5.20"  # of Vega-Lite: vl-convert brings several
_WIDTH: Final = 380
_HEIGHT: Final = 170
_BAR: Final = 24
_MAX_NAME_CHARS: Final = 24
_MAX_SERIES_CHARS: Final = 36
_MAX_TITLE_CHARS: Final = 60
_NAMES_PX: Final = 80
_FEW_NUMBERS: Final = 12
"""So many whole numbers are each named on an axis."""
_LEAST_SPAN: Final = 1e-290
_LEAST_SHARE: Final = 1e-11
"""Of the numbers themselves: an axis that is shorter is none."""
_NUMBERS: Final = "abs(datum.value) >= 10000 ? format(datum.value, '~s') : format(datum.value, ',~r')"
"""How an axis has its numbers: 500, 2,000, 20k."""
_DASHES: Final = ([1, 0], [8, 3], [2, 3], [8, 3, 2, 3], [4, 4], [12, 3], [1, 2])
"""Lines are told apart without their colours too."""

Colors: TypeAlias = Mapping[str, str]
"""Series → variable of the theme."""

_AXIS: Final = {
    "labelColor": "var(--muted)",
    "titleColor": "var(--muted)",
    "domainColor": "var(--line)",
    "tickColor": "var(--line)",
    "gridColor": "var(--line)",
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
    "labelLimit": 150,
}
_CONFIG: Final = {
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": _AXIS,
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "orient": "top",
        "title": None,
        "labelLimit": 260,
        "columns": 2,
        "columnPadding": 30,
    },
    "text": {"color": "var(--ink)", "fontSize": 12},
}


class Point(NamedTuple):
    """A value of a series at a place on the x axis."""

    x: float
    series: str
    value: float


class Bin(NamedTuple):
    """How many numbers (``times``) are from ``low`` to ``high``."""

    low: float
    high: float
    times: int


def bars(values: Iterable[tuple[str, float]], axis: str, colors: Colors | None = None) -> dict[str, Any]:
    """Bars from left to right, in this order, each with its name and its number.

    Args:
        colors: of those bars that have one of their own.
    """
    # Numbered, since two labels may be one once they are cut.
    given = list(values)
    data = [
        {"place": place, "value": value, "color": f"var({(colors or {}).get(label, '--c1')})"}
        for place, (label, value) in enumerate(given)
    ]
    labels = (f"datum.value == {place} ? {_quoted(_label(label))}" for place, (label, _) in enumerate(given))
    names = " : ".join(labels)
    y = {
        "field": "place",
        "type": "ordinal",
        "title": None,
        "axis": {
            "labelExpr": f"{names} : ''" if names else "''",
            "ticks": False,
            "domain": False,
            "minExtent": _NAMES_PX,
        },
    }
    x = _quantity("value", axis)
    return _spec(
        data,
        height=max(1, len(data)) * _BAR,
        layer=[
            {
                "mark": {"type": "bar", "height": {"band": 0.7}},
                "encoding": {
                    "y": y,
                    "x": x,
                    "color": {"field": "color", "type": "nominal", "scale": None},
                },
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 4},
                "encoding": {
                    "y": y,
                    "x": x,
                    "text": {"field": "value", "type": "quantitative", "format": ",~r"},
                },
            },
        ],
    )


def histogram(bins: Iterable[Bin], axis: str, of: str, *, is_whole: bool = False) -> dict[str, Any]:
    """How numbers are spread: ``axis`` says what they are, ``of`` what has them. ``is_whole``: none stands between two
    whole ones."""
    data = [{"low": float(one.low), "high": float(one.high), "count": one.times} for one in bins]
    x: dict[str, Any] = _quantity("low", axis, zero=False) | {"bin": "binned"}
    if is_whole and data and data[-1]["high"] - data[0]["low"] <= _FEW_NUMBERS:
        # Floats: whole numbers that no 64 bits hold are none to what draws.
        whole = range(math.ceil(data[0]["low"]), math.floor(data[-1]["high"]) + 1)
        x["axis"]["values"] = [float(one) for one in whole]
    encoding = {"x": x, "x2": {"field": "high"}, "y": _quantity("count", of)}
    return _spec(data, mark={"type": "bar", "color": "var(--c1)", "binSpacing": 1}, encoding=encoding)


def has_axis(bins: Sequence[Bin]) -> bool:
    """Whether an axis can tell the ends of these bins apart: floats that lie close to each other have no ticks."""
    span = bins[-1].high - bins[0].low
    largest = max(abs(bins[0].low), abs(bins[-1].high))
    return span > max(_LEAST_SPAN, largest * _LEAST_SHARE) and all(one.low < one.high for one in bins)


def stacked_bars(values: Iterable[tuple[str, str, float]], axis: str, colors: Colors) -> dict[str, Any]:
    """For each name on the x axis the sum of its series, one upon the other."""
    data = [
        {"x": _label(x), "series": _label(series, _MAX_SERIES_CHARS), "value": value}
        for x, series, value in values
    ]
    encoding = {
        "x": {"field": "x", "type": "nominal", "sort": None, "title": None, "axis": {"labelAngle": -45}},
        "y": _quantity("value", axis),
        "color": _colors((one["series"] for one in data), colors),
    }
    return _spec(data, mark={"type": "bar", "width": {"band": 0.6}}, encoding=encoding)


def areas(points: Iterable[Point], x_axis: str, y_axis: str, colors: Colors) -> dict[str, Any]:
    """Series one upon the other, each value from its place on the x axis to the next one."""
    data = _points(points)
    encoding = {
        "x": _quantity("x", x_axis, zero=False, nice=False),
        "y": _quantity("value", y_axis) | {"stack": "zero"},
        "color": _colors((one["series"] for one in data), colors),
        "order": {"field": "order"},
    }
    # An edge in the colour of the paper tells neighbours apart.
    mark = {"type": "area", "interpolate": "step-after", "stroke": "var(--paper)", "strokeWidth": 0.7}
    return _spec(data, mark=mark, encoding=encoding)


def lines(points: Iterable[Point], x_axis: str, y_axis: str, colors: Colors) -> dict[str, Any]:
    """Series beside each other."""
    data = _points(points)
    series = list(dict.fromkeys(str(one["series"]) for one in data))
    dashes = [_DASHES[place % len(_DASHES)] for place in range(len(series))]
    legend: dict[str, Any] | None = {"symbolType": "stroke"} if len(series) > 1 else None
    encoding = {
        "x": _quantity("x", x_axis, zero=False, nice=False),
        "y": _quantity("value", y_axis),
        "color": _colors(series, colors) | {"legend": legend},
        "strokeDash": {"field": "series", "scale": {"domain": series, "range": dashes}, "legend": legend},
    }
    return _spec(data, mark={"type": "line", "strokeWidth": 2}, encoding=encoding)


def _points(points: Iterable[Point]) -> list[dict[str, Any]]:
    order: dict[str, int] = {}
    return [
        {
            "x": one.x,
            "series": _label(one.series, _MAX_SERIES_CHARS),
            "value": one.value,
            "order": order.setdefault(one.series, len(order)),
        }
        for one in points
    ]


def _quantity(field: str, title: str, *, zero: bool = True, nice: bool = True) -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "title": _label(title, _MAX_TITLE_CHARS),
        "axis": {"labelExpr": _NUMBERS, "tickCount": 5},
        "scale": {"zero": zero, "nice": nice},
    }


def _colors(series: Iterable[Any], colors: Colors) -> dict[str, Any]:
    names = list(dict.fromkeys(map(str, series)))
    known = {_label(name, _MAX_SERIES_CHARS): color for name, color in colors.items()}
    drawn_in = [f"var({known.get(name, OTHERWISE)})" for name in names]
    return {"field": "series", "type": "nominal", "scale": {"domain": names, "range": drawn_in}, "sort": None}


def _spec(data: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
    return {
        "$schema": f"https://vega.github.io/schema/vega-lite/v{_VERSION.partition('.')[0]}.json",
        "width": _WIDTH,
        "height": _HEIGHT,
        "background": None,
        "config": _CONFIG,
        "data": {"values": data},
        **rest,
    }


def _label(text: str, most_chars: int = _MAX_NAME_CHARS) -> str:
    shown = " ".join(visible(whole_characters(text)).split())
    return shown if len(shown) <= most_chars else f"{shown[: most_chars - 1]}…"


def _quoted(text: str) -> str:
    """A string of Vega's expressions."""
    return "'" + "".join(f"\\u{ord(one):04x}" if one in "'\\" else one for one in text) + "'"


_TAG = re.compile(r"<svg\b[^>]*?\bviewBox=\"([^\"]*)\"[^>]*>")


def drawn(spec: Mapping[str, Any], title: str, summary: str, number: int) -> str | None:
    """The chart as an ``<svg>`` that says what it shows; ``None`` where nothing is installed that draws, or where that
    cannot draw it: its table stands in its place, and costs nobody the page.

    Args:
        number: tells it from the others of its page.
    """
    if not VL_CONVERT.is_there:
        return None
    library = VL_CONVERT.load("drawing a chart")
    try:
        svg: str = library.vegalite_to_svg(dict(spec), vl_version=_VERSION, allowed_base_urls=[])
    except ValueError as error:
        _log.info(
            "a chart is left out, and its table stands in its place: %s", " ".join(str(error).split())[:300]
        )
        return None
    found = _TAG.search(svg)
    assert found is not None, "it is an SVG"
    name, width = f"chart-{number}", round(float(found[1].split()[2]))
    # What is in it has no words of its own: title and summary say it once.
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{found[1]}" style="max-width: {width}px" role="img" '
        f'aria-labelledby="{name}-title {name}-summary">'
        f'<title id="{name}-title">{in_html(title)}</title>'
        f'<desc id="{name}-summary">{in_html(summary)}</desc><g aria-hidden="true">'
    )
    body = _ROLES.sub("", svg[found.end() :].removesuffix("</svg>"))
    return f"{head}{body}</g></svg>"


_ROLES = re.compile(r' (?:aria-[a-z]+|role)="[^"]*"')
