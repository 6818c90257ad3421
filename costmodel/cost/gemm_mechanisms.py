"""What slows or speeds the GEMM kernels of some libraries, a record each: a form has those that its recipe names."""

from __future__ import annotations

from typing import Any

from costmodel.cost.gemm_tiles import CtaTile
from costmodel.cost.machine import Machine
from costmodel.cost.parameter import DeclaredRecord, fitted
from costmodel.quantities import Bytes, Count, Seconds, minimum, power, where
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
