"""The requests that wait in one engine: in order of arrival, of priority, or of what the prefix cache holds of them.

All that come stand in a list from HEAD on, until the engine has taken them in those that have not arrived yet behind
those that have. With priorities the engine moves those that it takes in to a heap, so that the list holds the others.
"""

from __future__ import annotations

import math

import numpy as np

from costmodel.serving.compiled import inner
from costmodel.serving.prefix import cached_blocks, run_with
from costmodel.serving.rows import Rows
from costmodel.serving.state import LONGEST_PREFIX, PRIORITY, Engine, Request

# SGLang, schedule_policy.py: in a longer queue requests keep their order; a request of whose prompt so many tokens at
# most are cached goes last where one before it in the queue begins with at least as many of the same.
SORTED, SAME_TOKENS = 128, 32


@inner
def enqueue(engine: Engine, request: int, now: float) -> None:
    """Put a request that comes at `now` at the end of the engine's queue."""
    state = engine.state
    engine.requests[request].following = -1
    if state.tail < 0:
        state.head = request
    else:
        engine.requests[state.tail].following = request
    state.tail = request
    if state.unseen < 0:
        state.unseen = request
    state.waiting += 1
    if state.moment == np.inf:
        state.moment = max(now, state.busy_until)


@inner
def look(engine: Engine, now: float) -> float:
    """Return up to when the engine knows who has arrived: now, or the last look where it does not look in every step.

    It looks after steps with prompts and while nothing decodes.
    """
    state = engine.state
    if engine.policy.look_steps > 1:
        if state.decoding > 0 and state.unlooked < engine.policy.look_steps:
            return float(state.looked)
        state.unlooked = 0
        state.looked = now
    return now


@inner
def see_arrivals(engine: Engine, now: float) -> None:
    """Note when the engine takes in requests that have arrived."""
    requests = engine.requests
    request = int(engine.state.unseen)
    while request >= 0 and requests[request].arrival <= now:
        if math.isnan(requests[request].queued):
            requests[request].queued = now
        following = int(requests[request].following)
        if engine.policy.order == PRIORITY:
            drop_head(engine)
            push(engine, request)
        request = following
    engine.state.unseen = request


@inner
def first_waiting(engine: Engine, now: float) -> int:
    """Return the request that starts next, -1: none has arrived."""
    if engine.policy.order == PRIORITY:
        return int(engine.state.root)
    head = int(engine.state.head)
    return head if head >= 0 and engine.requests[head].arrival <= now else -1


@inner
def may_start(engine: Engine, now: float) -> bool:
    """Tell whether a request may start though no other has ended: none is known not to, or one arrives before it."""
    state = engine.state
    arrived = state.head >= 0 and engine.requests[state.head].arrival <= now
    if engine.policy.order == PRIORITY:
        return bool(arrived or (state.root >= 0 and state.blocked == 0))
    return bool(arrived and state.blocked == 0)


@inner
def remove_first(engine: Engine) -> None:
    """Take the request that starts next out of the queue."""
    if engine.policy.order == PRIORITY:
        pop(engine)
    else:
        drop_head(engine)
    engine.state.waiting -= 1


@inner
def come_back(engine: Engine, request: int) -> None:
    """Put a preempted request back: at the head, or to its priority."""
    state = engine.state
    if engine.policy.order == PRIORITY:
        push(engine, request)
    else:
        engine.requests[request].following = state.head
        if state.head < 0:
            state.tail = request
        state.head = request
    state.waiting += 1


@inner
def drop_head(engine: Engine) -> None:
    """Take the first request out of the list."""
    state = engine.state
    state.head = engine.requests[state.head].following
    if state.head < 0:
        state.tail = -1


@inner
def stands_before(requests: Rows[Request], one: int, other: int) -> bool:
    """Tell whether a request is more urgent than another: a lower priority, or as low and it arrived earlier."""
    if requests[one].priority != requests[other].priority:
        return bool(requests[one].priority < requests[other].priority)
    if requests[one].arrival != requests[other].arrival:
        return bool(requests[one].arrival < requests[other].arrival)
    return one < other


@inner
def meld(requests: Rows[Request], one: int, other: int) -> int:
    """Return the more urgent of two heaps' first requests, the other one its first child."""
    if stands_before(requests, other, one):
        one, other = other, one
    requests[other].following = requests[one].child
    requests[one].child = other
    return one


@inner
def push(engine: Engine, request: int) -> None:
    """Add a request to the heap: a pairing heap [Fredman, Sedgewick, Sleator, Tarjan, Algorithmica 1, 1986]."""
    requests, root = engine.requests, int(engine.state.root)
    requests[request].child = requests[request].following = -1
    engine.state.root = request if root < 0 else meld(requests, root, request)


@inner
def pop(engine: Engine) -> int:
    """Take the most urgent request out of the heap, and return it: its children are joined in pairs, then all."""
    requests, root, pairs = engine.requests, int(engine.state.root), -1
    child = int(requests[root].child)
    while child >= 0:
        joined, second = child, int(requests[child].following)
        child = -1
        if second >= 0:
            child = int(requests[second].following)
            joined = meld(requests, joined, second)
        requests[joined].following = pairs
        pairs = joined
    first = -1
    while pairs >= 0:
        following = int(requests[pairs].following)
        requests[pairs].following = -1
        first = pairs if first < 0 else meld(requests, first, pairs)
        pairs = following
    engine.state.root = first
    return root


@inner
def sort_by_prefix(engine: Engine, now: float) -> None:
    """Put those that have arrived in order of the blocks that the prefix cache holds of them, most first."""
    requests = engine.requests
    if engine.policy.order != LONGEST_PREFIX or not engine.policy.caching:
        return
    state = engine.state
    waiting, request = 0, int(state.head)
    while request >= 0 and requests[request].arrival <= now:
        waiting += 1
        if waiting > SORTED:
            return
        find_key(engine, request)
        request = int(requests[request].following)
    behind, request = request, int(state.head)
    state.head = -1
    while request != behind:
        following = int(requests[request].following)
        insert(engine, request)
        request = following
    last = int(state.head)
    while waiting > 1:
        last, waiting = int(requests[last].following), waiting - 1
    if last >= 0:
        requests[last].following = behind
        state.tail = last if behind < 0 else state.tail
    else:
        state.head = behind


@inner
def insert(engine: Engine, request: int) -> None:
    """Put a request into the sorted list behind those of which as much is cached, or more."""
    row, requests = engine.requests[request], engine.requests
    before, other = -1, int(engine.state.head)
    while other >= 0 and requests[other].key >= row.key:
        before, other = other, int(requests[other].following)
    row.following = other
    if before < 0:
        engine.state.head = request
    else:
        requests[before].following = request


@inner
def find_key(engine: Engine, request: int) -> None:
    """Note the cached blocks of a request. -1 where one before it in the queue will bring its beginning."""
    row, requests, policy = engine.requests[request], engine.requests, engine.policy
    blocks, shared = row.blocks, -(-SAME_TOKENS // policy.block)
    key = cached_blocks(engine, request, blocks)
    if key * policy.block <= SAME_TOKENS and blocks >= shared:
        other, run = int(engine.state.head), run_with(engine, request, shared - 1)
        while other != request:
            if (
                0 <= requests[other].key * policy.block <= SAME_TOKENS
                and requests[other].blocks >= shared
                and run_with(engine, other, shared - 1) == run
            ):
                key = -1
                break
            other = int(requests[other].following)
    row.key = key
