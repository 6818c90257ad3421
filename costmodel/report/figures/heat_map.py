"""A metric over two long axes as a map: a cell for each point, pale where it cannot run."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from costmodel.report.figures.view import View, is_wide
from costmodel.report.style import PALE, canvas, linear_axis, log_axis, marked_axis, name_of
from costmodel.schema.results import AxisFile

TICKS = 7  # of an axis, at most


def draw_map(view: View) -> Figure:
    """Return a map with the first axis to the right and the second one upwards."""
    figure, axes = canvas(3.4)
    view.caption(axes)
    ends = view.ends
    wide = is_wide(*ends)
    axes.set_facecolor(PALE)
    axes.grid(visible=False)
    image = axes.imshow(
        np.ma.masked_invalid(view.grid.value.T), origin="lower", aspect="auto", interpolation="nearest",
        cmap="cividis", norm=LogNorm(*ends) if wide else None,
    )  # fmt: skip
    for axis, shown, what in zip((axes.xaxis, axes.yaxis), view.axes, view.names, strict=True):
        _scale(axis, shown, name_of(what, 60))
    bar = figure.colorbar(image, ax=axes)
    if wide:
        log_axis(bar.ax.yaxis, view.what, view.dimension, ends)
    else:
        linear_axis(bar.ax.yaxis, view.what, view.dimension, ends[1])
    if view.reasons:
        figure.legend(handles=[Patch(color=PALE, label=" or ".join(view.reasons))], loc="outside upper left")
    return figure


def _scale(axis: Axis, shown: AxisFile, what: str) -> None:
    """Label an axis with some of its values."""
    places = range(0, len(shown.values), math.ceil(len(shown.values) / TICKS))
    marked_axis(axis, what, shown.dimension, [shown.values[at] for at in places], places)
