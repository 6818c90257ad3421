"""The part of a device that a kernel runs on."""

from __future__ import annotations

from costmodel.hardware import Cluster, Device
from costmodel.quantities import Bytes, BytesPerSecond, Count, FlopPerSecond
from costmodel.records import Record
from costmodel.workload.scenario import Framework

VECTOR_DTYPE = "fp32"  # CUDA cores: activations, promotion of FP8 sums


class Machine(Record):
    """The part of a device that a kernel may use: `processors` of them (communication may hold the rest).

    warm_l2: the kernel runs over and over on the same operands, as in a benchmark, so that L2 holds what fits.
    cluster: what joins it to others, for messages.
    """

    device: Device
    framework: Framework
    processors: Count
    warm_l2: bool = False
    cluster: Cluster | None = None

    @property
    def hbm_bandwidth(self) -> BytesPerSecond:
        """Return the bandwidth of device memory [B/s]. A device file always states it."""
        bandwidth = self.device.device_memory.bandwidth
        assert bandwidth is not None
        return bandwidth

    @property
    def l2_capacity(self) -> Bytes:
        """Return the capacity of L2 [B]. One byte, which keeps nothing, where the device states none."""
        level = self.device.level("l2")
        return 1.0 if level is None else level.capacity

    def processor_peak(self, unit: str) -> FlopPerSecond:
        """Return the dense rate of one processor [FLOP/s]."""
        math = self.device.math[unit]
        return math.flop_per_cycle * math.clock
