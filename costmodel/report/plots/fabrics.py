"""Fabrics side by side: how many endpoints they reach, what one costs, and its share of the bisection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from costmodel.report.plots.drawn import Drawn, table
from costmodel.report.style import BLUE, GREEN, ORANGE, WIDTH, name_of, tell
from costmodel.report.text import quantity
from costmodel.schema.answers import TopologyResult

COLUMNS = ("name", "endpoints", "switches", "links", "cost", "cost_per_endpoint", "diameter", "bisection_bandwidth")


def fabrics_figure(fabrics: Sequence[TopologyResult]) -> Drawn | None:
    """Return three panels of bars, a row for each fabric."""
    if not fabrics:
        return None
    figure = Figure(figsize=(WIDTH, 0.95 + 0.22 * len(fabrics)), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    panels: tuple[tuple[str, str, Callable[[TopologyResult], float | None], Callable[[float], str]], ...] = (
        ("endpoints", BLUE, lambda one: one.endpoints, lambda value: f"{value:,.0f}"),
        ("$ an endpoint", ORANGE, lambda one: one.cost_per_endpoint, lambda value: f"{value:,.0f}"),
        ("bisection/endpoint", GREEN, _bisection, lambda value: quantity(value, "bandwidth", 3)),
    )
    for place, (what, colour, of, shown) in zip(axes, panels, strict=True):
        top = max((value for one in fabrics if (value := of(one))), default=1.0)
        least = min((value for one in fabrics if (value := of(one))), default=1.0)
        wide = top / least > 100.0
        for at, one in enumerate(fabrics):
            value = of(one)
            if value:
                tell(place.barh(at, value, height=0.62, color=colour), f"{one.name}: {what} {shown(value)}")
            words = shown(value) if value else "-"
            place.annotate(words, (value or (least / 2 if wide else 0.0), at), (3, 0), textcoords="offset points",
                           va="center", fontsize=7)  # fmt: skip
        if wide:
            place.set_xscale("log")
            place.set_xlim(least / 2, top * 60)
        else:
            place.set_xlim(0.0, 1.6 * top)
        place.set_xticks([])
        place.minorticks_off()
        place.set_title(what + (" (log)" if wide else ""), loc="left", fontsize=8)
        place.grid(visible=False)
        place.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(fabrics)), [name_of(one.name) for one in fabrics], fontsize=8)
    axes[0].invert_yaxis()
    rows = ([getattr(one, column) for column in COLUMNS] for one in fabrics)
    return Drawn(figure, {"": table(COLUMNS, rows)})


def _bisection(one: TopologyResult) -> float | None:
    return None if one.bisection_bandwidth is None else one.bisection_bandwidth / one.endpoints
