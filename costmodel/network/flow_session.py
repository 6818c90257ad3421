"""Flows that come and go while others run, for an engine with a clock of its own."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from costmodel.errors import InputError
from costmodel.network.flows import TIE
from costmodel.network.sharing import Incidence, numpy_rates
from costmodel.quantities import Array, Bytes, Seconds
from costmodel.records import MutableRecord

FEW = 40  # flows that share links: up to here Python shares them faster than numpy


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
        """Remove a flow and return those on its links."""
        neighbours: dict[int, None] = {}
        for link in self._flows.pop(number).loads:
            del self._flows_on[link][number]
            neighbours.update(self._flows_on[link])
        return list(neighbours)

    def _connected(self, numbers: Iterable[int]) -> list[int]:
        """Return flows, and all that share links with them directly or through others, by number."""
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
    return fair_rates_of_few(flows, capacity) if len(flows) <= FEW else _by_arrays(flows, capacity)


def fair_rates_of_few(flows: Sequence[_Flow], capacity: Sequence[float]) -> list[float]:
    """Return the max-min fair rates of a few flows by progressive filling: all rise together until a link is full."""
    if len(flows) == 1:
        flow = flows[0]
        return [min([flow.limit, *(capacity[link] / weight for link, weight in flow.loads.items())])]
    rates = [0.0] * len(flows)
    rising = list(range(len(flows)))
    residual: dict[int, float] = {link: capacity[link] for flow in flows for link in flow.loads}
    while rising:
        load = dict.fromkeys(residual, 0.0)
        for i in rising:
            for link, weight in flows[i].loads.items():
                load[link] += weight
        shares = {link: max(residual[link], 0.0) / weight for link, weight in load.items() if weight > 0}
        level = min([*shares.values(), *(flows[i].limit for i in rising)])
        full = {link for link, share in shares.items() if share <= level * (1 + TIE)}
        still_rising = []
        for i in rising:
            flow = flows[i]
            if flow.limit <= level or any(link in full for link in flow.loads):
                rates[i] = level
                for link, weight in flow.loads.items():
                    residual[link] -= weight * level
            else:
                still_rising.append(i)
        rising = still_rising
    return rates


def _by_arrays(flows: Sequence[_Flow], capacity: Sequence[float]) -> list[float]:
    """Return the same by arrays. A flow's limit is a link of its own."""
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
    rates = numpy_rates(Incidence(np.array(start, np.int64), np.array(links, np.int32), np.array(weights), capacities))
    return [rate if flow.limit else 0.0 for rate, flow in zip(map(float, rates), flows, strict=True)]
