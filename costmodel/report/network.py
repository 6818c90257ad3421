"""The terminal views of network topologies and of a single collective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from costmodel.report.operators import show_blocks
from costmodel.report.page import Number, Table, is_verbose, show, show_hint, table
from costmodel.report.text import NONE, dollars, quantity, shown_basis, whole

if TYPE_CHECKING:
    from costmodel.analytic.fabrics import FabricFacts
    from costmodel.analytic.messages import CollectiveTime
    from costmodel.hardware import Cluster
    from costmodel.report.equations import Block

MOST = 10  # topologies in the short form


def show_topologies(topologies: Sequence[FabricFacts]) -> None:
    """Print which topology is the cheapest for an endpoint, then one row for each, in short for the cheapest ones."""
    rows = [each.document() for each in topologies]
    priced = sorted((row for row in rows if row["cost_per_endpoint"]), key=lambda row: row["cost_per_endpoint"])
    if len(rows) > 1 and priced:
        best = priced[0]
        show(
            f"{best['name']}: {dollars(best['cost_per_endpoint'])} per endpoint, the least of {len(priced)}; "
            f"{whole(best['endpoints'])} endpoints, {quantity(best['bisection_bandwidth'], 'bandwidth')} bisection",
            "bold",
        )
    if len(rows) > MOST and not is_verbose():
        rows = priced + [row for row in rows if row not in priced]
        show(topologies_table(rows[:MOST]))
        show_hint(f"{', '.join(row['name'] for row in rows[MOST:])} left out")
    else:
        show(topologies_table(rows))
    show("links and diameter count inter-switch links; all switch ports are assumed to be used", "dim")


def topologies_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row per topology. rows: of `topology --json`."""
    topologies = table(
        "topology", ">endpoints", "??>switches", "??>links", "?>cost", ">per endpoint", ">diameter", ">bisection"
    )
    for row in rows:
        diameter = NONE if row["diameter"] is None else Number(f"{row['diameter']:g}", row["diameter"])
        topologies.add(
            row["name"], *(whole(row[key]) for key in ("endpoints", "switches", "links")),
            dollars(row["cost"]), dollars(row["cost_per_endpoint"]), diameter,
            quantity(row["bisection_bandwidth"], "bandwidth"),
        )  # fmt: skip
    return topologies


def show_collective(answer: CollectiveTime, cluster: Cluster, blocks: Sequence[Block]) -> None:
    """Print the time of a collective, its bandwidths, what limits it, and the equations that it follows from."""
    request, document = answer.request, answer.document()
    devices = "1 device" if request.ranks == 1 else f"{request.ranks:,} devices"
    bound = "" if request.ranks == 1 else f", bound by {answer.bottleneck}, {shown_basis(answer.basis)}"
    show(
        f"{request.kind} of {quantity(request.size, 'size')} on {devices} of {cluster.name}: "
        f"{quantity(answer.time, 'time')}, {quantity(document['busbw'], 'bandwidth')} bus bandwidth{bound}",
        "bold",
    )
    if is_verbose():
        rows = table("quantity", ">value")
        for name, value in (("time", answer.time), ("latency part", answer.latency)):
            rows.add(name, quantity(value, "time"))
        for name, key in (("algorithm bandwidth", "algbw"), ("bus bandwidth", "busbw")):
            rows.add(name, quantity(document[key], "bandwidth"))
        show(rows)
    if request.ranks == 1:
        show("a single device has nothing to send")
        return
    engine = "closed form" if answer.engine == "analytic" else "flow simulation"
    own = bool(answer.fit) and answer.engine == "analytic" and request.algorithm is None and request.chunks is None
    algorithm = "the library's own" if own else answer.algorithm
    show(f"bound: {answer.bottleneck}; algorithm: {algorithm}; engine: {engine}; basis: {shown_basis(answer.basis)}")
    show_blocks(blocks)
    for equations in answer.equations if is_verbose() else ():
        show(equations, "dim")
    network = cluster.network
    if network is not None and network.planes > 1 and request.ranks > cluster.node.count:
        show(
            f"planes: {network.planes:g} fabrics side by side. A NIC is on one of them: they add endpoints, and no "
            "bandwidth to a rank. Flows are routed plane by plane; the closed form knows a single one"
        )
    if answer.fit:
        show(f"fit: {answer.fit}", "dim")
    show_hint()
