"""A what-if as the page shows it, and the evaluations that several of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from costmodel.api import Workload, load
from costmodel.quantities import Array
from costmodel.records import Record, ValueRecord
from costmodel.report.plots.bars import Bar, draw_bars
from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import INTERVALS, panels
from costmodel.report.text import share
from costmodel.result import Point, Result
from costmodel.study.what_if import ratio_of
from reports.what_if.curves import Curve

FLAGSHIP = "deepseek_v3"
RATIOS = "line or band: 80 % interval of the ratio; errors that both sides share cancel"


class Asked(Record):
    """A what-if. name: of its files; says: sentences below the figure; commands: which ask for the same numbers."""

    name: str
    title: str
    drawn: Plot
    says: Sequence[str]
    commands: Sequence[str]


def point(scenario: str, changes: Mapping[str, object]) -> Point:
    """Return one scenario of DeepSeek-V3 with some changes, complete."""
    return load(FLAGSHIP, set=dict(changes), scenarios=[scenario]).evaluate(scenario).point()


def ratio(base: Workload, changes: Mapping[str, object]) -> tuple[float, float, float]:
    """Return the headline with some changes over that of a workload of one scenario, and the ends of its interval."""
    (name,) = base.scenarios
    value, ends = ratio_of(base, name, base.changed(changes), name)
    return (value, *(ends or (value, value)))


def curve(label: str, x: Sequence[float] | Array, result: Result, name: str, part: Any = slice(None)) -> Curve:
    """Return a metric of a result over one axis as a curve. part: of the grid."""
    found = np.asarray(result.metrics[name], dtype=np.float64)
    value = np.broadcast_to(found, np.shape(result.reason))[part]
    return Curve(label, np.asarray(x, dtype=np.float64), value)


def rests_on(found: Point) -> str:
    """Return what most of a prediction's time rests on, in a few words."""
    parts = sorted(((value, name) for name, value in found.basis().items() if value > 0.1), reverse=True)
    return ", ".join(f"{name} {share(value)}" for value, name in parts)


# ---- Panels of bars side by side, each on an axis of its own ---------------------------------------------------------

MANY = 2  # panels up to which names have room at the left


class Group(ValueRecord):
    """Bars on one axis. what: label of the axis, whose dimension is given."""

    what: str
    dimension: str
    bars: Sequence[Bar]


def groups_plot(title: str, groups: Sequence[Group], note: str = INTERVALS) -> Plot:
    """Return a panel of bars for each group; the data are all bars in SI."""
    figure, axes = panels(title, len(groups), note)
    for place, group in zip(axes, groups, strict=True):
        draw_bars(place, group.bars, group.what, group.dimension, above=len(groups) > MANY)
    rows = (
        (group.what, bar.label.replace("\n", " "), bar.metric, bar.value, bar.low, bar.high, bar.note)
        for group in groups
        for bar in group.bars
    )
    return Plot(figure, {"": table(("axis", "bar", "metric", "value", "low", "high", "note"), rows)})
