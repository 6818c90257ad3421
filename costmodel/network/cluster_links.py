"""The directed links of a cluster: between devices of a node, to the NICs, and through the fabric."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import networkx as nx
import numpy as np

from costmodel.errors import InfeasibleError, InputError
from costmodel.hardware import Cluster, Network
from costmodel.network.graphs import RAILED, fabric_graph
from costmodel.network.grids import GRIDS
from costmodel.network.sharing import Flags, check_capacity
from costmodel.network.shortest_paths import Switches, switches_of
from costmodel.quantities import Array, BytesPerSecond, Indices
from costmodel.records import Record

KINDS = ("intra", "pcie", "nic", "memory", "socket", "fabric")
"""Kinds of link: inside a node, to the host, out of the node, the host's memory, between sockets, between switches."""


class ClusterLinks(Record):
    """Links of `devices` devices, `ranks_per_node` in each node.

    capacity, kind, names: of each link.
    numbers: links of each device or node by `intra_up`, `nic_down` and so on. UNBOUNDED where a link never bounds.
    fabric: number of the first link between switches.
    leaf: switch of each device's NIC.
    port: the NIC's number there, leaves one after the other.
    works: whether the NIC does.
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
    graph: nx.MultiGraph | None = None

    @property
    def changes_rail(self) -> bool:
        """Tell whether a message changes to its target's rail before it leaves: with PXN, or a plane for each rail."""
        network = self.cluster.network
        if network is None or network.topology not in RAILED or self.ranks_per_node == 1:
            return False
        return bool(network.pxn or network.planes > 1)


def build_cluster_links(cluster: Cluster, nodes: int, shares: Mapping[str, float] | None = None) -> ClusterLinks:
    """Return the links of the first `nodes` nodes of a cluster.

    shares: achieved share of the bandwidth by kind of link, as measurements say it (default: all of it). Raises
    InputError for a part under `network.failed` that does not exist or a link without bandwidth, InfeasibleError for
    nodes without a NIC.
    """
    local = int(cluster.node.count)
    devices = nodes * local
    table = _LinkTable(shares or {})
    _add_node_links(table, cluster, nodes)
    graph, network = None, cluster.network
    leaf, works = np.zeros(devices, np.intp), np.ones(devices, bool)
    switches, fabric = None, 0
    if nodes > 1:
        nic, port = ports(cluster)
        table.add_per_device("nic", devices, nic)
        network = network or Network("one switch", 1.0, float(devices), None, None, None, "static")
        graph, failed_nics = _fabric(cluster, network, nodes)
        joined = [f"nic{d}" in graph and graph.degree(f"nic{d}") > 0 for d in range(devices)]
        works = np.array([joined[d] and f"nic{d}" not in failed_nics for d in range(devices)])
        switches = switches_of(graph)
        number = {name: i for i, name in enumerate(switches.names)}
        leaf = np.array([number[next(iter(graph[f"nic{d}"]))] if works[d] else 0 for d in range(devices)], np.intp)
        fabric = len(table.capacity)
        table.add("fabric", [switches.link_name(link) for link in range(len(switches.tail))], port)
    elif network is not None and network.failed and cluster.node.nic is not None:
        _fabric(cluster, network, nodes)  # names that do not exist are an error on one node, too
    capacity = np.array(table.capacity)
    check_capacity(capacity, table.names)
    return ClusterLinks(
        cluster=cluster, devices=devices, ranks_per_node=local, capacity=capacity, kind=np.array(table.kind, np.intp),
        names=table.names, numbers=table.numbers, switches=switches, fabric=fabric,
        leaf=leaf, port=_port_numbers(leaf), works=works, graph=graph,
    )  # fmt: skip


_FLAT = ("unspecified", "one switch")  # fabrics of which only a port is known: one switch as wide as needed
UNBOUNDED = -1


class _LinkTable:
    """Links as they are added. A bandwidth that no source states makes none: it never bounds."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        unknown = set(shares) - set(KINDS)
        if unknown:
            raise InputError.single(f"unknown kind of link {unknown.pop()!r}", hint=f"known: {', '.join(KINDS)}")
        self._shares = shares
        self.capacity: list[float] = []
        self.kind: list[int] = []
        self.names: list[str] = []
        self.numbers: dict[str, Indices] = {}

    def add(self, kind: str, names: Sequence[str], bandwidth: BytesPerSecond | None) -> Indices:
        if bandwidth is None:
            return np.full(len(names), UNBOUNDED, np.intp)
        first = len(self.capacity)
        self.capacity += [float(bandwidth) * self._shares.get(kind, 1.0)] * len(names)
        self.kind += [KINDS.index(kind)] * len(names)
        self.names += names
        return np.arange(first, first + len(names))

    def add_per_device(self, kind: str, devices: int, bandwidth: BytesPerSecond | None) -> None:
        for side in ("up", "down"):
            self.numbers[f"{kind}_{side}"] = self.add(kind, [f"{kind}{d}.{side}" for d in range(devices)], bandwidth)


def _add_node_links(table: _LinkTable, cluster: Cluster, nodes: int) -> None:
    """Add the links inside nodes.

    Devices that are joined over the host's link have no other. Each device hangs on a PCIe switch, where the host has
    some, and on a socket. The sockets are joined, and share the memory.
    """
    node, devices = cluster.node, nodes * int(cluster.node.count)
    host = node.device.links.get(node.host.link)
    pcie = None if host is None else host.bandwidth
    table.add_per_device("pcie", devices, pcie)
    if node.intra.name == node.host.link:
        table.numbers |= {f"intra_{side}": table.numbers[f"pcie_{side}"] for side in ("up", "down")}
    else:
        table.add_per_device("intra", devices, node.intra.bandwidth)
    branches = (
        ("switch", "pcie", int(node.host.switches or 0), pcie),
        ("socket", "socket", int(node.host.sockets or 1), node.host.interconnect),
    )
    for branch, kind, count, bandwidth in branches:
        for side in ("up", "down"):
            names = [f"{branch}{n}.{i}.{side}" for n in range(nodes) for i in range(count)]
            table.numbers[f"{branch}_{side}"] = table.add(kind, names, bandwidth if count > 1 else None)
    table.numbers["memory"] = table.add("memory", [f"memory{n}" for n in range(nodes)], node.host.bandwidth)


def ports(cluster: Cluster) -> tuple[float, float]:
    """Return the bandwidth of a device's NICs and of a port between switches [B/s].

    Several NICs of a device count as one. The cables that lead on from their leaves then count as wide. Raises
    InfeasibleError without a NIC.
    """
    nic, network = cluster.node.nic, cluster.network
    if nic is None:
        raise InfeasibleError(f"{cluster.node.name} has no NIC: its devices cannot work together across nodes")
    port = float(nic.bandwidth if network is None or network.bandwidth is None else network.bandwidth)
    # A router of a grid sends on all of its links what a wider NIC gives it.
    is_grid = network is not None and network.topology in GRIDS
    out = float(nic.bandwidth) if is_grid else min(float(nic.bandwidth), port)
    return out * float(nic.per_device), port * float(nic.per_device)


def _fabric(cluster: Cluster, network: Network, nodes: int) -> tuple[nx.MultiGraph, set[str]]:
    """Return the fabric of the first nodes without what has failed, and the NICs that have.

    With failures it is that of the whole cluster: a part that the group does not use may fail, one that does not exist
    may not.
    """
    local = int(cluster.node.count)
    devices = local * (max(nodes, int(cluster.count)) if network.failed else nodes)
    graph = _one_switch(devices) if network.topology in _FLAT else fabric_graph(network, devices, local)
    return graph, _remove_failed(graph, network.failed)


def _port_numbers(leaf: Indices) -> Indices:
    """Return the port of each device: its rank on its leaf, after as many for each leaf before as the fullest has."""
    order = np.argsort(leaf, kind="stable")
    counts = np.bincount(leaf)
    rank = np.empty(len(leaf), np.intp)
    rank[order] = np.arange(len(leaf)) - np.repeat(np.cumsum(counts) - counts, counts)
    number = np.cumsum(counts > 0) - 1
    return number[leaf] * int(counts.max()) + rank


def _one_switch(devices: int) -> nx.MultiGraph:
    graph = nx.MultiGraph()
    graph.add_node("leaf0.0", endpoint=False, plane=0)
    for device in range(devices):
        graph.add_node(f"nic{device}", endpoint=True, plane=0)
        graph.add_edge(f"nic{device}", "leaf0.0")
    return graph


def _remove_failed(graph: nx.MultiGraph, failed: Sequence[str]) -> set[str]:
    """Take what has failed out of a fabric and return the NICs among it.

    A name is a NIC, a switch, `plane2` or a cable `leaf0.3-spine0.1`. Raises InputError where the fabric has none such.
    """
    failed_nics: set[str] = set()
    for name in failed:
        ends = name.split("-")
        plane = re.fullmatch(r"plane(\d+)", name)
        planes = dict(graph.nodes(data="plane"))
        switches = [part for part, is_endpoint in graph.nodes(data="endpoint") if not is_endpoint]
        if plane and int(plane[1]) in planes.values():
            graph.remove_nodes_from([switch for switch in switches if planes[switch] == int(plane[1])])
        elif len(ends) == 2 and all(end in graph for end in ends):
            _remove_cable(graph, *ends)
        elif name in graph and graph.nodes[name]["endpoint"]:
            failed_nics.add(name)
        elif name in graph:
            graph.remove_node(name)
        else:
            raise InputError.single(
                f"the fabric has no part {name!r}", field="network.failed",
                hint=f"name a plane (plane0), a NIC (nic0), a switch ({', '.join(sorted(switches)[:6])} …) or a cable "
                "(A-B)",
            )  # fmt: skip
    return failed_nics


def _remove_cable(graph: nx.MultiGraph, first: str, second: str) -> None:
    if not graph.has_edge(first, second):
        raise InputError.single(
            f"no link connects {first} and {second}", field="network.failed",
            hint=f"{first} is joined to {', '.join(sorted(graph[first])[:8])}",
        )  # fmt: skip
    graph.remove_edge(first, second)
