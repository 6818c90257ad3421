"""Requests that decode: how they begin, get tokens with every step, and end.

They are counted, not walked: a step adds to all of them the same tokens, so that the ticks at which they end and need
blocks are known when they begin.
"""

from __future__ import annotations

import math

from costmodel.serving.compiled import inner
from costmodel.serving.prefix import free_request, share_prefix
from costmodel.serving.state import GAP_BINS, GAPS_PER_FACTOR_E, NEVER, SHORTEST_GAP, Engine


@inner
def growth(engine: Engine) -> int:
    """Return the tokens that the next decoding step gives each request: floor((s+1) a) - floor(s a) for a per step."""
    policy = engine.policy
    if policy.tokens_per_step == 1.0:
        return 1
    steps = engine.state.decode_steps
    return int(math.floor((steps + 1) * policy.tokens_per_step) - math.floor(steps * policy.tokens_per_step))


@inner
def find_next_finish(engine: Engine) -> None:
    """Note the tick at which the next decoding request ends."""
    least = NEVER
    for i in range(engine.state.decoding):
        end = engine.requests[engine.decoders[i]].end
        if end < least:  # twice as fast in Python as `min`
            least = end
    engine.state.next_finish = least


@inner
def leave_decoding(engine: Engine, request: int) -> None:
    """Note the cached tokens and blocks of a request that stops decoding. It stays in the list."""
    row, policy, state = engine.requests[request], engine.policy, engine.state
    cached = row.target + state.tick - row.start
    row.computed = cached
    state.keys -= cached
    if not policy.reserve:
        row.own = -(-cached // policy.block) - row.held
        engine.phase[(cached - state.tick) % policy.block] -= 1


@inner
def give_first_tokens(engine: Engine, end: float) -> None:
    """Let requests whose prompt is computed begin to decode."""
    requests, state = engine.requests, engine.state
    for i in range(state.starting):
        request = engine.starters[i]
        requests[request].generated += 1
        if math.isnan(requests[request].first):
            requests[request].first = end
        else:
            note_gap(engine, end - requests[request].last, 1)
        requests[request].last = end
        left = requests[request].output - requests[request].generated
        if left == 0:
            finish(engine, request, end)
            continue
        if state.prompts_only == 1:
            requests[request].finish = end
            requests[request].moved = requests[request].target
            engine.enders[state.ending] = request
            state.ending += 1
            continue
        cached = requests[request].target
        requests[request].start, requests[request].end = state.tick, state.tick + left
        engine.decoders[state.decoding] = request
        state.decoding += 1
        state.keys += cached
        if not engine.policy.reserve:
            engine.phase[(cached - state.tick) % engine.policy.block] += 1
        state.next_finish = min(state.next_finish, requests[request].end)
    state.starting = 0


@inner
def give_tokens(engine: Engine, end: float) -> None:
    """Give the tokens of a step that ends at `end` to the requests that decoded in it."""
    state = engine.state
    decoding = state.decoding
    if state.settled > 0:
        note_gap(engine, end - state.token_end, state.settled)
    for i in range(state.settled, decoding):
        note_gap(engine, end - engine.requests[engine.decoders[i]].last, 1)
    tokens = growth(engine)
    state.tick += tokens
    state.decode_steps += 1
    state.keys += decoding * tokens
    state.token_end = end
    if state.tick >= state.next_finish:
        kept = 0
        for i in range(decoding):
            request = engine.decoders[i]
            if engine.requests[request].end > state.tick:
                engine.decoders[kept] = request
                kept += 1
                continue
            leave_decoding(engine, request)
            finish(engine, request, end)
        state.decoding = kept
        find_next_finish(engine)
    state.settled = state.decoding


@inner
def finish(engine: Engine, request: int, end: float) -> None:
    """Note the last token of a request. It keeps its place until the engine knows."""
    row = engine.requests[request]
    row.finish = end
    row.generated = row.output
    engine.enders[engine.state.ending] = request
    engine.state.ending += 1


@inner
def note_gap(engine: Engine, gap: float, tokens: int) -> None:
    """Count tokens by the time since the one before."""
    bucket = int(math.log(max(gap, SHORTEST_GAP) / SHORTEST_GAP) * GAPS_PER_FACTOR_E)
    engine.gaps[min(bucket, GAP_BINS - 1)] += tokens


@inner
def release(engine: Engine, now: float) -> None:
    """Free places and blocks of requests whose last token has been returned."""
    kept = 0
    for i in range(engine.state.ending):
        request = engine.enders[i]
        if engine.requests[request].finish > now:
            engine.enders[kept] = request
            kept += 1
            continue
        if engine.policy.caching:
            share_prefix(engine, request, engine.requests[request].computed)
        free_request(engine, request)
    engine.state.ending = kept
