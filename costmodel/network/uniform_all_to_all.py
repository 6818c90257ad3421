"""A uniform all-to-all by the symmetry of the fabric: classes of flows and links, without a graph.

Every rank stands for all, and one link for all of its kind: of a class a link carries (flows of a rank that cross one
of its kind) * ranks / links of the kind. That needs equal leaves and a policy that loads equal paths evenly. The fabric
may bound, as on the flow level. `collectives.direct_all_to_all` knows only NICs and links inside nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from costmodel.hardware import Cluster, Network
from costmodel.network import routing_numba
from costmodel.network.cluster_links import UNBOUNDED, ClusterLinks
from costmodel.network.graphs import RAILED
from costmodel.network.grids import GRIDS
from costmodel.network.group_links import Layout
from costmodel.network.routing import Flows, fabric_latency, inside_latency, route
from costmodel.network.sharing import Flags, Incidence
from costmodel.network.shortest_paths import NextHops, shortest_paths
from costmodel.network.topologies import full_fabric, has_three_levels, leaf_ports
from costmodel.quantities import Array, Indices
from costmodel.records import Record

LINKS = ("intra", "pcie", "nic", "fabric")
_TREES = ("ft2", "ft3", "fat-tree", *RAILED)
_FLAT = ("unspecified",)


class Tier(Record):
    """Nodes at one distance from a node: how many, and how many tiers of switches a message to them climbs."""

    nodes: float
    climbs: int


class UniformFlows(Record):
    """Classes of flows.

    count: flows of a class from each rank.
    outside: whether they go between nodes.
    forwarded: how often they are, inside a node.
    hops: links between switches on the way.
    """

    incidence: Incidence
    count: Array
    outside: Flags
    forwarded: Array
    hops: Array


class _RailChange(Record):
    """How messages between different rails change over: by spines, over the host's link, or forwarded inside a node."""

    by_spine: bool
    over_host: bool
    forwards: bool


class _Shape(Record):
    """A group on a fabric. ranks_per_link: of each kind of link between switches; full: whether leaves are full."""

    tiers: list[Tier]
    ranks_per_link: dict[str, float]
    full: bool


def uniform_flow_classes(
    cluster: Cluster, rank_layout: Layout, capacity: dict[str, float], policy: str
) -> UniformFlows | None:
    """Return the classes of an all-to-all of equal messages, null where the symmetry does not hold.

    capacity: of each kind of link of LINKS [B/s]. A kind that is left out does not bound.
    """
    node, network = cluster.node, cluster.network
    is_switched = node.peer_to_peer and node.intra.name != node.host.link and node.host.switches is None
    shape = _shape(cluster, rank_layout) if is_switched else None
    if shape is None or (network is not None and network.failed):
        return None
    change = _rail_change(network, rank_layout)
    is_even = policy in ("adaptive", "spray") or (policy == "static" and shape.full)
    if not is_even and (change.by_spine or any(tier.climbs for tier in shape.tiers)):
        return None
    rows = list(_flows(rank_layout, shape.tiers, change))
    names = [name for name in LINKS if name in capacity]
    weights = np.array([[row[name] for name in names] for row in rows])
    count = np.array([row["count"] for row in rows])
    per_link = np.array([shape.ranks_per_link.get(name, 1.0) for name in names])
    entries = weights * count[:, None] * per_link[None, :]
    used = entries > 0
    start = np.concatenate(([0], np.cumsum(used.sum(axis=1))))
    links = np.nonzero(used)[1].astype(np.int32)
    incidence = Incidence(start, links, entries[used], np.array([capacity[name] for name in names]))
    outside, forwarded, hops = (np.array([row[name] for row in rows]) for name in ("nic", "forwarded", "hops"))
    return UniformFlows(incidence, count, outside > 0, forwarded, hops)


def _rail_change(network: Network | None, rank_layout: Layout) -> _RailChange:
    """Return how messages change rails, not at all where the fabric has none."""
    if network is None or network.topology not in RAILED or rank_layout.ranks_per_node == 1:
        return _RailChange(by_spine=False, over_host=False, forwards=False)
    over_host = not network.pxn and bool(network.planes > 1)
    return _RailChange(by_spine=not network.pxn and not over_host, over_host=over_host, forwards=network.pxn)


def _flows(rank_layout: Layout, tiers: list[Tier], change: _RailChange) -> Iterator[dict[str, float]]:
    """Yield each class of a rank's flows: how many, and how often each loads a link of each kind."""
    nothing = dict.fromkeys((*LINKS, "hops", "forwarded"), 0.0)
    others = rank_layout.ranks_per_node - 1.0
    if others > 0:
        yield nothing | {"count": others, "intra": 1.0}
    for tier in tiers:
        for count, changes in ((1.0, False), (others, True)):
            if tier.nodes * count == 0:
                continue
            climbs = max(tier.climbs, 1) if changes and change.by_spine else tier.climbs
            yield nothing | {
                "count": tier.nodes * count,
                "nic": 1.0,
                "pcie": 2.0 if changes and change.over_host else 1.0,
                "intra": 1.0 if changes and change.forwards else 0.0,
                "fabric": 1.0 if climbs >= 1 else 0.0,
                "hops": 2.0 * climbs,
                "forwarded": 1.0 if changes and (change.forwards or change.over_host) else 0.0,
            }


def _shape(cluster: Cluster, rank_layout: Layout) -> _Shape | None:
    """Return the tiers of nodes around each node, null where the group does not look the same from all of its nodes."""
    nodes, last_node = rank_layout.nodes, rank_layout.last_node
    if nodes == 1:
        return _Shape([], {}, full=True)
    network, local = cluster.network, int(cluster.node.count)
    if network is None or network.topology in _FLAT:
        return _Shape([Tier(nodes - 1.0, 0)], {}, full=True)
    if network.topology not in _TREES or rank_layout.ranks_per_node != local:
        return None
    is_railed, ports = network.topology in RAILED, leaf_ports(network.radix, network.oversubscription)
    if (is_railed and network.planes not in (1.0, float(local))) or (not is_railed and network.planes > 1):
        return None
    endpoints_per_node = 1 if is_railed else local
    nodes_per_leaf, rest = divmod(int(ports.down), endpoints_per_node)
    three_levels = has_three_levels(network, float(last_node * local))
    nodes_per_pod = nodes_per_leaf * (int(network.radix) // 2) if three_levels else last_node
    if rest or nodes_per_leaf == 0 or (three_levels and network.topology == "rail"):
        return None
    if not _has_room(network, last_node, local):
        return None
    groups = [_nodes(rank_layout, group) for group in range(rank_layout.groups)]
    every = np.concatenate(groups)
    in_leaf = _even(every // nodes_per_leaf)
    own_leaf, own_pod = (_even(groups[0] // width) for width in (nodes_per_leaf, nodes_per_pod))
    if in_leaf is None or own_leaf is None or own_pod is None:
        return None
    if any((_even(group // nodes_per_leaf), _even(group // nodes_per_pod)) != (own_leaf, own_pod) for group in groups):
        return None
    tiers = [Tier(own_leaf - 1.0, 0), Tier(float(own_pod - own_leaf), 1), Tier(float(nodes - own_pod), 2)]
    ranks = {"fabric": in_leaf * endpoints_per_node / float(ports.up)}  # what leaves a pod comes from its leaves' links
    return _Shape([tier for tier in tiers if tier.nodes > 0], ranks, full=in_leaf == nodes_per_leaf)


def _has_room(network: Network, nodes: int, local: int) -> bool:
    """Tell whether a tree has as many leaves as the nodes need. Where it has not, the graph says which are missing."""
    down = leaf_ports(network.radix, network.oversubscription).down
    whole = full_fabric(network, float(nodes * local))
    leaves = np.ceil(nodes / down) * (local if network.topology == "mrft" else 1)
    if network.topology not in RAILED:
        leaves = np.ceil(nodes * local / down)
    return whole is not None and bool(leaves <= whole.endpoints / network.planes / down)


def _nodes(rank_layout: Layout, group: int) -> Indices:
    return rank_layout.device(np.arange(0, rank_layout.ranks, rank_layout.ranks_per_node), 1, group)


def _even(places: Indices) -> int | None:
    """Return how many there are of each that occurs, null where that differs."""
    counts = np.bincount(places)
    counts = counts[counts > 0]
    return int(counts[0]) if (counts == counts[0]).all() else None


# ---- An all-to-all of equal messages by ECMP, counted message by message in one compiled loop that keeps none of them.

_OTHERS = (*GRIDS, "ocs")  # topologies whose paths are not all shortest ones, or not always there


def hashed_all_to_all(links: ClusterLinks, rank_layout: Layout, seed: int) -> tuple[Array, float] | None:
    """Return how many messages each link carries where all ranks send one to each other, and the latency of one [s].

    The same as routes of all messages give. Null without numba, around failures, and on fabrics whose paths do not
    follow from their number.
    """
    kernel: Any = routing_numba.hashed_kernel()
    network, local = links.cluster.network, links.ranks_per_node
    if kernel is None or links.switches is None or network is None or network.failed or network.topology in _OTHERS:
        return None
    rank = np.arange(rank_layout.ranks)
    groups = [rank_layout.device(rank, local, group) for group in range(rank_layout.groups)]
    paths = shortest_paths(links.switches, *_ends(links, groups))
    if not isinstance(paths, NextHops):
        return None
    goal_of = np.zeros(len(links.switches.names), np.intp)
    goal_of[paths.goals] = np.arange(len(paths.goals))
    numbers = (paths.ways, paths.first, paths.width, paths.onward, paths.after)
    hops = (*(each.astype(np.uint32) for each in numbers), len(links.switches.head))
    starts = links.leaf, goal_of, paths.case
    load, forwarding = np.zeros(len(links.capacity)), float(links.cluster.node.intra.latency or 0.0)
    latency = inside_latency(links.cluster) if rank_layout.ranks_per_node > 1 else 0.0
    for devices in groups:
        _add_inside(load, links, devices)
        ordered = devices[np.argsort(links.leaf[devices], kind="stable")]
        count, farthest = kernel(hops, starts, (local, links.changes_rail), ordered, seed)
        load[links.fabric :] += count
        times = fabric_latency(links.cluster, farthest) + np.array([0.0, forwarding])
        latency = max(latency, float(times[farthest >= 0].max(initial=0.0)))
    return load, latency


def _ends(links: ClusterLinks, groups: Sequence[Indices]) -> tuple[Indices, ...]:
    """Return the leaves between which messages go: those of one rail, where messages change rails before."""
    assert links.switches is not None
    meets = np.zeros((len(links.switches.names),) * 2, bool)
    for devices in groups:
        rail = devices % links.ranks_per_node if links.changes_rail else np.zeros(len(devices), np.intp)
        for number in np.unique(rail):
            leaves = np.unique(links.leaf[devices[rail == number]])
            meets[np.ix_(leaves, leaves)] = True
    return np.nonzero(meets)


def _add_inside(load: Array, links: ClusterLinks, devices: Indices) -> None:
    """Add what the links of nodes and NICs carry of the messages of a group, all of whose nodes are alike.

    The messages of one node load a link of all nodes together as much as those of all nodes load that link of one.
    """
    local, nodes = links.ranks_per_node, np.unique(devices // links.ranks_per_node)
    own = devices[devices // local == nodes[0]]
    source, target = (side.ravel() for side in np.meshgrid(own, devices, indexing="ij"))
    others = source != target
    flows = Flows(source[others], target[others], np.ones(int(others.sum())))
    carried = route(links, flows, "static").incidence.load(flows.size)
    for numbers in {id(each): each for each in links.numbers.values()}.values():
        of_nodes = numbers.reshape(links.devices // local, -1)[nodes]
        if of_nodes.size and of_nodes.flat[0] != UNBOUNDED:
            load[of_nodes] += carried[of_nodes].sum(axis=0)
