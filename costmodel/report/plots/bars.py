"""Bars with 80 % intervals and a note at their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from costmodel.records import ValueRecord
from costmodel.report import style
from costmodel.report.style import Plot, table
from costmodel.report.text import interval, metric, path_title, short_paths, title_of
from costmodel.report.text import metric as metric_text
from costmodel.schema.results import ParameterSensitivity

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
    colour: str = style.BLUE


def bars_figure(title: str, bars: Sequence[Bar], what: str, dimension: str) -> Figure:
    """Return bars one below the other. what: label of the axis, whose dimension is given."""
    figure, axes = style.canvas(title, style.INTERVALS)
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
            axes.plot([bar.low, bar.high], [i, i], "|-", color=style.BLACK, linewidth=1.2, markersize=8)
        style.add_tooltip(patches, " ".join(f"{bar.label}: {value}{ends}".split()))
        text = ", ".join(filter(None, (value, bar.note)))
        axes.annotate(text, (end, i), (4, 0), textcoords="offset points", va="center", fontsize=style.SMALL)
    labels = ["\n".join(style.display_name(line, LONGEST_LABEL) for line in bar.label.split("\n")) for bar in bars]
    axes.set_yticks(range(len(bars)), [""] * len(bars) if above else labels)
    for i, label in enumerate(labels if above else ()):
        axes.annotate(label, (0.0, i - 0.22), (2, 2), textcoords="offset points", fontsize=style.SMALL)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    marks = [mark for bar in bars for mark in (0.0, bar.value, bar.low, bar.high) if mark is not None]
    least, top = min(marks), max(marks)
    span = (ROOM + NOTE_ROOM * max(len(bar.note) for bar in bars)) * (top - least)
    right = least + span
    axes.set_xlim(1.04 * least, min(right, WHOLE) if dimension == "ratio" and top <= 1.0 < right else right)
    if least < 0.0:
        axes.axvline(0.0, color=style.BLACK, linewidth=0.8)
    style.linear_axis(axes.xaxis, what, dimension, top)


# ---- A tornado plot: the elasticity of a metric to each hardware parameter, that of the most useful part on top ------

SHOWN, LEAST = 10, 0.005  # parameters, and the least elasticity, of which bars are drawn
COLUMNS = ("path", "value", "elasticity", "low", "high", "better", "saved", "more", "less", "tied")


def tornado_plot(scenario: str, metric: str, slopes: Sequence[ParameterSensitivity]) -> Plot | None:
    """Return the elasticities of a metric as bars to both sides. Whiskers show those of a step up and a step down."""
    if not slopes:
        return None
    short = {path: path_title(name) for path, name in short_paths([slope.path for slope in slopes]).items()}
    shown = [slope for slope in slopes if abs(slope.elasticity) >= LEAST][:SHOWN] or slopes[:1]
    figure, axes = style.canvas(
        finding(scenario, metric, shown, short), "whiskers: from a step up and from a step down"
    )
    for i, slope in enumerate(shown):
        side, colour = -1 if slope.elasticity < 0 else 1, style.VERMILLION if slope.elasticity > 0 else style.BLUE
        bars = axes.barh(i, slope.elasticity, height=0.62, color=colour)
        better = f"; 10 % better: {metric_text(metric, slope.better)}" if slope.better is not None else ""
        style.add_tooltip(bars, f"{slope.path}: {slope.elasticity:+.3f}{better}")
        axes.plot([slope.low, slope.high], [i, i], "|-", color=style.BLACK, linewidth=0.9, markersize=5)
        end = min(slope.low, slope.elasticity) if side < 0 else max(slope.high, slope.elasticity)
        axes.annotate(
            f"{slope.elasticity:+.2f}", (end, i), (4 * side, 0), textcoords="offset points", va="center",
            ha="right" if side < 0 else "left", fontsize=style.SMALL,
        )  # fmt: skip
    axes.axvline(0.0, color=style.BLACK, linewidth=0.8)
    style.label_rows(axes, [short[slope.path] for slope in shown], longest=46)
    axes.set_xmargin(0.16)
    axes.set_xlabel(f"change in {title_of(metric)} for a 1 % increase (%)")
    signs = {slope.elasticity > 0 for slope in shown}
    legend = {False: (style.BLUE, "decreases the metric"), True: (style.VERMILLION, "increases the metric")}
    handles = [Patch(color=legend[sign][0], label=legend[sign][1]) for sign in sorted(signs)]
    axes.legend(handles=handles, loc="lower left" if signs == {True} else "best")
    return Plot(figure, {"": table(COLUMNS, ([getattr(slope, name) for name in COLUMNS] for slope in slopes))})


def finding(scenario: str, metric: str, slopes: Sequence[ParameterSensitivity], names: Mapping[str, str]) -> str:
    """Return the parameter that moves a metric most, and by how much where 1 % more of it is had."""
    most = max(slopes, key=lambda slope: abs(slope.elasticity))
    way = "lowers" if most.elasticity < 0 else "raises"
    return f"{scenario}: 1 % more {names[most.path]} {way} {title_of(metric)} by {abs(most.elasticity):.2f} %"
