"""Several engines: one after the other where requests are dealt out beforehand, in step with arrivals otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from costmodel.serving.availability import (
    BACK,
    BOOTING,
    DOWN,
    DRAINING,
    FAILS,
    UP,
    autoscale,
    empty_engine,
    end_outage,
    lose_running,
    next_change,
    set_next_breakdown,
)
from costmodel.serving.blocks import free_request, share_prefix
from costmodel.serving.compiled import inner
from costmodel.serving.lockstep import decide_together
from costmodel.serving.loop import advance, decide, run_quiet_steps
from costmodel.serving.prices import Tables
from costmodel.serving.queue import enqueue
from costmodel.serving.routing import Router, Service, engine_of, pop_call, push_call, route
from costmodel.serving.state import (
    BUSY_UNTIL,
    CALLED,
    COMPUTED,
    ENDERS,
    ENDING,
    FINISH,
    FOLLOWING,
    GENERATED,
    HEAD,
    MOMENT,
    MOVED,
    NEXT,
    NOBODY,
    PREEMPTED,
    PROMPT,
    REPLICA,
    TARGET,
    WAITING,
    Engine,
    Policy,
    Progress,
    Requests,
)  # fmt: skip


def run_apart(
    requests: Requests, progress: Progress, fleet: Engine, policy: Policy, tables: Tables, until: float
) -> int:
    """Run each engine over the requests that it was given. Return one that is stuck, -1: none."""
    for replica in range(len(fleet.clock)):
        if advance(requests, progress, engine_of(fleet, replica), policy, tables, until):
            return replica
    return -1


def deal_out(requests: Requests, progress: Progress, fleet: Engine) -> None:
    """Queue all requests at their engines."""
    for request in range(len(requests.arrival)):
        engine = engine_of(fleet, progress.count[request, REPLICA])
        enqueue(progress, engine, request, requests.arrival[request])


@inner
def call_next(service: Service, engine: Engine, replica: int) -> None:
    """Let requests that just ended call the next ones, and those whose prompt is computed move to another engine."""
    kept, progress = 0, service.progress
    for i in range(engine.count[ENDING]):
        request = int(engine.list[ENDERS, i])
        if progress.count[request, MOVED] > 0:
            move(service, engine, replica, request)
            continue
        engine.list[ENDERS, kept] = request
        kept += 1
        if progress.count[request, CALLED] == 0:
            call_after(service, request, progress.time[request, FINISH])
    engine.count[ENDING] = kept


@inner
def call_after(service: Service, request: int, moment: float) -> None:
    """Let a request that ends call the next one."""
    requests, progress, router = service.requests, service.progress, service.router
    progress.count[request, CALLED] = 1
    called, state = requests.calls[request], router.state
    if called == NEXT:
        called = state[1] if state[1] < len(requests.arrival) else NOBODY
        state[1] += 1
    if called >= 0:
        requests.arrival[called] = moment + requests.pause[request]
        state[2] = push_call(router, state[2], requests.arrival[called], called)


@inner
def move(service: Service, engine: Engine, replica: int, request: int) -> None:
    """Send a prompt's cache to the engines that decode, after what its link has to send before.

    Its blocks here are free once the prompt is computed. The engine that starts it notes that it has JOINED.
    """
    requests, progress, policy, fleet = service.requests, service.progress, service.policy, service.fleet
    router = service.router
    tokens, end = progress.count[request, COMPUTED], progress.time[request, FINISH]
    if policy.caching:
        share_prefix(requests, progress, engine, service.policy, request, tokens)
    free_request(requests, progress, engine, policy, request)
    progress.time[request, FINISH] = np.nan
    fleet.link_free[replica] = max(end, fleet.link_free[replica]) + tokens * fleet.token_time
    progress.count[request, TARGET] = requests.length[request, PROMPT] + progress.count[request, GENERATED]
    router.state[2] = push_call(router, router.state[2], fleet.link_free[replica] + fleet.latency, request)


def run_together(service: Service, until: float) -> int:
    """Run engines in order of their moments up to `until`, so that each arrival finds all of them as they are. Return
    one that is stuck, -1: none.

    Requests are in order of arrival, called ones last. Those are taken from the heap of calls.
    """
    requests, router, fleet = service.requests, service.router, service.fleet
    number, state = len(requests.arrival), router.state
    if state[0] < 0:
        known = known_arrivals(requests)
        state[0], state[1], state[2], state[3] = 0, known, 0, known
    while True:
        arrival, change = next_arrival(requests, router, state), fleet.change[0]
        first, moment, second = next_moments(service.engines)
        if min(arrival, moment) == np.inf or min(arrival, moment, change) >= until:
            return -1
        if change <= moment and change <= arrival:
            apply_change(service, change)
        elif moment < arrival:
            # The end of another engine's request may call one that arrives here.
            apart = state[3] == number and fleet.prefill == 0
            bound = min(arrival if apart else min(arrival, second), min(change, until))
            if step(service, first, bound):
                return first
        elif not take_arrival(service):
            return 0


@inner
def step(service: Service, replica: int, bound: float) -> bool:
    """Let an engine decide on a step, with those that share its experts. Return whether it is stuck.

    bound: until then quiet steps may follow at once [s].
    """
    number = service.fleet.lockstep
    if number > 1:
        first = replica // number * number
        stuck = decide_together(service, first, number)
        for each in range(first, first + number):
            call_next(service, engine_of(service.engines, each), each)
        return stuck
    engine = engine_of(service.engines, replica)
    if decide(service.requests, service.progress, engine, service.policy, service.tables):
        return True
    call_next(service, engine, replica)
    if service.policy.jump:
        run_quiet_steps(service.requests, service.progress, engine, service.policy, service.tables, bound)
    return False


@inner
def apply_change(service: Service, now: float) -> None:
    """Let engines fail, return or boot, and the autoscaler decide, where it is time."""
    fleet, engines = service.fleet, service.engines
    for replica in range(len(fleet.status)):
        if fleet.status[replica] == BOOTING and fleet.ready[replica] <= now:
            fleet.status[replica] = UP
    while fleet.next_outage[0] < len(fleet.outage_time) and fleet.outage_time[fleet.next_outage[0]] <= now:
        outage = fleet.next_outage[0]
        fleet.next_outage[0] += 1
        if fleet.outage_ends[outage] == 1:
            end_outage(fleet, fleet.outage_engine[outage])
        else:
            begin_outage(service, fleet.outage_engine[outage], now)
    for replica in range(len(fleet.breakdown)):
        break_down(service, replica, now)
    if fleet.tick[0] <= now:
        autoscale(fleet, engines.count, engines.clock, now)
    fleet.change[0] = next_change(fleet)


@inner
def break_down(service: Service, replica: int, now: float) -> None:
    """Let all engines of a replica come back, or fail, where it is time."""
    fleet = service.fleet
    number = len(fleet.status) // len(fleet.breakdown)
    if fleet.breakdown[replica, BACK] <= now:
        fleet.breakdown[replica, BACK] = np.inf
        for engine in range(replica * number, (replica + 1) * number):
            end_outage(fleet, engine)
    if fleet.breakdown[replica, FAILS] <= now:
        set_next_breakdown(fleet, replica, now)
        for engine in range(replica * number, (replica + 1) * number):
            begin_outage(service, engine, now)


@inner
def begin_outage(service: Service, engine: int, now: float) -> None:
    """Let an engine fail. One that does not serve has nothing to lose."""
    fleet = service.fleet
    fleet.outages[engine] += 1
    if fleet.status[engine] == UP or fleet.status[engine] == DRAINING:
        fleet.status[engine] = DOWN
        fail(service, engine_of(service.engines, engine), now)


@inner
def fail(service: Service, engine: Engine, now: float) -> None:
    """Let an engine fail: the router sends its requests to others, which compute all their tokens again."""
    progress, router, policy = service.progress, service.router, service.policy
    later = max(now, engine.clock[BUSY_UNTIL])  # the step that runs is still returned
    lose_running(service.requests, progress, engine, policy)
    request = int(engine.count[HEAD])
    while request >= 0:
        following = int(progress.count[request, FOLLOWING])
        router.state[2] = push_call(router, router.state[2], later, request)
        service.fleet.lost[0] += 1
        request = following
    empty_engine(engine, policy, now)


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
def next_moments(engines: Engine) -> tuple[int, float, float]:
    """Return the engine that decides next, when, and when the one after it does [s]."""
    first, moment, second = 0, np.inf, np.inf
    for replica in range(len(engines.clock)):
        at = engines.clock[replica, MOMENT]
        if at < moment:
            first, moment, second = replica, at, moment
        elif at < second:
            second = at
    return first, moment, second


@inner
def take_arrival(service: Service) -> bool:
    """Route the next request to an engine, or rejects it. Return false where no engine will ever be up."""
    requests, progress, engines = service.requests, service.progress, service.engines
    router, fleet = service.router, service.fleet
    state = router.state
    listed = requests.arrival[state[0]] if state[0] < state[3] else np.inf
    if state[2] > 0 and router.call_times[0] < listed:
        request, now = int(router.call_requests[0]), float(router.call_times[0])
        state[2] = pop_call(router, state[2])
    else:
        request, now = int(state[0]), float(listed)
        state[0] += 1
    replicas, moved = len(engines.clock), progress.count[request, MOVED] > 0
    low, high = (fleet.prefill, replicas) if moved else (0, fleet.prefill if fleet.prefill > 0 else replicas)
    replica = route(service, request, now, low, high)
    if replica < 0:
        if fleet.change[0] == np.inf:
            return False
        state[2] = push_call(router, state[2], fleet.change[0], request)
        return True
    if not moved and progress.count[request, PREEMPTED] == 0 and engines.count[replica, WAITING] >= fleet.max_waiting:
        fleet.rejected[0] += 1
        progress.count[request, REPLICA] = -1
        call_after(service, request, now)
        return True
    progress.count[request, REPLICA] = replica
    enqueue(progress, engine_of(engines, replica), request, now)
    return True
