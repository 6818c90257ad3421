"""What two devices of one die have in common, so that a fit moves between them only by what they differ in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.cost.terms import SHORTEST
from costmodel.quantities import BytesPerSecond, Quantity, maximum
from costmodel.records import Record
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, MixedAttention, Operator


class Likeness(Record, kw_only=True):
    """In which of two things, compute and the memory's bandwidth, a device equals the one whose fit it takes.

    compute: whether it is the former.
    peaks: of the device, by number format [FLOP/s].
    bandwidth: of its memory.
    """

    compute: bool
    peaks: Mapping[str, float]
    bandwidth: BytesPerSecond

    def differing(self, operator: Operator) -> Quantity:
        """Return the share of an operator's roofline times, arithmetic and memory, in which the devices differ."""
        if not isinstance(operator, Gemm | AttentionKernel | MixedAttention | Elementwise):
            return 1.0
        peak = np.inf if isinstance(operator, Elementwise) else self.peaks.get(operator.dtype, np.inf)
        compute, memory = operator.flop / peak, operator.traffic / self.bandwidth
        return (memory if self.compute else compute) / maximum(compute + memory, SHORTEST)
