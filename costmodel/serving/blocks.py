"""Blocks of the KV cache of one engine: who holds them, and which free ones still hold a prefix.

Free blocks form a list from the one that is reused first to the one freed last. A request frees its last block first,
so that of a prefix the end is lost before the start [vLLM, docs/design/prefix_caching.md]. Blocks that nobody can find
again are kept as one entry with a size.
"""

from __future__ import annotations

import math

from costmodel.serving.compiled import inner
from costmodel.serving.state import ANONYMOUS, Engine
from costmodel.serving.tiers import keep


@inner
def new_entry(engine: Engine, owner: int, size: int) -> int:
    """Return an entry that is not in the list of free blocks."""
    engine.state.spare -= 1
    entry = int(engine.entry[engine.state.spare].unused)
    engine.entry[entry].owner, engine.entry[entry].size, engine.entry[entry].references = owner, size, 0
    return entry


@inner
def append_free(engine: Engine, entry: int) -> None:
    """Put an entry at the end of the list of free blocks."""
    state = engine.state
    tail = state.free_tail
    engine.entry[entry].before, engine.entry[entry].after = tail, -1
    if tail < 0:
        state.free_head = entry
    else:
        engine.entry[tail].after = entry
    state.free_tail = entry
    state.free += engine.entry[entry].size


@inner
def remove_free(engine: Engine, entry: int) -> None:
    """Take an entry out of the list of free blocks."""
    state = engine.state
    before, after = int(engine.entry[entry].before), int(engine.entry[entry].after)
    if before < 0:
        state.free_head = after
    else:
        engine.entry[before].after = after
    if after < 0:
        state.free_tail = before
    else:
        engine.entry[after].before = before
    state.free -= engine.entry[entry].size


@inner
def drop_entry(engine: Engine, entry: int) -> None:
    """Give an entry back that is in no list."""
    engine.entry[engine.state.spare].unused = entry
    engine.state.spare += 1


@inner
def free_anonymous(engine: Engine, blocks: int) -> None:
    """Free blocks whose content nobody can use again."""
    if blocks <= 0:
        return
    tail = engine.state.free_tail
    if tail >= 0 and engine.entry[tail].owner == ANONYMOUS:
        engine.entry[tail].size += blocks
        engine.state.free += blocks
    else:
        append_free(engine, new_entry(engine, ANONYMOUS, blocks))


@inner
def take_blocks(engine: Engine, blocks: int) -> None:
    """Take free blocks, the longest unused first. A prefix or preempted request that had them loses them."""
    while blocks > 0:
        entry = engine.state.free_head
        part = min(int(engine.entry[entry].size), blocks)
        engine.entry[entry].size -= part
        engine.state.free -= part
        blocks -= part
        if engine.entry[entry].size == 0:
            remove_free(engine, entry)
            owner = int(engine.entry[entry].owner)
            if owner >= 0:
                engine.cached_entry[owner] = -1
            elif owner != ANONYMOUS:
                engine.requests[-2 - owner].segment = -1
            drop_entry(engine, entry)


@inner
def cached_blocks(engine: Engine, request: int, most: int) -> int:
    """Return how many leading blocks of a request the prefix cache holds, at most `most`."""
    row = engine.requests[request]
    first = row.first_id
    number = min(most, row.blocks)
    cached = 0
    while cached < number and engine.cached_entry[engine.ids[first + cached]] >= 0:
        cached += 1
    return cached


@inner
def idle_cached(engine: Engine, request: int, cached: int) -> int:
    """Return how many of a request's leading `cached` blocks are free: no other request holds them."""
    first, idle = engine.requests[request].first_id, 0
    for i in range(cached):
        if engine.entry[engine.cached_entry[engine.ids[first + i]]].references == 0:
            idle += 1
    return idle


@inner
def hold_prefix(engine: Engine, request: int, cached: int) -> None:
    """Let a request hold its leading `cached` blocks."""
    row = engine.requests[request]
    first = row.first_id
    for i in range(cached):
        entry = int(engine.cached_entry[engine.ids[first + i]])
        if engine.entry[entry].references == 0:
            remove_free(engine, entry)
        engine.entry[entry].references += 1
    row.held = cached


@inner
def share_prefix(engine: Engine, request: int, tokens: int) -> None:
    """Put the full blocks of a request's first `tokens` tokens into the prefix cache, and the tiers behind it."""
    row = engine.requests[request]
    first = row.first_id
    number = min(tokens // engine.policy.block, row.blocks)
    for i in range(row.held, number):
        node = int(engine.ids[first + i])
        entry = int(engine.cached_entry[node])
        if entry < 0:
            entry = new_entry(engine, node, 1)
            engine.cached_entry[node] = entry
            keep(engine, node)
        else:  # another request computed it meanwhile: its block serves both
            if engine.entry[entry].references == 0:
                remove_free(engine, entry)
            free_anonymous(engine, 1)
        engine.entry[entry].references += 1
        row.own -= 1
    if number > row.held:
        row.held = number


@inner
def free_request(engine: Engine, request: int) -> None:
    """Free the blocks of a request, the last one first. Of a preempted one, the full ones can be taken again."""
    row = engine.requests[request]
    resumes = math.isnan(row.finish) and row.swapped == 0
    own = row.own
    if resumes and engine.policy.caching and own > 0:
        full = row.computed // engine.policy.block - row.held
        free_anonymous(engine, own - full)
        if full > 0:
            entry = new_entry(engine, -2 - request, full)
            append_free(engine, entry)
            row.segment = entry
    else:
        free_anonymous(engine, own)
    first = row.first_id
    for i in range(row.held - 1, -1, -1):
        node = int(engine.ids[first + i])
        entry = int(engine.cached_entry[node])
        engine.entry[entry].references -= 1
        if engine.entry[entry].references == 0:
            append_free(engine, entry)
    row.held = 0
    row.own = 0
