"""A topology by itself: parts, cost, diameter and bisection."""

from __future__ import annotations

from typing import Any

from costmodel.hardware import Network
from costmodel.network.topologies import bisection_bandwidth, cost, named_fabric
from costmodel.quantities import Quantity
from costmodel.records import Record


class FabricFacts(Record):
    """One row of `costmodel topology`. cost [$] is null without prices, bisection [B/s] without a port's bandwidth."""

    name: str
    endpoints: float
    switches: float
    links: float
    cost: float | None
    diameter: float
    bisection: float | None

    def document(self) -> dict[str, Any]:
        """Return the row as JSON holds it."""
        per_endpoint = None if self.cost is None else self.cost / self.endpoints
        counts = {name: int(getattr(self, name)) for name in ("endpoints", "switches", "links")}
        return {
            "name": self.name, **counts, "cost": self.cost, "cost_per_endpoint": per_endpoint,
            "diameter": int(self.diameter), "bisection_bandwidth": self.bisection,
        }  # fmt: skip


def facts(name: str, network: Network, endpoints: Quantity | None) -> FabricFacts:
    """Return the counts of a topology with every port in use. Raises InputError where it cannot be built."""
    fabric = named_fabric(network, endpoints)
    price = cost(fabric, network.price)
    bisection = None if network.bandwidth is None else bisection_bandwidth(fabric, network.bandwidth)
    return FabricFacts(
        name,
        float(fabric.endpoints),
        float(fabric.switches),
        float(fabric.links),
        None if price is None else float(price),
        float(fabric.diameter),
        None if bisection is None else float(bisection),
    )
