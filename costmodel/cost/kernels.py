"""Kernel times: launch + max over resources(work / (peak * efficiency)), work counted by tile and memory level.

Roofline: Williams, Waterman, Patterson, CACM 52(4), 2009. Waves: a kernel's blocks run in ceil(blocks / processors)
rounds, each as long as one block.
"""

from __future__ import annotations

from dataclasses import dataclass

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.time import Time, kernel
from costmodel.hardware import Device
from costmodel.quantities import BytesPerSecond, Count, FlopPerSecond, Seconds, ceil, maximum, minimum
from costmodel.workload.operators import AttentionCore, Elementwise, Gemm
from costmodel.workload.scenario import Framework

VECTOR_DTYPE = "fp32"  # CUDA cores: activations, promotion of FP8 sums


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """The part of a device that a kernel may use: `processors` of them (communication may hold the rest)."""

    device: Device
    framework: Framework
    processors: Count

    @property
    def memory_bandwidth(self) -> BytesPerSecond:
        """Return the bandwidth of device memory [B/s]; a device file always states it."""
        bandwidth = self.device.device_memory.bandwidth
        assert bandwidth is not None
        return bandwidth

    def processor_peak(self, unit: str) -> FlopPerSecond:
        """Return the dense rate of one processor [FLOP/s]."""
        math = self.device.math[unit]
        return math.flop_per_cycle * math.clock


def gemm_time(gemm: Gemm, machine: Machine, fit: FamilyFit) -> Time:
    """Return a matrix product's time: the fastest candidate tile.

    t = launch + max(tensor, promotion, L2, memory)
    tensor    = waves * 2*m_t*n_t*k/s / (peak a processor),       waves = ceil(g*ceil(m/m_t)*ceil(n/n_t)*s / P)
    promotion = waves * 2*m_t*n_t*k/s / interval / (CUDA-core peak a processor)     FP8 with block scales in software
    L2        = blocks * (m_t + n_t)*k/s * e / B_L2
    memory    = (operands and result once + 2*4*m*n*(s-1) for split sums) / B_memory
    """
    device, framework = machine.device, machine.framework
    rate = machine.processor_peak(gemm.dtype)
    unit, cache = device.math[gemm.dtype], device.level("l2")
    promotes = unit.scaling == "software" or unit.accumulate == "fp22"
    promotion_rate = machine.processor_peak(VECTOR_DTYPE) * framework.promotion_interval
    traffic, bandwidth = gemm.traffic, machine.memory_bandwidth
    busy: Seconds | None = None
    for tile in framework.gemm_tiles:
        depth = gemm.k / tile.split
        blocks = gemm.groups * ceil(gemm.m / tile.m) * ceil(gemm.n / tile.n) * tile.split
        products = ceil(blocks / machine.processors) * (2.0 * tile.m * tile.n) * depth
        compute = products / rate
        if promotes:
            compute = maximum(compute, products / promotion_rate)
        if cache is not None and cache.bandwidth is not None:
            compute = maximum(compute, blocks * depth * (tile.m * gemm.left + tile.n * gemm.right) / cache.bandwidth)
        moved = traffic + 8.0 * gemm.groups * gemm.m * gemm.n * (tile.split - 1) if tile.split > 1 else traffic
        candidate = maximum(compute / fit.compute, moved / bandwidth / fit.memory)
        busy = candidate if busy is None else minimum(busy, candidate)
    assert busy is not None, "a framework names at least one tile"
    launch = framework.launch * fit.launch
    return Time(launch + busy, compute=busy, memory=traffic / bandwidth / fit.memory, fixed=launch)


def attention_time(core: AttentionCore, machine: Machine, fit: FamilyFit) -> Time:
    """Return a fused attention core's time.

        t = launch + max(tensor, memory)
        tensor = FLOP / (peak of the processors in use), padded to whole query tiles, in whole waves of blocks
    One block handles one query tile of one head. Decoding splits the keys instead, so its grid has no waves.
    """
    tile = machine.framework.attention_tile
    filled = core.rows / tile.m
    tiles = ceil(filled)
    blocks = core.sequences * core.heads * tiles
    padding = tiles / filled * ceil(blocks / machine.processors) * machine.processors / blocks
    if core.family.endswith("decode"):
        padding = 1.0
    rate = machine.processors * machine.processor_peak(core.dtype)
    compute = padding * core.flop / rate
    memory = core.traffic / machine.memory_bandwidth
    return kernel(compute / fit.compute, memory / fit.memory, machine.framework.launch * fit.launch)


def elementwise_time(operator: Elementwise, machine: Machine, fit: FamilyFit) -> Time:
    """Return launch + traffic / B_memory: such a kernel only streams."""
    memory = operator.traffic / machine.memory_bandwidth
    return kernel(0.0, memory / fit.memory, machine.framework.launch * fit.launch)
