"""The router in front of several engines: which one a request goes to, and which requests are called later."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from costmodel.serving.availability import UP, Fleet, in_engine
from costmodel.serving.compiled import inner, spliced
from costmodel.serving.prefix import cached_blocks
from costmodel.serving.prices import Tables
from costmodel.serving.rows import Row, Rows
from costmodel.serving.state import Calls, Engine, Engines, Paths, Policy, Requests

ROUND_ROBIN, RANDOM, LEAST_LOADED, POWER_OF_TWO, PREFIX = 0, 1, 2, 3, 4
# The router follows a cached prefix unless its engine has so many requests more than the least loaded one:
# SGLang, docs/advanced_features/router.md, cache-aware routing, balance_abs_threshold.
MOST_UNBALANCED = 64
ABSENT = 1 << 40  # load of an engine that is not up


class Call(Row):
    """A request that is called. time: when it arrives [s]."""

    time: float
    request: int


class RouterState(Row):
    """What changes of a router as a whole."""

    learnt: float  # when it last learnt loads [s]
    routed: int  # requests so far to engines that compute prompts
    routed_late: int  # requests so far to those that only decode
    listed: int  # the next request of those that arrive without being called
    known: int  # number of these
    uncalled: int  # the next one that nobody has called
    openings: int  # requests up to the last one that no request calls by its number
    calls: int  # size of the heap of calls


class Router(NamedTuple):
    """A router."""

    kind: int  # one of the above
    delay: float  # interval at which it learns loads [s], 0: always
    loads: Any  # requests of each engine as it knows them
    calls: Rows[Call]  # a binary heap of called requests
    state: Rows[RouterState]  # one row: what changes


def new_router(kind: int, delay: float, replicas: int, requests: Requests) -> Router:
    """Return a router that has routed nothing. requests: those of known arrival first, those called by number last."""
    count = len(requests.arrival)
    state = RouterState.zeros(1)
    state["learnt"] = -np.inf
    state["known"] = state["uncalled"] = np.count_nonzero(np.isfinite(requests.arrival))
    state["openings"] = np.count_nonzero(requests.calls.callers == 0)
    loads = np.zeros(replicas, np.int64)
    return Router(kind, delay, loads, Call.zeros(count), state)


class Service(NamedTuple):
    """A deployment under way. engines: one a row of each array."""

    requests: Any
    paths: Paths
    calls: Calls
    engines: Engines
    policies: tuple[Policy, ...]  # of each kind of engines, two at least
    tables: tuple[Tables, ...]
    router: Router
    fleet: Fleet


@spliced
def engine_of(service: Service, replica: int) -> Engine:
    """Return one engine: views of its rows."""
    engines = service.engines
    policy = service.policies[service.fleet.members[replica].kind]
    return Engine(
        service.requests, service.paths, policy, engines.state[replica], engines.step[replica],
        engines.decoders[replica], engines.enders[replica], engines.starters[replica], engines.phase[replica],
        engines.entry[replica], engines.run[replica], engines.tiers[replica], engines.gaps[replica],
        engines.occupancy[replica],
    )  # fmt: skip


@inner
def learn_loads(engines: Engines, fleet: Fleet, router: Router, now: float) -> None:
    """Let the router learn how many requests each engine has, where it is time. One that is not up has too many."""
    if router.delay <= 0.0 or now >= router.state[0].learnt + router.delay:
        router.state[0].learnt = now
        for replica in range(len(engines.state)):
            router.loads[replica] = in_engine(engines.state[replica])
    for replica in range(len(engines.state)):
        if fleet.members[replica].status != UP:
            router.loads[replica] = ABSENT
        elif router.loads[replica] >= ABSENT:
            router.loads[replica] = in_engine(engines.state[replica])


@inner
def has_less(router: Router, fleet: Fleet, one: int, other: int) -> bool:
    """Tell whether an engine has fewer requests than another, each over its weight."""
    return bool(router.loads[one] * fleet.members[other].weight < router.loads[other] * fleet.members[one].weight)


@inner
def least_loaded(router: Router, fleet: Fleet, first: int, low: int, high: int) -> int:
    """Return the engine with fewest requests. Of equals the one next to `first`, so that all get their turn."""
    replicas = high - low
    best = low + first % replicas
    for i in range(1, replicas):
        replica = low + (first + i) % replicas
        if has_less(router, fleet, replica, best):
            best = replica
    return best


@inner
def longest_prefix(service: Service, request: int, low: int, high: int) -> int:
    """Return the engine that holds most of a prompt, unless it has far more requests than the least loaded one."""
    router = service.router
    least = least_loaded(router, service.fleet, request, low, high)
    best, most = least, 0
    for replica in range(low, high):
        if router.loads[replica] > router.loads[least] + MOST_UNBALANCED:
            continue
        cached = cached_blocks(engine_of(service, replica), request, 1 << 60)
        if cached > most or (cached == most and cached > 0 and router.loads[replica] < router.loads[best]):
            best, most = replica, cached
    return best


@inner
def route(service: Service, request: int, now: float, low: int, high: int) -> int:
    """Return the engine of a request, one of those from `low` to `high`. -1 where none is up."""
    router, fleet, engines = service.router, service.fleet, service.engines
    state = router.state[0]
    number = state.routed if low == 0 else state.routed_late
    if low == 0:
        state.routed += 1
    else:
        state.routed_late += 1
    if router.kind in (ROUND_ROBIN, RANDOM):
        first = number if router.kind == ROUND_ROBIN else int(service.requests[request].die)
        for i in range(high - low):
            replica = low + (first + i) % (high - low)
            if fleet.members[replica].status == UP:
                return replica
        return -1
    learn_loads(engines, fleet, router, now)
    if router.kind == POWER_OF_TWO:
        row = service.requests[request]
        first, second = low + row.die % (high - low), low + row.other_die % (high - low)
        replica = int(second if has_less(router, fleet, second, first) else first)
        if router.loads[replica] >= ABSENT:
            replica = least_loaded(router, fleet, number, low, high)
    elif router.kind == PREFIX:
        replica = longest_prefix(service, request, low, high)
    else:
        replica = least_loaded(router, fleet, number, low, high)
    if router.loads[replica] >= ABSENT:
        return -1
    router.loads[replica] += 1
    return replica


@inner
def push_call(router: Router, time: float, request: int) -> None:
    """Add a call to the heap."""
    calls, index = router.calls, router.state[0].calls
    router.state[0].calls += 1
    while index > 0:
        parent = (index - 1) >> 1
        if calls[parent].time <= time:
            break
        set_call(calls[index], calls[parent].time, calls[parent].request)
        index = parent
    set_call(calls[index], time, request)


@inner
def pop_call(router: Router) -> None:
    """Remove the first call of the heap."""
    calls = router.calls
    router.state[0].calls -= 1
    size, index = router.state[0].calls, 0
    time, request = calls[size].time, calls[size].request
    while True:
        child = 2 * index + 1
        if child >= size:
            break
        if child + 1 < size and calls[child + 1].time < calls[child].time:
            child += 1
        if calls[child].time >= time:
            break
        set_call(calls[index], calls[child].time, calls[child].request)
        index = child
    set_call(calls[index], time, request)


@inner
def set_call(call: Call, time: float, request: int) -> None:
    """Let a place in the heap hold a call."""
    call.time, call.request = time, request
