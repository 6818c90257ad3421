"""What an engine's next step runs: requests that decode, chunks of prompts, and who makes room.

Continuous batching [Orca, Yu et al., OSDI 2022] with chunks of prompts in decoding steps [Sarathi-Serve, Agrawal
et al., arXiv 2403.02310] and paged blocks [vLLM, Kwon et al., arXiv 2309.06180]: every decoding request gets its tokens
first, then the prompt that is computed in part, then waiting requests in their order, while tokens, places and blocks
last. A request that finds no block for its next token sends the last one admitted back to the head of the queue.
"""

from __future__ import annotations

import numpy as np

from costmodel.serving.blocks import (
    cached_blocks,
    drop_entry,
    free_request,
    hold_prefix,
    idle_cached,
    remove_free,
    share_prefix,
    take_blocks,
)
from costmodel.serving.compiled import inner
from costmodel.serving.decoding import find_next_finish, growth, leave_decoding
from costmodel.serving.prices import ROWS, Tables, device_time, step_time
from costmodel.serving.queue import come_back, first_waiting, remove_first, sort_by_prefix, stands_before
from costmodel.serving.state import (
    BLOCKED,
    BUSY_UNTIL,
    COMPUTED,
    COPIES,
    DECODERS,
    DECODING,
    ENDING,
    FREE,
    GENERATED,
    HELD,
    HIT,
    HOST_FREE,
    JOINED,
    KEYS,
    LAST,
    LOADED,
    LONGEST,
    LONGEST_PREFIX,
    MOVED,
    OUTPUT,
    OUTSIDE,
    OWN,
    OWNER,
    PARTIAL,
    PREEMPTED,
    PREEMPTIONS,
    PRIORITY,
    PROMPT,
    PROMPT_TOKENS,
    RECOMPUTED,
    SCHEDULED,
    SEGMENT,
    SETTLED,
    SIZE,
    START,
    STARTERS,
    STARTING,
    SWAPPED,
    SWAPPED_OUT,
    TARGET,
    TICK,
    TOKEN_END,
    Engine,
    Policy,
    Progress,
    Requests,
)  # fmt: skip
from costmodel.serving.tiers import kept_time


@inner
def blocks_needed(engine: Engine, policy: Policy, tokens: int) -> int:
    """Return the blocks that decoding requests need for their next `tokens` tokens."""
    needed = 0
    for i in range(tokens):
        needed += engine.phase[(-engine.count[TICK] - i) % policy.block]
    return needed


@inner
def preempt(requests: Requests, progress: Progress, engine: Engine, policy: Policy) -> bool:
    """Send the request that was admitted last, or is least urgent, back to the queue. Return whether there was one."""
    count = engine.count
    victim = least_urgent(requests, progress, engine, policy)
    if victim < 0:
        return False
    if victim == count[DECODING]:
        request = count[PARTIAL]
        count[PARTIAL] = -1
    else:
        request = engine.list[DECODERS, victim]
        count[DECODING] -= 1
        for i in range(victim, count[DECODING]):
            engine.list[DECODERS, i] = engine.list[DECODERS, i + 1]
        leave_decoding(progress, engine, policy, request)
        progress.count[request, GENERATED] += count[TICK] - progress.count[request, START]
        progress.count[request, TARGET] = requests.length[request, PROMPT] + progress.count[request, GENERATED]
        if victim < count[SETTLED]:
            count[SETTLED] -= 1
            progress.time[request, LAST] = engine.clock[TOKEN_END]
        if policy.caching:
            share_prefix(requests, progress, engine, policy, request, progress.count[request, COMPUTED])
        find_next_finish(progress, engine)
        swap_out(progress, engine, policy, request)
    free_request(requests, progress, engine, policy, request)
    come_back(requests, progress, engine, policy, request)
    progress.count[request, PREEMPTED] += 1
    count[PREEMPTIONS] += 1
    count[BLOCKED] = 0
    return True


@inner
def least_urgent(requests: Requests, progress: Progress, engine: Engine, policy: Policy) -> int:
    """Return the place among decoding requests of the one that is preempted next, that of none -1.

    Their number stands for the prompt that is computed in part. In order of arrival it is the one admitted last. With
    priorities the one of least urgency [vLLM, v1/core/sched/scheduler.py, schedule].
    """
    decoding = int(engine.count[DECODING])
    partial = int(engine.count[PARTIAL])
    last = decoding if partial >= 0 else decoding - 1
    if policy.order != PRIORITY:
        return last
    for i in range(decoding):
        request = int(engine.list[DECODERS, i])
        worst = partial if last == decoding else int(engine.list[DECODERS, last])
        if request != worst and stands_before(requests, progress, worst, request):
            last = i
    return last


@inner
def swap_out(progress: Progress, engine: Engine, policy: Policy, request: int) -> None:
    """Move the cache of a preempted request to host memory, where the engine does so and there is room."""
    tokens = progress.count[request, COMPUTED]
    blocks = -(-tokens // policy.block)
    if policy.swap_time > 0.0 and blocks <= engine.count[HOST_FREE]:
        progress.count[request, SWAPPED] = tokens
        engine.count[HOST_FREE] -= blocks
        engine.count[SWAPPED_OUT] += tokens
        engine.step[COPIES] += blocks * policy.swap_time


@inner
def blocks_of_urgent(progress: Progress, engine: Engine, policy: Policy) -> int:
    """Return the blocks that the prompt computed in part needs next to decoding requests, any of which may be less
    urgent. 0 in order of arrival, where it is itself the last one.
    """
    if policy.order != PRIORITY or not policy.mixed or engine.count[PARTIAL] < 0:
        return 0
    return blocks_of_partial(progress, engine, policy, policy.budget - engine.count[DECODING] * (1 + policy.drafts))


@inner
def blocks_of_partial(progress: Progress, engine: Engine, policy: Policy, budget: int) -> int:
    """Return the blocks that the prompt which is computed in part needs for its next tokens."""
    request = engine.count[PARTIAL]
    computed = progress.count[request, COMPUTED] + min(
        budget, progress.count[request, TARGET] - progress.count[request, COMPUTED]
    )
    held = progress.count[request, HELD] + progress.count[request, OWN]
    return int(max(-(-computed // policy.block) - held, 0))


@inner
def schedule_decoding(requests: Requests, progress: Progress, engine: Engine, policy: Policy) -> bool:
    """Give every decoding request its blocks. Return whether any request was preempted."""
    count = engine.count
    tokens, preempted = growth(engine, policy), False
    needed = blocks_needed(engine, policy, tokens)
    while needed + blocks_of_urgent(progress, engine, policy) > count[FREE]:
        if not preempt(requests, progress, engine, policy):
            break
        preempted = True
        needed = blocks_needed(engine, policy, tokens)
    take_blocks(engine, progress, needed)
    engine.step[0] = count[DECODING]
    engine.step[1] = count[KEYS] + count[DECODING]
    engine.step[5] = count[LONGEST] + count[TICK] + 1 if count[DECODING] > 0 else 0
    return preempted


@inner
def add_chunk(requests: Requests, progress: Progress, engine: Engine, policy: Policy, request: int, rows: int) -> None:
    """Let the next step compute `rows` tokens of a prompt, whose blocks the request holds."""
    count, step = engine.count, engine.step
    progress.count[request, COMPUTED] += rows
    computed = progress.count[request, COMPUTED]
    step[2] += 1
    step[3] += rows
    step[4] += float(rows) * computed  # counts may have 32 bits
    count[PROMPT_TOKENS] += rows
    if policy.caching:
        share_prefix(requests, progress, engine, policy, request, computed)
    if computed == progress.count[request, TARGET]:
        engine.list[STARTERS, count[STARTING]] = request
        count[STARTING] += 1
    else:
        count[PARTIAL] = request


@inner
def continue_partial(requests: Requests, progress: Progress, engine: Engine, policy: Policy, budget: int) -> int:
    """Continue the prompt that is computed in part. Return the tokens that are left, -1 where blocks are lacking."""
    request = engine.count[PARTIAL]
    if request < 0 or budget <= 0:
        return budget
    rows = min(budget, progress.count[request, TARGET] - progress.count[request, COMPUTED])
    needed, preempted = blocks_of_partial(progress, engine, policy, budget), False
    while needed > engine.count[FREE]:
        preempt(requests, progress, engine, policy)
        preempted = True
        if engine.count[PARTIAL] != request:  # it is itself the one admitted last, or least urgent
            return -1
    take_blocks(engine, progress, needed)
    progress.count[request, OWN] += needed
    engine.count[PARTIAL] = -1
    add_chunk(requests, progress, engine, policy, request, rows)
    return 0 if preempted else int(budget - rows)


@inner
def admit(requests: Requests, progress: Progress, engine: Engine, policy: Policy, now: float, budget: int) -> None:
    """Start waiting requests while tokens, places and blocks last."""
    count = engine.count
    if has_place(engine, policy):
        sort_by_prefix(requests, progress, engine, policy, now)
    while budget > 0:
        request = first_waiting(requests, engine, policy, now)
        if request < 0:
            return
        if not has_place(engine, policy):
            count[BLOCKED] = 1
            return
        moved = progress.count[request, MOVED] > 0
        rows = start_request(requests, progress, engine, policy, request, budget)
        if rows < 0:
            return
        if rows == 0:
            # Blocks that decoding requests take may put another request first, which needs fewer.
            count[BLOCKED] = 0 if policy.order == LONGEST_PREFIX else 1
            return
        budget -= rows
        column = JOINED if moved else SCHEDULED
        if np.isnan(progress.time[request, column]):
            progress.time[request, column] = max(now, engine.clock[BUSY_UNTIL])
        remove_first(requests, progress, engine, policy)


@inner
def has_place(engine: Engine, policy: Policy) -> bool:
    """Tell whether one request more may run."""
    count = engine.count
    running = count[DECODING] + count[ENDING] + count[STARTING] + (1 if count[PARTIAL] >= 0 else 0)
    return bool(running < policy.max_seqs)


@inner
def is_refused(policy: Policy, rows: int, computed: int) -> bool:
    """Tell whether a prompt of so many tokens waits for a step with more room than `rows`: it is not cut."""
    return bool(policy.whole_prompts and rows < computed <= policy.budget)


@inner
def start_request(
    requests: Requests, progress: Progress, engine: Engine, policy: Policy, request: int, budget: int
) -> int:
    """Start a request with its first chunk. Return the chunk's tokens, 0 where blocks are lacking, -1 where tokens are.

    What the prefix cache holds is not computed, but the last token is: it gives the next one.
    """
    block, target = policy.block, progress.count[request, TARGET]
    if progress.count[request, MOVED] > 0:
        return start_moved(progress, engine, policy, requests, request)
    if progress.count[request, SWAPPED] > 0:
        return start_swapped(requests, progress, engine, policy, request)
    cached, kept, idle = 0, 0, 0
    loaded, copies = 0, 0.0
    segment = progress.count[request, SEGMENT]
    if policy.caching:
        most = (target - 1) // block
        cached = cached_blocks(requests, engine, request, most)
        idle = idle_cached(requests, engine, request, cached)
        whole = cached == min(most, requests.first_id[request + 1] - requests.first_id[request])
        if segment >= 0 and whole:
            kept = min(engine.entry[segment, SIZE], most - cached)
        if segment < 0:
            loaded, copies = from_tiers(requests, engine, policy, request, cached, most)
    hit = (cached + kept + loaded) * block
    rows = min(budget, target - hit)
    last = requests.length[request, PROMPT] + requests.length[request, OUTPUT] - 1 if policy.reserve else hit + rows
    needed = -(-last // block) - cached - kept
    lacking = needed > engine.count[FREE] - idle - kept
    if lacking or is_refused(policy, rows, target - hit):
        return 0 if lacking else -1
    if policy.caching:
        hold_prefix(requests, progress, engine, request, cached)
    if segment >= 0:
        reclaim(progress, engine, request, kept)
    take_blocks(engine, progress, needed)
    engine.step[COPIES] += copies
    engine.count[LOADED] += loaded * block
    progress.count[request, OWN] = needed + kept
    progress.count[request, COMPUTED] = hit
    if progress.count[request, PREEMPTED] == 0:
        progress.count[request, HIT] = hit
    else:
        engine.count[RECOMPUTED] += target - hit
    add_chunk(requests, progress, engine, policy, request, rows)
    return int(rows)


@inner
def start_moved(progress: Progress, engine: Engine, policy: Policy, requests: Requests, request: int) -> int:
    """Start a request whose cache another engine has sent: its last token is computed. Return 1, 0 without blocks."""
    hit, target = progress.count[request, MOVED], progress.count[request, TARGET]
    needed = -(-target // policy.block)
    if needed > engine.count[FREE]:
        return 0
    take_blocks(engine, progress, needed)
    progress.count[request, OWN], progress.count[request, COMPUTED], progress.count[request, MOVED] = needed, hit, 0
    add_chunk(requests, progress, engine, policy, request, target - hit)
    return int(target - hit)


@inner
def start_swapped(requests: Requests, progress: Progress, engine: Engine, policy: Policy, request: int) -> int:
    """Start a request whose cache waits in host memory: its last token is computed. Return 1, 0 without blocks."""
    hit, target = progress.count[request, SWAPPED], progress.count[request, TARGET]
    needed, held = -(-target // policy.block), -(-hit // policy.block)
    if needed > engine.count[FREE]:
        return 0
    take_blocks(engine, progress, needed)
    engine.count[HOST_FREE] += held
    engine.step[COPIES] += held * policy.swap_time
    progress.count[request, OWN], progress.count[request, COMPUTED], progress.count[request, SWAPPED] = needed, hit, 0
    add_chunk(requests, progress, engine, policy, request, target - hit)
    return int(target - hit)


@inner
def from_tiers(
    requests: Requests, engine: Engine, policy: Policy, request: int, cached: int, most: int
) -> tuple[int, float]:
    """Return how many blocks behind the `cached` ones the tiers have, and how long they take to the device [s]."""
    first, loaded, seconds = requests.first_id[request], 0, 0.0
    last = min(most, requests.first_id[request + 1] - first)
    while cached + loaded < last:
        time = kept_time(engine, policy, int(requests.ids[first + cached + loaded]))
        if time < 0.0:
            break
        loaded, seconds = loaded + 1, seconds + time
    return loaded, seconds


@inner
def reclaim(progress: Progress, engine: Engine, request: int, kept: int) -> None:
    """Take `kept` blocks of a preempted request back from the list of free ones, and forget the others."""
    segment = progress.count[request, SEGMENT]
    progress.count[request, SEGMENT] = -1
    engine.entry[segment, SIZE] -= kept
    engine.count[FREE] -= kept
    engine.entry[segment, OWNER] = -1
    if engine.entry[segment, SIZE] == 0:
        remove_free(engine, segment)
        drop_entry(engine, segment)


@inner
def schedule_alone(requests: Requests, progress: Progress, engine: Engine, policy: Policy) -> bool:
    """Let the next step decode and start no prompt. Return whether it runs anything."""
    engine.step[:] = 0.0
    engine.count[BLOCKED] = 0
    schedule_decoding(requests, progress, engine, policy)
    return bool(engine.step[0] > 0)


@inner
def schedule(requests: Requests, progress: Progress, engine: Engine, policy: Policy, now: float) -> bool:
    """Decide what the next step runs. Return whether it runs anything."""
    engine.step[:] = 0.0
    count = engine.count
    count[BLOCKED] = 0
    if policy.mixed:
        preempted = schedule_decoding(requests, progress, engine, policy)
        budget = policy.budget - count[DECODING] * (1 + policy.drafts)
        budget = continue_partial(requests, progress, engine, policy, budget)
        if not preempted and budget > 0:
            admit(requests, progress, engine, policy, now, budget)
    else:  # prompts first, alone
        budget = continue_partial(requests, progress, engine, policy, policy.budget)
        if budget > 0:
            admit(requests, progress, engine, policy, now, budget)
        if engine.step[2] == 0.0:
            schedule_decoding(requests, progress, engine, policy)
    return bool(engine.step[0] + engine.step[2] > 0)


@inner
def price(tables: Tables, engine: Engine, policy: Policy) -> float:
    """Return the time of the step that was decided on, without waiting for a host that begins ahead [s]."""
    step = engine.step
    rows = step[0] * (1 + policy.drafts) + step[3]
    if rows > tables.axes[tables.ends[ROWS + 1] - 1]:
        engine.count[OUTSIDE] = 1
    seconds = device_time(tables, step, rows) if tables.ahead else step_time(tables, step, rows)
    return seconds + float(step[COPIES])
