"""A sweep in figures: the headline metric of a scenario over the axes, as lines, or as a map where two are long."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np

from costmodel.report.plots.drawn import Drawn, table
from costmodel.report.plots.heat_map import draw_map
from costmodel.report.plots.lines import MOST_LINES, draw_lines
from costmodel.report.plots.view import View, place
from costmodel.report.text import short_paths
from costmodel.study.points import Table

MOST_FIGURES = 12  # of one scenario, where more than two axes vary


def sweep_figures(swept: Table, scenario: str) -> Iterator[Drawn]:
    """Yield the figures of a scenario: one, or one for each combination of what a third axis and further ones hold.

    A combination at which nothing can run has no figure; at most `MOST_FIGURES` are drawn.
    """
    for view in islice(_views(swept, scenario), MOST_FIGURES):
        lines = len(view.axes) < 2 or len(view.axes[1].values) <= MOST_LINES
        yield Drawn(draw_lines(view) if lines else draw_map(view), {"": _data(view)})


def left_out(swept: Table) -> int:
    """Return how many combinations of further axes no figure of a scenario can show for lack of room."""
    lengths = sorted(len(axis.values) for axis in swept.study.dimensions)
    return max(math.prod(lengths[:-2]) - MOST_FIGURES, 0)


def _views(swept: Table, scenario: str) -> Iterator[View]:
    """Yield the parts of a scenario's grid that figures show: the longest axis first, then the second longest."""
    axes, grid = swept.study.dimensions, swept.grids[scenario]
    short = short_paths([axis.path for axis in swept.study.axes])
    together = [tuple(swept.study.linked_axes(axis)) for axis in axes]
    order = sorted(range(len(axes)), key=lambda at: -len(axes[at].values))
    shown = [at for at in order[:2] if len(axes[at].values) > 1] or order[:1]
    others = [at for at in range(len(axes)) if at not in shown]
    for fixed_at in np.ndindex(*(len(axes[at].values) for at in others)):
        fixed = dict(zip(others, fixed_at, strict=True))
        part = grid.part(tuple(fixed.get(at, slice(None)) for at in range(len(axes))))
        if np.isnan(part.value).all():
            continue
        names = (place(together[at], short, position) for at, position in fixed.items())
        yield View(
            scenario, swept.study.scenarios[scenario].headline, tuple(axes[at] for at in shown),
            tuple(together[at][1:] for at in shown), short, part if shown == sorted(shown) else part.transpose(),
            ", ".join(names),
        )  # fmt: skip


def _data(view: View) -> bytes:
    """Return the points that a figure shows, the last of its axes fastest."""
    numbers = (view.metric, f"{view.metric}_low", f"{view.metric}_high")
    rows: list[list[object]] = []
    for index in np.ndindex(*view.grid.value.shape):
        values = [float(part[index]) for part in (view.grid.value, view.grid.low, view.grid.high)]
        where = [axis.values[at] for dimension, at in enumerate(index) for axis in view.all_of(dimension)]
        reason = str(view.grid.reason[index])
        rows.append([*where, *(None if np.isnan(value) else value for value in values), not reason, reason])
    paths = (axis.path for dimension in range(len(view.axes)) for axis in view.all_of(dimension))
    return table((*paths, *numbers, "fits", "reason"), rows)
