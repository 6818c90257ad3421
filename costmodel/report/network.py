"""The terminal views of fabrics and of a collective by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from costmodel.report.page import show, table
from costmodel.report.text import quantity

if TYPE_CHECKING:
    from costmodel.analytic.fabrics import FabricFacts
    from costmodel.analytic.messages import CollectiveTime
    from costmodel.hardware import Cluster

UNKNOWN = "-"


def show_fabrics(rows: Sequence[FabricFacts]) -> None:
    """Print fabrics, a row each."""
    shown = table(
        "topology", ">endpoints", ">switches", "?>links", "?>cost", ">cost per endpoint", ">diameter", ">bisection"
    )
    for row in rows:
        shown.add(
            row.name,
            f"{row.endpoints:,.0f}",
            f"{row.switches:,.0f}",
            f"{row.links:,.0f}",
            UNKNOWN if row.cost is None else f"{row.cost:,.0f} $",
            UNKNOWN if row.cost is None else f"{row.cost / row.endpoints:,.0f} $",
            f"{row.diameter:.0f}",
            UNKNOWN if row.bisection is None else quantity(row.bisection, "bandwidth"),
        )
    show(shown)
    show("links and diameter count inter-switch links; all switch ports are assumed to be used", "dim")


def show_answer(answer: CollectiveTime, cluster: Cluster) -> None:
    """Print what a collective takes and why."""
    request = answer.request
    show(f"{request.kind} of {quantity(request.size, 'size')} on {request.ranks:,} devices of {cluster.name}", "bold")
    document = answer.document()
    rows = table("what", ">value")
    rows.add("time", quantity(answer.time, "time"))
    rows.add("latency part", quantity(answer.latency, "time"))
    rows.add("algorithm bandwidth", quantity(document["algbw"], "bandwidth"))
    rows.add("bus bandwidth", quantity(document["busbw"], "bandwidth"))
    show(rows)
    if request.ranks == 1:
        show("a single device has nothing to send")
        return
    engine = "closed form" if answer.engine == "analytic" else "flow simulation"
    show(f"limit: {answer.bottleneck}; algorithm: {answer.algorithm}; engine: {engine}; basis: {answer.basis}")
