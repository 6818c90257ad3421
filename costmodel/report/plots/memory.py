"""The memory ledger of every scenario against what a device has."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from costmodel.report import style
from costmodel.report.plots.drawn import Drawn, table
from costmodel.report.style import BLACK, VERMILLION, canvas, name_of, tell
from costmodel.schema.results import ScenarioResult
from costmodel.units import parse

PARTS = {
    "weights": style.BLUE, "gradients": style.SKY, "optimizer": style.GREEN, "activations": style.ORANGE,
    "kv_cache": style.PURPLE, "communication": style.YELLOW, "reserve": style.GREY,
}  # fmt: skip


def memory_figure(scenarios: Mapping[str, ScenarioResult]) -> Drawn | None:
    """Return a stacked bar for each scenario that holds anything, null where none does."""
    held = {name: one for name, one in scenarios.items() if any(getattr(one.memory, part) for part in PARTS)}
    if not held:
        return None
    figure, axes = canvas(1.25 + 0.36 * len(held))
    for at, (name, one) in enumerate(held.items()):
        _draw(axes, at, name, one)
    axes.set_yticks(range(len(held)), [name_of(name) for name in held])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("memory of the fullest device (GiB)")
    parts = [Patch(color=colour, label=part.replace("_", " ")) for part, colour in PARTS.items()]
    line = Line2D([], [], color=BLACK, linewidth=1.8, label="capacity")
    figure.legend(handles=[*parts, line], loc="outside upper center", ncols=4)
    columns = (*PARTS, "capacity", "fits")
    rows = ([name, *(getattr(one.memory, column) for column in columns)] for name, one in scenarios.items())
    return Drawn(figure, {"": table(("scenario", *columns), rows)})


def _draw(axes: Axes, at: int, name: str, one: ScenarioResult) -> None:
    """Draw a scenario's parts one behind the other, and the capacity as a line across them."""
    unit, start = parse("1 GiB", "size"), 0.0
    for part, colour in PARTS.items():
        size = getattr(one.memory, part) / unit
        bars = axes.barh(at, size, left=start, height=0.6, color=colour, edgecolor="white", linewidth=0.5)
        tell(bars, f"{name}: {part.replace('_', ' ')} {size:.2f} GiB")
        start += size
    capacity = one.memory.capacity / unit
    line = axes.plot([capacity, capacity], [at - 0.42, at + 0.42], color=BLACK, linewidth=1.8)
    tell(line, f"{name}: capacity {capacity:.2f} GiB")
    if not one.memory.fits:
        axes.annotate(
            "does not run", (max(start, capacity), at), (4, 0), textcoords="offset points", va="center",
            color=VERMILLION, fontsize=8,
        )  # fmt: skip
        axes.set_xmargin(0.2)
