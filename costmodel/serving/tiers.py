"""Caches behind an engine's own: prefix blocks that are kept in host memory, and those that fall out of it on disks.

A block is written to the first tier when the device gets it, during the steps. Every tier keeps those that it got
last. One that falls out goes to the next tier. A prompt takes blocks that the device has lost from their tier, which
its step waits for.
"""

from __future__ import annotations

from costmodel.serving.compiled import inner
from costmodel.serving.state import LEVELS, Engine

NOWHERE = 0


@inner
def take_out(engine: Engine, node: int) -> None:
    """Take a block out of its tier."""
    tier_block = engine.tier_block
    level = int(tier_block[node].level)
    if level == NOWHERE:
        return
    older, newer = int(tier_block[node].older), int(tier_block[node].newer)
    if older < 0:
        engine.tiers[level].oldest = newer
    else:
        tier_block[older].newer = newer
    if newer < 0:
        engine.tiers[level].newest = older
    else:
        tier_block[newer].older = older
    tier_block[node].level = NOWHERE
    engine.tiers[level].used -= 1


@inner
def put_in(engine: Engine, node: int, level: int) -> None:
    """Put a block into a tier, as the one used last."""
    tier_block = engine.tier_block
    newest = int(engine.tiers[level].newest)
    tier_block[node].level, tier_block[node].older, tier_block[node].newer = level, newest, -1
    if newest < 0:
        engine.tiers[level].oldest = node
    else:
        tier_block[newest].newer = node
    engine.tiers[level].newest = node
    engine.tiers[level].used += 1


@inner
def keep(engine: Engine, node: int) -> None:
    """Keep a block in the first tier. What falls out of a tier goes to the next one, or is lost."""
    policy = engine.policy
    if policy.tier_blocks[0] == 0:
        return
    take_out(engine, node)
    put_in(engine, node, 1)
    for level in range(1, LEVELS + 1):
        if engine.tiers[level].used <= policy.tier_blocks[level - 1]:
            return
        oldest = int(engine.tiers[level].oldest)
        take_out(engine, oldest)
        if level < LEVELS and policy.tier_blocks[level] > 0:
            put_in(engine, oldest, level + 1)


@inner
def kept_time(engine: Engine, node: int) -> float:
    """Return how long a block takes from its tier to the device [s]. Negative where no tier has it."""
    if engine.policy.tier_blocks[0] == 0:
        return -1.0
    level = int(engine.tier_block[node].level)
    return -1.0 if level == NOWHERE else float(engine.policy.tier_time[level - 1])
