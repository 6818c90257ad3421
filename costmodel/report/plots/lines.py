"""A metric over one axis as lines, one with its 80 % band. Grey where none can run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costmodel.quantities import Array
from costmodel.report import style
from costmodel.report.plots.view import View, is_wide
from costmodel.report.text import interval, metric
from costmodel.result import reason_kind
from costmodel.study.points import Grid

MOST_LINES = len(style.CYCLE)
FAR = 1000.0  # ratio of an axis' ends from which on ticks have units of their own
MARKED = 9  # values of an axis up to which each has a tick
DOTTED = 40  # points of a line up to which each is a dot
ROOM = 1.08  # end of a linear axis, in heights of the highest point
DENSE = 1000  # points beyond which lines are drawn as an image


def draw_lines(view: View) -> Figure:
    """Return a line for each value of the second axis, one where there is none."""
    figure, axes = style.canvas(view.finding, "; ".join(filter(None, (view.fixed, view.certainty, view.lines))))
    x = np.array(view.axes[0].values)
    several = len(view.axes) > 1
    parts = [view.grid.part((slice(None), i)) for i in range(len(view.axes[1].values))] if several else [view.grid]
    middle = (len(parts) - 1) // 2  # whose band is drawn: those of others would hide each other
    for i, part in enumerate(parts):
        _line(axes, x, part, style.CYCLE[i], band=i == middle)
        _dots(axes, view, part, style.CYCLE[i], f"{view.position_text(1, i)}, " if several else "")
    _refused(axes, x, view)
    _scale(axes, view)
    style.name_curves(axes, (end for i, part in enumerate(parts if several else ()) for end in _end(view, i, part)))
    return figure


def _end(view: View, i: int, part: Grid) -> Iterator[tuple[float, float, str, str]]:
    """Yield where a curve ends at the right, with its name and colour; nothing for an empty one."""
    x, runs = np.array(view.axes[0].values), np.flatnonzero(~np.isnan(part.value))
    if len(runs):
        last = runs[np.argmax(x[runs])]
        yield x[last], float(part.value[last]), view.values(1, i), style.CYCLE[i]


def _line(axes: Axes, x: Array, part: Grid, colour: str, *, band: bool) -> None:
    """Draw the feasible points in the order of the axis, and the band of their intervals."""
    feasible = np.flatnonzero(~np.isnan(part.value))
    i = feasible[np.argsort(x[feasible])]
    dense = len(x) > DENSE
    axes.plot(x[i], part.value[i], "-", color=colour, rasterized=dense)
    if len(i) == 1:
        axes.vlines(x[i], part.low[i], part.high[i], color=colour, alpha=0.3, linewidth=4)
    if band:
        axes.fill_between(x[i], part.low[i], part.high[i], color=colour, alpha=0.15, linewidth=0, rasterized=dense)


def _dots(axes: Axes, view: View, part: Grid, colour: str, line: str) -> None:
    """Draw the feasible points, if they are few, each with its numbers. line: what they have in common, or empty."""
    feasible = np.flatnonzero(~np.isnan(part.value))
    for i in feasible if len(feasible) <= DOTTED else ():
        x, y = view.axes[0].values[i], float(part.value[i])
        dot = axes.plot(x, y, "o", color=colour, markersize=4.0)
        low, high = float(part.low[i]), float(part.high[i])
        ends = "" if np.isnan(low) else f" ({interval(view.metric, low, high)})"
        style.add_tooltip(dot, f"{line}{view.position_text(0, int(i))}: {metric(view.metric, y)}{ends}")


def _refused(axes: Axes, x: Array, view: View) -> None:
    """Shade the stretches of the axis where no point can run, with the reasons."""
    none = np.asarray(np.isnan(view.grid.value).reshape(len(x), -1).all(axis=1))
    order = np.argsort(x)
    sorted_x, empty = x[order], none[order]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], empty, [False]]).astype(int)))
    for first, beyond in edges.reshape(-1, 2):
        ends = sorted_x[max(first - 1, 0)], sorted_x[min(beyond, len(x) - 1)]
        axes.axvspan(*ends, color=style.PALE, alpha=0.5, linewidth=0, zorder=0)
        kinds = {reason_kind(str(each)) for each in view.grid.reason[order[first:beyond]].reshape(-1)}
        axes.annotate(
            "\n".join(style.display_name(kind, 40) for kind in sorted(kinds)), (sum(ends) / 2.0, 0.97),
            xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=style.SMALL, color=style.QUIET,
        )  # fmt: skip


def _scale(axes: Axes, view: View) -> None:
    """Label both axes. The vertical one starts at zero unless the range of the metric is wide."""
    axis, what = view.axes[0], view.name(0)
    low, high = min(axis.values), max(axis.values)
    steps = np.diff(np.sort(axis.values))
    if not len(steps):
        style.marked_axis(axes.xaxis, what, axis.dimension, axis.values)
    elif not is_wide(low, high) or np.allclose(steps, steps.mean(), rtol=0.01):
        style.linear_axis(axes.xaxis, what, axis.dimension, high)
    else:
        axes.set_xscale("log")
        if len(axis.values) <= MARKED and (high / low < FAR or axis.dimension == "count"):
            style.marked_axis(axes.xaxis, what, axis.dimension, axis.values)
        else:
            style.log_axis(axes.xaxis, what, axis.dimension, (low, high))
    top = float(np.nanmax(np.fmax(view.grid.high, view.grid.value)))
    if is_wide(*view.ends):
        axes.set_yscale("log")
        style.log_axis(axes.yaxis, view.what, view.dimension, (view.ends[0], top))
    else:
        axes.set_ylim(0.0, top * ROOM)
        style.linear_axis(axes.yaxis, view.what, view.dimension, top)
