"""Multi-head attention with grouped keys: projections, head groups with a pattern each, their kernels."""

from __future__ import annotations

from costmodel.quantities import Count, Quantity, is_single, maximum
from costmodel.records import Record, replace
from costmodel.workload import attention_kernels as kernels
from costmodel.workload.architecture import Attention, HeadGroup, HeadRoute, Pattern
from costmodel.workload.attention_inputs import (
    add_channel_join,
    add_convolutions,
    add_positions,
    add_score_terms,
    add_source_projections,
    key_context,
)
from costmodel.workload.context import Context, per_rank
from costmodel.workload.context_parallel import attention_shard, gather_kv, kv_replicas
from costmodel.workload.denoising import runs_eager_denoising
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import Linear, add_linear, add_transposition
from costmodel.workload.norms import norm_vectors
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, HostTransfer
from costmodel.workload.work import Parameters, WorkBuilder


def add_attention(builder: WorkBuilder, context: Context, mixer: Attention, *, norm: str, dropout: bool) -> None:
    """Add grouped-query attention: fused QKV, norm and rotary of queries and keys, kernels, output projection.

    Parameters: d*(H*q + G*q + G*v) + H*v*d, without what is shared or borrowed of keys and values; d*H or d*H*v of a
    gate, H of sinks. Kernel: 2*P*(q + v) FLOP per head and sequence, one kernel per head group. Where routing skips
    heads, the active share applies to query and output projections and kernels. Keys and values exist for all heads,
    unless heads choose their tokens, and queries where a router looks at their norms. norm: kind of query-key norm.
    """
    tp = context.parallel.tp
    heads = mixer.q_heads / tp
    kv_heads = per_rank(mixer.kv_heads, tp)
    rows, query = _add_qkv(builder, context, mixer)
    keys = key_context(context, mixer)
    if mixer.route is not None and mixer.route.router == "linear":
        _add_head_router(builder, context, mixer.route)
    if mixer.indexer is not None:
        kernels.add_indexer(builder, context, mixer.indexer, query_inputs=context.architecture.hidden, ratio=1.0)
    own_heads = 0.0 if mixer.borrowed_kv else kv_heads
    if mixer.qk_norm is not None:
        _add_qk_norm(builder, context, mixer, (heads, own_heads), norm)
    if mixer.rotary:
        _add_rotary(builder, context, mixer, heads + own_heads)
    add_positions(builder, context, mixer)
    kv = mixer.kv_share * own_heads * (mixer.head_dim + mixer.v_head_dim)
    add_convolutions(builder, context, mixer, context.tokens * query + rows * kv)
    cached = context.phase == "decode" and mixer.kv_source is not None and mixer.kv_source.tokens is not None
    if mixer.has_kv_cache and not cached:
        written = replace(context, new_tokens=mixer.keys_of(context.new_tokens)) if mixer.kv_source else context
        kernels.add_cache_write(builder, written, kv, mixer.cached_tokens(context.kv_len - context.new_tokens))
    if context.phase == "decode":
        kernels.merge_partial_results(builder, context, query, heads * mixer.v_head_dim)
    else:
        gather_kv(builder, replace(keys, kv_len=mixer.held_keys(keys.kv_len)), kv)
    replicas = kv_replicas(context, kv_heads)
    builder.save("query, key, value", "qkv", (context.tokens * query + rows * kv * replicas) * context.residual)
    if mixer.kv_source is None:
        _add_foreign_keys(builder, context, mixer, kv, replicas)
    for name, group in kernels.named_groups(mixer.launched_groups):
        _add_group(builder, keys, mixer, _Heads(group, name), dropout=dropout)
    _add_result(builder, context, mixer, heads)


def _add_qkv(builder: WorkBuilder, context: Context, mixer: Attention) -> tuple[Count, Count]:
    """Add the projections. Return the rows of keys and values on this rank, and the elements of a token's queries."""
    tp, tokens = context.parallel.tp, context.tokens
    entering = context.architecture.hidden if mixer.partial is None else mixer.partial
    entering = entering if mixer.entering is None else mixer.entering
    heads = mixer.q_heads / tp
    query = heads * mixer.query_share * mixer.head_dim
    if mixer.kv_source is not None:
        return add_source_projections(builder, context, mixer, mixer.kv_source), query
    stored_kv = per_rank(mixer.kv_heads, tp) * mixer.projected_width + mixer.gate_width / tp
    kv = mixer.kv_share * stored_kv
    whole = mixer.q_heads * mixer.head_dim + mixer.kv_heads * mixer.projected_width + mixer.gate_width
    keys = kv * mixer.head_dim / (mixer.head_dim + mixer.v_head_dim)
    qkv = Linear(
        "qkv projection", operator="qkv", producer="norm", rows=tokens, inputs=entering, outputs=query + kv,
        total=entering * whole, stored_ratio=(heads * mixer.head_dim + stored_kv) / (query + kv), gathered=True,
        replicas=tp * (query + kv) / whole, bias=whole if mixer.bias else 0.0,
        parts=(("q", query / (query + kv)), ("k", keys / (query + kv)), ("v", (kv - keys) / (query + kv))),
    )  # fmt: skip
    if mixer.kernel.channels_first:
        elements = tokens * (entering + query + kv)
        add_transposition(builder, context, elements, operator="qkv")
    add_linear(builder, context, qkv)
    _add_split(builder, context, tokens * (query + kv), biased=mixer.bias)
    return tokens, query


def _add_result(builder: WorkBuilder, context: Context, mixer: Attention, heads: Count) -> None:
    """Add what follows the kernels: sinks' parameters, gate, channels that join, and the output projection."""
    hidden, tp, tokens = context.architecture.hidden, context.parallel.tp, context.tokens
    if mixer.sinks:
        builder.add_parameters(Parameters("attention sinks", mixer.q_heads, heads, mixer.q_heads))
    if mixer.output_gate is not None:
        result = heads * mixer.v_head_dim
        kernels.add_gate_product(builder, context, tokens * result, mixer.gate_width / tp / result)
    add_channel_join(builder, context, mixer)
    biased = mixer.bias if mixer.output_bias is None else mixer.output_bias
    inner = mixer.q_heads * mixer.v_head_dim + (0.0 if mixer.partial is None else hidden - mixer.partial)
    if mixer.kernel.channels_first:
        elements = tokens * (inner / tp + hidden)
        add_transposition(builder, context, elements, operator="output_projection")
    kernels.add_output_projection(
        builder, context, inner, bias=hidden if biased else 0.0, active_share=mixer.active_share
    )


def _add_foreign_keys(
    builder: WorkBuilder, context: Context, mixer: Attention, width: Count, replicas: Quantity
) -> None:
    """Add the key and value projection of tokens that are not the sequence's own: references, an encoder's states.

        rows = B * foreign keys / cp          the weights are those of the sequence's own keys

    A decoding step has them in its cache. width: elements of keys and values of a token; replicas: saved copies.
    """
    foreign = mixer.foreign_keys(context.kv_len)
    if context.phase == "decode" or mixer.borrowed_kv or (is_single(foreign) and foreign == 0):
        return
    rows = context.sequences * foreign / context.parallel.cp
    add_linear(builder, context, Linear(
        "foreign key projection", operator="qkv", producer="norm", rows=rows, inputs=context.architecture.hidden,
        outputs=width, gathered=True, tied=True, replicas=maximum(context.parallel.tp / mixer.kv_heads, 1.0),
    ))  # fmt: skip
    builder.save("foreign keys and values", "qkv", rows * width * replicas * context.residual)
    if context.phase != "training" and mixer.has_kv_cache:
        written = rows * width * (context.residual + context.precision.kv_element)
        builder.step("kv_write", [Elementwise("foreign kv cache write", written, kind="cache_write", rows=rows)])


def _add_split(builder: WorkBuilder, context: Context, elements: Count, *, biased: bool) -> None:
    """Add what unfused frameworks do with the QKV result in training.

    Its parts are views. Their gradients are concatenated, which reads and writes each once: 2*e per element [PyTorch,
    SplitBackward: at::cat]. Megatron-LM adds the bias of this GEMM in a kernel of its own, 2*e forward [NVIDIA
    Megatron-LM, core/tensor_parallel/layers.py, linear_with_grad_accumulation_and_async_allreduce: output + bias].
    """
    if context.phase != "training" or not context.framework.training.is_unfused:
        return
    size, rows = 2 * elements * context.residual, context.tokens
    adds_bias = biased and context.framework.fused_masked_softmax
    bias = [Elementwise("qkv projection bias addition", size, kind="add", rows=rows)] if adds_bias else []
    builder.step("qkv", bias, [Elementwise("query, key, value gradient join", size, rows=rows)])


def _add_rotary(builder: WorkBuilder, context: Context, mixer: Attention, heads: Count) -> None:
    """Add the rotation of queries and keys in place. heads: of both, on this rank.

    Programs that denoise rotate in FP32, and eagerly in 8 kernels: a half is negated (1 pass over 16-bit elements) and
    joined to the other (2), both tensors are widened (2 * 3), multiplied (2 * 4) and added (6), and the sum is narrowed
    (3) [huggingface/diffusers, models/embeddings.py, apply_rotary_emb].
    """
    width = mixer.head_dim if mixer.rotary_dim is None else mixer.rotary_dim
    eager = runs_eager_denoising(context)
    size = 2 * (context.tokens * heads * width * context.residual)
    whole = 13.0 * size if eager else size
    rotary = Elementwise(
        "rotary", whole, kind="add" if eager else "rotary", rows=context.tokens, calls=8.0 if eager else 1.0
    )
    builder.elementwise("qkv", rotary, size, rows=context.tokens)


def _add_head_router(builder: WorkBuilder, context: Context, route: HeadRoute) -> None:
    """Add the weights of heads: d x routed, d x shared, and d x 2 between the two [arXiv 2410.11842, equations 5-7]."""
    add_linear(builder, context, Linear(
        "head router", operator="router", producer="norm", rows=context.tokens, inputs=context.architecture.hidden,
        outputs=route.routed + route.shared + 2.0, cast_input=False, saved_element=0.0, replicas=context.parallel.tp,
    ))  # fmt: skip


def _add_qk_norm(
    builder: WorkBuilder, context: Context, mixer: Attention, heads: tuple[Count, Count], norm: str
) -> None:
    """Add the norms of queries and keys: one pass over both, recomputed with the projection as rotary is.

    Programs that denoise have RMS norms of PyTorch, which eagerly are seven kernels: widened to FP32 (3 passes over
    16-bit elements), squared (4), averaged (2), multiplied (4), narrowed (3), multiplied by the weight (2)
    [pytorch/pytorch, aten/src/ATen/native/layer_norm.cpp, rms_norm, before release 2.8].
    Parameters: 2*q where the heads share a vector, (H + G)*q over the whole projection. Of borrowed keys none. heads:
    of this rank.
    """
    width = (heads[0] + heads[1]) * mixer.head_dim
    size = context.tokens * width * context.residual
    if runs_eager_denoising(context) and not context.framework.fused_norms:
        forward = Elementwise("query-key norm", 18 * size, kind="add", calls=7.0)
    else:
        forward = Elementwise("query-key norm", 2 * size, kind="norm")
    builder.elementwise("qkv", forward, 3 * size)
    builder.save("query-key norm input", "qkv", size)
    if mixer.qk_norm == "plain":
        return
    shared = mixer.qk_norm == "head"
    normed = 1.0 if mixer.borrowed_kv else 2.0
    kv_heads = 0.0 if mixer.borrowed_kv else mixer.kv_heads
    total = normed * mixer.head_dim if shared else (mixer.q_heads + kv_heads) * mixer.head_dim
    local = normed * mixer.head_dim if shared else width
    vectors = norm_vectors(norm)
    builder.add_parameters(Parameters("query-key norm", vectors * total, vectors * local, vectors * total))


def add_joint_inputs(builder: WorkBuilder, context: Context, mixer: Attention, *, norm: str) -> None:
    """Add what one stream of tokens brings to joint attention: its projections, norms and rotations."""
    heads, kv_heads = mixer.q_heads / context.parallel.tp, per_rank(mixer.kv_heads, context.parallel.tp)
    rows, query = _add_qkv(builder, context, mixer)
    if mixer.qk_norm is not None:
        _add_qk_norm(builder, context, mixer, (heads, kv_heads), norm)
    if mixer.rotary:
        _add_rotary(builder, context, mixer, heads + kv_heads)
    width = query + kv_heads * (mixer.head_dim + mixer.v_head_dim)
    builder.save("query, key, value", "qkv", rows * width * context.residual)


def add_joint_core(builder: WorkBuilder, context: Context, mixer: Attention) -> None:
    """Add the kernels in which tokens of all streams attend to one another. context: of all tokens.

    Where operators are kernels of their own, queries, keys and values of the streams are joined first, and the result
    is copied into the order of tokens: 2*e each [huggingface/diffusers, models/attention_processor.py].
    """
    heads, kv_heads = mixer.q_heads / context.parallel.tp, per_rank(mixer.kv_heads, context.parallel.tp)
    kv = kv_heads * (mixer.head_dim + mixer.v_head_dim)
    if context.framework.training.is_unfused:
        size = 2 * context.tokens * (heads * (mixer.head_dim + mixer.v_head_dim) + kv) * context.residual
        join = Elementwise("stream join", size, calls=4.0, kind="permute", rows=context.tokens)
        builder.step("qkv", [join], [replace(join, name="stream join gradient")])
    gather_kv(builder, context, kv)
    for name, group in kernels.named_groups(mixer.launched_groups):
        _add_group(builder, context, mixer, _Heads(group, name), dropout=False)


def add_joint_result(builder: WorkBuilder, context: Context, mixer: Attention) -> None:
    """Add the output projection of one stream."""
    _add_result(builder, context, mixer, mixer.q_heads / context.parallel.tp)


class _Heads(Record):
    """The heads of one kernel: `share` of the query heads of a group, and the kernel's name."""

    group: HeadGroup
    name: str
    share: Quantity = 1.0

    def sizes(self, context: Context, mixer: Attention) -> kernels.HeadSizes:
        return kernels.HeadSizes(
            self.group.share * self.share * mixer.q_heads / context.parallel.tp,
            self.group.share * per_rank(mixer.kv_heads, context.parallel.tp),
            (mixer.head_dim, mixer.v_head_dim),
        )


def _add_group(builder: WorkBuilder, context: Context, mixer: Attention, heads: _Heads, *, dropout: bool) -> None:
    """Add the kernels of one head group: one, or two where some of its heads choose their tokens.

    Heads that choose their tokens see a sequence of these alone: t*S queries on t*T keys. Their inputs are gathered and
    their results scattered, hidden elements per head and token. Heads for all tokens are a kernel of their own.
    """
    for share, tokens in mixer.head_parts:
        part = replace(heads, share=share)
        if is_single(tokens) and tokens == 1:
            if len(mixer.head_parts) > 1:
                part = replace(part, name=f"{heads.name} (shared)")
            _add_kernel(builder, context, mixer, part, dropout=dropout)
            continue
        chosen = replace(context, new_tokens=context.new_tokens * tokens, kv_len=context.kv_len * tokens)
        width = heads.group.share * share * mixer.q_heads / context.parallel.tp * context.architecture.hidden
        size = 2 * chosen.tokens * width * context.residual
        builder.step("attention_core", [Elementwise("patch gather", size, kind="permute")])
        _add_kernel(builder, chosen, mixer, part, dropout=dropout)
        scatter = Elementwise("patch scatter", size, kind="permute")
        builder.step("attention_core", [scatter], [Elementwise("patch gradient", 2 * size)])


def _add_kernel(builder: WorkBuilder, context: Context, mixer: Attention, heads: _Heads, *, dropout: bool) -> None:
    sizes, kernel = heads.sizes(context, mixer), mixer.kernel
    pattern = Pattern() if kernel.realised == "masked" else heads.group.pattern
    pairs = context.pairs(pattern, causal=mixer.causal)
    _add_selection(builder, context, mixer, heads.group.pattern, sizes.heads)
    if context.phase != "decode":
        context = replace(context, kv_len=pattern.held_keys(context.kv_len))
    if context.phase == "decode":
        _add_decoding(builder, context, mixer, replace(heads, group=replace(heads.group, pattern=pattern)))
    elif context.framework.unfused_attention or kernel.materialised:
        shard = attention_shard(context, sizes.heads, sizes.kv_heads, pairs)
        add_score_terms(builder, context, mixer, shard.heads)
        kernels.add_unfused_attention(builder, context, mixer, shard, dropout=dropout)
    else:
        if kernel.permuted:
            _add_permutation(builder, context, sizes)
        fused = kernels.FusedAttention(
            "attention", pairs=pairs, name=heads.name, last_query_kv_len=pattern.last_query_keys(context.kv_len),
            relative_speed=kernel.rate,
        )  # fmt: skip
        kernels.add_fused_attention(builder, context, sizes, fused)
    if kernel.head_edit:
        size = 2 * context.tokens * sizes.heads * mixer.v_head_dim * context.residual
        edit = Elementwise("head edit", size, rows=context.tokens)
        builder.step("attention_core", [edit], [replace(edit, name="head edit gradient")])


def _add_permutation(builder: WorkBuilder, context: Context, sizes: kernels.HeadSizes) -> None:
    """Add the permutation of tokens into the order of a kernel's tiles and back: a pass for q, k, v and o each.

        bytes = 2*B*(H*q_len*(q + v) + G*kv_len*(q + v))*e          read and written

    The gradient permutes that of o in and those of q, k and v out. [NATTEN, docs/profiler.md]
    """
    rows = sizes.heads * context.q_len + sizes.kv_heads * context.kv_len
    size = 2 * context.sequences * rows * (sizes.dims[0] + sizes.dims[1]) * context.residual
    permutation = Elementwise("token permutation", size, calls=4.0, kind="permute")
    gradient = replace(permutation, name="token permutation gradient", kind="")
    builder.step("fused_core", [permutation], [gradient])


def _add_decoding(builder: WorkBuilder, context: Context, mixer: Attention, heads: _Heads) -> None:
    """Add the kernel of a decoding step.

    Unfused scores are written and read, and so is their softmax: 4*e per pair. Gathered keys are read, written and read
    again.
    """
    sizes, pattern, kernel = heads.sizes(context, mixer), heads.group.pattern, mixer.kernel
    keys, width = context.cached_keys(pattern), mixer.head_dim + mixer.v_head_dim
    cache = context.sequences * sizes.kv_heads * keys * width * context.precision.kv_element
    pairs = context.pairs(pattern, causal=mixer.causal)
    _add_fetch(builder, context, mixer, pattern, sizes.kv_heads)
    if kernel.realised == "gathered":
        builder.step("attention_core", [Elementwise("key gather", 2 * cache, kind="permute")])
    attention = AttentionKernel(
        heads.name, sequences=context.sequences, heads=sizes.heads, q_len=context.new_tokens, qk_pairs=pairs,
        macs_per_pair=width, dtype=context.precision.attention,
        traffic=cache + context.sequences * context.new_tokens * sizes.heads * width * context.residual,
        family="attention_decode", kv_heads=sizes.kv_heads, kv_len=keys,
        kv_token_bytes=width * ELEMENT_BYTES[context.precision.kv_cache],
        quantized_kv=kernels.has_quantized_kv(context), relative_speed=kernel.rate,
    )  # fmt: skip
    builder.step("attention_core", [attention])
    if kernel.materialised:
        scores = context.sequences * sizes.heads * pairs
        builder.step("attention_core", [Elementwise("score edit", 4 * scores * context.residual)])
        add_score_terms(builder, context, mixer, sizes.heads)


def _add_fetch(builder: WorkBuilder, context: Context, mixer: Attention, pattern: Pattern, kv_heads: Count) -> None:
    """Add the copy of the selected keys and values from the host. It follows their selection."""
    keys = pattern.fetched_keys(context.new_tokens, context.kv_len)
    if is_single(keys) and keys == 0:
        return
    width = mixer.head_dim + mixer.v_head_dim
    size = context.sequences * kv_heads * keys * width * context.precision.kv_element / context.parallel.cp
    builder.step("attention_core", [HostTransfer("chosen keys from the host", size, "in", context.parallel.devices)])


def _add_selection(builder: WorkBuilder, context: Context, mixer: Attention, pattern: Pattern, heads: Count) -> None:
    """Add the selection of a group's keys, if its pattern has any: GEMMs of queries with fewer or narrower keys.

    Its multiply-adds are those of a batched GEMM over the width of a head.
    """
    macs, keys = pattern.selection(context.new_tokens, context.kv_len, mixer.head_dim)
    if is_single(macs) and macs == 0:
        return
    element, columns = context.residual, macs / (context.new_tokens * mixer.head_dim)
    selection = Gemm(
        "key selection", m=context.q_len, n=columns, k=mixer.head_dim, dtype=context.precision.attention,
        a_bytes=element, b_bytes=element * keys / maximum(columns, 1.0), out_bytes=0.0,
        groups=context.sequences * heads, family="bmm",
    )  # fmt: skip
    builder.step("attention_core", [selection])
