"""Kernel times by the roofline: launch + max over resources(work / (peak * efficiency)), work counted by tile.

Roofline: Williams, Waterman, Patterson, CACM 52(4), 2009. Waves: a kernel's CTAs run in ceil(CTAs / processors) rounds,
each as long as one CTA.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.gemm_tiles import row_tiles
from costmodel.cost.promotion import Overlap, promoted, shortest_loop, warpgroups
from costmodel.cost.time import VECTOR_DTYPE, Machine, Terms, Time, kernel
from costmodel.equations import equation
from costmodel.quantities import Count, Quantity, Seconds, ceil, maximum, minimum, where
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, MixedAttention
from costmodel.workload.scenario import Tile

PAGED_LOGITS = "paged_mqa_logits"  # scores of a decoding step's queries with all cached keys, split as in decoding
PARTIAL_SUM_BYTES = 8.0  # in FP32, each written and read
SCAN = "linear_attention"  # families of kernels that scan a sequence chunk by chunk


@equation
def gemm_time(gemm: Gemm, machine: Machine, fit: FamilyFit) -> Time:
    """Return a GEMM's time: that of the fastest candidate tile, for each call.

        seconds = t * calls

    Of several that are as fast, one that device memory keeps busy says what bounds the GEMM.
    """
    calls, gemm = gemm.calls, gemm.one
    busy: Seconds = math.inf
    memory_bound: Seconds = math.inf
    for terms in tile_terms(gemm, machine, fit):
        chip, hbm = terms["chip_time"], terms["hbm_time"]
        busy = minimum(busy, maximum(chip, hbm))
        memory_bound = minimum(memory_bound, where(hbm >= chip, hbm, math.inf))
    launch = machine.framework.launch * fit.launch_factor
    compulsory = gemm.traffic / machine.hbm_bandwidth / fit.hbm_efficiency
    memory = where(memory_bound <= busy, busy, compulsory)
    t = launch + busy
    return Time(t, compute=busy, memory=memory, fixed=launch).scaled(calls)


@equation
def gemm_terms(gemm: Gemm, machine: Machine, fit: FamilyFit) -> Terms:
    """Return the terms of one call of a GEMM of one size, of the fastest tile.

    t = launch + max(chip_time, hbm_time)
    launch = machine.framework.launch * fit.launch_factor
    chip_time = max(loop_time, l2_time) / fit.compute_efficiency
    loop_time := of tensor cores and the promotion of their sums, which overlap in two warpgroups
    tensor_time = waves * 2 * m_t * n_t * gemm.k / s / rate
    waves = ceil(ctas / machine.processors)
    ctas := groups * row tiles in expectation * column tiles * s
    l2_time = ctas * gemm.k / s * (min(gemm.m, m_t) * gemm.a_bytes + min(gemm.n, n_t) * gemm.b_bytes) / l2_bandwidth
    hbm_time = hbm_bytes / (fit.hbm_efficiency * machine.hbm_bandwidth)
    hbm_bytes = gemm.traffic + where(s > 1, PARTIAL_SUM_BYTES * gemm.groups * gemm.m * gemm.n * (s - 1), 0)
    """
    gemm = gemm.one
    fastest = min(tile_terms(gemm, machine, fit), key=lambda terms: max(terms["chip_time"], terms["hbm_time"]))
    rate, l2 = machine.processor_peak(gemm.dtype), machine.device.level("l2")
    terms = {"launch": machine.framework.launch * fit.launch_factor, "rate": rate} | fastest
    return terms if l2 is None or l2.bandwidth is None else terms | {"l2_bandwidth": l2.bandwidth}


def tile_terms(
    gemm: Gemm, machine: Machine, fit: FamilyFit, overlap: Overlap = shortest_loop
) -> Iterator[dict[str, Any]]:
    """Yield the terms of every candidate tile. overlap: of tensor cores and the promotion of their sums."""
    rate, l2 = machine.processor_peak(gemm.dtype), machine.device.level("l2")
    promotion_rate = machine.processor_peak(VECTOR_DTYPE) * machine.framework.promotion_interval
    compulsory = gemm.traffic
    for tile in machine.framework.tiles_of(gemm.family):
        depth = gemm.k / tile.split
        rows: Count = row_tiles(gemm, float(tile.m))
        ctas = gemm.groups * rows * ceil(gemm.n / tile.n) * tile.split
        waves = ceil(ctas / machine.processors)
        flop = waves * (2.0 * tile.m * tile.n) * depth
        tensor = flop / rate
        promotion = flop / promotion_rate if promoted(gemm, machine) else 0.0
        groups = warpgroups(tile.m)
        loop = overlap(tensor, promotion, groups)
        cache: Seconds = 0.0
        if l2 is not None and l2.bandwidth is not None:
            m, n = minimum(gemm.m, tile.m), minimum(gemm.n, tile.n)
            cache = ctas * depth * (m * gemm.a_bytes + n * gemm.b_bytes) / l2.bandwidth
        traffic = compulsory
        if tile.split > 1:
            traffic = traffic + PARTIAL_SUM_BYTES * gemm.groups * gemm.m * gemm.n * (tile.split - 1)
        yield {
            "chip_time": maximum(loop, cache) / fit.compute_efficiency,
            "hbm_time": traffic / machine.hbm_bandwidth / fit.hbm_efficiency,
            "loop_time": loop, "tensor_time": tensor, "promotion_time": promotion, "warpgroups": float(groups),
            "l2_time": cache, "m_t": float(tile.m), "n_t": float(tile.n), "s": float(tile.split), "ctas": ctas,
            "waves": waves, "hbm_bytes": traffic,
        }  # fmt: skip


def attention_time(attention: AttentionKernel, machine: Machine, fit: FamilyFit) -> Time:
    """Return a fused attention kernel's time.

    One CTA handles one query tile of one head. The candidate tile that pads least is taken. Decoding splits the keys
    instead, so its grid has no waves. A scan takes, if that is longer, as long as its CTAs need for their sequences.
    """
    terms = attention_terms(attention, machine, fit)
    return kernel(terms["compute_time"], terms["hbm_time"], terms["launch"])


@equation
def attention_terms(attention: AttentionKernel, machine: Machine, fit: FamilyFit) -> Terms:
    """Return the terms of a fused attention kernel.

    t = launch + max(compute_time, hbm_time)
    launch = attention.calls * machine.framework.launch * fit.launch_factor
    compute_time = max(padding * attention.flop / peak, serial * fit.compute_efficiency) / fit.compute_efficiency
    padding := whole query tiles in whole waves over an even share, 1 in decoding, which splits the keys
    serial := of a scan, whose CTAs pass a state from chunk to chunk
    hbm_time = attention.traffic / machine.hbm_bandwidth / fit.hbm_efficiency
    """
    padding: Quantity = 1.0
    serial: Seconds = 0.0
    if attention.family.startswith(SCAN):
        waves = ceil(attention.sequences * attention.heads / (machine.processors * attention.blocks))
        serial = waves * attention.serial_cycles / machine.device.clock
    elif not (attention.family.endswith("decode") or attention.family == PAGED_LOGITS):
        tiles = machine.framework.attention_tiles
        padding = minimum(*(_padding(attention, tile, machine.processors) for tile in tiles))
    peak = machine.processors * machine.processor_peak(attention.dtype) * attention.relative_speed
    compute = maximum(padding * attention.flop / peak, serial * fit.compute_efficiency)
    return {
        "launch": attention.calls * machine.framework.launch * fit.launch_factor,
        "compute_time": compute / fit.compute_efficiency,
        "hbm_time": attention.traffic / machine.hbm_bandwidth / fit.hbm_efficiency,
        "padding": padding, "serial_time": serial,
    }  # fmt: skip


@equation
def mixed_terms(mixed: MixedAttention, machine: Machine, fit: FamilyFit) -> Terms:
    """Return the terms of several populations in one kernel: all tensor work, all traffic.

    t = launch + max(compute_time, hbm_time)
    launch = machine.framework.launch * fit.launch_factor
    compute_time := sum over parts, each `attention_terms`
    hbm_time := sum over parts
    """
    compute: Seconds = 0.0
    memory: Seconds = 0.0
    for part in mixed.parts:
        terms = attention_terms(part, machine, fit)
        compute, memory = compute + terms["compute_time"], memory + terms["hbm_time"]
    return {"launch": machine.framework.launch * fit.launch_factor, "compute_time": compute, "hbm_time": memory}


def _padding(attention: AttentionKernel, tile: Tile, processors: Count) -> Quantity:
    """Return how much longer whole tiles in whole waves take than an even share of the work on every processor."""
    filled = attention.q_len / tile.m
    tiles = ceil(filled)
    ctas = attention.sequences * attention.heads * tiles
    return tiles / filled * ceil(ctas / processors) * processors / ctas


@equation
def elementwise_terms(operator: Elementwise, machine: Machine, fit: FamilyFit) -> Terms:
    """Return the terms of a kernel that only streams.

    t = launch + hbm_time
    launch = operator.calls * machine.framework.launch * fit.launch_factor
    hbm_time = operator.traffic / machine.hbm_bandwidth / fit.hbm_efficiency
    """
    launch = operator.calls * machine.framework.launch * fit.launch_factor
    return {"launch": launch, "hbm_time": operator.traffic / machine.hbm_bandwidth / fit.hbm_efficiency}
