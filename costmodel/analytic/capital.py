"""What it costs to buy the devices of a scenario and their share of nodes and fabric; and why a price is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from costmodel.cost.money import host_cost, purchase_cost
from costmodel.hardware import Cluster
from costmodel.network.topologies import TOPOLOGIES, full_fabric, share_cost
from costmodel.quantities import Count, Dollars
from costmodel.workload.scenario import Scenario

COST = ("cost_per_trillion_tokens", "cost_per_million_tokens")
ENERGY = ("energy_per_token", "energy_per_trillion_tokens")


@dataclass(frozen=True, slots=True, eq=False)
class Capital:
    """Purchase prices [$]: devices, nodes without their devices, fabric; null where a price is missing."""

    devices: Dollars | None
    hosts: Dollars | None
    network: Dollars | None

    @property
    def total(self) -> Dollars | None:
        """Return the sum, null where a part of it is."""
        if self.devices is None or self.hosts is None or self.network is None:
            return None
        return self.devices + self.hosts + self.network


def endpoints(cluster: Cluster, devices: Count) -> Count:
    """Return the ports that some devices take on the fabric: devices * NICs a device."""
    return 0.0 if cluster.node.nic is None else devices * cluster.node.nic.per_device


def capital(cluster: Cluster, devices: Count) -> Capital:
    """Return what `devices` of a cluster cost, with their share of its nodes and of the full fabric.

    Without a fabric there is none to pay for.
    """
    network = 0.0 if cluster.network is None else share_cost(cluster.network, endpoints(cluster, devices))
    return Capital(purchase_cost(cluster.device, devices), host_cost(cluster.node, devices), network)


def missing(scenario: Scenario) -> Mapping[str, str]:
    """Return metric -> why it is null, for those that a missing price or power limit leaves open."""
    cluster = scenario.cluster
    found: dict[str, str] = {}
    name = cluster.device.name
    if cluster.device.price.rental is None:
        found |= dict.fromkeys(COST, f"no source states a rental price of {name}: set hardware.price.rental")
    if cluster.device.power.tdp is None:
        found |= dict.fromkeys(ENERGY, f"no source states a power limit of {name}: set hardware.power.tdp")
    lacks = "; ".join(lacking(cluster, scenario.devices))
    return {**found, "capital_cost": lacks} if lacks else found


def lacking(cluster: Cluster, devices: Count) -> Iterator[str]:
    """Yield what keeps the capital of a cluster's devices from being known, each with the fix."""
    node, network = cluster.node, cluster.network
    if node.device.price.purchase is None:
        yield f"no purchase price of {node.device.name}: set hardware.price.purchase"
    if node.host.price is None:
        yield f"no price of {node.name} without its devices: set hardware.node.host.price"
    if network is None:
        return
    whole, needed = full_fabric(network, endpoints(cluster, devices)), endpoints(cluster, devices)
    if whole is None:
        known = ", ".join(TOPOLOGIES)
        yield f"topology {network.topology} has no count of switches: set hardware.network.topology to one of {known}"
    elif not np.all(np.less_equal(needed, whole.endpoints)):
        yield f"the fabric has {np.min(whole.endpoints):,.0f} ports, {np.max(needed):,.0f} are needed"
    price = network.price
    if price.switch is None or price.link is None or price.endpoint_link is None:
        yield "no price of switches and cables: set hardware.network.price"


def facts(cluster: Cluster) -> dict[str, Any]:
    """Return what can be counted of a whole cluster.

    fabric: parts of the full fabric, and the endpoints that the cluster takes of them, null where there is none or none
    is known; cost: `devices`, `hosts`, `network` and `total` [$], null where a price is missing, and `lacks`: why.
    """
    network, needed = cluster.network, endpoints(cluster, cluster.devices)
    whole = None if network is None else full_fabric(network, needed)
    parts = capital(cluster, cluster.devices)
    lacks = list(lacking(cluster, cluster.devices))
    return {
        "fabric": None if whole is None else asdict(whole) | {"used": needed},
        "cost": {name: _known(value) for name, value in (asdict(parts) | {"total": parts.total}).items()}
        | {"lacks": lacks},
    }


def _known(value: Dollars | None) -> float | None:
    """Return a price as JSON can hold it."""
    return None if value is None or not np.isfinite(value) else float(value)
