"""Where a scenario's time goes: one bar per operator, with its exposed and its hidden time."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from costmodel.records import ValueRecord
from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import BOUNDS, GREY, add_tooltip, canvas, display_name, label_rows, linear_axis
from costmodel.report.text import quantity, share
from costmodel.result import PHASES, shown_line
from costmodel.schema.results import ScenarioResult

SHOWN = 14  # operators; the others share a bar
COLUMNS = ("name", "time", "hidden", "share", "bound", "basis")
BUBBLE = "bubble"
HATCH = "/////"  # of hidden time
LEGEND = 4  # entries in a line


class _Bar(ValueRecord):
    """One bar [s]. note: text at its end; bound: what limits it, null for the bubble and for several operators."""

    name: str
    exposed: float
    hidden: float
    note: str
    bound: str | None


def breakdown_plot(name: str, scenario: ScenarioResult) -> Plot | None:
    """Return the breakdown of a scenario, null where it cannot run. Exposed times sum to its headline metric."""
    if not scenario.breakdown:
        return None
    bars = _bars(scenario)
    legend = _legend(bars)
    figure, axes = canvas(1.1 + 0.19 * len(bars) + 0.2 * -(-len(legend) // LEGEND))
    for i, bar in enumerate(bars):
        _draw(axes, i, bar)
    label_rows(axes, [bar.name for bar in bars])
    axes.set_xmargin(0.12)
    longest = max(bar.exposed + bar.hidden for bar in bars)
    linear_axis(axes.xaxis, f"{display_name(name)}: time per device", "time", longest)
    figure.legend(
        handles=legend, title="limited by", loc="outside upper left", ncols=LEGEND, title_fontsize=8, alignment="left"
    )
    rows = [[getattr(line, column) for column in COLUMNS] for line in scenario.breakdown]
    bubble = scenario.metrics.get("bubble_time")
    rows += [[BUBBLE, bubble, 0.0, None, None, None]] if bubble else []
    return Plot(figure, {"": table(COLUMNS, rows)})


def _bars(scenario: ScenarioResult) -> list[_Bar]:
    """Return the longest operators, one bar for the others, and the bubble."""
    lines, others = scenario.breakdown[:SHOWN], scenario.breakdown[SHOWN:]
    bars = [_Bar(shown_line(line.name), line.time, line.hidden, share(line.share), line.bound) for line in lines]
    if others:
        exposed, hidden, part = (sum(getattr(line, key) for line in others) for key in ("time", "hidden", "share"))
        bars.append(_Bar(f"{len(others)} others", exposed, hidden, share(part), None))
    bubble, step = scenario.metrics.get("bubble_time"), scenario.metrics.get(PHASES["training"][0])
    if bubble:
        bars.append(_Bar(BUBBLE, bubble, 0.0, share(bubble / step) if step else "", None))
    return bars


def _draw(axes: Axes, i: int, bar: _Bar) -> None:
    """Draw one bar: exposed time filled (the bubble empty), hidden time hatched behind it."""
    colour = BOUNDS.get(bar.bound or "", GREY)
    filling = "white" if bar.name == BUBBLE and bar.bound is None else colour
    exposed = axes.barh(i, bar.exposed, color=filling, edgecolor=colour, linewidth=0.6)
    add_tooltip(exposed, f"{bar.name}: {quantity(bar.exposed, 'time')}, {bar.note}")
    hidden = axes.barh(i, bar.hidden, left=bar.exposed, color="white", edgecolor=colour, hatch=HATCH, linewidth=0.6)
    if bar.hidden:
        add_tooltip(hidden, f"{bar.name}: {quantity(bar.hidden, 'time')} hidden")
    end = bar.exposed + bar.hidden
    axes.annotate(bar.note, (end, i), (3, 0), textcoords="offset points", va="center", fontsize=7.5)


def _legend(bars: list[_Bar]) -> list[Patch]:
    used = {bar.bound for bar in bars}
    legend = [Patch(color=colour, label=bound) for bound, colour in BOUNDS.items() if bound in used]
    if any(bar.hidden for bar in bars):
        legend.append(Patch(facecolor="white", edgecolor=GREY, hatch=HATCH, label="hidden"))
    return legend
