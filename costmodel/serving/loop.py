"""Engines from step to step: one by itself until a moment, and several behind a router."""

from __future__ import annotations

import numpy as np

from costmodel.serving.blocks import take_blocks
from costmodel.serving.compiled import inner
from costmodel.serving.decoding import give_first_tokens, give_tokens, growth, note_gap, release
from costmodel.serving.engine import blocks_needed, price, schedule
from costmodel.serving.prices import (
    DECODE_KEYS,
    Tables,
    decode_time,
    host_time,
    locate,
    locate_from,
    rows_time,
    with_expert_pool,
)
from costmodel.serving.queue import look, may_start, see_arrivals
from costmodel.serving.state import (
    BIN_WIDTH,
    BUSY,
    BUSY_UNTIL,
    DECODE_STEPS,
    DECODING,
    ENDING,
    FREE,
    HEAD,
    KEYS,
    LONGEST,
    MOMENT,
    NEXT_FINISH,
    PARTIAL,
    ROOT,
    SETTLED,
    STARTED,
    STEPS,
    TICK,
    TOKEN_END,
    UNLOOKED,
    Engine,
    Policy,
    Progress,
    Requests,
)  # fmt: skip


@inner
def account(engine: Engine, policy: Policy, start: float, seconds: float) -> None:
    """Add a step to the engine's occupancy over time."""
    count, occupancy = engine.count, engine.occupancy
    bins = len(occupancy)
    index = int(start / engine.clock[BIN_WIDTH])
    while index >= bins:
        half = bins // 2
        for i in range(half):
            for j in range(occupancy.shape[1]):
                occupancy[i, j] = occupancy[2 * i, j] + occupancy[2 * i + 1, j]
        occupancy[half:] = 0.0
        engine.clock[BIN_WIDTH] *= 2.0
        index = int(start / engine.clock[BIN_WIDTH])
    running = engine.step[0] + engine.step[2]
    occupancy[index, 0] += seconds
    occupancy[index, 1] += running * seconds
    occupancy[index, 2] += (policy.blocks - count[FREE]) * seconds
    occupancy[index, 3] += count[KEYS] * seconds
    occupancy[index, 4] += engine.step[3]
    occupancy[index, 5] += engine.step[0]


@inner
def with_starts(engine: Engine, now: float, start: float, seconds: float, host: float) -> float:
    """Return the time from `start` to the end of a step of `seconds`, whose kernels the host starts in `host`.

    It begins at `now`, while the step before runs, or when it has started that one's:
    c = max(max(now, c') + D, max(now, h') + H).
    """
    if host == 0.0:
        return seconds
    started = max(now, engine.clock[STARTED]) + host
    engine.clock[STARTED] = started
    return float(max(seconds, started - start))


@inner
def run_step(
    requests: Requests, progress: Progress, engine: Engine, policy: Policy, now: float, seconds: float
) -> None:
    """Run the step that was decided on at `now`: it takes `seconds` from the end of the one before it."""
    clock, count = engine.clock, engine.count
    start = max(now, clock[BUSY_UNTIL])
    end = start + seconds
    account(engine, policy, start, seconds)
    clock[BUSY_UNTIL] = end
    clock[BUSY] += seconds
    count[STEPS] += 1
    count[UNLOOKED] = policy.look_steps if engine.step[2] > 0 else count[UNLOOKED] + 1
    if engine.step[0] > 0:
        give_tokens(requests, progress, engine, policy, end)
    give_first_tokens(requests, progress, engine, policy, end)
    clock[MOMENT] = start if policy.overlapped else end


@inner
def idle(requests: Requests, engine: Engine, now: float) -> bool:
    """Move an engine that has nothing to run to the next moment at which that may change. Return whether it is stuck.

    It is stuck where a request waits that can never start.
    """
    clock, head = engine.clock, engine.count[HEAD]
    if clock[BUSY_UNTIL] > now:
        clock[MOMENT] = clock[BUSY_UNTIL]
        return False
    if engine.count[ROOT] >= 0:
        return True
    if head < 0:
        clock[MOMENT] = np.inf
        return False
    clock[MOMENT] = requests.arrival[head]
    return bool(clock[MOMENT] <= now)


@inner
def run_quiet_steps(
    requests: Requests, progress: Progress, engine: Engine, policy: Policy, tables: Tables, until: float
) -> None:
    """Run the steps in which only counts grow: nobody starts, ends, or lacks a block.

    They are those that `advance` would run one by one, with the same numbers.
    """
    count, clock, step = engine.count, engine.clock, engine.step
    if count[PARTIAL] >= 0 or count[ENDING] > 0 or count[DECODING] == 0 or count[SETTLED] < count[DECODING]:
        return
    decoding = count[DECODING]
    step[:] = 0.0
    step[0] = decoding
    linear = rows_time(tables, decoding * (1 + policy.drafts), decoding)
    index, _ = locate(tables, DECODE_KEYS, (count[KEYS] + decoding) / decoding)
    while True:
        now, tokens = clock[MOMENT], growth(engine, policy)
        if now >= until or count[TICK] + tokens >= count[NEXT_FINISH]:
            return
        seen = look(engine, policy, now)
        if may_start(requests, engine, policy, seen):
            return
        needed = blocks_needed(engine, policy, tokens)
        if needed > count[FREE]:
            return
        see_arrivals(requests, progress, engine, policy, seen)
        take_blocks(engine, progress, needed)
        step[1] = count[KEYS] + decoding
        step[5] = count[LONGEST] + count[TICK] + 1
        keys = step[1] / decoding
        index, share = locate_from(tables, DECODE_KEYS, keys, index)
        seconds = linear + decode_time(tables, decoding, keys, step[5], index, share)
        seconds = with_expert_pool(tables, seconds, decoding * (1 + policy.drafts))
        start = max(now, clock[BUSY_UNTIL])
        account(engine, policy, start, seconds)
        clock[BUSY_UNTIL] = start + seconds
        clock[BUSY] += seconds
        count[STEPS] += 1
        count[UNLOOKED] += 1
        note_gap(engine, clock[BUSY_UNTIL] - clock[TOKEN_END], decoding)
        count[TICK] += tokens
        count[DECODE_STEPS] += 1
        count[KEYS] += decoding * tokens
        clock[TOKEN_END] = clock[BUSY_UNTIL]
        clock[MOMENT] = start if policy.overlapped else clock[BUSY_UNTIL]


@inner
def decide(requests: Requests, progress: Progress, engine: Engine, policy: Policy, tables: Tables) -> bool:
    """Let an engine decide on its next step, or wait. Return whether it is stuck."""
    now = engine.clock[MOMENT]
    release(requests, progress, engine, policy, now)
    seen = look(engine, policy, now)
    see_arrivals(requests, progress, engine, policy, seen)
    if not schedule(requests, progress, engine, policy, seen):
        return idle(requests, engine, now)
    seconds, start = price(tables, engine, policy), max(now, engine.clock[BUSY_UNTIL])
    seconds = with_starts(engine, now, start, seconds, host_time(tables, engine.step))
    run_step(requests, progress, engine, policy, now, seconds)
    return False


@inner
def advance(
    requests: Requests, progress: Progress, engine: Engine, policy: Policy, tables: Tables, until: float
) -> bool:
    """Run an engine up to a moment. Return whether it is stuck."""
    while engine.clock[MOMENT] < until:
        if decide(requests, progress, engine, policy, tables):
            return True
        if policy.jump:
            run_quiet_steps(requests, progress, engine, policy, tables, until)
    return False
