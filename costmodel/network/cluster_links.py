"""A cluster as links that flows load: between devices of a node, to the NICs, and through the fabric."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx
import numpy as np

from costmodel.errors import InfeasibleError, InputError
from costmodel.hardware import Cluster, Network
from costmodel.network.graphs import fabric_graph
from costmodel.network.sharing import Flags, check_capacity
from costmodel.network.shortest import Switches, switches_of
from costmodel.quantities import Array, BytesPerSecond, Indices

KINDS = ("intra", "pcie", "nic", "memory", "socket", "fabric")
"""Kinds of link: inside a node, to the host, out of the node, the host's memory, between sockets, between switches."""


@dataclass(frozen=True, slots=True, eq=False)
class ClusterLinks:
    """Links of `devices` devices, `local` in each node.

    Links by number: `intra_up[d]`, `intra_down[d]` and so on for device d, and those of the fabric from `fabric` on.
    A link that never bounds has the number -1. leaf: the switch of each device's NIC; port: its number there, leaves
    one after the other; works: whether that NIC does.
    capacity, kind, names: of each link.
    """

    cluster: Cluster
    devices: int
    ranks_per_node: int
    capacity: Array
    kind: Indices
    names: Sequence[str]
    numbers: Mapping[str, Indices]
    switches: Switches | None
    fabric: int
    leaf: Indices
    port: Indices
    works: Flags
    graph: nx.MultiGraph | None = field(repr=False, default=None)


def build_cluster_links(cluster: Cluster, nodes: int, shares: Mapping[str, float] | None = None) -> ClusterLinks:
    """Return the links of the first `nodes` nodes of a cluster.

    shares: achieved share of the bandwidth by kind of link, as measurements say it (default: all of it). Raises
    InputError for a part under `network.failed` that does not exist or a link without bandwidth, InfeasibleError for
    nodes without a NIC.
    """
    local = int(cluster.node.count)
    devices = nodes * local
    made = _Links(shares or {})
    _inside(made, cluster, nodes)
    graph, network = None, cluster.network
    leaf, works = np.zeros(devices, np.intp), np.ones(devices, bool)
    switches, fabric = None, 0
    if nodes > 1:
        nic, port = ports(cluster)
        made.per_device("nic", devices, nic)
        network = network or Network("one switch", 1.0, float(devices), None, None, None, "static")
        graph, dead = _fabric(cluster, network, nodes)
        works = np.array([f"nic{device}" in graph and graph.degree(f"nic{device}") > 0 for device in range(devices)])
        works &= np.array([f"nic{device}" not in dead for device in range(devices)])
        switches = switches_of(graph)
        number = {name: at for at, name in enumerate(switches.names)}
        leaf = np.array([number[next(iter(graph[f"nic{d}"]))] if works[d] else 0 for d in range(devices)], np.intp)
        fabric = len(made.capacity)
        links = len(switches.tail)
        made.add("fabric", [switches.link_name(link) for link in range(links)], port)
    elif network is not None and network.failed and cluster.node.nic is not None:
        _fabric(cluster, network, nodes)
    capacity = np.array(made.capacity)
    check_capacity(capacity, made.names)
    return ClusterLinks(
        cluster=cluster, devices=devices, ranks_per_node=local, capacity=capacity, kind=np.array(made.kind, np.intp),
        names=made.names, numbers=made.numbers, switches=switches, fabric=fabric,
        leaf=leaf, port=_leaf_ports(leaf), works=works, graph=graph,
    )  # fmt: skip


_FLAT = ("unspecified", "one switch")  # fabrics of which nothing but a port is known: one switch as wide as it takes
UNBOUNDED = -1


class _Links:
    """Links as they are added; a bandwidth that no source states makes none, which never bounds."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        unknown = set(shares) - set(KINDS)
        if unknown:
            raise InputError.single(f"no kind of link is named {unknown.pop()!r}", hint=f"known: {', '.join(KINDS)}")
        self._shares = shares
        self.capacity: list[float] = []
        self.kind: list[int] = []
        self.names: list[str] = []
        self.numbers: dict[str, Indices] = {}

    def add(self, kind: str, names: Sequence[str], bandwidth: BytesPerSecond | None) -> Indices:
        """Return the numbers of new links of one bandwidth."""
        if bandwidth is None:
            return np.full(len(names), UNBOUNDED, np.intp)
        first = len(self.capacity)
        self.capacity += [float(bandwidth) * self._shares.get(kind, 1.0)] * len(names)
        self.kind += [KINDS.index(kind)] * len(names)
        self.names += names
        return np.arange(first, first + len(names))

    def per_device(self, kind: str, devices: int, bandwidth: BytesPerSecond | None) -> None:
        """Add a link out of and one into each device."""
        for way in ("up", "down"):
            self.numbers[f"{kind}_{way}"] = self.add(kind, [f"{kind}{d}.{way}" for d in range(devices)], bandwidth)


def _inside(made: _Links, cluster: Cluster, nodes: int) -> None:
    """Add the links inside nodes.

    Devices that are joined over the host's link have no other. Each device hangs on a PCIe switch, where the host has
    some, and on a socket; the sockets are joined, and share the memory.
    """
    node, devices = cluster.node, nodes * int(cluster.node.count)
    host = node.device.links.get(node.host.link)
    made.per_device("pcie", devices, None if host is None else host.bandwidth)
    if node.intra.name == node.host.link:
        made.numbers |= {f"intra_{way}": made.numbers[f"pcie_{way}"] for way in ("up", "down")}
    else:
        made.per_device("intra", devices, node.intra.bandwidth)
    per_node = {
        "switch": int(node.host.switches or 0),
        "socket": int(node.host.sockets or 1),
    }
    for what, count in per_node.items():
        bandwidth = node.host.interconnect if what == "socket" else None if host is None else host.bandwidth
        kind = "socket" if what == "socket" else "pcie"
        for way in ("up", "down"):
            names = [f"{what}{n}.{each}.{way}" for n in range(nodes) for each in range(count)]
            made.numbers[f"{what}_{way}"] = made.add(kind, names, bandwidth if count > 1 else None)
    made.numbers["memory"] = made.add("memory", [f"memory{n}" for n in range(nodes)], node.host.bandwidth)


def ports(cluster: Cluster) -> tuple[float, float]:
    """Return the bandwidth of a device's NICs and of a port between switches [B/s].

    Several NICs of a device count as one; the cables that lead on from their leaves then count as wide. Raises
    InfeasibleError without a NIC.
    """
    nic, network = cluster.node.nic, cluster.network
    if nic is None:
        raise InfeasibleError(f"{cluster.node.name} has no NIC: its devices cannot work together across nodes")
    port = float(nic.bandwidth if network is None or network.bandwidth is None else network.bandwidth)
    return min(float(nic.bandwidth), port) * float(nic.per_device), port * float(nic.per_device)


def _fabric(cluster: Cluster, network: Network, nodes: int) -> tuple[nx.MultiGraph, set[str]]:
    """Return the fabric of the first nodes without what has failed, and the NICs among that.

    With failures it is that of the whole cluster: a part that the group does not use may fail, one that is not there
    may not.
    """
    local = int(cluster.node.count)
    devices = local * (max(nodes, int(cluster.count)) if network.failed else nodes)
    graph = _one_switch(devices) if network.topology in _FLAT else fabric_graph(network, devices, local)
    return graph, _failed(graph, network.failed)


def _leaf_ports(leaf: Indices) -> Indices:
    """Return the port of each device: its place on its leaf, after as many for each leaf before as the fullest has."""
    order = np.argsort(leaf, kind="stable")
    counts = np.bincount(leaf)
    place = np.empty(len(leaf), np.intp)
    place[order] = np.arange(len(leaf)) - np.repeat(np.cumsum(counts) - counts, counts)
    number = np.cumsum(counts > 0) - 1
    return number[leaf] * int(counts.max()) + place


def _one_switch(devices: int) -> nx.MultiGraph:
    graph = nx.MultiGraph()
    graph.add_node("leaf0.0", endpoint=False, plane=0)
    for device in range(devices):
        graph.add_node(f"nic{device}", endpoint=True, plane=0)
        graph.add_edge(f"nic{device}", "leaf0.0")
    return graph


def _failed(graph: nx.MultiGraph, failed: Sequence[str]) -> set[str]:
    """Take what has failed out of a fabric and return the NICs among it.

    A name is a NIC, a switch, `plane2` or a cable `leaf0.3-spine0.1`; raises InputError where the fabric has none such.
    """
    dead: set[str] = set()
    for name in failed:
        ends = name.split("-")
        plane = re.fullmatch(r"plane(\d+)", name)
        planes = {says["plane"] for _, says in graph.nodes(data=True)}
        if plane and int(plane[1]) in planes:
            gone = [
                at for at, says in graph.nodes(data=True) if says["plane"] == int(plane[1]) and not says["endpoint"]
            ]
            graph.remove_nodes_from(gone)
        elif len(ends) == 2 and all(end in graph for end in ends):
            if not graph.has_edge(*ends):
                raise InputError.single(
                    f"no link connects {ends[0]} and {ends[1]}", field="network.failed",
                    hint=f"{ends[0]} is joined to {', '.join(sorted(graph[ends[0]])[:8])}",
                )  # fmt: skip
            graph.remove_edge(*ends)
        elif name in graph and graph.nodes[name]["endpoint"]:
            dead.add(name)
        elif name in graph:
            graph.remove_node(name)
        else:
            known = sorted(at for at, says in graph.nodes(data=True) if not says["endpoint"])
            raise InputError.single(
                f"the fabric has no part {name!r}", field="network.failed",
                hint=f"name a plane (plane0), a NIC (nic0), a switch ({', '.join(known[:6])} …) or a cable (A-B)",
            )  # fmt: skip
    return dead
