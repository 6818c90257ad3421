"""Placement of experts and their replicas: sequential, or balanced by load as DeepSeek's EPLB does.

EPLB: github.com/deepseek-ai/EPLB (hierarchical and global load balancing). Redundant experts: arXiv 2412.19437, section
3.4. Both steps are greedy and deterministic.
"""

from __future__ import annotations

import heapq

import numpy as np

from costmodel.quantities import Array, Indices


def sequential(loads: Array, ranks: int) -> Array:
    """Return the loads of the slots of every rank, experts placed in their order [ranks, slots per rank]."""
    return loads.reshape(ranks, -1)


def balanced(loads: Array, ranks: int, redundant: int, groups: int, nodes: int) -> Array:
    """Return the loads of the slots of every rank after replication and packing [ranks, slots per rank].

    Groups are packed on nodes, then each node replicates its experts and packs the replicas on its ranks. Where nodes
    do not divide the groups, all ranks count as one node and all experts as one group.
    """
    if groups % nodes or ranks % nodes or (len(loads) + redundant) % nodes:
        groups = nodes = 1
    by_group = loads.reshape(groups, -1)
    placed = []
    for members in pack(by_group.sum(axis=1), nodes):
        slots = replicate(by_group[members].reshape(-1), (len(loads) + redundant) // nodes)
        placed.append(slots[pack(slots, ranks // nodes)])
    return np.concatenate(placed)


def replicate(loads: Array, slots: int) -> Array:
    """Return the load of each of `slots` replicas. Each further one goes to the expert with most load per replica."""
    replicas = np.ones(len(loads))
    owner = [*range(len(loads))]
    for _ in range(slots - len(loads)):
        most_loaded = int((loads / replicas).argmax())
        replicas[most_loaded] += 1
        owner.append(most_loaded)
    return np.asarray((loads / replicas)[owner])


def pack(loads: Array, packs: int) -> Indices:
    """Return the items of each pack, equally many in all: the largest first, into the least loaded pack.

    [packs, items per pack]. With one item per pack, items stay in their order.
    """
    size = len(loads) // packs
    if size == 1:
        return np.arange(packs).reshape(packs, 1)
    packed: list[list[int]] = [[] for _ in range(packs)]
    open_packs = [(0.0, i) for i in range(packs)]
    for item in np.argsort(-loads, kind="stable"):
        load, i = heapq.heappop(open_packs)
        packed[i].append(int(item))
        if len(packed[i]) < size:
            heapq.heappush(open_packs, (load + float(loads[item]), i))
    return np.array(packed)
