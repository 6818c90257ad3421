"""The router in front of several engines: which one a request goes to, and which requests are called later."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from costmodel.serving.availability import UP, Fleet, in_engine
from costmodel.serving.blocks import cached_blocks
from costmodel.serving.compiled import inner
from costmodel.serving.prices import Tables
from costmodel.serving.state import Engine, Policy, Progress, Requests

ROUND_ROBIN, RANDOM, LEAST_LOADED, POWER_OF_TWO, PREFIX = 0, 1, 2, 3, 4
# The router follows a cached prefix unless its engine has so many requests more than the least loaded one:
# SGLang, docs/advanced_features/router.md, cache-aware routing, balance_abs_threshold.
MOST_UNBALANCED = 64
ABSENT = 1 << 40  # load of an engine that is not up


class Router(NamedTuple):
    """A router.

    kind: one of the above.
    delay: interval at which it learns loads [s], 0: always.
    dice: two random engines for each request, where the router draws.
    loads: requests of each engine as it knows them.
    learnt: when it last learnt them [s], and how many requests it has routed to engines that compute prompts, and to
    others.
    call_times, call_requests: a binary heap of called requests.
    state: next listed request, next uncalled one, size of the heap of calls, number of listed ones. -1: nothing yet.
    """

    kind: int
    delay: float
    dice: Any
    loads: Any
    learnt: Any
    call_times: Any
    call_requests: Any
    state: Any


def new_router(kind: int, delay: float, replicas: int, count: int, seed: int) -> Router:
    """Return a router that has routed nothing."""
    rolls = count if kind in (RANDOM, POWER_OF_TWO) else 0
    dice = np.random.default_rng([seed, 4]).integers(0, replicas, (rolls, 2))
    return Router(
        kind,
        delay,
        dice,
        np.zeros(replicas, np.int64),
        np.array([-np.inf, 0.0, 0.0]),
        np.zeros(count),
        np.zeros(count, np.int64),
        np.full(4, -1),
    )


class Service(NamedTuple):
    """A deployment under way. engines: one a row of each array."""

    requests: Requests
    progress: Progress
    engines: Engine
    policy: Policy
    tables: Tables
    router: Router
    fleet: Fleet


@inner
def engine_of(fleet: Engine, replica: int) -> Engine:
    """Return one engine: views of its rows."""
    return Engine(
        fleet.clock[replica], fleet.count[replica], fleet.list[replica], fleet.phase[replica], fleet.entry[replica],
        fleet.cached_entry[replica], fleet.tier[replica],
        fleet.step[replica], fleet.gaps[replica], fleet.occupancy[replica],
    )  # fmt: skip


@inner
def learn_loads(engines: Engine, fleet: Fleet, router: Router, now: float) -> None:
    """Let the router learn how many requests each engine has, where it is time. One that is not up has too many."""
    if router.delay <= 0.0 or now >= router.learnt[0] + router.delay:
        router.learnt[0] = now
        for replica in range(len(engines.clock)):
            router.loads[replica] = in_engine(engines.count[replica])
    for replica in range(len(engines.clock)):
        if fleet.status[replica] != UP:
            router.loads[replica] = ABSENT
        elif router.loads[replica] >= ABSENT:
            router.loads[replica] = in_engine(engines.count[replica])


@inner
def least_loaded(router: Router, first: int, low: int, high: int) -> int:
    """Return the engine with fewest requests. Of equals the one next to `first`, so that all get their turn."""
    replicas = high - low
    best = low + first % replicas
    for i in range(1, replicas):
        replica = low + (first + i) % replicas
        if router.loads[replica] < router.loads[best]:
            best = replica
    return best


@inner
def longest_prefix(service: Service, request: int, low: int, high: int) -> int:
    """Return the engine that holds most of a prompt, unless it has far more requests than the least loaded one."""
    router = service.router
    least = least_loaded(router, request, low, high)
    best, most = least, 0
    for replica in range(low, high):
        if router.loads[replica] > router.loads[least] + MOST_UNBALANCED:
            continue
        cached = cached_blocks(service.requests, engine_of(service.engines, replica), request, 1 << 60)
        if cached > most or (cached == most and cached > 0 and router.loads[replica] < router.loads[best]):
            best, most = replica, cached
    return best


@inner
def route(service: Service, request: int, now: float, low: int, high: int) -> int:
    """Return the engine of a request, one of those from `low` to `high`. -1 where none is up."""
    router, fleet, engines = service.router, service.fleet, service.engines
    number = int(router.learnt[1 if low == 0 else 2])
    router.learnt[1 if low == 0 else 2] += 1.0
    if router.kind in (ROUND_ROBIN, RANDOM):
        first = number if router.kind == ROUND_ROBIN else int(router.dice[request, 0])
        for i in range(high - low):
            replica = low + (first + i) % (high - low)
            if fleet.status[replica] == UP:
                return replica
        return -1
    learn_loads(engines, fleet, router, now)
    if router.kind == POWER_OF_TWO:
        first, second = low + router.dice[request, 0] % (high - low), low + router.dice[request, 1] % (high - low)
        replica = int(second if router.loads[second] < router.loads[first] else first)
        if router.loads[replica] >= ABSENT:
            replica = least_loaded(router, number, low, high)
    elif router.kind == PREFIX:
        replica = longest_prefix(service, request, low, high)
    else:
        replica = least_loaded(router, number, low, high)
    if router.loads[replica] >= ABSENT:
        return -1
    router.loads[replica] += 1
    return replica


@inner
def push_call(router: Router, size: int, time: float, request: int) -> int:
    """Add a call to the heap of `size` calls. Return the new size."""
    times, items = router.call_times, router.call_requests
    index = size
    while index > 0:
        parent = (index - 1) >> 1
        if times[parent] <= time:
            break
        times[index], items[index] = times[parent], items[parent]
        index = parent
    times[index], items[index] = time, request
    return size + 1


@inner
def pop_call(router: Router, size: int) -> int:
    """Remove the first call of the heap. Return the new size."""
    times, items = router.call_times, router.call_requests
    size -= 1
    time, item, index = times[size], items[size], 0
    while True:
        child = 2 * index + 1
        if child >= size:
            break
        if child + 1 < size and times[child + 1] < times[child]:
            child += 1
        if times[child] >= time:
            break
        times[index], items[index] = times[child], items[child]
        index = child
    times[index], items[index] = time, item
    return size
