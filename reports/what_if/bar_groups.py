"""Panels of bars side by side, each on an axis of its own."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.records import ValueRecord
from costmodel.report.plots.bars import Bar, draw_bars
from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import INTERVALS, panels

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
