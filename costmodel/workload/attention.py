"""Multi-head attention with grouped keys: projections, groups of heads with a pattern each, their cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from costmodel.quantities import Count, Quantity, is_single, maximum
from costmodel.workload.architecture import Attention, HeadGroup, HeadRoute, Pattern
from costmodel.workload.attention_kernels import (
    add_cache_write,
    add_fused_attention,
    add_output_projection,
    add_unfused_attention,
    has_quantized_kv,
    merge_partial_results,
)
from costmodel.workload.context import Context, per_rank
from costmodel.workload.context_parallel import (
    attention_shard,
    gather_kv,
    kv_replicas,
)
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import (
    Linear,
    add_linear,
    norm_vectors,
)
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, HostTransfer
from costmodel.workload.work import Parameters, WorkBuilder


def add_attention(builder: WorkBuilder, context: Context, mixer: Attention, *, norm: str, dropout: bool) -> None:
    """Add grouped-query attention: fused QKV, norm and rotary of queries and keys, cores, output projection.

    Parameters: d*(H*q + G*q + G*v) + H*v*d. Core: 2*P*(q + v) FLOP a head and sequence. norm: kind of norm of queries
    and keys. Every group of heads has a core, a kernel each. Of routed heads whose work is skipped, query and output
    projections and cores have the active share; keys and values exist for all, unless heads choose their tokens.
    """
    hidden, tp, tokens = context.architecture.hidden, context.parallel.tp, context.tokens
    entering = hidden if mixer.partial is None else mixer.partial
    heads, kv_heads = mixer.q_heads / tp, per_rank(mixer.kv_heads, tp)
    query = heads * mixer.active_share * mixer.head_dim
    key_value = kv_heads * (mixer.head_dim + mixer.v_head_dim)
    made = mixer.kv_share * key_value
    whole = mixer.q_heads * mixer.head_dim + mixer.kv_heads * (mixer.head_dim + mixer.v_head_dim)
    inner = mixer.q_heads * mixer.v_head_dim + hidden - entering
    add_linear(
        builder,
        context,
        Linear(
            "qkv projection",
            "qkv",
            "norm",
            tokens,
            entering,
            query + made,
            entering * whole,
            gathered=True,
            replicas=tp * (query + made) / whole,
            bias=whole if mixer.bias else 0.0,
            local_experts=(heads * mixer.head_dim + key_value) / (query + made),
        ),
    )
    _add_split(builder, context, tokens * (query + made), biased=mixer.bias)
    if mixer.route is not None and mixer.route.router == "linear":
        _add_head_router(builder, context, mixer.route)
    if mixer.qk_norm is not None:
        _add_qk_norm(builder, context, mixer, (heads, kv_heads), norm)
    if mixer.rotary:
        _add_rotary(builder, context, mixer, heads + kv_heads)
    if mixer.has_kv_cache:
        add_cache_write(builder, context, made, mixer.cached_tokens(context.kv_len - context.new_tokens))
    if context.phase == "decode":
        merge_partial_results(builder, context, query, heads * mixer.v_head_dim)
    else:
        gather_kv(builder, context, made)
    kept = query + made * kv_replicas(context, kv_heads)
    builder.save("query, key, value", "qkv", tokens * kept * context.residual)
    for name, group in _named_groups(mixer):
        _add_group(builder, context, mixer, group, name, dropout=dropout)
    biased = mixer.bias if mixer.output_bias is None else mixer.output_bias
    add_output_projection(builder, context, inner, bias=hidden if biased else 0.0, active=mixer.active_share)


def _add_split(builder: WorkBuilder, context: Context, elements: Count, *, biased: bool) -> None:
    """Add what eager frameworks do with the result of the one projection of queries, keys and values in training.

    Its parts are views; their gradients are concatenated, which reads and writes each once: 2*e an element [PyTorch,
    SplitBackward: at::cat]. Megatron-LM adds the bias of this product in a kernel of its own, 2*e forwards [NVIDIA
    Megatron-LM, core/tensor_parallel/layers.py, linear_with_grad_accumulation_and_async_allreduce: output + bias].
    """
    if context.phase != "training" or not context.framework.unfused_elementwise:
        return
    size = 2 * elements * context.residual
    apart = biased and context.framework.fused_masked_softmax
    added = [Elementwise("qkv projection bias addition", size, kind="add", rows=context.tokens)] if apart else []
    builder.step("qkv", added, [Elementwise("query, key, value gradient join", size, rows=context.tokens)])


def _named_groups(mixer: Attention) -> Iterator[tuple[str, HeadGroup]]:
    """Yield every group of heads with the name of its core: of its pattern, numbered where that comes again."""
    kinds = [group.pattern.kind for group in mixer.head_groups]
    for place, (kind, group) in enumerate(zip(kinds, mixer.head_groups, strict=True)):
        again = kinds[:place].count(kind)
        label = f"{kind} {again + 1}" if again else kind
        yield "attention core" if len(kinds) == 1 else f"attention core ({label})", group


def _add_rotary(builder: WorkBuilder, context: Context, mixer: Attention, heads: Count) -> None:
    """Add the rotation of queries and keys in place. heads: of both, on this rank."""
    width = mixer.head_dim if mixer.rotary_dim is None else mixer.rotary_dim
    rotated = context.tokens * heads * width * context.residual
    builder.step(
        "qkv",
        [Elementwise("rotary", 2 * rotated, kind="rotary", rows=context.tokens)],
        [Elementwise("rotary gradient", 2 * rotated, rows=context.tokens)],
    )


def _add_head_router(builder: WorkBuilder, context: Context, route: HeadRoute) -> None:
    """Add the weights of heads: d x routed, d x shared, and d x 2 between the two [arXiv 2410.11842, equations 5-7]."""
    hidden, width = context.architecture.hidden, route.routed + route.shared + 2.0
    router = Linear(
        "head router", "router", "norm", context.tokens, hidden, width, hidden * width, cast=False, kept=0.0,
        replicas=context.parallel.tp,
    )  # fmt: skip
    add_linear(builder, context, router)


def _add_qk_norm(
    builder: WorkBuilder, context: Context, mixer: Attention, heads: tuple[Count, Count], norm: str
) -> None:
    """Add the norms of queries and keys: one pass over both, which belongs to the projection as rotary does.

    Parameters: 2*q where the heads share a vector, (H + G)*q over the whole projection. heads: of this rank.
    """
    element = (heads[0] + heads[1]) * mixer.head_dim
    size = context.tokens * element * context.residual
    builder.step(
        "qkv",
        [Elementwise("query-key norm", 2 * size, kind="norm")],
        [Elementwise("query-key norm gradient", 3 * size)],
    )
    builder.save("query-key norm input", "qkv", size)
    shared = mixer.qk_norm == "head"
    total = 2 * mixer.head_dim if shared else (mixer.q_heads + mixer.kv_heads) * mixer.head_dim
    local = 2 * mixer.head_dim if shared else element
    vectors = norm_vectors(norm)
    builder.add_parameters(Parameters("query-key norm", vectors * total, vectors * local, vectors * total))


def _add_group(
    builder: WorkBuilder, context: Context, mixer: Attention, group: HeadGroup, name: str, *, dropout: bool
) -> None:
    """Add the cores of one group of heads: one, or two where some of its heads choose their tokens.

    Heads that choose their tokens see a sequence of these alone: t*S queries on t*T keys, for which inputs are gathered
    and results scattered, hidden elements a head and token. Heads that all tokens visit are a core beside them.
    """
    for heads, tokens in mixer.head_parts:
        everyone = is_single(tokens) and tokens == 1
        title = f"{name} (shared)" if everyone and len(mixer.head_parts) > 1 else name
        if everyone:
            _add_core(builder, context, mixer, (group, heads), title, dropout=dropout)
            continue
        chosen = replace(context, new_tokens=context.new_tokens * tokens, kv_len=context.kv_len * tokens)
        copies = group.share * heads * mixer.q_heads / context.parallel.tp * context.architecture.hidden
        moved = 2 * chosen.tokens * copies * context.residual
        builder.step("attention_core", [Elementwise("patch gather", moved, kind="permute")])
        _add_core(builder, chosen, mixer, (group, heads), title, dropout=dropout)
        back = Elementwise("patch scatter", moved, kind="permute")
        builder.step("attention_core", [back], [Elementwise("patch gradient", 2 * moved)])


def _add_core(
    builder: WorkBuilder, context: Context, mixer: Attention, part: tuple[HeadGroup, Quantity], name: str, *,
    dropout: bool,
) -> None:  # fmt: skip
    """Add softmax(Q K^T) V of one group of heads, fused or with its scores in memory, and what chooses its keys.

    part: the group, and the share of its query heads that are computed.
    """
    group, active = part
    heads = group.share * active * mixer.q_heads / context.parallel.tp
    kv_heads = group.share * per_rank(mixer.kv_heads, context.parallel.tp)
    kernel, dims = mixer.kernel, (mixer.head_dim, mixer.v_head_dim)
    pattern = Pattern() if kernel.realised == "masked" else group.pattern
    pairs = context.pairs(pattern, causal=mixer.causal)
    _add_selection(builder, context, mixer, group, heads)
    if context.phase == "decode":
        _add_decoding(builder, context, mixer, pattern, (heads, kv_heads), name)
    elif context.framework.unfused_attention or kernel.materialised:
        share = attention_shard(context, heads, kv_heads, pairs)
        add_unfused_attention(builder, context, mixer, share, dropout=dropout)
    else:
        if kernel.permuted:
            _add_permutation(builder, context, dims, (heads, kv_heads))
        seen = pattern.last_query_keys(context.kv_len)
        add_fused_attention(
            builder=builder,
            context=context,
            dims=dims,
            heads=heads,
            kv_heads=kv_heads,
            pairs=pairs,
            family="attention",
            name=name,
            seen=seen,
            rate=kernel.rate,
        )
    if kernel.head_edit:
        edited = 2 * context.tokens * heads * mixer.v_head_dim * context.residual
        once = Elementwise("head edit", edited, rows=context.tokens)
        builder.step("attention_core", [once], [Elementwise("head edit gradient", edited, rows=context.tokens)])


def _add_permutation(
    builder: WorkBuilder, context: Context, dims: tuple[Count, Count], heads: tuple[Count, Count]
) -> None:
    """Add what brings tokens into the order of a kernel's tiles and its result back: a pass for q, k, v and o each.

        bytes = 2*B*(H*rows*(q + v) + G*keys*(q + v))*e          read and written

    The gradient moves that of o in and those of q, k and v out. [NATTEN, docs/profiler.md]
    """
    both = heads[0] * context.q_len + heads[1] * context.kv_len
    moved = 2 * context.sequences * both * (dims[0] + dims[1]) * context.residual
    order = Elementwise("token permutation", moved, calls=4.0, kind="permute")
    builder.step("fused_core", [order], [replace(order, name="token permutation gradient", kind="")])


def _add_decoding(
    builder: WorkBuilder, context: Context, mixer: Attention, pattern: Pattern, heads: tuple[Count, Count], name: str
) -> None:
    """Add the core of a decoding step. heads: query and key-value heads of this rank.

    Scores in memory are written and read, and so are their softmax: 4*e a pair. Gathered keys are read, written and
    read again.
    """
    keys, width = context.cached_keys(pattern), mixer.head_dim + mixer.v_head_dim
    cache = context.sequences * heads[1] * keys * width * context.precision.kv_element
    streamed = cache + context.sequences * context.new_tokens * heads[0] * width * context.residual
    pairs = context.pairs(pattern, causal=mixer.causal)
    _add_fetch(builder, context, mixer, pattern, heads[1])
    if mixer.kernel.realised == "gathered":
        builder.step("attention_core", [Elementwise("key gather", 2 * cache, kind="permute")])
    builder.step(
        "attention_core",
        [
            AttentionKernel(
                name,
                sequences=context.sequences,
                heads=heads[0],
                q_len=context.new_tokens,
                qk_pairs=pairs,
                macs_per_pair=width,
                dtype=context.precision.attention,
                traffic=streamed,
                family="attention_decode",
                kv_heads=heads[1],
                kv_len=keys,
                kv_token_bytes=width * ELEMENT_BYTES[context.precision.kv_cache],
                quantized_kv=has_quantized_kv(context),
                relative_speed=mixer.kernel.rate,
            )
        ],
    )
    if mixer.kernel.materialised:
        scores = context.sequences * heads[0] * pairs
        builder.step("attention_core", [Elementwise("score edit", 4 * scores * context.residual)])


def _add_fetch(builder: WorkBuilder, context: Context, mixer: Attention, pattern: Pattern, kv_heads: Count) -> None:
    """Add the copy of the chosen keys and values from the host, which the choice has to precede."""
    fetched = pattern.fetched_keys(context.new_tokens, context.kv_len)
    if is_single(fetched) and fetched == 0:
        return
    width = mixer.head_dim + mixer.v_head_dim
    size = context.sequences * kv_heads * fetched * width * context.precision.kv_element / context.parallel.cp
    builder.step("attention_core", [HostTransfer("chosen keys from the host", size, "in", context.parallel.devices)])


def _add_selection(builder: WorkBuilder, context: Context, mixer: Attention, group: HeadGroup, heads: Count) -> None:
    """Add what chooses the keys of a group: products of queries with fewer or narrower keys, if the pattern has any.

    Its multiply-adds are those of a batched product over the width of a head.
    """
    work, keys = group.pattern.selection(context.new_tokens, context.kv_len, mixer.head_dim)
    if is_single(work) and work == 0:
        return
    element, dtype = context.residual, context.precision.attention
    columns = work / (context.new_tokens * mixer.head_dim)
    batch = context.sequences * heads
    size = Gemm(
        "key selection", m=context.q_len, n=columns, k=mixer.head_dim, dtype=dtype, a_bytes=element,
        b_bytes=element * keys / maximum(columns, 1.0), out_bytes=0.0, groups=batch, family="bmm",
    )  # fmt: skip
    builder.step("attention_core", [size])
