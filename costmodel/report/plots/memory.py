"""The memory of the most-loaded device of every scenario, by part, and its capacity."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from costmodel.report import style
from costmodel.report.style import BLACK, SMALL, VERMILLION, Plot, add_tooltip, canvas, label_rows, table
from costmodel.report.text import gib, readable, share
from costmodel.schema.results import ScenarioResult
from costmodel.units import parse

PARTS = {
    "weights": style.BLUE, "gradients": style.SKY, "optimizer": style.GREEN, "activations": style.ORANGE,
    "kv_cache": style.PURPLE, "communication": style.YELLOW, "reserve": style.GREY,
}  # fmt: skip
SHOWN, LEAST = 10, 2**28  # scenarios, the fullest ones; bytes from which on a part is in the legend


def memory_plot(scenarios: Mapping[str, ScenarioResult]) -> Plot | None:
    """Return a stacked bar for each scenario that uses memory, null where none does."""
    used = {name: result for name, result in scenarios.items() if any(getattr(result.memory, part) for part in PARTS)}
    if not used:
        return None
    used = dict(sorted(used.items(), key=lambda item: -_filled(item[1]))[:SHOWN])
    figure, axes = canvas(finding(used))
    for i, (name, result) in enumerate(used.items()):
        _draw(axes, i, name, result)
    label_rows(axes, list(used))
    axes.set_xlabel("memory of the most-loaded device (GiB)")
    shown = [part for part in PARTS if any(getattr(result.memory, part) >= LEAST for result in used.values())]
    parts = [Patch(color=PARTS[part], label=readable(part)) for part in shown]
    line = Line2D([], [], color=BLACK, linewidth=2.0, label="capacity")
    figure.legend(handles=[*parts, line], loc="outside lower left", ncols=4)
    columns = (*PARTS, "capacity", "fits")
    rows = ([name, *(getattr(result.memory, column) for column in columns)] for name, result in scenarios.items())
    return Plot(figure, {"": table(("scenario", *columns), rows)})


def finding(used: Mapping[str, ScenarioResult]) -> str:
    """Return how full the fullest device of all scenarios is, and of what."""
    name, result = max(used.items(), key=lambda item: _filled(item[1]))
    memory, whole = result.memory, sum(getattr(result.memory, part) for part in PARTS)
    largest = max(PARTS, key=lambda part: float(getattr(memory, part)))
    part = share(float(getattr(memory, largest)) / whole)
    return f"{name} uses {gib(whole)} of {gib(memory.capacity)} GiB, {part} of it for {readable(largest)}"


def _filled(result: ScenarioResult) -> float:
    return sum(float(getattr(result.memory, part)) for part in PARTS) / result.memory.capacity


def _draw(axes: Axes, i: int, name: str, result: ScenarioResult) -> None:
    unit, start = parse("1 GiB", "size"), 0.0
    for part, colour in PARTS.items():
        size = getattr(result.memory, part) / unit
        bars = axes.barh(i, size, left=start, height=0.6, color=colour, edgecolor="white", linewidth=0.5)
        add_tooltip(bars, f"{name}: {readable(part)} {size:.2f} GiB")
        start += size
    capacity = result.memory.capacity / unit
    line = axes.plot([capacity, capacity], [i - 0.42, i + 0.42], color=BLACK, linewidth=2.0)
    add_tooltip(line, f"{name}: capacity {capacity:.2f} GiB")
    if not result.memory.fits:
        axes.annotate(
            "cannot run", (max(start, capacity), i), (4, 0), textcoords="offset points", va="center",
            color=VERMILLION, fontsize=SMALL,
        )  # fmt: skip
        axes.set_xmargin(0.2)
