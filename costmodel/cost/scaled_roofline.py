"""A kernel's time from the fit of few measured sizes: its work and its bytes, each at a share of the peak."""

from __future__ import annotations

from typing import ClassVar

from costmodel.cost.gemm import GemmForm
from costmodel.cost.parameter import DeclaredRecord, like
from costmodel.cost.residual import Features
from costmodel.cost.time import Machine, Terms, Time, busy_kernel, p_norm
from costmodel.equations import equation
from costmodel.quantities import log2, maximum
from costmodel.workload.operators import AttentionKernel, Gemm

OVERLAP_P = 4.0  # chosen: work and bytes overlap, and the longer one counts


class ScaledRooflineForm(DeclaredRecord, kw_only=True):
    """Kernels of which few sizes are measured: the roofline with a share of either peak."""

    SECTION: ClassVar[str] = "7.5"
    AXES: ClassVar[dict[str, float]] = {"flop": 3.0, "bytes": 3.0}

    launch: float = like(GemmForm, "launch")
    compute_efficiency: float = like(GemmForm, "compute_efficiency")
    hbm_efficiency: float = like(GemmForm, "hbm_efficiency")

    def time(self, operator: Gemm | AttentionKernel, machine: Machine) -> Time:
        """Return the kernel's time."""
        terms = self.terms(operator, machine)
        return busy_kernel(self.launch, terms["busy_time"], terms["hbm_time"], OVERLAP_P)

    @equation
    def terms(self, operator: Gemm | AttentionKernel, machine: Machine) -> Terms:
        """Return the terms.

        t = launch + busy_time
        busy_time = (compute**OVERLAP_P + hbm**OVERLAP_P) ** (1 / OVERLAP_P)
        compute = operator.flop / (compute_efficiency * peak)
        hbm = operator.traffic / (hbm_efficiency * machine.hbm_bandwidth)
        """
        peak = machine.processors * machine.processor_peak(operator.dtype)
        compute = operator.flop / (self.compute_efficiency * peak)
        hbm = operator.traffic / (self.hbm_efficiency * machine.hbm_bandwidth)
        return {"busy_time": p_norm(OVERLAP_P, compute, hbm), "compute_time": compute, "hbm_time": hbm}

    def features(self, operator: Gemm | AttentionKernel) -> Features:
        """Return log2 of FLOP and bytes."""
        return log2(maximum(operator.flop, 1.0)), log2(maximum(operator.traffic, 1.0))
