"""A metric over one axis as lines with their 80 % bands. Infeasible points are marked at the foot."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costmodel.quantities import Array
from costmodel.report.plots.view import View, is_wide
from costmodel.report.style import BLACK, CYCLE, add_tooltip, canvas, display_name, linear_axis, log_axis, marked_axis
from costmodel.report.text import interval, metric
from costmodel.result import reason_kind
from costmodel.study.points import Grid

MOST_LINES = len(CYCLE)
FAR = 1000.0  # ratio of an axis' ends from which on ticks have units of their own
MARKED = 9  # values of an axis up to which each has a tick
DOTTED = 40  # points of a line up to which each is a dot
ROOM = 1.08  # end of a linear axis, in heights of the highest point
DENSE = 1000  # points beyond which lines are drawn as an image
MARKS = ("x", "+", "1", "2")  # of the reasons why points cannot run
FOOT, STEP = 0.03, 0.045  # height of the first row of marks, and between rows, in heights of the axes


def draw_lines(view: View) -> Figure:
    """Return a line for each value of the second axis, one where there is none."""
    figure, axes = canvas(3.0)
    x = np.array(view.axes[0].values)
    if len(view.axes) == 1:
        _line(axes, x, view.grid, (CYCLE[0], 1.6), "prediction")
        _dots(axes, view, view.grid, (CYCLE[0], 1.6), "")
        _marks(axes, x, view, view.grid, (BLACK, FOOT))
    else:
        widths = np.linspace(2.6, 1.2, len(view.axes[1].values))  # the edges of a line below another stay visible
        for i, width in enumerate(widths):
            part = view.grid.part((slice(None), i))
            _line(axes, x, part, (CYCLE[i], width), view.values(1, i))
            _dots(axes, view, part, (CYCLE[i], width), f"{view.position_text(1, i)}, ")
            _marks(axes, x, view, part, (CYCLE[i], FOOT + STEP * i))
    view.caption(axes)
    _scale(axes, view)
    _legend(figure, axes, view)
    return figure


def _line(axes: Axes, x: Array, part: Grid, look: tuple[str, float], label: str) -> None:
    """Draw the feasible points in the order of the axis, and the band of their intervals. look: colour, width."""
    feasible = np.flatnonzero(~np.isnan(part.value))
    i = feasible[np.argsort(x[feasible])]
    colour, width = look
    dense = len(x) > DENSE
    axes.plot(x[i], part.value[i], "-", color=colour, linewidth=width, label=label, rasterized=dense)
    if len(i) == 1:
        axes.vlines(x[i], part.low[i], part.high[i], color=colour, alpha=0.3, linewidth=4)
    axes.fill_between(x[i], part.low[i], part.high[i], color=colour, alpha=0.15, linewidth=0, rasterized=dense)


def _dots(axes: Axes, view: View, part: Grid, look: tuple[str, float], line: str) -> None:
    """Draw the feasible points, if they are few, each with its numbers. line: what they have in common, or empty."""
    feasible = np.flatnonzero(~np.isnan(part.value))
    colour, width = look
    for i in feasible if len(feasible) <= DOTTED else ():
        x, y = view.axes[0].values[i], float(part.value[i])
        dot = axes.plot(x, y, "o", color=colour, markersize=width + 1.4)
        ends = interval(view.metric, float(part.low[i]), float(part.high[i]))
        add_tooltip(dot, f"{line}{view.position_text(0, int(i))}: {metric(view.metric, y)} ({ends})")


def _marks(axes: Axes, x: Array, view: View, part: Grid, look: tuple[str, float]) -> None:
    """Mark infeasible points at the foot. look: colour, height."""
    kinds = np.array([reason_kind(str(reason)) for reason in part.reason])
    for reason, mark in zip(view.reasons, MARKS, strict=False):
        marked = x[kinds == reason]
        axes.plot(
            marked, [look[1]] * len(marked), mark, color=look[0], markersize=4.5, clip_on=False,
            transform=axes.get_xaxis_transform(), rasterized=len(x) > DENSE,
        )  # fmt: skip


def _scale(axes: Axes, view: View) -> None:
    """Label both axes. The vertical one starts at zero unless the range of the metric is wide."""
    axis, what = view.axes[0], view.name(0)
    low, high = min(axis.values), max(axis.values)
    steps = np.diff(np.sort(axis.values))
    if not len(steps):
        marked_axis(axes.xaxis, what, axis.dimension, axis.values)
    elif not is_wide(low, high) or np.allclose(steps, steps.mean(), rtol=0.01):
        linear_axis(axes.xaxis, what, axis.dimension, high)
    else:
        axes.set_xscale("log")
        if len(axis.values) <= MARKED and (high / low < FAR or axis.dimension == "count"):
            marked_axis(axes.xaxis, what, axis.dimension, axis.values)
        else:
            log_axis(axes.xaxis, what, axis.dimension, (low, high))
    top = float(np.nanmax(view.grid.high))
    if is_wide(*view.ends):
        axes.set_yscale("log")
        log_axis(axes.yaxis, view.what, view.dimension, (view.ends[0], top))
    else:
        axes.set_ylim(0.0, top * ROOM)
        linear_axis(axes.yaxis, view.what, view.dimension, top)


def _legend(figure: Figure, axes: Axes, view: View) -> None:
    """Add a legend of lines, bands and marks."""
    colour = CYCLE[0] if len(view.axes) == 1 else BLACK
    if np.nanmax(view.grid.high - view.grid.low) > 0:
        axes.fill_between([], [], color=colour, alpha=0.2, linewidth=0, label="80 % interval")
    for reason, mark in zip(view.reasons, MARKS, strict=False):
        axes.plot([], [], mark, color=BLACK, markersize=4.5, label=display_name(reason, 40))
    title = view.names(1) if len(view.axes) > 1 else None
    figure.legend(loc="outside upper left", ncols=3, title=title, title_fontsize=8, alignment="left")
