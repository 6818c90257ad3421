"""Max-min fair sharing of links among flows, by progressive filling.

Every flow gets the largest rate that takes nothing from a flow with a smaller one [Bertsekas, Gallager, Data Networks,
2nd edition, 1992, section 6.5.2]. The allocation is unique, so the order of flows does not matter. Links are in a heap
by their fair share. Numba compiles this where it is installed; without it Python runs the same lines.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError
from costmodel.network.numba_cache import compiled
from costmodel.quantities import Array, Indices
from costmodel.records import Record

Integers = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

MOST_IN_PYTHON = 256 * 255  # flows: an all-to-all of 256 endpoints; numba shares more
MOST_FLOWS = 2**25  # an all-to-all of 5,792 endpoints: 6 GB
_TIE = 1e-12  # a share that grew by less is the present one


class Incidence(Record):
    """The links that each flow loads: flow f those of `links[start[f]:start[f + 1]]`.

    weights: bytes on the link per byte of the flow, as many as `links`, null where all are one.
    capacity: of each link, one direction [B/s].
    """

    start: npt.NDArray[np.int64]
    links: Integers
    weights: Array | None
    capacity: Array

    @property
    def flows(self) -> int:
        """Return how many flows there are."""
        return len(self.start) - 1

    @property
    def flow_of(self) -> Indices:
        """Return the flow of each entry."""
        return np.repeat(np.arange(self.flows), np.diff(self.start))

    def entry_weights(self) -> Array:
        """Return the weight of each entry."""
        return np.ones(len(self.links)) if self.weights is None else self.weights

    def select(self, mask: Flags) -> Incidence:
        """Return the flows of a mask, in their order."""
        lengths = np.diff(self.start)
        entries = np.repeat(mask, lengths)
        start = np.concatenate(([0], np.cumsum(lengths[mask])))
        weights = None if self.weights is None else self.weights[entries]
        return Incidence(start, self.links[entries], weights, self.capacity)

    def load(self, amount: Array) -> Array:
        """Return what each link carries where flow f carries `amount[f]`."""
        per_entry = np.repeat(amount, np.diff(self.start))
        if self.weights is not None:
            per_entry = per_entry * self.weights
        total: Array = np.bincount(self.links, per_entry, len(self.capacity)).astype(float)
        return total


def check_capacity(capacity: Array, names: Any) -> None:
    """Raise InputError where a link carries nothing. `names[i]` is the name of link i."""
    invalid = np.flatnonzero(~(np.isfinite(capacity) & (capacity > 0)))
    if len(invalid):
        raise InputError.single(
            f"link {names[int(invalid[0])]} has a bandwidth of {capacity[invalid[0]]:g} B/s",
            hint="state a bandwidth above zero, or name the link under network.failed",
        )


def fair_rates(incidence: Incidence) -> Array:
    """Return the max-min fair rate of each flow [B/s], infinite for a flow that loads no link.

    Raises InputError for more flows than Python can share in a reasonable time where numba is not installed.
    """
    check_flow_count(incidence.flows)
    weights = np.empty(0) if incidence.weights is None else incidence.weights
    rates: Array = (kernel() or filled)(incidence.start, incidence.links, weights, incidence.capacity)
    return rates


def check_flow_count(flows: int) -> None:
    """Raise InputError where there are more flows than memory holds, or than Python shares without numba."""
    if flows > MOST_FLOWS:
        raise InputError.single(
            f"{flows:,} flows are too many to route one by one, {MOST_FLOWS:,} are the most", hint="use fewer ranks"
        )
    if flows > MOST_IN_PYTHON and kernel() is None:
        raise InputError.single(
            f"{flows:,} flows need numba (without it at most {MOST_IN_PYTHON:,}, an all-to-all of 256 endpoints)",
            hint="pip install 'costmodel[fast]'",
        )


@cache
def kernel() -> Any:
    """Return the compiled function (start, links, weights, capacity) -> rates, null without numba."""
    try:
        from numba.extending import register_jitable
    except ImportError:
        return None
    for function in (_flows_by_link, _freeze, _sink):
        register_jitable(function)
    return compiled(filled, nogil=True, error_model="numpy")


def filled(start: Any, links: Any, weights: Any, capacity: Any) -> Any:
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
