"""Caches behind an engine's own: prefix blocks that are kept in host memory, and those that fall out of it on disks.

A block is written to the first tier when the device gets it, during the steps. Every tier keeps those that it got
last. One that falls out goes to the next tier. A prompt takes blocks that the device has lost from their tier, which
its step waits for.
"""

from __future__ import annotations

from costmodel.serving.compiled import inner
from costmodel.serving.state import LEVEL, NEWER, OLDER, TIER_NEWEST, TIER_OLDEST, TIER_USED, Engine, Policy

LEVELS = 2
NOWHERE = 0


@inner
def take_out(engine: Engine, node: int) -> None:
    """Take a block out of its tier."""
    tier, count = engine.tier, engine.count
    level = int(tier[node, LEVEL])
    if level == NOWHERE:
        return
    older, newer = int(tier[node, OLDER]), int(tier[node, NEWER])
    if older < 0:
        count[TIER_OLDEST + level] = newer
    else:
        tier[older, NEWER] = newer
    if newer < 0:
        count[TIER_NEWEST + level] = older
    else:
        tier[newer, OLDER] = older
    tier[node, LEVEL] = NOWHERE
    count[TIER_USED + level] -= 1


@inner
def put_in(engine: Engine, node: int, level: int) -> None:
    """Put a block into a tier, as the one used last."""
    tier, count = engine.tier, engine.count
    newest = int(count[TIER_NEWEST + level])
    tier[node, LEVEL], tier[node, OLDER], tier[node, NEWER] = level, newest, -1
    if newest < 0:
        count[TIER_OLDEST + level] = node
    else:
        tier[newest, NEWER] = node
    count[TIER_NEWEST + level] = node
    count[TIER_USED + level] += 1


@inner
def keep(engine: Engine, policy: Policy, node: int) -> None:
    """Keep a block in the first tier. What falls out of a tier goes to the next one, or is lost."""
    if policy.tier_blocks[0] == 0:
        return
    take_out(engine, node)
    put_in(engine, node, 1)
    for level in range(1, LEVELS + 1):
        if engine.count[TIER_USED + level] <= policy.tier_blocks[level - 1]:
            return
        oldest = int(engine.count[TIER_OLDEST + level])
        take_out(engine, oldest)
        if level < LEVELS and policy.tier_blocks[level] > 0:
            put_in(engine, oldest, level + 1)


@inner
def kept_time(engine: Engine, policy: Policy, node: int) -> float:
    """Return how long a block takes from its tier to the device [s]. Negative where no tier has it."""
    if policy.tier_blocks[0] == 0:
        return -1.0
    level = int(engine.tier[node, LEVEL])
    return -1.0 if level == NOWHERE else float(policy.tier_time[level - 1])
