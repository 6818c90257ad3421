"""What a figure of a sweep shows: a metric over one or two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from costmodel.report.style import name_of, tick
from costmodel.result import kind_of
from costmodel.schema.metrics import dimension_of
from costmodel.schema.results import SweepAxis
from costmodel.study.points import Grid

LONGEST_NAME = 80  # characters of an axis' name
MOST_LISTED = 6  # values of an axis that a name lists
WIDE = 10.0  # a range whose ends are further apart than this ratio is drawn on a logarithmic scale


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A metric over the first axis, with a line or a row for each value of a second one.

    linked: of each axis, those that vary together with it; short: names of all axes; grid: its arrays have the axes'
    shape; fixed: the values of other axes, as text.
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
        return f"{name_of(self.scenario)}: {self.metric.replace('_', ' ')}"

    def all_of(self, at: int) -> tuple[SweepAxis, ...]:
        """Return an axis and those that vary together with it."""
        return self.axes[at], *self.linked[at]

    def name(self, at: int) -> str:
        """Return the name of an axis as a scale has it: with the values of those that vary together with it."""
        told = [self.short[self.axes[at].path]]
        for axis in self.linked[at]:
            ends = (axis.values[0], axis.values[-1])
            values, between = (axis.values, ", ") if len(axis.values) <= MOST_LISTED else (ends, " .. ")
            told.append(f"{self.short[axis.path]} {between.join(tick(value, axis.dimension) for value in values)}")
        return name_of(", with ".join(told), LONGEST_NAME)

    def names(self, at: int) -> str:
        """Return the names of an axis and of those that vary together with it."""
        return name_of(", ".join(self.short[axis.path] for axis in self.all_of(at)), LONGEST_NAME)

    def values(self, at: int, position: int) -> str:
        """Return the values at a position of an axis and of those that vary together with it."""
        return ", ".join(tick(axis.values[position], axis.dimension) for axis in self.all_of(at))

    def place(self, at: int, position: int) -> str:
        """Return the names with the values at a position."""
        return place(self.all_of(at), self.short, position)

    def caption(self, axes: Axes) -> None:
        """Write the values of the other axes above the plot."""
        if self.fixed:
            axes.set_title(name_of(self.fixed, 80), loc="left", fontsize=8)

    @property
    def dimension(self) -> str:
        """Return the dimension of the metric; a time is read in seconds and parts of them."""
        found = dimension_of(self.metric) or "count"
        return "time" if found == "duration" else found

    @property
    def ends(self) -> tuple[float, float]:
        """Return the least and the largest prediction."""
        return float(np.nanmin(self.grid.value)), float(np.nanmax(self.grid.value))

    @property
    def reasons(self) -> list[str]:
        """Return why points cannot run, without the numbers of each."""
        return sorted({kind_of(str(reason)) for reason in self.grid.reason.reshape(-1)} - {""})


def place(axes: Sequence[SweepAxis], short: Mapping[str, str], position: int) -> str:
    """Return names and values of axes that vary together at a position. short: their names."""
    return ", ".join(f"{name_of(short[axis.path], 60)} {tick(axis.values[position], axis.dimension)}" for axis in axes)


def is_wide(low: float, high: float) -> bool:
    """Tell whether a range is drawn on a logarithmic scale."""
    return low > 0 and high / low >= WIDE
