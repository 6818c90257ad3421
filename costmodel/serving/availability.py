"""Which engines of a fleet serve: failures and repairs, an autoscaler, requests that are rejected."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from costmodel.serving.compiled import inner
from costmodel.serving.decoding import leave_decoding
from costmodel.serving.queue import pop
from costmodel.serving.state import (
    ANONYMOUS,
    BUSY_UNTIL,
    COMPUTED,
    DECODERS,
    DECODING,
    ENDING,
    FOLLOWING,
    FREE,
    FREE_HEAD,
    FREE_TAIL,
    GENERATED,
    HEAD,
    HELD,
    HOST_FREE,
    KEYS,
    LEVEL,
    LONGEST,
    MOMENT,
    MOVED,
    NEVER,
    NEXT_FINISH,
    OWN,
    OWNER,
    PARTIAL,
    PREEMPTED,
    PROMPT,
    ROOT,
    SEGMENT,
    SETTLED,
    SIZE,
    SPARE,
    START,
    STARTED,
    STARTING,
    SWAPPED,
    TAIL,
    TARGET,
    TICK,
    TIER_NEWEST,
    TIER_OLDEST,
    TIER_USED,
    TOKEN_END,
    UNSEEN,
    UNUSED,
    WAITING,
    Engine,
    Policy,
    Progress,
    Requests,
)  # fmt: skip
from costmodel.serving.tiers import LEVELS

UP, DOWN, BOOTING, DRAINING, OFF = 0, 1, 2, 3, 4
FAILS, BACK = 0, 1  # columns of breakdowns
MULTIPLIER, MODULUS = 16807, 2**31 - 1  # of `dice`


class Fleet(NamedTuple):
    """Who serves when.

    status: of each engine; ready: when one that boots will serve [s]; since: when it was last rented, rented: how long
        it was before [s].
    outage_time, outage_engine, outage_ends: stated failures and repairs in order.
    next_outage: the next of them.
    breakdown: of each replica, which are neighbouring engines: when it fails next at random and when it is back [s],
        infinite while it works; dice: what it draws its gaps from; mtbf: their mean [s], 0: none; repair: until it is
        back [s].
    outages: of each engine that are under way.
    failures: so far, of all replicas.
    change: when any of this changes next [s].
    tick: when the autoscaler decides next [s].
    interval: between its decisions, 0: none; least, most: engines; target:
        requests for each; start_up: until a new one serves [s].
    max_waiting: requests in an engine's queue from which on the router rejects others.
    lost, rejected: requests that lost their engine, and that were rejected, so far.
    prefill: the first engines, which compute prompts only, 0: all do everything; token_time, latency: of moving a
        prompt's cache to another engine [s]; link_free: when each engine's link is free again [s].
    lockstep: neighbouring engines that step together, 1: each by itself.
    """

    status: Any
    ready: Any
    since: Any
    rented: Any
    outage_time: Any
    outage_engine: Any
    outage_ends: Any
    next_outage: Any
    breakdown: Any
    dice: Any
    mtbf: float
    repair: float
    outages: Any
    failures: Any
    change: Any
    tick: Any
    interval: float
    least: int
    most: int
    target: float
    start_up: float
    max_waiting: int
    lost: Any
    rejected: Any
    prefill: int
    token_time: float
    latency: float
    link_free: Any
    lockstep: int


@inner
def next_change(fleet: Fleet) -> float:
    """Return when an engine fails, is repaired or booted, or the autoscaler decides [s]."""
    change = float(fleet.tick[0])
    if fleet.next_outage[0] < len(fleet.outage_time):
        change = min(change, fleet.outage_time[fleet.next_outage[0]])
    for engine in range(len(fleet.status)):
        if fleet.status[engine] == BOOTING:
            change = min(change, fleet.ready[engine])
    for replica in range(len(fleet.breakdown)):
        change = min(change, fleet.breakdown[replica, FAILS], fleet.breakdown[replica, BACK])
    return change


@inner
def draw_gap(fleet: Fleet, replica: int) -> float:
    """Return how long a replica works until it fails, -MTBF ln(u) [s]; u = x / (2^31 - 1), x -> 16807 x mod (2^31 - 1).

    [Park and Miller, Communications of the ACM 31(10), 1988]
    """
    fleet.dice[replica] = fleet.dice[replica] * MULTIPLIER % MODULUS
    return -fleet.mtbf * math.log(fleet.dice[replica] / MODULUS)


@inner
def set_next_breakdown(fleet: Fleet, replica: int, failed: float) -> None:
    """Note when a replica that fails at a moment is back, and when it fails again."""
    fleet.failures[0] += 1
    fleet.breakdown[replica, BACK] = failed + fleet.repair
    fleet.breakdown[replica, FAILS] = failed + fleet.repair + draw_gap(fleet, replica)


@inner
def end_outage(fleet: Fleet, engine: int) -> None:
    """Let an engine serve again, unless another outage of it is under way."""
    fleet.outages[engine] -= 1
    if fleet.outages[engine] == 0 and fleet.status[engine] == DOWN:
        fleet.status[engine] = UP


@inner
def in_engine(count: Any) -> int:
    """Return the requests that an engine has. count: of it."""
    return int(count[WAITING] + count[DECODING] + count[STARTING] + count[ENDING] + (1 if count[PARTIAL] >= 0 else 0))


@inner
def count_requests(fleet: Fleet, counts: Any, clocks: Any) -> int:
    """Return the requests of all engines. Those that are drained are given back."""
    requests = 0
    for engine in range(len(fleet.status)):
        own = in_engine(counts[engine])
        requests += own
        if fleet.status[engine] == DRAINING and own == 0:
            give_back(fleet, engine, max(clocks[engine, BUSY_UNTIL], fleet.ready[engine]))
    return requests


@inner
def autoscale(fleet: Fleet, counts: Any, clocks: Any, now: float) -> None:
    """Start or drain engines until there is one for each `target` requests, `least` to `most` of them.

    counts, clocks: of all engines. A drained engine serves what it has, and is given back when that is done.
    """
    fleet.tick[0] = now + fleet.interval
    requests, serving, last = count_requests(fleet, counts, clocks), 0, len(fleet.status) - 1
    for engine in range(last + 1):
        serving += 1 if fleet.status[engine] == UP or fleet.status[engine] == BOOTING else 0
    wanted = min(max(int(np.ceil(requests / fleet.target)), fleet.least), fleet.most)
    for status in (DRAINING, OFF):
        for engine in range(last + 1):
            if serving < wanted and fleet.status[engine] == status:
                start(fleet, engine, now)
                serving += 1
    for status in (BOOTING, UP):
        for i in range(last + 1):
            if serving > wanted and fleet.status[last - i] == status:
                stop(fleet, last - i, now)
                serving -= 1


@inner
def start(fleet: Fleet, engine: int, now: float) -> None:
    """Let an engine that is drained serve on, or boot one that is off."""
    if fleet.status[engine] == DRAINING:
        fleet.status[engine] = UP
    else:
        fleet.status[engine], fleet.since[engine], fleet.ready[engine] = BOOTING, now, now + fleet.start_up


@inner
def stop(fleet: Fleet, engine: int, now: float) -> None:
    """Give an engine back that boots, or let one serve what it has."""
    if fleet.status[engine] == BOOTING:
        give_back(fleet, engine, now)
    else:
        fleet.status[engine], fleet.ready[engine] = DRAINING, now


@inner
def give_back(fleet: Fleet, engine: int, moment: float) -> None:
    """Stop paying for an engine."""
    fleet.status[engine] = OFF
    fleet.rented[engine] += moment - fleet.since[engine]


@inner
def lose_request(requests: Requests, progress: Progress, request: int) -> None:
    """Let a request forget its engine: all its tokens are computed again elsewhere."""
    count = progress.count
    count[request, TARGET] = requests.length[request, PROMPT] + count[request, GENERATED]
    count[request, HELD] = count[request, OWN] = count[request, COMPUTED] = count[request, MOVED] = 0
    count[request, SWAPPED] = 0
    count[request, SEGMENT] = -1


@inner
def lose_running(requests: Requests, progress: Progress, engine: Engine, policy: Policy) -> None:
    """Put what an engine runs in front of its queue, as requests that have no cache.

    The step that runs when an engine fails is still returned.
    """
    count = engine.count
    while count[ROOT] >= 0:
        request = pop(requests, progress, engine)
        progress.count[request, FOLLOWING] = count[HEAD]
        count[HEAD] = request
    running = count[DECODING]
    for i in range(running + (1 if count[PARTIAL] >= 0 else 0)):
        if i < running:
            request = int(engine.list[DECODERS, running - 1 - i])
            leave_decoding(progress, engine, policy, request)
            progress.count[request, GENERATED] += count[TICK] - progress.count[request, START]
        else:
            request = int(count[PARTIAL])
        progress.count[request, PREEMPTED] += 1
        progress.count[request, FOLLOWING] = count[HEAD]
        count[HEAD] = request
    request = int(count[HEAD])
    while request >= 0:
        lose_request(requests, progress, request)
        request = int(progress.count[request, FOLLOWING])


@inner
def empty_engine(engine: Engine, policy: Policy, now: float) -> None:
    """Leave an engine without requests and cache. What it has counted so far stays."""
    count, entries = engine.count, len(engine.entry)
    for slot in (HEAD, TAIL, UNSEEN, PARTIAL, ROOT):
        count[slot] = -1
    for slot in (DECODING, ENDING, STARTING, KEYS, SETTLED, WAITING, FREE_HEAD, FREE_TAIL):
        count[slot] = 0
    count[NEXT_FINISH], count[LONGEST], count[FREE], count[SPARE] = NEVER, -NEVER, policy.blocks, entries - 1
    for entry in range(entries):
        engine.entry[entry, UNUSED] = entries - 1 - entry
    engine.entry[0, SIZE], engine.entry[0, OWNER] = policy.blocks, ANONYMOUS
    engine.entry[0, 0] = engine.entry[0, 1] = -1
    for slot in range(len(engine.phase)):
        engine.phase[slot] = 0
    for node in range(len(engine.cached_entry)):
        engine.cached_entry[node] = -1
    count[HOST_FREE] = policy.host_blocks
    for node in range(len(engine.tier)):
        engine.tier[node, LEVEL] = 0
    for tier in range(1, LEVELS + 1):
        count[TIER_OLDEST + tier] = count[TIER_NEWEST + tier] = -1
        count[TIER_USED + tier] = 0
    engine.clock[MOMENT] = np.inf
    engine.clock[BUSY_UNTIL] = engine.clock[TOKEN_END] = engine.clock[STARTED] = now
