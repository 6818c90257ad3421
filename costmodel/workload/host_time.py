"""Time of the host's program in passes of an inference engine, during kernels."""

from __future__ import annotations

import numpy as np

from costmodel.quantities import Seconds, anywhere, where
from costmodel.workload.architecture import Layer, Recurrence, SelectiveScan
from costmodel.workload.context import Context
from costmodel.workload.operators import HostTime
from costmodel.workload.work import WorkBuilder


def add_host_time(builder: WorkBuilder, context: Context, layer: Layer | None = None) -> None:
    """Add what the host's program adds to a layer of an inference step, or to the step itself."""
    if context.phase == "training":
        return
    host, floor = context.framework.host, context.framework.eager_prompts.layer
    is_recurrent = layer is not None and isinstance(layer.mixer, Recurrence | SelectiveScan)
    if context.phase == "prefill" and is_recurrent:  # a CUDA graph ends, where one holds the pass
        _add(builder, "graph break", where(np.asarray(floor) == 0.0, host.recurrence, 0.0))
    _add(builder, "host", host.step if layer is None else host.layer)


def _add(builder: WorkBuilder, name: str, seconds: Seconds) -> None:
    if anywhere(seconds):
        builder.step("host", [HostTime(name, seconds)])
