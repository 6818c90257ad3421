"""What follows the last layer: its norm, the vocabulary projection, and the loss of training."""

from __future__ import annotations

from costmodel.quantities import Count, where
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import Linear, add_linear, add_norm, add_residual_norm
from costmodel.workload.operators import Collective, Elementwise
from costmodel.workload.residual_streams import add_block_attention, add_stream_reads, has_streams
from costmodel.workload.work import WorkBuilder


def add_final_norm(builder: WorkBuilder, context: Context) -> None:
    """Add the norm before the head, with the last residual add where the last layer has not done it."""
    last = context.architecture.layers[-1]
    kind, branches = context.architecture.final_norm or last.norm, 2 if last.block == "parallel" else 1
    rows, width = context.residual_tokens, context.architecture.hidden
    if context.architecture.residual_block is not None:
        add_block_attention(builder, context, "final")
    if has_streams(context):
        add_stream_reads(builder, context, "final hyper-connection", outputs=context.architecture.streams)
        if kind != "none":
            add_norm(builder, context, "final norm", kind, rows, width)
    elif last.norm_position == "after":
        if kind != "none":
            add_norm(builder, context, "final norm", kind, rows, width)
    elif last.norm == "none" and kind == "none":
        return
    elif kind == "none":
        size = (2 + branches) * rows * width * context.residual
        builder.step("norm", [Elementwise("final residual add", size, kind="add")])
    else:
        add_residual_norm(builder, context, "final norm", kind, branches=branches)


def add_vocabulary(builder: WorkBuilder, context: Context, tokens: Count, *, tied: bool, bias: Count = 0.0) -> None:
    """Add the vocabulary projection of `tokens` and, in training, the cross-entropy.

    Logits are read, kept in FP32, and replaced by their gradient. tied: another layer owns the matrix.
    """
    vocabulary = context.architecture.vocabulary
    enter_tensor_parallel(builder, context, "head")
    add_linear(builder, context, Linear(
        "vocabulary projection", operator="head", producer="final_norm", rows=tokens, split="columns",
        inputs=context.architecture.hidden, outputs=vocabulary, dtype=context.precision.head,
        weight_bytes=None if context.precision.head_weights is None else context.head_weight, gathered=True,
        # Every context-parallel rank has the last tokens of a prompt and repeats the GEMM.
        replicas=context.parallel.cp if context.phase == "prefill" else 1.0, tied=tied, bias=bias,
    ))  # fmt: skip
    if context.phase == "training":
        logits = tokens * (vocabulary / context.parallel.tp)
        _add_loss(builder, context, tokens, logits)
        kept = logits / context.loss_chunks * ELEMENT_BYTES["fp32"]
        builder.save("logits", "head", kept)
        builder.add_working_memory(kept * _loss_tensors(context))


def _loss_tensors(context: Context) -> Count:
    """Return how many FP32 tensors of logits the loss's backward pass holds besides the logarithms that were kept.

    Of PyTorch's own kernels a gradient filled with zeros, and its own. With a vocabulary split by DTensor the zeros,
    exponentials and their sum [PyTorch, nn/functional.py; distributed/tensor/parallel/loss.py,
    _nll_loss_and_log_softmax_backward]. A fused one, or Megatron's, writes the gradient over what was kept.
    """
    return where(context.parallel.tp > 1, 3.0, 2.0) if context.framework.training.has_eager_loss else 0.0


def _add_loss(builder: WorkBuilder, context: Context, tokens: Count, logits: Count) -> None:
    """Add the cross-entropy of `tokens` with `logits` in all on this rank: e + 8 bytes per logit, fused.

    Unfused: cast, log-softmax, a gradient filled with zeros, the softmax gradient and its cast: e + 12 bytes per logit
    forward, e + 20 backward [PyTorch, torch/nn/functional.py, cross_entropy under autocast]. With a split vocabulary:
    cast, maximum, difference, exponential, sum and quotient, e + 36. Backward product and cast, e + 12. 16 kernels and
    8 look up the targets and mask and average their losses, FP32 numbers per token in and out [NVIDIA Megatron-LM,
    core/tensor_parallel/cross_entropy.py; pretrain_gpt.py].
    """
    element, fp32 = context.residual, ELEMENT_BYTES["fp32"]
    if context.framework.fused_masked_softmax:
        size = 2 * tokens * fp32
        forward = [
            Elementwise("loss", logits * (element + 9 * fp32), kind="softmax", calls=6.0),
            Elementwise("loss of targets", 16 * size, calls=16.0),
        ]
        gradients = [
            Elementwise("loss gradient", logits * (element + 3 * fp32), kind="softmax", calls=2.0),
            Elementwise("loss gradient of targets", 8 * size, calls=8.0),
        ]
    elif context.framework.training.eager != "none":
        forward = [Elementwise("loss", logits * (element + 3 * fp32), kind="softmax", calls=2.0)]
        gradients = [Elementwise("loss gradient", logits * (element + 5 * fp32), kind="softmax", calls=3.0)]
    else:
        forward, gradients = [Elementwise("loss", logits * (element + 2 * fp32))], []
    builder.step("loss", forward, gradients)


# ---- The messages of a tensor-parallel group around the GEMMs that it splits, and their overlap with them ------------


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
