"""Time of the host's program in passes of an inference engine, during kernels."""

from __future__ import annotations

import numpy as np

from costmodel.quantities import Quantity, where
from costmodel.workload.architecture import Attention, Layer, Mla, MoeFfn, Recurrence, SelectiveScan
from costmodel.workload.context import Context
from costmodel.workload.operators import HostTime
from costmodel.workload.work import WorkBuilder


def add_host_time(builder: WorkBuilder, context: Context, layer: Layer | None = None) -> None:
    """Add what the host's program adds to a layer of an inference step, or to the step itself."""
    host = context.framework.host
    if context.phase == "prefill" and layer is not None and isinstance(layer.mixer, Recurrence | SelectiveScan):
        _add_graph_break(builder, context)
    if context.phase == "training" or host.is_none:
        return
    if layer is None:
        operator = HostTime("host", host.step, host.sequence, context.sequences)
    else:
        seconds: Quantity = host.layer + where(context.parallel.tp > 1, host.parallel, 0.0)
        if isinstance(layer.ffn, MoeFfn):
            seconds = seconds + host.experts
        if isinstance(layer.mixer, Attention | Mla):
            seconds = seconds + host.group * (len(layer.mixer.head_groups) - 1)
        operator = HostTime("host", seconds, 0.0, context.sequences)
    builder.step("host", [operator])


def _add_graph_break(builder: WorkBuilder, context: Context) -> None:
    """Add the time in which a device waits at a recurrence, before which the CUDA graph of a pass ends.

    None where no graph holds the pass: the host's time of all its layers bounds it then.
    """
    eager = context.framework.eager_time(has_experts=context.architecture.has_experts)
    seconds = where(np.asarray(eager) == 0.0, context.framework.host.recurrence, 0.0)
    if np.any(seconds):
        builder.step("host", [HostTime("graph break", seconds, 0.0, context.sequences)])
