"""An element-wise kernel's time from the fit of its kind: it streams, from memory or from L2, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costmodel.cost.gemm import p_norm
from costmodel.cost.machine import VECTOR_DTYPE, Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time, busy_kernel
from costmodel.quantities import Bytes, Quantity, log2, maximum, minimum, where
from costmodel.workload.operators import Elementwise

SHARPNESS = 4.0  # chosen: a row's own time and the stream of all rows overlap, and the longer one counts, smoothly


@dataclass(frozen=True, slots=True, eq=False)
class ElementwiseForm:
    """The fitted form of kernels that only stream, one block of threads a row.

        t      = launch + (row^4 + stream^4)^(1/4)
        row    = bytes of a row / load / clock
        stream = (kept / cached + (traffic - kept) / memory) / bandwidth + rows * fill / (processors * clock)
        kept   = min(traffic, resident * L2 capacity)

    launch: fixed time [s]; memory: share of the memory bandwidth; cached: the same for bytes that stay in L2 (above
    one); resident: share of L2 that holds them; load: what one block moves [B/cycle]; fill: what a row costs its
    processor beside its bytes [cycles]. A kernel that does not state its rows has neither term of them.
    """

    launch: float
    memory: float
    cached: float
    resident: float
    load: float
    fill: float

    AXES = ("rows", "row")
    FORMULA: ClassVar[str] = "t = launch + p-norm of (bytes of a row / load, traffic / memory bandwidth + rows * fill)"

    def time(self, operator: Elementwise, machine: Machine) -> Time:
        """Return the kernel's time."""
        cache, clock = machine.device.level("l2"), machine.device.math[VECTOR_DTYPE].clock
        kept: Quantity = 0.0 if cache is None else minimum(operator.traffic, self.resident * cache.capacity)
        streamed = (kept / self.cached + (operator.traffic - kept) / self.memory) / machine.memory_bandwidth
        rows = operator.rows
        stream = streamed + rows * self.fill / (machine.processors * clock)
        row = where(rows > 0, _row(operator), 0.0) / (self.load * clock)
        busy = p_norm(SHARPNESS, stream, row)
        return busy_kernel(self.launch, busy, streamed, SHARPNESS)

    def features(self, operator: Elementwise) -> Features:
        """Return log2 of the rows and of the bytes of one; all is one row where rows are not stated."""
        return log2(maximum(operator.rows, 1.0)), log2(maximum(_row(operator), 1.0))


def _row(operator: Elementwise) -> Bytes:
    """Return the bytes of one row."""
    return operator.traffic / maximum(operator.rows, 1.0)
