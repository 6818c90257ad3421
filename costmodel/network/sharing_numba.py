"""Progressive filling compiled by numba: links in a heap by their fair share."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from costmodel.network.numba_cache import compiled

_TIE = 1e-12  # a share that grew by less is the present one


@cache
def kernel() -> Any:
    """Return the compiled function (start, links, weights, capacity) -> rates, null where numba is not installed."""
    try:
        from numba.extending import register_jitable
    except ImportError:
        return None
    for function in (_flows_by_link, _freeze, _sink):
        register_jitable(function)
    return compiled(_rates, nogil=True, error_model="numpy")


def _rates(start: Any, links: Any, weights: Any, capacity: Any) -> Any:
    """Return max-min fair rates. weights: empty where all are one.

    Fair shares only grow while flows freeze. So a link that comes to the top of the heap with an old share sinks to its
    present one. With the present share it is the bottleneck of all its flows that are left.
    """
    first, members, load = _flows_by_link(start, links, weights, len(capacity))
    live = first[1:] - first[:-1]  # flows of each link that are not frozen
    residual, share = capacity.copy(), np.empty(len(capacity))
    heap = np.flatnonzero(live > 0)
    for link in heap:
        share[link] = residual[link] / load[link]
    size = len(heap)
    for i in range(size // 2 - 1, -1, -1):
        _sink(heap, share, size, i)
    rates = np.full(len(start) - 1, np.inf)
    while size > 0:
        link = heap[0]
        present = residual[link] / load[link] if live[link] > 0 else np.inf
        if live[link] > 0 and present > share[link] * (1 + _TIE):
            share[link] = present
        else:
            for flow in members[first[link] : first[link + 1]]:
                if rates[flow] == np.inf:
                    rates[flow] = present
                    _freeze((start[flow], start[flow + 1]), present, links, weights, (live, load, residual))
            size -= 1
            heap[0] = heap[size]
        _sink(heap, share, size, 0)
    return rates


def _flows_by_link(start: Any, links: Any, weights: Any, count: int) -> Any:
    """Return (first, members, load): link i has the flows `members[first[i]:first[i + 1]]`, of weight `load[i]`."""
    first = np.zeros(count + 1, np.int64)
    for link in links:
        first[link + 1] += 1
    first = np.cumsum(first)
    cursor, members, load = first[:-1].copy(), np.empty(len(links), np.int32), np.zeros(count)
    for flow in range(len(start) - 1):
        for entry in range(start[flow], start[flow + 1]):
            link = links[entry]
            members[cursor[link]] = flow
            cursor[link] += 1
            load[link] += weights[entry] if len(weights) else 1.0
    return first, members, load


def _freeze(entries: tuple[int, int], rate: float, links: Any, weights: Any, state: Any) -> None:
    """Take the entries of a flow off their links at its rate. state: (live, load, residual) of each link."""
    live, load, residual = state
    for entry in range(entries[0], entries[1]):
        link, weight = links[entry], weights[entry] if len(weights) else 1.0
        live[link] -= 1
        load[link] -= weight
        residual[link] = max(residual[link] - weight * rate, 0.0)


def _sink(heap: Any, key: Any, size: int, i: int) -> None:
    """Move entry i of a heap of `size` down until no child has a smaller key."""
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and key[heap[child + 1]] < key[heap[child]]:
            child += 1
        if key[heap[child]] >= key[heap[i]]:
            break
        heap[i], heap[child] = heap[child], heap[i]
        i = child
