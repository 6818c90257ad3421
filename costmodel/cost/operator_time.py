"""One operator's time on a cluster: the fitted form of its kernels, else the closed form of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from costmodel.cost import kernels
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.physical_bound import floored, least_time, least_work
from costmodel.cost.time import Machine, Terms, Time, kernel, message
from costmodel.equations import equation
from costmodel.errors import InfeasibleError
from costmodel.hardware import Cluster
from costmodel.network.collectives import collective_time
from costmodel.network.expert_all_to_all import expert_all_to_all_time, token_copies
from costmodel.network.group_links import GroupLinks, group_links, require_group_links
from costmodel.network.host import arithmetic_time, host_link, stream_time, transfer_time
from costmodel.quantities import Count, Quantity, Seconds, is_single, where
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
    HostWork,
    Kernel,
    MixedAttention,
    Operator,
    clamp_sizes,
    has_work,
)


def collective_terms(operator: Collective, machine: Machine, cluster: Cluster, fit: FamilyFit) -> Terms:
    """Return the terms of a collective."""
    links = group_links(operator.group, cluster)
    launch = machine.framework.launch * fit.launch_factor
    return _wire_terms(links, launch, collective_time(operator.kind, operator.size, links), fit, operator.calls)


@equation
def expert_all_to_all_terms(operator: ExpertAllToAll, machine: Machine, cluster: Cluster, fit: FamilyFit) -> Terms:
    """Return the terms of one direction of the expert all-to-all.

    wire_time = max(inter_time, intra_time) + links.latency + links.exchange_setup
    inter_time = sent * copies.inter / links.exchange
    intra_time = sent * copies.intra / links.intra
    sent = operator.tokens * operator.token_bytes
    """
    links = group_links(operator.group, cluster)
    copies = token_copies(operator, links)
    sent = operator.tokens * operator.token_bytes
    launch = machine.framework.launch * fit.launch_factor
    return {
        **_wire_terms(links, launch, expert_all_to_all_time(operator, links), fit),
        "inter_time": sent * copies.inter / links.exchange, "intra_time": sent * copies.intra / links.intra,
        "inter_copies": copies.inter, "intra_copies": copies.intra,
    }  # fmt: skip


@equation
def _wire_terms(links: GroupLinks, launch: Seconds, wire: Seconds, fit: FamilyFit, calls: Count = 1.0) -> Terms:
    """Return the terms of messages that follow each other. Their time is zero in a group of one.

    t = where(links.size > 1, calls * (launch + wire_time / fit.network_efficiency), 0)
    fixed_time = where(links.size > 1, calls * (launch + links.latency), 0)
    """
    has_peers = links.size > 1
    return {
        "t": where(has_peers, calls * (launch + wire / fit.network_efficiency), 0.0),
        "fixed_time": where(has_peers, calls * (launch + links.latency), 0.0),
        "launch": launch, "wire_time": wire, "latency": links.latency,
    }  # fmt: skip


@equation
def host_transfer_terms(operator: HostTransfer, machine: Machine, cluster: Cluster, fit: FamilyFit) -> Terms:
    """Return the terms of a copy to the host or from it. Its time is zero without bytes.

    t = where(operator.size > 0, fixed + wire / fit.network_efficiency, 0)
    wire := size / min(bandwidth of the link, of the host's memory over devices of a node)
    """
    latency = host_link(cluster).latency
    fixed = machine.framework.launch * fit.launch_factor + (0.0 if latency is None else latency)
    wire = transfer_time(operator, cluster)
    has_bytes = operator.size > 0
    return {
        "t": where(has_bytes, fixed + wire / fit.network_efficiency, 0.0), "fixed_time": where(has_bytes, fixed, 0.0),
        "wire_time": wire,
    }  # fmt: skip


@equation
def host_update_terms(operator: HostUpdate, _: Machine, cluster: Cluster, fit: FamilyFit) -> Terms:
    """Return the terms of the host's work that only streams its memory.

    t = memory_time
    memory_time = stream / fit.hbm_efficiency      traffic over a device's share of the host's bandwidth
    """
    stream = stream_time(operator, cluster)
    return {"memory_time": stream / fit.hbm_efficiency}


@equation
def host_gemm_terms(operator: HostGemm, _: Machine, cluster: Cluster, fit: FamilyFit) -> Terms:
    """Return the terms of a GEMM of the host.

    t = max(arithmetic_time, memory_time)
    arithmetic_time = arithmetic / fit.compute_efficiency      FLOP over a device's share of the host's peak
    memory_time = stream / fit.hbm_efficiency                  traffic over its share of the bandwidth
    """
    arithmetic, stream = arithmetic_time(operator, cluster), stream_time(operator, cluster)
    return {"arithmetic_time": arithmetic / fit.compute_efficiency, "memory_time": stream / fit.hbm_efficiency}


@equation
def host_time_terms(operator: HostTime) -> Terms:
    """Return the terms of the host's program.

    t = operator.seconds
    """
    return {"t": operator.seconds, "host_time": operator.seconds}


TERMS: Mapping[type, Callable[..., Terms]] = {  # of the time of each kind of operators without a fit
    Gemm: kernels.gemm_terms,
    AttentionKernel: kernels.attention_terms,
    MixedAttention: kernels.mixed_terms,
    Elementwise: kernels.elementwise_terms,
    Collective: collective_terms,
    ExpertAllToAll: expert_all_to_all_terms,
    HostTransfer: host_transfer_terms,
    HostUpdate: host_update_terms,
    HostGemm: host_gemm_terms,
    HostTime: host_time_terms,
}


def operator_time(operator: Operator, machine: Machine, cluster: Cluster | None, fit: FamilyFit) -> Time:
    """Return an operator's time.

    A message takes a launch, as a kernel does, and its time on the wire. Nothing in a group of one, and no kernel
    without rows. None is faster than its work and its bytes allow, whatever a fit says. An all-to-all whose kernels
    encode and decode its payload takes `codec` longer, and one that orders data before their flag a round trip, 2 *
    latency, for each of its `fences`. Raises InfeasibleError for a message where no cluster says how its ranks are
    joined.
    """
    present, sized = has_work(operator), clamp_sizes(operator)
    time = _time(sized, machine, cluster, fit)
    if fit.form is not None:
        time = floored(time, least_time(sized, machine), partial(least_work, sized, machine))
    if isinstance(operator, ExpertAllToAll) and not (is_single(operator.codec) and operator.codec == 0):
        time = _coded(time, operator.codec)
    if isinstance(operator, ExpertAllToAll) and not (is_single(operator.fences) and operator.fences == 0):
        time = _fenced(time, fence_time(operator, cluster))
    return time if present is True or np.all(present) else time.scaled(where(present, 1.0, 0.0))


@equation
def _coded(exchange: Time, codec: Quantity) -> Time:
    """Return the time of an all-to-all whose kernels encode and decode its payload.

    seconds = exchange.seconds * (1 + codec)
    """
    return exchange.scaled(1.0 + codec)


@equation
def _fenced(exchange: Time, fence_time: Seconds) -> Time:
    """Return the time of an all-to-all that orders data before their flag.

    seconds = exchange.seconds + fence_time
    """
    return exchange.after(fence_time)


@equation
def fence_time(operator: ExpertAllToAll, cluster: Cluster | None) -> Seconds:
    """Return the time of an all-to-all's fences: a round trip between its farthest ranks each [s].

    fence_time = where(links.size > 1, 2 * operator.fences * links.latency, 0)
    """
    links = require_group_links(operator.group, cluster, operator.name)
    return where(links.size > 1, 2.0 * operator.fences * links.latency, 0.0)


def likely_time(operator: Operator, machine: Machine, cluster: Cluster | None, fit: FamilyFit) -> Quantity:
    """Return the most likely time of an operator [s]: a bare roofline's times the median ratio measured to it."""
    seconds = operator_time(operator, machine, cluster, fit).seconds
    return seconds * fit.spread.ratio(seconds, 0.0, 0.0) if fit.basis == "roofline" else seconds


def call_terms(operator: Operator, machine: Machine, fit: FamilyFit) -> Terms:
    """Return the terms of one call of an operator of one size."""
    operator = clamp_sizes(operator)
    if fit.form is not None:
        return fit.call_terms(operator, machine)
    return _closed_terms(operator.one if isinstance(operator, Gemm) else operator, machine, machine.cluster, fit)


def _closed_terms(operator: Operator, machine: Machine, cluster: Cluster | None, fit: FamilyFit) -> Terms:
    terms = TERMS[type(operator)]
    if isinstance(operator, Kernel):
        return terms(operator, machine, fit)
    if isinstance(operator, HostTime):
        return terms(operator)
    if cluster is None:
        raise InfeasibleError(f"{operator.name}: nothing says how its ranks are joined")
    return terms(operator, machine, cluster, fit)


def _time(operator: Operator, machine: Machine, cluster: Cluster | None, fit: FamilyFit) -> Time:
    if fit.form is not None:
        return fit.fitted_time(fit.form, operator, machine)
    if isinstance(operator, Gemm):
        return kernels.gemm_time(operator, machine, fit)
    terms = _closed_terms(operator, machine, cluster, fit)
    if isinstance(operator, HostWork):
        return kernel(terms.get("arithmetic_time", 0.0), terms["memory_time"], 0.0)
    if isinstance(operator, HostTime):
        return Time(terms["t"], fixed=terms["t"])
    if isinstance(operator, Kernel):
        return kernel(terms.get("compute_time", 0.0), terms["hbm_time"], terms["launch"])
    return message(terms["t"], terms["fixed_time"])
