"""Requests that decode: how they begin, get tokens with every step, and end.

They are counted, not walked: a step adds to all of them the same tokens, so that the ticks at which they end and need
blocks are known when they begin.
"""

from __future__ import annotations

import math

import numpy as np

from costmodel.serving.blocks import free_request, share_prefix
from costmodel.serving.compiled import inner
from costmodel.serving.state import (
    COMPUTED,
    DECODE_STEPS,
    DECODERS,
    DECODING,
    END,
    ENDERS,
    ENDING,
    FINISH,
    FIRST,
    GAP_BINS,
    GAPS_PER_FACTOR_E,
    GENERATED,
    HELD,
    KEYS,
    LAST,
    LONGEST,
    MOVED,
    NEVER,
    NEXT_FINISH,
    OUTPUT,
    OWN,
    PROMPTS_ONLY,
    SETTLED,
    SHORTEST_GAP,
    START,
    STARTERS,
    STARTING,
    TARGET,
    TICK,
    TOKEN_END,
    Engine,
    Policy,
    Progress,
    Requests,
)  # fmt: skip


@inner
def growth(engine: Engine, policy: Policy) -> int:
    """Return the tokens that the next decoding step gives each request: floor((s+1) a) - floor(s a) for a per step."""
    if policy.tokens_per_step == 1.0:
        return 1
    steps = engine.count[DECODE_STEPS]
    return int(math.floor((steps + 1) * policy.tokens_per_step) - math.floor(steps * policy.tokens_per_step))


@inner
def find_next_finish(progress: Progress, engine: Engine) -> None:
    """Note the tick at which the next decoding request ends, and how long the longest one is."""
    least, longest = NEVER, -NEVER
    for i in range(engine.count[DECODING]):
        request = engine.list[DECODERS, i]
        least = min(least, progress.count[request, END])
        longest = max(longest, progress.count[request, TARGET] - progress.count[request, START])
    engine.count[NEXT_FINISH], engine.count[LONGEST] = least, longest


@inner
def leave_decoding(progress: Progress, engine: Engine, policy: Policy, request: int) -> None:
    """Note the cached tokens and blocks of a request that stops decoding. It stays in the list."""
    count = engine.count
    cached = progress.count[request, TARGET] + count[TICK] - progress.count[request, START]
    progress.count[request, COMPUTED] = cached
    count[KEYS] -= cached
    if not policy.reserve:
        progress.count[request, OWN] = -(-cached // policy.block) - progress.count[request, HELD]
        engine.phase[(cached - count[TICK]) % policy.block] -= 1


@inner
def give_first_tokens(requests: Requests, progress: Progress, engine: Engine, policy: Policy, end: float) -> None:
    """Let requests whose prompt is computed begin to decode."""
    count = engine.count
    for i in range(count[STARTING]):
        request = engine.list[STARTERS, i]
        progress.count[request, GENERATED] += 1
        if np.isnan(progress.time[request, FIRST]):
            progress.time[request, FIRST] = end
        else:
            note_gap(engine, end - progress.time[request, LAST], 1)
        progress.time[request, LAST] = end
        left = requests.length[request, OUTPUT] - progress.count[request, GENERATED]
        if left == 0:
            finish(requests, progress, engine, request, end)
            continue
        if count[PROMPTS_ONLY] == 1:
            progress.time[request, FINISH] = end
            progress.count[request, MOVED] = progress.count[request, TARGET]
            engine.list[ENDERS, count[ENDING]] = request
            count[ENDING] += 1
            continue
        cached = progress.count[request, TARGET]
        progress.count[request, START], progress.count[request, END] = count[TICK], count[TICK] + left
        engine.list[DECODERS, count[DECODING]] = request
        count[DECODING] += 1
        count[KEYS] += cached
        if not policy.reserve:
            engine.phase[(cached - count[TICK]) % policy.block] += 1
        count[NEXT_FINISH] = min(count[NEXT_FINISH], progress.count[request, END])
        count[LONGEST] = max(count[LONGEST], cached - count[TICK])
    count[STARTING] = 0


@inner
def give_tokens(requests: Requests, progress: Progress, engine: Engine, policy: Policy, end: float) -> None:
    """Give the tokens of a step that ends at `end` to the requests that decoded in it."""
    count = engine.count
    decoding = count[DECODING]
    if count[SETTLED] > 0:
        note_gap(engine, end - engine.clock[TOKEN_END], count[SETTLED])
    for i in range(count[SETTLED], decoding):
        note_gap(engine, end - progress.time[engine.list[DECODERS, i], LAST], 1)
    tokens = growth(engine, policy)
    count[TICK] += tokens
    count[DECODE_STEPS] += 1
    count[KEYS] += decoding * tokens
    engine.clock[TOKEN_END] = end
    if count[TICK] >= count[NEXT_FINISH]:
        kept = 0
        for i in range(decoding):
            request = engine.list[DECODERS, i]
            if progress.count[request, END] > count[TICK]:
                engine.list[DECODERS, kept] = request
                kept += 1
                continue
            leave_decoding(progress, engine, policy, request)
            finish(requests, progress, engine, request, end)
        count[DECODING] = kept
        find_next_finish(progress, engine)
    count[SETTLED] = count[DECODING]


@inner
def finish(requests: Requests, progress: Progress, engine: Engine, request: int, end: float) -> None:
    """Note the last token of a request. It keeps its place until the engine knows."""
    progress.time[request, FINISH] = end
    progress.count[request, GENERATED] = requests.length[request, OUTPUT]
    engine.list[ENDERS, engine.count[ENDING]] = request
    engine.count[ENDING] += 1


@inner
def note_gap(engine: Engine, gap: float, tokens: int) -> None:
    """Count tokens by the time since the one before."""
    bucket = int(math.log(max(gap, SHORTEST_GAP) / SHORTEST_GAP) * GAPS_PER_FACTOR_E)
    engine.gaps[min(bucket, GAP_BINS - 1)] += tokens


@inner
def release(requests: Requests, progress: Progress, engine: Engine, policy: Policy, now: float) -> None:
    """Free places and blocks of requests whose last token has been returned."""
    kept = 0
    for i in range(engine.count[ENDING]):
        request = engine.list[ENDERS, i]
        if progress.time[request, FINISH] > now:
            engine.list[ENDERS, kept] = request
            kept += 1
            continue
        if policy.caching:
            share_prefix(requests, progress, engine, policy, request, progress.count[request, COMPUTED])
        free_request(requests, progress, engine, policy, request)
    engine.count[ENDING] = kept
