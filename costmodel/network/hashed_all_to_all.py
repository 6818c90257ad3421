"""An all-to-all of equal messages by ECMP, counted message by message in one compiled loop that keeps none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from costmodel.network import routing_numba
from costmodel.network.cluster_links import UNBOUNDED, ClusterLinks
from costmodel.network.grids import GRIDS
from costmodel.network.layout import Layout
from costmodel.network.routing import Flows, fabric_latency, inside_latency, route
from costmodel.network.shortest_paths import NextHops, shortest_paths
from costmodel.quantities import Array, Indices

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
