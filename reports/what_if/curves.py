"""Metrics over one axis as curves, in panels side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.report import style
from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import panels as slide

WIDE = 10.0  # ratio of a range's ends from which it is drawn on a logarithmic scale


class Curve(Record):
    """One curve; NaN where there is no value. low, high: of its band, null for none."""

    label: str
    x: Array
    value: Array
    low: Array | None = None
    high: Array | None = None


class Panel(Record):
    """Curves over one axis. x, y: what the axes are and their dimensions; marks: places
    on the horizontal axis with a name, lines: on the vertical one; ticks: values of the axis with ticks of their own.
    """

    x: tuple[str, str]
    y: tuple[str, str]
    curves: Sequence[Curve]
    marks: Sequence[tuple[float, str]] = ()
    lines: Sequence[tuple[float, str]] = ()
    ticks: Sequence[float] = ()
    wide: bool = False  # the vertical axis is logarithmic
    linear: bool = False  # the horizontal axis is not, however far its ends are apart
    joined: bool = True  # points of a curve belong to a line
    floor: float = 0.0  # of a vertical axis that is not logarithmic


def curves_figure(title: str, panels: Sequence[Panel], note: str = "") -> Plot:
    """Return panels side by side, and their points as one table."""
    figure, axes = slide(title, len(panels), note)
    for place, panel in zip(axes, panels, strict=True):
        _draw(place, panel)
    return Plot(figure, {"": _data(panels)})


def _draw(axes: Axes, panel: Panel) -> None:
    for at, curve in enumerate(panel.curves):
        _curve(axes, panel, curve, style.CYCLE[at % len(style.CYCLE)], "--" if at >= len(style.CYCLE) else "-")
    xs = np.concatenate([curve.x for curve in panel.curves])
    parts = [part for curve in panel.curves for part in (curve.value, curve.low, curve.high) if part is not None]
    every = np.concatenate(parts)
    ends = float(np.nanmin(every)), float(np.nanmax(every))
    _horizontal(axes, panel, (float(xs.min()), float(xs.max())))
    if panel.wide:
        axes.set_yscale("log")
        style.log_axis(axes.yaxis, panel.y[0], panel.y[1], ends)
        if panel.y[1] == "size":
            _binary(axes.yaxis, ends)
    else:
        axes.set_ylim(panel.floor, ends[1] + 0.1 * (ends[1] - panel.floor))
        style.linear_axis(axes.yaxis, panel.y[0], panel.y[1], ends[1])
    ended = []
    for at, curve in enumerate(panel.curves):
        runs = np.flatnonzero(np.isfinite(curve.value))
        last = runs[np.argmax(curve.x[runs])]
        ended.append((float(curve.x[last]), float(curve.value[last]), curve.label, style.CYCLE[at % len(style.CYCLE)]))
    style.name_curves(axes, ended)
    _mark(axes, panel)


def _curve(axes: Axes, panel: Panel, curve: Curve, colour: str, line: str) -> None:
    runs = np.flatnonzero(np.isfinite(curve.value))
    axes.plot(curve.x[runs], curve.value[runs], linestyle=line if panel.joined else "none", color=colour)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.x[runs], curve.low[runs], curve.high[runs], color=colour, alpha=0.15, linewidth=0)
    for point in runs:
        dot = axes.plot(curve.x[point], curve.value[point], "o", color=colour, markersize=5.0)
        words = ", ".join(filter(None, (curve.label, f"{panel.x[0]} {style.tick(float(curve.x[point]), panel.x[1])}")))
        style.add_tooltip(dot, f"{words}: {style.tick(float(curve.value[point]), panel.y[1])}")


def _mark(axes: Axes, panel: Panel) -> None:
    """Draw the named places of both axes."""
    for where, name in panel.marks:
        axes.axvline(where, color=style.QUIET, linewidth=1.0, linestyle="--", zorder=1)
        axes.annotate(name, (where, 0.98), (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
                      va="top", fontsize=style.SMALL, color=style.QUIET)  # fmt: skip
    for height, name in panel.lines:
        axes.axhline(height, color=style.QUIET, linewidth=1.0, linestyle="--", zorder=1)
        axes.annotate(name, (0.01, height), (0, 4), xycoords=("axes fraction", "data"), textcoords="offset points",
                      fontsize=style.SMALL, color=style.QUIET)  # fmt: skip


def _horizontal(axes: Axes, panel: Panel, ends: tuple[float, float]) -> None:
    what, dimension = panel.x
    if (not panel.linear and ends[0] > 0 and ends[1] / ends[0] >= WIDE) or panel.ticks:
        axes.set_xscale("log")
        if panel.ticks:
            style.marked_axis(axes.xaxis, what, dimension, panel.ticks)
        else:
            style.log_axis(axes.xaxis, what, dimension, ends)
    else:
        style.linear_axis(axes.xaxis, what, dimension, ends[1])


def _binary(axis: Axis, ends: tuple[float, float]) -> None:
    """Let a logarithmic axis of sizes have ticks at powers of 4, in MiB and GiB."""
    powers = np.arange(np.floor(np.log2(ends[0]) / 2) * 2, np.ceil(np.log2(ends[1]) / 2) * 2 + 1, 2)
    axis.set_major_locator(FixedLocator(list(2.0**powers)))
    axis.set_minor_locator(NullLocator())
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

    def shown(value: float, _: int | None = None) -> str:
        power = int(np.log2(value) // 10)
        return f"{value / 2.0 ** (10 * power):g} {units[power]}"

    axis.set_major_formatter(FuncFormatter(shown))


def _data(panels: Sequence[Panel]) -> bytes:
    """Return the points of all panels: metric, curve, place, value and band, in SI."""
    rows = (
        (panel.y[0], curve.label, *(None if part is None else _number(part[at]) for part in _parts(curve)))
        for panel in panels
        for curve in panel.curves
        for at in range(len(curve.x))
    )
    return table(("metric", "curve", panels[0].x[0], "value", "low", "high"), rows)


def _parts(curve: Curve) -> tuple[Array | None, ...]:
    return curve.x, curve.value, curve.low, curve.high


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
