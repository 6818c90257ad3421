"""A kernel's time and what limits it."""

from __future__ import annotations

from costmodel.cost.terms import SHORTEST
from costmodel.quantities import Mask, Quantity, Seconds, is_single, log, maximum, minimum, where
from costmodel.records import Record

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
