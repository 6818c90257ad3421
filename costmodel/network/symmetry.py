"""Flows and links that are alike, told apart no further than the allocation needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from costmodel.network.flows import Completed, run_flows
from costmodel.network.sharing import Incidence
from costmodel.quantities import Array, Indices

Bits = npt.NDArray[np.uint64]

MOST_ENTRIES = 4_000_000  # beyond, looking for classes takes longer than sharing
_USELESS = 0.5  # classes that are more than this share of the flows save nothing


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Flows in classes that share alike. of: the class of each flow; one: a flow of each; incidence: of classes."""

    of: Indices
    one: Indices
    incidence: Incidence


def run_collapsed(incidence: Incidence, sizes: Array, starts: Array | None = None, *, batch: float = 0.0) -> Completed:
    """Return what `run_flows` does, with flows that are alike shared as one."""
    found = None if len(incidence.links) > MOST_ENTRIES else classes(incidence, sizes, starts)
    if found is None:
        return run_flows(incidence, sizes, starts, batch=batch)
    begun = None if starts is None else starts[found.one]
    done = run_flows(found.incidence, sizes[found.one], begun, batch=batch)
    return Completed(done.finish[found.of], incidence.load(sizes.astype(float)))


def classes(incidence: Incidence, sizes: Array, starts: Array | None = None) -> Classes | None:
    """Return the coarsest division of flows and links into classes that look alike; null where it saves nothing.

    A class is refined until flows of one class load as many links of each class, with the same weights, and links of
    one class carry as many flows of each [equitable partition: McKay, Congressus Numerantium 30, 1981]. Max-min rates
    are then equal inside a class, because the allocation is unique. What is alike is told by sums of 64 mixed bits.
    """
    if incidence.flows == 0:
        return None
    weights, owner = incidence.entry_weights(), incidence.flow_of
    weight_bits = _mixed(weights.view(np.uint64))
    flow = _mixed(sizes.astype(float).view(np.uint64))
    if starts is not None:
        flow = _mixed(flow + starts.astype(float).view(np.uint64))
    link = _mixed(incidence.capacity.view(np.uint64))
    known = 0
    while True:
        count = len(np.unique(flow)) + len(np.unique(link))
        if count == known:
            break
        known = count
        if count > _USELESS * (incidence.flows + len(incidence.capacity)):
            return None
        seen = _mixed(flow[owner] + weight_bits)
        link = _mixed(link + _summed(seen, incidence.links, len(link)))
        seen = _mixed(link[incidence.links] + weight_bits)
        flow = _mixed(flow + _summed(seen, owner, len(flow)))
    _, one, of = np.unique(flow, return_index=True, return_inverse=True)
    _, shown, link_of = np.unique(link, return_index=True, return_inverse=True)
    if len(one) > _USELESS * incidence.flows:
        return None
    return Classes(of, one, _quotient(incidence, of, len(one), link_of, shown))


def _quotient(incidence: Incidence, of: Indices, flows: int, link_of: Indices, shown: Indices) -> Incidence:
    """Return the incidence of classes: bytes on one link of a class a byte of each flow of a class."""
    many = np.bincount(link_of)
    key = of[incidence.flow_of] * len(shown) + link_of[incidence.links]
    entry, place = np.unique(key, return_inverse=True)
    flow, link = entry // len(shown), entry % len(shown)
    weights = np.bincount(place, incidence.entry_weights(), len(entry)) / many[link]
    start = np.concatenate(([0], np.cumsum(np.bincount(flow, minlength=flows))))
    return Incidence(start.astype(np.int64), link.astype(np.int32), weights, incidence.capacity[shown])


def _summed(values: Bits, places: npt.NDArray[np.integer], count: int) -> Bits:
    """Return the sum, modulo 2^64, of the values at each place."""
    total = np.zeros(count, np.uint64)
    low = np.bincount(places, (values & np.uint64(0xFFFFFFFF)).astype(float), count)
    high = np.bincount(places, (values >> np.uint64(32)).astype(float), count)
    with np.errstate(over="ignore"):
        total += low.astype(np.uint64) + (high.astype(np.uint64) << np.uint64(32))
    return total


def _mixed(values: Bits) -> Bits:
    """Return 64 well-mixed bits [SplitMix64: Steele, Lea, Flood, OOPSLA 2014]."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
