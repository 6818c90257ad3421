"""Purchase cost of a scenario's devices with their share of nodes and fabric, and why a price is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from costmodel.cost.money import host_cost, purchase_cost
from costmodel.hardware import Cluster, Device
from costmodel.network.topologies import TOPOLOGIES, full_fabric, share_cost
from costmodel.quantities import Count, Dollars
from costmodel.records import Record, asdict
from costmodel.workload.scenario import Scenario

COST = ("cost_per_trillion_tokens", "cost_per_million_tokens", "cost_per_step", "cost_per_sample", "cost_rate")
ENERGY = ("energy_per_token", "energy_per_trillion_tokens", "energy_per_sample")


class Capital(Record):
    """Purchase prices [$]: devices, nodes without their devices, fabric, null where a price is missing."""

    devices: Dollars | None
    hosts: Dollars | None
    network: Dollars | None

    @property
    def total(self) -> Dollars | None:
        """Return the sum, null where a part is null."""
        if self.devices is None or self.hosts is None or self.network is None:
            return None
        return self.devices + self.hosts + self.network


def price_facts(device: Device) -> dict[str, dict[str, Any] | None]:
    """Return a single device's `rental` [$/s] and `purchase` [$]: value, kind, date, source, null where unknown."""
    price = device.price
    named = {"rental": (price.rental, price.rental_quote), "purchase": (price.purchase, price.purchase_quote)}
    prices: dict[str, dict[str, Any] | None] = {}
    for name, (value, quote) in named.items():
        known = ("stated", None, None) if quote is None else (quote.kind, quote.date, quote.source)
        facts = dict(zip(("kind", "date", "source"), known, strict=True))
        prices[name] = None if value is None else {"value": float(value), **facts}
    return prices


def endpoints(cluster: Cluster, devices: Count) -> Count:
    """Return the fabric ports of some devices: devices * NICs per device."""
    return 0.0 if cluster.node.nic is None else devices * cluster.node.nic.per_device


def capital(cluster: Cluster, devices: Count) -> Capital:
    """Return the cost of `devices` of a cluster, with their share of its nodes and of the full fabric, if any."""
    network = 0.0 if cluster.network is None else share_cost(cluster.network, endpoints(cluster, devices))
    return Capital(purchase_cost(cluster.device, devices), host_cost(cluster.node, devices), network)


def missing(scenario: Scenario) -> Mapping[str, str]:
    """Return metric -> why it is null, for those that need a missing price or power limit."""
    cluster = scenario.cluster
    reasons: dict[str, str] = {}
    name = cluster.device.name
    if cluster.device.price.rental is None:
        reasons |= dict.fromkeys(COST, f"{name} has no rental price: set hardware.price.rental")
    if cluster.device.power.tdp is None:
        reasons |= dict.fromkeys(ENERGY, f"{name} has no power limit: set hardware.power.tdp")
    lacks = "; ".join(lacking(cluster, scenario.devices))
    return {**reasons, "capital_cost": lacks} if lacks else reasons


def lacking(cluster: Cluster, devices: Count) -> Iterator[str]:
    """Yield why the capital of a cluster's devices is unknown, each reason with its fix."""
    node, network = cluster.node, cluster.network
    if node.device.price.purchase is None:
        yield f"{node.device.name} has no purchase price: set hardware.price.purchase"
    if node.host.price is None:
        yield f"{node.name} has no price for the node without its devices: set hardware.node.host.price"
    if network is None:
        return
    needed = endpoints(cluster, devices)
    fabric = full_fabric(network, needed)
    if fabric is None:
        yield f"network topology {network.topology}: set hardware.network.topology to one of {', '.join(TOPOLOGIES)}"
    elif not np.all(np.less_equal(needed, fabric.endpoints)):
        yield f"the fabric has {np.min(fabric.endpoints):,.0f} ports, {np.max(needed):,.0f} are needed"
    price = network.price
    if price.switch is None or price.link is None or price.endpoint_link is None:
        yield "no price of switches and cables: set hardware.network.price"


def facts(cluster: Cluster) -> dict[str, Any]:
    """Return counts and costs of a whole cluster.

    fabric: parts of the full fabric, and `used` endpoints, null where there is none or none is known
    cost: `devices`, `hosts`, `network` and `total` [$], null where a price is missing, and `lacks`: why
    """
    network, needed = cluster.network, endpoints(cluster, cluster.devices)
    fabric = None if network is None else full_fabric(network, needed)
    parts = capital(cluster, cluster.devices)
    costs = {name: _finite(value) for name, value in (asdict(parts) | {"total": parts.total}).items()}
    return {
        "fabric": None if fabric is None else asdict(fabric) | {"used": needed},
        "cost": costs | {"lacks": list(lacking(cluster, cluster.devices))},
    }


def _finite(value: Dollars | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
