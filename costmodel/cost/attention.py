"""A fused attention core's time from the fit of one library's kernels: query tiles, or one query over split keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costmodel.cost.gemm import p_norm
from costmodel.cost.machine import Machine
from costmodel.cost.residual import Features
from costmodel.cost.split_kv import split_keys
from costmodel.cost.time import Time, busy_kernel
from costmodel.quantities import Bytes, Count, Quantity, Seconds, ceil, floor, log2, maximum, minimum, where
from costmodel.workload.operators import AttentionKernel


@dataclass(frozen=True, slots=True, eq=False)
class PrefillForm:
    """The fitted form of cores whose blocks take one tile of queries each.

        t = launch + (chip^p + memory^p)^(1/p), the fastest candidate tile m_t x n_t
        chip    = (longest^b + grid^b)^(1/b) / clock
        longest = fill' + last / s * step / alone + combine where keys are split into s > 1 pieces   [cycles]
        grid    = waves * (fill' + mean / s * step / compute)                                        [cycles]
        step    = 2*m_t*n_t*(q + v) / flop per cycle,   fill' = fill + reach*(q + v)                 [cycles]
        memory  = (traffic + scatter * cache) / (memory * bandwidth)

    longest: the block of the last queries, whose `last` key tiles run one after another; grid: all blocks, each with
    the `mean` key tiles, whole waves with a `tail` of the last one.

    launch, combine: fixed times [s]; compute: share of the peak that full processors reach; alone: that of a block by
    itself; memory: share of the bandwidth; fill, reach: start and end of a block, by itself and for each element of a
    head [cycles]; tail: of a wave that is not full, the share that is lost; balance, sharpness: b and p; scatter: how
    much more a byte of the cache costs than one of the queries, since pages are scattered; packed: query heads that
    share a key head fill one tile; splits: rule of `split_keys`; tiles: candidates (queries, keys).

    FlashAttention-2, arXiv 2307.08691, section 3.2 (one block for a tile of queries); -3, arXiv 2407.08608.
    """

    launch: float
    compute: float
    alone: float
    memory: float
    fill: float
    reach: float
    tail: float
    balance: float
    sharpness: float
    scatter: float
    combine: float
    packed: bool
    splits: str
    tiles: tuple[tuple[int, int], ...]

    AXES = ("rows", "keys", "blocks", "heads", "sharing", "width")
    FORMULA: ClassVar[str] = (
        "t = launch + p-norm of (chip, memory), chip = b-norm of the longest block and the whole grid"
    )

    def time(self, core: AttentionKernel, machine: Machine) -> Time:
        """Return the core's time."""
        cached = core.sequences * core.kv_heads * core.kv_len * core.kv_token_bytes
        memory = (core.traffic + self.scatter * cached) / (self.memory * machine.memory_bandwidth)
        chip = minimum(*(self._chip(core, machine, float(rows), float(keys)) for rows, keys in self.tiles))
        busy = p_norm(self.sharpness, chip, memory)
        return busy_kernel(self.launch, busy, memory, self.sharpness)

    def features(self, core: AttentionKernel) -> Features:
        """Return log2 of query rows, keys, heads of all sequences, heads, queries per key head, and product width."""
        return (
            log2(core.q_len), log2(core.kv_len), log2(core.sequences * core.heads), log2(core.heads),
            log2(core.heads / core.kv_heads), log2(core.macs_per_pair),
        )  # fmt: skip

    def _chip(self, core: AttentionKernel, machine: Machine, rows: float, keys: float) -> Seconds:
        """Return the time of all blocks on the processors."""
        unit = machine.device.math[core.dtype]
        step = 2.0 * rows * keys * core.macs_per_pair / unit.flop_per_cycle
        fill = self.fill + self.reach * core.macs_per_pair
        sharing = core.heads / core.kv_heads
        panels = ceil(core.q_len * (sharing if self.packed else 1.0) / rows)
        last = ceil((core.kv_len if core.last_query_kv_len is None else core.last_query_kv_len) / keys)
        blocks = core.sequences * (core.kv_heads if self.packed else core.heads) * panels
        split = split_keys(self.splits, blocks, machine.processors, last, sharing > 1.0)
        longest = fill + ceil(last / split) * step / self.alone + where(split > 1.0, self.combine * unit.clock, 0.0)
        filled = blocks * split / machine.processors
        waves = maximum(filled + self.tail * (ceil(filled) - filled), 1.0)
        grid = waves * (fill + mean_tiles(core, panels, keys) / split * step / self.compute)
        found: Seconds = p_norm(self.balance, longest, grid) / unit.clock
        return found


def mean_tiles(core: AttentionKernel, panels: Count, keys: float) -> Count:
    """Return the key tiles of a block on the mean: of its rows, and half a tile that the diagonal cuts through."""
    last = ceil(core.kv_len / keys)
    return where(panels <= 1.0, last, minimum(core.qk_pairs / core.q_len / keys + 0.5, last))


@dataclass(frozen=True, slots=True, eq=False)
class DecodeForm:
    """The fitted form of cores that read a cache for a few queries, with the keys split over processors.

        t = launch + gather where queries share a key head (+ regroup where there are several key heads and sequences)
            + pad where a head's width is no power of two + waves + (combine + merge*s where keys are split into s > 1)
        waves  = sum over whole and the last wave of b blocks ((crowded * chip)^p + b*bytes^p)^(1/p)
        chip   = ceil(b / processors) * (max(load, tensor) + fill + (reach + each*queries of a block)*(q + v)) / clock
        load   = keys of a piece * bytes of a token / load, / parted where keys are split            [cycles]
        tensor = 2*m_t*n_t*(q + v) * key tiles of a piece / (compute * flop per cycle)               [cycles]
        bytes  = ((cold / (memory * bandwidth))^p + (traffic / (cache * processors * clock))^p)^(1/p) / blocks
        crowded = 1 + crowd * (share of the pairs of processors that are both in use)

    A block takes one key head of a sequence (`packed`: the queries that share it fill the m_t = `rows` of a tile; else
    each query head reads its keys again) over one of the s pieces of its keys, whole tiles of n_t = elements / (q + v)
    keys. A wave is `slots` blocks on each processor. cold: what of the traffic is not in L2 from the run before, where
    a benchmark repeats itself: all of it beyond twice `resident` of L2's capacity, none below once.

    launch, gather, regroup, pad, combine: fixed times [s] (copies regroup and pad the queries); merge: for each split
    [s]; compute, memory: shares of the peaks; load, cache: bytes a cycle of a processor, from anywhere and from L2;
    resident: share of L2; fill, reach: start and end of a block, by itself and for each element of a head [cycles];
    crowd: how much slower two neighbours are; sharpness: p; splits: rule of `split_keys`; tile: n_t, where it is a
    number of keys whatever their width; parted: bytes a cycle that a processor loads where keys are split, zero: as
    `load`; each: end of a block for each element of each of its query rows [cycles].

    Split keys: FlashDecoding; FlashInfer, arXiv 2501.01005.
    """

    launch: float
    gather: float
    regroup: float
    pad: float
    compute: float
    memory: float
    load: float
    cache: float
    resident: float
    fill: float
    reach: float
    combine: float
    merge: float
    crowd: float
    sharpness: float
    packed: bool
    splits: str
    rows: Count
    elements: int
    slots: Count
    tile: int = 0
    parted: float = 0.0
    each: Quantity = 0.0

    AXES: ClassVar[tuple[str, ...]] = ("keys", "sequences", "heads", "sharing", "width")
    FORMULA: ClassVar[str] = (
        "t = launch + gather, regroup, pad + waves of p-norm of (chip, bytes) + combine and merge of split keys"
    )

    def time(self, core: AttentionKernel, machine: Machine) -> Time:
        """Return the core's time."""
        shared = core.heads > core.kv_heads
        several = (core.kv_heads > 1.0) & (core.sequences > 1.0)
        fixed = self.launch + where(shared, self.gather, 0.0) + where(shared & several, self.regroup, 0.0)
        fixed = fixed + where(log2(core.macs_per_pair) % 1.0 > 0.0, self.pad, 0.0)
        memory = l2_miss_bytes(core.traffic, machine, self.resident) / (self.memory * machine.memory_bandwidth)
        busy = self._busy(core, machine, memory)
        return busy_kernel(fixed, busy, memory, self.sharpness)

    def features(self, core: AttentionKernel) -> Features:
        """Return log2 of keys, sequences, heads, queries per key head, and width of the products."""
        return (
            log2(core.kv_len), log2(core.sequences), log2(core.heads), log2(core.heads / core.kv_heads),
            log2(core.macs_per_pair),
        )  # fmt: skip

    def _busy(self, core: AttentionKernel, machine: Machine, memory: Seconds) -> Seconds:
        """Return the time of all waves and of joining the pieces. memory: of all bytes from device memory [s]."""
        clock, processors = machine.device.math[core.dtype].clock, machine.processors
        sharing = core.heads / core.kv_heads
        tile = self.tile or self.elements / core.macs_per_pair
        tiles = ceil(core.kv_len / tile)
        panels = ceil(core.q_len * (sharing if self.packed else 1.0) / self.rows)
        whole = core.sequences * (core.kv_heads if self.packed else core.heads) * panels
        chunk = ceil(tiles / split_keys(self.splits, whole, processors, tiles, sharing > 1.0))
        split = ceil(tiles / chunk)
        load = where(split > 1.0, self.parted, self.load) if self.parted else self.load
        block = self._block(core, machine, chunk * tile, load) / clock
        cache = core.traffic / (self.cache * machine.device.processors * clock)
        each = p_norm(self.sharpness, memory, cache) / (whole * split)
        full = floor(whole * split / (self.slots * processors))
        rest = whole * split - full * self.slots * processors
        crowded = 1.0 + self.crowd * minimum(maximum(2.0 * rest / processors - 1.0, 0.0), 1.0)
        first = p_norm(self.sharpness, self.slots * (1.0 + self.crowd) * block, self.slots * processors * each)
        last = p_norm(self.sharpness, maximum(ceil(rest / processors), 1.0) * crowded * block, rest * each)
        joined = where(split > 1.0, self.combine + self.merge * split, 0.0)
        busy: Seconds = full * first + where(rest > 0.0, last, 0.0) + joined
        return busy

    def _block(self, core: AttentionKernel, machine: Machine, keys: Count, rate: Quantity) -> Quantity:
        """Return the cycles of a block over some keys, whole tiles. rate: bytes that it loads in a cycle."""
        load = minimum(keys, core.kv_len) * core.kv_token_bytes / rate
        peak = self.compute * machine.device.math[core.dtype].flop_per_cycle
        tensor = 2.0 * self.rows * keys * core.macs_per_pair / peak
        rows = core.heads / core.kv_heads if self.packed else 1.0
        return maximum(load, tensor) + self.fill + (self.reach + self.each * rows) * core.macs_per_pair


@dataclass(frozen=True, slots=True, eq=False)
class LatentForm(DecodeForm):
    """A `DecodeForm` of cores whose query heads all share one cache (MLA): their number is no axis of its own."""

    AXES: ClassVar[tuple[str, ...]] = ("keys", "blocks", "sharing", "width")

    def features(self, core: AttentionKernel) -> Features:
        """Return log2 of keys, sequences times key heads, queries per key head, and width of the products."""
        return (
            log2(core.kv_len), log2(core.sequences * core.kv_heads), log2(core.heads / core.kv_heads),
            log2(core.macs_per_pair),
        )  # fmt: skip


def l2_miss_bytes(traffic: Bytes, machine: Machine, resident: float) -> Bytes:
    """Return what of a kernel's bytes is not in L2 from the run before, which is all of it where none was.

    L2 keeps everything up to `resident` of its capacity, and ever less until at twice of that each byte was displaced
    before it is read again.
    """
    level = machine.device.level("l2")
    if not machine.warm_l2 or level is None:
        return traffic
    displaced = minimum(maximum(traffic / (resident * level.capacity) - 1.0, 0.0), 1.0)
    return traffic * displaced
