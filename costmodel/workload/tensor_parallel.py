"""The messages of a tensor-parallel group around the GEMMs that it splits, and their overlap with them."""

from __future__ import annotations

from costmodel.workload.context import Context
from costmodel.workload.operators import Collective
from costmodel.workload.work import WorkBuilder


def enter_tensor_parallel(builder: WorkBuilder, context: Context, name: str) -> None:
    """Add the collectives before a column-parallel GEMM.

    Sequence parallel: all-gather, backward reduce-scatter. Otherwise: nothing, backward all-reduce.
    """
    if context.parallel.sequence_parallel:
        forward = [_tp_collective(context, name, "all_gather")]
        backward = [_tp_collective(context, f"{name} gradient", "reduce_scatter")]
    else:
        forward, backward = [], [_tp_collective(context, f"{name} gradient", "all_reduce")]
    builder.step("tensor_parallel", forward, backward)
    builder.mark_entry()


def leave_tensor_parallel(builder: WorkBuilder, context: Context, name: str) -> None:
    """Add the collectives after a row-parallel GEMM, the mirror image of entering."""
    if context.parallel.sequence_parallel:
        forward = [_tp_collective(context, name, "reduce_scatter")]
        backward = [_tp_collective(context, f"{name} gradient", "all_gather")]
    else:
        forward, backward = [_tp_collective(context, name, "all_reduce")], []
    builder.step("tensor_parallel", forward, backward)
    builder.mark_exit()


def _tp_collective(context: Context, name: str, kind: str) -> Collective:
    size = context.tokens * context.architecture.hidden * context.residual
    return Collective(f"{name} {kind.replace('_', '-')}", kind, size, context.tp_group)


def overlap_tensor_parallel(builder: WorkBuilder, context: Context) -> None:
    """Overlap a finished layer's tensor-parallel collectives with its GEMMs, as the framework does in training.

    [NVIDIA Megatron-LM, core/tensor_parallel/layers.py, LinearWithGradAccumulationAndAsyncCommunication; Transformer
    Engine, userbuffers]
    """
    overlap = context.framework.training.tensor_overlap
    if context.phase == "training" and overlap != "none":
        builder.overlap_collectives(context.parallel.tp if overlap == "all" else None)
