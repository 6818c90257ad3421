"""Kernel times: launch + max over resources(work / (peak * efficiency)), work counted by tile and memory level.

Roofline: Williams, Waterman, Patterson, CACM 52(4), 2009. Waves: a kernel's blocks run in ceil(blocks / processors)
rounds, each as long as one block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.machine import VECTOR_DTYPE, Machine
from costmodel.cost.time import Time, kernel
from costmodel.quantities import Count, Quantity, Seconds, ceil, maximum, minimum, where
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, MixedAttention
from costmodel.workload.order_statistics import expected_tiles
from costmodel.workload.scenario import Tile


def gemm_time(gemm: Gemm, machine: Machine, fit: FamilyFit) -> Time:
    """Return a matrix product's time: launch + the fastest candidate tile's max(on-chip, device memory).

    Of several that are as fast, one that device memory keeps busy says what limits the product.
    """
    busy: Seconds = math.inf
    memory_bound: Seconds = math.inf
    for _, on_chip, memory in tile_times(gemm, machine, fit):
        busy = minimum(busy, maximum(on_chip, memory))
        memory_bound = minimum(memory_bound, where(memory >= on_chip, memory, math.inf))
    launch = machine.framework.launch * fit.launch
    compulsory = gemm.traffic / machine.memory_bandwidth / fit.memory
    limited = where(memory_bound <= busy, busy, compulsory)
    return Time(launch + busy, compute=busy, memory=limited, fixed=launch)


def tile_times(gemm: Gemm, machine: Machine, fit: FamilyFit) -> Iterator[tuple[Tile, Seconds, Seconds]]:
    """Yield (tile, on-chip time, device memory time) of every candidate tile.

    on-chip   = max(tensor, promotion, L2)
    tensor    = waves * 2*m_t*n_t*k/s / (peak a processor)
    waves     = ceil(g * ceil(m/m_t) * ceil(n/n_t) * s / P)      row tiles in expectation where groups differ in rows
    promotion = waves * 2*m_t*n_t*k/s / interval / (CUDA-core peak a processor), FP8 with block scales in software
    L2        = blocks * k/s * (min(m, m_t)*e_left + min(n, n_t)*e_right) / B_L2
    memory    = (operands and result once + 2*4*g*m*n*(s-1) for the sums of a split K) / B_memory
    """
    device, framework = machine.device, machine.framework
    rate = machine.processor_peak(gemm.dtype)
    unit, cache = device.math[gemm.dtype], device.level("l2")
    promotes = unit.scaling == "software" or unit.accumulate == "fp22"
    promotion_rate = machine.processor_peak(VECTOR_DTYPE) * framework.promotion_interval
    traffic, bandwidth = gemm.traffic, machine.memory_bandwidth
    for tile in framework.tiles_of(gemm.family):
        depth = gemm.k / tile.split
        blocks = block_count(gemm, tile)
        products = ceil(blocks / machine.processors) * (2.0 * tile.m * tile.n) * depth
        on_chip = products / rate
        if promotes:
            on_chip = maximum(on_chip, products / promotion_rate)
        if cache is not None and cache.bandwidth is not None:
            rows, columns = minimum(gemm.m, tile.m), minimum(gemm.n, tile.n)
            on_chip = maximum(
                on_chip, blocks * depth * (rows * gemm.a_bytes + columns * gemm.b_bytes) / cache.bandwidth
            )
        moved = traffic + 8.0 * gemm.groups * gemm.m * gemm.n * (tile.split - 1) if tile.split > 1 else traffic
        yield tile, on_chip / fit.compute, moved / bandwidth / fit.memory


def block_count(gemm: Gemm, tile: Tile) -> Count:
    """Return the blocks of a product: its tiles, expected ones where the rows of its groups vary, times the K split."""
    rows = expected_tiles(gemm.m, gemm.m_std, tile.m)
    return gemm.groups * rows * ceil(gemm.n / tile.n) * tile.split


def attention_time(core: AttentionKernel, machine: Machine, fit: FamilyFit) -> Time:
    """Return a fused attention core's time.

        t = launch + max(tensor, memory)
        tensor = FLOP / (peak of the processors in use), padded to whole query tiles, in whole waves of blocks

    One block handles one query tile of one head; the candidate tile that pads least is taken. Decoding splits the keys
    instead, so its grid has no waves. A scan takes, if that is longer, ceil(blocks / (processors * side by side)) times
    the cycles in which one block goes through its sequence.
    """
    padding: Quantity = 1.0
    if core.family == "scan":
        waves = ceil(core.sequences * core.heads / (machine.processors * core.blocks))
        chain: Seconds = waves * core.serial_cycles / machine.device.clock
    else:
        chain = 0.0
    if not core.family.endswith(("decode", "scan")):
        padding = minimum(*(_padding(core, tile, machine.processors) for tile in machine.framework.attention_tiles))
    compute = padding * core.flop / (machine.processors * machine.processor_peak(core.dtype) * core.relative_speed)
    memory = core.traffic / machine.memory_bandwidth
    compute = maximum(compute, chain * fit.compute)
    launches = core.calls * machine.framework.launch * fit.launch
    return kernel(compute / fit.compute, memory / fit.memory, launches)


def mixed_time(mixed: MixedAttention, machine: Machine, fit: FamilyFit) -> Time:
    """Return the time of several populations in one kernel: launch + max(all tensor work, all traffic)."""
    compute: Seconds = 0.0
    memory: Seconds = 0.0
    for part in mixed.parts:
        time = attention_time(part, machine, fit)
        compute, memory = compute + time.compute, memory + time.memory
    return kernel(compute, memory, machine.framework.launch * fit.launch)


def _padding(core: AttentionKernel, tile: Tile, processors: Count) -> Quantity:
    """Return how much longer whole tiles in whole waves take than an even share of the work on every processor."""
    filled = core.q_len / tile.m
    tiles = ceil(filled)
    blocks = core.sequences * core.heads * tiles
    return tiles / filled * ceil(blocks / processors) * processors / blocks


def elementwise_time(operator: Elementwise, machine: Machine, fit: FamilyFit) -> Time:
    """Return launch + traffic / B_memory: such a kernel only streams."""
    memory = operator.traffic / machine.memory_bandwidth
    return kernel(0.0, memory / fit.memory, operator.calls * machine.framework.launch * fit.launch)
