"""Several engines: one after the other where requests are dealt out beforehand, in step with arrivals otherwise."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from costmodel.serving.blocks import cached_blocks
from costmodel.serving.compiled import inner
from costmodel.serving.engine import enqueue
from costmodel.serving.loop import advance, decide, run_quiet_steps
from costmodel.serving.prices import Tables
from costmodel.serving.state import (
    CALLED,
    DECODING,
    ENDERS,
    ENDING,
    FINISH,
    MOMENT,
    NEXT,
    NOBODY,
    PARTIAL,
    REPLICA,
    STARTING,
    WAITING,
    Engine,
    Policy,
    Progress,
    Requests,
)  # fmt: skip

ROUND_ROBIN, RANDOM, LEAST_LOADED, POWER_OF_TWO, PREFIX = 0, 1, 2, 3, 4
# The router follows a cached prefix unless its engine has so many requests more than the least loaded one:
# SGLang, docs/advanced_features/router.md, cache-aware routing, balance_abs_threshold.
MOST_UNBALANCED = 64


class Router(NamedTuple):
    """A router. kind: one of the above; delay: interval at which it learns loads [s], 0: always.

    dice: two random engines for each request; loads: requests of each engine as it knows them; learnt: when it last
    learnt them [s], and how many requests it has routed; call_times, call_requests: a binary heap of called requests.
    state: next listed request, next uncalled one, size of the heap of calls, number of listed ones; -1: nothing yet.
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
    dice = np.random.default_rng([seed, 4]).integers(0, replicas, (count, 2))
    return Router(
        kind,
        delay,
        dice,
        np.zeros(replicas, np.int64),
        np.array([-np.inf, 0.0]),
        np.zeros(count),
        np.zeros(count, np.int64),
        np.full(4, -1),
    )


@inner
def engine_of(fleet: Engine, replica: int) -> Engine:
    """Return one engine: views of its rows."""
    return Engine(
        fleet.clock[replica], fleet.count[replica], fleet.list[replica], fleet.phase[replica], fleet.entry[replica],
        fleet.place[replica], fleet.step[replica], fleet.gaps[replica], fleet.occupancy[replica],
    )  # fmt: skip


def run_apart(
    requests: Requests, progress: Progress, fleet: Engine, policy: Policy, tables: Tables, until: float
) -> int:
    """Run each engine over the requests that it was given; return one that is stuck, -1: none."""
    for replica in range(len(fleet.clock)):
        if advance(requests, progress, engine_of(fleet, replica), policy, tables, until):
            return replica
    return -1


def deal_out(requests: Requests, progress: Progress, fleet: Engine) -> None:
    """Queue all requests at their engines."""
    for request in range(len(requests.arrival)):
        enqueue(requests, progress, engine_of(fleet, progress.count[request, REPLICA]), request)


@inner
def learn_loads(fleet: Engine, router: Router, now: float) -> None:
    """Let the router learn how many requests each engine has, where it is time."""
    if router.delay > 0.0 and now < router.learnt[0] + router.delay:
        return
    router.learnt[0] = now
    for replica in range(len(fleet.clock)):
        count = fleet.count[replica]
        router.loads[replica] = (
            count[WAITING] + count[DECODING] + count[STARTING] + count[ENDING] + (1 if count[PARTIAL] >= 0 else 0)
        )


@inner
def least_loaded(router: Router, first: int) -> int:
    """Return the engine with fewest requests; of equals the one next to `first`, so that all get their turn."""
    replicas = len(router.loads)
    best = first % replicas
    for i in range(1, replicas):
        replica = (first + i) % replicas
        if router.loads[replica] < router.loads[best]:
            best = replica
    return best


@inner
def longest_prefix(requests: Requests, fleet: Engine, router: Router, request: int) -> int:
    """Return the engine that holds most of a prompt, unless it has far more requests than the least loaded one."""
    least = least_loaded(router, request)
    best, most = least, 0
    for replica in range(len(fleet.clock)):
        if router.loads[replica] > router.loads[least] + MOST_UNBALANCED:
            continue
        found = cached_blocks(requests, engine_of(fleet, replica), request, 1 << 60)
        if found > most or (found == most and found > 0 and router.loads[replica] < router.loads[best]):
            best, most = replica, found
    return best


@inner
def route(requests: Requests, fleet: Engine, router: Router, request: int, number: int) -> int:
    """Return the engine of a request, the `number`th that is routed."""
    if router.kind == ROUND_ROBIN:
        return number % len(router.loads)
    if router.kind == RANDOM:
        return int(router.dice[request, 0])
    learn_loads(fleet, router, requests.arrival[request])
    if router.kind == LEAST_LOADED:
        replica = least_loaded(router, number)
    elif router.kind == POWER_OF_TWO:
        first, second = int(router.dice[request, 0]), int(router.dice[request, 1])
        replica = second if router.loads[second] < router.loads[first] else first
    else:
        replica = longest_prefix(requests, fleet, router, request)
    router.loads[replica] += 1
    return replica


@inner
def push_call(router: Router, size: int, time: float, request: int) -> int:
    """Add a call to the heap of `size` calls; return the new size."""
    times, items = router.call_times, router.call_requests
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if times[parent] <= time:
            break
        times[place], items[place] = times[parent], items[parent]
        place = parent
    times[place], items[place] = time, request
    return size + 1


@inner
def pop_call(router: Router, size: int) -> int:
    """Remove the first call of the heap; return the new size."""
    times, items = router.call_times, router.call_requests
    size -= 1
    time, item, place = times[size], items[size], 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and times[child + 1] < times[child]:
            child += 1
        if times[child] >= time:
            break
        times[place], items[place] = times[child], items[child]
        place = child
    times[place], items[place] = time, item
    return size


@inner
def call_next(requests: Requests, progress: Progress, engine: Engine, router: Router, state: Any) -> None:
    """Let requests that just ended call the next ones. state: of the router."""
    for i in range(engine.count[ENDING]):
        request = int(engine.list[ENDERS, i])
        if progress.count[request, CALLED] == 1:
            continue
        progress.count[request, CALLED] = 1
        called = requests.calls[request]
        if called == NEXT:
            called = state[1] if state[1] < len(requests.arrival) else NOBODY
            state[1] += 1
        if called >= 0:
            requests.arrival[called] = progress.time[request, FINISH] + requests.pause[request]
            state[2] = push_call(router, state[2], requests.arrival[called], called)


def run_together(
    requests: Requests, progress: Progress, fleet: Engine, policy: Policy, tables: Tables, router: Router
) -> int:
    """Run engines in order of their moments, so that each arrival finds all of them as they are; return one that is
    stuck, -1: none.

    requests: in order of arrival, called ones last; those are taken from the heap of calls.
    """
    number, state = len(requests.arrival), router.state
    if state[0] < 0:
        known = known_arrivals(requests)
        state[0], state[1], state[2], state[3] = 0, known, 0, known
    while True:
        arrival = next_arrival(requests, router, state)
        first, moment, second = next_moments(fleet)
        if moment < arrival:
            engine = engine_of(fleet, first)
            if decide(requests, progress, engine, policy, tables):
                return first
            call_next(requests, progress, engine, router, state)
            if policy.jump:
                # The end of another engine's request may call one that arrives here.
                until = arrival if state[3] == number else min(arrival, second)
                run_quiet_steps(requests, progress, engine, policy, tables, until)
        elif arrival < np.inf:
            take_arrival(requests, progress, fleet, router, state)
        else:
            return -1


@inner
def known_arrivals(requests: Requests) -> int:
    """Return the number of requests that arrive without being called."""
    known = 0
    while known < len(requests.arrival) and requests.arrival[known] < np.inf:
        known += 1
    return known


@inner
def next_arrival(requests: Requests, router: Router, state: Any) -> float:
    """Return when the next request arrives, as known so far [s]."""
    arrival = requests.arrival[state[0]] if state[0] < state[3] else np.inf
    return min(arrival, router.call_times[0]) if state[2] > 0 else arrival


@inner
def next_moments(fleet: Engine) -> tuple[int, float, float]:
    """Return the engine that decides next, when, and when the one after it does [s]."""
    first, moment, second = 0, np.inf, np.inf
    for replica in range(len(fleet.clock)):
        at = fleet.clock[replica, MOMENT]
        if at < moment:
            first, moment, second = replica, at, moment
        elif at < second:
            second = at
    return first, moment, second


@inner
def take_arrival(requests: Requests, progress: Progress, fleet: Engine, router: Router, state: Any) -> None:
    """Route the next request to an engine."""
    listed = requests.arrival[state[0]] if state[0] < state[3] else np.inf
    if state[2] > 0 and router.call_times[0] < listed:
        request = int(router.call_requests[0])
        state[2] = pop_call(router, state[2])
    else:
        request = int(state[0])
        state[0] += 1
    replica = route(requests, fleet, router, request, int(router.learnt[1]))
    router.learnt[1] += 1.0
    progress.count[request, REPLICA] = replica
    enqueue(requests, progress, engine_of(fleet, replica), request)
