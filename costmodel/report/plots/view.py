"""What a plot of a sweep shows: a metric over one or two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from costmodel.records import Record
from costmodel.report.style import display_name, tick
from costmodel.report.text import metric, percent, title_of
from costmodel.result import reason_kind
from costmodel.schema.metrics import dimension_of
from costmodel.schema.results import SweepAxis
from costmodel.study.points import Grid

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
