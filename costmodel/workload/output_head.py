"""What follows the last layer: its norm, the vocabulary projection, and the loss of training."""

from __future__ import annotations

from costmodel.quantities import Count, is_single, where
from costmodel.workload.architecture import LayerEmbedding
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import Linear, add_linear
from costmodel.workload.norms import add_norm, add_residual_norm
from costmodel.workload.operators import Collective, Elementwise, Gemm
from costmodel.workload.work import Parameters, WorkBuilder


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
    if context.phase != "training" and context.framework.engine is not None:
        _add_sampling(builder, context, tokens)
    if context.phase == "training":
        logits = tokens * (vocabulary / context.parallel.tp)
        _add_loss(builder, context, tokens, logits)
        kept = logits / context.loss_chunks * ELEMENT_BYTES["fp32"]
        builder.save("logits", "head", kept)
        builder.add_working_memory(kept * _loss_tensors(context))


def _add_sampling(builder: WorkBuilder, context: Context, tokens: Count) -> None:
    """Add what engines do with logits: every rank gathers those of all words, casts them to FP32, takes the largest.

        gather e*V a token;   cast (e + 4)*V;   arg max 4*V
    [vllm/model_executor/layers/logits_processor.py and v1/sample/sampler.py; sglang/srt/layers/logits_processor.py;
    tensorrt_llm/_torch/modules/logits_processor.py]
    """
    logits, fp32 = tokens * context.architecture.vocabulary, ELEMENT_BYTES["fp32"]
    size = logits * context.residual
    builder.step("head", [
        Collective("vocabulary all-gather", "all_gather", size, context.tp_group),
        Elementwise("vocabulary cast", size + logits * fp32, rows=tokens),
        Elementwise("vocabulary sampling", logits * fp32, rows=tokens),
    ])  # fmt: skip


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


# ---- Residual streams beyond the plain sum: hyper-connections, attention over blocks of layers, per-layer embeddings.


def has_streams(context: Context) -> bool:
    """Tell whether hyper-connections mix several copies of the residual stream."""
    streams = context.architecture.streams
    return not (is_single(streams) and streams == 1.0)


def add_stream_reads(builder: WorkBuilder, context: Context, name: str, *, outputs: Count) -> None:
    """Add what joins n streams into the input of a branch, with weights computed from them.

        w = x W,   x: T x n*d, W: n*d x `outputs`;   h = sum over streams of w_i * x_i

    The GEMM runs in the router's format. Bytes: n*d read and d written per token. Parameters: W, a bias per output, and
    three scales. Before a branch `outputs` is n*(n + 2), weights of reading, writing and mixing. Before the head n.

    [Xie et al., mHC, arXiv 2512.24880; transformers, models/deepseek_v4/modular_deepseek_v4.py,
    DeepseekV4HyperConnection]
    """
    streams, hidden, rows = context.architecture.streams, context.architecture.hidden, context.residual_tokens
    dtype, size = context.precision.router, context.residual_tokens * context.architecture.hidden * context.residual
    element = ELEMENT_BYTES[dtype]

    def gemm(suffix: str, m: Count, n: Count, k: Count) -> Gemm:
        return Gemm(
            f"{name} weights{suffix}", m=m, n=n, k=k, dtype=dtype, a_bytes=context.residual, b_bytes=element,
            out_bytes=element,
        )  # fmt: skip

    width = streams * hidden
    builder.step(
        "norm",
        [gemm("", rows, outputs, width)],
        [gemm(" input gradient", rows, width, outputs)],
        [gemm(" weight gradient", width, outputs, rows)],
    )
    join = Elementwise(f"{name} read", (streams + 1.0) * size, kind="hyper_connection_pre", rows=rows)
    builder.elementwise("norm", join, (2.0 * streams + 1.0) * size)
    builder.save(f"{name} streams", "input", streams * size)
    builder.add_parameters(Parameters.replicated(f"{name} weights", outputs * (width + 1.0) + 3.0))


def add_stream_writes(builder: WorkBuilder, context: Context, name: str) -> None:
    """Add what mixes the streams and adds a branch's result to each: n*d + d elements read, n*d written per token."""
    streams = context.architecture.streams
    size = context.residual_tokens * context.architecture.hidden * context.residual
    write = Elementwise(
        f"{name} write", (2.0 * streams + 1.0) * size, kind="hyper_connection_post", rows=context.residual_tokens
    )
    builder.elementwise("norm", write, (3.0 * streams + 2.0) * size)
    builder.save(f"{name} result", "norm", size)


def add_stream_copies(builder: WorkBuilder, context: Context) -> None:
    """Add the copies of the embedding's output that the streams start from."""
    size = context.residual_tokens * context.architecture.hidden * context.residual
    copies = (1.0 + context.architecture.streams) * size
    builder.elementwise("embedding", Elementwise("stream copies", copies), copies)


def add_block_attention(builder: WorkBuilder, context: Context, name: str) -> None:
    """Add attention of a branch over the sums of earlier blocks of layers and the one that grows.

        bytes = (b + 3)*d*e a token,   b = depth / (2*block) blocks on the mean;    parameters 2*d: a norm and a query

    [Kimi Team, Attention Residuals; vllm-project/vllm, vllm/models/kimi_k3/nvidia/model.py, attn_res]
    """
    architecture = context.architecture
    assert architecture.residual_block is not None
    blocks = architecture.depth / (2.0 * architecture.residual_block)
    size = context.residual_tokens * architecture.hidden * context.residual
    attention = Elementwise(
        f"{name} block attention", (blocks + 3.0) * size, kind="residual_attention", rows=context.residual_tokens
    )
    builder.elementwise("norm", attention, 2 * (blocks + 3.0) * size)
    builder.add_parameters(Parameters.replicated(f"{name} block attention", 2.0 * architecture.hidden))


def add_embedding_of_layers(builder: WorkBuilder, context: Context, embedding: LayerEmbedding, depth: Count) -> None:
    """Add the look-up of every layer's part of a row, and the projection of the embedding's output that is added to it.

    Parameters: rows * depth*w, d * depth*w, and a norm of w. [transformers, models/gemma3n/modular_gemma3n.py,
    get_per_layer_inputs and project_per_layer_inputs]
    """
    width, tp = depth * embedding.width, context.parallel.tp
    size = context.residual_tokens * width * context.residual
    table = embedding.rows * width
    builder.step("embedding", [Elementwise("per-layer embedding", 2 * size, kind="embedding", rows=context.tokens)])
    # A token uses one row of the table, which engines may leave on the host: it counts as an embedding does.
    builder.add_parameters(Parameters("per-layer embedding", table, table / tp, table))
    add_linear(builder, context, Linear(
        "per-layer projection", operator="embedding", producer="embedding", rows=context.tokens,
        inputs=context.architecture.hidden, outputs=width, split="columns",
    ))  # fmt: skip
    builder.step("norm", [Elementwise("per-layer norm", 2 * size, kind="norm", rows=context.residual_tokens * depth)])
    builder.step("embedding", [Elementwise("per-layer sum", 3 * size, kind="add")])
    builder.add_parameters(Parameters.replicated("per-layer norm", embedding.width))


def add_layer_embedding(builder: WorkBuilder, context: Context, embedding: LayerEmbedding, norm: str) -> None:
    """Add a layer's part of the embedding to the residual stream: d x w, the product, w x d and a norm."""
    tokens, hidden, width = context.tokens, context.architecture.hidden, embedding.width
    add_linear(builder, context, Linear(
        "per-layer gate", operator="ffn_up", producer="norm", rows=tokens, inputs=hidden, outputs=width,
        replicas=context.parallel.tp,
    ))  # fmt: skip
    size = tokens * width * context.residual
    product = Elementwise("per-layer product", 3 * size, kind="activation", rows=tokens)
    builder.elementwise("activation", product, 5 * size)
    add_linear(builder, context, Linear(
        "per-layer output", operator="ffn_down", producer="activation", rows=tokens, inputs=width, outputs=hidden,
        replicas=context.parallel.tp,
    ))  # fmt: skip
    add_norm(builder, context, "per-layer output norm", norm, context.residual_tokens, hidden)
