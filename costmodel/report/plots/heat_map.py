"""A metric over two long axes as a heat map: one cell per point, pale where it cannot run."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from costmodel.report.plots.view import View, is_wide
from costmodel.report.style import PALE, add_tooltip, canvas, linear_axis, log_axis, marked_axis
from costmodel.report.text import metric
from costmodel.schema.results import SweepAxis

TICKS = 7  # of an axis, at most
MOST_TOOLTIPS = 1000  # cells up to which each has a tooltip


def draw_map(view: View) -> Figure:
    """Return a map with the first axis horizontal and the second one vertical."""
    ends, refused = view.ends, " or ".join(view.reasons)
    figure, axes = canvas(view.finding, "; ".join(filter(None, (view.fixed, refused and f"grey: {refused}"))))
    wide = is_wide(*ends)
    axes.set_facecolor(PALE)
    axes.grid(visible=False)
    image = axes.imshow(
        np.ma.masked_invalid(view.grid.value.T), origin="lower", aspect="auto", interpolation="nearest",
        cmap="cividis", norm=LogNorm(*ends) if wide else None,
    )  # fmt: skip
    if view.grid.value.size <= MOST_TOOLTIPS:
        _add_tooltips(axes, view)
    for i, axis in enumerate((axes.xaxis, axes.yaxis)):
        _scale(axis, view.axes[i], view.name(i))
    bar = figure.colorbar(image, ax=axes)
    if wide:
        log_axis(bar.ax.yaxis, view.what, view.dimension, ends)
    else:
        linear_axis(bar.ax.yaxis, view.what, view.dimension, ends[1])
    return figure


def _add_tooltips(axes: Axes, view: View) -> None:
    """Lay an invisible cell with a tooltip over each cell of the map."""
    for (column, row), value in np.ndenumerate(view.grid.value):
        cell = axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1.0, 1.0, alpha=0.0, linewidth=0.0))
        position = f"{view.position_text(0, column)}, {view.position_text(1, row)}"
        text = view.grid.reason[column, row] if np.isnan(value) else metric(view.metric, float(value))
        add_tooltip([cell], f"{position}: {text}")


def _scale(axis: Axis, shown: SweepAxis, what: str) -> None:
    """Label an axis with some of its values."""
    positions = range(0, len(shown.values), math.ceil(len(shown.values) / TICKS))
    marked_axis(axis, what, shown.dimension, [shown.values[i] for i in positions], positions)
