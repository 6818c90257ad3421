"""What attention in all its forms shares: cores that stay on the chip or not, the merge over ranks, the output."""

from __future__ import annotations

from dataclasses import replace

from costmodel.quantities import Bytes, Count, Quantity
from costmodel.workload.architecture import Attention
from costmodel.workload.context import Context
from costmodel.workload.context_parallel import (
    AttentionShard,
    attention_shard,
    ring_exchange,
    ulysses_exchange,
)
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import (
    Linear,
    add_linear,
)
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise, Gemm, Operator
from costmodel.workload.work import WorkBuilder


def add_fused_attention(
    builder: WorkBuilder,
    context: Context,
    dims: tuple[Count, Count],
    heads: Count,
    kv_heads: Count,
    pairs: Count,
    family: str,
    name: str = "attention core",
    seen: Count | None = None,
    rate: Quantity = 1.0,
) -> None:
    """Add a fused core. Forward 2*P*(q + v) FLOP a head; backward recomputes the scores: 2*P*(3*q + 2*v).

    It keeps no scores, so selective recomputation (`attention_core`) finds nothing to drop here.
    """
    q, v = dims
    keys, sequences, element = context.kv_len, context.sequences, context.residual
    share = attention_shard(context, heads, kv_heads, pairs)
    # Queries and results are read and written by every call, keys and values once in all of them.
    row_traffic = share.heads * share.q_len * (q + v) * share.calls
    traffic = sequences * (row_traffic + share.kv_heads * keys * (q + v)) * element

    def core(title: str, products: Count, moved: Bytes, kind: str) -> AttentionKernel:
        dtype = context.precision.attention
        shape = sequences, share.heads, share.q_len, share.qk_pairs
        return AttentionKernel(
            title, *shape, products, dtype, moved, kind, calls=share.calls, kv_heads=share.kv_heads, kv_len=keys,
            kv_token_bytes=(q + v) * element, last_query_kv_len=seen, relative_speed=rate,
        )  # fmt: skip

    forward = core(name, q + v, traffic, f"{family}_prefill")
    # q, o, do in and dq out; k, v in and dk, dv out
    backward = core(f"{name} gradient", 3 * q + 2 * v, 2 * traffic, f"{family}_backward")
    backward = replace(backward, forward_macs_per_pair=q + v)
    swap = ulysses_exchange(builder, context, share, dims)
    ring = ring_exchange(builder, context, share, dims)
    builder.step(
        "fused_core",
        [*swap.before, forward, *ring.after, *swap.after],
        [*swap.before_gradient, backward, *ring.after_gradient, *swap.after_gradient],
    )
    statistics = sequences * share.heads * share.q_len * ELEMENT_BYTES["fp32"]
    builder.save("softmax statistics", "fused_core", statistics)


def add_unfused_attention(
    builder: WorkBuilder, context: Context, mixer: Attention, share: AttentionShard, *, dropout: bool
) -> None:
    """Add a core whose scores go through memory: two batched products around a softmax, all S*T pairs.

    Bytes a pair: scale with mask and softmax, each e in and e out, 4*e; the gradient of each the same. As one kernel
    they read what the mask leaves, a share c of the pairs, and write all: (1 + c)*e, their gradient (1 + 2*c)*e [NVIDIA
    Megatron-LM, fused_kernels/scaled_upper_triang_masked_softmax.h]. Dropout adds 2*e + 1 each way, there in a kernel
    of its own. That code also copies the result into the order of the projection behind it, 2*e an element, and scales
    the gradients of queries and keys in two kernels, 2*e each [NVIDIA Megatron-LM, model/transformer.py, CoreAttention:
    permute and contiguous, baddbmm with alpha].
    Saved: softmax result, and with dropout its mask and result (5 bytes a pair with two-byte formats).
    """
    element, dtype = context.residual, context.precision.attention
    rows, keys, batch = share.q_len, context.kv_len, context.sequences * share.heads
    swap = ulysses_exchange(builder, context, share, (mixer.head_dim, mixer.v_head_dim))
    scores = batch * rows * keys
    dropped = 2 * element + 1.0 if dropout else 0.0
    ordered: list[Operator] = []
    scaled: list[Operator] = []
    kernels = 1.0
    if context.framework.fused_masked_softmax:
        left = share.qk_pairs / (rows * keys)
        passes, gradient_passes = (1 + left) * element + dropped, (1 + 2 * left) * element + dropped
        kernels = 2.0 if dropout else 1.0
        result, inputs = 2 * batch * rows * mixer.v_head_dim, 2 * batch * (rows + keys) * mixer.head_dim
        ordered.append(Elementwise("attention result copy", result * element, kind="permute"))
        scaled.append(Elementwise("query and key gradient scale", inputs * element, calls=2.0))
    else:
        passes = gradient_passes = 4 * element + dropped

    def product(name: str, n: Count, k: Count) -> Gemm:
        return Gemm(
            name,
            m=rows,
            n=n,
            k=k,
            dtype=dtype,
            a_bytes=element,
            b_bytes=element,
            out_bytes=element,
            groups=batch,
            family="bmm",
        )

    builder.step(
        "attention_core",
        [
            *swap.before,
            product("attention scores", keys, mixer.head_dim),
            Elementwise("softmax", scores * passes, kind="softmax", calls=kernels),
            product("attention values", mixer.v_head_dim, keys),
            *ordered,
            *swap.after,
        ],
        [
            *swap.before_gradient,
            product("attention values gradient", keys, mixer.v_head_dim),
            Gemm(
                "value gradient",
                m=keys,
                n=mixer.v_head_dim,
                k=rows,
                dtype=dtype,
                a_bytes=element,
                b_bytes=element,
                out_bytes=element,
                groups=batch,
                family="bmm",
            ),
            Elementwise("softmax gradient", scores * gradient_passes, kind="softmax", calls=kernels),
            product("query gradient", mixer.head_dim, keys),
            Gemm(
                "key gradient",
                m=keys,
                n=mixer.head_dim,
                k=rows,
                dtype=dtype,
                a_bytes=element,
                b_bytes=element,
                out_bytes=element,
                groups=batch,
                family="bmm",
            ),
            *scaled,
            *swap.after_gradient,
        ],
    )
    builder.save("softmax", "attention_core", scores * element)
    if dropout:
        builder.save("attention dropout", "attention_core", scores * (element + 1.0))


def add_cache_write(builder: WorkBuilder, context: Context, width: Count, held: Count) -> None:
    """Add the write of the new tokens to the cache (inference); a cache that is concatenated is copied as a whole.

        written   tokens * width * (e + e_kv)
        copied    2 * B * held * width * e_kv          in a decoding step: the old cache is read, and written anew

    width: cached elements of one token on this rank; held: tokens that the cache holds of a sequence before the step.
    Keys and values are a kernel each. [transformers, cache_utils.py, DynamicCache.update: torch.cat]
    """
    element = context.precision.kv_element
    if context.phase == "training":
        return
    if context.phase == "decode" and context.framework.kv_layout == "concat":
        copied = 2 * context.sequences * held * width * element / context.parallel.cp
        builder.step("kv_write", [Elementwise("kv cache concatenation", copied, calls=2.0)])
    written = context.tokens * width * (context.residual + element)
    builder.step("kv_write", [Elementwise("kv cache write", written, kind="cache_write", rows=context.tokens)])


def has_quantized_kv(context: Context) -> bool:
    """Tell whether the cache has a narrower format than the products."""
    return ELEMENT_BYTES[context.precision.kv_cache] < ELEMENT_BYTES[context.precision.attention]


def merge_partial_results(builder: WorkBuilder, context: Context, query: Count, result: Count) -> None:
    """Add what decoding exchanges over the context-parallel group: queries to all, partial results back.

    Each rank attends to its share of every sequence's keys; query, result: elements of one token.
    """
    element = context.sequences * context.new_tokens * context.residual
    builder.step(
        "attention_core",
        [
            Collective("query gather", "all_gather", query * element, context.cp_group),
            Collective("partial result scatter", "reduce_scatter", result * element, context.cp_group),
        ],
    )


def add_output_projection(
    builder: WorkBuilder, context: Context, inner: Count, bias: Count = 0.0, active: Quantity = 1.0
) -> None:
    """Add the output projection, `inner` x hidden, of which the `active` share of the rows is computed.

    Its input is the core's output, which the precision may keep in a format of its own.
    """
    hidden, tp, stated = context.architecture.hidden, context.parallel.tp, context.precision.attention_output
    add_linear(
        builder,
        context,
        Linear(
            "output projection",
            "output_projection",
            "attention_output",
            context.tokens,
            active * inner / tp,
            hidden,
            inner * hidden,
            local_experts=1.0 / active,
            kept=None if stated is None else ELEMENT_BYTES[stated],
            bias=bias,
        ),
    )
