"""The least time of a kernel or a message, whatever a fit says: its work at the highest clock, its bytes.

    least = max(FLOP / (peak at the highest clock), compulsory bytes / bandwidth)          of a kernel
    least = bytes of a rank / bandwidth of its links                                       of a message

Compulsory bytes are those that no kernel before has left in L2: the weights of a product, the cache that decoding
reads. Of the others, L2 may hold its capacity. All of that where a benchmark repeats the kernel. Switches may add up or
copy, so that each byte of a collective leaves or reaches a rank once.
"""

from __future__ import annotations

from collections.abc import Callable

from costmodel.cost.time import SHORTEST, VECTOR_DTYPE, Machine, Time
from costmodel.equations import equation
from costmodel.hardware import Cluster
from costmodel.network.expert_all_to_all import expert_all_to_all_time
from costmodel.network.group_links import group_links
from costmodel.quantities import Bytes, Seconds, maximum, sum_of, where
from costmodel.records import replace
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    Elementwise,
    ExpertAllToAll,
    Gemm,
    MixedAttention,
    Operator,
)

Kernel = Gemm | AttentionKernel | MixedAttention | Elementwise
SPECIAL = (
    16.0  # cosines, exponentials a cycle and processor, capabilities 7.0 to 12.0 [CUDA guide, arithmetic throughput]
)


def least_time(operator: Operator, machine: Machine) -> Seconds:
    """Return the least time of a kernel or message [s]. Zero of what is neither, or where nothing joins the ranks."""
    if isinstance(operator, Kernel):
        return maximum(least_work(operator, machine), _read(operator, machine) / machine.hbm_bandwidth)
    if isinstance(operator, Collective | ExpertAllToAll) and machine.cluster is not None:
        return _message(operator, machine.cluster)
    return 0.0


def least_work(operator: Operator, machine: Machine) -> Seconds:
    """Return what the arithmetic of a kernel takes at the highest clock [s], zero of a message."""
    device = machine.device
    if isinstance(operator, Elementwise):
        unit = device.math.get(VECTOR_DTYPE)
        starts = 0.0 if unit is None else maximum(operator.flop / unit.flop_per_cycle, operator.special / SPECIAL)
        return starts / (device.clock_max * machine.processors)
    if isinstance(operator, Gemm | AttentionKernel):
        unit = device.math[operator.dtype]
        speed = maximum(operator.relative_speed, 1.0) if isinstance(operator, AttentionKernel) else 1.0
        rate = unit.flop_per_cycle * maximum(unit.clock, device.clock_max)
        return operator.flop / (rate * machine.processors * speed)
    return sum_of(least_work(part, machine) for part in operator.parts) if isinstance(operator, MixedAttention) else 0.0


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


def _read(operator: Kernel, machine: Machine) -> Bytes:
    """Return the bytes that have to come from memory: L2 may hold its capacity from before."""
    beyond = maximum(operator.traffic - machine.l2_capacity, 0.0)
    if isinstance(operator, Gemm) and not machine.warm_l2:
        return maximum(beyond, operator.calls * operator.groups * operator.k * operator.n * operator.b_bytes)
    is_decode = isinstance(operator, AttentionKernel) and operator.family.endswith("decode") and not machine.warm_l2
    return operator.traffic if is_decode else beyond


@equation
def floored(fitted: Time, least: Seconds, work: Callable[[], Seconds] = float) -> Time:
    """Return a time that is not below the least one. Arithmetic bounds a kernel that its `work` makes longer.

    seconds = max(fitted.seconds, least)      least: by work and bytes (`least_time`)
    """
    raised = fitted.scaled(maximum(least / maximum(fitted.seconds, SHORTEST), 1.0))
    if raised is fitted:
        return fitted
    by_work = (work() >= least) & (least > fitted.seconds)
    compute, memory = where(by_work, raised.seconds, raised.compute), where(by_work, fitted.memory, raised.memory)
    return replace(raised, compute=compute, memory=memory)
