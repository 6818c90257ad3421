"""Predicted against measured times of a device's kernels, one panel an operator."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.report.style import CYCLE, GREY, display_name, log_axis

COLUMNS, FEWEST_COLUMNS, PANEL = 3, 2, 2.5  # panels side by side; width and height of one [inches]
TICKS = 4  # of a panel's axis at most: their labels have to fit beside each other
POINTS = 200  # of a panel at most: a sample is as telling, and the file stays small
BAND = 1.2  # the dashed lines: predicted over measured, and its inverse
ROOM = 1.3  # beyond the outermost points, on both logarithmic axes
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
    ends = _ends(shown)
    line = np.array(ends)
    axes.plot(line, line, color=GREY, linewidth=0.8, zorder=1)
    for factor in (BAND, 1.0 / BAND):
        axes.plot(line, line * factor, color=GREY, linewidth=0.7, linestyle="--", zorder=1)
    for name, colour in colours.items():
        of = shown.formats == name
        axes.scatter(
            shown.measured[of], shown.predicted[of], 5.0, colour, alpha=0.5, linewidths=0, zorder=2
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    log_axis(axes.xaxis, "measured", "time", ends)
    log_axis(axes.yaxis, "predicted", "time", ends)
    span = ends[1] / ends[0]
    steps = (1.0, 2.0, 5.0) if span < 15.0 else (1.0, 3.0) if span < 60.0 else (1.0,)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, subs=steps, numticks=TICKS))
    axes.tick_params(labelsize=7)
    kept = "" if len(shown.measured) == len(points.measured) else f", {len(shown.measured)} shown"
    axes.set_title(f"{display_name(operator)}\n{len(points.measured):,} rows{kept}", loc="left", fontsize=8)


def _ends(points: Points) -> tuple[float, float]:
    """Return the ends of both axes [s]: all points, and some room, at least a decade."""
    both = np.concatenate([points.measured, points.predicted])
    low, high = float(both.min()) / ROOM, float(both.max()) * ROOM
    short = max(math.sqrt(10.0 * low / high), 1.0)
    return low / short, high * short
