"""The terminal views of hardware: what is on the search path, one file with its sources, the cost of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from costmodel.report.operators import show_blocks
from costmodel.report.page import Number, Table, is_verbose, show, show_hint, table
from costmodel.report.text import NONE, count, dollars, gib, percent, quantity, shown_basis, whole
from costmodel.units import parse, render

if TYPE_CHECKING:
    from costmodel.analytic.fabrics import FabricFacts
    from costmodel.analytic.messages import CollectiveTime
    from costmodel.hardware import Cluster
    from costmodel.report.equations import Block

Documents = Mapping[str, Sequence[Mapping[str, Any]]]
WIDTH = 80  # characters of a plain terminal
DIGITS = 6
# Keys of hardware files whose values carry a unit -> dimension.
DIMENSIONS = {
    **dict.fromkeys(("capacity", "driver", "memory", "reserve"), "size"),
    **dict.fromkeys(("latency", "same_leaf", "cross_leaf", "launch"), "time"),
    **dict.fromkeys(("tensor_reference", "max"), "frequency"),
    **dict.fromkeys(("tdp", "idle", "busy", "network", "power"), "power"),
    **dict.fromkeys(("purchase", "price", "switch", "link", "endpoint_link"), "money"),
    **dict.fromkeys(("bandwidth", "interconnect"), "bandwidth"),
    "peak": "flop_rate",
}
ENERGIES = {"power.tensor": "FLOP", "power.memory": "B", "power.link": "B"}  # field of a device -> what it is spent on


def show_hardware(documents: Documents, bases: Mapping[str, str]) -> None:
    """Print devices, nodes, clusters and frameworks. documents: by kind; bases: device -> basis of its kernel times."""
    devices, *others = (f"{len(listed)} {kind}" for kind, listed in documents.items())
    fitted, forecasts = (
        list(bases.values()).count("fitted"),
        sum(bool(each["forecast"]) for each in documents["devices"]),
    )
    show(f"{devices} ({fitted} fitted, {forecasts} forecasts), {', '.join(others)}", "bold")
    show("\ndevices (memory in GiB and TB/s, dense TFLOP/s, power limit in W; * forecast)", "bold")
    _show_devices(documents["devices"], bases)
    show("\nnodes (NIC in GB/s per device and direction; host memory and its bandwidth)", "bold")
    _show_nodes(documents["nodes"])
    show("\nclusters", "bold")
    _show_clusters(documents["clusters"])
    show("\nframeworks", "bold")
    rows = table("framework", "what it is")
    for document in documents["frameworks"]:
        rows.add(document["name"], document["description"] or NONE)
    show(rows)
    show("next: costmodel hardware show NAME", "dim")


def _show_devices(devices: Sequence[Mapping[str, Any]], bases: Mapping[str, str]) -> None:
    rows = table("device", "arch", ">GiB", ">TB/s", ">BF16", ">FP8", ">W", ">$/h", "basis")
    for device in devices:
        memory, math = device["memory"][-1], device["math"]
        rows.add(
            device["name"], device["architecture"], _in(memory["capacity"], "1 GiB", "size", 0),
            _in(memory["bandwidth"], "1 TB/s", "bandwidth", 2 if memory["bandwidth"] < 1e13 else 1),
            *(_in(math.get(dtype, {}).get("peak"), "1 TFLOP/s", "flop_rate", 0) for dtype in ("bf16", "fp8")),
            _in(device["power"]["tdp"], "1 W", "power", 0), _price(device["price"]),
            shown_basis(bases[device["name"]]) + ("*" if device["forecast"] else ""),
        )  # fmt: skip
    show(rows)


def show_precisions(documents: Sequence[Mapping[str, Any]]) -> None:
    """Print the number formats of products, weights and the KV cache of each set."""
    show(f"{len(documents)} sets of number formats", "bold")
    rows = table("precision", "linear", "attention", "weights", "KV cache", "activations", "?optimizer moments")
    for document in documents:
        keys = ("linear", "attention", "weights", "kv_cache", "activations", "moments")
        rows.add(document["name"], *(str(document.get(key) or NONE) for key in keys))
    show(rows)
    show("next: costmodel precision show NAME; in a scenario: `precision: NAME`", "dim")


def _show_nodes(nodes: Sequence[Mapping[str, Any]]) -> None:
    rows = table("node", "devices", "link", ">NIC", ">host memory")
    for node in nodes:
        nic, host = node["nic"], node["host"]
        known = [part for part in ("memory", "bandwidth") if host[part] is not None]
        memory = [quantity(host[part], DIMENSIONS[part], 3) for part in known]
        rows.add(
            node["name"],
            f"{count(node['count'])}x {node['device'].removeprefix('devices/')}",
            node["intra"] if node["count"] > 1 else "",
            NONE if nic is None else f"{nic['bandwidth'] * nic['per_device'] / _unit('1 GB/s', 'bandwidth'):g}",
            ", ".join(memory) or NONE,
        )
    show(rows)


def _show_clusters(clusters: Sequence[Mapping[str, Any]]) -> None:
    rows = table("cluster", "nodes", "network", ">planes", ">radix")
    for cluster in clusters:
        network = cluster["network"] or {"topology": "none", "planes": 0.0, "radix": 0.0}
        nodes = f"{count(cluster['count'])} x {cluster['node'].removeprefix('nodes/')}"
        rows.add(cluster["name"], nodes, network["topology"], count(network["planes"]), count(network["radix"]))
    show(rows)


def show_document(document: Mapping[str, Any]) -> None:
    """Print a hardware file: its values, then the sources."""
    show(": ".join(filter(None, (str(document["name"]), ", ".join(_summary(document))))), "bold")
    rows, values = table("field", ">value"), list(_values(document, ""))
    stated = [(field, value) for field, value in values if value]
    first = [each for each in stated if _in_short(each[0])][:MOST] or stated[:MOST]
    for field, value in stated if is_verbose() else first:
        rows.add(field, value)
    show(rows)
    unstated = [field for field, value in values if not value]
    if is_verbose():
        if unstated:
            show(f"not stated: {', '.join(unstated)}", "dim")
        show_sources(document)
    show_hint(f"{len(stated) - len(first)} more fields, {len(unstated)} that are not stated, and the sources left out")


def _in_short(field: str) -> bool:
    """Tell whether a field of a device is one that people look for first: sizes, rates, links, power and prices."""
    head, *parts = field.split(".")
    return (
        (head == "math" and parts[0] in ("bf16", "fp8", "int8") and parts[-1] == "peak")
        or (head == "memory" and parts[0] != "smem" and parts[-1] in ("capacity", "bandwidth"))
        or (head == "links" and parts[-1] == "bandwidth")
        or field in ("processors", "power.tdp", "price.rental", "price.purchase", "count", "nic.bandwidth")
    )


def _summary(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a device, a node or a cluster is in a few words, nothing of other files."""
    if "math" in document:
        memory, math = document["memory"][-1], document["math"]
        yield f"{gib(memory['capacity'])} GiB at {quantity(memory['bandwidth'], 'bandwidth', 3)}"
        peaks = ((dtype, math.get(dtype, {}).get("peak")) for dtype in ("bf16", "fp8"))
        yield from (f"{dtype.upper()} {quantity(peak, 'flop_rate', 3)}" for dtype, peak in peaks if peak)
        if document["power"]["tdp"]:
            yield quantity(document["power"]["tdp"], "power", 3)
    for part in ("device", "node"):
        if part in document and "count" in document:
            yield f"{count(document['count'])} x {document[part].partition('/')[2]}"
    if document.get("nic"):
        yield f"NIC {quantity(document['nic']['bandwidth'] * document['nic']['per_device'], 'bandwidth', 3)} per device"
    if document.get("network"):
        yield f"{document['network']['topology']} network"


def show_sources(document: Mapping[str, Any]) -> None:
    """Print each source with the fields that it is for."""
    for source in document.get("sources") or ():
        note = f" ({source['note']})" if source.get("note") else ""
        show(f"{', '.join(source['fields'])}: {source['cite']}{note}", "dim")


def show_cost(facts: Mapping[str, Any]) -> None:
    """Print the parts of a cluster's network and its cost. facts: of `costmodel.analytic.capital.facts`."""
    fabric, cost = facts["fabric"], facts["cost"]
    if fabric is not None:
        show(
            f"full fabric: {fabric['endpoints']:,.0f} endpoints, {fabric['switches']:,.0f} switches, "
            f"{fabric['links']:,.0f} inter-switch links; this cluster uses {fabric['used']:,.0f} of the endpoints"
        )
    rows = table("purchase", ">cost")
    labels = {
        "devices": "devices", "hosts": "nodes without devices", "network": "network share", "total": "total",
    }  # fmt: skip
    for part, label in labels.items():
        rows.add(label, "unknown" if cost[part] is None else dollars(cost[part]))
    show(rows)
    for reason in cost["lacks"]:
        show(reason)


def _values(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted field, text) of every leaf but the sources."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in ("sources", "name") or (field and key != "name"):
                yield from _values(inner, f"{field}.{key}" if field else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for i, inner in enumerate(value):
            yield from _values(inner, f"{field}.{inner.get('name', i)}")
    else:
        yield field, _leaf(field, value)


def _leaf(field: str, value: Any) -> str:
    if value is None:
        return ""
    *parents, key = field.split(".")
    key = "peak" if parents[-1:] == ["peak"] else key  # a host's peaks are keyed by their format
    if key == "rental":  # a round price per hour is not round per second
        return render(value, "money_rate")
    if field in ENERGIES:
        return f"{quantity(float(value), 'energy', DIGITS)}/{ENERGIES[field]}"
    if field == "power.error":
        return percent(float(value))
    if key in DIMENSIONS and isinstance(value, float | int):
        return quantity(float(value), DIMENSIONS[key], DIGITS)
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _in(value: float | None, unit: str, dimension: str, digits: int) -> str:
    return NONE if value is None else f"{value / _unit(unit, dimension):.{digits}f}"


@cache
def _unit(unit: str, dimension: str) -> float:
    return parse(unit, dimension)


def _price(price: Mapping[str, float | None]) -> str:
    rental = price["rental"]
    return NONE if rental is None else f"{rental / _unit('1 $/h', 'money_rate'):.6g}"


# ---- The terminal views of network topologies and of a single collective ---------------------------------------------

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
