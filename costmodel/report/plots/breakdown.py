"""Where a scenario's time goes: one bar per operator, with its exposed and its hidden time."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from costmodel.records import ValueRecord
from costmodel.report.style import BOUNDS, GREY, SMALL, Plot, add_tooltip, canvas, label_rows, linear_axis, table
from costmodel.report.text import interval, metric, quantity, share, title_of
from costmodel.result import headline_of, shown_line
from costmodel.schema.results import BreakdownLine, ScenarioResult

SHOWN = 8  # operators; the others share a bar
COLUMNS = ("name", "time", "hidden", "share", "bound", "basis")
BUBBLE = "pipeline bubble"
HATCH = "/////"  # of hidden time


class _Bar(ValueRecord):
    """One bar [s]. part: of the exposed time; bound: what limits it, null for the bubble and for several operators."""

    name: str
    exposed: float
    hidden: float
    part: float
    bound: str | None


def breakdown_plot(name: str, scenario: ScenarioResult) -> Plot | None:
    """Return the breakdown of a scenario, null where it cannot run. Exposed times sum to its headline metric."""
    if not scenario.breakdown:
        return None
    bars = _bars(scenario)
    figure, axes = canvas(finding(name, scenario), _note(scenario))
    for i, bar in enumerate(bars):
        _draw(axes, i, bar)
    label_rows(axes, [bar.name for bar in bars])
    axes.set_xlim(0.0, 1.35 * max(bar.exposed + bar.hidden for bar in bars))
    linear_axis(axes.xaxis, "time per device", "time", max(bar.exposed + bar.hidden for bar in bars))
    axes.legend(handles=_legend(bars), title="limited by", loc="lower right", alignment="left")
    rows = [[getattr(line, column) for column in COLUMNS] for line in scenario.breakdown]
    bubble = scenario.metrics.get("bubble_time")
    rows += [["bubble", bubble, 0.0, None, None, None]] if bubble else []
    return Plot(figure, {"": table(COLUMNS, rows)})


def finding(name: str, scenario: ScenarioResult) -> str:
    """Return the operators that take most of a scenario's time, and how much is hidden behind others."""
    first = sorted(scenario.breakdown, key=lambda line: -line.share)[:2]
    verb, names = "takes" if len(first) == 1 else "take", " and ".join(shown_line(line.name) for line in first)
    _, hidden, _ = _sums(scenario.breakdown)
    behind = f"; {quantity(hidden, 'time', 3)} of other work is hidden" if hidden else ""
    return f"{name}: {names} {verb} {share(sum(line.share for line in first))} of the time{behind}"


def _note(scenario: ScenarioResult) -> str:
    headline = headline_of(scenario.metrics)
    ends = scenario.intervals.get(headline)
    span = "" if ends is None else f", 80 % interval {interval(headline, ends[0], ends[1], digits=3)}"
    value = metric(headline, scenario.metrics.get(headline))
    return f"{title_of(headline)} {value}{span}; shares are of exposed time, hatched time is hidden behind other work"


def _bars(scenario: ScenarioResult) -> list[_Bar]:
    ranked = sorted(scenario.breakdown, key=lambda line: -(line.time + line.hidden))
    lines, others = ranked[:SHOWN], ranked[SHOWN:]
    bars = [_Bar(shown_line(line.name), line.time, line.hidden, line.share, line.bound) for line in lines]
    if others:
        bars.append(_Bar(f"{len(others)} others", *_sums(others), None))
    bubble, step = scenario.metrics.get("bubble_time"), scenario.metrics.get(headline_of(scenario.metrics))
    if bubble:
        bars.append(_Bar(BUBBLE, bubble, 0.0, bubble / step if step else 0.0, None))
    return bars


def _sums(lines: list[BreakdownLine]) -> tuple[float, float, float]:
    """Return the exposed and the hidden time of operators and their share [s, s, 1]."""
    return sum(line.time for line in lines), sum(line.hidden for line in lines), sum(line.share for line in lines)


def _draw(axes: Axes, i: int, bar: _Bar) -> None:
    colour = BOUNDS.get(bar.bound or "", GREY)
    filling = "white" if bar.name == BUBBLE and bar.bound is None else colour
    words = f"{quantity(bar.exposed, 'time', 3)}, {share(bar.part)}"
    exposed = axes.barh(i, bar.exposed, color=filling, edgecolor=colour, linewidth=0.6)
    add_tooltip(exposed, f"{bar.name}: {quantity(bar.exposed, 'time')}, {share(bar.part)}")
    hidden = axes.barh(i, bar.hidden, left=bar.exposed, color="white", edgecolor=colour, hatch=HATCH, linewidth=0.6)
    if bar.hidden:
        behind = f"{quantity(bar.hidden, 'time', 3)} hidden"
        add_tooltip(hidden, f"{bar.name}: {behind}")
        words = f"{words}; {behind}"
    end = bar.exposed + bar.hidden
    axes.annotate(words, (end, i), (5, 0), textcoords="offset points", va="center", fontsize=SMALL)


def _legend(bars: list[_Bar]) -> list[Patch]:
    used = {bar.bound for bar in bars}
    legend = [Patch(color=colour, label=bound) for bound, colour in BOUNDS.items() if bound in used]
    if any(bar.hidden for bar in bars):
        legend.append(Patch(facecolor="white", edgecolor=GREY, hatch=HATCH, label="hidden"))
    return legend
