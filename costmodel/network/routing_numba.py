"""Least-loaded paths, and all-to-alls by ECMP, compiled by numba where it is installed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from costmodel.network.numba_cache import compiled
from costmodel.network.splitmix import hashed, mixed


@cache
def kernel() -> Any:
    """Return `least_loaded` compiled, null without numba."""
    try:
        return compiled(least_loaded, nogil=True)
    except ImportError:
        return None


def least_loaded(paths: Any, pair: Any, sizes: Any, links: int) -> Any:
    """Return for one flow after the other the path of its pair whose fullest link carries least, first of equals.

    paths: (rows, first, count) of `Paths`.
    pair, sizes: of each flow.
    """
    rows, first, count = paths
    load = np.zeros(links)
    chosen = np.empty(len(pair), np.int64)
    for flow in range(len(pair)):
        begin = first[pair[flow]]
        best, least = 0, np.inf
        for path in range(count[pair[flow]]):
            fullest = 0.0
            for link in rows[begin + path]:
                if link >= 0 and load[link] > fullest:
                    fullest = load[link]
            if fullest < least:
                best, least = path, fullest
        chosen[flow] = best
        for link in rows[begin + best]:
            if link >= 0:
                load[link] += sizes[flow]
    return chosen


@cache
def hashed_kernel() -> Any:
    """Return `count_hashed` compiled, null without numba."""
    try:
        from numba.extending import register_jitable
    except ImportError:
        return None
    register_jitable(mixed)
    register_jitable(hashed)
    return compiled(count_hashed, nogil=True)


def count_hashed(hops: Any, starts: Any, rails: tuple[int, bool], devices: Any, seed: int) -> Any:
    """Return the messages on each link between switches where each of some devices sends one to each other by ECMP.

    Beside them the most links on the way of a message that leaves by its own NIC, and of one that changes rails.

    hops: (ways, first, width, onward, after) of `NextHops`, and how many links there are.
    starts: (the leaf of each device, the goal of each leaf, the first case of a path by [goal, leaf]).
    rails: devices of a node, and whether a message changes to its target's rail before it leaves.
    devices: in the order of their leaves.
    """
    ways, first, width, onward, after, links = hops
    leaf, goal_of, case = starts
    local, changes_rail = rails
    nodes, ranks = devices // local, devices % local
    count, farthest = np.zeros(links, np.int64), np.full(2, -1)
    start, total = 0, len(devices)
    while start < total:  # the targets of one leaf, whose links then stay in cache
        end, goal = start, goal_of[leaf[devices[start]]]
        while end < total and leaf[devices[end]] == leaf[devices[start]]:
            end += 1
        for source, node in zip(devices, nodes):  # noqa: B905  compiled
            for index in range(start, end):
                if nodes[index] == node:
                    continue
                target = devices[index]
                leaves_by = node * local + ranks[index] if changes_rail else source
                here = case[goal, leaf[leaves_by]]
                rest = np.uint32(hashed(source, target * (2 * seed + 1) + seed) % np.uint64(ways[here]))
                passed = 0
                while width[here] > 0:
                    link = first[here]
                    if width[here] > 1:
                        link += rest % width[here]
                        rest //= width[here]
                    count[onward[link]] += 1
                    passed += 1
                    here = after[link]
                forwarded = 1 if leaves_by != source else 0
                farthest[forwarded] = max(farthest[forwarded], passed)
        start = end
    return count, farthest
