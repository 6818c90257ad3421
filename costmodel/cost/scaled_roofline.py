"""A kernel's time from the fit of few measured sizes: its work and its bytes, each at a share of the peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costmodel.cost.gemm import p_norm
from costmodel.cost.machine import Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time, busy_kernel
from costmodel.quantities import log2, maximum
from costmodel.workload.operators import AttentionKernel, Gemm

SHARPNESS = 4.0  # work and bytes overlap: the longer one counts


@dataclass(frozen=True, slots=True, eq=False)
class ScaledRooflineForm:
    """The fitted form of kernels of which few sizes are measured.

        t = launch + ((FLOP / (compute * peak))^4 + (traffic / (memory * bandwidth))^4)^(1/4)

    launch: fixed time [s]; compute, memory: shares of the dense peak and of the memory bandwidth.
    """

    launch: float
    compute: float
    memory: float

    AXES = ("flop", "bytes")
    FORMULA: ClassVar[str] = "t = launch + p-norm of (FLOP / peak, traffic / memory bandwidth)"

    def time(self, operator: Gemm | AttentionKernel, machine: Machine) -> Time:
        """Return the kernel's time."""
        peak = machine.processors * machine.processor_peak(operator.dtype)
        memory = operator.traffic / (self.memory * machine.memory_bandwidth)
        busy = p_norm(SHARPNESS, operator.flop / (self.compute * peak), memory)
        return busy_kernel(self.launch, busy, memory, SHARPNESS)

    def features(self, operator: Gemm | AttentionKernel) -> Features:
        """Return log2 of FLOP and bytes."""
        return log2(maximum(operator.flop, 1.0)), log2(maximum(operator.traffic, 1.0))
