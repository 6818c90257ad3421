"""Where experts and their replicas stand: in order, or balanced by load as DeepSeek's EPLB does.

EPLB: github.com/deepseek-ai/EPLB (hierarchical and global load balancing); redundant experts: arXiv 2412.19437, section
3.4. Both steps are greedy and deterministic.
"""

from __future__ import annotations

import heapq

import numpy as np

from costmodel.quantities import Array, Indices


def sequential(loads: Array, ranks: int) -> Array:
    """Return the loads of the slots of every rank, experts placed in their order [ranks, slots a rank]."""
    return loads.reshape(ranks, -1)


def balanced(loads: Array, ranks: int, redundant: int, groups: int, nodes: int) -> Array:
    """Return the loads of the slots of every rank after replication and packing [ranks, slots a rank].

    Where the nodes divide the groups: groups are packed on nodes, then each node replicates its experts and packs the
    replicas on its ranks. Elsewhere all ranks count as one node and all experts as one group.
    """
    if groups % nodes or ranks % nodes or (len(loads) + redundant) % nodes:
        groups = nodes = 1
    by_group = loads.reshape(groups, -1)
    found = []
    for members in pack(by_group.sum(axis=1), nodes):
        own = by_group[members].reshape(-1)
        slots = replicate(own, (len(loads) + redundant) // nodes)
        found.append(slots[pack(slots, ranks // nodes)])
    return np.concatenate(found)


def replicate(loads: Array, slots: int) -> Array:
    """Return the load of each of `slots` replicas: one expert after another, the one with the most per replica next."""
    copies = np.ones(len(loads))
    owner = [*range(len(loads))]
    for _ in range(slots - len(loads)):
        fullest = int((loads / copies).argmax())
        copies[fullest] += 1
        owner.append(fullest)
    return np.asarray((loads / copies)[owner])


def pack(loads: Array, packs: int) -> Indices:
    """Return which items stand in each pack, equally many in all: the largest first, each where there is least.

    [packs, items a pack]; items of one a pack stay in their order.
    """
    size = len(loads) // packs
    if size == 1:
        return np.arange(packs).reshape(packs, 1)
    held: list[list[int]] = [[] for _ in range(packs)]
    open_packs = [(0.0, number) for number in range(packs)]
    for item in np.argsort(-loads, kind="stable"):
        load, number = heapq.heappop(open_packs)
        held[number].append(int(item))
        if len(held[number]) < size:
            heapq.heappush(open_packs, (load + float(loads[item]), number))
    return np.array(held)
