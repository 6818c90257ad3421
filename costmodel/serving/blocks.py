"""Blocks of the KV cache of one engine that no request holds, in the order in which they are reused.

Free blocks form a list from the one that is reused first to the one freed last. Those that were freed together are one
entry with a size. A request frees its last block first, so that of a prefix the end is lost before the start [vLLM,
docs/design/prefix_caching.md].
"""

from __future__ import annotations

from costmodel.serving.compiled import inner
from costmodel.serving.state import ANONYMOUS, Engine


@inner
def new_entry(engine: Engine, owner: int, size: int) -> int:
    """Return an entry that is in no list."""
    engine.state.spare -= 1
    spare = engine.state.spare
    given_back = int(engine.entry[spare].unused)
    entry = given_back - 1 if given_back > 0 else len(engine.entry) - 1 - spare
    row = engine.entry[entry]
    row.owner, row.size, row.references, row.level, row.upper, row.lower = owner, size, 0, 0, -1, -1
    return int(entry)


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
    engine.entry[engine.state.spare].unused = entry + 1
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
def unlink(engine: Engine, entry: int) -> None:
    """Take the last entry of a run on the device out of it."""
    upper = int(engine.entry[entry].upper)
    if upper < 0:
        engine.run[int(engine.entry[entry].owner)].entry = -1
    else:
        engine.entry[upper].lower = -1


@inner
def take_blocks(engine: Engine, blocks: int) -> None:
    """Take free blocks, the longest unused first. A prefix or preempted request that had them loses them."""
    while blocks > 0:
        entry = engine.state.free_head
        owner, part = int(engine.entry[entry].owner), min(int(engine.entry[entry].size), blocks)
        if owner >= 0:
            engine.run[owner].cached -= part
        engine.entry[entry].size -= part
        engine.state.free -= part
        blocks -= part
        if engine.entry[entry].size == 0:
            remove_free(engine, entry)
            if owner >= 0:
                unlink(engine, entry)
            elif owner != ANONYMOUS:
                engine.requests[-2 - owner].segment = -1
            drop_entry(engine, entry)
