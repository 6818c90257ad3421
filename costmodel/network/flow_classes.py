"""Equivalent flows and links as classes: the rates of a class are determined once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from costmodel.network.flows import Completed, run_flows
from costmodel.network.sharing import Incidence
from costmodel.network.splitmix import mixed
from costmodel.quantities import Array, Indices
from costmodel.records import Record

Bits = npt.NDArray[np.uint64]

BATCH = 0.05  # completions closer than this are one event: halving it moves makespans by less than 0.5 %
MAX_EXACT_FLOWS = 20_000  # up to here every completion is an event
MAX_ENTRIES = 4_000_000  # beyond, looking for classes takes longer than sharing
_USELESS = 0.5  # classes that are more than this share of the flows save nothing


class FlowClasses(Record):
    """Flows in classes of equal rates.

    class_of: the class of each flow.
    representative: a flow of each class.
    incidence: of classes.
    """

    class_of: Indices
    representative: Indices
    incidence: Incidence


def drained(incidence: Incidence, sizes: Array) -> tuple[float, Array]:
    """Return when the last of some flows that start together has completed [s], and what each link carried [B].

    Where all are of one size, the fullest link decides: each of its flows has the least rate of all from start to end,
    and no other flow is ever slower. Else flows are shared anew as they complete, many of them in batches.
    """
    moving = sizes[sizes > 0]
    if len(moving) and (moving == moving[0]).all():
        carried = incidence.load(sizes.astype(float))
        return float((carried / incidence.capacity).max(initial=0.0)), carried
    done = run_collapsed(incidence, sizes, batch=0.0 if incidence.flows <= MAX_EXACT_FLOWS else BATCH)
    return done.makespan, done.carried


def run_collapsed(incidence: Incidence, sizes: Array, *, batch: float = 0.0) -> Completed:
    """Return what `run_flows` does, with the flows of a class shared as one."""
    collapsed = None if len(incidence.links) > MAX_ENTRIES else flow_classes(incidence, sizes)
    if collapsed is None:
        return run_flows(incidence, sizes, batch=batch)
    flows = collapsed.representative
    done = run_flows(collapsed.incidence, sizes[flows], batch=batch)
    return Completed(done.finish[collapsed.class_of], incidence.load(sizes.astype(float)))


def flow_classes(incidence: Incidence, sizes: Array) -> FlowClasses | None:
    """Return the coarsest division of flows and links into equivalent ones, null where it saves nothing.

    A class is refined until flows of one class load as many links of each class, with the same weights, and links of
    one class carry as many flows of each [equitable partition: McKay, Congressus Numerantium 30, 1981]. Max-min rates
    are then equal inside a class, because the allocation is unique. Sums of 64 mixed bits stand for classes.
    """
    if incidence.flows == 0:
        return None
    weights, owner = incidence.entry_weights(), incidence.flow_of
    weight_bits = mixed(weights.view(np.uint64))
    flow = mixed(sizes.astype(float).view(np.uint64))
    link = mixed(incidence.capacity.view(np.uint64))
    last_count = 0
    while True:
        count = len(np.unique(flow)) + len(np.unique(link))
        if count == last_count:
            break
        last_count = count
        if count > _USELESS * (incidence.flows + len(incidence.capacity)):
            return None
        link = mixed(link + _summed(mixed(flow[owner] + weight_bits), incidence.links, len(link)))
        flow = mixed(flow + _summed(mixed(link[incidence.links] + weight_bits), owner, len(flow)))
    _, representative, class_of = np.unique(flow, return_index=True, return_inverse=True)
    _, class_links, link_class = np.unique(link, return_index=True, return_inverse=True)
    if len(representative) > _USELESS * incidence.flows:
        return None
    quotient = _quotient(incidence, class_of, len(representative), link_class, class_links)
    return FlowClasses(class_of, representative, quotient)


def _quotient(
    incidence: Incidence, class_of: Indices, classes: int, link_class: Indices, class_links: Indices
) -> Incidence:
    """Return the incidence of classes: bytes on one link of a class per byte of each flow of a class.

    link_class: the class of each link.
    class_links: a link of each class.
    """
    links_per_class = np.bincount(link_class)
    key = class_of[incidence.flow_of] * len(class_links) + link_class[incidence.links]
    entry, inverse = np.unique(key, return_inverse=True)
    flow, link = entry // len(class_links), entry % len(class_links)
    weights = np.bincount(inverse, incidence.entry_weights(), len(entry)) / links_per_class[link]
    start = np.concatenate(([0], np.cumsum(np.bincount(flow, minlength=classes))))
    return Incidence(start.astype(np.int64), link.astype(np.int32), weights, incidence.capacity[class_links])


def _summed(values: Bits, places: npt.NDArray[np.integer], count: int) -> Bits:
    """Return the sum, modulo 2^64, of the values at each index."""
    total = np.zeros(count, np.uint64)
    low = np.bincount(places, (values & np.uint64(0xFFFFFFFF)).astype(float), count)
    high = np.bincount(places, (values >> np.uint64(32)).astype(float), count)
    with np.errstate(over="ignore"):
        total += low.astype(np.uint64) + (high.astype(np.uint64) << np.uint64(32))
    return total
