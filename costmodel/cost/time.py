"""A kernel's time and what limits it."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from costmodel.hardware import Cluster, Device
from costmodel.quantities import (
    Bytes,
    BytesPerSecond,
    Count,
    FlopPerSecond,
    Mask,
    Quantity,
    Seconds,
    is_single,
    log,
    maximum,
    minimum,
    power,
    sum_of,
    where,
)
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


Terms: TypeAlias = "dict[str, Quantity]"  # the ending of a name says its unit
SHORTEST = 1e-12  # of times that are divided by, or whose logarithm is taken [s]
_DIMENSIONS = {"time": "time", "latency": "time", "bytes": "size", "bandwidth": "bandwidth", "flop": "flop"}

_TIMES = ("t", "launch", "shortest", "ttft", "tpot", "layer", "all_to_all")


def dimension_of(term: str) -> str:
    """Return the dimension of a term: that of the last word of its name, else a count."""
    return "time" if term in _TIMES else _DIMENSIONS.get(term.rpartition("_")[2], "count")


def term_at(terms: Terms, index: int) -> Terms:
    """Return the terms of one of several candidates, which stand on the only axis."""
    return {name: float(value[index] if isinstance(value, np.ndarray) else value) for name, value in terms.items()}


def p_norm(p: float, *times: Any) -> Any:
    """Return the p-norm of times that overlap: near the largest, more where several are as long, zero where all are."""
    largest = maximum(times[0], *times[1:])
    scale = maximum(largest, SHORTEST)
    total = sum_of(power(time / scale, p) for time in times)
    return largest * power(total, 1.0 / p)


def p_norm_below(p: float, bound: Any, *times: Any) -> Any:
    """Return the p-norm of times where it may be below a bound. Elsewhere the largest of them, which is not.

    The minimum of it and the bound is that of the p-norm and the bound: a p-norm is at least the largest time. Powers
    take most of the time of a large grid, and few of many candidates come near the fastest at a point.
    """
    if is_single(bound):
        return p_norm(p, *times)
    largest = maximum(times[0], *times[1:])
    shape = np.broadcast_shapes(np.shape(largest), np.shape(bound))
    near = np.flatnonzero(np.broadcast_to(largest < bound, shape))
    if not len(near):
        return largest
    chosen = [np.broadcast_to(time, shape).reshape(-1)[near] for time in times]
    result = np.array(np.broadcast_to(largest, shape), dtype=np.float64)
    result.reshape(-1)[near] = p_norm(p, *chosen)
    return result


BOUNDS = ("compute", "memory", "network", "latency", "capacity")


class Time(Record):
    """One operator's time [s] and its parts.

    compute: the time that a kernel is busy, as long as `memory` where device memory is what keeps it busy.
    network: the wire.
    fixed: launch or message latency, which adds to the slowest of the others.
    beyond: how far an exponent past its measured range would move it, which is half of an 80 % interval [log].
    """

    seconds: Seconds
    compute: Seconds = 0.0
    memory: Seconds = 0.0
    network: Seconds = 0.0
    fixed: Seconds = 0.0
    beyond: Quantity = 0.0

    def scaled(self, factor: Quantity) -> Time:
        """Return a time and parts that are `factor` times as long."""
        if is_single(factor) and factor == 1.0:
            return self
        return Time(
            self.seconds * factor, self.compute * factor, self.memory * factor, self.network * factor,
            self.fixed * factor, self.beyond,
        )  # fmt: skip

    def after(self, fixed: Seconds) -> Time:
        """Return the time that begins `fixed` seconds later."""
        return Time(
            self.seconds + fixed, self.compute, self.memory, self.network, self.fixed + fixed, self.beyond
        )  # fmt: skip

    @property
    def bound(self) -> str:
        """Return what limits a single point: the largest part (`latency` is the fixed one). Memory wins a tie."""
        parts = {"memory": self.memory, "compute": self.compute, "network": self.network, "latency": self.fixed}
        return max(parts, key=lambda name: float(parts[name]))


def time_where(mask: Mask, yes: Time, no: Time) -> Time:
    """Return one time where a mask holds, another elsewhere. Both of kernels."""
    return Time(
        where(mask, yes.seconds, no.seconds), where(mask, yes.compute, no.compute), where(mask, yes.memory, no.memory),
        fixed=where(mask, yes.fixed, no.fixed),
    )  # fmt: skip


def kernel(compute: Seconds, memory: Seconds, launch: Seconds) -> Time:
    """Return launch + max(compute, memory)."""
    return Time(launch + maximum(compute, memory), compute=compute, memory=memory, fixed=launch)


def busy_kernel(fixed: Seconds, busy: Seconds, memory: Seconds, p: Quantity) -> Time:
    """Return fixed + busy of a kernel in which processors and device memory work side by side.

    busy: the p-norm of several times, one of which is `memory`. Memory is what keeps the kernel busy where it is more
    than half of the norm, memory^p >= busy^p / 2.
    """
    bound = memory >= busy * 0.5 ** (1.0 / p)
    return Time(fixed + busy, compute=busy, memory=where(bound, busy, minimum(memory, busy)), fixed=fixed)


def message(total: Seconds, latency: Quantity, unlimited: Seconds | None = None) -> Time:
    """Return a communication of `total` seconds, of which `latency` are fixed.

    unlimited: what it would take if exponents acted past their measured range (null: none does).
    """
    beyond = 0.0 if unlimited is None else log(maximum(unlimited, total, SHORTEST) / maximum(total, SHORTEST))
    return Time(total, network=total - latency, fixed=latency, beyond=beyond)
