"""Max-min fair sharing of links among flows, by progressive filling.

Every flow gets the largest rate that takes nothing from a flow with a smaller one [Bertsekas, Gallager, Data Networks,
2nd edition, 1992, section 6.5.2]. The allocation is unique, so the order of flows does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError
from costmodel.network import sharing_numba
from costmodel.quantities import Array, Indices
from costmodel.records import Record

Integers = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

MAX_NUMPY_FLOWS = 256 * 255  # an all-to-all of 256 endpoints; numba shares more
MOST_FLOWS = 2**25  # an all-to-all of 5,792 endpoints: 6 GB
_TIE = 1e-12  # shares that differ by less are one bottleneck


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

    Uses numba where it is installed. Raises InputError for more flows than numpy alone can share in a reasonable time.
    """
    numba_rates = sharing_numba.kernel()
    if numba_rates is None:
        check_flow_count(incidence.flows)
        return numpy_rates(incidence)
    weights = np.empty(0) if incidence.weights is None else incidence.weights
    rates: Array = numba_rates(incidence.start, incidence.links, weights, incidence.capacity)
    return rates


def check_flow_count(flows: int) -> None:
    """Raise InputError where there are more flows than memory holds, or than numpy alone shares without numba."""
    if flows > MOST_FLOWS:
        raise InputError.single(
            f"{flows:,} flows are too many to route one by one, {MOST_FLOWS:,} are the most", hint="use fewer ranks"
        )
    if flows > MAX_NUMPY_FLOWS and sharing_numba.kernel() is None:
        raise InputError.single(
            f"{flows:,} flows need numba (without it at most {MAX_NUMPY_FLOWS:,}, an all-to-all of 256 endpoints)",
            hint="pip install 'costmodel[fast]'",
        )


def numpy_rates(incidence: Incidence) -> Array:
    """Return the rates with numpy alone.

    A round freezes the flows of every link whose fair share, residual / load, is the least that any of its flows meets.
    The link of the smallest share of all is one of them, so that each round freezes some flow.
    """
    capacity = incidence.capacity
    rates = np.full(incidence.flows, np.inf)
    lengths = np.diff(incidence.start)
    live = np.flatnonzero(lengths > 0)
    links, owner = incidence.links, np.repeat(np.arange(len(live)), lengths[live])
    weights = incidence.entry_weights()
    residual = capacity.copy()
    while len(live):
        load = np.bincount(links, weights, len(capacity))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(load > 0, residual / load, np.inf)
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        least = np.minimum.reduceat(share[links], starts)
        lowest = np.full(len(capacity), np.inf)
        np.minimum.at(lowest, links, least[owner])
        bottleneck = (load > 0) & (lowest >= share * (1 - _TIE))
        frozen = np.logical_or.reduceat(bottleneck[links], starts)
        rates[live[frozen]] = least[frozen]
        entries = frozen[owner]
        taken = np.bincount(links[entries], weights[entries] * least[owner[entries]], len(capacity))
        residual = np.maximum(residual - taken, 0.0)
        live = live[~frozen]
        links, weights = links[~entries], weights[~entries]
        owner = np.cumsum(np.diff(owner[~entries], prepend=-1) > 0) - 1
    return rates
