"""Values side by side as bars, each with its 80 % interval and a word at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from costmodel.report.plots.drawn import table
from costmodel.report.style import BLACK, BLUE, WIDTH, linear_axis, name_of, tell
from costmodel.report.text import metric, span

LONGEST_LABEL = 44  # characters of a line beside a bar
ROOM = 1.34  # of the longest bar: where its axis ends
WHOLE = 1.15  # where the axis of shares ends


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar. metric: how its value is written; low, high: its interval, null for none; kind: what a legend names."""

    label: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    colour: str = BLUE
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Bars on one axis. what: of the axis, whose dimension is given."""

    what: str
    dimension: str
    bars: Sequence[Bar]


def bars_figure(bars: Sequence[Bar], what: str, dimension: str) -> Figure:
    """Return bars one below the other. what: of the axis, whose dimension is given."""
    return groups_figure([Group(what, dimension, bars)])


def groups_figure(groups: Sequence[Group]) -> Figure:
    """Return a panel of bars for each group, one below the other, each on an axis of its own."""
    legend = {bar.kind: bar.colour for group in groups for bar in group.bars if bar.kind}
    lines = [max(sum(1 + bar.label.count("\n") for bar in group.bars), 1) for group in groups]
    height = sum(0.55 + 0.24 * line for line in lines) + (0.25 if legend else 0.05)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[2.2 + line for line in lines]).ravel()
    for axes, group in zip(panels, groups, strict=True):
        draw_bars(axes, group.bars)
        axes.set_yticks(range(len(group.bars)), [_label(bar.label) for bar in group.bars], fontsize=8)
        top = max(max(bar.value, bar.high or 0.0) for bar in group.bars)
        axes.set_xlim(0.0, min(ROOM * top, WHOLE) if group.dimension == "ratio" and top <= 1.0 else ROOM * top)
        linear_axis(axes.xaxis, group.what, group.dimension, top)
    if legend:
        handles = [Patch(color=colour, label=kind) for kind, colour in legend.items()]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def group_rows(groups: Sequence[Group]) -> bytes:
    """Return all bars as CSV, in SI."""
    rows = (
        (group.what, bar.label.replace("\n", " "), bar.metric, bar.value, bar.low, bar.high, bar.note)
        for group in groups
        for bar in group.bars
    )
    return table(("axis", "bar", "metric", "value", "low", "high", "note"), rows)


def _label(text: str) -> str:
    return "\n".join(name_of(line, LONGEST_LABEL) for line in text.split("\n"))


def draw_bars(axes: Axes, bars: Sequence[Bar]) -> None:
    """Draw bars on axes whose vertical one counts them from above."""
    for at, bar in enumerate(bars):
        patches = axes.barh(at, bar.value, height=0.62, color=bar.colour)
        shown, end, told = metric(bar.metric, bar.value), bar.value, ""
        if bar.low is not None and bar.high is not None and bar.low != bar.high:
            told = f", 80 %: {span(bar.metric, bar.low, bar.high)}"
            end = max(end, bar.high)
            axes.plot([bar.low, bar.high], [at, at], "|-", color=BLACK, linewidth=0.9, markersize=5)
        tell(patches, " ".join(f"{bar.label}: {shown}{told}".split()))
        words = " ".join(filter(None, (shown, bar.note)))
        axes.annotate(words, (end, at), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
