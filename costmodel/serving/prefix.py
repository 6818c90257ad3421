"""The prefix cache of one engine: a radix tree of runs of blocks [SGLang, Zheng et al., arXiv 2312.07104].

Which blocks requests share is known beforehand, as runs that begin where texts part (`Paths`). Of a run the engine has
the first blocks, as entries that the same requests hold or that were freed together: work grows with branches and not
with tokens. The blocks that are reused first are always the last ones of a run, and those of a run after it come
before: a request that holds a block holds all before it, and frees them after it.
"""

from __future__ import annotations

import math

from costmodel.serving.blocks import append_free, drop_entry, free_anonymous, new_entry, remove_free
from costmodel.serving.compiled import inner
from costmodel.serving.state import Engine
from costmodel.serving.tiers import keep, make_room


@inner
def cached_blocks(engine: Engine, request: int, most: int) -> int:
    """Return how many leading blocks of a request the prefix cache holds, at most `most`."""
    row, paths = engine.requests[request], engine.paths
    number, index, cached = min(most, row.blocks), row.first_run, 0
    while cached < number:
        run = paths.runs[index]
        cached += engine.run[run].cached
        if engine.run[run].cached < paths.sizes[run]:
            break
        index += 1
    return int(min(cached, number))


@inner
def run_with(engine: Engine, request: int, block: int) -> int:
    """Return the run of a request's path that has a block of it, counted from 0."""
    paths, index, first = engine.paths, engine.requests[request].first_run, 0
    while block >= first + paths.sizes[paths.runs[index]]:
        first += paths.sizes[paths.runs[index]]
        index += 1
    return int(paths.runs[index])


@inner
def idle_cached(engine: Engine, request: int, cached: int) -> int:
    """Return how many of a request's leading `cached` blocks are free: no other request holds them."""
    paths, index, idle = engine.paths, engine.requests[request].first_run, 0
    while cached > 0:
        entry = engine.run[paths.runs[index]].entry
        while entry >= 0 and cached > 0:
            part = min(engine.entry[entry].size, cached)
            if engine.entry[entry].references == 0:
                idle += part
            cached -= part
            entry = engine.entry[entry].lower
        index += 1
    return int(idle)


@inner
def hold_prefix(engine: Engine, request: int, cached: int) -> None:
    """Let a request hold its leading `cached` blocks."""
    row, paths = engine.requests[request], engine.paths
    left, index = cached, row.first_run
    while left > 0:
        run = int(paths.runs[index])
        part = min(int(engine.run[run].cached), left)
        hold_part(engine, run, 0, part)
        left -= part
        index += 1
    row.held = cached


@inner
def hold_part(engine: Engine, run: int, first: int, end: int) -> int:
    """Let one request more hold blocks `first` to `end` of a run, all of which are cached: it holds those before them.

    Return how many of them no request held.
    """
    entry, position, idle = int(engine.run[run].entry), 0, 0
    while position < end:
        row = engine.entry[entry]
        if position >= first:
            if row.size > end - position:
                split(engine, entry, end - position)
            if row.references == 0:
                idle += row.size
                remove_free(engine, entry)
            row.references += 1
        position += row.size
        entry = row.lower
    join(engine, run)
    return idle


@inner
def share_prefix(engine: Engine, request: int, tokens: int) -> None:
    """Put the full blocks of a request's first `tokens` tokens into the prefix cache."""
    row, paths = engine.requests[request], engine.paths
    number = min(tokens // engine.policy.block, row.blocks)
    if number <= row.held:
        return
    index, first = row.first_run, 0
    while first < number:
        run = int(paths.runs[index])
        size = int(paths.sizes[run])
        if first + size > row.held:
            share_part(engine, request, run, max(row.held - first, 0), min(size, number - first))
        first += size
        index += 1
    row.held = number


@inner
def share_part(engine: Engine, request: int, run: int, first: int, end: int) -> None:
    """Put blocks `first` to `end` of a run into the cache, which a request has computed. It holds those before them."""
    cached = int(engine.run[run].cached)
    known = min(cached, end)
    if known > first:  # another request computed them meanwhile: its blocks serve both
        hold_part(engine, run, first, known)
        free_anonymous(engine, known - first)
    if end > cached:
        entry = new_entry(engine, run, end - cached)
        engine.entry[entry].references = 1
        append_to_run(engine, run, entry)
        engine.run[run].cached = end
        join(engine, run)
    engine.requests[request].own -= end - first


@inner
def append_to_run(engine: Engine, run: int, entry: int) -> None:
    """Put an entry at the end of a run."""
    last = int(engine.run[run].entry)
    if last < 0:
        engine.run[run].entry = entry
        return
    while engine.entry[last].lower >= 0:
        last = int(engine.entry[last].lower)
    engine.entry[last].lower, engine.entry[entry].upper = entry, last


@inner
def split(engine: Engine, entry: int, size: int) -> None:
    """Leave an entry of a run its first blocks, and give the others to a new one, which is reused before it."""
    row = engine.entry[entry]
    rest = new_entry(engine, int(row.owner), int(row.size) - size)
    other = engine.entry[rest]
    other.references, other.upper, other.lower = row.references, entry, row.lower
    if row.lower >= 0:
        engine.entry[row.lower].upper = rest
    row.lower, row.size = rest, size
    if row.references > 0:
        return
    other.before, other.after = row.before, entry
    if row.before < 0:
        engine.state.free_head = rest
    else:
        engine.entry[row.before].after = rest
    row.before = rest


@inner
def join(engine: Engine, run: int) -> None:
    """Make entries of a run one where the same requests hold them, or where they are reused one after the other."""
    entry = int(engine.run[run].entry)
    while entry >= 0 and engine.entry[entry].lower >= 0:
        row, lower = engine.entry[entry], int(engine.entry[entry].lower)
        other = engine.entry[lower]
        if row.references != other.references or (row.references == 0 and row.before != lower):
            entry = lower
            continue
        if row.references == 0:
            remove_free(engine, lower)
            engine.state.free += other.size
        row.size += other.size
        row.lower = other.lower
        if other.lower >= 0:
            engine.entry[other.lower].upper = entry
        drop_entry(engine, lower)


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
    if row.held > 0:
        free_path(engine, request)
    row.held = 0
    row.own = 0


@inner
def free_path(engine: Engine, request: int) -> None:
    """Let a request hold its leading blocks no longer. The tiers keep them."""
    row, paths = engine.requests[request], engine.paths
    index, first = row.first_run, 0
    while first + paths.sizes[paths.runs[index]] < row.held:
        first += paths.sizes[paths.runs[index]]
        index += 1
    last, end = index, int(row.held - first)
    while index >= row.first_run:
        run = int(paths.runs[index])
        if index < last:
            end = int(paths.sizes[run])
        if end > 0:
            free_part(engine, run, end)
            keep(engine, run, end)
        index -= 1
    make_room(engine)


@inner
def free_part(engine: Engine, run: int, end: int) -> None:
    """Let one request less hold the first blocks of a run up to `end`."""
    entry, position = int(engine.run[run].entry), 0
    while position + engine.entry[entry].size < end:
        position += engine.entry[entry].size
        entry = int(engine.entry[entry].lower)
    while entry >= 0:
        engine.entry[entry].references -= 1
        if engine.entry[entry].references == 0:
            append_free(engine, entry)
        entry = int(engine.entry[entry].upper)
    join(engine, run)
