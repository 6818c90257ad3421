"""A matrix product's time from the fit of one library's kernels: tiles in waves, loads, cache, memory, launch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from costmodel.cost.machine import Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time
from costmodel.quantities import Quantity, Seconds, log2, maximum, minimum
from costmodel.workload.operators import Gemm

LARGE = 4096  # elements: from here on candidates are taken one by one, so that temporaries stay in the cache
SHORTEST_SPLIT = 256  # elements of K below which no library splits


@dataclass(frozen=True, slots=True, eq=False)
class GemmForm:
    """The fitted form of one library's matrix products in one number format.

        t = launch + min over tiles and splits of ((chip^p + cache^p + memory^p)^(1/p))
        chip   = waves * (max(tensor, load) + fill) / clock
        tensor = 2*m_t*n_t*k/s / (compute * flop per cycle) * (1 + edge*(16/m_t + 16/n_t))       [cycles of a block]
        load   = (min(m, m_t)*e_left + min(n, n_t)*e_right) * k/s / load                          [cycles of a block]
        cache  = blocks * (the bytes of a block's loads) / (cache * processors * clock)
        memory = (operands and result once + split*s*m*n where K is split) / (memory * bandwidth)

    A block computes one tile over 1/s of K; s is one, or what fills the processors once (from below and from above).

    launch: fixed time [s]; compute, memory: shares of the dense peak and of the memory bandwidth; load: what one
    processor can load [B/cycle]; cache: the same of L2, a processor's share of it [B/cycle]; fill: start and end of a
    block [cycles]; edge: loss of small tiles; split: bytes that one partial sum costs [B]; sharpness: p; tiles:
    candidates (m_t, n_t); splits: whether the library splits K.
    """

    launch: float
    compute: float
    memory: float
    load: float
    cache: float
    fill: float
    edge: float
    split: float
    sharpness: float
    tiles: tuple[tuple[int, int], ...]
    splits: bool

    AXES = ("m", "n", "k", "groups")

    def time(self, gemm: Gemm, machine: Machine) -> Time:
        """Return the product's time."""
        busy = self._fastest(gemm, machine)
        memory = gemm.traffic / (self.memory * machine.memory_bandwidth)
        return Time(self.launch + busy, compute=busy, memory=minimum(memory, busy), fixed=self.launch)

    def features(self, gemm: Gemm) -> Features:
        """Return log2 of m, n, k and groups."""
        return log2(gemm.m), log2(gemm.n), log2(gemm.k), log2(gemm.groups)

    def _fastest(self, gemm: Gemm, machine: Machine) -> Seconds:
        """Return the time of the fastest candidate."""
        modes = (0, 1, 2) if self.splits else (0,)
        sizes = [np.asarray(each, dtype=np.float64) for each in (gemm.m, gemm.n, gemm.k, gemm.groups)]
        shape = np.broadcast_shapes(*(size.shape for size in sizes), np.shape(machine.processors))
        if int(np.prod(shape)) >= LARGE:
            fastest: Any = np.inf
            for (m, n), mode in product(self.tiles, modes):
                fastest = np.minimum(fastest, self._candidate(gemm, machine, float(m), float(n), mode))
            return fastest  # type: ignore[no-any-return]
        ends = (1,) * len(shape)
        rows, columns = (
            np.array([tile[axis] for tile in self.tiles], dtype=np.float64).reshape(-1, *ends) for axis in (0, 1)
        )
        times = [self._candidate(gemm, machine, rows, columns, mode) for mode in modes]
        fastest = np.minimum.reduce([np.min(each, axis=0) for each in times])
        return float(fastest) if fastest.ndim == 0 else fastest

    def _candidate(self, gemm: Gemm, machine: Machine, rows: Quantity, columns: Quantity, mode: int) -> Any:
        """Return the time of one candidate, or of all tiles on a leading axis. mode: 0 no split, 1 fewer, 2 more."""
        clock, processors = machine.device.math[gemm.dtype].clock, machine.processors
        rate = machine.device.math[gemm.dtype].flop_per_cycle
        tiles = gemm.groups * np.ceil(gemm.m / rows) * np.ceil(gemm.n / columns)
        split: Any = 1.0
        if mode:
            filling = np.floor(processors / tiles) if mode == 1 else np.ceil(processors / tiles)
            split = np.maximum(np.minimum(filling, np.floor(gemm.k / SHORTEST_SPLIT)), 1.0)
        depth, blocks = gemm.k / split, tiles * split
        moved = (np.minimum(gemm.m, rows) * gemm.left + np.minimum(gemm.n, columns) * gemm.right) * depth
        tensor = (
            2.0 * rows * columns * depth / (self.compute * rate) * (1.0 + self.edge * (16.0 / rows + 16.0 / columns))
        )
        chip = np.ceil(blocks / processors) * (np.maximum(tensor, moved / self.load) + self.fill) / clock
        cache = blocks * moved / (self.cache * machine.device.processors * clock)
        partial = np.where(split > 1.0, self.split * split * gemm.groups * gemm.m * gemm.n, 0.0) if mode else 0.0
        memory = (gemm.traffic + partial) / (self.memory * machine.memory_bandwidth)
        return together(self.sharpness, chip, cache, memory)


def together(sharpness: float, *parts: Any) -> Any:
    """Return the p-norm of times that overlap: near the largest, more where several are as long."""
    largest = maximum(parts[0], *parts[1:])
    total = sum((part / largest) ** sharpness for part in parts)
    return largest * total ** (1.0 / sharpness)
