"""Flows over time: they share links fairly and complete, equal ones as one class, or as they come and go."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from costmodel.errors import InfeasibleError, InputError
from costmodel.network.sharing import Incidence, check_flow_count, fair_rates
from costmodel.network.splitmix import mixed
from costmodel.quantities import Array, Bytes, Indices, Seconds
from costmodel.records import MutableRecord, Record

TIE = 1e-12  # completions that differ by less are one event


class Completed(Record):
    """When each flow completed [s], and the bytes that each link carried [B]."""

    finish: Array
    carried: Array

    @property
    def makespan(self) -> float:
        """Return when the last flow completed [s], zero without flows."""
        return float(self.finish.max(initial=0.0))


def run_flows(incidence: Incidence, sizes: Array, *, batch: float = 0.0) -> Completed:
    """Return the completion of flows of `sizes` [B] that start together.

    Between two completions rates are constant and max-min fair. batch: completions within this share of the time since
    the start, or of this share of the flows, count as one event. Each flow still completes at its own time, but what it
    leaves is shared anew only at the end of the batch, so that the makespan errs to the long side.
    """
    _check(incidence, sizes)
    finish = np.zeros(len(sizes))
    active, remaining = np.flatnonzero(sizes > 0), sizes[sizes > 0].astype(float)
    part = incidence.select(sizes > 0)
    now = 0.0
    while len(active):
        rates = fair_rates(part)
        with np.errstate(divide="ignore"):
            ends = np.where(rates > 0, now + remaining / rates, np.inf)
        first = float(ends.min())
        if not np.isfinite(first):
            raise InfeasibleError("flows remain that no link lets through")
        batch_end = np.partition(ends, int(batch * len(ends)))[int(batch * len(ends))] if batch else first
        horizon = max(first * (1 + batch), float(batch_end))
        done = ends <= horizon * (1 + TIE)
        finish[active[done]] = ends[done]
        remaining = remaining - np.where(np.isfinite(rates), rates, 0.0) * (horizon - now)
        now = horizon
        active, remaining = active[~done], np.maximum(remaining[~done], 0.0)
        part = part.select(~done)
    return Completed(finish, incidence.load(sizes.astype(float)))


def _check(incidence: Incidence, sizes: Array) -> None:
    if len(sizes) != incidence.flows:
        raise InputError.single(f"{len(sizes):,} flows have a size, {incidence.flows:,} have links")
    if not (np.isfinite(sizes).all() and (sizes >= 0).all()):
        raise InputError.single("a flow's size is negative or not a number")
    check_flow_count(incidence.flows)


# ---- Equivalent flows and links as classes: the rates of a class are determined once ---------------------------------

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


# ---- Flows that come and go while others run, for an engine with a clock of its own ----------------------------------


class _Flow(MutableRecord):
    """A flow under way.

    loads: bytes on each link per byte of the flow.
    remaining: at `since` [B].
    version: of its entry in the heap.
    """

    loads: Mapping[int, float]
    limit: float
    remaining: float
    since: float
    priority: int = 0
    rate: float = 0.0
    version: int = 0


class FlowSession:
    """Flows that share links max-min fairly while they come and go, those of a class after all of higher ones.

    capacity: of each link [B/s]. `add` flows, ask for `next_completion`, `advance` to it or to any earlier time. Rates
    are determined anew only for flows that share links, directly or through others, with one that starts or ends.
    """

    def __init__(self, capacity: Array) -> None:
        self._capacity = [float(value) for value in capacity]
        self._flows: dict[int, _Flow] = {}
        self._flows_on: list[dict[int, None]] = [{} for _ in self._capacity]  # by link
        self._ends: list[tuple[float, int, int]] = []  # (end, flow, version); an entry of an earlier version is void
        self._number = 0
        self.now: float = 0.0

    def add(self, loads: Mapping[int, float], size: Bytes, limit: float = np.inf, priority: int = 0) -> int:
        """Start a flow of `size` [B] now and return its number.

        loads: bytes on each link per byte of the flow, above zero.
        limit: rate that it never exceeds [B/s].
        priority: of its class.
        """
        if not (math.isfinite(size) and size >= 0):
            raise InputError.single("a flow's size is negative or not a number")
        self._number += 1
        self._flows[self._number] = _Flow(loads, limit, float(size), self.now, priority)
        for link in loads:
            self._flows_on[link][self._number] = None
        self._share(self._connected((self._number,)))
        return self._number

    def limit(self, flow: int, rate: float) -> None:
        """Let a flow run at `rate` at most from now on [B/s]."""
        self._flows[flow].limit = rate
        self._share(self._connected((flow,)))

    def rate(self, flow: int) -> float:
        """Return the rate of a flow now [B/s]."""
        return self._flows[flow].rate

    def next_completion(self) -> Seconds | None:
        """Return when the next flow completes if none is added [s]. Infinite where all stand still, null without."""
        while self._ends and not self._is_current(self._ends[0]):
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def advance(self, to: Seconds) -> list[int]:
        """Let the flows run until `to` [s], at most the next completion, and return those that have completed."""
        following, to = self.next_completion(), float(to)
        if to < self.now:
            raise InputError.single(f"the flows are at {self.now:g} s and cannot go back to {to:g} s")
        if following is not None and to > following * (1 + TIE):
            raise InputError.single(
                f"a flow completes at {float(following):g} s, before {to:g} s", hint="advance to it first"
            )
        self.now = to
        done: list[int] = []
        while (following := self.next_completion()) is not None and following <= to * (1 + TIE):
            done.append(heapq.heappop(self._ends)[1])
            self._flows[done[-1]].version += 1
        neighbours = [self._remove(flow) for flow in done]
        running = [flow for flows in neighbours for flow in flows if flow in self._flows]
        if running:
            self._share(self._connected(running))
        return sorted(done)

    def _is_current(self, entry: tuple[float, int, int]) -> bool:
        flow = self._flows.get(entry[1])
        return flow is not None and flow.version == entry[2]

    def _remove(self, number: int) -> list[int]:
        neighbours: dict[int, None] = {}
        for link in self._flows.pop(number).loads:
            del self._flows_on[link][number]
            neighbours.update(self._flows_on[link])
        return list(neighbours)

    def _connected(self, numbers: Iterable[int]) -> list[int]:
        reached = dict.fromkeys(numbers)
        if len(reached) == 1 and all(
            len(self._flows_on[link]) == 1 for flow in reached for link in self._flows[flow].loads
        ):
            return list(reached)
        queue = list(reached)
        seen: set[int] = set()
        while queue:
            for link in self._flows[queue.pop()].loads:
                if link in seen:
                    continue
                seen.add(link)
                for other in self._flows_on[link]:
                    if other not in reached:
                        reached[other] = None
                        queue.append(other)
        return sorted(reached)

    def _share(self, numbers: Sequence[int]) -> None:
        """Find the rates of flows that share links with no others, and when each ends."""
        flows = [self._flows[number] for number in numbers]
        rates = _by_class(flows, self._capacity)
        for number, flow, rate in zip(numbers, flows, rates, strict=True):
            if flow.version and rate == flow.rate:
                continue
            sent = flow.rate * (self.now - flow.since) if self.now > flow.since else 0.0
            flow.remaining, flow.since, flow.rate = max(flow.remaining - sent, 0.0), self.now, rate
            flow.version += 1
            end = self.now if not flow.remaining else self.now + flow.remaining / rate if rate else np.inf
            heapq.heappush(self._ends, (end, number, flow.version))


def _by_class(flows: Sequence[_Flow], capacity: Sequence[float]) -> list[float]:
    """Return rates class by class, from the highest on: fair within a class, on what the ones before it leave."""
    classes = sorted({flow.priority for flow in flows}, reverse=True)
    if len(classes) == 1:
        return _fair(flows, capacity)
    left, rates = list(capacity), [0.0] * len(flows)
    for priority in classes:
        chosen = [i for i, flow in enumerate(flows) if flow.priority == priority]
        for i, rate in zip(chosen, _fair([flows[i] for i in chosen], left), strict=True):
            rates[i] = rate
            for link, weight in flows[i].loads.items():
                left[link] = max(left[link] - weight * rate, 0.0)
    return rates


def _fair(flows: Sequence[_Flow], capacity: Sequence[float]) -> list[float]:
    """Return the max-min fair rates of flows. A flow's limit is a link of its own."""
    if len(flows) == 1:
        flow = flows[0]
        return [min([flow.limit, *(capacity[link] / weight for link, weight in flow.loads.items())])]
    used = {link: i for i, link in enumerate(dict.fromkeys(link for flow in flows for link in flow.loads))}
    limited = [i for i, flow in enumerate(flows) if flow.limit < np.inf and flow.limit > 0]
    limit_link = {i: len(used) + number for number, i in enumerate(limited)}
    links, weights, start = [], [], [0]
    for i, flow in enumerate(flows):
        if flow.limit:
            links += [used[link] for link in flow.loads]
            weights += list(flow.loads.values())
            if i in limit_link:
                links.append(limit_link[i])
                weights.append(1.0)
        start.append(len(links))
    capacities = np.array([*(capacity[link] for link in used), *(flows[i].limit for i in limited)])
    rates = fair_rates(Incidence(np.array(start, np.int64), np.array(links, np.int32), np.array(weights), capacities))
    return [rate if flow.limit else 0.0 for rate, flow in zip(map(float, rates), flows, strict=True)]
