"""A sweep: the headline metric of a scenario over the axes, as lines, or as a heat map where two axes are long."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np

from costmodel.report.plots.heat_map import draw_map
from costmodel.report.plots.lines import MOST_LINES, draw_lines
from costmodel.report.plots.plot import Plot, table
from costmodel.report.plots.view import View, position_text
from costmodel.report.text import path_title, short_paths
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
    """Return the points that a plot shows, the last of its axes fastest."""
    rows: list[list[object]] = []
    for index in np.ndindex(*view.grid.value.shape):
        numbers = [float(part[index]) for part in (view.grid.value, view.grid.low, view.grid.high)]
        position = [axis.values[i] for dimension, i in enumerate(index) for axis in view.all_of(dimension)]
        reason = str(view.grid.reason[index])
        rows.append([*position, *(None if np.isnan(value) else value for value in numbers), not reason, reason])
    paths = (axis.path for dimension in range(len(view.axes)) for axis in view.all_of(dimension))
    return table((*paths, view.metric, f"{view.metric}_low", f"{view.metric}_high", "fits", "reason"), rows)
