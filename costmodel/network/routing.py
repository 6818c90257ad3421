"""Routes of flows: the links inside nodes, the NICs, and which of the equal paths of the fabric a flow takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix

from costmodel.errors import InfeasibleError, InputError
from costmodel.hardware import Cluster
from costmodel.network import routing_numba
from costmodel.network.cluster_links import UNBOUNDED, ClusterLinks
from costmodel.network.grids import GRIDS, grid_paths
from costmodel.network.sharing import Incidence
from costmodel.network.shortest_paths import NextHops, Paths, check_number, places_within, shortest_paths
from costmodel.network.splitmix import hashed
from costmodel.quantities import Array, Indices
from costmodel.records import MutableRecord, Record, field

POLICIES = ("ecmp", "static", "adaptive", "spray")


class FlowRoutes(Record):
    """The links that each flow loads, and the latency of its first byte [s]."""

    incidence: Incidence
    latency: Array


class Flows(Record):
    """Messages between devices: from `source` to `target`, `size` each [B]."""

    source: Indices
    target: Indices
    size: Array


class _Traffic(Record):
    """Flows on a cluster's links. policy, seed: as of `route`."""

    links: ClusterLinks
    flows: Flows
    policy: str
    seed: int


def route(links: ClusterLinks, flows: Flows, policy: str, seed: int = 0) -> FlowRoutes:
    """Return the links of each flow under a policy.

    ecmp: a hash of source, target and `seed` picks one of the equal paths.
    static: the target's port picks it, as fixed tables do (D-mod-k).
    adaptive: flow by flow, in the order of source and target, the path whose fullest link is emptiest, in bytes.
    spray: all equal paths, evenly.

    Raises InfeasibleError where what has failed leaves no path.
    """
    if policy not in POLICIES:
        raise InputError.single(f"unknown routing {policy!r}", hint=f"write one of {', '.join(POLICIES)}")
    entries = _Entries(len(flows.source))
    shares_node = flows.source // links.ranks_per_node == flows.target // links.ranks_per_node
    outside = np.flatnonzero(~shares_node)
    within = np.flatnonzero(shares_node & (flows.source != flows.target))
    _add_intra(entries, links, within, (flows.source[within], flows.target[within]))
    latency = np.zeros(len(flows.source))
    latency[within] = inside_latency(links.cluster)
    if len(outside):
        hops = _nic_hops(links, flows, outside)
        _add_forwarding(entries, links, hops, latency)
        _add_nics(entries, links, hops)
        _add_fabric(entries, _Traffic(links, flows, policy, seed), hops, latency)
    return FlowRoutes(entries.incidence(links.capacity), latency)


class _Entries(MutableRecord):
    """(flow, link, weight) in the order of `add`."""

    flows: int
    _owner: list[Indices] = field(default_factory=list)
    _links: list[Indices] = field(default_factory=list)
    _weights: list[Array | float] = field(default_factory=list)

    def add(self, owner: Indices, links: Indices, weights: Array | float = 1.0) -> None:
        """Add a link to each of some flows. One that never bounds counts as none."""
        if len(owner):
            self._owner.append(owner)
            self._links.append(links.astype(np.int32))
            self._weights.append(weights)

    def incidence(self, capacity: Array) -> Incidence:
        whole = [np.all(np.equal(weight, 1.0)) and len(owner) == self.flows for weight, owner in self._pairs()]
        if whole and all(whole) and all(owner is self._owner[0] for owner in self._owner):
            rows = np.stack(self._links, axis=1)
            bounding = rows != UNBOUNDED
            start = np.concatenate(([0], np.cumsum(bounding.sum(axis=1))))
            return Incidence(start, rows[bounding], None, capacity)
        owner = np.concatenate([*self._owner, np.empty(0, np.intp)])
        links = np.concatenate([*self._links, np.empty(0, np.int32)])
        weights = np.concatenate([*(np.broadcast_to(weight, len(own)) for weight, own in self._pairs()), np.empty(0)])
        bounding = links != UNBOUNDED
        entries = (weights[bounding], (owner[bounding], links[bounding]))
        table = coo_matrix(entries, shape=(self.flows, len(capacity))).tocsr()
        ones = bool((table.data == 1.0).all())
        return Incidence(table.indptr.astype(np.int64), table.indices, None if ones else table.data, capacity)

    def _pairs(self) -> Iterator[tuple[Array | float, Indices]]:
        return zip(self._weights, self._owner, strict=True)


class _NicHops(Record):
    """Shares of flows between nodes, each with the devices whose NICs it leaves and enters by."""

    flow: Indices
    share: Array
    source: Indices
    egress: Indices
    ingress: Indices
    target: Indices

    @property
    def is_whole(self) -> bool:
        return bool((self.share == 1.0).all())


def _add_intra(entries: _Entries, links: ClusterLinks, flow: Indices, ends: tuple[Indices, Indices]) -> None:
    """Add the links of flows inside nodes. ends: their sources and targets.

    Without peer-to-peer access a message is stored in the host's memory and read from there, one hop after the other:
    each byte takes both links for twice its time, and the memory twice.
    """
    node = links.cluster.node
    if node.peer_to_peer and node.intra.name != node.host.link:
        for side, device in zip(("up", "down"), ends, strict=True):
            entries.add(flow, links.numbers[f"intra_{side}"][device])
        return
    _add_pcie(entries, links, flow, ends, 1.0 if node.peer_to_peer else 2.0)
    if not node.peer_to_peer:
        entries.add(flow, links.numbers["memory"][ends[0] // links.ranks_per_node], 2.0)


def _add_pcie(
    entries: _Entries, links: ClusterLinks, flow: Indices, ends: tuple[Indices, Indices], weight: Array | float
) -> None:
    """Add the PCIe tree between two devices of a node: up to where their branches meet, and down."""
    numbers, host, local = links.numbers, links.cluster.node.host, links.ranks_per_node
    sides = ("up", "down")
    for side, device in zip(sides, ends, strict=True):
        entries.add(flow, numbers[f"pcie_{side}"][device], weight)
    weights = np.broadcast_to(weight, len(flow))
    for branch, count in (("switch", int(host.switches or 0)), ("socket", int(host.sockets or 1))):
        if count < 2:
            continue
        branches = [device // local * count + device % local * count // local for device in ends]
        differs = branches[0] != branches[1]
        for side, number in zip(sides, branches, strict=True):
            entries.add(flow[differs], numbers[f"{branch}_{side}"][number[differs]], weights[differs])


def inside_latency(cluster: Cluster) -> float:
    """Return the time of a small message between two devices of a node [s]: two hops through the host's memory."""
    node = cluster.node
    hops = 1.0 if node.peer_to_peer else 2.0
    return hops * float(node.intra.latency or 0.0)


def _nic_hops(links: ClusterLinks, flows: Flows, outside: Indices) -> _NicHops:
    """Return by which NICs each flow between nodes leaves and enters.

    A message that changes rails does so before it leaves. Else the devices' own NICs carry it.
    """
    local, changes_rail = links.ranks_per_node, links.changes_rail
    is_all = len(outside) == len(flows.source)
    source, target = (ends if is_all else ends[outside] for ends in (flows.source, flows.target))
    egress = source // local * local + target % local if changes_rail else source
    lost = ~(links.works[egress] & links.works[target])
    if not lost.any():
        return _NicHops(outside, np.ones(len(outside)), source, egress, target, target)
    whole, flow = (source, egress, target, target), outside[~lost]
    rails = _usable_rails(links, source[lost], target[lost], egress[lost], changes_rail=changes_rail)
    return _NicHops(
        np.concatenate([flow, outside[lost][rails.flow]]),
        np.concatenate([np.ones(len(flow)), rails.share]),
        *(
            np.concatenate([ends[~lost], others])
            for ends, others in zip(whole, (rails.source, rails.egress, rails.ingress, rails.target), strict=True)
        ),
    )


def _usable_rails(
    links: ClusterLinks, source: Indices, target: Indices, egress: Indices, *, changes_rail: bool
) -> _NicHops:
    local, works = links.ranks_per_node, links.works
    rail = np.tile(np.arange(local), len(source))
    flow, begin, end, usual = (np.repeat(each, local) for each in (np.arange(len(source)), source, target, egress))
    out, into = begin // local * local + rail, end // local * local + rail
    if not changes_rail:
        out, into = np.where(works[usual], usual, out), np.where(works[end], end, into)
    usable = works[out] & works[into]
    number = usable.reshape(-1, local).sum(axis=1)
    if (number == 0).any():
        cut = int(np.flatnonzero(number == 0)[0])
        raise InfeasibleError(
            f"the failures disconnect the network: no NIC path from device {source[cut]} to device {target[cut]}"
        )
    share = 1.0 / np.repeat(number, local)
    return _NicHops(flow[usable], share[usable], begin[usable], out[usable], into[usable], end[usable])


def _add_forwarding(entries: _Entries, links: ClusterLinks, hops: _NicHops, latency: Array) -> None:
    """Add what is forwarded inside nodes: over their own link with PXN, else over PCIe, through the other device."""
    network, node = links.cluster.network, links.cluster.node
    for begins, ends in ((hops.source, hops.egress), (hops.ingress, hops.target)):
        other = np.flatnonzero(begins != ends)
        flow, here, there = hops.flow[other], begins[other], ends[other]
        if network is None or network.pxn:
            for name, device in (("intra_up", here), ("intra_down", there)):
                entries.add(flow, links.numbers[name][device], hops.share[other])
        else:
            _add_pcie(entries, links, flow, (here, there), hops.share[other])
        latency[flow] += float(node.intra.latency or 0.0)


def _add_nics(entries: _Entries, links: ClusterLinks, hops: _NicHops) -> None:
    """Add the NICs' links, and between device and NIC those to the host where they can bound."""
    share: Array | float = 1.0 if hops.is_whole else hops.share
    names = ["nic_up", "nic_down", *(("pcie_up", "pcie_down") if _host_can_bound(links) else ())]
    for name in names:
        entries.add(hops.flow, links.numbers[name][hops.egress if name.endswith("up") else hops.ingress], share)


def _host_can_bound(links: ClusterLinks) -> bool:
    """Tell whether a link to the host can be full before the NIC behind it: it is slower, or carries something else."""
    node, network = links.cluster.node, links.cluster.network
    host, nic = links.numbers["pcie_up"][0], links.numbers["nic_up"][0]
    if host == UNBOUNDED:
        return False
    is_shared = node.intra.name == node.host.link or not node.peer_to_peer or (network is not None and not network.pxn)
    return bool(is_shared or links.capacity[host] < links.capacity[nic])


def _add_fabric(entries: _Entries, traffic: _Traffic, hops: _NicHops, latency: Array) -> None:
    links = traffic.links
    assert links.switches is not None
    count = len(links.switches.names)
    ends = links.leaf[hops.egress] * count + links.leaf[hops.ingress]
    is_used = np.zeros(count**2, bool)
    is_used[ends] = True
    pairs = np.flatnonzero(is_used)
    pair = (np.cumsum(is_used) - 1)[ends]
    between = pairs // count, pairs % count
    network = links.cluster.network
    paths: Paths | NextHops
    if network is not None and network.topology in GRIDS and not network.failed:
        paths = grid_paths(network, links.switches, between, one_order=traffic.policy == "static")
    else:
        paths = shortest_paths(links.switches, *between)
    times = fabric_latency(links.cluster, paths.hops[pair])
    if hops.is_whole:
        latency[hops.flow] += times
    else:
        np.maximum.at(latency, hops.flow, latency[hops.flow] + times)
    if not paths.hops.any():
        return
    share: Array | float = 1.0 if hops.is_whole else hops.share
    flow = hops.flow
    if traffic.policy == "spray":
        check_number(paths.count)
        number = places_within(paths.count[pair])
        part = np.repeat(np.arange(len(pair)), paths.count[pair])
        flow, share, pair = flow[part], (hops.share / paths.count[pair])[part], pair[part]
    else:
        number = _chosen_path(traffic, paths, pair, hops)
    for column in paths.links(pair, number).T:
        entries.add(flow, np.where(column < 0, UNBOUNDED, column + links.fabric), share)


def _chosen_path(traffic: _Traffic, paths: Paths | NextHops, pair: Indices, hops: _NicHops) -> Indices:
    links, seed, number = traffic.links, traffic.seed, paths.count[pair]
    if traffic.policy == "static":
        return links.port[hops.ingress] % number
    if traffic.policy == "ecmp":
        mixed: npt.NDArray[np.uint64] = hashed(hops.source, hops.ingress * (2 * seed + 1) + seed)
        return (mixed % number.astype(np.uint64)).astype(np.intp)
    size = traffic.flows.size[hops.flow]
    order = np.lexsort((hops.ingress, size, hops.target, hops.source))
    chosen = np.empty(len(pair), np.intp)
    kernel: Any = routing_numba.kernel() or routing_numba.least_loaded
    listed = paths.listed()
    rows = listed.rows, listed.first, listed.count
    chosen[order] = kernel(rows, pair[order], (size * hops.share)[order], len(links.capacity) - links.fabric)
    return chosen


def fabric_latency(cluster: Cluster, hops: npt.NDArray[Any]) -> Array:
    """Return the latency of a path through the fabric [s], from the measured ones of one leaf and of two.

    t = same_leaf + links between switches / 2 * (cross_leaf - same_leaf): one more switch each
    """
    nic, network = cluster.node.nic, cluster.network
    assert nic is not None
    same = float(nic.latency or 0.0)
    same = same if network is None or network.latency_same_leaf is None else float(network.latency_same_leaf)
    cross = same if network is None or network.latency_cross_leaf is None else float(network.latency_cross_leaf)
    return same + hops / 2 * (cross - same)
