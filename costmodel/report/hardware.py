"""The hardware on the search path as tables, and what a cluster costs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from costmodel.report.catalogue import DIMENSIONS
from costmodel.report.page import show, table
from costmodel.report.text import count, quantity
from costmodel.units import parse, render

Documents = Mapping[str, Sequence[Mapping[str, Any]]]
UNKNOWN = "-"
WIDTH = 80  # characters of a plain terminal


def show_hardware(documents: Documents, bases: Mapping[str, str]) -> None:
    """Print devices, nodes, clusters and frameworks. documents: by kind; bases: what the times of a device rest on."""
    show("devices: memory in GiB and TB/s, dense peaks in TFLOP/s, board power limit in W", "bold")
    _show_devices(documents["devices"], bases)
    show("\nnodes: NICs of one device, one direction; memory of the host and its bandwidth", "bold")
    _show_nodes(documents["nodes"])
    show("\nclusters", "bold")
    _show_clusters(documents["clusters"])
    show("\nframeworks", "bold")
    names = ", ".join(str(document["name"]) for document in documents["frameworks"])
    for line in textwrap.wrap(names, WIDTH):
        show(line)
    show("next: costmodel hardware show NAME", "dim")


def _show_devices(devices: Sequence[Mapping[str, Any]], bases: Mapping[str, str]) -> None:
    rows = table("device", "arch", ">GiB", ">TB/s", ">BF16", ">FP8", ">W", ">price", "basis")
    for device in devices:
        memory, math = device["memory"][-1], device["math"]
        rows.add(
            device["name"],
            device["architecture"],
            _in(memory["capacity"], "1 GiB", "size", 0),
            _in(memory["bandwidth"], "1 TB/s", "bandwidth", 2),
            _in(math.get("bf16", {}).get("peak"), "1 TFLOP/s", "flop_rate", 0),
            _in(math.get("fp8", {}).get("peak"), "1 TFLOP/s", "flop_rate", 0),
            _in(device["power"]["tdp"], "1 W", "power", 0),
            _price(device["price"]),
            bases[device["name"]],
        )
    show(rows)


def _show_nodes(nodes: Sequence[Mapping[str, Any]]) -> None:
    rows = table("node", "devices", "link", ">NIC", ">host memory")
    for node in nodes:
        nic, host = node["nic"], node["host"]
        memory = [quantity(host[part], DIMENSIONS[part]) for part in ("memory", "bandwidth") if host[part] is not None]
        rows.add(
            node["name"],
            f"{count(node['count'])}x {node['device'].removeprefix('devices/')}",
            node["intra"] if node["count"] > 1 else "",
            UNKNOWN if nic is None else quantity(nic["bandwidth"] * nic["per_device"], "bandwidth"),
            ", ".join(memory) or UNKNOWN,
        )
    show(rows)


def _show_clusters(clusters: Sequence[Mapping[str, Any]]) -> None:
    rows = table("cluster", "nodes", "network", ">planes", ">radix")
    for cluster in clusters:
        network = cluster["network"] or {"topology": "none", "planes": 0.0, "radix": 0.0}
        rows.add(
            cluster["name"],
            f"{count(cluster['count'])} x {cluster['node'].removeprefix('nodes/')}",
            network["topology"],
            count(network["planes"]),
            count(network["radix"]),
        )
    show(rows)


def show_cost(facts: Mapping[str, Any]) -> None:
    """Print what `costmodel.analytic.capital.facts` tells of a cluster: parts of its fabric, and what it costs."""
    fabric, cost = facts["fabric"], facts["cost"]
    if fabric is not None:
        show(
            f"full fabric: {fabric['endpoints']:,.0f} endpoints, {fabric['switches']:,.0f} switches, "
            f"{fabric['links']:,.0f} links between switches; this cluster takes {fabric['used']:,.0f} endpoints"
        )
    rows = table("to buy", ">cost")
    labels = {"devices": "devices", "hosts": "nodes without devices", "network": "share of the fabric", "total": "all"}
    for part, label in labels.items():
        rows.add(label, "unknown" if cost[part] is None else f"{cost[part]:,.0f} $")
    show(rows)
    for lack in cost["lacks"]:
        show(lack)


def _in(value: float | None, unit: str, dimension: str, digits: int) -> str:
    """Return a value as a number of `unit`."""
    return UNKNOWN if value is None else f"{value / _unit(unit, dimension):.{digits}f}"


@cache
def _unit(unit: str, dimension: str) -> float:
    return parse(unit, dimension)


def _price(price: Mapping[str, float | None]) -> str:
    """Return the rent of a device, else its purchase price."""
    rental, purchase = price["rental"], price["purchase"]
    if rental is not None:
        return render(float(f"{rental:.15g}"), "money_rate")
    return UNKNOWN if purchase is None else f"{purchase:,.0f} $"
