"""The least time of a kernel or a message, whatever a fit says: its work at the highest clock, its bytes.

    least = max(FLOP / (peak at the highest clock), compulsory bytes / bandwidth)          of a kernel
    least = bytes of a rank / bandwidth of its links                                       of a message

Compulsory bytes are those that no kernel before has left in L2: the weights of a product, the cache that decoding
reads. Of the others, L2 may hold its capacity. All of that where a benchmark repeats the kernel. Switches may add up or
copy, so that each byte of a collective leaves or reaches a rank once.
"""

from __future__ import annotations

from costmodel.cost.machine import VECTOR_DTYPE, Machine
from costmodel.cost.terms import SHORTEST
from costmodel.cost.time import Time
from costmodel.equations import equation
from costmodel.hardware import Cluster
from costmodel.network.expert_all_to_all import expert_all_to_all_time
from costmodel.network.group_links import group_links
from costmodel.quantities import Bytes, Seconds, maximum, sum_of, where
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    Elementwise,
    ExpertAllToAll,
    Gemm,
    MixedAttention,
    Operator,
)


def least_time(operator: Operator, machine: Machine) -> Seconds:
    """Return the least time of a kernel or message [s]. Zero of what is neither, or where nothing joins the ranks."""
    if isinstance(operator, MixedAttention):
        work: Seconds = sum_of(_work(part, machine) for part in operator.parts)
        traffic = sum(part.traffic for part in operator.parts)
        return maximum(work, (traffic - _held(traffic, machine)) / machine.hbm_bandwidth)
    if isinstance(operator, Gemm | AttentionKernel):
        return maximum(_work(operator, machine), _read(operator, machine) / machine.hbm_bandwidth)
    if isinstance(operator, Elementwise):
        work = _work(operator, machine) if VECTOR_DTYPE in machine.device.math else 0.0
        return maximum(work, (operator.traffic - _held(operator.traffic, machine)) / machine.hbm_bandwidth)
    if isinstance(operator, Collective | ExpertAllToAll) and machine.cluster is not None:
        return _message(operator, machine.cluster)
    return 0.0


def _message(operator: Collective | ExpertAllToAll, cluster: Cluster) -> Seconds:
    """Return what a rank's bytes take on all its links at once [s].

        collective    calls * max((n-1)/n * S / B, (N-1)/N * S / (l*B_out)),   B = B_in, or B_in + B_out

    n ranks on N nodes of l. Between neighbours S/B. All exchange alike (n-l)/n * S over a NIC each. Without latencies:
    what files state of links was measured by programs, of which libraries take less.
    """
    links = group_links(operator.group, cluster)
    if isinstance(operator, ExpertAllToAll):
        return maximum(expert_all_to_all_time(operator, links) - links.latency - links.exchange_setup, 0.0)
    n, local, size = links.size, links.ranks_per_node, operator.size
    share = 1.0 if operator.kind == "send_recv" else (n - 1.0) / n
    across = (
        (n - local) / n * size if operator.kind == "all_to_all" else (links.nodes - 1.0) / links.nodes * size / local
    )
    both = where(links.nodes > 1, links.intra + links.inter, links.intra)
    wire = maximum(share * size / both, where(links.nodes > 1, across / links.inter, 0.0))
    return where(n > 1, operator.calls * wire, 0.0)


def _work(operator: Gemm | AttentionKernel | Elementwise, machine: Machine) -> Seconds:
    """Return what the arithmetic takes at the highest clock [s]."""
    unit = machine.device.math[VECTOR_DTYPE if isinstance(operator, Elementwise) else operator.dtype]
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


@equation
def floored(fitted: Time, least: Seconds) -> Time:
    """Return a time that is not below the least one.

    seconds = max(fitted.seconds, least)      least: by work and bytes (`least_time`)
    """
    return fitted.scaled(maximum(least / maximum(fitted.seconds, SHORTEST), 1.0))
