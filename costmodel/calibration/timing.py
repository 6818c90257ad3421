"""One operator's time on a cluster: kernels on the device, messages on the network."""

from __future__ import annotations

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.kernels import attention_time, elementwise_time, gemm_time
from costmodel.cost.machine import Machine
from costmodel.cost.time import Time, message
from costmodel.errors import InfeasibleError
from costmodel.hardware import Cluster
from costmodel.network.collectives import collective_time
from costmodel.network.exchange import exchange_time
from costmodel.network.paths import path
from costmodel.quantities import where
from costmodel.workload.operators import AttentionCore, Collective, Elementwise, Gemm, Operator


def operator_time(operator: Operator, machine: Machine, cluster: Cluster | None, fit: FamilyFit) -> Time:
    """Return an operator's time.

    A message takes a launch, as a kernel does, and its time on the wire; nothing in a group of one. Raises
    InfeasibleError for a message where no cluster says how its ranks are joined.
    """
    if fit.form is not None:
        return fit.fitted_time(fit.form, operator, machine)
    if isinstance(operator, Gemm):
        return gemm_time(operator, machine, fit)
    if isinstance(operator, AttentionCore):
        return attention_time(operator, machine, fit)
    if isinstance(operator, Elementwise):
        return elementwise_time(operator, machine, fit)
    if cluster is None:
        raise InfeasibleError(f"{operator.name}: nothing says how its ranks are joined")
    way = path(operator.group, cluster)
    if isinstance(operator, Collective):
        wire = collective_time(operator.kind, operator.size, way)
    else:
        wire = exchange_time(operator, way)
    launch = machine.framework.launch * fit.launch
    fixed = where(way.size > 1, launch + way.latency, 0.0)
    return message(where(way.size > 1, launch + wire / fit.network, 0.0), fixed)
