"""Which links a flow loads: inside its nodes, which NICs it uses, which of the equal paths of the fabric it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix

from costmodel.errors import InfeasibleError, InputError
from costmodel.hardware import Cluster
from costmodel.network.cluster_links import UNBOUNDED, ClusterLinks
from costmodel.network.graphs import RAILED
from costmodel.network.sharing import Incidence
from costmodel.network.shortest import Paths, shortest_paths
from costmodel.quantities import Array, Indices

POLICIES = ("ecmp", "static", "adaptive", "spray")


@dataclass(frozen=True, slots=True, eq=False)
class FlowRoutes:
    """Flows on a plant: the links that each loads, and the time of its first byte on the way [s]."""

    incidence: Incidence
    latency: Array


@dataclass(frozen=True, slots=True, eq=False)
class Flows:
    """Messages between devices: from `source` to `target`, `size` each [B]."""

    source: Indices
    target: Indices
    size: Array


def route(plant: ClusterLinks, flows: Flows, policy: str, seed: int = 0) -> FlowRoutes:
    """Return the links of each flow under a policy.

    ecmp: a hash of source, target and `seed` picks one of the equal paths; static: the target's port does, as fixed
    tables do (D-mod-k); adaptive: flow by flow, in the order of source and target, the path whose fullest link is
    emptiest, in bytes; spray: all equal paths, evenly. Raises InfeasibleError where what has failed leaves no path.
    """
    if policy not in POLICIES:
        raise InputError.single(f"no routing is named {policy!r}", hint=f"write one of {', '.join(POLICIES)}")
    made = _Entries(len(flows.source))
    shared = flows.source // plant.ranks_per_node == flows.target // plant.ranks_per_node
    outside = np.flatnonzero(~shared)
    within = np.flatnonzero(shared & (flows.source != flows.target))
    _inside(made, plant, within, flows.source[within], flows.target[within])
    latency = np.zeros(len(flows.source))
    latency[within] = inside_latency(plant.cluster)
    if len(outside):
        ways = _ways(plant, flows, outside)
        _forward(made, plant, ways, latency)
        _out_and_in(made, plant, ways)
        _through(made, plant, ways, flows, policy, seed, latency)
    return FlowRoutes(made.incidence(plant.capacity), latency)


@dataclass(slots=True)
class _Entries:
    """(flow, link, weight) as they are found."""

    flows: int
    _owner: list[Indices] = field(default_factory=list)
    _links: list[Indices] = field(default_factory=list)
    _weights: list[Array | float] = field(default_factory=list)

    def add(self, owner: Indices, links: Indices, weights: Array | float = 1.0) -> None:
        """Add a link to each of some flows; one that never bounds counts as none."""
        if len(owner):
            self._owner.append(owner)
            self._links.append(links.astype(np.int32))
            self._weights.append(weights)

    def incidence(self, capacity: Array) -> Incidence:
        """Return the links by flow."""
        whole = [np.all(np.equal(weight, 1.0)) and len(owner) == self.flows for weight, owner in self._pairs()]
        if whole and all(whole) and all(owner is self._owner[0] for owner in self._owner):
            rows = np.stack(self._links, axis=1)
            bounding = rows != UNBOUNDED
            start = np.concatenate(([0], np.cumsum(bounding.sum(axis=1))))
            return Incidence(start, rows[bounding], None, capacity)
        owner = np.concatenate([*self._owner, np.empty(0, np.intp)])
        links = np.concatenate([*self._links, np.empty(0, np.int32)])
        weights = np.concatenate([*(np.broadcast_to(weight, len(own)) for weight, own in self._pairs()), np.empty(0)])
        kept = links != UNBOUNDED
        found = coo_matrix((weights[kept], (owner[kept], links[kept])), shape=(self.flows, len(capacity))).tocsr()
        ones = bool((found.data == 1.0).all())
        return Incidence(found.indptr.astype(np.int64), found.indices, None if ones else found.data, capacity)

    def _pairs(self) -> Iterator[tuple[Array | float, Indices]]:
        return zip(self._weights, self._owner, strict=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Ways:
    """Parts of flows between nodes, each with the devices whose NICs it leaves and enters by."""

    flow: Indices
    share: Array
    source: Indices
    leaves: Indices
    enters: Indices
    target: Indices

    @property
    def whole(self) -> bool:
        """Tell whether no flow is divided."""
        return bool((self.share == 1.0).all())


def _inside(made: _Entries, plant: ClusterLinks, flow: Indices, source: Indices, target: Indices) -> None:
    """Add what flows inside nodes load.

    Without peer-to-peer access a message is stored in the host's memory and read from there, one hop after the other:
    each byte takes both links for twice its time, and the memory twice.
    """
    node = plant.cluster.node
    if node.peer_to_peer and node.intra.name != node.host.link:
        made.add(flow, plant.numbers["intra_up"][source])
        made.add(flow, plant.numbers["intra_down"][target])
        return
    weight = 1.0 if node.peer_to_peer else 2.0
    _over_host(made, plant, flow, source, target, weight)
    if not node.peer_to_peer:
        made.add(flow, plant.numbers["memory"][source // plant.ranks_per_node], 2.0)


def _over_host(
    made: _Entries, plant: ClusterLinks, flow: Indices, source: Indices, target: Indices, weight: Array | float
) -> None:
    """Add the PCIe tree between two devices of a node: up to where their branches meet, and down."""
    numbers, host = plant.numbers, plant.cluster.node.host
    made.add(flow, numbers["pcie_up"][source], weight)
    made.add(flow, numbers["pcie_down"][target], weight)
    weights = np.broadcast_to(weight, len(flow))
    for what, count in (("switch", int(host.switches or 0)), ("socket", int(host.sockets or 1))):
        if count < 2:
            continue
        branch = [
            at // plant.ranks_per_node * count + at % plant.ranks_per_node * count // plant.ranks_per_node
            for at in (source, target)
        ]
        apart = branch[0] != branch[1]
        made.add(flow[apart], numbers[f"{what}_up"][branch[0][apart]], weights[apart])
        made.add(flow[apart], numbers[f"{what}_down"][branch[1][apart]], weights[apart])


def inside_latency(cluster: Cluster) -> float:
    """Return the time of a small message between two devices of a node [s]: two hops through the host's memory."""
    node = cluster.node
    hops = 1.0 if node.peer_to_peer else 2.0
    return hops * float(node.intra.latency or 0.0)


def _ways(plant: ClusterLinks, flows: Flows, outside: Indices) -> _Ways:
    """Return by which NICs each flow between nodes leaves and enters.

    With rails and PXN, or with a plane a rail, a message changes to the rail of its target before it leaves; else the
    devices' own NICs carry it. A flow whose NIC does not work is divided evenly over the rails that do at both ends.
    """
    local, network = plant.ranks_per_node, plant.cluster.network
    every = len(outside) == len(flows.source)
    source, target = (ends if every else ends[outside] for ends in (flows.source, flows.target))
    railed = network is not None and network.topology in RAILED and local > 1
    changes = railed and network is not None and (network.pxn or network.planes > 1)
    leaves = source // local * local + target % local if changes else source
    lost = ~(plant.works[leaves] & plant.works[target])
    if not lost.any():
        return _Ways(outside, np.ones(len(outside)), source, leaves, target, target)
    kept = [ends[~lost] for ends in (outside, source, leaves, target, target)]
    whole = _Ways(kept[0], np.ones(len(kept[0])), *kept[1:])
    rails = np.arange(local)
    out, into = (np.repeat(ends[lost] // local * local, local) for ends in (source, target))
    rail = np.tile(rails, int(lost.sum()))
    leave, enter = (
        (out + rail, into + rail) if changes
        else (np.where(np.repeat(plant.works[leaves[lost]], local), np.repeat(leaves[lost], local), out + rail),
              np.where(np.repeat(plant.works[target[lost]], local), np.repeat(target[lost], local), into + rail))
    )  # fmt: skip
    usable = plant.works[leave] & plant.works[enter]
    number = usable.reshape(-1, local).sum(axis=1)
    if (number == 0).any():
        at = int(np.flatnonzero(number == 0)[0])
        raise InfeasibleError(
            f"no NIC leads from device {source[lost][at]} to device {target[lost][at]}: what failed parts the network"
        )
    share = (1.0 / np.repeat(number, local))[usable]
    again = [np.repeat(values[lost], local)[usable] for values in (outside, source, target)]
    return _Ways(
        np.concatenate([whole.flow, again[0]]), np.concatenate([whole.share, share]),
        np.concatenate([whole.source, again[1]]), np.concatenate([whole.leaves, leave[usable]]),
        np.concatenate([whole.enters, enter[usable]]), np.concatenate([whole.target, again[2]]),
    )  # fmt: skip


def _forward(made: _Entries, plant: ClusterLinks, ways: _Ways, latency: Array) -> None:
    """Add what is forwarded inside nodes: over their own link with PXN, else over PCIe, through the other device."""
    network, node = plant.cluster.network, plant.cluster.node
    for begins, ends in ((ways.source, ways.leaves), (ways.enters, ways.target)):
        other = np.flatnonzero(begins != ends)
        flow, here, there = ways.flow[other], begins[other], ends[other]
        if network is None or network.pxn:
            for way, device in (("intra_up", here), ("intra_down", there)):
                made.add(flow, plant.numbers[way][device], ways.share[other])
        else:
            _over_host(made, plant, flow, here, there, ways.share[other])
        latency[flow] += float(node.intra.latency or 0.0)


def _out_and_in(made: _Entries, plant: ClusterLinks, ways: _Ways) -> None:
    """Add the NICs' links, and between device and NIC those to the host where they can bound."""
    share: Array | float = 1.0 if ways.whole else ways.share
    names = ["nic_up", "nic_down", *(("pcie_up", "pcie_down") if _host_binds(plant) else ())]
    for name in names:
        made.add(ways.flow, plant.numbers[name][ways.leaves if name.endswith("up") else ways.enters], share)


def _host_binds(plant: ClusterLinks) -> bool:
    """Tell whether a link to the host can be full before the NIC behind it: it is slower, or carries something else."""
    node, network = plant.cluster.node, plant.cluster.network
    host, nic = plant.numbers["pcie_up"][0], plant.numbers["nic_up"][0]
    if host == UNBOUNDED:
        return False
    shared = node.intra.name == node.host.link or not node.peer_to_peer or (network is not None and not network.pxn)
    return bool(shared or plant.capacity[host] < plant.capacity[nic])


def _through(
    made: _Entries, plant: ClusterLinks, ways: _Ways, flows: Flows, policy: str, seed: int, latency: Array
) -> None:
    """Add the fabric's links, and the latency of its switches."""
    assert plant.switches is not None
    count = len(plant.switches.names)
    ends = plant.leaf[ways.leaves] * count + plant.leaf[ways.enters]
    met = np.zeros(count**2, bool)
    met[ends] = True
    pairs = np.flatnonzero(met)
    pair = (np.cumsum(met) - 1)[ends]
    paths = shortest_paths(plant.switches, pairs // count, pairs % count)
    hops = paths.hops[paths.first[pair]]
    if ways.whole:
        latency[ways.flow] += fabric_latency(plant.cluster, hops)
    else:
        np.maximum.at(latency, ways.flow, latency[ways.flow] + fabric_latency(plant.cluster, hops))
    if paths.rows.shape[1] == 0:
        return
    share: Array | float
    if policy == "spray":
        number = paths.count[pair]
        way = np.repeat(np.arange(len(pair)), number)
        row = np.repeat(paths.first[pair], number) + np.arange(len(way)) - np.repeat(np.cumsum(number) - number, number)
        flow, share = ways.flow[way], (ways.share / number)[way]
    else:
        flow, share = ways.flow, 1.0 if ways.whole else ways.share
        row = paths.first[pair] + _choice(plant, paths, pair, ways, flows, policy, seed)
    for column in paths.rows.T:
        links = column[row]
        made.add(flow, np.where(links < 0, UNBOUNDED, links + plant.fabric), share)


def _choice(
    plant: ClusterLinks, paths: Paths, pair: Indices, ways: _Ways, flows: Flows, policy: str, seed: int
) -> Indices:
    """Return which of its equal paths each flow takes."""
    number = paths.count[pair]
    if policy == "static":
        return plant.port[ways.enters] % number
    if policy == "ecmp":
        return (_hash(ways.source, ways.enters * (2 * seed + 1) + seed) % number.astype(np.uint64)).astype(np.intp)
    order = np.lexsort((ways.enters, flows.size[ways.flow], ways.target, ways.source))
    chosen = np.empty(len(pair), np.intp)
    sizes = flows.size[ways.flow] * ways.share
    chosen[order] = _least_loaded(paths, pair[order], sizes[order], len(plant.capacity) - plant.fabric)
    return chosen


def _least_loaded(paths: Paths, pair: Indices, sizes: Array, links: int) -> Indices:
    """Return for one flow after the other the path whose fullest link carries least, the first of equals."""
    from costmodel.network import routing_fast

    kernel: Any = routing_fast.kernel() or routing_fast.least_loaded
    chosen: Indices = kernel(paths.rows, paths.first, paths.count, pair, sizes, links)
    return chosen


def _hash(first: Indices, second: Indices) -> npt.NDArray[np.uint64]:
    """Return 64 well-mixed bits of two numbers [SplitMix64: Steele, Lea, Flood, OOPSLA 2014]."""
    with np.errstate(over="ignore"):
        mixed = first.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + second.astype(np.uint64)
        mixed += np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


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
