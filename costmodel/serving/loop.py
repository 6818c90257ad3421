"""Engines from step to step: one by itself until a moment, and several behind a router."""

from __future__ import annotations

import numpy as np

from costmodel.serving.blocks import take_blocks
from costmodel.serving.compiled import inner
from costmodel.serving.decoding import give_first_tokens, give_tokens, growth, note_gap, release
from costmodel.serving.engine import blocks_needed, clear, price, schedule
from costmodel.serving.prices import (
    DECODE_KEYS,
    Tables,
    between,
    host_time,
    locate,
    locate_from,
    rows_time,
    with_expert_pool,
)  # fmt: skip
from costmodel.serving.queue import look, may_start, see_arrivals
from costmodel.serving.state import Engine, Occupancy


@inner
def merge(both: Occupancy, one: Occupancy, other: Occupancy) -> None:
    """Make a bin of time the sum of two, the first of which it may be itself."""
    both.busy = one.busy + other.busy
    both.requests = one.requests + other.requests
    both.blocks = one.blocks + other.blocks
    both.keys = one.keys + other.keys
    both.prompt_tokens = one.prompt_tokens + other.prompt_tokens
    both.decoded = one.decoded + other.decoded


@inner
def empty(bin_: Occupancy) -> None:
    """Let nothing have run in a bin of time."""
    bin_.busy = bin_.requests = bin_.blocks = bin_.keys = bin_.prompt_tokens = bin_.decoded = 0.0


@inner
def account(engine: Engine, start: float, seconds: float) -> None:
    """Add a step to the engine's occupancy over time."""
    state, occupancy = engine.state, engine.occupancy
    bins = len(occupancy)
    index = int(start / state.bin_width)
    while index >= bins:
        half = bins // 2
        for i in range(half):
            merge(occupancy[i], occupancy[2 * i], occupancy[2 * i + 1])
        for i in range(half, bins):
            empty(occupancy[i])
        state.bin_width *= 2.0
        index = int(start / state.bin_width)
    step, here = engine.step, occupancy[index]
    running = step.decodes + step.chunks
    here.busy += seconds
    here.requests += running * seconds
    here.blocks += (engine.policy.blocks - state.free) * seconds
    here.keys += state.keys * seconds
    here.prompt_tokens += step.rows
    here.decoded += step.decodes


@inner
def with_starts(engine: Engine, now: float, start: float, seconds: float, host: float) -> float:
    """Return the time from `start` to the end of a step of `seconds`, whose kernels the host starts in `host`.

    It begins at `now`, while the step before runs, or when it has started that one's:
    c = max(max(now, c') + D, max(now, h') + H).
    """
    if host == 0.0:
        return seconds
    started = max(now, engine.state.started) + host
    engine.state.started = started
    return float(max(seconds, started - start))


@inner
def run_step(engine: Engine, now: float, seconds: float) -> None:
    """Run the step that was decided on at `now`: it takes `seconds` from the end of the one before it."""
    state = engine.state
    start = max(now, state.busy_until)
    end = start + seconds
    account(engine, start, seconds)
    state.busy_until = end
    state.busy += seconds
    state.steps += 1
    state.unlooked = engine.policy.look_steps if engine.step.chunks > 0 else state.unlooked + 1
    if engine.step.decodes > 0:
        give_tokens(engine, end)
    give_first_tokens(engine, end)
    state.moment = start if engine.policy.overlapped else end


@inner
def idle(engine: Engine, now: float) -> bool:
    """Move an engine that has nothing to run to the next moment at which that may change. Return whether it is stuck.

    It is stuck where a request waits that can never start.
    """
    state, head = engine.state, engine.state.head
    if state.busy_until > now:
        state.moment = state.busy_until
        return False
    if state.root >= 0:
        return True
    if head < 0:
        state.moment = np.inf
        return False
    state.moment = engine.requests[head].arrival
    return bool(state.moment <= now)


@inner
def run_quiet_steps(engine: Engine, tables: Tables, until: float) -> None:
    """Run the steps in which only counts grow: nobody starts, ends, or lacks a block.

    They are those that `advance` would run one by one, with the same numbers.
    """
    policy, state, step = engine.policy, engine.state, engine.step
    if state.partial >= 0 or state.ending > 0 or state.decoding == 0 or state.settled < state.decoding:
        return
    decoding = state.decoding
    clear(step)
    step.decodes = decoding
    linear = rows_time(tables, decoding * (1 + policy.drafts), decoding)
    index, _ = locate(tables, DECODE_KEYS, (state.keys + decoding) / decoding)
    while True:
        now, tokens = state.moment, growth(engine)
        if now >= until or state.tick + tokens >= state.next_finish:
            return
        seen = look(engine, now)
        if may_start(engine, seen):
            return
        needed = blocks_needed(engine, tokens)
        if needed > state.free:
            return
        see_arrivals(engine, seen)
        take_blocks(engine, needed)
        step.keys = state.keys + decoding
        index, share = locate_from(tables, DECODE_KEYS, step.keys / decoding, index)
        seconds = linear + between(tables.decode[decoding], index, share)
        seconds = with_expert_pool(tables, seconds, decoding * (1 + policy.drafts))
        start = max(now, state.busy_until)
        account(engine, start, seconds)
        state.busy_until = start + seconds
        state.busy += seconds
        state.steps += 1
        state.unlooked += 1
        note_gap(engine, state.busy_until - state.token_end, decoding)
        state.tick += tokens
        state.decode_steps += 1
        state.keys += decoding * tokens
        state.token_end = state.busy_until
        state.moment = start if policy.overlapped else state.busy_until


@inner
def decide(engine: Engine, tables: Tables) -> bool:
    """Let an engine decide on its next step, or wait. Return whether it is stuck."""
    now = engine.state.moment
    release(engine, now)
    seen = look(engine, now)
    see_arrivals(engine, seen)
    if not schedule(engine, seen, True):  # noqa: FBT003
        return idle(engine, now)
    seconds, start = price(engine, tables), max(now, engine.state.busy_until)
    seconds = with_starts(engine, now, start, seconds, host_time(tables, engine.step))
    run_step(engine, now, seconds)
    return False


@inner
def advance(engine: Engine, tables: Tables, until: float) -> bool:
    """Run an engine up to a moment. Return whether it is stuck."""
    while engine.state.moment < until:
        if decide(engine, tables):
            return True
        if engine.policy.jump:
            run_quiet_steps(engine, tables, until)
    return False
