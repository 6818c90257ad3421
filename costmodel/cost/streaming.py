"""An element-wise kernel's time from the fit of its kind: it streams, from memory or from L2."""

from __future__ import annotations

from dataclasses import dataclass

from costmodel.cost.machine import Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time
from costmodel.quantities import Quantity, log2, maximum, minimum
from costmodel.workload.operators import Elementwise


@dataclass(frozen=True, slots=True, eq=False)
class StreamForm:
    """The fitted form of kernels that only stream.

        t = launch + (kept / cached + (traffic - kept) / memory) / bandwidth
        kept = min(traffic, resident * L2 capacity)

    launch: fixed time [s]; memory: share of the memory bandwidth; cached: the same for bytes that stay in L2 (above
    one); resident: share of L2 that holds them.
    """

    launch: float
    memory: float
    cached: float
    resident: float

    AXES = ("traffic",)

    def time(self, operator: Elementwise, machine: Machine) -> Time:
        """Return the kernel's time."""
        cache = machine.device.level("l2")
        kept: Quantity = 0.0 if cache is None else minimum(operator.traffic, self.resident * cache.capacity)
        streamed = (kept / self.cached + (operator.traffic - kept) / self.memory) / machine.memory_bandwidth
        return Time(self.launch + streamed, compute=streamed, memory=streamed, fixed=self.launch)

    def features(self, operator: Elementwise) -> Features:
        """Return log2 of the bytes."""
        return (log2(maximum(operator.traffic, 1.0)),)
