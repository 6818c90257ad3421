"""Progressive filling compiled by numba: links in the order of their fair share, in a heap."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np


@cache
def kernel() -> Any:
    """Return the compiled function (start, links, weights, capacity) -> rates; null where numba is not installed."""
    try:
        import numba
    except ImportError:
        return None
    return numba.njit(_rates, cache=True, nogil=True, error_model="numpy")


def _rates(start: Any, links: Any, weights: Any, capacity: Any) -> Any:
    """Return max-min fair rates. weights: empty where all are one.

    Fair shares only grow while flows freeze, so a link that comes to the top of the heap with an old share sinks to its
    present one; with the present share it is the bottleneck of all its flows that are left.
    """
    flows, count, weighted = len(start) - 1, len(capacity), len(weights) > 0
    first = np.zeros(count + 1, np.int64)  # flows by link, as `start` and `links` are links by flow
    for entry in range(len(links)):
        first[links[entry] + 1] += 1
    left = np.empty(count, np.int64)  # live entries of each link
    place = np.empty(count, np.int64)
    for link in range(count):
        left[link] = first[link + 1]
        place[link] = first[link]
        first[link + 1] += first[link]
    members = np.empty(len(links), np.int32)
    load = np.zeros(count)
    for flow in range(flows):
        for entry in range(start[flow], start[flow + 1]):
            link = links[entry]
            members[place[link]] = flow
            place[link] += 1
            load[link] += weights[entry] if weighted else 1.0
    rates = np.full(flows, np.inf)
    residual, key = np.empty(count), np.empty(count)
    heap = np.empty(count, np.int64)
    size = 0
    for link in range(count):
        residual[link] = capacity[link]
        if left[link] > 0:
            key[link] = residual[link] / load[link]
            heap[size] = link
            size += 1
    sinking = size // 2  # the entry that is sunk next while the heap is built; then always the top
    while size > 0:
        at = 0
        if sinking > 0:
            sinking -= 1
            at = sinking
        else:
            link = heap[0]
            present = residual[link] / load[link] if left[link] > 0 else np.inf
            if left[link] > 0 and present > key[link] * (1 + 1e-12):
                key[link] = present
            else:
                for position in range(first[link], first[link + 1]):
                    flow = members[position]
                    if rates[flow] != np.inf:
                        continue
                    rates[flow] = present
                    for entry in range(start[flow], start[flow + 1]):
                        part = weights[entry] if weighted else 1.0
                        left[links[entry]] -= 1
                        load[links[entry]] -= part
                        residual[links[entry]] = max(residual[links[entry]] - part * present, 0.0)
                size -= 1
                heap[0] = heap[size]
        while True:
            child = 2 * at + 1
            if child >= size:
                break
            if child + 1 < size and key[heap[child + 1]] < key[heap[child]]:
                child += 1
            if key[heap[child]] >= key[heap[at]]:
                break
            heap[at], heap[child] = heap[child], heap[at]
            at = child
    return rates
