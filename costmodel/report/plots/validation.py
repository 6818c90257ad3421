"""Predicted against published values of a class, one panel per kind of quantity."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from costmodel.errors import CostModelError
from costmodel.report.reproduce import Compared
from costmodel.report.style import CYCLE, GREY, SMALL, Plot, display_name, log_axis, panels, table, unit_for
from costmodel.report.text import percent, readable
from costmodel.schema.metrics import dimension_of
from costmodel.schema.references import Library
from costmodel.schema.results import ReproducedValue
from costmodel.study.published.accuracy import has_interval

MOST, ONE_ROW, FEWEST = 4, 3, 4  # panels, and those in one row; results below which a kind of quantity has none
NAMED = 9  # publications with most results; the others share a mark
POINTS = 100  # of a publication in a panel at most: a sample shows as much, and the file stays small
SEED = 0
BAND = 1.2  # predicted over published at the dashed lines, and its inverse
ROOM = 1.4  # beyond the outermost points, on both logarithmic axes
TICKS = 4  # of a panel's axis at most: their labels have to fit side by side
MARKS = tuple((shape, colour) for shape, colour in product("os^D", CYCLE))
OTHERS = (".", GREY)
_CITE = re.compile(r'cite: "?([^"\n]*?)(?:[,;:(\n]| as | README)')  # the name of a publication in its file
LONG_UNITS = ("flop_rate", "flop", "bandwidth", "power", "size")  # dimensions whose units are too long for every tick
NUMBERS = ("published", "predicted", "low", "high", "error")


def reproduced_plot(name: str, rows: Sequence[ReproducedValue]) -> Plot | None:
    """Return the predictions of a class, as `reproduce` printed them, against published values, null for none."""
    scored = [row for row in rows if row.error is not None and row.predicted and row.published and _has_unit(row)]
    figure = compared_figure(finding(name, scored), scored)
    columns = ("id", "publication", "metric", "unit", *NUMBERS, "verdict")
    data = table(columns, ([getattr(row, column) for column in columns] for row in rows))
    return None if figure is None else Plot(figure, {"": data})


def _has_unit(row: ReproducedValue) -> bool:
    """Tell whether a value is no ratio of two runs, which has no unit although its metric has one."""
    return row.unit != "1" or dimension_of(row.metric or "") in ("ratio", "count", None)


def compared_figure(title: str, rows: Sequence[Compared]) -> Figure | None:
    """Return one panel per kind of quantity, both axes logarithmic, null where nothing is compared."""
    kinds = dict(list(_panels(rows).items())[:MOST])
    if not kinds:
        return None
    counts = Counter(row.publication for panel in kinds.values() for row in panel)
    named = dict(zip([name for name, _ in counts.most_common(NAMED)], MARKS, strict=False))
    marks = {name: named.get(name, OTHERS) for name in sorted(counts, key=lambda name: -counts[name])}
    band = f"dashed: a factor of {BAND:g} either way; lines at points: 80 % intervals"
    figure, axes = panels(title, len(kinds), band, rows=1 if len(kinds) <= ONE_ROW else 2)
    for panel, (kind, shown) in zip(axes, kinds.items(), strict=True):
        _draw(panel, kind, shown, marks)
    entries = [(publication_title(name), *look) for name, look in named.items()]
    entries += [(f"{len(counts) - len(named)} others", *OTHERS)] if len(counts) > len(named) else []
    legend = [
        Line2D([], [], color=colour, marker=shape, markersize=6, linestyle="", label=display_name(name))
        for name, shape, colour in entries
    ]
    figure.legend(handles=legend, loc="outside right center", fontsize=SMALL)
    return figure


def publication_title(publication: str) -> str:
    """Return the name of a publication: the first words of its citation, else what its file is called."""
    try:
        content = Library().find(publication, "published").read_text("utf-8")
    except CostModelError:
        content = ""
    cite = _CITE.search(content)
    return cite[1].rpartition("/")[2].strip() if cite else readable(publication)


def finding(name: str, rows: Sequence[Compared]) -> str:
    """Return the median error of predictions of a class."""
    errors = [abs(row.error) for row in rows if row.error is not None]
    return f"{name.capitalize()}: median error {percent(median(errors or [0.0]))} on {len(errors):,} published results"


def _panels(rows: Sequence[Compared]) -> dict[str, list[Compared]]:
    """Return the results by kind of quantity, most results first. Kinds of few only where no kind has many."""
    panels: dict[str, list[Compared]] = {}
    for row in rows:
        panels.setdefault(quantity_kind(row.metric or ""), []).append(row)
    ordered = sorted(panels.items(), key=lambda item: (-len(item[1]), item[0]))
    return dict([item for item in ordered if len(item[1]) >= FEWEST] or ordered)


def quantity_kind(metric: str) -> str:
    """Return the kind of quantity that a metric shares an axis with: its dimension, a rate of tokens, or itself."""
    dimension = dimension_of(metric) or "count"
    if dimension in ("count", "ratio"):
        return "tokens/s" if "tokens_per_second" in metric else "share" if dimension == "ratio" else metric
    return "time" if dimension == "duration" else dimension


def _draw(axes: Axes, kind: str, shown: Sequence[Compared], marks: Mapping[str, tuple[str, str]]) -> None:
    values = [value for row in shown for value in (row.published, row.predicted, row.low, row.high) if value]
    low, high = min(values) / ROOM, max(values) * ROOM
    widening = max(math.sqrt(10.0 * low / high), 1.0)
    ends = (low / widening, high * widening)
    drawn = 0
    for publication, (shape, colour) in marks.items():
        rows = _sample([row for row in shown if row.publication == publication])
        drawn += len(rows)
        x, y = ([getattr(row, name) for row in rows] for name in ("published", "predicted"))
        wide = [(row.published, row.low, row.high) for row in rows if has_interval(row)]
        positions, lows, highs = np.array(wide, dtype=float).reshape(-1, 3).T
        axes.vlines(positions, lows, highs, color=colour, linewidth=0.8, alpha=0.35, zorder=2)
        axes.scatter(x, y, 22.0, colour, marker=shape, alpha=0.8, linewidths=0, zorder=3)
    _compare_axes(axes, kind, ends)
    sampled = "" if drawn == len(shown) else f", {drawn} shown"
    axes.set_title(f"{readable(kind)}: {len(shown):,}{sampled}", loc="left", fontsize=12)


def _compare_axes(axes: Axes, kind: str, ends: tuple[float, float]) -> None:
    line = np.array(ends)
    axes.plot(line, line, color=GREY, linewidth=0.8, zorder=1)
    for factor in (BAND, 1.0 / BAND):
        axes.plot(line, line * factor, color=GREY, linewidth=0.7, linestyle="--", zorder=1)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    span = ends[1] / ends[0]
    steps = (1.0, 2.0, 5.0) if span < 15.0 else (1.0, 3.0) if span < 60.0 else (1.0,)
    for axis, what in ((axes.xaxis, "published"), (axes.yaxis, "predicted")):
        _label(axis, what, kind, ends)
        axis.set_major_locator(LogLocator(10, subs=steps, numticks=TICKS))
    axes.tick_params(labelsize=SMALL)


def _label(axis: Axis, what: str, kind: str, ends: tuple[float, float]) -> None:
    dimension = kind if kind in LONG_UNITS or kind == "time" else "ratio" if kind == "share" else "count"
    log_axis(axis, what, dimension, ends)
    if dimension in LONG_UNITS:
        unit, factor = unit_for(math.sqrt(ends[0] * ends[1]), dimension)
        axis.set_label_text(f"{what} ({unit})")
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / factor:,g}"))


def _sample(rows: Sequence[Compared]) -> list[Compared]:
    """Return at most `POINTS` of the rows, the same ones every time."""
    if len(rows) <= POINTS:
        return list(rows)
    return [rows[i] for i in np.sort(np.random.default_rng(SEED).permutation(len(rows))[:POINTS])]
