"""A metric over one axis as lines with their 80 % bands; points that cannot run are marked at the foot."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costmodel.quantities import Array
from costmodel.report.plots.view import View, is_wide
from costmodel.report.style import BLACK, CYCLE, canvas, linear_axis, log_axis, marked_axis, name_of, tell
from costmodel.report.text import metric, span
from costmodel.result import kind_of
from costmodel.study.points import Grid

MOST_LINES = len(CYCLE)
FAR = 1000.0  # ratio of an axis' ends beyond which ticks have units of their own
MARKED = 9  # values of an axis that are ticks of their own
DOTTED = 40  # points of a line that are dots as well
ROOM = 1.08  # of the highest point: where a linear axis ends
DENSE = 1000  # points beyond which lines are drawn as an image
MARKS = ("x", "+", "1", "2")  # of the reasons why points cannot run
FOOT, STEP = 0.03, 0.045  # height of the first row of marks, and between rows, of the axes' height


def draw_lines(view: View) -> Figure:
    """Return a line for each value of the second axis, one where there is none."""
    figure, axes = canvas(3.0)
    x = np.array(view.axes[0].values)
    if len(view.axes) == 1:
        _line(axes, x, view.grid, (CYCLE[0], 1.6), "prediction")
        _dots(axes, view, view.grid, (CYCLE[0], 1.6), "")
        _marks(axes, x, view, view.grid, (BLACK, FOOT))
    else:
        widths = np.linspace(2.6, 1.2, len(view.axes[1].values))  # a line on another leaves that one's edges visible
        for at, width in enumerate(widths):
            part = view.grid.part((slice(None), at))
            _line(axes, x, part, (CYCLE[at], width), view.values(1, at))
            _dots(axes, view, part, (CYCLE[at], width), f"{view.place(1, at)}, ")
            _marks(axes, x, view, part, (CYCLE[at], FOOT + STEP * at))
    view.caption(axes)
    _scale(axes, view)
    _legend(figure, axes, view)
    return figure


def _line(axes: Axes, x: Array, part: Grid, look: tuple[str, float], label: str) -> None:
    """Draw the points that run, in the order of the axis, and the band of their intervals. look: colour, width."""
    runs = np.flatnonzero(~np.isnan(part.value))
    runs = runs[np.argsort(x[runs])]
    colour, width = look
    dense = len(x) > DENSE
    axes.plot(x[runs], part.value[runs], "-", color=colour, linewidth=width, label=label, rasterized=dense)
    if len(runs) == 1:
        axes.vlines(x[runs], part.low[runs], part.high[runs], color=colour, alpha=0.3, linewidth=4)
    axes.fill_between(x[runs], part.low[runs], part.high[runs], color=colour, alpha=0.15, linewidth=0, rasterized=dense)


def _dots(axes: Axes, view: View, part: Grid, look: tuple[str, float], line: str) -> None:
    """Draw the points that run, where they are few, each with its numbers. line: what they have in common, or none."""
    runs = np.flatnonzero(~np.isnan(part.value))
    colour, width = look
    for at in runs if len(runs) <= DOTTED else ():
        x, y = view.axes[0].values[at], float(part.value[at])
        dot = axes.plot(x, y, "o", color=colour, markersize=width + 1.4)
        ends = span(view.metric, float(part.low[at]), float(part.high[at]))
        tell(dot, f"{line}{view.place(0, int(at))}: {metric(view.metric, y)} ({ends})")


def _marks(axes: Axes, x: Array, view: View, part: Grid, look: tuple[str, float]) -> None:
    """Mark what cannot run at the foot. look: colour, height."""
    kinds = np.array([kind_of(str(reason)) for reason in part.reason])
    for reason, mark in zip(view.reasons, MARKS, strict=False):
        there = x[kinds == reason]
        axes.plot(
            there, [look[1]] * len(there), mark, color=look[0], markersize=4.5, clip_on=False,
            transform=axes.get_xaxis_transform(), rasterized=len(x) > DENSE,
        )  # fmt: skip


def _scale(axes: Axes, view: View) -> None:
    """Label both axes; the vertical one starts at zero unless the metric spans much."""
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
    """Say what lines, bands and marks are."""
    colour = CYCLE[0] if len(view.axes) == 1 else BLACK
    if np.nanmax(view.grid.high - view.grid.low) > 0:
        axes.fill_between([], [], color=colour, alpha=0.2, linewidth=0, label="80 % interval")
    for reason, mark in zip(view.reasons, MARKS, strict=False):
        axes.plot([], [], mark, color=BLACK, markersize=4.5, label=name_of(reason, 40))
    title = view.names(1) if len(view.axes) > 1 else None
    figure.legend(loc="outside upper left", ncols=3, title=title, title_fontsize=8, alignment="left")
