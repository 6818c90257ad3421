"""Figures of pages: a metric over one axis as curves, and groups of bars side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from costmodel.quantities import Array
from costmodel.records import Record, ValueRecord
from costmodel.report import style
from costmodel.report.plots.bars import Bar, draw_bars
from costmodel.report.style import Plot, table

WIDE = 10.0  # ratio of a range's ends from which it is drawn on a logarithmic scale
MANY = 2  # panels up to which names have room at the left


class Curve(Record):
    """One curve; NaN where there is no value."""

    label: str
    x: Array
    value: Array


def curves_figure(
    title: str, x: tuple[str, str], y: tuple[str, str], curves: Sequence[Curve], note: str = "", *, joined: bool = True
) -> Plot:
    """Return curves over one axis, and their points as one table.

    x, y: what the axes are and their dimensions, y logarithmic; joined: points of a curve belong to a line.
    """
    figure, (axes,) = style.panels(title, 1, note)
    ended = []
    for at, curve in enumerate(curves):
        colour, line = style.CYCLE[at % len(style.CYCLE)], "--" if at >= len(style.CYCLE) else "-"
        runs = np.flatnonzero(np.isfinite(curve.value))
        axes.plot(curve.x[runs], curve.value[runs], linestyle=line if joined else "none", color=colour)
        for point in runs:
            across, up = float(curve.x[point]), float(curve.value[point])
            dot = axes.plot(across, up, "o", color=colour, markersize=5.0, zorder=4.0)  # above names
            words = ", ".join(filter(None, (curve.label, f"{x[0]} {style.tick(across, x[1])}")))
            style.add_tooltip(dot, f"{words}: {style.tick(up, y[1])}")
        last = runs[np.argmax(curve.x[runs])]
        ended.append((float(curve.x[last]), float(curve.value[last]), curve.label, colour))
    _scale(axes, x, y, curves)
    style.name_curves(axes, ended)
    rows = (
        (y[0], curve.label, float(at), float(value) if np.isfinite(value) else None)
        for curve in curves
        for at, value in zip(curve.x, curve.value, strict=True)
    )
    return Plot(figure, {"": table(("metric", "curve", x[0], "value"), rows)})


def _scale(axes: Axes, x: tuple[str, str], y: tuple[str, str], curves: Sequence[Curve]) -> None:
    """Give both axes their scales, ticks and names."""
    xs, ys = (np.concatenate([getattr(curve, name) for curve in curves]) for name in ("x", "value"))
    low, high = float(xs.min()), float(xs.max())
    if low > 0 and high / low >= WIDE:
        axes.set_xscale("log")
        style.log_axis(axes.xaxis, *x, (low, high))
    else:
        style.linear_axis(axes.xaxis, *x, high)
    ends = float(np.nanmin(ys)), float(np.nanmax(ys))
    axes.set_yscale("log")
    style.log_axis(axes.yaxis, *y, ends)
    if y[1] == "size":
        _binary(axes.yaxis, ends)


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


class Group(ValueRecord):
    """Bars on one axis. what: label of the axis, whose dimension is given."""

    what: str
    dimension: str
    bars: Sequence[Bar]


def groups_plot(title: str, groups: Sequence[Group], note: str = style.INTERVALS) -> Plot:
    """Return a panel of bars for each group; the data are all bars in SI."""
    figure, axes = style.panels(title, len(groups), note)
    for place, group in zip(axes, groups, strict=True):
        draw_bars(place, group.bars, group.what, group.dimension, above=len(groups) > MANY)
    rows = (
        (group.what, bar.label.replace("\n", " "), bar.metric, bar.value, bar.low, bar.high, bar.note)
        for group in groups
        for bar in group.bars
    )
    return Plot(figure, {"": table(("axis", "bar", "metric", "value", "low", "high", "note"), rows)})
