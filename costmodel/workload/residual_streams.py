"""Residual streams beyond the plain sum: hyper-connections, attention over blocks of layers, per-layer embeddings."""

from __future__ import annotations

from costmodel.quantities import Count, is_single
from costmodel.workload.architecture import LayerEmbedding
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import Linear, add_linear, add_norm
from costmodel.workload.operators import Elementwise, Gemm
from costmodel.workload.work import Parameters, WorkBuilder


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
