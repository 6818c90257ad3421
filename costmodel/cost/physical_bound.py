"""The least time that a kernel can take on a device, whatever a fit says: its work at the highest clock, its bytes.

    least = max(FLOP / (peak at the highest clock), compulsory bytes / bandwidth)

Compulsory bytes are those that no kernel before has left in L2: the weights of a product, the cache that decoding
reads. Of the others, L2 may hold its capacity; all of that where a benchmark repeats the kernel.
"""

from __future__ import annotations

from costmodel.cost.machine import Machine
from costmodel.cost.terms import SHORTEST
from costmodel.quantities import Bytes, Quantity, Seconds, maximum
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, MixedAttention, Operator


def least_time(operator: Operator, machine: Machine) -> Seconds:
    """Return the least time of a kernel [s]; zero of what is no kernel of the device."""
    if isinstance(operator, MixedAttention):
        work: Seconds = 0.0
        for part in operator.parts:
            work = work + _work(part, machine)
        traffic = sum(part.traffic for part in operator.parts)
        return maximum(work, (traffic - _held(traffic, machine)) / machine.hbm_bandwidth)
    if isinstance(operator, Gemm | AttentionKernel):
        return maximum(_work(operator, machine), _read(operator, machine) / machine.hbm_bandwidth)
    if isinstance(operator, Elementwise):
        return (operator.traffic - _held(operator.traffic, machine)) / machine.hbm_bandwidth
    return 0.0


def _work(operator: Gemm | AttentionKernel, machine: Machine) -> Seconds:
    """Return what the arithmetic takes at the highest clock [s]."""
    unit = machine.device.math[operator.dtype]
    clock = maximum(unit.clock, machine.device.clock_max)
    speed = maximum(operator.relative_speed, 1.0) if isinstance(operator, AttentionKernel) else 1.0
    return operator.flop / (unit.flop_per_cycle * clock * machine.processors * speed)


def _read(operator: Gemm | AttentionKernel, machine: Machine) -> Bytes:
    """Return the bytes that have to come from memory."""
    beyond = operator.traffic - _held(operator.traffic, machine)
    if machine.warm_l2:
        return beyond
    if isinstance(operator, Gemm):
        return maximum(beyond, operator.calls * operator.groups * operator.k * operator.n * operator.b_bytes)
    return operator.traffic if operator.family.endswith("decode") else beyond


def _held(traffic: Bytes, machine: Machine) -> Bytes:
    """Return the bytes that L2 may hold from before."""
    return traffic - maximum(traffic - machine.l2_capacity, 0.0)


def floor_factor(seconds: Seconds, least: Seconds) -> Quantity:
    """Return by what a time is multiplied that may not be below `least`."""
    return maximum(least / maximum(seconds, SHORTEST), 1.0)
