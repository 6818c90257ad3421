"""Where a scenario's time goes: a bar for each operator, what is exposed and what something slower hides."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from costmodel.report.plots.drawn import Drawn, table
from costmodel.report.style import BOUNDS, GREY, canvas, linear_axis, name_of, tell
from costmodel.report.text import quantity, share
from costmodel.result import PHASES
from costmodel.schema.results import BreakdownLine, ScenarioResult

SHOWN = 14  # operators; the others share a bar
COLUMNS = ("name", "time", "hidden", "share", "bound", "basis")
BUBBLE = "bubble"
HATCH = "/////"  # of hidden time
LEGEND = 4  # entries in a line


@dataclass(frozen=True, slots=True)
class _Bar:
    """One bar; note: what stands at its end; bound: what limits it, null for several operators or none."""

    name: str
    exposed: float
    hidden: float
    note: str
    bound: str | None


def breakdown_figure(name: str, scenario: ScenarioResult) -> Drawn | None:
    """Return the breakdown of a scenario, null where it cannot run; full bars and bubble sum to its headline metric."""
    if not scenario.breakdown:
        return None
    bars = _bars(scenario)
    legend = _legend(bars)
    figure, axes = canvas(1.1 + 0.19 * len(bars) + 0.2 * -(-len(legend) // LEGEND))
    for at, bar in enumerate(bars):
        _draw(axes, at, bar)
    axes.set_yticks(range(len(bars)), [name_of(bar.name) for bar in bars])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xmargin(0.12)
    longest = max(bar.exposed + bar.hidden for bar in bars)
    linear_axis(axes.xaxis, f"{name_of(name)}: time on a device", "time", longest)
    figure.legend(
        handles=legend, title="limited by", loc="outside upper left", ncols=LEGEND, title_fontsize=8, alignment="left"
    )
    rows = [[getattr(line, column) for column in COLUMNS] for line in scenario.breakdown]
    bubble = scenario.metrics.get("bubble_time")
    rows += [[BUBBLE, bubble, 0.0, None, None, None]] if bubble else []
    return Drawn(figure, {"": table(COLUMNS, rows)})


def _bars(scenario: ScenarioResult) -> list[_Bar]:
    """Return the longest operators, one bar for the others, and the bubble."""
    lines, rest = scenario.breakdown[:SHOWN], scenario.breakdown[SHOWN:]
    bars = [_Bar(line.name, line.time, line.hidden, share(line.share), line.bound) for line in lines]
    if rest:
        bars.append(_together(rest))
    bubble, whole = scenario.metrics.get("bubble_time"), scenario.metrics.get(PHASES["training"][0])
    if bubble:
        bars.append(_Bar(BUBBLE, bubble, 0.0, share(bubble / whole) if whole else "", None))
    return bars


def _together(lines: list[BreakdownLine]) -> _Bar:
    exposed, hidden = sum(line.time for line in lines), sum(line.hidden for line in lines)
    return _Bar(f"{len(lines)} more", exposed, hidden, share(sum(line.share for line in lines)), None)


def _draw(axes: Axes, at: int, bar: _Bar) -> None:
    """Draw one bar: exposed time full (the bubble empty), hidden time hatched behind it."""
    colour = BOUNDS.get(bar.bound or "", GREY)
    filling = "white" if bar.name == BUBBLE and bar.bound is None else colour
    exposed = axes.barh(at, bar.exposed, color=filling, edgecolor=colour, linewidth=0.6)
    tell(exposed, f"{bar.name}: {quantity(bar.exposed, 'time')}, {bar.note}")
    hidden = axes.barh(at, bar.hidden, left=bar.exposed, color="white", edgecolor=colour, hatch=HATCH, linewidth=0.6)
    if bar.hidden:
        tell(hidden, f"{bar.name}: {quantity(bar.hidden, 'time')} hidden")
    end = bar.exposed + bar.hidden
    axes.annotate(bar.note, (end, at), (3, 0), textcoords="offset points", va="center", fontsize=7.5)


def _legend(bars: list[_Bar]) -> list[Patch]:
    """Return what the colours and the hatching mean."""
    shown = [
        Patch(color=colour, label=bound) for bound, colour in BOUNDS.items() if any(b.bound == bound for b in bars)
    ]
    if any(bar.hidden for bar in bars):
        shown.append(Patch(facecolor="white", edgecolor=GREY, hatch=HATCH, label="hidden"))
    return shown
