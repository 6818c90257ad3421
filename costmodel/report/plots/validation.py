"""Predicted against published figures of a class, a panel for each kind of quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Picture
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from costmodel.report.plots.drawn import Drawn, table
from costmodel.report.style import CYCLE, GREY, WIDTH, log_axis, name_of, unit_for
from costmodel.schema.answers import ReproducedValue
from costmodel.schema.metrics import dimension_of

if TYPE_CHECKING:
    from costmodel.study.reproduce import Comparison
    from costmodel.study.validating import ScoredValue

COLUMNS, FEWEST = 2, 4  # panels side by side; figures below which a panel is left to the table
PANEL = WIDTH / COLUMNS  # width and height of one [inches]
POINTS = 100  # of a publication in a panel at most: a sample is as telling, and the file stays small
SEED = 0
BAND = 1.2  # the dashed lines: predicted over published, and its inverse
NARROW = 1e-9  # an interval narrower than this share of its value is none
ROOM = 1.4  # beyond the outermost points, on both logarithmic axes
TICKS = 4  # of a panel's axis at most: their labels have to fit beside each other
MARKS = tuple((shape, colour) for shape, colour in product("os^D", CYCLE))
UNITS = ("flop_rate", "flop", "bandwidth", "power", "size")  # whose units are too long for every tick
NUMBERS = ("published", "predicted", "low", "high", "error")

Compared: TypeAlias = "Comparison | ReproducedValue"


def validation_figure(name: str, figures: Sequence[ScoredValue]) -> Drawn | None:
    """Return predictions without the publication against published figures, both logarithmic; null for none."""
    scored = [
        one.unseen for one in figures
        if one.unseen.error is not None and one.unseen.predicted and not _is_ratio(one)
    ]  # fmt: skip
    picture = compared_picture(f"{name}: predicted against published", scored)
    return None if picture is None else Drawn(picture, {"": _data(figures)})


def reproduced_figure(name: str, rows: Sequence[ReproducedValue]) -> Drawn | None:
    """Return the predictions of a class as `reproduce` printed them against published figures; null for none."""
    scored = [
        row for row in rows if row.error is not None and row.predicted and row.published and not _without_unit(row)
    ]
    picture = compared_picture(f"{name}: predicted against published", scored)
    columns = ("id", "publication", "metric", "unit", *NUMBERS, "verdict")
    data = table(columns, ([getattr(row, column) for column in columns] for row in rows))
    return None if picture is None else Drawn(picture, {"": data})


def _without_unit(row: ReproducedValue) -> bool:
    """Tell whether a figure is a ratio of two runs: it has no unit, though its metric has one."""
    return row.unit == "1" and dimension_of(row.metric or "") not in ("ratio", "count", None)


def compared_picture(title: str, rows: Sequence[Compared]) -> Picture | None:
    """Return a panel for each kind of quantity, both axes logarithmic; null where nothing is compared."""
    panels = _panels(rows)
    if not panels:
        return None
    publications = sorted({one.publication for shown in panels.values() for one in shown})
    marks = {publication: MARKS[at % len(MARKS)] for at, publication in enumerate(publications)}
    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    height = lines * PANEL + 0.35 + 0.18 * math.ceil((len(marks) + 1) / 3)
    picture = Picture(figsize=(WIDTH, height), layout="constrained")
    axes = picture.subplots(lines, columns, squeeze=False).ravel()
    for place, (kind, shown) in zip(axes, panels.items(), strict=False):
        _draw(place, kind, shown, marks)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    legend = [
        Line2D([], [], color=colour, marker=shape, markersize=4, linestyle="", label=name_of(publication))
        for publication, (shape, colour) in marks.items()
    ]
    legend.append(Line2D([], [], color=GREY, linestyle="--", linewidth=0.8, label=f"{BAND:g} times, and its inverse"))
    picture.legend(handles=legend, loc="outside lower left", ncols=3, fontsize=7.5)
    picture.suptitle(title, x=0.01, ha="left", fontsize=10)
    return picture


def _is_ratio(one: ScoredValue) -> bool:
    """Tell whether a figure is a ratio of two runs, which stands on no axis of its metric."""
    return any(each.check == "ratio" and each.metric == one.unseen.metric for each in one.case.expect)


def _panels(rows: Sequence[Compared]) -> dict[str, list[Compared]]:
    """Return the figures by kind of quantity, most figures first; kinds of few only where no kind has many."""
    found: dict[str, list[Compared]] = {}
    for one in rows:
        found.setdefault(kind_of(one.metric or ""), []).append(one)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return dict([item for item in ordered if len(item[1]) >= FEWEST] or ordered)


def kind_of(metric: str) -> str:
    """Return the kind of quantity that a metric shares an axis with: its dimension, a rate of tokens, or itself."""
    dimension = dimension_of(metric) or "count"
    if dimension in ("count", "ratio"):
        return "tokens/s" if "tokens_per_second" in metric else "share" if dimension == "ratio" else metric
    return "time" if dimension == "duration" else dimension


def _draw(axes: Axes, kind: str, shown: Sequence[Compared], marks: Mapping[str, tuple[str, str]]) -> None:
    ends = _ends(shown)
    line = np.array(ends)
    axes.plot(line, line, color=GREY, linewidth=0.8, zorder=1)
    for factor in (BAND, 1.0 / BAND):
        axes.plot(line, line * factor, color=GREY, linewidth=0.7, linestyle="--", zorder=1)
    drawn = 0
    for publication, (shape, colour) in marks.items():
        some = _sample([one for one in shown if one.publication == publication])
        drawn += len(some)
        x, y = ([getattr(one, name) for one in some] for name in ("published", "predicted"))
        wide = [(one.published, one.low, one.high) for one in some if _has_interval(one)]
        places, lows, highs = np.array(wide, dtype=float).reshape(-1, 3).T
        axes.vlines(places, lows, highs, color=colour, linewidth=0.5, alpha=0.35, zorder=2)
        axes.scatter(x, y, 11.0, colour, marker=shape, alpha=0.8, linewidths=0, zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    _label(axes.xaxis, "published", kind, ends)
    _label(axes.yaxis, "predicted", kind, ends)
    span = ends[1] / ends[0]
    steps = (1.0, 2.0, 5.0) if span < 15.0 else (1.0, 3.0) if span < 60.0 else (1.0,)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, subs=steps, numticks=TICKS))
    axes.tick_params(labelsize=7)
    kept = "" if drawn == len(shown) else f", {drawn} shown"
    axes.set_title(f"{kind.replace('_', ' ')}: {len(shown):,}{kept}", loc="left", fontsize=8)


def _has_interval(one: Compared) -> bool:
    """Tell whether a prediction has an interval of any width."""
    return one.low is not None and one.high is not None and one.high - one.low > NARROW * abs(one.high)


def _label(axis: Axis, what: str, kind: str, ends: tuple[float, float]) -> None:
    """Label an axis: units stand at the ticks of short ones, and beside the name of long ones."""
    dimension = kind if kind in UNITS or kind == "time" else "ratio" if kind == "share" else "count"
    log_axis(axis, what, dimension, ends)
    if dimension in UNITS:
        unit, factor = unit_for(math.sqrt(ends[0] * ends[1]), dimension)
        axis.set_label_text(f"{what} ({unit})")
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / factor:,g}"))


def _sample(rows: Sequence[Compared]) -> list[Compared]:
    """Return at most `POINTS` of the rows, the same ones every time."""
    if len(rows) <= POINTS:
        return list(rows)
    some = np.sort(np.random.default_rng(SEED).permutation(len(rows))[:POINTS])
    return [rows[at] for at in some]


def _ends(shown: Sequence[Compared]) -> tuple[float, float]:
    """Return the ends of both axes: all points and intervals, and some room, at least a decade."""
    values = [value for one in shown for value in (one.published, one.predicted, one.low, one.high) if value]
    low, high = min(values) / ROOM, max(values) * ROOM
    short = max(math.sqrt(10.0 * low / high), 1.0)
    return low / short, high * short


def _data(figures: Sequence[ScoredValue]) -> bytes:
    """Return every figure of the class as CSV, in SI, with both columns of predictions."""
    return table(
        ("id", "publication", "metric", "unit", *NUMBERS, *(f"{name}_left_out" for name in NUMBERS[1:]), "verdict"),
        (
            (
                one.stated.id, one.stated.publication, one.stated.metric, one.stated.unit,
                *(getattr(one.stated, name) for name in NUMBERS), *(getattr(one.unseen, name) for name in NUMBERS[1:]),
                one.unseen.verdict,
            )
            for one in figures
        ),
    )  # fmt: skip
