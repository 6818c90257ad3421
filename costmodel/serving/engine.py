"""What an engine's next step runs: requests that decode, chunks of prompts, and who makes room.

Continuous batching [Orca, Yu et al., OSDI 2022] with chunks of prompts in decoding steps [Sarathi-Serve, Agrawal
et al., arXiv 2403.02310] and paged blocks [vLLM, Kwon et al., arXiv 2309.06180]: every decoding request gets its tokens
first, then the prompt that is computed in part, then waiting requests in their order, while tokens, places and blocks
last. A request that finds no block for its next token sends the last one admitted back to the head of the queue.
"""

from __future__ import annotations

import math

from costmodel.serving.blocks import drop_entry, remove_free, take_blocks
from costmodel.serving.compiled import inner
from costmodel.serving.decoding import find_next_finish, growth, leave_decoding
from costmodel.serving.prefix import cached_blocks, free_request, hold_prefix, idle_cached, share_prefix
from costmodel.serving.prices import ROWS, Tables, device_time, step_time
from costmodel.serving.queue import come_back, first_waiting, remove_first, sort_by_prefix, stands_before
from costmodel.serving.state import LONGEST_PREFIX, PRIORITY, Engine, Policy, Step
from costmodel.serving.tiers import from_tiers


@inner
def clear(step: Step) -> None:
    """Let a step run nothing."""
    step.decodes = step.keys = step.chunks = step.rows = step.chunk_keys = step.copies = 0.0


@inner
def blocks_needed(engine: Engine, tokens: int) -> int:
    """Return the blocks that decoding requests need for their next `tokens` tokens."""
    needed = 0
    for i in range(tokens):
        needed += engine.phase[(-engine.state.tick - i) % engine.policy.block]
    return needed


@inner
def preempt(engine: Engine) -> bool:
    """Send the request that was admitted last, or is least urgent, back to the queue. Return whether there was one."""
    requests, state = engine.requests, engine.state
    victim = least_urgent(engine)
    if victim < 0:
        return False
    if victim == state.decoding:
        request = state.partial
        state.partial = -1
    else:
        request = engine.decoders[victim]
        state.decoding -= 1
        for i in range(victim, state.decoding):
            engine.decoders[i] = engine.decoders[i + 1]
        leave_decoding(engine, request)
        requests[request].generated += state.tick - requests[request].start
        requests[request].target = requests[request].prompt + requests[request].generated
        if victim < state.settled:
            state.settled -= 1
            requests[request].last = state.token_end
        if engine.policy.caching:
            share_prefix(engine, request, requests[request].computed)
        find_next_finish(engine)
        swap_out(engine, request)
    free_request(engine, request)
    come_back(engine, request)
    requests[request].preempted += 1
    state.preemptions += 1
    state.blocked = 0
    return True


@inner
def least_urgent(engine: Engine) -> int:
    """Return the place among decoding requests of the one that is preempted next, that of none -1.

    Their number stands for the prompt that is computed in part. In order of arrival it is the one admitted last. With
    priorities the one of least urgency [vLLM, v1/core/sched/scheduler.py, schedule].
    """
    decoding = int(engine.state.decoding)
    partial = int(engine.state.partial)
    last = decoding if partial >= 0 else decoding - 1
    if engine.policy.order != PRIORITY:
        return last
    for i in range(decoding):
        request = int(engine.decoders[i])
        worst = partial if last == decoding else int(engine.decoders[last])
        if request != worst and stands_before(engine.requests, worst, request):
            last = i
    return last


@inner
def swap_out(engine: Engine, request: int) -> None:
    """Move the cache of a preempted request to host memory, where the engine does so and there is room."""
    row, state, policy = engine.requests[request], engine.state, engine.policy
    tokens = row.computed
    blocks = -(-tokens // policy.block)
    if policy.swap_time > 0.0 and blocks <= state.host_free:
        row.swapped = tokens
        state.host_free -= blocks
        state.swapped_out += tokens
        engine.step.copies += blocks * policy.swap_time


@inner
def blocks_of_urgent(engine: Engine) -> int:
    """Return the blocks that the prompt computed in part needs next to decoding requests, any of which may be less
    urgent. 0 in order of arrival, where it is itself the last one.
    """
    policy = engine.policy
    if policy.order != PRIORITY or not policy.mixed or engine.state.partial < 0:
        return 0
    return blocks_of_partial(engine, policy.budget - engine.state.decoding * (1 + policy.drafts))


@inner
def blocks_of_partial(engine: Engine, budget: int) -> int:
    """Return the blocks that the prompt which is computed in part needs for its next tokens."""
    requests = engine.requests
    request = engine.state.partial
    computed = requests[request].computed + min(budget, requests[request].target - requests[request].computed)
    held = requests[request].held + requests[request].own
    return int(max(-(-computed // engine.policy.block) - held, 0))


@inner
def schedule_decoding(engine: Engine) -> bool:
    """Give every decoding request its blocks. Return whether any request was preempted."""
    state = engine.state
    tokens, preempted = growth(engine), False
    needed = blocks_needed(engine, tokens)
    while needed + blocks_of_urgent(engine) > state.free:
        if not preempt(engine):
            break
        preempted = True
        needed = blocks_needed(engine, tokens)
    take_blocks(engine, needed)
    engine.step.decodes += state.decoding
    engine.step.keys += state.keys + state.decoding
    return preempted


@inner
def add_chunk(engine: Engine, request: int, rows: int) -> None:
    """Let the next step compute `rows` tokens of a prompt, whose blocks the request holds."""
    row, state, step = engine.requests[request], engine.state, engine.step
    row.computed += rows
    computed = row.computed
    step.chunks += 1
    step.rows += rows
    step.chunk_keys += float(rows) * computed
    state.prompt_tokens += rows
    if engine.policy.caching:
        share_prefix(engine, request, computed)
    if computed == row.target:
        engine.starters[state.starting] = request
        state.starting += 1
    else:
        state.partial = request


@inner
def continue_partial(engine: Engine, budget: int) -> int:
    """Continue the prompt that is computed in part. Return the tokens that are left, -1 where blocks are lacking."""
    state = engine.state
    request = state.partial
    if request < 0 or budget <= 0:
        return budget
    rows = min(budget, engine.requests[request].target - engine.requests[request].computed)
    needed, preempted = blocks_of_partial(engine, budget), False
    while needed > state.free:
        preempt(engine)
        preempted = True
        if state.partial != request:  # it is itself the one admitted last, or least urgent
            return -1
    take_blocks(engine, needed)
    engine.requests[request].own += needed
    state.partial = -1
    add_chunk(engine, request, rows)
    return 0 if preempted else int(budget - rows)


@inner
def admit(engine: Engine, now: float, budget: int) -> None:
    """Start waiting requests while tokens, places and blocks last."""
    state = engine.state
    if has_place(engine):
        sort_by_prefix(engine, now)
    while budget > 0:
        request = first_waiting(engine, now)
        if request < 0:
            return
        if not has_place(engine):
            state.blocked = 1
            return
        moved = engine.requests[request].moved
        rows = start_request(engine, request, budget)
        if rows < 0:
            return
        if rows == 0:
            # Blocks that decoding requests take may put another request first, which needs fewer.
            state.blocked = 0 if engine.policy.order == LONGEST_PREFIX else 1
            return
        budget -= rows
        note_start(engine, request, now, moved)
        remove_first(engine)


@inner
def note_start(engine: Engine, request: int, now: float, moved: int) -> None:
    """Note when a request starts for the first time, on the engine that decodes it where its prompt was moved there."""
    row, start = engine.requests[request], max(now, engine.state.busy_until)
    if moved > 0 and math.isnan(row.joined):
        row.joined = start
    if moved == 0 and math.isnan(row.scheduled):
        row.scheduled = start


@inner
def has_place(engine: Engine) -> bool:
    """Tell whether one request more may run."""
    state = engine.state
    running = state.decoding + state.ending + state.starting + (1 if state.partial >= 0 else 0)
    return bool(running < engine.policy.max_seqs)


@inner
def is_refused(policy: Policy, rows: int, computed: int) -> bool:
    """Tell whether a prompt of so many tokens waits for a step with more room than `rows`: it is not cut."""
    return bool(policy.whole_prompts and rows < computed <= policy.budget)


@inner
def start_request(engine: Engine, request: int, budget: int) -> int:
    """Start a request with its first chunk. Return the chunk's tokens, 0 where blocks are lacking, -1 where tokens are.

    What the prefix cache holds is not computed, but the last token is: it gives the next one.
    """
    row, state, policy = engine.requests[request], engine.state, engine.policy
    block, target = policy.block, row.target
    if row.moved > 0:
        return start_moved(engine, request)
    if row.swapped > 0:
        return start_swapped(engine, request)
    cached, kept, idle = 0, 0, 0
    loaded, copies = 0, 0.0
    segment = row.segment
    if policy.caching:
        most = (target - 1) // block
        cached = cached_blocks(engine, request, most)
        idle = idle_cached(engine, request, cached)
        whole = cached == min(most, row.blocks)
        if segment >= 0 and whole:
            kept = min(engine.entry[segment].size, most - cached)
        if segment < 0:
            loaded, copies = from_tiers(engine, request, cached, most)
    hit = (cached + kept + loaded) * block
    rows = min(budget, target - hit)
    last = row.prompt + row.output - 1 if policy.reserve else hit + rows
    needed = -(-last // block) - cached - kept
    lacking = needed > state.free - idle - kept
    if lacking or is_refused(policy, rows, target - hit):
        return 0 if lacking else -1
    if policy.caching:
        hold_prefix(engine, request, cached)
    if segment >= 0:
        reclaim(engine, request, kept)
    take_blocks(engine, needed)
    engine.step.copies += copies
    state.loaded += loaded * block
    row.own = needed + kept
    row.computed = hit
    if row.preempted == 0:
        row.hit = hit
    else:
        state.recomputed += target - hit
    add_chunk(engine, request, rows)
    return int(rows)


@inner
def start_moved(engine: Engine, request: int) -> int:
    """Start a request whose cache another engine has sent: it decodes at once. Return 1, 0 without blocks."""
    row = engine.requests[request]
    hit, target = row.moved, row.target
    needed = -(-target // engine.policy.block)
    if needed > engine.state.free:
        return 0
    take_blocks(engine, needed)
    row.own, row.computed, row.moved = needed, target, 0
    engine.step.decodes += 1
    engine.step.keys += target
    engine.starters[engine.state.starting] = request
    engine.state.starting += 1
    return int(target - hit)


@inner
def start_swapped(engine: Engine, request: int) -> int:
    """Start a request whose cache waits in host memory: its last token is computed. Return 1, 0 without blocks."""
    row, policy = engine.requests[request], engine.policy
    hit, target = row.swapped, row.target
    needed, held = -(-target // policy.block), -(-hit // policy.block)
    if needed > engine.state.free:
        return 0
    take_blocks(engine, needed)
    engine.state.host_free += held
    engine.step.copies += held * policy.swap_time
    row.own, row.computed, row.swapped = needed, hit, 0
    add_chunk(engine, request, target - hit)
    return int(target - hit)


@inner
def reclaim(engine: Engine, request: int, kept: int) -> None:
    """Take `kept` blocks of a preempted request back from the list of free ones, and forget the others."""
    row = engine.requests[request]
    segment = row.segment
    row.segment = -1
    engine.entry[segment].size -= kept
    engine.state.free -= kept
    engine.entry[segment].owner = -1
    if engine.entry[segment].size == 0:
        remove_free(engine, segment)
        drop_entry(engine, segment)


@inner
def schedule(engine: Engine, now: float, starts: bool) -> bool:  # noqa: FBT001  Numba knows no keywords
    """Decide what the next step runs. Return whether it runs anything.

    starts: whether it may start a prompt, or continue one.
    """
    policy, state, step = engine.policy, engine.state, engine.step
    clear(step)
    state.blocked = 0
    budget, preempted, decodes_first = policy.budget, False, policy.mixed or not starts
    if decodes_first:
        preempted = schedule_decoding(engine)
        budget -= state.decoding * (1 + policy.drafts)
    if starts:
        budget = continue_partial(engine, budget)
        if not preempted and budget > 0:
            admit(engine, now, budget)
    if not decodes_first and step.chunks == 0.0:  # prompts first, alone
        schedule_decoding(engine)
    return bool(step.decodes + step.chunks > 0)


@inner
def step_rows(engine: Engine, tables: Tables) -> float:
    """Return the tokens of the step that was decided on, and note where tables do not hold so many."""
    rows = engine.step.decodes * (1 + engine.policy.drafts) + engine.step.rows
    if rows > tables.axes[tables.ends[ROWS + 1] - 1]:
        engine.state.outside = 1
    return float(rows)


@inner
def price(engine: Engine, tables: Tables) -> float:
    """Return the time of the step that was decided on, without waiting for a host that begins ahead [s]."""
    step, rows = engine.step, step_rows(engine, tables)
    seconds = device_time(tables, step, rows) if tables.ahead else step_time(tables, step, rows)
    return seconds + float(step.copies)
