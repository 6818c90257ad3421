"""Predicted against measured times of a device's kernels, one panel an operator."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.report.plots.validation import BAND, compare_axes, ends_of
from costmodel.report.style import CYCLE, GREY, display_name, log_axis

COLUMNS, FEWEST_COLUMNS, PANEL = 3, 2, 2.5  # panels side by side; width and height of one [inches]
POINTS = 200  # of a panel at most: a sample is as telling, and the file stays small
SEED = 0


class Points(Record):
    """Rows of one operator: measured and predicted times [s], and the number format of each."""

    measured: Array
    predicted: Array
    formats: npt.NDArray[np.object_]

    def sample(self) -> Points:
        """Return at most `POINTS` of the rows, the same ones every time."""
        if len(self.measured) <= POINTS:
            return self
        some = np.sort(np.random.default_rng(SEED).permutation(len(self.measured))[:POINTS])
        return Points(self.measured[some], self.predicted[some], self.formats[some])


def kernels_figure(device: str, operators: Mapping[str, Points]) -> Figure:
    """Return the panels of a device's operators, in the order given."""
    columns = min(max(len(operators), FEWEST_COLUMNS), COLUMNS)
    rows = math.ceil(len(operators) / columns)
    figure = Figure(figsize=(columns * PANEL, rows * PANEL + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    names = sorted({str(name) for points in operators.values() for name in points.formats})
    colours = {name: CYCLE[at % len(CYCLE)] for at, name in enumerate(names)}
    for axes, (operator, points) in zip(panels, operators.items(), strict=False):
        _draw(axes, operator, points, colours)
    for axes in panels[len(operators) :]:
        axes.set_axis_off()
    marks = [
        Line2D([], [], color=colour, marker="o", markersize=4, linestyle="", label=display_name(name))
        for name, colour in colours.items()
    ]
    marks.append(Line2D([], [], color=GREY, linestyle="--", linewidth=0.8, label=f"{BAND:g} times, and its inverse"))
    figure.legend(handles=marks, loc="outside lower left", ncols=5, fontsize=7.5)
    figure.suptitle(f"{display_name(device)}: predicted against measured times", x=0.01, ha="left", fontsize=10)
    return figure


def _draw(axes: Axes, operator: str, points: Points, colours: Mapping[str, str]) -> None:
    shown = points.sample()
    ends = ends_of([*shown.measured, *shown.predicted])
    for name, colour in colours.items():
        of = shown.formats == name
        axes.scatter(shown.measured[of], shown.predicted[of], 5.0, colour, alpha=0.5, linewidths=0, zorder=2)
    compare_axes(axes, ends, lambda axis, what: log_axis(axis, what, "time", ends))
    kept = "" if len(shown.measured) == len(points.measured) else f", {len(shown.measured)} shown"
    axes.set_title(f"{display_name(operator)}\n{len(points.measured):,} rows{kept}", loc="left", fontsize=8)
