"""Flows that come and go while others run, for an engine with a clock of its own."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from costmodel.errors import InputError
from costmodel.network.flows import TIE
from costmodel.network.sharing import Incidence, plain_rates
from costmodel.quantities import Array, Bytes, Seconds

FEW = 40  # flows that share links: up to here plain Python shares them faster than numpy


@dataclass(slots=True)
class _Flow:
    """A flow under way. loads: bytes on each link a byte of the flow; left: at `since`; turn: of its heap entry."""

    loads: Mapping[int, float]
    limit: float
    left: float
    since: float
    rate: float = 0.0
    turn: int = 0


class FlowSession:
    """Flows that share links max-min fairly while they come and go.

    capacity: of each link [B/s]. `add` flows, ask for `next_completion`, `advance` to it or to any earlier time. Rates
    are found anew only for flows that share links, directly or through others, with one that starts or ends.
    """

    def __init__(self, capacity: Array) -> None:
        self._capacity = [float(each) for each in capacity]
        self._flows: dict[int, _Flow] = {}
        self._on: list[dict[int, None]] = [{} for _ in self._capacity]  # the flows on each link
        self._ends: list[tuple[float, int, int]] = []  # (end, flow, turn); an entry of an earlier turn is void
        self._number = 0
        self.now: float = 0.0

    def add(self, loads: Mapping[int, float], size: Bytes, limit: float = np.inf) -> int:
        """Start a flow of `size` [B] now and return its number.

        loads: bytes on each link a byte of the flow, above zero; limit: rate that it never exceeds [B/s].
        """
        if not (np.isfinite(size) and size >= 0):
            raise InputError.single("a flow's size is negative or not a number")
        self._number += 1
        self._flows[self._number] = _Flow(loads, limit, float(size), self.now)
        for link in loads:
            self._on[link][self._number] = None
        self._share(self._joined((self._number,)))
        return self._number

    def limit(self, flow: int, rate: float) -> None:
        """Let a flow run at `rate` at most from now on [B/s]."""
        self._flows[flow].limit = rate
        self._share(self._joined((flow,)))

    def rate(self, flow: int) -> float:
        """Return the rate of a flow now [B/s]."""
        return self._flows[flow].rate

    def next_completion(self) -> Seconds | None:
        """Return when the next flow completes if none is added [s]; infinite where all stand still, null without."""
        while self._ends and not self._holds(self._ends[0]):
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
            self._flows[done[-1]].turn += 1
        beside = [self._remove(flow) for flow in done]
        left = [flow for flows in beside for flow in flows if flow in self._flows]
        if left:
            self._share(self._joined(left))
        return sorted(done)

    def _holds(self, entry: tuple[float, int, int]) -> bool:
        flow = self._flows.get(entry[1])
        return flow is not None and flow.turn == entry[2]

    def _remove(self, number: int) -> list[int]:
        """Take a flow away and return those on its links."""
        others: dict[int, None] = {}
        for link in self._flows.pop(number).loads:
            del self._on[link][number]
            others.update(self._on[link])
        return list(others)

    def _joined(self, some: Iterable[int]) -> list[int]:
        """Return flows, and all that share links with them directly or through others, by number."""
        found = dict.fromkeys(some)
        if len(found) == 1 and all(len(self._on[link]) == 1 for each in found for link in self._flows[each].loads):
            return list(found)
        queue = list(found)
        seen: set[int] = set()
        while queue:
            for link in self._flows[queue.pop()].loads:
                if link in seen:
                    continue
                seen.add(link)
                for other in self._on[link]:
                    if other not in found:
                        found[other] = None
                        queue.append(other)
        return sorted(found)

    def _share(self, numbers: Sequence[int]) -> None:
        """Find the rates of flows that share links with no others, and when each ends."""
        flows = [self._flows[number] for number in numbers]
        rates = fill(flows, self._capacity) if len(flows) <= FEW else _fill_many(flows, self._capacity)
        for number, flow, rate in zip(numbers, flows, rates, strict=True):
            if flow.turn and rate == flow.rate:
                continue
            moved = flow.rate * (self.now - flow.since) if self.now > flow.since else 0.0
            flow.left, flow.since, flow.rate = max(flow.left - moved, 0.0), self.now, rate
            flow.turn += 1
            end = self.now if not flow.left else self.now + flow.left / rate if rate else np.inf
            heapq.heappush(self._ends, (end, number, flow.turn))


def fill(flows: Sequence[_Flow], capacity: Sequence[float]) -> list[float]:
    """Return the max-min fair rates of a few flows by progressive filling: all rise together until a link is full."""
    if len(flows) == 1:
        only = flows[0]
        return [min([only.limit, *(capacity[link] / weight for link, weight in only.loads.items())])]
    rates = [0.0] * len(flows)
    rising = list(range(len(flows)))
    left: dict[int, float] = {link: capacity[link] for flow in flows for link in flow.loads}
    while rising:
        load = dict.fromkeys(left, 0.0)
        for at in rising:
            for link, weight in flows[at].loads.items():
                load[link] += weight
        shares = {link: max(left[link], 0.0) / each for link, each in load.items() if each > 0}
        level = min([*shares.values(), *(flows[at].limit for at in rising)])
        full = {link for link, share in shares.items() if share <= level * (1 + TIE)}
        stays = []
        for at in rising:
            flow = flows[at]
            if flow.limit <= level or any(link in full for link in flow.loads):
                rates[at] = level
                for link, weight in flow.loads.items():
                    left[link] -= weight * level
            else:
                stays.append(at)
        rising = stays
    return rates


def _fill_many(flows: Sequence[_Flow], capacity: Sequence[float]) -> list[float]:
    """Return the same by arrays; a flow's limit is a link of its own."""
    used = {link: at for at, link in enumerate(dict.fromkeys(link for flow in flows for link in flow.loads))}
    limited = [at for at, flow in enumerate(flows) if flow.limit < np.inf and flow.limit > 0]
    own = {at: len(used) + number for number, at in enumerate(limited)}
    links, weights, start = [], [], [0]
    for at, flow in enumerate(flows):
        if flow.limit:
            links += [used[link] for link in flow.loads]
            weights += list(flow.loads.values())
            if at in own:
                links.append(own[at])
                weights.append(1.0)
        start.append(len(links))
    whole = np.array([*(capacity[link] for link in used), *(flows[at].limit for at in limited)])
    found = plain_rates(Incidence(np.array(start, np.int64), np.array(links, np.int32), np.array(weights), whole))
    return [rate if flow.limit else 0.0 for rate, flow in zip(map(float, found), flows, strict=True)]
