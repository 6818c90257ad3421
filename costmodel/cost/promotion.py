"""The main loop of a product whose kernel promotes the tensor cores' partial sums: two units that warpgroups share.

Every `promotion_interval` elements of K a warpgroup waits for its WGMMAs and adds the partial sums to FP32 registers on
CUDA cores. Another warpgroup's WGMMAs run meanwhile. Of a tile's whole K, T is the tensor cores' time and P the CUDA
cores', one multiply-add for each element of the tile and interval. W warpgroups go round both:

    shortest   max(T, P, (T + P) / W)                                       they take turns without a gap
    expected   sum_{i=0..W} T^i P^(W-i) / sum_{i=0..W-1} T^i P^(W-1-i)      stages end at random

One warpgroup overlaps nothing: T + P. Of two, T >= P, the shortest is T and the expected one T + P^2 / (T + P).

Sources: DeepSeek-AI, arXiv 2412.19437, section 3.3.2 (two WGMMAs persist at a time, one warpgroup promotes while the
other multiplies). Deepseek-ai/DeepGEMM, sm90_fp8_gemm_1d2d.cuh (one CTA a processor; WGMMAs of 64 rows, one warpgroup
up to 64 rows and two beyond). Closed queueing networks: Gordon, Newell, Operations Research 15(2), 1967.
"""

from __future__ import annotations

from collections.abc import Callable

from costmodel.cost.time import SHORTEST, VECTOR_DTYPE, Machine
from costmodel.quantities import Quantity, Seconds, is_single, maximum
from costmodel.workload.operators import Gemm

WGMMA_ROWS = 64  # PTX ISA 8.0, wgmma.mma_async: a warpgroup's instruction has m64

Overlap = Callable[[Seconds, Seconds, int], Seconds]


def warpgroups(rows: int) -> int:
    """Return the warpgroups that share a tile of so many rows."""
    return 1 if rows <= WGMMA_ROWS else 2


def promoted(gemm: Gemm, machine: Machine) -> bool:
    """Tell whether a kernel has to promote: its block scales are its own affair, or the unit's sums are narrow."""
    unit = machine.device.math[gemm.dtype]
    return gemm.block_scaled and not (unit.accumulate == "fp32" and unit.scaling == "native")


def promotion_cycles(gemm: Gemm, machine: Machine) -> Quantity:
    """Return what CUDA cores take for each multiply-add of the tensor cores [cycles]: 1 / (FP32 lanes * interval)."""
    if not promoted(gemm, machine):
        return 0.0
    lanes = machine.device.math[VECTOR_DTYPE].flop_per_cycle / 2.0
    return 1.0 / (lanes * machine.framework.promotion_interval)


def shortest_loop(tensor: Seconds, promotion: Seconds, groups: int) -> Seconds:
    """Return the time of a main loop whose warpgroups take turns without a gap."""
    return maximum(tensor, promotion, (tensor + promotion) / groups)


def expected_loop(tensor: Seconds, promotion: Seconds, groups: int) -> Seconds:
    """Return the mean time of a main loop whose stages end at random: never below the shortest, at most T + P."""
    if is_single(promotion) and promotion == 0.0:
        return tensor
    products: Seconds = 0.0  # of W - 1 warpgroups; Buzen's recursion, CACM 16(9), 1973
    for i in range(groups):
        products = products + tensor**i * promotion ** (groups - 1 - i)
    return tensor + promotion**groups / maximum(products, SHORTEST ** (groups - 1))
