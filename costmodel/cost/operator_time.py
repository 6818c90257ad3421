"""One operator's time on a cluster: kernels on the device, messages on the network."""

from __future__ import annotations

import numpy as np

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.kernels import attention_time, elementwise_time, gemm_time, mixed_time
from costmodel.cost.machine import Machine
from costmodel.cost.time import Time, kernel, message
from costmodel.errors import InfeasibleError
from costmodel.hardware import Cluster
from costmodel.network.collectives import collective_time
from costmodel.network.expert_all_to_all import expert_all_to_all_time
from costmodel.network.group_links import group_links
from costmodel.network.host import arithmetic_time, host_link, stream_time, transfer_time
from costmodel.quantities import Quantity, is_single, where
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    Elementwise,
    ExpertAllToAll,
    Gemm,
    HostGemm,
    HostTime,
    HostTransfer,
    HostUpdate,
    MixedAttention,
    Operator,
    clamp_sizes,
    has_work,
)


def operator_time(operator: Operator, machine: Machine, cluster: Cluster | None, fit: FamilyFit) -> Time:
    """Return an operator's time.

    A message takes a launch, as a kernel does, and its time on the wire; nothing in a group of one, and no kernel
    without rows. An exchange whose kernels encode and decode its payload takes `codec` longer. Raises InfeasibleError
    for a message where no cluster says how its ranks are joined.
    """
    present = has_work(operator)
    time = _time(clamp_sizes(operator), machine, cluster, fit)
    if isinstance(operator, ExpertAllToAll) and not (is_single(operator.codec) and operator.codec == 0):
        time = time.scaled(1.0 + operator.codec)
    return time if present is True or np.all(present) else time.scaled(where(present, 1.0, 0.0))


def likely_time(operator: Operator, machine: Machine, cluster: Cluster | None, fit: FamilyFit) -> Quantity:
    """Return the most likely time of an operator [s]: a bare roofline's times the median ratio measured to it."""
    seconds = operator_time(operator, machine, cluster, fit).seconds
    return seconds * fit.spread.ratio(seconds, 0.0, 0.0) if fit.basis == "roofline" else seconds


def _time(operator: Operator, machine: Machine, cluster: Cluster | None, fit: FamilyFit) -> Time:
    """Return the time of an operator that has work."""
    if fit.form is not None:
        return fit.fitted_time(fit.form, operator, machine)
    if isinstance(operator, Gemm):
        return gemm_time(operator, machine, fit)
    if isinstance(operator, AttentionKernel):
        return attention_time(operator, machine, fit)
    if isinstance(operator, MixedAttention):
        return mixed_time(operator, machine, fit)
    if isinstance(operator, Elementwise):
        return elementwise_time(operator, machine, fit)
    if isinstance(operator, HostTime):
        return Time(operator.seconds, fixed=operator.seconds)
    if cluster is None:
        raise InfeasibleError(f"{operator.name}: nothing says how its ranks are joined")
    launch = machine.framework.launch * fit.launch
    if isinstance(operator, HostUpdate):
        return kernel(0.0, stream_time(operator, cluster) / fit.memory, 0.0)
    if isinstance(operator, HostGemm):
        arithmetic = arithmetic_time(operator, cluster) / fit.compute
        return kernel(arithmetic, stream_time(operator, cluster) / fit.memory, 0.0)
    if isinstance(operator, HostTransfer):
        latency = host_link(cluster).latency
        started = launch + (0.0 if latency is None else latency)
        moved = operator.size > 0
        copied = started + transfer_time(operator, cluster) / fit.network
        return message(where(moved, copied, 0.0), where(moved, started, 0.0))
    way = group_links(operator.group, cluster)
    if isinstance(operator, Collective):
        calls, wire = operator.calls, collective_time(operator.kind, operator.size, way)
    else:
        calls, wire = 1.0, expert_all_to_all_time(operator, way)
    fixed = where(way.size > 1, calls * (launch + way.latency), 0.0)
    return message(where(way.size > 1, calls * (launch + wire / fit.network), 0.0), fixed)
