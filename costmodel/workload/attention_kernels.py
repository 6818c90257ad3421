"""What attention in all its forms shares: fused and unfused kernels, the cache write, partial results, the output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from costmodel.quantities import Count, Quantity, is_single
from costmodel.records import Record, replace
from costmodel.workload.architecture import Attention, HeadGroup, Indexer, Pattern
from costmodel.workload.context import Context
from costmodel.workload.context_parallel import AttentionShard, attention_shard, ring_exchange, ulysses_exchange
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import Linear, add_linear, batched_gemm
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise, Gemm, Operator
from costmodel.workload.work import Parameters, WorkBuilder


class HeadSizes(Record):
    """The heads of one kernel on a rank, before context parallelism. dims: width of a query or key, and of a value."""

    heads: Count
    kv_heads: Count
    dims: tuple[Count, Count]


class FusedAttention(Record):
    """A fused attention kernel.

    family: `attention` or `mla`.
    pairs: (query, key) pairs of one head and sequence on this rank.
    last_query_kv_len: keys of the last query (null: all).
    relative_speed: over the device's fused kernel at equal pairs.
    """

    family: str
    pairs: Count
    name: str = "attention core"
    last_query_kv_len: Count | None = None
    relative_speed: Quantity = 1.0


def named_groups(groups: Sequence[HeadGroup]) -> Iterator[tuple[str, HeadGroup]]:
    """Yield each head group with the name of its kernel: its pattern, numbered where a pattern recurs."""
    kinds = [group.pattern.kind for group in groups]
    for i, (kind, group) in enumerate(zip(kinds, groups, strict=True)):
        earlier = kinds[:i].count(kind)
        label = f"{kind} {earlier + 1}" if earlier else kind
        yield "attention core" if len(kinds) == 1 else f"attention core ({label})", group


def add_fused_attention(builder: WorkBuilder, context: Context, sizes: HeadSizes, kernel: FusedAttention) -> None:
    """Add a fused attention kernel. Forward 2*P*(q + v) FLOP per head. Backward recomputes the scores: 2*P*(3*q + 2*v).

    It saves no scores, so selective recomputation (`attention_core`) has nothing to drop here.
    """
    q, v = sizes.dims
    sequences, element = context.sequences, context.residual
    shard = attention_shard(context, sizes.heads, sizes.kv_heads, kernel.pairs)
    # Every call reads its queries and writes its results; all calls together read keys and values once.
    q_and_o = shard.heads * shard.q_len * (q + v) * shard.calls
    traffic = sequences * (q_and_o + shard.kv_heads * context.kv_len * (q + v)) * element
    forward = AttentionKernel(
        kernel.name, sequences=sequences, heads=shard.heads, q_len=shard.q_len, qk_pairs=shard.qk_pairs,
        macs_per_pair=q + v, dtype=context.precision.attention, traffic=traffic, family=f"{kernel.family}_prefill",
        calls=shard.calls, kv_heads=shard.kv_heads, kv_len=context.kv_len, kv_token_bytes=(q + v) * element,
        last_query_kv_len=kernel.last_query_kv_len, relative_speed=kernel.relative_speed,
    )  # fmt: skip
    # q, o, do in and dq out; k, v in and dk, dv out
    backward = replace(
        forward, name=f"{kernel.name} gradient", macs_per_pair=3 * q + 2 * v, traffic=2 * traffic,
        family=f"{kernel.family}_backward", forward_macs_per_pair=q + v,
    )  # fmt: skip
    ulysses = ulysses_exchange(builder, context, shard, sizes.dims)
    ring = ring_exchange(builder, context, shard, sizes.dims)
    builder.step(
        "fused_core",
        [*ulysses.before, forward, *ring.after, *ulysses.after],
        [*ulysses.before_gradient, backward, *ring.after_gradient, *ulysses.after_gradient],
    )
    builder.save("softmax statistics", "fused_core", sequences * shard.heads * shard.q_len * ELEMENT_BYTES["fp32"])


def add_unfused_attention(
    builder: WorkBuilder, context: Context, mixer: Attention, shard: AttentionShard, *, dropout: bool
) -> None:
    """Add attention with its scores in device memory: two batched GEMMs around a softmax, over all S*T pairs.

    A framework that holds scores in another format converts them behind the first product and before the second one,
    e in and f out, or the reverse.
    Saved: softmax result, and with dropout its mask and result (5 bytes per pair with two-byte formats).
    """
    element, (q, v) = context.residual, (mixer.head_dim, mixer.v_head_dim)
    q_len, kv_len, batch = shard.q_len, context.kv_len, context.sequences * shard.heads
    exchange = ulysses_exchange(builder, context, shard, (q, v))
    softmax, softmax_gradient = _softmax(context, shard, batch, dropout=dropout)
    permuted: list[Operator] = []
    scaled: list[Operator] = []
    converted: list[Operator] = []
    if context.framework.scores is not None:
        size = batch * q_len * kv_len * (element + ELEMENT_BYTES[context.framework.scores])
        converted.append(Elementwise("score conversion", size, kind="copy"))
    if context.framework.fused_masked_softmax:
        results, inputs = 2 * batch * q_len * v, 2 * batch * (q_len + kv_len) * q
        permuted.append(Elementwise("attention result copy", results * element, kind="permute"))
        scaled.append(Elementwise("query and key gradient scale", inputs * element, calls=2.0))

    def gemm(name: str, m: Count, n: Count, k: Count) -> Gemm:
        return batched_gemm(name, (m, n, k), batch, context.precision.attention, element)

    builder.step(
        "attention_core",
        [
            *exchange.before,
            gemm("attention scores", q_len, kv_len, q),
            *converted,
            softmax,
            *converted,
            gemm("attention values", q_len, v, kv_len),
            *permuted,
            *exchange.after,
        ],
        [
            *exchange.before_gradient,
            gemm("attention values gradient", q_len, kv_len, v),
            gemm("value gradient", kv_len, v, q_len),
            softmax_gradient,
            gemm("query gradient", q_len, q, kv_len),
            gemm("key gradient", kv_len, q, q_len),
            *scaled,
            *exchange.after_gradient,
        ],
    )
    scores = batch * q_len * kv_len
    builder.save("softmax", "attention_core", scores * element)
    if dropout:
        builder.save("attention dropout", "attention_core", scores * (element + 1.0))


def _softmax(
    context: Context, shard: AttentionShard, batch: Count, *, dropout: bool
) -> tuple[Elementwise, Elementwise]:
    """Return scale, mask and softmax of scores in device memory, and their gradient.

    Bytes per pair: scale with mask, and softmax, each e in and e out: 4*e. The gradient the same. A fused kernel reads
    the unmasked pairs, a share c, and writes all: (1 + c)*e, its gradient (1 + 2*c)*e [NVIDIA Megatron-LM,
    fused_kernels/scaled_upper_triang_masked_softmax.h]. Dropout adds 2*e + 1 each way, there in a kernel of its own.
    That framework also copies the result into the order of the next GEMM, 2*e per element, and scales the gradients of
    queries and keys in two kernels, 2*e each [NVIDIA Megatron-LM, model/transformer.py, CoreAttention: permute and
    contiguous, baddbmm with alpha].
    """
    element, kernels = context.residual, 1.0
    dropout_bytes = 2 * element + 1.0 if dropout else 0.0
    forward = backward = 4 * element + dropout_bytes
    if context.framework.fused_masked_softmax:
        unmasked = shard.qk_pairs / (shard.q_len * context.kv_len)
        forward, backward = (1 + unmasked) * element + dropout_bytes, (1 + 2 * unmasked) * element + dropout_bytes
        kernels = 2.0 if dropout else 1.0
    scores = batch * shard.q_len * context.kv_len
    return (
        Elementwise("softmax", scores * forward, kind="softmax", calls=kernels),
        Elementwise("softmax gradient", scores * backward, kind="softmax", calls=kernels),
    )


def add_cache_write(builder: WorkBuilder, context: Context, width: Count, cached_tokens: Count) -> None:
    """Add the write of the new tokens to the cache (inference). A `concat` cache is copied whole in a decoding step.

        written   tokens * width * (e + e_kv)
        copied    2 * B * cached_tokens * width * e_kv

    width: cached elements per token on this rank.
    cached_tokens: of a sequence before the step. Keys and values are a kernel each. [transformers, cache_utils.py,
    DynamicCache.update: torch.cat].
    """
    element = context.precision.kv_element
    if context.phase == "training":
        return
    if context.phase == "decode" and context.framework.kv_layout == "concat":
        copied = 2 * context.sequences * cached_tokens * width * element / context.parallel.cp
        builder.step("kv_write", [Elementwise("kv cache concatenation", copied, calls=2.0)])
    written = context.tokens * width * (context.residual + element)
    builder.step("kv_write", [Elementwise("kv cache write", written, kind="cache_write", rows=context.tokens)])


def has_quantized_kv(context: Context) -> bool:
    """Tell whether the cache has a narrower format than the attention GEMMs."""
    return ELEMENT_BYTES[context.precision.kv_cache] < ELEMENT_BYTES[context.precision.attention]


def merge_partial_results(builder: WorkBuilder, context: Context, query: Count, result: Count) -> None:
    """Add what decoding exchanges over the context-parallel group: queries to all, partial results back.

    Each rank attends to its share of every sequence's keys. query, result: elements per token.
    """
    element = context.sequences * context.new_tokens * context.residual
    builder.step(
        "attention_core",
        [
            Collective("query gather", "all_gather", query * element, context.cp_group),
            Collective("partial result scatter", "reduce_scatter", result * element, context.cp_group),
        ],
    )


def add_output_gate(builder: WorkBuilder, context: Context, outputs: Count) -> None:
    """Add a sigmoid gate on the result: a d x H*v projection of the layer's input, and the product with the result.

    [Qiu et al., Gated Attention, arXiv 2505.06708]
    """
    add_linear(builder, context, Linear(
        "output gate", operator="qkv", producer="norm", rows=context.tokens, inputs=context.architecture.hidden,
        outputs=outputs, split="columns", cast_input=False, saved_element=0.0,
    ))  # fmt: skip
    add_gate_product(builder, context, context.tokens * outputs / context.parallel.tp, gate_share=1.0)


def add_gate_product(builder: WorkBuilder, context: Context, elements: Count, gate_share: Quantity) -> None:
    """Add the product of a result with the sigmoid of its gate: it reads both and writes one.

    elements: of the result on this rank.
    gate_share: numbers of the gate over those of the result.
    """
    size = (2.0 + gate_share) * elements * context.residual
    gradient = Elementwise("output gating gradient", (3.0 + 2.0 * gate_share) * elements * context.residual)
    builder.step("attention_core", [Elementwise("output gating", size, kind="activation")], [gradient])
    builder.save("output gate", "attention_core", gate_share * elements * context.residual)


def add_output_projection(
    builder: WorkBuilder, context: Context, inputs: Count, bias: Count = 0.0, active_share: Quantity = 1.0
) -> None:
    """Add the output projection, `inputs` x hidden, of which the GEMM computes the `active_share` of the inputs.

    Its input is the attention output, which the precision may save in a format of its own.
    """
    saved = context.precision.attention_output
    add_linear(builder, context.part("attention_output"), Linear(
        "output projection", operator="output_projection", producer="attention_output", rows=context.tokens,
        inputs=active_share * inputs / context.parallel.tp, outputs=context.architecture.hidden,
        total=inputs * context.architecture.hidden, stored_ratio=1.0 / active_share,
        saved_element=None if saved is None else ELEMENT_BYTES[saved], bias=bias,
    ))  # fmt: skip


# ---- Selection of keys by an indexer: small heads score every earlier key, and a query attends to the best of them.

SCORE_BYTES = ELEMENT_BYTES["fp32"]
INDEX_BYTES = 4.0  # one int32 per selected key


def add_indexer(builder: WorkBuilder, context: Context, indexer: Indexer, *, query_inputs: Count, ratio: Count) -> None:
    """Add projections of an indexer, its scores, and the selection, nothing where the layer reuses a selection.

    Parameters: query_inputs*H_i*d_i + d*d_i, d*H_i of the heads' weights, and a norm of keys with 2*d_i. Every rank of
    a tensor-parallel group has them whole and repeats the work [vllm-project/vllm, deepseek_v2.py: ReplicatedLinear].
    query_inputs: width from which queries are projected, the residual stream's or a query latent's.
    ratio: tokens per scored key. With pooled keys (> 1) the caller projects these.
    """
    if indexer.reused:
        return
    _add_projections(builder, context, indexer, query_inputs, ratio)
    keys = context.kv_len / ratio
    pairs = context.pairs(Pattern(), causal=True) / ratio
    score, gradient = _scores(context, indexer, pairs, keys)
    builder.step("attention_core", [score], [gradient] if context.phase == "training" else [])
    selected = context.tokens * indexer.top_k / indexer.block
    size = context.sequences * pairs * SCORE_BYTES + selected * INDEX_BYTES
    builder.step("attention_core", [Elementwise("key selection", size, kind="topk_select", rows=context.tokens)])


def _add_projections(
    builder: WorkBuilder, context: Context, indexer: Indexer, query_inputs: Count, ratio: Count
) -> None:
    """Add the projections of queries, from latents or the residual stream, of keys, and of the heads' weights."""
    hidden, tokens, tp = context.architecture.hidden, context.tokens, context.parallel.tp
    projects_keys = is_single(ratio) and ratio == 1.0
    add_linear(builder, context, Linear(
        "indexer query", operator="indexer", producer="norm", rows=tokens, inputs=query_inputs,
        outputs=indexer.heads * indexer.head_dim, cast_input=False, saved_element=0.0, replicas=tp,
    ))  # fmt: skip
    keys = indexer.head_dim if projects_keys else 0.0
    outputs = keys + (indexer.heads if indexer.weighted else 0.0)
    if not (is_single(outputs) and outputs == 0.0):
        add_linear(builder, context, Linear(
            "indexer keys and weights", operator="indexer", producer="norm", rows=tokens, inputs=hidden,
            outputs=outputs, cast_input=False, saved_element=0.0, replicas=tp, dtype=context.precision.attention,
        ))  # fmt: skip
    if projects_keys:
        builder.add_parameters(Parameters.replicated("indexer key norm", 2.0 * indexer.head_dim))
    size = 2 * tokens * (indexer.heads + 1.0) * indexer.head_dim * context.residual
    builder.step("qkv", [Elementwise("indexer rotary", size, kind="rotary", rows=tokens)])
    if context.phase != "training":
        written = tokens / ratio * indexer.key_bytes(context.precision.kv_element)
        builder.step("kv_write", [Elementwise("indexer cache write", written, kind="cache_write", rows=tokens)])


def _scores(context: Context, indexer: Indexer, pairs: Count, keys: Count) -> tuple[AttentionKernel, AttentionKernel]:
    """Return the kernel of the scores, and its gradient: one key head, of which every query head is a row.

        I(t, s) = sum over heads of w(t, h) * relu(q(t, h) . k(s))          2*H_i*d_i FLOP a pair; one FP32 score a pair

    pairs: (query, key) pairs of a sequence.
    keys: of a sequence.
    """
    dtype = context.precision.linear if context.precision.linear == "fp8" else context.precision.attention
    queries = context.sequences * context.q_len * indexer.heads * indexer.head_dim * ELEMENT_BYTES[dtype]
    cache = context.sequences * keys / context.parallel.cp * indexer.key_bytes(context.precision.kv_element)
    traffic = queries + cache + context.sequences * pairs * SCORE_BYTES
    kernel = AttentionKernel(
        "indexer scores", sequences=context.sequences, heads=1.0, q_len=indexer.heads * context.q_len,
        qk_pairs=indexer.heads * pairs, macs_per_pair=indexer.head_dim, dtype=dtype, traffic=traffic,
        family="paged_mqa_logits" if context.phase == "decode" else "mqa_logits", kv_len=keys,
        kv_token_bytes=indexer.key_bytes(context.precision.kv_element), replicas=context.parallel.tp,
    )  # fmt: skip
    gradient = AttentionKernel(
        "indexer scores gradient", sequences=context.sequences, heads=1.0, q_len=indexer.heads * context.q_len,
        qk_pairs=indexer.heads * pairs, macs_per_pair=2.0 * indexer.head_dim, dtype=context.precision.attention,
        traffic=2.0 * traffic, family="mqa_logits_backward", kv_len=keys, replicas=context.parallel.tp,
    )  # fmt: skip
    return kernel, gradient
