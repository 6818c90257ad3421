"""Panels of bars, each on an axis of its own."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from costmodel.records import ValueRecord
from costmodel.report.plots.bars import Bar, draw_bars, panel_height
from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import WIDTH


class Group(ValueRecord):
    """Bars on one axis. what: label of the axis, whose dimension is given."""

    what: str
    dimension: str
    bars: Sequence[Bar]


def groups_plot(groups: Sequence[Group]) -> Plot:
    """Return a panel of bars for each group, one below the other; the data are all bars in SI."""
    legend = {bar.kind: bar.colour for group in groups for bar in group.bars if bar.kind}
    height = sum(panel_height(group.bars) for group in groups) + (0.25 if legend else 0.05)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    ratios = [2.2 + max(sum(bar.lines for bar in group.bars), 1) for group in groups]
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=ratios).ravel()
    for axes, group in zip(panels, groups, strict=True):
        draw_bars(axes, group.bars, group.what, group.dimension)
    if legend:
        handles = [Patch(color=colour, label=kind) for kind, colour in legend.items()]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
    rows = (
        (group.what, bar.label.replace("\n", " "), bar.metric, bar.value, bar.low, bar.high, bar.note)
        for group in groups
        for bar in group.bars
    )
    return Plot(figure, {"": table(("axis", "bar", "metric", "value", "low", "high", "note"), rows)})
