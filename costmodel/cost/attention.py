"""A fused attention core's time from the fit of one library's kernels: query blocks or split keys, in waves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from costmodel.cost.gemm import together
from costmodel.cost.machine import Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time
from costmodel.quantities import Seconds, log2, minimum
from costmodel.workload.operators import AttentionCore


@dataclass(frozen=True, slots=True, eq=False)
class PrefillForm:
    """The fitted form of cores whose blocks take one tile of queries each.

        t = launch + (chip^4 + memory^4)^(1/4), the fastest candidate tile
        block  = fill + pairs of a block's rows / n_t * step;   last: the block of the last queries, which sees all keys
        chip   = max(last, whole waves of mean blocks with a `tail` of the last one) / clock
        step   = 2*m_t*n_t*(q + v) / (compute * flop per cycle) + turn                            [cycles of a key tile]
        memory = traffic / (memory * bandwidth)

    launch: fixed time [s]; compute, memory: shares of the peaks; fill: start and end of a block [cycles]; turn: what a
    key tile takes beside its products [cycles]; tail: of a wave that is not full, the share that is lost; tiles:
    candidates (queries, keys).
    """

    launch: float
    compute: float
    memory: float
    fill: float
    turn: float
    tail: float
    tiles: tuple[tuple[int, int], ...]

    AXES = ("rows", "keys", "blocks", "sharing", "width")

    def time(self, core: AttentionCore, machine: Machine) -> Time:
        """Return the core's time."""
        memory = core.traffic / (self.memory * machine.memory_bandwidth)
        chip: Any = np.inf
        for rows, keys in self.tiles:
            chip = np.minimum(chip, self._chip(core, machine, float(rows), float(keys)))
        busy = together(4.0, chip, memory)
        return Time(self.launch + busy, compute=busy, memory=minimum(memory, busy), fixed=self.launch)

    def features(self, core: AttentionCore) -> Features:
        """Return log2 of query rows, keys, heads of all sequences, queries per key head, and width of the products."""
        return (
            log2(core.rows), log2(core.keys), log2(core.sequences * core.heads), log2(core.heads / core.kv_heads),
            log2(core.products),
        )  # fmt: skip

    def _chip(self, core: AttentionCore, machine: Machine, rows: float, keys: float) -> Seconds:
        """Return the time of all blocks on the processors."""
        unit = machine.device.math[core.dtype]
        tiles = np.ceil(core.rows / rows)
        last = np.ceil(core.keys / keys)
        # A block's keys: the mean over rows, and half a tile that the diagonal cuts through.
        mean = np.minimum(core.pairs / core.rows / keys + 0.5 * np.minimum(1.0, core.rows / rows), last)
        step = 2.0 * rows * keys * core.products / (self.compute * unit.flop_per_cycle) + self.turn
        blocks = core.sequences * core.heads * tiles / machine.processors
        lost = self.tail * (np.ceil(blocks) - blocks)
        waves = np.where(blocks <= 1.0, 1.0, blocks + lost)
        found: Seconds = np.maximum(self.fill + last * step, waves * (self.fill + mean * step)) / unit.clock
        return found


@dataclass(frozen=True, slots=True, eq=False)
class DecodeForm:
    """The fitted form of cores that read a cache for a few queries, with the keys split over processors.

        t = launch + min over splits of ((chip^p + cache^p + memory^p)^(1/p) + combine where keys are split)
        chip   = waves * (max(load, tensor) + fill + reach*(q + v)) / clock
        load   = keys/s * bytes of a token / load                                              [cycles of a block]
        tensor = 2*rows*keys/s*(q + v) / (compute * flop per cycle), rows: the queries of a key head, padded to 16
        cache  = all loads / (cache * processors * clock)
        memory = traffic / (memory * bandwidth)

    A block takes one key head of a sequence (`packed`: queries that share it come along; else each query head loads
    its keys again) over 1/s of the keys, at least `shortest` of them.

    launch, combine: fixed times [s]; compute, memory: shares of the peaks; load, cache: bytes a cycle of a processor,
    from anywhere and from L2; fill, reach: start and end of a block, by itself and for each element of a head
    [cycles]; shortest: keys of a split; sharpness: p;
    splits: when keys are split: `always`, `shared` (where several queries share a key head) or `never`.
    """

    launch: float
    compute: float
    memory: float
    load: float
    cache: float
    fill: float
    reach: float
    combine: float
    shortest: float
    sharpness: float
    packed: bool
    splits: str

    AXES = ("keys", "sequences", "heads", "sharing", "width")

    def time(self, core: AttentionCore, machine: Machine) -> Time:
        """Return the core's time."""
        busy: Any = np.inf
        for mode in (0, 1, 2) if self.splits != "never" else (0,):
            busy = np.minimum(busy, self._candidate(core, machine, mode))
        memory = core.traffic / (self.memory * machine.memory_bandwidth)
        return Time(self.launch + busy, compute=busy, memory=minimum(memory, busy), fixed=self.launch)

    def features(self, core: AttentionCore) -> Features:
        """Return log2 of keys, sequences, heads, queries per key head, and width of the products."""
        return (
            log2(core.keys), log2(core.sequences), log2(core.heads), log2(core.heads / core.kv_heads),
            log2(core.products),
        )  # fmt: skip

    def _candidate(self, core: AttentionCore, machine: Machine, mode: int) -> Seconds:
        """Return the busy time. mode: 0 keys in one piece, 1 one block a processor, 2 two."""
        unit, processors = machine.device.math[core.dtype], machine.processors
        heads = core.kv_heads if self.packed else core.heads
        queries = core.rows * (core.heads / core.kv_heads if self.packed else 1.0)
        whole = core.sequences * heads
        split: Any = 1.0
        if mode:
            filling = np.minimum(np.floor(mode * processors / whole), np.floor(core.keys / self.shortest))
            allowed = self.splits == "always" or core.heads > core.kv_heads
            split = np.where(allowed, np.maximum(filling, 1.0), 1.0)
        keys, blocks = core.keys / split, whole * split
        load = keys * core.cached / self.load
        tensor = 2.0 * np.ceil(queries / 16.0) * 16.0 * keys * core.products / (self.compute * unit.flop_per_cycle)
        chip = (
            np.ceil(blocks / processors)
            * (np.maximum(load, tensor) + self.fill + self.reach * core.products)
            / unit.clock
        )
        cache = whole * core.keys * core.cached / (self.cache * machine.device.processors * unit.clock)
        memory = core.traffic / (self.memory * machine.memory_bandwidth)
        found: Seconds = together(self.sharpness, chip, cache, memory) + np.where(split > 1.0, self.combine, 0.0)
        return found
