"""A matrix product's time from the fit of one library's kernels: tiles in waves, loads, cache, memory, launch."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from costmodel.cost.machine import VECTOR_DTYPE, Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time, busy_kernel
from costmodel.quantities import (
    Array,
    ArrayKey,
    Bytes,
    Count,
    Quantity,
    Seconds,
    as_key,
    ceil,
    from_key,
    is_single,
    log2,
    maximum,
    minimum,
    where,
)
from costmodel.workload.operators import Gemm
from costmodel.workload.order_statistics import expected_tiles

LARGE = 4096  # elements: from here on candidates are taken one by one, so that temporaries stay in the cache
SHORTEST = 1e-12  # of products without work, whose times cannot be divided by [s]
# Chosen, not fitted, so that times change smoothly; no fit rests on them: tests/unit/calibration/test_choices.py.
SHORTEST_SPLIT = 256  # elements of K below which no part of a split goes
STEP = 128  # bytes of one row of the left operand that one step along K takes: the widest shared-memory swizzle
CLIFF = 6.0  # how sharply reuse ends: what is read in a cycle is kept whole or not at all
EDGE = 4.0  # how sharply a tensor stops fitting in L2


@dataclass(frozen=True, slots=True, eq=False)
class GemmForm:
    """The fitted form of one library's matrix products in one number format.

        t      = launch + busy * (1 + sag * (ideal / busy)^2),   ideal = 2*m*n*k / (compute * peak)
        busy   = (chip^p + cache^p + memory^p)^(1/p) + combine where K is split
        chip   = waves * (max(tensor + promotion, load, (turn + sync) * k_s*e_left/128) * hang + fill) / clock
        tensor = 2*m_t*n_t*k_s / (compute * flop per cycle) * (1 + edge*(16/m_t + 16/n_t))        [cycles of a block]
        load   = (min(m, m_t)*e_left + min(n, n_t)*e_right) * k_s / load                           [cycles of a block]
        cache  = blocks * (the bytes of a block's loads) / (cache * processors * clock)
        memory = (traffic + split*s*m*n where K is split + dirty*min(traffic, ramp) + again) / (memory * bandwidth)

    A block computes one tile over k_s = k/s; s is one, or what fills the processors once (from below and from above).
    docs/method.md has the terms promotion, hang and again, and what a warm cache keeps.

    launch, combine: fixed times [s]; compute, memory: shares of the dense peak and of the memory bandwidth; load: what
    one processor can load [B/cycle]; cache: the same of L2, a processor's share of it [B/cycle]; fill: start and end of
    a block [cycles]; turn: the shortest step along K [cycles]; edge: loss of small tiles; split: bytes that one partial
    sum costs [B]; sharpness: p; sag: how much slower the clock is at full load; dirty, ramp: bytes that leave L2 for
    each one that enters, and of how many first bytes [B]; exposed: share of the promotion that nothing hides; sync:
    what two blocks that load together wait for each other in a step [cycles]; overhang, shared: loss of a block that
    reaches over the last row, and clusters of rows that share one; refetch, reach: share of reads that are made again
    where an operand is larger than `reach` L2; cached, copies, resident: in a warm benchmark, the speed of what L2
    keeps over the bandwidth, how many weights take turns, and the share of L2 that activations find; scan: what a
    group of the call adds to the fixed time, with rows or without [s].

    tiles: candidates (m_t, n_t); splits: whether the library splits K; rule: how it chooses a tile: `fastest`, `waves`
    (the fewest, then the fullest last one) or `rows` (by m: `limits` are the largest of each tile but the last);
    paired: rows from which on two blocks load together; clusters: tiles (rows, columns) that are launched together, of
    each tile.
    """

    launch: float
    compute: float
    memory: float
    load: float
    cache: float
    fill: float
    turn: float
    edge: float
    sharpness: float
    tiles: tuple[tuple[int, int], ...]
    splits: bool
    split: float = 0.0
    combine: float = 0.0
    sag: float = 0.0
    dirty: float = 0.0
    ramp: float = 0.0
    exposed: float = 0.0
    sync: float = 0.0
    overhang: float = 0.0
    shared: float = 1.0
    refetch: float = 0.0
    reach: float = 1.0
    cached: float = 0.0
    copies: float = 1.0
    resident: float = 1.0
    scan: float = 0.0
    rule: str = "fastest"
    limits: tuple[int, ...] = ()
    paired: int = 1
    clusters: tuple[tuple[int, int], ...] = ()

    AXES = ("m", "n", "k", "groups")
    FORMULA: ClassVar[str] = "t = launch + busy * (1 + sag * (ideal / busy)^2), busy = p-norm of chip, cache and memory"

    def time(self, gemm: Gemm, machine: Machine) -> Time:
        """Return the product's time."""
        busy: Any = self._busy(gemm, machine)
        ideal = gemm.flop / (self.compute * machine.processors * machine.processor_peak(gemm.dtype))
        busy = busy + self.sag * ideal * ideal / maximum(busy, SHORTEST)
        memory = gemm.traffic / (self.memory * machine.memory_bandwidth)
        fixed = self.launch + self.scan * gemm.local_experts if self.scan else self.launch
        return busy_kernel(fixed, busy, memory, self.sharpness)

    def features(self, gemm: Gemm) -> Features:
        """Return log2 of m, n, k and groups."""
        return log2(gemm.m), log2(gemm.n), log2(gemm.k), log2(gemm.groups)

    def _busy(self, gemm: Gemm, machine: Machine) -> Seconds:
        """Return the time of the fastest candidate, or of the one that the library's rule takes."""
        traffic = self._traffic(gemm, machine)
        sizes = (gemm.m, gemm.n, gemm.k, gemm.groups, traffic, *_hardware(gemm, machine))
        shape = () if all(map(is_single, sizes)) else np.broadcast_shapes(*map(np.shape, sizes))
        large = math.prod(shape) >= LARGE
        fastest: Any = math.inf
        for block in self._blocks(gemm, machine, len(shape), large=large):
            time = self._candidate(gemm, machine, block, traffic)
            if not large and self.rule == "fastest":
                time = time.min(axis=0)
            fastest = minimum(fastest, time)
        return fastest if shape else float(fastest)

    def _blocks(self, gemm: Gemm, machine: Machine, axes: int, *, large: bool) -> Iterator[_Block]:
        """Yield the candidates: one by one on large arrays, else together on a leading axis."""
        table = _table(self.tiles, self.clusters, self.splits)
        if self.rule == "fastest":
            if large:
                yield from (_Block(*row) for row in table.T.tolist())
            else:
                yield _Block(*table.reshape(5, -1, *(1,) * axes))
            return
        chosen = self._chosen(gemm, machine.processors, axes, large=large)
        whole = table[:4, : len(self.tiles)]
        rows, columns, down, across = whole[:, chosen] if isinstance(chosen, np.ndarray) else whole[:, chosen].tolist()
        for mode in (0.0, 1.0, 2.0) if self.splits else (0.0,):
            yield _Block(rows, columns, down, across, mode)

    def _chosen(self, gemm: Gemm, processors: Count, axes: int, *, large: bool) -> Any:
        """Return which tile the library takes."""
        if self.rule == "rows":
            if is_single(gemm.m):
                return bisect.bisect_left(self.limits, gemm.m)
            return np.searchsorted(np.array(self.limits), gemm.m)
        if not large:
            rows, columns = _table(self.tiles, (), False)[:2].reshape(2, -1, *(1,) * axes)
            chosen = _waves(gemm, processors, rows, columns).argmin(axis=0)
            return chosen if axes else int(chosen)
        best: Any = math.inf
        chosen = 0
        for place, (rows, columns) in enumerate(self.tiles):
            key = _waves(gemm, processors, rows, columns)
            chosen = where(key < best, place, chosen)
            best = minimum(key, best)
        return chosen

    def _candidate(self, gemm: Gemm, machine: Machine, block: _Block, traffic: Bytes) -> Any:
        """Return the busy time of a candidate."""
        unit, processors = machine.device.math[gemm.dtype], machine.processors
        down, across = block.tiles(gemm)
        tiles = gemm.groups * down * across
        split = _split(block.mode, tiles, processors, gemm.k) if self.splits else 1.0
        depth, blocks = gemm.k / split, tiles * split
        moved = (minimum(gemm.m, block.rows) * gemm.a_bytes + minimum(gemm.n, block.columns) * gemm.b_bytes) * depth
        area = block.rows * block.columns * depth
        edge = 1.0 + self.edge * (16.0 / block.rows + 16.0 / block.columns)
        tensor = area * (2.0 / (self.compute * unit.flop_per_cycle) * edge + self._promotion(gemm, machine))
        work = maximum(tensor, moved / self.load, self._turn(gemm) / STEP * gemm.a_bytes * depth)
        if self.overhang:
            over = minimum(down * block.rows - gemm.m, block.rows) / block.rows
            work = work * (1.0 + self.overhang * over * minimum(1.0, self.shared * block.down / down))
        chip = ceil(blocks / processors) * (work + self.fill) / unit.clock
        cache = blocks * moved / (self.cache * machine.device.processors * unit.clock)
        if self.refetch:
            traffic = traffic + self._again(gemm, machine, block)
        bandwidth = self.memory * machine.memory_bandwidth
        if not self.splits:
            return p_norm(self.sharpness, chip, cache, traffic / bandwidth)
        divided = split > 1.0
        partial = where(divided, self.split * gemm.groups * gemm.m * gemm.n, 0.0) * split
        busy = p_norm(self.sharpness, chip, cache, (traffic + partial) / bandwidth)
        return busy + where(divided, self.combine, 0.0)

    def _turn(self, gemm: Gemm) -> Quantity:
        """Return the shortest step along K [cycles]."""
        return self.turn + where(gemm.m >= self.paired, self.sync, 0.0) if self.sync else self.turn

    def _traffic(self, gemm: Gemm, machine: Machine) -> Bytes:
        """Return the bytes to and from memory where K is not split, as bytes at the speed of memory.

        The first `ramp` bytes push `dirty` others out of L2. On a warm machine L2 keeps what fits into it.
        """
        traffic: Any = gemm.traffic
        if self.dirty:
            traffic = traffic + self.dirty * minimum(traffic, self.ramp)
        if self.cached and machine.warm_l2:
            capacity = _l2(machine)
            left, right = gemm.groups * gemm.m * gemm.k * gemm.a_bytes, gemm.groups * gemm.n * gemm.k * gemm.b_bytes
            kept = right / (1.0 + (self.copies * right / capacity) ** EDGE)
            for tensor in (left, gemm.traffic - left - right):
                kept = kept + tensor / (1.0 + (tensor / (self.resident * capacity)) ** EDGE)
            traffic = traffic - kept * (1.0 - self.memory / self.cached)
        return traffic  # type: ignore[no-any-return]

    def _promotion(self, gemm: Gemm, machine: Machine) -> Quantity:
        """Return the cycles per multiply-add that moving sums to FP32 and scaling them takes beside the products.

        One FP32 multiply-add for each element of the tile and each `promotion_interval` of K, of which `exposed` is
        hidden by nothing; none where the unit accumulates in FP32 and applies block scales itself.
        """
        unit = machine.device.math[gemm.dtype]
        if not self.exposed or not gemm.block_scaled or (unit.accumulate == "fp32" and unit.scaling == "native"):
            return 0.0
        lanes = machine.device.math[VECTOR_DTYPE].flop_per_cycle / 2.0
        return self.exposed / (lanes * machine.framework.promotion_interval)

    def _again(self, gemm: Gemm, machine: Machine, block: _Block) -> Bytes:
        """Return what is read from memory again because tiles are taken along the shorter side of the result.

        Every strip of tiles across reads the whole operand along which the strip runs; what exceeds L2 is read again.
        """
        down, across = block.tiles(gemm)
        left, right = gemm.groups * gemm.m * gemm.k * gemm.a_bytes, gemm.groups * gemm.n * gemm.k * gemm.b_bytes
        along = across > down
        operand = where(along, left, right)
        strips = where(along, across / block.across, down / block.down) - 1.0
        kept = (self.reach * _l2(machine) / operand) ** CLIFF
        return operand * strips * self.refetch / (1.0 + kept)


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """A candidate: rows and columns of its tile, tiles down and across of a cluster, and how K is split.

    mode: 0 not, 1 into as many parts as leave no processor with two blocks, 2 into as many as leave none idle.
    """

    rows: Any
    columns: Any
    down: Any
    across: Any
    mode: Any

    def tiles(self, gemm: Gemm) -> tuple[Any, Any]:
        """Return the tiles of the result down and across, in whole clusters; expected ones where groups differ."""
        down, across = self.rows * self.down, self.columns * self.across
        return row_tiles(gemm, down) * self.down, ceil(gemm.n / across) * self.across


@functools.lru_cache(maxsize=256)
def _table(tiles: tuple[tuple[int, int], ...], clusters: tuple[tuple[int, int], ...], splits: bool) -> Array:
    """Return the candidates' rows, columns, cluster, and mode, shape (5, candidates): all tiles of mode 0 first."""
    grouped = clusters or ((1, 1),) * len(tiles)
    modes = (0, 1, 2) if splits else (0,)
    rows = [(*tile, *cluster, mode) for mode in modes for tile, cluster in zip(tiles, grouped, strict=True)]
    return np.array(rows, dtype=np.float64).T


def _waves(gemm: Gemm, processors: Count, rows: Any, columns: Any) -> Any:
    """Return by what a library orders tiles: fewest waves, of equal ones the fullest last one, then the smaller tile.

    An order, not a time.
    """
    filled = gemm.groups * row_tiles(gemm, rows) * ceil(gemm.n / columns) / processors
    waves = ceil(filled)
    return waves + 0.5 * (waves - filled) + 1e-6 * (rows + columns)


def row_tiles(gemm: Gemm, heights: Any) -> Any:
    """Return the tiles of each height that a group's rows fill, in expectation where groups differ in rows.

    heights: a number or an array, of few distinct values.
    """
    if is_single(gemm.m_std) and gemm.m_std == 0:
        return ceil(gemm.m / heights)
    known = as_key(gemm.m), as_key(gemm.m_std)
    if is_single(heights):
        return _expected(*known, float(heights))
    distinct = sorted(set(heights.reshape(-1).tolist()))
    return sum((heights == height) * _expected(*known, height) for height in distinct)


@functools.lru_cache(maxsize=512)
def _expected(mean: ArrayKey | float, deviation: ArrayKey | float, height: float) -> Quantity:
    """Return the expected tiles; a fit asks for those of the same rows thousands of times."""
    return expected_tiles(from_key(mean), from_key(deviation), height)


def _split(mode: Any, tiles: Any, processors: Count, depth: Count) -> Any:
    """Return into how many parts K is split."""
    filled = processors / tiles
    parts = maximum(minimum(where(mode == 1.0, -ceil(-filled), ceil(filled)), -ceil(-depth / SHORTEST_SPLIT)), 1.0)
    return where(mode == 0.0, 1.0, parts)


def _hardware(gemm: Gemm, machine: Machine) -> tuple[Quantity, ...]:
    """Return what a product's time depends on beside its shape, any of which may be an array."""
    unit, vector = machine.device.math[gemm.dtype], machine.device.math[VECTOR_DTYPE]
    return (
        machine.processors, machine.device.processors, machine.memory_bandwidth, unit.flop_per_cycle, unit.clock,
        vector.flop_per_cycle, machine.framework.promotion_interval, _l2(machine),
    )  # fmt: skip


def _l2(machine: Machine) -> Bytes:
    """Return the capacity of L2; one byte, which keeps nothing, where the device states none."""
    cache = machine.device.level("l2")
    return 1.0 if cache is None else cache.capacity


def p_norm(sharpness: float, *parts: Any) -> Any:
    """Return the p-norm of times that overlap: near the largest, more where several are as long; zero where all are."""
    largest = maximum(parts[0], *parts[1:])
    unit = maximum(largest, SHORTEST)
    total = sum((part / unit) ** sharpness for part in parts)
    return largest * total ** (1.0 / sharpness)
