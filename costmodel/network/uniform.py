"""A uniform all-to-all by the symmetry of the fabric: classes of flows and links, without a graph.

Every rank stands for all, and one link for all of its kind: of a class a link carries (flows of a rank that cross one
of its kind) * ranks / links of the kind. That needs equal leaves and a policy that loads equal paths evenly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from costmodel.hardware import Cluster, Network
from costmodel.network.graphs import RAILED
from costmodel.network.layout import Layout
from costmodel.network.sharing import Flags, Incidence
from costmodel.network.topologies import full_fabric, leaf_ports, two_level_fat_tree
from costmodel.quantities import Array

LINKS = ("intra", "pcie", "nic", "fabric", "core")
_TREES = ("ft2", "ft3", "fat-tree", *RAILED)
_FLAT = ("unspecified",)


@dataclass(frozen=True, slots=True, eq=False)
class Tier:
    """Nodes at one distance from a node: how many, and how many tiers of switches a message to them climbs."""

    nodes: float
    climbs: int


@dataclass(frozen=True, slots=True, eq=False)
class Symmetry:
    """Classes of flows, `count` of each a rank.

    outside: between nodes; forwarded: how often inside a node, then; hops: links between switches on the way.
    """

    incidence: Incidence
    count: Array
    outside: Flags
    forwarded: Array
    hops: Array


def uniform_classes(cluster: Cluster, where: Layout, capacity: dict[str, float], policy: str) -> Symmetry | None:
    """Return the classes of an all-to-all of equal messages, null where the symmetry does not hold.

    capacity: of each kind of link of LINKS [B/s]; a kind that is left out does not bound.
    """
    node, network = cluster.node, cluster.network
    plain = node.peer_to_peer and node.intra.name != node.host.link and node.host.switches is None
    if not plain:
        return None
    shape = _shape(cluster, where)
    if shape is None:
        return None
    tiers, ranks_a_link, full = shape
    changes = network is not None and network.topology in RAILED and where.ranks_per_node > 1
    over_host = changes and network is not None and not network.pxn and bool(network.planes > 1)
    forwards = changes and network is not None and network.pxn
    if network is not None and network.failed:
        return None
    by_spine = changes and not over_host and not forwards
    even = policy in ("adaptive", "spray") or (policy == "static" and full)
    if not even and (by_spine or any(tier.climbs for tier in tiers)):
        return None
    rows = list(_flows(where, tiers, by_spine, over_host, forwards))
    names = [name for name in LINKS if name in capacity]
    weights = np.array([[row[name] for name in names] for row in rows])
    count = np.array([row["count"] for row in rows])
    per_link = np.array([ranks_a_link.get(name, 1.0) for name in names])
    entries = weights * count[:, None] * per_link[None, :]
    used = entries > 0
    start = np.concatenate(([0], np.cumsum(used.sum(axis=1))))
    links = np.nonzero(used)[1].astype(np.int32)
    incidence = Incidence(start, links, entries[used], np.array([capacity[name] for name in names]))
    outside, forwarded, hops = (np.array([row[name] for row in rows]) for name in ("nic", "forwarded", "hops"))
    return Symmetry(incidence, count, outside > 0, forwarded, hops)


def _flows(
    where: Layout, tiers: list[Tier], by_spine: bool, over_host: bool, forwards: bool
) -> Iterator[dict[str, float]]:
    """Yield each class of a rank's flows: how many, and how often each loads a link of each kind."""
    nothing = dict.fromkeys((*LINKS, "hops", "forwarded"), 0.0)
    if where.ranks_per_node > 1:
        yield nothing | {"count": where.ranks_per_node - 1.0, "intra": 1.0}
    for tier in tiers:
        for count, changed in ((1.0, False), (where.ranks_per_node - 1.0, True)):
            if tier.nodes * count == 0:
                continue
            climbs = max(tier.climbs, 1) if changed and by_spine else tier.climbs
            yield nothing | {
                "count": tier.nodes * count,
                "nic": 1.0,
                "pcie": 2.0 if changed and over_host else 1.0,
                "intra": 1.0 if changed and forwards else 0.0,
                "fabric": 1.0 if climbs >= 1 else 0.0,
                "core": 1.0 if climbs >= 2 else 0.0,
                "hops": 2.0 * climbs,
                "forwarded": 1.0 if changed and (forwards or over_host) else 0.0,
            }


def _shape(cluster: Cluster, where: Layout) -> tuple[list[Tier], dict[str, float], bool] | None:
    """Return the tiers of nodes around each node, ranks a link of each kind between switches, whether leaves are full.

    Null where the group does not look the same from all of its nodes.
    """
    if where.nodes == 1:
        return [], {}, True
    network, local = cluster.network, int(cluster.node.count)
    if network is None or network.topology in _FLAT:
        return [Tier(where.nodes - 1.0, 0)], {}, True
    if network.topology not in _TREES or where.ranks_per_node != local:
        return None
    railed, ports = network.topology in RAILED, leaf_ports(network.radix, network.oversubscription)
    if (railed and network.planes not in (1.0, float(local))) or (not railed and network.planes > 1):
        return None
    endpoints_a_node = 1 if railed else local
    a_leaf, rest = divmod(int(ports.down), endpoints_a_node)
    half, deep = int(network.radix) // 2, _is_deep(network, where.last_node * local)
    a_pod = a_leaf * half if deep else where.last_node
    if rest or a_leaf == 0 or (deep and network.topology == "rail") or not _has_room(network, where.last_node, local):
        return None
    groups = [_nodes(where, group) for group in range(where.groups)]
    every = np.concatenate(groups)
    in_leaf, in_pod = (_even(every // width) for width in (a_leaf, a_pod))
    own_leaf, own_pod = (_even(groups[0] // width) for width in (a_leaf, a_pod))
    if in_leaf is None or in_pod is None or own_leaf is None or own_pod is None:
        return None
    if any(_even(group // a_leaf) != own_leaf or _even(group // a_pod) != own_pod for group in groups[1:]):
        return None
    tiers = [Tier(own_leaf - 1.0, 0), Tier(float(own_pod - own_leaf), 1), Tier(float(where.nodes - own_pod), 2)]
    up = float(ports.up)
    ranks = {"fabric": in_leaf * endpoints_a_node / up, "core": in_pod * endpoints_a_node / (up * half)}
    return [tier for tier in tiers if tier.nodes > 0], ranks, in_leaf == a_leaf


def _has_room(network: Network, nodes: int, local: int) -> bool:
    """Tell whether a tree has as many leaves as the nodes need; where it has not, the graph says which are missing."""
    down = leaf_ports(network.radix, network.oversubscription).down
    whole = full_fabric(network, float(nodes * local))
    leaves = np.ceil(nodes / down) * (local if network.topology == "mrft" else 1)
    if network.topology not in RAILED:
        leaves = np.ceil(nodes * local / down)
    return whole is not None and bool(leaves <= whole.endpoints / network.planes / down)


def _nodes(where: Layout, group: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return the nodes of a group."""
    return where.device(np.arange(0, where.ranks, where.ranks_per_node), 1, group)


def _even(places: np.ndarray[tuple[int], np.dtype[np.intp]]) -> int | None:
    """Return how many things stand at each place that has any; null where that differs."""
    counts = np.bincount(places)
    counts = counts[counts > 0]
    return int(counts[0]) if (counts == counts[0]).all() else None


def _is_deep(network: Network, endpoints: int) -> bool:
    """Tell whether a tree has three levels."""
    two = two_level_fat_tree(network.radix, network.oversubscription)
    grows = network.topology in ("fat-tree", "rail")
    return network.topology == "ft3" or (grows and bool(endpoints > two.endpoints * network.planes))
