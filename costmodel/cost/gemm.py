"""The time of a GEMM from the fit of one library's kernels: tiles in waves, operand loads, L2, memory, launch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from costmodel.cost.gemm_tiles import CtaTile, Shapes, TileChoice, TileRule
from costmodel.cost.parameter import DeclaredRecord, constant, fitted, like, mechanism, optional, record
from costmodel.cost.promotion import promotion_cycles
from costmodel.cost.residual import Features
from costmodel.cost.time import (
    SHORTEST,
    VECTOR_DTYPE,
    Machine,
    Terms,
    Time,
    busy_kernel,
    p_norm_below,
    term_at,
    time_where,
)
from costmodel.equations import equation
from costmodel.quantities import (
    Bytes,
    Count,
    Mask,
    Quantity,
    Seconds,
    anywhere,
    ceil,
    is_single,
    log2,
    maximum,
    minimum,
    power,
    where,
)
from costmodel.records import fields, replace
from costmodel.workload.operators import Gemm

# Steepness of the two cut-offs: chosen so that times change smoothly, no fit rests on them.
REREAD_STEEPNESS = 6.0  # a cyclic scan either fits in L2 or thrashes
L2_STEEPNESS = 4.0  # a tensor stops fitting in L2


class SplitK(DeclaredRecord, kw_only=True):
    """K is split over CTAs: partial sums go through memory, and a second kernel adds them."""

    splitk_bytes: float = fitted("bytes", 8.0, 0.4, 160.0, "traffic of one partial sum, where K is split")
    splitk_latency: float = fitted("s", 1e-6, 1e-9, 2e-5, "fixed time, where K is split")

    def traffic(self, gemm: Gemm, splits: Count) -> Bytes:
        """Return what partial sums move [B]."""
        return where(splits > 1.0, self.splitk_bytes * gemm.groups * gemm.m * gemm.n, 0.0) * splits

    def latency(self, splits: Count) -> Seconds:
        """Return the fixed time of a split."""
        return where(splits > 1.0, self.splitk_latency, 0.0)


class Writeback(DeclaredRecord, kw_only=True):
    """In a cold kernel L2 is full of other kernels' dirty lines, which the first bytes that enter push out."""

    writeback_ratio: float = fitted("B/B", 0.3, 1e-3, 2.0, "bytes evicted from L2 for each of the first bytes read")
    writeback_limit: float = fitted("bytes", 2e7, 1e6, 2e8, "first bytes that evict others")

    def traffic(self, entering: Bytes) -> Bytes:
        """Return the evicted bytes [B]."""
        return self.writeback_ratio * minimum(entering, self.writeback_limit)


class PartialTile(DeclaredRecord, kw_only=True):
    """CTAs that load past the last row are slower. Clusters of rows share that loss."""

    partial_tile_loss: float = fitted("1", 0.35, 0.01, 2.0, "slowdown of a CTA whose whole tile is past the last row")
    partial_tile_clusters: float = fitted("clusters", 3.0, 0.5, 30.0, "rows of clusters that share the loss")

    def factor(self, gemm: Gemm, tiles_m: Count, tile: CtaTile) -> Any:
        """Return how much longer a CTA takes. tiles_m: tiles of the result along m."""
        overhang = minimum(tiles_m * tile.m - gemm.m, tile.m) / tile.m
        shared = minimum(1.0, self.partial_tile_clusters * tile.cluster_m / tiles_m)
        return 1.0 + self.partial_tile_loss * overhang * shared


class Reread(DeclaredRecord, kw_only=True):
    """Tiles are taken in strips along the shorter side of the result. Every strip reads the operand of that side.

    What L2 does not hold of it comes from memory again.
    """

    reread_share: float = fitted("1", 0.7, 0.01, 3.0, "share of the reads beyond L2 that are made again")
    reread_onset: float = fitted("L2 sizes", 2.0, 0.3, 10.0, "size of an operand from which on it is read again")

    def traffic(self, gemm: Gemm, machine: Machine, tile: CtaTile) -> Bytes:
        """Return the bytes that are read again [B]."""
        tiles_m, tiles_n = tile.grid(gemm)
        along_n = tiles_n > tiles_m
        operand = where(along_n, *operand_bytes(gemm))
        strips = where(along_n, tiles_n / tile.cluster_n, tiles_m / tile.cluster_m) - 1.0
        held = power(self.reread_onset * machine.l2_capacity / operand, REREAD_STEEPNESS)
        return operand * strips * self.reread_share / (1.0 + held)


class WarmL2(DeclaredRecord, kw_only=True):
    """A benchmark that repeats the kernel finds in L2 what fits there: all weights that take turns, and activations."""

    warm_l2_rate: float = fitted("1", 1.5, 0.5, 10.0, "speed of L2 in a warm benchmark, over the HBM bandwidth")
    warm_weight_sets: float = fitted("sets", 5.0, 0.5, 20.0, "sets of weights that a warm benchmark rotates")
    warm_l2_share: float = fitted("1", 0.5, 0.05, 2.0, "share of L2 that holds activations in a warm benchmark")

    def saved_traffic(self, gemm: Gemm, machine: Machine, hbm_efficiency: float) -> Bytes:
        """Return the bytes of memory traffic that hits in L2 are worth [B], none where nothing ran before."""
        if not machine.warm_l2:
            return 0.0
        capacity = machine.l2_capacity
        a, b = operand_bytes(gemm)
        hits = b / (1.0 + (self.warm_weight_sets * b / capacity) ** L2_STEEPNESS)
        for tensor in (a, gemm.traffic - a - b):
            hits = hits + tensor / (1.0 + (tensor / (self.warm_l2_share * capacity)) ** L2_STEEPNESS)
        return hits * (1.0 - hbm_efficiency / self.warm_l2_rate)


def operand_bytes(gemm: Gemm) -> tuple[Bytes, Bytes]:
    """Return the sizes of the operands A and B of all groups [B]."""
    return gemm.groups * gemm.m * gemm.k * gemm.a_bytes, gemm.groups * gemm.n * gemm.k * gemm.b_bytes


LARGE = 4096  # elements: from here on candidates are taken one by one, so that temporaries stay in the cache
K_STEP_BYTES = 128  # bytes of one row of A that a step along K takes: the widest shared-memory swizzle


class GemmForm(DeclaredRecord, kw_only=True):
    """The GEMM kernels of one library in one number format.

    A CTA computes one tile m_t x n_t over k_s = k / splits. Of the library's tiles the fastest runs, or the one that
    its rule takes. Each mechanism that a fit does not have is without effect.
    """

    SECTION: ClassVar[str] = "7.5"
    AXES: ClassVar[dict[str, float]] = {"m": 2.0, "n": 3.0, "k": 3.0, "groups": 3.0}

    launch: float = fitted("s", 3e-6, 3e-7, 3e-4, "kernel overhead")
    compute_efficiency: float = fitted("1", 0.85, 0.05, 1.3, "of the dense peak")
    hbm_efficiency: float = fitted("1", 0.85, 0.05, 1.3, "of the HBM bandwidth")
    cta_load_rate: float = fitted("B/cycle", 50.0, 8.0, 2000.0, "operand load of one processor")
    l2_rate: float = fitted("B/cycle", 40.0, 5.0, 1000.0, "what L2 gives each processor, all loading")
    cta_overhead: float = fitted("cycles", 1000.0, 1.0, 3e4, "prologue and epilogue of a CTA")
    k_step: float = fitted("cycles", 200.0, 1.0, 3e3, "minimum of a step along K, of 128 bytes")
    small_tile_loss: float = fitted("1", 0.5, 1e-3, 10.0, "loss of tensor throughput at 16 rows or columns")
    overlap_p: float = fitted("1", 3.0, 1.5, 12.0, "p-norm that joins times which overlap")
    split_k: SplitK | None = mechanism(SplitK)
    clock_droop: float = optional("1", 0.1, 1e-3, 0.9, "slowdown of the clock at full load")
    writeback: Writeback | None = mechanism(Writeback)
    multicast_sync: float = optional("cycles", 80.0, 1.0, 3e3, "wait of a CTA pair that loads together, a step along K")
    exposed_promotion: float = optional("1", 0.2, 0.01, 0.5, "share of FP32 promotion and scaling that nothing hides")
    partial_tile: PartialTile | None = mechanism(PartialTile)
    reread: Reread | None = mechanism(Reread)
    warm_l2: WarmL2 | None = mechanism(WarmL2)
    group_latency: float = optional("s", 1e-7, 1e-10, 1e-5, "what a group of the call adds, with rows or without")

    tiles: Shapes = constant("candidate tiles, rows by columns")
    has_split_k: bool = constant("the library splits K")
    tile_rule: TileRule = constant(
        "how the library takes a tile: the fastest, of fewest waves, or by rows", default="fastest"
    )
    multicast_min_m: int = constant("rows from which on two CTAs load together", "count", 1)
    tile_m_limits: tuple[int, ...] = constant("largest rows of each tile but the last, under `rows`", default=())
    cluster_shapes: Shapes = constant("tiles launched together, of each tile: rows by columns", default=())

    def time(self, gemm: Gemm, machine: Machine) -> Time:
        """Return the time of the tile that runs."""
        memory = self._memory_terms(gemm, machine)
        sizes = (gemm.m, gemm.n, gemm.k, gemm.groups, memory["compulsory_bytes"], *_hardware(gemm, machine))
        shape = () if all(map(is_single, sizes)) else np.broadcast_shapes(*map(np.shape, sizes))
        one_by_one = math.prod(shape) >= LARGE
        fastest: Any = math.inf
        for tile in self._candidates(gemm, machine, len(shape), one_by_one=one_by_one):
            busy: Any = self._tile_terms(gemm, machine, tile, memory, fastest)["busy_time"]
            if not one_by_one and self.tile_rule == "fastest":
                busy = busy.min(axis=0)
            fastest = minimum(fastest, busy)
        terms = self._total_terms(gemm, machine, fastest if shape else float(fastest))
        hbm = gemm.traffic / (self.hbm_efficiency * machine.hbm_bandwidth)
        return busy_kernel(terms["fixed_time"], terms["busy_time"] + terms["droop_time"], hbm, self.overlap_p)

    @equation
    def terms(self, gemm: Gemm, machine: Machine) -> Terms:
        """Return the terms at one size, of the tile that runs.

        t = fixed_time + busy_time + droop_time
        """
        memory = self._memory_terms(gemm, machine)
        candidates = (
            term_at(terms := self._tile_terms(gemm, machine, tile, memory), int(np.argmin(terms["busy_time"])))
            for tile in self._candidates(gemm, machine, 0, one_by_one=False)
        )
        taken = min(candidates, key=lambda terms: float(terms["busy_time"]))
        return self._total_terms(gemm, machine, taken["busy_time"]) | taken | memory

    def on_die(self, density: float, rate: float) -> GemmForm:
        """Return the form on another device of the same die.

        density: peak over power.
        rate: a processor's FLOP in a cycle. Both over those of the fit's device. Small tiles wait for the tensor units'
        pipeline, as many cycles at any rate.
        """
        loss = self.small_tile_loss * rate
        return replace(self, clock_droop=scaled_droop(self.clock_droop, density), small_tile_loss=loss)

    def features(self, gemm: Gemm) -> Features:
        """Return log2 of m, n, k and groups."""
        return log2(gemm.m), log2(gemm.n), log2(gemm.k), log2(gemm.groups)

    def _candidates(self, gemm: Gemm, machine: Machine, axes: int, *, one_by_one: bool) -> Iterator[CtaTile]:
        choice = TileChoice(self.tiles, self.cluster_shapes, self.has_split_k, self.tile_rule, self.tile_m_limits)
        return choice.candidates(gemm, machine.processors, axes, one_by_one=one_by_one)

    @equation
    def _total_terms(self, gemm: Gemm, machine: Machine, busy: Quantity) -> Terms:
        """Return the terms that all tiles share. busy: time of the tile that runs.

        fixed_time = launch + group_latency * gemm.local_experts
        droop_time = clock_droop * ideal_time**2 / max(busy, SHORTEST)
        ideal_time = gemm.flop / rate
        rate = compute_efficiency * machine.processors * peak
        """
        fixed = self.launch + self.group_latency * gemm.local_experts if self.group_latency else self.launch
        peak = machine.processor_peak(gemm.dtype)
        rate = self.compute_efficiency * machine.processors * peak
        ideal = gemm.flop / rate
        droop = self.clock_droop * ideal * ideal / maximum(busy, SHORTEST)
        return {"fixed_time": fixed, "busy_time": busy, "droop_time": droop, "ideal_time": ideal}

    def _memory_terms(self, gemm: Gemm, machine: Machine) -> Terms:
        """Return the bytes to and from memory, whatever the tile."""
        traffic = gemm.traffic
        writeback = 0.0 if self.writeback is None else self.writeback.traffic(traffic)
        saved = 0.0 if self.warm_l2 is None else self.warm_l2.saved_traffic(gemm, machine, self.hbm_efficiency)
        return {"compulsory_bytes": traffic, "writeback_bytes": writeback, "l2_saved_bytes": saved}

    @equation
    def _tile_terms(
        self, gemm: Gemm, machine: Machine, tile: CtaTile, memory: Terms, bound: Quantity = math.inf
    ) -> Terms:
        """Return the terms of one tile. memory: those of the traffic that all tiles share.

        bound: time from which on only that the tile takes as long or longer is asked.

            busy_time = splitk_time + (cta_time**overlap_p + l2_time**overlap_p + hbm_time**overlap_p
                                       ) ** (1 / overlap_p)
            cta_time = waves * (work + cta_overhead) / unit.clock
            work = max(math_cycles, load_cycles, k_step_cycles) * partial_tile
            waves = ceil(ctas / processors)
            ctas = tiles * splits
            tiles = gemm.groups * tiles_m * tiles_n              row tiles in expectation
            math_cycles = tile.m * tile.n * k * (tensor + promotion)
            k = gemm.k / splits
            tensor = 2 / (compute_efficiency * unit.flop_per_cycle) * small_tile
            small_tile = 1 + small_tile_loss * (16 / tile.m + 16 / tile.n)
            load_cycles = cta_bytes / cta_load_rate
            cta_bytes = (min(gemm.m, tile.m) * gemm.a_bytes + min(gemm.n, tile.n) * gemm.b_bytes) * k
            k_step_cycles = (k_step + sync) / K_STEP_BYTES * gemm.a_bytes * k
            l2_time = ctas * cta_bytes / (l2_rate * machine.device.processors * unit.clock)
            hbm_time = hbm_bytes / (hbm_efficiency * machine.hbm_bandwidth)
            hbm_bytes = (memory.compulsory_bytes + memory.writeback_bytes - memory.l2_saved_bytes
                         + reread + partial_sums)
        """
        unit, processors = machine.device.math[gemm.dtype], machine.processors
        tiles_m, tiles_n = tile.grid(gemm)
        tiles = gemm.groups * tiles_m * tiles_n
        splits = tile.splits(tiles, processors, gemm.k) if self.has_split_k else 1.0
        k, ctas = gemm.k / splits, tiles * splits
        cta_bytes = (minimum(gemm.m, tile.m) * gemm.a_bytes + minimum(gemm.n, tile.n) * gemm.b_bytes) * k
        small_tile = 1.0 + self.small_tile_loss * (16.0 / tile.m + 16.0 / tile.n)
        tensor = 2.0 / (self.compute_efficiency * unit.flop_per_cycle) * small_tile
        promotion = self.exposed_promotion * promotion_cycles(gemm, machine)
        math_cycles = tile.m * tile.n * k * (tensor + promotion)
        load_cycles = cta_bytes / self.cta_load_rate
        sync = where(gemm.m >= self.multicast_min_m, self.multicast_sync, 0.0) if self.multicast_sync else 0.0
        k_step_cycles = (self.k_step + sync) / K_STEP_BYTES * gemm.a_bytes * k
        partial_tile = 1.0 if self.partial_tile is None else self.partial_tile.factor(gemm, tiles_m, tile)
        work = maximum(math_cycles, load_cycles, k_step_cycles) * partial_tile
        waves = ceil(ctas / processors)
        cta_time = waves * (work + self.cta_overhead) / unit.clock
        l2_time = ctas * cta_bytes / (self.l2_rate * machine.device.processors * unit.clock)
        reread = 0.0 if self.reread is None else self.reread.traffic(gemm, machine, tile)
        partial_sums = 0.0 if self.split_k is None else self.split_k.traffic(gemm, splits)
        hbm_bytes = (
            memory["compulsory_bytes"] + memory["writeback_bytes"] - memory["l2_saved_bytes"] + reread + partial_sums
        )
        hbm_time = hbm_bytes / (self.hbm_efficiency * machine.hbm_bandwidth)
        splitk_time = 0.0 if self.split_k is None else self.split_k.latency(splits)
        return {
            "busy_time": p_norm_below(self.overlap_p, bound, cta_time, l2_time, hbm_time) + splitk_time,
            "cta_time": cta_time, "l2_time": l2_time, "hbm_time": hbm_time, "splitk_time": splitk_time,
            "m_t": tile.m, "n_t": tile.n, "splits": splits, "ctas": ctas, "waves": waves,
            "math_cycles": math_cycles, "load_cycles": load_cycles, "k_step_cycles": k_step_cycles,
            "tensor_per_mac": tensor, "promotion_per_mac": promotion, "partial_tile_factor": partial_tile,
            "cta_bytes": cta_bytes, "hbm_bytes": hbm_bytes, "reread_bytes": reread, "partial_sum_bytes": partial_sums,
        }  # fmt: skip


def scaled_droop(droop: float, density: float) -> float:
    """Return the slowdown of the clock at full load where peak over power is `density` times as much.

        1 + droop' = (1 + droop) * density^(1/3), at least 1

    Switching power is C*V^2*f, and V follows f: a die that has to live on a share of the power runs at the cube root of
    it. A form without the term keeps none: nothing says where its clock begins to fall.
    """
    return max((1.0 + droop) * density ** (1.0 / 3.0) - 1.0, 0.0) if droop else droop


def _hardware(gemm: Gemm, machine: Machine) -> tuple[Quantity, ...]:
    """Return what the time depends on besides the shape, any of which may be an array."""
    unit, vector = machine.device.math[gemm.dtype], machine.device.math[VECTOR_DTYPE]
    return (
        machine.processors, machine.device.processors, machine.hbm_bandwidth, unit.flop_per_cycle, unit.clock,
        vector.flop_per_cycle, machine.framework.promotion_interval, machine.l2_capacity,
    )  # fmt: skip


# ---- A grouped GEMM's time where the library has two configurations and takes one by how many tokens there are -------

_TUNED = 3.0  # chosen: octaves between the default for few tokens and tuned tiles, of which they share no tile


class TileRates(DeclaredRecord, kw_only=True):
    """What a GEMM with one of the tiles does not share with those of the other."""

    compute_efficiency: float = like(GemmForm, "compute_efficiency")
    cta_load_rate: float = like(GemmForm, "cta_load_rate")
    l2_rate: float = like(GemmForm, "l2_rate")
    cta_overhead: float = like(GemmForm, "cta_overhead")
    k_step: float = like(GemmForm, "k_step")
    small_tile_loss: float = like(GemmForm, "small_tile_loss")
    clock_droop: float = like(GemmForm, "clock_droop")
    reread: Reread | None = mechanism(Reread)
    tiles: Shapes = like(GemmForm, "tiles")


class TwoTileForm(DeclaredRecord, kw_only=True):
    """Triton's fused layers of experts: a small tile for few tokens, a large one for many.

    Layers for which the engine ships tuned tiles run with these, whatever the tokens. Each is a `GemmForm`, with the
    same launch, bandwidth and overlap.
    """

    SECTION: ClassVar[str] = "7.5"
    AXES: ClassVar[dict[str, float]] = {
        "m": 2.0, "n": 3.0, "k": 3.0, "groups": 3.0, "large_tile": 1.0, "ranks": 2.0,
    }  # fmt: skip

    launch: float = like(GemmForm, "launch")
    hbm_efficiency: float = like(GemmForm, "hbm_efficiency")
    overlap_p: float = like(GemmForm, "overlap_p")
    small: TileRates = record(TileRates, "small_")
    large: TileRates = record(TileRates, "large_")
    tuned: TileRates | None = mechanism(TileRates, "tuned_")

    def time(self, gemm: Gemm, machine: Machine) -> Time:
        """Return the GEMM's time."""
        if self.tuned is None or not anywhere(gemm.tuned):
            return self._default_time(gemm, machine)
        tuned = self.with_rates(self.tuned).time(gemm, machine)
        return tuned if np.all(gemm.tuned) else time_where(gemm.tuned > 0.0, tuned, self._default_time(gemm, machine))

    def _default_time(self, gemm: Gemm, machine: Machine) -> Time:
        small, large = (self.with_rates(rates).time(gemm, machine) for rates in (self.small, self.large))
        return time_where(_has_few_tokens(gemm), small, large)

    def terms(self, gemm: Gemm, machine: Machine) -> Terms:
        """Return the terms of the equation at one size, of the tile that runs."""
        default = self.small if _has_few_tokens(gemm) else self.large
        rates = default if self.tuned is None or not gemm.tuned else self.tuned
        return self.with_rates(rates).terms(gemm, machine)

    def features(self, gemm: Gemm) -> Features:
        """Return log2 of m, n, k, groups. What is configured; log2 of the ranks that share the experts.

        An octave lies between the tiles for few and for many tokens, and two on to tuned ones.
        """
        configured = where(gemm.tuned > 0.0, _TUNED, where(_has_few_tokens(gemm), 0.0, 1.0))
        ranks = log2(maximum(gemm.experts / maximum(gemm.local_experts, 1.0), 1.0))
        return log2(gemm.m), log2(gemm.n), log2(gemm.k), log2(gemm.groups), configured, ranks

    def on_die(self, density: float, rate: float) -> TwoTileForm:
        """Return the form on another device of the same die, each tile as `GemmForm.on_die`."""

        def moved(rates: TileRates) -> TileRates:
            droop, loss = scaled_droop(rates.clock_droop, density), rates.small_tile_loss * rate
            return replace(rates, clock_droop=droop, small_tile_loss=loss)

        tuned = None if self.tuned is None else moved(self.tuned)
        return replace(self, small=moved(self.small), large=moved(self.large), tuned=tuned)

    def with_rates(self, rates: TileRates) -> GemmForm:
        """Return the form of one of the tiles."""
        own = {name: getattr(rates, name) for name in fields(rates)}
        return GemmForm(
            launch=self.launch, hbm_efficiency=self.hbm_efficiency, overlap_p=self.overlap_p, has_split_k=False, **own
        )  # fmt: skip


def _has_few_tokens(gemm: Gemm) -> Mask:
    return gemm.tokens <= gemm.local_experts
