"""The plot of the client table: CPU per request at concurrency 64, on a logarithmic scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CONCURRENCY = 64


def draw(results: dict[str, Any], path: Path) -> None:
    """Writes the bars of ``results`` (as ``python -m benchmarks`` makes them) to an SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mistill"  # the same figures, the same file
    from matplotlib import pyplot

    cases = [
        case
        for case in results["cases"]
        if case["concurrency"] == _CONCURRENCY and case["loop"] == "uvloop" and "cpu_us" in case
    ]
    cases.sort(key=lambda case: -case["cpu_us"]["median"])
    names = [case["client"] for case in cases]
    medians = [case["cpu_us"]["median"] for case in cases]
    below = [case["cpu_us"]["median"] - case["cpu_us"]["low"] for case in cases]
    above = [case["cpu_us"]["high"] - case["cpu_us"]["median"] for case in cases]
    colours = ["#e8590c" if name.startswith("mistill") else "#adb5bd" for name in names]
    figure, axes = pyplot.subplots(figsize=(8, 0.42 * len(cases) + 1.2))
    bars = axes.barh(names, medians, color=colours, xerr=(below, above), ecolor="#495057", height=0.7)
    axes.bar_label(bars, [f"{value:,.0f} µs" for value in medians], padding=6, fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(right=max(medians) * 4)
    axes.set_xlabel("CPU time of the client for one request (µs, logarithmic), 64 at once, uvloop")
    axes.spines[["top", "right"]].set_visible(False)
    where = results["machine"]
    axes.set_title(
        f"{where['date']}, {where['cores']} cores, Python {where['python']}", fontsize=9, loc="left"
    )
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
