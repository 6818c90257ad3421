"""Bars with 80 % intervals and a note at their end."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costmodel.records import ValueRecord
from costmodel.report.style import BLACK, BLUE, WIDTH, add_tooltip, display_name, linear_axis
from costmodel.report.text import interval, metric

LONGEST_LABEL = 44  # characters of a line next to a bar
ROOM, NOTE_ROOM = 1.34, 0.045  # end of the axis in lengths of the longest bar, and more per character of a note
WHOLE = 1.15  # end of an axis of shares


class Bar(ValueRecord):
    """One bar. metric: whose value it is; low, high: its interval, null for none; kind: its name in a legend."""

    label: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    colour: str = BLUE
    kind: str = ""

    @property
    def lines(self) -> int:
        """Return the number of lines of the label."""
        return 1 + self.label.count("\n")


def bars_figure(bars: Sequence[Bar], what: str, dimension: str) -> Figure:
    """Return bars one below the other. what: label of the axis, whose dimension is given."""
    figure = Figure(figsize=(WIDTH, panel_height(bars) + 0.05), layout="constrained")
    draw_bars(figure.add_subplot(), bars, what, dimension)
    return figure


def panel_height(bars: Sequence[Bar]) -> float:
    """Return the height of a panel of bars [inches]."""
    return 0.55 + 0.24 * max(sum(bar.lines for bar in bars), 1)


def draw_bars(axes: Axes, bars: Sequence[Bar], what: str, dimension: str) -> None:
    """Draw bars one below the other and label both axes."""
    for i, bar in enumerate(bars):
        patches = axes.barh(i, bar.value, height=0.62, color=bar.colour)
        value, end, ends = metric(bar.metric, bar.value), bar.value, ""
        if bar.low is not None and bar.high is not None and bar.low != bar.high:
            ends = f", 80 %: {interval(bar.metric, bar.low, bar.high)}"
            end = max(end, bar.high)
            axes.plot([bar.low, bar.high], [i, i], "|-", color=BLACK, linewidth=0.9, markersize=5)
        add_tooltip(patches, " ".join(f"{bar.label}: {value}{ends}".split()))
        text = " ".join(filter(None, (value, bar.note)))
        axes.annotate(text, (end, i), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
    labels = ["\n".join(display_name(line, LONGEST_LABEL) for line in bar.label.split("\n")) for bar in bars]
    axes.set_yticks(range(len(bars)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    top = max(max(bar.value, bar.high or 0.0) for bar in bars)
    right = (ROOM + NOTE_ROOM * max(len(bar.note) for bar in bars)) * top
    axes.set_xlim(0.0, min(right, WHOLE) if dimension == "ratio" and top <= 1.0 else right)
    linear_axis(axes.xaxis, what, dimension, top)
