"""Attention in its forms: multi-head with grouped keys, and multi-head latent (expanded or absorbed)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from costmodel.quantities import Bytes, Count, Quantity, is_single, maximum
from costmodel.workload.architecture import Attention, HeadGroup, HeadRoute, Mla, Pattern
from costmodel.workload.context import Context, per_rank
from costmodel.workload.context_parallel import (
    CoreShare,
    gather_keys,
    pass_keys_around,
    replicas_of_keys,
    share_of_core,
    swap_heads,
)
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import (
    Linear,
    add_linear,
    add_norm,
    norm_vectors,
)
from costmodel.workload.operators import AttentionCore, Collective, Elementwise, Gemm, HostTransfer
from costmodel.workload.work import Parameters, WorkBuilder


def add_attention(builder: WorkBuilder, context: Context, mixer: Attention, *, norm: str, dropout: bool) -> None:
    """Add grouped-query attention: fused QKV, norm and rotary of queries and keys, cores, output projection.

    Parameters: d*(H*q + G*q + G*v) + H*v*d. Core: 2*P*(q + v) FLOP a head and sequence. norm: kind of norm of queries
    and keys. Every group of heads has a core, a kernel each. Of routed heads whose work is skipped, query and output
    projections and cores have the active share; keys and values exist for all.
    """
    hidden, tp, tokens = context.architecture.hidden, context.parallel.tp, context.tokens
    entering = hidden if mixer.partial is None else mixer.partial
    heads, kv_heads = mixer.q_heads / tp, per_rank(mixer.kv_heads, tp)
    query = heads * mixer.active_share * mixer.head_dim
    key_value = kv_heads * (mixer.head_dim + mixer.v_head_dim)
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
            query + key_value,
            entering * whole,
            gathered=True,
            replicas=tp * (query + key_value) / whole,
            bias=whole if mixer.bias else 0.0,
            held=(heads * mixer.head_dim + key_value) / (query + key_value),
        ),
    )
    if mixer.route is not None and mixer.route.router == "linear":
        _add_head_router(builder, context, mixer.route)
    if mixer.qk_norm is not None:
        _add_qk_norm(builder, context, mixer, (heads, kv_heads), norm)
    if mixer.rotary:
        width = mixer.head_dim if mixer.rotary_dim is None else mixer.rotary_dim
        rotated = tokens * (heads + kv_heads) * width * context.residual
        builder.step(
            "qkv",
            [Elementwise("rotary", 2 * rotated, kind="rotary", rows=tokens)],
            [Elementwise("rotary gradient", 2 * rotated, rows=tokens)],
        )
    element = context.precision.cached_element
    if context.phase != "training":
        written = tokens * key_value
        builder.step(
            "kv_write",
            [Elementwise("kv cache write", written * (context.residual + element), kind="cache_write", rows=tokens)],
        )
    if context.phase == "decode":
        _merge_partial_results(builder, context, query, heads * mixer.v_head_dim)
    else:
        gather_keys(builder, context, key_value)
    kept = query + key_value * replicas_of_keys(context, kv_heads)
    builder.save("query, key, value", "qkv", tokens * kept * context.residual)
    for name, group in _named_groups(mixer):
        _add_core(builder, context, mixer, group, name, dropout=dropout)
    biased = mixer.bias if mixer.output_bias is None else mixer.output_bias
    _add_output(builder, context, inner, bias=hidden if biased else 0.0, active=mixer.active_share)


def _named_groups(mixer: Attention) -> Iterator[tuple[str, HeadGroup]]:
    """Yield every group of heads with the name of its core: of its pattern, numbered where that comes again."""
    kinds = [group.pattern.kind for group in mixer.head_groups]
    for place, (kind, group) in enumerate(zip(kinds, mixer.head_groups, strict=True)):
        again = kinds[:place].count(kind)
        label = f"{kind} {again + 1}" if again else kind
        yield "attention core" if len(kinds) == 1 else f"attention core ({label})", group


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
    builder.parameter(Parameters("query-key norm", vectors * total, vectors * local, vectors * total))


def _add_core(
    builder: WorkBuilder, context: Context, mixer: Attention, group: HeadGroup, name: str, *, dropout: bool
) -> None:
    """Add softmax(Q K^T) V of one group of heads, fused or with its scores in memory, and what chooses its keys."""
    heads = group.share * mixer.active_share * mixer.q_heads / context.parallel.tp
    kv_heads = group.share * per_rank(mixer.kv_heads, context.parallel.tp)
    kernel = mixer.kernel
    pattern = Pattern() if kernel.realised == "masked" else group.pattern
    pairs = context.pairs(pattern, causal=mixer.causal)
    _add_selection(builder, context, mixer, group, heads)
    if context.phase == "decode":
        _add_decoding(builder, context, mixer, pattern, (heads, kv_heads), name)
    elif context.framework.unfused or kernel.materialised:
        share = share_of_core(context, heads, kv_heads, pairs)
        _add_unfused(builder, context, mixer, share, dropout=dropout)
    else:
        dims, seen = (mixer.head_dim, mixer.v_head_dim), pattern.seen(context.keys)
        _add_fused(builder, context, dims, heads, kv_heads, pairs, "attention", name, seen, kernel.rate)


def _add_decoding(
    builder: WorkBuilder, context: Context, mixer: Attention, pattern: Pattern, heads: tuple[Count, Count], name: str
) -> None:
    """Add the core of a decoding step. heads: query and key-value heads of this rank.

    Scores in memory are written and read, and so are their softmax: 4*e a pair. Gathered keys are read, written and
    read again.
    """
    keys, width = context.kept_keys(pattern), mixer.head_dim + mixer.v_head_dim
    cache = context.sequences * heads[1] * keys * width * context.precision.cached_element
    streamed = cache + context.sequences * context.length * heads[0] * width * context.residual
    pairs = context.pairs(pattern, causal=mixer.causal)
    _add_fetch(builder, context, mixer, pattern, heads[1])
    if mixer.kernel.realised == "gathered":
        builder.step("attention_core", [Elementwise("key gather", 2 * cache, kind="permute")])
    builder.step(
        "attention_core",
        [
            AttentionCore(
                name,
                context.sequences,
                heads[0],
                context.length,
                pairs,
                width,
                context.precision.attention,
                streamed,
                "attention_decode",
                kv_heads=heads[1],
                keys=keys,
                cached=width * ELEMENT_BYTES[context.precision.kv_cache],
                narrow_cache=_is_narrow(context),
                rate=mixer.kernel.rate,
            )
        ],
    )
    if mixer.kernel.materialised:
        scores = context.sequences * heads[0] * pairs
        builder.step("attention_core", [Elementwise("score edit", 4 * scores * context.residual)])


def _add_fetch(builder: WorkBuilder, context: Context, mixer: Attention, pattern: Pattern, kv_heads: Count) -> None:
    """Add the copy of the chosen keys and values from the host, which the choice has to precede."""
    fetched = pattern.fetched(context.length, context.keys)
    if is_single(fetched) and fetched == 0:
        return
    width = mixer.head_dim + mixer.v_head_dim
    size = context.sequences * kv_heads * fetched * width * context.precision.cached_element / context.parallel.cp
    builder.step("attention_core", [HostTransfer("chosen keys from the host", size, "in", context.parallel.devices)])


def _add_selection(builder: WorkBuilder, context: Context, mixer: Attention, group: HeadGroup, heads: Count) -> None:
    """Add what chooses the keys of a group: products of queries with fewer or narrower keys, if the pattern has any.

    Its multiply-adds are those of a batched product over the width of a head.
    """
    work, keys = group.pattern.selection(context.length, context.keys, mixer.head_dim)
    if is_single(work) and work == 0:
        return
    element, dtype = context.residual, context.precision.attention
    columns = work / (context.length * mixer.head_dim)
    batch = context.sequences * heads
    size = Gemm(
        "key selection", context.rows, columns, mixer.head_dim, dtype, element,
        element * keys / maximum(columns, 1.0), 0.0, batch, family="bmm",
    )  # fmt: skip
    builder.step("attention_core", [size])


def _is_narrow(context: Context) -> bool:
    """Tell whether the cache has a narrower format than the products."""
    return ELEMENT_BYTES[context.precision.kv_cache] < ELEMENT_BYTES[context.precision.attention]


def _add_fused(
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
    keys, sequences, element = context.keys, context.sequences, context.residual
    share = share_of_core(context, heads, kv_heads, pairs)
    # Queries and results are read and written by every call, keys and values once in all of them.
    row_traffic = share.heads * share.rows * (q + v) * share.calls
    traffic = sequences * (row_traffic + share.kv_heads * keys * (q + v)) * element

    def core(title: str, products: Count, moved: Bytes, kind: str) -> AttentionCore:
        dtype = context.precision.attention
        shape = sequences, share.heads, share.rows, share.pairs
        return AttentionCore(
            title, *shape, products, dtype, moved, kind, calls=share.calls, kv_heads=share.kv_heads, keys=keys,
            cached=(q + v) * element, seen=seen, rate=rate,
        )  # fmt: skip

    forward = core(name, q + v, traffic, f"{family}_prefill")
    # q, o, do in and dq out; k, v in and dk, dv out
    backward = core(f"{name} gradient", 3 * q + 2 * v, 2 * traffic, f"{family}_backward")
    backward = replace(backward, forward_products=q + v)
    swap = swap_heads(builder, context, share, dims)
    ring = pass_keys_around(builder, context, share, dims)
    builder.step(
        "fused_core",
        [*swap.before, forward, *ring.after, *swap.after],
        [*swap.before_gradient, backward, *ring.after_gradient, *swap.after_gradient],
    )
    statistics = sequences * share.heads * share.rows * ELEMENT_BYTES["fp32"]
    builder.save("softmax statistics", "fused_core", statistics)


def _add_unfused(builder: WorkBuilder, context: Context, mixer: Attention, share: CoreShare, *, dropout: bool) -> None:
    """Add a core whose scores go through memory: two batched products around a softmax, all S*T pairs.

    Bytes a pair: scale with mask and softmax, each e in and e out, 4*e; the gradient of each the same. As one kernel
    they read what the mask leaves, a share c of the pairs, and write all: (1 + c)*e, their gradient (1 + 2*c)*e [NVIDIA
    Megatron-LM, fused_kernels/scaled_upper_triang_masked_softmax.h]. Dropout adds 2*e + 1 each way.
    Saved: softmax result, and with dropout its mask and result (5 bytes a pair with two-byte formats).
    """
    element, dtype = context.residual, context.precision.attention
    rows, keys, batch = share.rows, context.keys, context.sequences * share.heads
    swap = swap_heads(builder, context, share, (mixer.head_dim, mixer.v_head_dim))
    scores = batch * rows * keys
    dropped = 2 * element + 1.0 if dropout else 0.0
    if context.framework.masks_softmax:
        left = share.pairs / (rows * keys)
        passes, gradient_passes = (1 + left) * element + dropped, (1 + 2 * left) * element + dropped
    else:
        passes = gradient_passes = 4 * element + dropped

    def product(name: str, n: Count, k: Count) -> Gemm:
        return Gemm(name, rows, n, k, dtype, element, element, element, batch, family="bmm")

    builder.step(
        "attention_core",
        [
            *swap.before,
            product("attention scores", keys, mixer.head_dim),
            Elementwise("softmax", scores * passes, kind="softmax"),
            product("attention values", mixer.v_head_dim, keys),
            *swap.after,
        ],
        [
            *swap.before_gradient,
            product("attention values gradient", keys, mixer.v_head_dim),
            Gemm("value gradient", keys, mixer.v_head_dim, rows, dtype, element, element, element, batch, family="bmm"),
            Elementwise("softmax gradient", scores * gradient_passes, kind="softmax"),
            product("query gradient", mixer.head_dim, keys),
            Gemm("key gradient", keys, mixer.head_dim, rows, dtype, element, element, element, batch, family="bmm"),
            *swap.after_gradient,
        ],
    )
    builder.save("softmax", "attention_core", scores * element)
    if dropout:
        builder.save("attention dropout", "attention_core", scores * (element + 1.0))


def add_mla(builder: WorkBuilder, context: Context, mixer: Mla, *, norm: str) -> None:
    """Add multi-head latent attention: expanded in training and prefill, absorbed in decoding.

    Parameters: d*(c_q + c + r) + c_q*H*(n + r) + c*H*(n + v) + H*v*d, with a norm on each latent.
    """
    hidden, tp, tokens = context.architecture.hidden, context.parallel.tp, context.tokens
    query_latent = 0.0 if mixer.q_lora is None else mixer.q_lora
    direct_query = mixer.heads * (mixer.nope_dim + mixer.rope_dim) if mixer.q_lora is None else 0.0
    latent = query_latent + mixer.kv_lora + mixer.rope_dim
    add_linear(
        builder,
        context,
        Linear(
            "latent projection",
            "mla_down",
            "norm",
            tokens,
            hidden,
            latent,
            hidden * latent,
            gathered=True,
            replicas=tp,
        ),
    )
    if mixer.q_lora is None:
        add_linear(
            builder,
            context,
            Linear(
                "query projection",
                "mla_down",
                "norm",
                tokens,
                hidden,
                direct_query / tp,
                hidden * direct_query,
                cast=False,
                kept=0.0,
            ),
        )
    else:
        add_norm(builder, context, "query latent norm", norm, tokens, mixer.q_lora)
        outputs = mixer.heads * (mixer.nope_dim + mixer.rope_dim)
        add_linear(
            builder,
            context,
            Linear(
                "query up",
                "mla_up",
                "norm",
                tokens,
                mixer.q_lora,
                outputs / tp,
                mixer.q_lora * outputs,
            ),
        )
    add_norm(builder, context, "key-value latent norm", norm, tokens, mixer.kv_lora)
    if context.phase == "decode":
        _add_absorbed(builder, context, mixer)
    else:
        _add_expanded(builder, context, mixer)
    inner = mixer.heads * mixer.v_head_dim
    _add_output(builder, context, inner)


def _add_expanded(builder: WorkBuilder, context: Context, mixer: Mla) -> None:
    """Add keys and values of every head from the latent, rotary with key assembly, and the fused core.

    Latents of earlier tokens are expanded as well: the cache holds nothing else of them.
    """
    heads, tokens, element = mixer.heads / context.parallel.tp, context.tokens, context.residual
    cached = context.sequences * (context.keys / context.parallel.cp)
    outputs = mixer.heads * (mixer.nope_dim + mixer.v_head_dim)
    add_linear(
        builder,
        context,
        Linear(
            "key-value up",
            "mla_up",
            "norm",
            cached,
            mixer.kv_lora,
            outputs / context.parallel.tp,
            mixer.kv_lora * outputs,
        ),
    )
    key = mixer.nope_dim + mixer.rope_dim
    # The rotated part of q in place; k from its latent part and the one rotated part that all heads share.
    keys_made = cached * (heads * mixer.nope_dim + mixer.rope_dim + heads * key)
    assembled = element * (tokens * 2 * heads * mixer.rope_dim + keys_made)
    builder.step(
        "mla_up",
        [Elementwise("rotary", assembled, kind="rotary", rows=tokens)],
        [Elementwise("rotary gradient", assembled, rows=tokens)],
    )
    _add_cache_write(builder, context, mixer)
    gather_keys(builder, context, heads * (key + mixer.v_head_dim))
    builder.save("query, key, value", "mla_up", tokens * heads * (2 * key + mixer.v_head_dim) * element)
    pairs = context.pairs(Pattern(), causal=mixer.causal)
    _add_fused(builder, context, (key, mixer.v_head_dim), heads, heads, pairs, "mla")


def _add_absorbed(builder: WorkBuilder, context: Context, mixer: Mla) -> None:
    """Add decoding in the latent space: W_uk folded into the query, W_uv into the output.

    Core: 2*(c + r) + 2*c FLOP a pair; every head reads the same c + r cached elements, whatever tp is.
    """
    heads, tokens, dtype = mixer.heads / context.parallel.tp, context.tokens, context.precision.attention
    element, width = ELEMENT_BYTES[dtype], mixer.kv_lora + mixer.rope_dim
    total = mixer.kv_lora * mixer.heads * (mixer.nope_dim + mixer.v_head_dim)
    builder.parameter(Parameters("key-value up", total, total / context.parallel.tp, total))

    def absorb(name: str, n: Count, k: Count) -> Gemm:
        return Gemm(name, tokens, n, k, dtype, element, element, element, heads, family="bmm")

    builder.step("mla_up", [absorb("query absorption", mixer.kv_lora, mixer.nope_dim)])
    rotated = 2 * tokens * (heads + 1.0) * mixer.rope_dim * context.residual
    builder.step("rotary", [Elementwise("rotary", rotated, kind="rotary", rows=tokens)])
    _add_cache_write(builder, context, mixer)
    keys = context.kept_keys(Pattern())
    cache = context.sequences * keys * width * context.precision.cached_element
    streamed = cache + context.sequences * context.length * heads * (width + mixer.kv_lora) * element
    builder.step(
        "attention_core",
        [
            AttentionCore(
                "attention core",
                context.sequences,
                heads,
                context.length,
                context.pairs(Pattern(), causal=mixer.causal),
                width + mixer.kv_lora,
                dtype,
                streamed,
                "mla_decode",
                keys=keys,
                cached=width * ELEMENT_BYTES[context.precision.kv_cache],
                narrow_cache=_is_narrow(context),
            )
        ],
    )
    _merge_partial_results(builder, context, heads * width, heads * mixer.kv_lora)
    builder.step("mla_up", [absorb("value absorption", mixer.v_head_dim, mixer.kv_lora)])


def _add_cache_write(builder: WorkBuilder, context: Context, mixer: Mla) -> None:
    """Add the write of the new tokens' latents to the cache (inference)."""
    if context.phase != "training":
        written = context.tokens * (mixer.kv_lora + mixer.rope_dim)
        passes = context.residual + context.precision.cached_element
        builder.step(
            "kv_write", [Elementwise("kv cache write", written * passes, kind="cache_write", rows=context.tokens)]
        )


def _merge_partial_results(builder: WorkBuilder, context: Context, query: Count, result: Count) -> None:
    """Add what decoding exchanges over the context-parallel group: queries to all, partial results back.

    Each rank attends to its share of every sequence's keys; query, result: elements of one token.
    """
    element = context.sequences * context.length * context.residual
    builder.step(
        "attention_core",
        [
            Collective("query gather", "all_gather", query * element, context.cp_group),
            Collective("partial result scatter", "reduce_scatter", result * element, context.cp_group),
        ],
    )


def _add_output(
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
            held=1.0 / active,
            kept=None if stated is None else ELEMENT_BYTES[stated],
            bias=bias,
        ),
    )
