"""A metric over one axis as lines, one with its 80 % band. Grey where none can run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.report import style
from costmodel.report.style import display_name, tick
from costmodel.report.text import interval, metric, percent, title_of
from costmodel.result import reason_kind
from costmodel.schema.metrics import dimension_of
from costmodel.schema.results import SweepAxis
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
    feasible = np.flatnonzero(~np.isnan(part.value))
    i = feasible[np.argsort(x[feasible])]
    dense = len(x) > DENSE
    axes.plot(x[i], part.value[i], "-", color=colour, rasterized=dense)
    if len(i) == 1:
        axes.vlines(x[i], part.low[i], part.high[i], color=colour, alpha=0.3, linewidth=4)
    if band:
        axes.fill_between(x[i], part.low[i], part.high[i], color=colour, alpha=0.15, linewidth=0, rasterized=dense)


def _dots(axes: Axes, view: View, part: Grid, colour: str, line: str) -> None:
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


# ---- What a plot of a sweep shows: a metric over one or two axes -----------------------------------------------------

LONGEST_NAME = 80  # characters of an axis' name
MOST_LISTED = 6  # values of an axis that a name lists
WIDE = 10.0  # ratio of a range's ends from which on it is drawn on a logarithmic scale


class View(Record, kw_only=True):
    """A metric over the first axis, with a line or a row for each value of a second one.

    linked: for each axis, those that vary together with it.
    short: path -> short name.
    grid: its arrays have the axes' shape.
    fixed: the values of other axes, as text.
    """

    scenario: str
    metric: str
    axes: tuple[SweepAxis, ...]
    linked: tuple[tuple[SweepAxis, ...], ...]
    short: Mapping[str, str]
    grid: Grid
    fixed: str

    @property
    def what(self) -> str:
        """Return the label of the metric."""
        return title_of(self.metric)

    def all_of(self, i: int) -> tuple[SweepAxis, ...]:
        """Return axis i and those that vary together with it."""
        return self.axes[i], *self.linked[i]

    def name(self, i: int) -> str:
        """Return the label of axis i, with the values of the axes that vary together with it."""
        parts = [self.short[self.axes[i].path]]
        for axis in self.linked[i]:
            ends = (axis.values[0], axis.values[-1])
            values, separator = (axis.values, ", ") if len(axis.values) <= MOST_LISTED else (ends, " .. ")
            parts.append(f"{self.short[axis.path]} {separator.join(tick(value, axis.dimension) for value in values)}")
        return display_name(", with ".join(parts), LONGEST_NAME)

    def names(self, i: int) -> str:
        """Return the names of axis i and of those that vary together with it."""
        return display_name(", ".join(self.short[axis.path] for axis in self.all_of(i)), LONGEST_NAME)

    def values(self, i: int, position: int) -> str:
        """Return the values of axis i, and of those that vary together with it, at a position."""
        return ", ".join(tick(axis.values[position], axis.dimension) for axis in self.all_of(i))

    def position_text(self, i: int, position: int) -> str:
        """Return the names and values of axis i, and of those that vary together with it, at a position."""
        return position_text(self.all_of(i), self.short, position)

    @property
    def finding(self) -> str:
        """Return how the metric moves along the first axis, on the curve in the middle where there are several."""
        first = self.axes[0]
        curves = self.grid.value.reshape(len(first.values), -1)
        known = np.flatnonzero(np.isfinite(curves).any(axis=0))
        at = int(known[(len(known) - 1) // 2])
        runs = np.flatnonzero(np.isfinite(curves[:, at]))[[0, -1]]
        start, end = (float(curves[run, at]) for run in runs)
        span = " to ".join(dict.fromkeys(tick(first.values[run], first.dimension) for run in runs))
        beside = f", {self.position_text(1, at)}" if len(self.axes) > 1 else ""
        way = "rises" if end > start else "falls" if end < start else "stays"
        ends = f"from {metric(self.metric, start, 3)} to {metric(self.metric, end, 3)}"
        change = f" ({percent(end / start - 1.0, 0, '+')})" if start else ""
        return f"{self.scenario}: {self.what} {way} {ends}{change} for {self.short[first.path]} {span}{beside}"

    @property
    def lines(self) -> str:
        """Return what tells curves apart, nothing for one."""
        return "" if len(self.axes) == 1 else f"curves: {self.names(1)}"

    @property
    def certainty(self) -> str:
        """Return what a band means, nothing where all points are exact."""
        wide = bool((self.grid.high > self.grid.low).any())
        lines = "" if len(self.axes) == 1 else f" of {self.values(1, (len(self.axes[1].values) - 1) // 2)}"
        return f"band: 80 % interval{lines}" if wide else ""

    @property
    def dimension(self) -> str:
        """Return the dimension of the metric. A duration is shown as a time."""
        dimension = dimension_of(self.metric) or "count"
        return "time" if dimension == "duration" else dimension

    @property
    def ends(self) -> tuple[float, float]:
        """Return the smallest and the largest prediction."""
        return float(np.nanmin(self.grid.value)), float(np.nanmax(self.grid.value))

    @property
    def reasons(self) -> list[str]:
        """Return the kinds of reasons why points cannot run."""
        return sorted({reason_kind(str(reason)) for reason in self.grid.reason.reshape(-1)} - {""})


def position_text(axes: Sequence[SweepAxis], short: Mapping[str, str], position: int) -> str:
    """Return names and values, at a position, of axes that vary together. short: path -> short name."""
    return ", ".join(
        f"{display_name(short[axis.path], 60)} {tick(axis.values[position], axis.dimension)}" for axis in axes
    )


def is_wide(low: float, high: float) -> bool:
    """Tell whether a range is drawn on a logarithmic scale."""
    return low > 0 and high / low >= WIDE
