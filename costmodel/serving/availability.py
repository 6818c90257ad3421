"""Which engines of a fleet serve: failures and repairs, an autoscaler, requests that are rejected."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from costmodel.serving.compiled import inner
from costmodel.serving.decoding import leave_decoding
from costmodel.serving.queue import pop
from costmodel.serving.rows import Row, Rows
from costmodel.serving.state import ANONYMOUS, LEVELS, NEVER, Engine, EngineState, Request

UP, DOWN, BOOTING, DRAINING, OFF = 0, 1, 2, 3, 4
MULTIPLIER, MODULUS = 16807, 2**31 - 1  # of `die`


class Member(Row):
    """An engine as a member of the fleet."""

    status: int  # `UP`, `DOWN`, `BOOTING`, `DRAINING` or `OFF`
    outages: int  # that are under way
    ready: float  # when one that boots will serve [s]
    since: float  # when it was last rented [s]
    rented: float  # how long it was before [s]
    link_free: float  # when its link to other engines is free [s]
    kind: int  # of the service's policies and tables
    blocks: int  # of its cache
    weight: float  # of it for the router: one of 2 with two requests is as loaded as one of 1 with one


class Outage(Row):
    """A stated failure, or its end. moment: [s]; engine: its number; ends: 1: it is repaired."""

    moment: float
    engine: int
    ends: int


class Breakdown(Row):
    """A replica, which is several neighbouring engines, as it fails at random."""

    fails: float  # when it fails next [s]
    back: float  # when it is back [s], infinite while it works
    die: int  # what it draws the time between its failures from


class FleetState(Row):
    """What changes of a fleet as a whole."""

    change: float  # when any engine's status changes next [s]
    tick: float  # when the autoscaler decides next [s]
    next_outage: int  # of the stated ones
    lost: int  # requests that lost their engine, so far
    rejected: int  # requests that met a full queue, so far
    failures: int  # at random, of all replicas, so far
    links_free: float  # when the links of all engines that decode are free [s]


class Fleet(NamedTuple):
    """Who serves when."""

    state: Rows[FleetState]  # one row: what changes
    members: Rows[Member]  # engines
    outages: Rows[Outage]  # stated failures and repairs in order
    breakdowns: Rows[Breakdown]  # replicas that fail at random
    mtbf: float  # mean time of a replica between failures [s], 0: none
    repair: float  # until it is back [s]
    interval: float  # between the autoscaler's decisions [s], 0: none
    least: int  # engines that it keeps
    most: int  # engines that it keeps
    target: float  # requests for each of them
    start_up: float  # until a new engine serves [s]
    max_waiting: int  # requests in an engine's queue from which on the router rejects others
    prefill: int  # the first engines, which compute prompts only, 0: all do everything
    token_time: float  # of moving a prompt's cache to another engine, a token [s]
    sending: float  # of that, for which the link of the engine that sends it is taken [s]
    receiving: float  # for which the links of all engines that decode are [s]
    latency: float  # of moving a cache [s]
    lockstep: int  # neighbouring engines that step together, 1: each by itself
    prompt_lockstep: int  # of those that compute prompts only


@inner
def next_change(fleet: Fleet) -> float:
    """Return when an engine fails, is repaired or booted, or the autoscaler decides [s]."""
    change = float(fleet.state[0].tick)
    if fleet.state[0].next_outage < len(fleet.outages):
        change = min(change, fleet.outages[fleet.state[0].next_outage].moment)
    for engine in range(len(fleet.members)):
        if fleet.members[engine].status == BOOTING:
            change = min(change, fleet.members[engine].ready)
    for replica in range(len(fleet.breakdowns)):
        change = min(change, fleet.breakdowns[replica].fails, fleet.breakdowns[replica].back)
    return change


@inner
def draw_gap(fleet: Fleet, replica: int) -> float:
    """Return how long a replica works until it fails, -MTBF ln(u) [s]; u = x / (2^31 - 1), x -> 16807 x mod (2^31 - 1).

    [Park and Miller, Communications of the ACM 31(10), 1988]
    """
    own = fleet.breakdowns[replica]
    own.die = own.die * MULTIPLIER % MODULUS
    return -fleet.mtbf * math.log(own.die / MODULUS)


@inner
def set_next_breakdown(fleet: Fleet, replica: int, failed: float) -> None:
    """Note when a replica that fails at a moment is back, and when it fails again."""
    fleet.state[0].failures += 1
    fleet.breakdowns[replica].back = failed + fleet.repair
    fleet.breakdowns[replica].fails = failed + fleet.repair + draw_gap(fleet, replica)


@inner
def end_outage(fleet: Fleet, engine: int) -> None:
    """Let an engine serve again, unless another outage of it is under way."""
    fleet.members[engine].outages -= 1
    if fleet.members[engine].outages == 0 and fleet.members[engine].status == DOWN:
        fleet.members[engine].status = UP


@inner
def in_engine(state: EngineState) -> int:
    """Return the requests that an engine has."""
    return int(state.waiting + state.decoding + state.starting + state.ending + (1 if state.partial >= 0 else 0))


@inner
def count_requests(fleet: Fleet, states: Rows[EngineState]) -> int:
    """Return the requests of all engines. Those that are drained are given back."""
    requests = 0
    for engine in range(len(fleet.members)):
        own = in_engine(states[engine])
        requests += own
        if fleet.members[engine].status == DRAINING and own == 0:
            give_back(fleet, engine, max(states[engine].busy_until, fleet.members[engine].ready))
    return requests


@inner
def autoscale(fleet: Fleet, states: Rows[EngineState], now: float) -> None:
    """Start or drain engines until there is one for each `target` requests, `least` to `most` of them.

    states: of all engines. A drained engine serves what it has, and is given back when that is done.
    """
    fleet.state[0].tick = now + fleet.interval
    requests, serving, last = count_requests(fleet, states), 0, len(fleet.members) - 1
    for engine in range(last + 1):
        serving += 1 if fleet.members[engine].status == UP or fleet.members[engine].status == BOOTING else 0
    wanted = min(max(int(np.ceil(requests / fleet.target)), fleet.least), fleet.most)
    for status in (DRAINING, OFF):
        for engine in range(last + 1):
            if serving < wanted and fleet.members[engine].status == status:
                start(fleet, engine, now)
                serving += 1
    for status in (BOOTING, UP):
        for i in range(last + 1):
            if serving > wanted and fleet.members[last - i].status == status:
                stop(fleet, last - i, now)
                serving -= 1


@inner
def start(fleet: Fleet, engine: int, now: float) -> None:
    """Let an engine that is drained serve on, or boot one that is off."""
    if fleet.members[engine].status == DRAINING:
        fleet.members[engine].status = UP
    else:
        member = fleet.members[engine]
        member.status, member.since, member.ready = BOOTING, now, now + fleet.start_up


@inner
def stop(fleet: Fleet, engine: int, now: float) -> None:
    """Give an engine back that boots, or let one serve what it has."""
    if fleet.members[engine].status == BOOTING:
        give_back(fleet, engine, now)
    else:
        fleet.members[engine].status, fleet.members[engine].ready = DRAINING, now


@inner
def give_back(fleet: Fleet, engine: int, moment: float) -> None:
    """Stop paying for an engine."""
    fleet.members[engine].status = OFF
    fleet.members[engine].rented += moment - fleet.members[engine].since


@inner
def lose_request(row: Request) -> None:
    """Let a request forget its engine: all its tokens are computed again elsewhere."""
    row.target = row.prompt + row.generated
    row.held = row.own = row.computed = row.moved = row.swapped = 0
    row.segment = -1


@inner
def lose_running(engine: Engine) -> None:
    """Put what an engine runs in front of its queue, as requests that have no cache.

    The step that runs when an engine fails is still returned.
    """
    requests, state = engine.requests, engine.state
    while state.root >= 0:
        request = pop(engine)
        requests[request].following = state.head
        state.head = request
    running = state.decoding
    for i in range(running + (1 if state.partial >= 0 else 0)):
        if i < running:
            request = int(engine.decoders[running - 1 - i])
            leave_decoding(engine, request)
            requests[request].generated += state.tick - requests[request].start
        else:
            request = int(state.partial)
        requests[request].preempted += 1
        requests[request].following = state.head
        state.head = request
    request = int(state.head)
    while request >= 0:
        lose_request(requests[request])
        request = int(requests[request].following)


@inner
def empty_engine(engine: Engine, now: float) -> None:
    """Leave an engine without requests and cache. What it has counted so far stays."""
    state, policy = engine.state, engine.policy
    spare = len(engine.entry) - 1
    state.head = state.tail = state.unseen = state.partial = state.root = -1
    state.decoding = state.ending = state.starting = state.settled = state.waiting = state.keys = 0
    state.free_head = state.free_tail = 0
    state.next_finish, state.free = NEVER, policy.blocks
    for place in range(state.spare, spare):  # those below were never taken
        engine.entry[place].unused = 0
    state.spare = spare
    engine.entry[0].size, engine.entry[0].owner = policy.blocks, ANONYMOUS
    engine.entry[0].before = engine.entry[0].after = -1
    for slot in range(len(engine.phase)):
        engine.phase[slot] = 0
    for run in range(len(engine.run)):
        engine.run[run].entry = engine.run[run].stored = -1
        engine.run[run].cached = 0
    state.host_free = policy.host_blocks
    for tier in range(1, LEVELS + 1):
        engine.tiers[tier].oldest = engine.tiers[tier].newest = -1
        engine.tiers[tier].used = 0
    state.moment = np.inf
    state.busy_until = state.token_end = state.started = now
