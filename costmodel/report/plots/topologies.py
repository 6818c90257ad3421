"""Network topologies: endpoints, cost per endpoint and bisection bandwidth per endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from costmodel.report.style import BLUE, GREEN, ORANGE, SMALL, Plot, add_tooltip, label_rows, table
from costmodel.report.style import panels as slide
from costmodel.report.text import quantity
from costmodel.schema.results import TopologyResult

SHOWN = 10  # topologies, the largest ones
COLUMNS = ("name", "endpoints", "switches", "links", "cost", "cost_per_endpoint", "diameter", "bisection_bandwidth")


def topologies_plot(fabrics: Sequence[TopologyResult]) -> Plot | None:
    """Return three panels of bars, one row per topology."""
    if not fabrics:
        return None
    figure, panels = slide(finding(fabrics), 3, "all switch ports are taken to be used", sharey=True)
    shown = sorted(fabrics, key=lambda fabric: -fabric.endpoints)[:SHOWN]
    names = [fabric.name for fabric in shown]
    bisections = [
        None if fabric.bisection_bandwidth is None else fabric.bisection_bandwidth / fabric.endpoints
        for fabric in shown
    ]
    columns: tuple[tuple[str, str, list[float | None], Callable[[float], str]], ...] = (
        ("endpoints", BLUE, [fabric.endpoints for fabric in shown], "{:,.0f}".format),
        ("$ per endpoint", ORANGE, [fabric.cost_per_endpoint for fabric in shown], "{:,.0f}".format),
        ("bisection per endpoint", GREEN, bisections, lambda value: quantity(value, "bandwidth", 3)),
    )
    for axes, (title, colour, values, text) in zip(panels, columns, strict=True):
        is_log = _draw(axes, values, colour, [f"{name}: {title}" for name in names], text)
        axes.set_title(title + (" (log)" if is_log else ""), loc="left", fontsize=12)
    label_rows(panels[0], names)
    rows = ([getattr(fabric, column) for column in COLUMNS] for fabric in fabrics)
    return Plot(figure, {"": table(COLUMNS, rows)})


def finding(fabrics: Sequence[TopologyResult]) -> str:
    """Return the topology with most endpoints, and what each costs where prices are known."""
    largest = max(fabrics, key=lambda fabric: fabric.endpoints)
    cost = "" if largest.cost_per_endpoint is None else f", at {largest.cost_per_endpoint:,.0f} $ each"
    return f"{largest.name} has most endpoints: {largest.endpoints:,.0f}{cost}"


def _draw(
    axes: Axes, values: list[float | None], colour: str, tooltips: list[str], text: Callable[[float], str]
) -> bool:
    positive = [value for value in values if value] or [1.0]
    top, least = max(positive), min(positive)
    is_log = top / least > 100.0
    for i, value in enumerate(values):
        if value:
            add_tooltip(axes.barh(i, value, height=0.62, color=colour), f"{tooltips[i]} {text(value)}")
        axes.annotate(text(value) if value else "-", (value or (least / 2 if is_log else 0.0), i), (3, 0),
                      textcoords="offset points", va="center", fontsize=SMALL)  # fmt: skip
    if is_log:
        axes.set_xscale("log")
        axes.set_xlim(least / 2, top * 60)
    else:
        axes.set_xlim(0.0, 1.6 * top)
    axes.set_xticks([])
    axes.minorticks_off()
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    return is_log
