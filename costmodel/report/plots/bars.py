"""Bars with 80 % intervals and a note at their end."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costmodel.records import ValueRecord
from costmodel.report.style import BLACK, BLUE, INTERVALS, SMALL, add_tooltip, canvas, display_name, linear_axis
from costmodel.report.text import interval, metric

LONGEST_LABEL = 44  # characters of a line next to a bar
ROOM, NOTE_ROOM = 1.3, 0.03  # end of the axis in lengths of the longest bar, and more per character of a note
WHOLE = 1.15  # end of an axis of shares


class Bar(ValueRecord):
    """One bar. metric: whose value it is; low, high: its interval, null for none."""

    label: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    colour: str = BLUE


def bars_figure(title: str, bars: Sequence[Bar], what: str, dimension: str) -> Figure:
    """Return bars one below the other. what: label of the axis, whose dimension is given."""
    figure, axes = canvas(title, INTERVALS)
    draw_bars(axes, bars, what, dimension)
    return figure


def draw_bars(axes: Axes, bars: Sequence[Bar], what: str, dimension: str, *, above: bool = False) -> None:
    """Draw bars one below the other and label both axes. above: names stand over the bars, not at their left."""
    for i, bar in enumerate(bars):
        patches = axes.barh(i, bar.value, height=0.36 if above else 0.62, color=bar.colour)
        value, end, ends = metric(bar.metric, bar.value), max(bar.value, 0.0), ""
        if bar.low is not None and bar.high is not None and bar.low != bar.high:
            ends = f", 80 %: {interval(bar.metric, bar.low, bar.high)}"
            end = max(end, bar.high)
            axes.plot([bar.low, bar.high], [i, i], "|-", color=BLACK, linewidth=1.2, markersize=8)
        add_tooltip(patches, " ".join(f"{bar.label}: {value}{ends}".split()))
        text = ", ".join(filter(None, (value, bar.note)))
        axes.annotate(text, (end, i), (4, 0), textcoords="offset points", va="center", fontsize=SMALL)
    labels = ["\n".join(display_name(line, LONGEST_LABEL) for line in bar.label.split("\n")) for bar in bars]
    axes.set_yticks(range(len(bars)), [""] * len(bars) if above else labels)
    for i, label in enumerate(labels if above else ()):
        axes.annotate(label, (0.0, i - 0.22), (2, 2), textcoords="offset points", fontsize=SMALL)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    marks = [mark for bar in bars for mark in (0.0, bar.value, bar.low, bar.high) if mark is not None]
    least, top = min(marks), max(marks)
    span = (ROOM + NOTE_ROOM * max(len(bar.note) for bar in bars)) * (top - least)
    right = least + span
    axes.set_xlim(1.04 * least, min(right, WHOLE) if dimension == "ratio" and top <= 1.0 < right else right)
    if least < 0.0:
        axes.axvline(0.0, color=BLACK, linewidth=0.8)
    linear_axis(axes.xaxis, what, dimension, top)
