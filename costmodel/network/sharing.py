"""Max-min fair sharing of links among flows, by progressive filling.

Every flow gets the largest rate that takes nothing from a flow with a smaller one [Bertsekas, Gallager, Data Networks,
2nd edition, 1992, section 6.5.2]. The allocation is unique, so the order of flows does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError
from costmodel.quantities import Array, Indices

Integers = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

MOST_PLAIN_FLOWS = 256 * 255  # an all-to-all of 256 endpoints; numba takes more
_TIE = 1e-12  # shares that differ by less are one bottleneck


@dataclass(frozen=True, slots=True, eq=False)
class Incidence:
    """Which links each flow loads: flow f those of `links[start[f]:start[f + 1]]`.

    weights: bytes on the link a byte of the flow, as many as `links`; null where all are one. capacity: of each link,
    one direction [B/s].
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

    def only(self, kept: Flags) -> Incidence:
        """Return the flows that are kept, in their order."""
        lengths = np.diff(self.start)
        entries = np.repeat(kept, lengths)
        start = np.concatenate(([0], np.cumsum(lengths[kept])))
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
    """Raise InputError where a link carries nothing; `names[i]` is what to call it."""
    wrong = np.flatnonzero(~(np.isfinite(capacity) & (capacity > 0)))
    if len(wrong):
        raise InputError.single(
            f"link {names[int(wrong[0])]} has a bandwidth of {capacity[wrong[0]]:g} B/s",
            hint="state a bandwidth above zero, or name the link under network.failed",
        )


def fair_rates(incidence: Incidence) -> Array:
    """Return the max-min fair rate of each flow [B/s]; infinite for a flow that loads no link.

    Uses numba where it is installed. Raises InputError for more flows than numpy alone can share in a reasonable time.
    """
    fast = compiled()
    if fast is None:
        check_plain(incidence.flows)
        return plain_rates(incidence)
    weights = np.empty(0) if incidence.weights is None else incidence.weights
    rates: Array = fast(incidence.start, incidence.links, weights, incidence.capacity)
    return rates


def check_plain(flows: int) -> None:
    """Raise InputError where there are more flows than numpy alone takes and numba is not installed."""
    if flows > MOST_PLAIN_FLOWS and compiled() is None:
        raise InputError.single(
            f"{flows:,} flows are too many without numba ({MOST_PLAIN_FLOWS:,} at most, 256 endpoints all to all)",
            hint="pip install 'costmodel[fast]'",
        )


def compiled() -> Any:
    """Return the compiled progressive filling, null without numba."""
    from costmodel.network import sharing_fast

    return sharing_fast.kernel()


def plain_rates(incidence: Incidence) -> Array:
    """Return the rates with numpy alone.

    A round freezes the flows of every link whose fair share, residual / load, is the least that any of its flows meets;
    the link of the smallest share of all is one, so that each round ends some flow.
    """
    count, capacity = incidence.flows, incidence.capacity
    rates = np.full(count, np.inf)
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
