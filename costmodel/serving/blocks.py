"""Blocks of the KV cache of one engine: who holds them, and which free ones still hold a prefix.

Free blocks form a list from the one that is reused first to the one freed last. A request frees its last block first,
so that of a prefix the end is lost before the start [vLLM, docs/design/prefix_caching.md]. Blocks that nobody can find
again are kept as one entry with a size.
"""

from __future__ import annotations

import numpy as np

from costmodel.serving.compiled import inner
from costmodel.serving.state import (
    AFTER,
    ANONYMOUS,
    BEFORE,
    COMPUTED,
    FINISH,
    FREE,
    FREE_HEAD,
    FREE_TAIL,
    HELD,
    OWN,
    OWNER,
    REFERENCES,
    SEGMENT,
    SIZE,
    SPARE,
    SWAPPED,
    UNUSED,
    Engine,
    Policy,
    Progress,
    Requests,
)  # fmt: skip
from costmodel.serving.tiers import keep


@inner
def new_entry(engine: Engine, owner: int, size: int) -> int:
    """Return an entry that is not in the list of free blocks."""
    engine.count[SPARE] -= 1
    entry = int(engine.entry[engine.count[SPARE], UNUSED])
    engine.entry[entry, OWNER], engine.entry[entry, SIZE], engine.entry[entry, REFERENCES] = owner, size, 0
    return entry


@inner
def append_free(engine: Engine, entry: int) -> None:
    """Put an entry at the end of the list of free blocks."""
    tail = engine.count[FREE_TAIL]
    engine.entry[entry, BEFORE], engine.entry[entry, AFTER] = tail, -1
    if tail < 0:
        engine.count[FREE_HEAD] = entry
    else:
        engine.entry[tail, AFTER] = entry
    engine.count[FREE_TAIL] = entry
    engine.count[FREE] += engine.entry[entry, SIZE]


@inner
def remove_free(engine: Engine, entry: int) -> None:
    """Take an entry out of the list of free blocks."""
    before, after = int(engine.entry[entry, BEFORE]), int(engine.entry[entry, AFTER])
    if before < 0:
        engine.count[FREE_HEAD] = after
    else:
        engine.entry[before, AFTER] = after
    if after < 0:
        engine.count[FREE_TAIL] = before
    else:
        engine.entry[after, BEFORE] = before
    engine.count[FREE] -= engine.entry[entry, SIZE]


@inner
def drop_entry(engine: Engine, entry: int) -> None:
    """Give an entry back that is in no list."""
    engine.entry[engine.count[SPARE], UNUSED] = entry
    engine.count[SPARE] += 1


@inner
def free_anonymous(engine: Engine, blocks: int) -> None:
    """Free blocks whose content nobody can use again."""
    if blocks <= 0:
        return
    tail = engine.count[FREE_TAIL]
    if tail >= 0 and engine.entry[tail, OWNER] == ANONYMOUS:
        engine.entry[tail, SIZE] += blocks
        engine.count[FREE] += blocks
    else:
        append_free(engine, new_entry(engine, ANONYMOUS, blocks))


@inner
def take_blocks(engine: Engine, progress: Progress, blocks: int) -> None:
    """Take free blocks, the longest unused first. A prefix or preempted request that had them loses them."""
    while blocks > 0:
        entry = engine.count[FREE_HEAD]
        part = min(int(engine.entry[entry, SIZE]), blocks)
        engine.entry[entry, SIZE] -= part
        engine.count[FREE] -= part
        blocks -= part
        if engine.entry[entry, SIZE] == 0:
            remove_free(engine, entry)
            owner = int(engine.entry[entry, OWNER])
            if owner >= 0:
                engine.cached_entry[owner] = -1
            elif owner != ANONYMOUS:
                progress.count[-2 - owner, SEGMENT] = -1
            drop_entry(engine, entry)


@inner
def cached_blocks(requests: Requests, engine: Engine, request: int, most: int) -> int:
    """Return how many leading blocks of a request the prefix cache holds, at most `most`."""
    first = requests.first_id[request]
    number = min(most, requests.first_id[request + 1] - first)
    cached = 0
    while cached < number and engine.cached_entry[requests.ids[first + cached]] >= 0:
        cached += 1
    return cached


@inner
def idle_cached(requests: Requests, engine: Engine, request: int, cached: int) -> int:
    """Return how many of a request's leading `cached` blocks are free: no other request holds them."""
    first, idle = requests.first_id[request], 0
    for i in range(cached):
        if engine.entry[engine.cached_entry[requests.ids[first + i]], REFERENCES] == 0:
            idle += 1
    return idle


@inner
def hold_prefix(requests: Requests, progress: Progress, engine: Engine, request: int, cached: int) -> None:
    """Let a request hold its leading `cached` blocks."""
    first = requests.first_id[request]
    for i in range(cached):
        entry = int(engine.cached_entry[requests.ids[first + i]])
        if engine.entry[entry, REFERENCES] == 0:
            remove_free(engine, entry)
        engine.entry[entry, REFERENCES] += 1
    progress.count[request, HELD] = cached


@inner
def share_prefix(
    requests: Requests, progress: Progress, engine: Engine, policy: Policy, request: int, tokens: int
) -> None:
    """Put the full blocks of a request's first `tokens` tokens into the prefix cache, and the tiers behind it."""
    first = requests.first_id[request]
    number = min(tokens // policy.block, requests.first_id[request + 1] - first)
    for i in range(progress.count[request, HELD], number):
        node = int(requests.ids[first + i])
        entry = int(engine.cached_entry[node])
        if entry < 0:
            entry = new_entry(engine, node, 1)
            engine.cached_entry[node] = entry
            keep(engine, policy, node)
        else:  # another request computed it meanwhile: its block serves both
            if engine.entry[entry, REFERENCES] == 0:
                remove_free(engine, entry)
            free_anonymous(engine, 1)
        engine.entry[entry, REFERENCES] += 1
        progress.count[request, OWN] -= 1
    if number > progress.count[request, HELD]:
        progress.count[request, HELD] = number


@inner
def free_request(requests: Requests, progress: Progress, engine: Engine, policy: Policy, request: int) -> None:
    """Free the blocks of a request, the last one first. Of a preempted one, the full ones can be taken again."""
    resumes = np.isnan(progress.time[request, FINISH]) and progress.count[request, SWAPPED] == 0
    own = progress.count[request, OWN]
    if resumes and policy.caching and own > 0:
        full = progress.count[request, COMPUTED] // policy.block - progress.count[request, HELD]
        free_anonymous(engine, own - full)
        if full > 0:
            entry = new_entry(engine, -2 - request, full)
            append_free(engine, entry)
            progress.count[request, SEGMENT] = entry
    else:
        free_anonymous(engine, own)
    first = requests.first_id[request]
    for i in range(progress.count[request, HELD] - 1, -1, -1):
        node = int(requests.ids[first + i])
        entry = int(engine.cached_entry[node])
        engine.entry[entry, REFERENCES] -= 1
        if engine.entry[entry, REFERENCES] == 0:
            append_free(engine, entry)
    progress.count[request, HELD] = 0
    progress.count[request, OWN] = 0
