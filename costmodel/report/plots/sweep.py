"""A sweep: the headline metric of a scenario over the axes, as lines, or as a heat map where two axes are long."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from costmodel.report.plots.lines import MOST_LINES, View, draw_lines, is_wide, position_text
from costmodel.report.style import PALE, Plot, add_tooltip, canvas, linear_axis, log_axis, marked_axis, table
from costmodel.report.text import metric, path_title, short_paths
from costmodel.schema.results import SweepAxis
from costmodel.study.points import Table

MOST_PLOTS = 12  # of one scenario, where more than two axes vary


def sweep_plots(sweep: Table, scenario: str) -> Iterator[Plot]:
    """Yield the plots of a scenario, one for each combination of the third and further axes.

    A combination at which nothing can run has no plot, at most `MOST_PLOTS` are drawn.
    """
    for view in islice(_views(sweep, scenario), MOST_PLOTS):
        as_lines = len(view.axes) < 2 or len(view.axes[1].values) <= MOST_LINES
        yield Plot(draw_lines(view) if as_lines else draw_map(view), {"": _data(view)})


def count_not_drawn(sweep: Table) -> int:
    """Return how many combinations of further axes have no plot for lack of room."""
    lengths = sorted(len(axis.values) for axis in sweep.study.dimensions)
    return max(math.prod(lengths[:-2]) - MOST_PLOTS, 0)


def _views(sweep: Table, scenario: str) -> Iterator[View]:
    """Yield the parts of a scenario's grid that plots show: the longest axis first, then the second longest."""
    axes, grid = sweep.study.dimensions, sweep.grids[scenario]
    paths = short_paths([axis.path for axis in sweep.study.axes])
    short = {path: path_title(name) for path, name in paths.items()}
    linked = [tuple(sweep.study.linked_axes(axis)) for axis in axes]
    order = sorted(range(len(axes)), key=lambda i: -len(axes[i].values))
    shown = [i for i in order[:2] if len(axes[i].values) > 1] or order[:1]
    others = [i for i in range(len(axes)) if i not in shown]
    for index in np.ndindex(*(len(axes[i].values) for i in others)):
        fixed = dict(zip(others, index, strict=True))
        part = grid.part(tuple(fixed.get(i, slice(None)) for i in range(len(axes))))
        if np.isnan(part.value).all():
            continue
        yield View(
            scenario=scenario,
            metric=sweep.study.scenarios[scenario].headline,
            axes=tuple(axes[i] for i in shown),
            linked=tuple(linked[i][1:] for i in shown),
            short=short,
            grid=part if shown == sorted(shown) else part.transpose(),
            fixed=", ".join(position_text(linked[i], short, position) for i, position in fixed.items()),
        )


def _data(view: View) -> bytes:
    rows: list[list[object]] = []
    for index in np.ndindex(*view.grid.value.shape):
        numbers = [float(part[index]) for part in (view.grid.value, view.grid.low, view.grid.high)]
        position = [axis.values[i] for dimension, i in enumerate(index) for axis in view.all_of(dimension)]
        reason = str(view.grid.reason[index])
        rows.append([*position, *(None if np.isnan(value) else value for value in numbers), not reason, reason])
    paths = (axis.path for dimension in range(len(view.axes)) for axis in view.all_of(dimension))
    return table((*paths, view.metric, f"{view.metric}_low", f"{view.metric}_high", "fits", "reason"), rows)


# ---- A metric over two long axes as a heat map: one cell per point, pale where it cannot run -------------------------

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
        for (column, row), value in np.ndenumerate(view.grid.value):
            cell = axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1.0, 1.0, alpha=0.0, linewidth=0.0))
            position = f"{view.position_text(0, column)}, {view.position_text(1, row)}"
            text = view.grid.reason[column, row] if np.isnan(value) else metric(view.metric, float(value))
            add_tooltip([cell], f"{position}: {text}")
    for i, axis in enumerate((axes.xaxis, axes.yaxis)):
        _scale(axis, view.axes[i], view.name(i))
    bar = figure.colorbar(image, ax=axes)
    if wide:
        log_axis(bar.ax.yaxis, view.what, view.dimension, ends)
    else:
        linear_axis(bar.ax.yaxis, view.what, view.dimension, ends[1])
    return figure


def _scale(axis: Axis, shown: SweepAxis, what: str) -> None:
    positions = range(0, len(shown.values), math.ceil(len(shown.values) / TICKS))
    marked_axis(axis, what, shown.dimension, [shown.values[i] for i in positions], positions)
