"""A kernel's time where nobody measured it: its roofline at the shares of the peaks that kernels elsewhere reach."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.gemm import GemmForm
from costmodel.cost.kernels import attention_terms, elementwise_terms, mixed_terms, tile_terms
from costmodel.cost.parameter import DeclaredRecord, like
from costmodel.cost.promotion import expected_loop
from costmodel.cost.residual import Features
from costmodel.cost.time import Machine, Terms, Time, busy_kernel, p_norm
from costmodel.equations import equation
from costmodel.quantities import Quantity, Seconds, log2, maximum, power, where
from costmodel.records import replace
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, MixedAttention

OVERLAP_P = 4.0  # chosen: work and bytes overlap, and the longer one counts
_BARE = FamilyFit()

Kernel = Gemm | AttentionKernel | MixedAttention | Elementwise


class ExpectedForm(DeclaredRecord, kw_only=True):
    """Kernels of a family on a device without rows: their expected time, of effects that all fitted devices share.

    compute_efficiency: of devices whose processors have the full rate of their die (`share_on_die`).
    """

    SECTION: ClassVar[str] = "15.4"
    AXES: ClassVar[dict[str, float]] = {"flop": 3.0, "bytes": 3.0}

    launch: float = like(GemmForm, "launch")
    compute_efficiency: float = like(GemmForm, "compute_efficiency")
    hbm_efficiency: float = like(GemmForm, "hbm_efficiency")

    def on_die(self, rate: float) -> ExpectedForm:
        """Return the form on a device whose processors have this share of the FLOP in a cycle that their die has."""
        return replace(self, compute_efficiency=float(share_on_die(self.compute_efficiency, rate)))

    def time(self, operator: Kernel, machine: Machine) -> Time:
        """Return the kernel's time."""
        terms = self.terms(operator, machine)
        return busy_kernel(self.launch, terms["busy_time"], terms["hbm_time"] / self.hbm_efficiency, OVERLAP_P)

    @equation
    def terms(self, operator: Kernel, machine: Machine) -> Terms:
        """Return the terms.

        t = launch + busy_time
        busy_time = ((chip / compute_efficiency) ** OVERLAP_P + (hbm / hbm_efficiency) ** OVERLAP_P) ** (1 / OVERLAP_P)
        chip := of the bare closed form, in whole tiles and waves, FP8's loop as expected
        hbm := traffic / bandwidth of the bare closed form
        """
        chip, hbm = bare_times(operator, machine, self.compute_efficiency / self.hbm_efficiency)
        busy = p_norm(OVERLAP_P, chip / self.compute_efficiency, hbm / self.hbm_efficiency)
        return {"busy_time": busy, "chip_time": chip, "hbm_time": hbm}

    def features(self, operator: Kernel) -> Features:
        """Return log2 of FLOP and bytes."""
        parts = operator.parts if isinstance(operator, MixedAttention) else (operator,)
        flop: Quantity = sum(getattr(each, "flop", 0.0) for each in parts)
        traffic: Quantity = sum(each.traffic for each in parts)
        return log2(maximum(flop, 1.0)), log2(maximum(traffic, 1.0))


def share_on_die(share: Quantity, rate: Quantity) -> Quantity:
    """Return the share of its peak that a device reaches whose processors have `rate` of their die's FLOP in a cycle.

        1/share' = 1 + rate * (1/share - 1)

    What kernels lose to loads, exponentials and latencies are cycles, of which the full rate wastes more FLOP.
    """
    return 1.0 / (1.0 + rate * (1.0 / share - 1.0))


def bare_times(operator: Kernel, machine: Machine, balance: Quantity) -> tuple[Seconds, Seconds]:
    """Return what arithmetic and memory take at their peaks [s].

    Of a GEMM those of the tile that is fastest at the shares' ratio. balance: share of the peak over that of the
    bandwidth.
    """
    if isinstance(operator, Gemm):
        fastest: Any = math.inf
        chip: Any = 0.0
        hbm: Any = 0.0
        for terms in tile_terms(operator, machine, _BARE, expected_loop):
            busy = power(terms["chip_time"] / balance, OVERLAP_P) + power(terms["hbm_time"], OVERLAP_P)
            better = busy < fastest
            chip, hbm = where(better, terms["chip_time"], chip), where(better, terms["hbm_time"], hbm)
            fastest = where(better, busy, fastest)
        return chip, hbm
    if isinstance(operator, Elementwise):
        return 0.0, elementwise_terms(operator, machine, _BARE)["hbm_time"]
    if isinstance(operator, MixedAttention):
        parts = mixed_terms(operator, machine, _BARE)
    else:
        parts = attention_terms(operator, machine, _BARE)
    return parts["compute_time"], parts["hbm_time"]
