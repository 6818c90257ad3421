"""Metrics over one axis as curves with their 80 % bands, in one panel or in several below each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import CYCLE, GREY, WIDTH, add_tooltip, linear_axis, log_axis, marked_axis, tick
from costmodel.report.text import metric as written

WIDE = 10.0  # ratio of a range's ends from which it is drawn on a logarithmic scale


class Curve(Record):
    """One curve; NaN where there is no value. low, high: of its band, null for none."""

    label: str
    x: Array
    value: Array
    low: Array | None = None
    high: Array | None = None


class Panel(Record):
    """Curves over one axis. x, y: what the axes are and their dimensions; metric: how values are written; marks: places
    on the horizontal axis with a name; ticks: values of the axis that are ticks of their own.
    """

    x: tuple[str, str]
    y: tuple[str, str]
    metric: str
    curves: Sequence[Curve]
    marks: Sequence[tuple[float, str]] = ()
    lines: Sequence[tuple[float, str]] = ()
    ticks: Sequence[float] = ()
    wide: bool = False  # the vertical axis is logarithmic
    linear: bool = False  # the horizontal axis is not, however far its ends are apart


def curves_figure(panels: Sequence[Panel]) -> Plot:
    """Return panels below each other, and their points as one table."""
    figure = Figure(figsize=(WIDTH, 0.45 + 2.45 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False).ravel()
    for place, panel in zip(axes, panels, strict=True):
        _draw(place, panel)
    named = [curve.label for panel in panels for curve in panel.curves]
    if any(named):
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
    return Plot(figure, {"": _data(panels)})


def _draw(axes: Axes, panel: Panel) -> None:
    # a curve that lies on another leaves that one's edges visible
    most = min(1.2 + 0.6 * len(panel.curves), 3.4)
    widths = np.linspace(most, min(most, 1.3), len(panel.curves))
    for at, (curve, width) in enumerate(zip(panel.curves, widths, strict=True)):
        colour = CYCLE[at]
        runs = np.flatnonzero(np.isfinite(curve.value))
        axes.plot(curve.x[runs], curve.value[runs], "-", color=colour, label=curve.label or None, linewidth=width)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x[runs], curve.low[runs], curve.high[runs], color=colour, alpha=0.15, linewidth=0)
        for point in runs:
            dot = axes.plot(curve.x[point], curve.value[point], "o", color=colour, markersize=width + 1.4)
            words = ", ".join(filter(None, (curve.label, f"{panel.x[0]} {tick(float(curve.x[point]), panel.x[1])}")))
            add_tooltip(dot, f"{words}: {written(panel.metric, float(curve.value[point]))}")
    xs = np.concatenate([curve.x for curve in panel.curves])
    tops = np.concatenate([curve.value if curve.high is None else curve.high for curve in panel.curves])
    ends = float(np.nanmin([np.nanmin(curve.value) for curve in panel.curves])), float(np.nanmax(tops))
    _horizontal(axes, panel, (float(xs.min()), float(xs.max())))
    if panel.wide:
        axes.set_yscale("log")
        log_axis(axes.yaxis, panel.y[0], panel.y[1], ends)
        if panel.y[1] == "size":
            _binary(axes.yaxis, ends)
    else:
        axes.set_ylim(0.0, 1.1 * ends[1])
        linear_axis(axes.yaxis, panel.y[0], panel.y[1], ends[1])
    for where, name in panel.marks:
        axes.axvline(where, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
        axes.annotate(name, (where, 0.02), (3, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
                      fontsize=7.5, color=GREY)  # fmt: skip
    for height, name in panel.lines:
        axes.axhline(height, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
        axes.annotate(name, (0.01, height), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                      fontsize=7.5, color=GREY)  # fmt: skip


def _horizontal(axes: Axes, panel: Panel, ends: tuple[float, float]) -> None:
    what, dimension = panel.x
    if not panel.linear and ends[0] > 0 and ends[1] / ends[0] >= WIDE:
        axes.set_xscale("log")
        if panel.ticks:
            marked_axis(axes.xaxis, what, dimension, panel.ticks)
        else:
            log_axis(axes.xaxis, what, dimension, ends)
    elif panel.ticks:
        marked_axis(axes.xaxis, what, dimension, panel.ticks)
    else:
        linear_axis(axes.xaxis, what, dimension, ends[1])


def _binary(axis: Axis, ends: tuple[float, float]) -> None:
    """Let a logarithmic axis of sizes have ticks at powers of 16, in KiB, MiB, GiB."""
    powers = np.arange(np.floor(np.log2(ends[0]) / 4) * 4, np.ceil(np.log2(ends[1]) / 4) * 4 + 1, 4)
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
