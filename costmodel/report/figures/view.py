"""What a figure of a sweep shows: a metric over one or two axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from costmodel.report.style import name_of
from costmodel.result import kind_of
from costmodel.schema.metrics import dimension_of
from costmodel.schema.results import AxisFile
from costmodel.study.points import Grid

WIDE = 10.0  # a range whose ends are further apart than this ratio is drawn on a logarithmic scale


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A metric over the first axis, with a line or a row for each value of a second one.

    names: short ones of the axes; grid: its arrays have the axes' shape; fixed: the values of other axes, as text.
    """

    scenario: str
    metric: str
    axes: tuple[AxisFile, ...]
    names: tuple[str, ...]
    grid: Grid
    fixed: str

    @property
    def what(self) -> str:
        """Return the label of the metric."""
        return f"{name_of(self.scenario)}: {self.metric.replace('_', ' ')}"

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


def is_wide(low: float, high: float) -> bool:
    """Tell whether a range is drawn on a logarithmic scale."""
    return low > 0 and high / low >= WIDE
