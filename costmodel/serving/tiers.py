"""Caches behind an engine's own: prefix blocks that are kept in host memory, and those that fall out of it on disks.

Blocks are written to the first tier while requests run. Every tier keeps those that were used last: a request that
ends uses the last block of its path first, so that leaves of the tree fall out before what they stand on. What falls
out goes to the next tier. A prompt takes blocks that the device has lost from their tier, which its step waits for.
"""

from __future__ import annotations

from costmodel.serving.blocks import drop_entry, new_entry
from costmodel.serving.compiled import inner
from costmodel.serving.state import LEVELS, Engine


@inner
def keep(engine: Engine, run: int, end: int) -> None:
    """Keep the first blocks of a run, up to `end`, in the first tier as those used last."""
    if engine.policy.tier_blocks[0] == 0:
        return
    rest, left = int(engine.run[run].stored), end
    while rest >= 0 and left > 0:
        row = engine.entry[rest]
        part, lower = min(int(row.size), left), int(row.lower)
        left -= part
        if part < row.size:
            row.size -= part
            engine.tiers[row.level].used -= part
            break
        take_out(engine, rest)
        drop_entry(engine, rest)
        rest = lower
    first = new_entry(engine, run, end)
    engine.entry[first].lower = rest
    if rest >= 0:
        engine.entry[rest].upper = first
    engine.run[run].stored = first
    put_in(engine, first, 1)


@inner
def make_room(engine: Engine) -> None:
    """Let what a tier has too many blocks of fall out of it."""
    if engine.policy.tier_blocks[0] == 0:
        return
    for level in range(1, LEVELS + 1):
        while engine.tiers[level].used > engine.policy.tier_blocks[level - 1]:
            demote(engine, level)


@inner
def take_out(engine: Engine, entry: int) -> None:
    """Take an entry out of the list of its tier."""
    row = engine.entry[entry]
    tier = engine.tiers[row.level]
    if row.before < 0:
        tier.oldest = row.after
    else:
        engine.entry[row.before].after = row.after
    if row.after < 0:
        tier.newest = row.before
    else:
        engine.entry[row.after].before = row.before
    tier.used -= row.size


@inner
def put_in(engine: Engine, entry: int, level: int) -> None:
    """Put an entry into a tier, as the one used last."""
    row, tier = engine.entry[entry], engine.tiers[level]
    row.level, row.before, row.after = level, tier.newest, -1
    if tier.newest < 0:
        tier.oldest = entry
    else:
        engine.entry[tier.newest].after = entry
    tier.newest = entry
    tier.used += row.size


@inner
def demote(engine: Engine, level: int) -> None:
    """Move the last blocks of the entry that a tier has used first, as many as are too many, to the next tier."""
    entry = int(engine.tiers[level].oldest)
    row = engine.entry[entry]
    part = min(int(row.size), int(engine.tiers[level].used - engine.policy.tier_blocks[level - 1]))
    moves = level < LEVELS and engine.policy.tier_blocks[level] > 0
    lower = int(row.lower)
    if moves and lower >= 0 and engine.tiers[level + 1].newest == lower:
        engine.entry[lower].size += part
        engine.tiers[level + 1].used += part
    elif moves:
        below = new_entry(engine, int(row.owner), part)
        engine.entry[below].upper, engine.entry[below].lower = entry, lower
        if lower >= 0:
            engine.entry[lower].upper = below
        row.lower = below
        put_in(engine, below, level + 1)
    if part < row.size:
        row.size -= part
        engine.tiers[level].used -= part
        return
    take_out(engine, entry)
    if row.upper < 0:
        engine.run[row.owner].stored = row.lower
    else:
        engine.entry[row.upper].lower = row.lower
    if row.lower >= 0:
        engine.entry[row.lower].upper = row.upper
    drop_entry(engine, entry)


@inner
def from_tiers(engine: Engine, request: int, cached: int, most: int) -> tuple[int, float]:
    """Return how many blocks behind the `cached` ones the tiers have, and how long they take to the device [s]."""
    loaded, seconds = 0, 0.0
    if engine.policy.tier_blocks[0] == 0:
        return loaded, seconds
    row, paths = engine.requests[request], engine.paths
    index, first, number = row.first_run, 0, min(most, row.blocks)
    while first < number:
        run = paths.runs[index]
        entry, position = int(engine.run[run].stored), first
        while entry >= 0 and position < number:
            end = min(position + engine.entry[entry].size, number)
            known = end - max(position, cached)
            if known > 0:
                loaded += known
                seconds += known * engine.policy.tier_time[engine.entry[entry].level - 1]
            position, entry = position + engine.entry[entry].size, int(engine.entry[entry].lower)
        first += paths.sizes[run]
        index += 1
        if position < first:
            break
    return int(loaded), seconds
