"""The requests that wait in one engine: in order of arrival, of priority, or of what the prefix cache holds of them.

All that come stand in a list from HEAD on, until the engine has taken them in those that have not arrived yet behind
those that have. With priorities the engine moves those that it takes in to a heap, so that the list holds the others.
"""

from __future__ import annotations

import numpy as np

from costmodel.serving.blocks import cached_blocks
from costmodel.serving.compiled import inner
from costmodel.serving.state import (
    BLOCKED,
    BUSY_UNTIL,
    CHILD,
    DECODING,
    FOLLOWING,
    HEAD,
    KEY,
    LONGEST_PREFIX,
    LOOKED,
    MOMENT,
    PRIORITY,
    QUEUED,
    ROOT,
    TAIL,
    UNLOOKED,
    UNSEEN,
    WAITING,
    Engine,
    Policy,
    Progress,
    Requests,
)  # fmt: skip

# SGLang, schedule_policy.py: in a longer queue requests keep their order; a request of whose prompt so many tokens at
# most are cached goes last where one before it in the queue begins with at least as many of the same.
SORTED, SAME_TOKENS = 128, 32


@inner
def enqueue(progress: Progress, engine: Engine, request: int, now: float) -> None:
    """Put a request that comes at `now` at the end of the engine's queue."""
    count = engine.count
    progress.count[request, FOLLOWING] = -1
    if count[TAIL] < 0:
        count[HEAD] = request
    else:
        progress.count[count[TAIL], FOLLOWING] = request
    count[TAIL] = request
    if count[UNSEEN] < 0:
        count[UNSEEN] = request
    count[WAITING] += 1
    if engine.clock[MOMENT] == np.inf:
        engine.clock[MOMENT] = max(now, engine.clock[BUSY_UNTIL])


@inner
def look(engine: Engine, policy: Policy, now: float) -> float:
    """Return up to when the engine knows who has arrived: now, or the last look where it does not look in every step.

    It looks after steps with prompts and while nothing decodes.
    """
    if policy.look_steps > 1:
        if engine.count[DECODING] > 0 and engine.count[UNLOOKED] < policy.look_steps:
            return float(engine.clock[LOOKED])
        engine.count[UNLOOKED] = 0
        engine.clock[LOOKED] = now
    return now


@inner
def see_arrivals(requests: Requests, progress: Progress, engine: Engine, policy: Policy, now: float) -> None:
    """Note when the engine takes in requests that have arrived."""
    request = int(engine.count[UNSEEN])
    while request >= 0 and requests.arrival[request] <= now:
        if np.isnan(progress.time[request, QUEUED]):
            progress.time[request, QUEUED] = now
        following = int(progress.count[request, FOLLOWING])
        if policy.order == PRIORITY:
            drop_head(progress, engine)
            push(requests, progress, engine, request)
        request = following
    engine.count[UNSEEN] = request


@inner
def first_waiting(requests: Requests, engine: Engine, policy: Policy, now: float) -> int:
    """Return the request that starts next, -1: none has arrived."""
    if policy.order == PRIORITY:
        return int(engine.count[ROOT])
    head = int(engine.count[HEAD])
    return head if head >= 0 and requests.arrival[head] <= now else -1


@inner
def may_start(requests: Requests, engine: Engine, policy: Policy, now: float) -> bool:
    """Tell whether a request may start though no other has ended: none is known not to, or one arrives before it."""
    count = engine.count
    arrived = count[HEAD] >= 0 and requests.arrival[count[HEAD]] <= now
    if policy.order == PRIORITY:
        return bool(arrived or (count[ROOT] >= 0 and count[BLOCKED] == 0))
    return bool(arrived and count[BLOCKED] == 0)


@inner
def remove_first(requests: Requests, progress: Progress, engine: Engine, policy: Policy) -> None:
    """Take the request that starts next out of the queue."""
    if policy.order == PRIORITY:
        pop(requests, progress, engine)
    else:
        drop_head(progress, engine)
    engine.count[WAITING] -= 1


@inner
def come_back(requests: Requests, progress: Progress, engine: Engine, policy: Policy, request: int) -> None:
    """Put a preempted request back: at the head, or to its priority."""
    count = engine.count
    if policy.order == PRIORITY:
        push(requests, progress, engine, request)
    else:
        progress.count[request, FOLLOWING] = count[HEAD]
        if count[HEAD] < 0:
            count[TAIL] = request
        count[HEAD] = request
    count[WAITING] += 1


@inner
def drop_head(progress: Progress, engine: Engine) -> None:
    """Take the first request out of the list."""
    count = engine.count
    count[HEAD] = progress.count[count[HEAD], FOLLOWING]
    if count[HEAD] < 0:
        count[TAIL] = -1


@inner
def stands_before(requests: Requests, progress: Progress, one: int, other: int) -> bool:
    """Tell whether a request is more urgent than another: a lower priority, or as low and it arrived earlier."""
    if progress.count[one, KEY] != progress.count[other, KEY]:
        return bool(progress.count[one, KEY] < progress.count[other, KEY])
    if requests.arrival[one] != requests.arrival[other]:
        return bool(requests.arrival[one] < requests.arrival[other])
    return one < other


@inner
def meld(requests: Requests, progress: Progress, one: int, other: int) -> int:
    """Return the more urgent of two heaps' first requests, the other one its first child."""
    if stands_before(requests, progress, other, one):
        one, other = other, one
    progress.count[other, FOLLOWING] = progress.count[one, CHILD]
    progress.count[one, CHILD] = other
    return one


@inner
def push(requests: Requests, progress: Progress, engine: Engine, request: int) -> None:
    """Add a request to the heap: a pairing heap [Fredman, Sedgewick, Sleator, Tarjan, Algorithmica 1, 1986]."""
    progress.count[request, CHILD] = progress.count[request, FOLLOWING] = -1
    root = int(engine.count[ROOT])
    engine.count[ROOT] = request if root < 0 else meld(requests, progress, root, request)


@inner
def pop(requests: Requests, progress: Progress, engine: Engine) -> int:
    """Take the most urgent request out of the heap, and return it: its children are joined in pairs, then all."""
    links = progress.count
    root, pairs = int(engine.count[ROOT]), -1
    child = int(links[root, CHILD])
    while child >= 0:
        joined, second = child, int(links[child, FOLLOWING])
        child = -1
        if second >= 0:
            child = int(links[second, FOLLOWING])
            joined = meld(requests, progress, joined, second)
        links[joined, FOLLOWING] = pairs
        pairs = joined
    first = -1
    while pairs >= 0:
        following = int(links[pairs, FOLLOWING])
        links[pairs, FOLLOWING] = -1
        first = pairs if first < 0 else meld(requests, progress, first, pairs)
        pairs = following
    engine.count[ROOT] = first
    return root


@inner
def sort_by_prefix(requests: Requests, progress: Progress, engine: Engine, policy: Policy, now: float) -> None:
    """Put those that have arrived in order of the blocks that the prefix cache holds of them, most first."""
    if policy.order != LONGEST_PREFIX or not policy.caching:
        return
    count = engine.count
    waiting, request = 0, int(count[HEAD])
    while request >= 0 and requests.arrival[request] <= now:
        waiting += 1
        if waiting > SORTED:
            return
        find_key(requests, progress, engine, policy, request)
        request = int(progress.count[request, FOLLOWING])
    behind, request = request, int(count[HEAD])
    count[HEAD] = -1
    while request != behind:
        following = int(progress.count[request, FOLLOWING])
        insert(progress, engine, request)
        request = following
    last = int(count[HEAD])
    while waiting > 1:
        last, waiting = int(progress.count[last, FOLLOWING]), waiting - 1
    if last >= 0:
        progress.count[last, FOLLOWING] = behind
        count[TAIL] = last if behind < 0 else count[TAIL]
    else:
        count[HEAD] = behind


@inner
def insert(progress: Progress, engine: Engine, request: int) -> None:
    """Put a request into the sorted list behind those of which as much is cached, or more."""
    before, other = -1, int(engine.count[HEAD])
    while other >= 0 and progress.count[other, KEY] >= progress.count[request, KEY]:
        before, other = other, int(progress.count[other, FOLLOWING])
    progress.count[request, FOLLOWING] = other
    if before < 0:
        engine.count[HEAD] = request
    else:
        progress.count[before, FOLLOWING] = request


@inner
def find_key(requests: Requests, progress: Progress, engine: Engine, policy: Policy, request: int) -> None:
    """Note the cached blocks of a request. -1 where one before it in the queue will bring its beginning."""
    first = requests.first_id[request]
    blocks, shared = requests.first_id[request + 1] - first, -(-SAME_TOKENS // policy.block)
    key = cached_blocks(requests, engine, request, blocks)
    if key * policy.block <= SAME_TOKENS and blocks >= shared:
        other = int(engine.count[HEAD])
        while other != request:
            start = requests.first_id[other]
            if (
                0 <= progress.count[other, KEY] * policy.block <= SAME_TOKENS
                and requests.first_id[other + 1] - start >= shared
                and requests.ids[start + shared - 1] == requests.ids[first + shared - 1]
            ):
                key = -1
                break
            other = int(progress.count[other, FOLLOWING])
    progress.count[request, KEY] = key
