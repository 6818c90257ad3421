"""One operator's time on a cluster: the fitted form of its kernels, else the closed form of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from costmodel.cost import kernels, transfers
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.machine import Machine
from costmodel.cost.physical_bound import floored, least_time, least_work
from costmodel.cost.terms import Terms
from costmodel.cost.time import Time, kernel, message
from costmodel.equations import equation
from costmodel.errors import InfeasibleError
from costmodel.hardware import Cluster
from costmodel.network.group_links import require_group_links
from costmodel.quantities import Quantity, Seconds, is_single, where
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

TERMS: Mapping[type, Callable[..., Terms]] = {  # of the time of each kind of operators without a fit
    Gemm: kernels.gemm_terms,
    AttentionKernel: kernels.attention_terms,
    MixedAttention: kernels.mixed_terms,
    Elementwise: kernels.elementwise_terms,
    Collective: transfers.collective_terms,
    ExpertAllToAll: transfers.expert_all_to_all_terms,
    HostTransfer: transfers.host_transfer_terms,
    HostUpdate: transfers.host_update_terms,
    HostGemm: transfers.host_gemm_terms,
    HostTime: transfers.host_time_terms,
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
    """Return the terms of an operator without a fit."""
    terms = TERMS[type(operator)]
    if isinstance(operator, Kernel):
        return terms(operator, machine, fit)
    if isinstance(operator, HostTime):
        return terms(operator)
    if cluster is None:
        raise InfeasibleError(f"{operator.name}: nothing says how its ranks are joined")
    return terms(operator, machine, cluster, fit)


def _time(operator: Operator, machine: Machine, cluster: Cluster | None, fit: FamilyFit) -> Time:
    """Return the time of an operator that has work."""
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
