"""Several engines: one after the other where requests are dealt out beforehand, in step with arrivals otherwise."""

from __future__ import annotations

import numpy as np

from costmodel.serving.availability import (
    BOOTING,
    DOWN,
    DRAINING,
    UP,
    autoscale,
    empty_engine,
    end_outage,
    lose_running,
    next_change,
    set_next_breakdown,
)  # fmt: skip
from costmodel.serving.compiled import inner
from costmodel.serving.decoding import release
from costmodel.serving.engine import has_place, schedule, step_rows
from costmodel.serving.loop import advance, decide, idle, run_quiet_steps, run_step, with_starts
from costmodel.serving.prefix import free_request, share_prefix
from costmodel.serving.prices import device_time, host_floor, host_time, shared_time
from costmodel.serving.queue import enqueue, first_waiting, look, see_arrivals
from costmodel.serving.routing import Router, Service, engine_of, pop_call, push_call, route
from costmodel.serving.rows import Rows
from costmodel.serving.state import NEXT, Engine, Engines, Request


def run_apart(service: Service, until: float) -> int:
    """Run each engine over the requests that it was given. Return one that is stuck, -1: none."""
    for replica in range(len(service.engines.state)):
        if advance(engine_of(service, replica), service.tables[service.fleet.members[replica].kind], until):
            return replica
    return -1


@inner
def call_next(engine: Engine, service: Service, replica: int) -> None:
    """Let requests that just ended call others, and those whose prompt is computed move to another engine."""
    kept = 0
    for i in range(engine.state.ending):
        request = int(engine.enders[i])
        if engine.requests[request].moved > 0:
            move(engine, service, replica, request)
            continue
        engine.enders[kept] = request
        kept += 1
        if engine.requests[request].called == 0:
            call_after(service, request, engine.requests[request].finish)
    engine.state.ending = kept


@inner
def call_after(service: Service, request: int, moment: float) -> None:
    """Let a request that ends call others. Each arrives when the last of those that call it has ended."""
    requests, row, state = service.requests, service.requests[request], service.router.state[0]
    row.called = 1
    for i in range(row.first_call, row.first_call + row.calls):
        called = int(service.calls.called[i])
        if called == NEXT:
            if state.uncalled >= state.openings:
                continue
            called = int(state.uncalled)
            state.uncalled += 1
        other = requests[called]
        other.earliest = max(other.earliest, moment + service.calls.delay[i])
        other.waits -= 1
        if other.waits <= 0:
            other.arrival = other.earliest
            push_call(service.router, other.arrival, called)


@inner
def move(engine: Engine, service: Service, replica: int, request: int) -> None:
    """Send a prompt's cache to the engines that decode, after what its link has to send, and theirs to receive, before.

    Its blocks here are free once the prompt is computed. The engine that starts it notes when it has joined.
    """
    row, fleet, link = engine.requests[request], service.fleet, service.fleet.members[replica]
    tokens, end, state = row.computed, row.finish, service.fleet.state[0]
    if engine.policy.caching:
        share_prefix(engine, request, tokens)
    free_request(engine, request)
    row.finish = np.nan
    begin = max(end, link.link_free)
    link.link_free = begin + tokens * fleet.sending
    state.links_free = max(begin, state.links_free) + tokens * fleet.receiving
    row.target = row.prompt + row.generated
    arrival = max(begin + tokens * fleet.token_time, state.links_free) + fleet.latency
    push_call(service.router, arrival, request)


def run_together(service: Service, until: float) -> int:
    """Run engines in order of their moments up to `until`, so that each arrival finds all of them as they are. Return
    one that is stuck, -1: none.

    Requests are in order of arrival, called ones last. Those are taken from the heap of calls.
    """
    requests, router, fleet = service.requests, service.router, service.fleet
    number = len(requests)
    while True:
        arrival, change = next_arrival(requests, router), fleet.state[0].change
        # Ends of the first engines call requests, or move them, which arrive at others.
        callers = fleet.prefill if router.state[0].known == number else len(service.engines.state)
        first, moment, second = next_moments(service.engines, callers)
        if min(arrival, moment) == np.inf or min(arrival, moment, change) >= until:
            return -1
        if change <= moment and change <= arrival:
            apply_change(service, change)
        elif moment < arrival:
            if step(service, first, min(min(arrival, second), min(change, until))):
                return first
        elif not take_arrival(service):
            return 0


@inner
def step(service: Service, replica: int, bound: float) -> bool:
    """Let an engine decide on a step, with those that share its experts. Return whether it is stuck.

    bound: until then quiet steps may follow at once [s].
    """
    prompts = replica < service.fleet.prefill
    number = service.fleet.prompt_lockstep if prompts else service.fleet.lockstep
    if number > 1:
        low = 0 if prompts else service.fleet.prefill
        first = low + (replica - low) // number * number
        stuck = decide_together(service, first, number)
        for each in range(first, first + number):
            call_next(engine_of(service, each), service, each)
        return stuck
    engine = engine_of(service, replica)
    tables = service.tables[service.fleet.members[replica].kind]
    if decide(engine, tables):
        return True
    call_next(engine, service, replica)
    if engine.policy.jump:
        run_quiet_steps(engine, tables, bound)
    return False


@inner
def apply_change(service: Service, now: float) -> None:
    """Let engines fail, return or boot, and the autoscaler decide, where it is time."""
    fleet, state = service.fleet, service.fleet.state[0]
    for replica in range(len(fleet.members)):
        if fleet.members[replica].status == BOOTING and fleet.members[replica].ready <= now:
            fleet.members[replica].status = UP
    while state.next_outage < len(fleet.outages) and fleet.outages[state.next_outage].moment <= now:
        outage = fleet.outages[state.next_outage]
        state.next_outage += 1
        if outage.ends == 1:
            end_outage(fleet, outage.engine)
        else:
            begin_outage(service, outage.engine, now)
    for replica in range(len(fleet.breakdowns)):
        break_down(service, replica, now)
    if state.tick <= now:
        autoscale(fleet, service.engines.state, now)
    state.change = next_change(fleet)


@inner
def break_down(service: Service, replica: int, now: float) -> None:
    """Let all engines of a replica come back, or fail, where it is time."""
    fleet = service.fleet
    number = len(fleet.members) // len(fleet.breakdowns)
    if fleet.breakdowns[replica].back <= now:
        fleet.breakdowns[replica].back = np.inf
        for engine in range(replica * number, (replica + 1) * number):
            end_outage(fleet, engine)
    if fleet.breakdowns[replica].fails <= now:
        set_next_breakdown(fleet, replica, now)
        for engine in range(replica * number, (replica + 1) * number):
            begin_outage(service, engine, now)


@inner
def begin_outage(service: Service, engine: int, now: float) -> None:
    """Let an engine fail. One that does not serve has nothing to lose."""
    fleet = service.fleet
    fleet.members[engine].outages += 1
    if fleet.members[engine].status == UP or fleet.members[engine].status == DRAINING:
        fleet.members[engine].status = DOWN
        fail(engine_of(service, engine), service, now)


@inner
def fail(engine: Engine, service: Service, now: float) -> None:
    """Let an engine fail: the router sends its requests to others, which compute all their tokens again."""
    later = max(now, engine.state.busy_until)  # the step that runs is still returned
    lose_running(engine)
    request = int(engine.state.head)
    while request >= 0:
        following = int(engine.requests[request].following)
        push_call(service.router, later, request)
        service.fleet.state[0].lost += 1
        request = following
    empty_engine(engine, now)


@inner
def next_arrival(requests: Rows[Request], router: Router) -> float:
    """Return when the next request arrives, as known so far [s]."""
    state = router.state[0]
    arrival = requests[state.listed].arrival if state.listed < state.known else np.inf
    return min(arrival, router.calls[0].time) if state.calls > 0 else arrival


@inner
def next_moments(engines: Engines, callers: int) -> tuple[int, float, float]:
    """Return the engine that decides next, when, and when the next other one of the first `callers` does [s]."""
    first, moment, second = 0, np.inf, np.inf
    for replica in range(len(engines.state)):
        at = engines.state[replica].moment
        if at < moment:
            if first < callers:
                second = min(second, moment)
            first, moment = replica, at
        elif at < second and replica < callers:
            second = at
    return first, moment, second


@inner
def take_arrival(service: Service) -> bool:
    """Route the next request to an engine, or reject it. Return false where no engine will ever be up."""
    requests, engines, router, fleet = service.requests, service.engines, service.router, service.fleet
    state = router.state[0]
    listed = requests[state.listed].arrival if state.listed < state.known else np.inf
    if state.calls > 0 and router.calls[0].time < listed:
        request, now = int(router.calls[0].request), float(router.calls[0].time)
        pop_call(router)
    else:
        request, now = int(state.listed), float(listed)
        state.listed += 1
    replicas, moved = len(engines.state), requests[request].moved > 0
    low, high = (fleet.prefill, replicas) if moved else (0, fleet.prefill if fleet.prefill > 0 else replicas)
    replica = route(service, request, now, low, high)
    if replica < 0:
        if fleet.state[0].change == np.inf:
            return False
        push_call(router, fleet.state[0].change, request)
        return True
    if not moved and requests[request].preempted == 0 and engines.state[replica].waiting >= fleet.max_waiting:
        fleet.state[0].rejected += 1
        requests[request].replica = -1
        call_after(service, request, now)
        return True
    requests[request].replica = replica
    enqueue(engine_of(service, replica), request, now)
    return True


@inner
def prompts_wait(service: Service, first: int, number: int, now: float) -> bool:
    """Tell whether the next step starts no prompt, since not every engine has one.

    It does where every engine has one that may start, where one of them has nothing to decode, and after `align_steps`
    steps without a start [TensorRT-LLM, PyExecutor._balance_adp_requests].
    """
    ready, idle_ones = 0, 0
    for replica in range(first, first + number):
        engine = engine_of(service, replica)
        if engine.state.decoding == 0:
            idle_ones += 1
        waiting = first_waiting(engine, look(engine, now)) >= 0
        if engine.state.partial >= 0 or (waiting and has_place(engine)):
            ready += 1
    state = service.engines.state[first]
    state.unaligned += 1
    policy = service.policies[service.fleet.members[first].kind]
    if ready < number and idle_ones == 0 and state.unaligned < policy.align_steps:
        return True
    state.unaligned = 0
    return False


@inner
def decide_together(service: Service, first: int, number: int) -> bool:
    """Let engines `first` to `first + number` decide on their next step. Return whether they are stuck."""
    kind = service.fleet.members[first].kind
    policy, tables, now, behind = service.policies[kind], service.tables[kind], np.inf, 0.0
    for replica in range(first, first + number):
        now = min(now, service.engines.state[replica].moment)
    for replica in range(first, first + number):
        engine = engine_of(service, replica)
        behind = max(behind, engine.state.busy_until)
        release(engine, now)
        see_arrivals(engine, look(engine, now))
    waits = policy.align_steps > 0 and prompts_wait(service, first, number, now)
    longest, working, host = 0.0, 0, 0.0
    tokens, most, floor = 0.0, 0.0, 0.0
    for replica in range(first, first + number):
        engine = engine_of(service, replica)
        if schedule(engine, now if waits else look(engine, now), not waits):
            rows = step_rows(engine, tables)
            own = device_time(tables, engine.step, rows) - shared_time(tables, rows) + engine.step.copies
            longest, tokens, most = max(longest, own), tokens + rows, max(most, rows)
            if not tables.ahead:
                floor = max(floor, host_floor(tables, engine.step))
            host = max(host, host_time(tables, engine.step))
            working += 1
    if working == 0:
        stuck = True
        for replica in range(first, first + number):
            stuck = idle(engine_of(service, replica), now) and stuck
        return stuck
    start = max(now, behind)
    longest = max(longest + shared_time(tables, most if tables.padded else tokens / number), floor)
    longest = with_starts(engine_of(service, first), now, start, longest, host)
    end = start + longest
    for replica in range(first, first + number):
        engine = engine_of(service, replica)
        engine.state.busy_until = behind
        if engine.step.decodes + engine.step.chunks > 0:
            run_step(engine, now, longest)
        engine.state.busy_until = end
        engine.state.moment = start if policy.overlapped else end
    return False
