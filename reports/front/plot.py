"""Predicted over published figures, a row for each publication or class: every figure a dot, the median a line."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from costmodel.records import ValueRecord
from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import BLACK, CYCLE, PALE, canvas, display_name

ENDS = (0.25, 4.0)  # of the axis: predicted over published; what lies beyond stands at its end
TICKS = (0.25, 0.5, 1.0, 2.0, 4.0)
DOTS = 150  # of a row at most: a sample is as telling, and the file stays small
NEAR = 0.2  # the shaded band: within this of the published figure
SEED = 0


class Row(ValueRecord):
    """Figures that stand on one row. errors: predicted / published - 1; kind: their class, which gives the colour."""

    name: str
    kind: str
    errors: Sequence[float]


def accuracy_figure(rows: Sequence[Row]) -> Plot:
    """Return predicted over published for each row, on a logarithmic axis."""
    figure, axes = canvas(0.8 + 0.25 * len(rows))
    kinds = list(dict.fromkeys(row.kind for row in rows))
    axes.axvspan(1.0 - NEAR, 1.0 / (1.0 - NEAR), color=PALE, alpha=0.5, linewidth=0)
    axes.axvline(1.0, color=BLACK, linewidth=0.8)
    for at, row in enumerate(rows):
        _draw(axes, at, row, CYCLE[kinds.index(row.kind) % len(CYCLE)])
    axes.set_yticks(range(len(rows)), [display_name(row.name, 44) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xscale("log")
    axes.set_xlim(ENDS[0] / 1.05, ENDS[1] * 2.4)
    axes.xaxis.set_major_locator(FixedLocator(list(TICKS)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"predicted over published (shaded: within {NEAR:.0%})")
    axes.set_title("median error of how many figures", loc="right", fontsize=8)
    data = ((row.name, row.kind, len(row.errors), typical(row), float(np.median(row.errors))) for row in rows)
    return Plot(figure, {"": table(("row", "class", "figures", "median_absolute_error", "median_error"), data)})


def typical(row: Row) -> float:
    """Return the median absolute error of a row."""
    return float(median(abs(error) for error in row.errors))


def _draw(axes: Axes, at: int, row: Row, colour: str) -> None:
    ratios = np.clip(1.0 + np.array(row.errors), *ENDS)
    draws = np.random.default_rng(SEED)
    shown = ratios if len(ratios) <= DOTS else ratios[np.sort(draws.permutation(len(ratios))[:DOTS])]
    heights = at + 0.26 * (2.0 * draws.random(len(shown)) - 1.0)
    axes.scatter(shown, heights, 6.0, colour, alpha=0.45, linewidths=0)
    axes.plot([float(np.median(ratios))] * 2, [at - 0.38, at + 0.38], color=BLACK, linewidth=1.4)
    words = f"{typical(row):.1%} of {len(row.errors):,}"
    axes.annotate(words, (ENDS[1], at), (5, 0), textcoords="offset points", va="center", fontsize=7.5)
