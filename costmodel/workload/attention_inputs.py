"""What some forms of attention add around their kernels: keys of another sequence, convolutions, positions, layouts."""

from __future__ import annotations

from costmodel.quantities import Count, is_single
from costmodel.records import replace
from costmodel.workload.architecture import Attention, KvSource
from costmodel.workload.context import Context, per_rank
from costmodel.workload.linear import Linear, add_linear, batched_gemm
from costmodel.workload.operators import Elementwise
from costmodel.workload.work import Parameters, WorkBuilder


def key_context(context: Context, mixer: Attention) -> Context:
    """Return the context of the kernels, whose keys may be fewer than the tokens, or those of another sequence.

    Context-parallel ranks have that sequence whole, and exchange nothing of it with their prompts' own tokens.
    """
    source = mixer.kv_source
    if source is None:
        return context
    keys = replace(context, kv_len=mixer.keys_of(context.kv_len))
    if source.tokens is None or context.phase == "decode":
        return keys
    return replace(keys, new_tokens=context.q_len, parallel=replace(context.parallel, cp=1.0))


def add_source_projections(builder: WorkBuilder, context: Context, mixer: Attention, source: KvSource) -> Count:
    """Add the projection of queries, and that of keys and values of their own rows. Return these rows on this rank.

        query             tokens x d x (H*q + gate)
        key and value     B*keys x width x G*(q + v)

    Keys of another sequence are projected once, with the prompt: a decoding step finds them in the cache.
    """
    tp, hidden, tokens = context.parallel.tp, context.architecture.hidden, context.tokens
    gate = mixer.gate_width
    wide = mixer.q_heads * mixer.head_dim + gate
    add_linear(builder, context, Linear(
        "query projection", operator="qkv", producer="norm", rows=tokens, inputs=hidden,
        outputs=mixer.q_heads * mixer.query_share * mixer.head_dim + gate, split="columns", total=hidden * wide,
        stored_ratio=wide / (mixer.q_heads * mixer.query_share * mixer.head_dim + gate), gathered=True,
        bias=wide if mixer.bias else 0.0,
    ))  # fmt: skip
    rows = context.sequences * source.keys(context.q_len)
    own = mixer.kv_heads * (mixer.head_dim + mixer.v_head_dim)
    if context.phase == "decode" and source.tokens is not None:
        local = per_rank(mixer.kv_heads, tp) * (mixer.head_dim + mixer.v_head_dim)
        total = (hidden if source.width is None else source.width) * own
        builder.add_parameters(Parameters("key and value projection", total, total * local / own, total, linear=True))
        return 0.0
    add_linear(builder, context, Linear(
        "key and value projection", operator="qkv", producer="norm", rows=rows,
        inputs=hidden if source.width is None else source.width,
        outputs=per_rank(mixer.kv_heads, tp) * (mixer.head_dim + mixer.v_head_dim),
        total=(hidden if source.width is None else source.width) * own, bias=own if mixer.bias else 0.0,
    ))  # fmt: skip
    return rows


def add_convolutions(builder: WorkBuilder, context: Context, mixer: Attention, elements: Count) -> None:
    """Add depth-wise convolutions of queries, keys and values: each element is read and written once.

        bytes = 2 * elements * e,    FLOP = 2 * taps * elements,    parameters = taps * (H*q + G*(q + v))

    elements: of all three on this rank. [Primer, arXiv 2109.08668, multi-DConv-head attention; CvT, arXiv 2103.15808]
    """
    if is_single(mixer.conv_taps) and mixer.conv_taps == 0:
        return
    size, work = 2 * elements * context.residual, 2 * mixer.conv_taps * elements
    rows = context.sequences * elements / context.tokens
    forward = Elementwise("query, key, value convolution", size, calls=3.0, kind="conv", work=work, rows=rows)
    gradient = Elementwise("query, key, value convolution gradient", 2 * size, calls=3.0, work=2 * work)
    builder.step("qkv", [forward], [gradient])
    channels = mixer.q_heads * mixer.head_dim + mixer.kv_heads * mixer.projected_width
    total = mixer.conv_taps * channels
    builder.add_parameters(Parameters("query, key, value convolution", total, total / context.parallel.tp, total))


def add_positions(builder: WorkBuilder, context: Context, mixer: Attention) -> None:
    """Add the projection of relative positions, once for all sequences: d x H*q, and two biases of H*q.

    A pass over S tokens behind T - S earlier ones has T distances. [Transformer-XL, arXiv 1901.02860, section 3.3]
    """
    if mixer.score != "relative":
        return
    width = mixer.q_heads * mixer.head_dim
    add_linear(builder, context, Linear(
        "position projection", operator="qkv", producer="norm", rows=context.kv_len,
        inputs=context.architecture.hidden, outputs=width, split="columns", saved_element=0.0, bias=2.0 * width,
    ))  # fmt: skip


def add_score_terms(builder: WorkBuilder, context: Context, mixer: Attention, heads: Count) -> None:
    """Add what is added to materialised scores, for `heads` query heads of this rank.

    relative    a product of S x T x q a head, a shifted copy (2*e a pair) and the sum of both (3*e)
    phase       q/2 cosines a pair, counted as one FLOP each, in a pass that reads and writes scores (2*e)
    """
    if mixer.score == "dot":
        return
    q_len, kv_len, element = context.q_len, context.kv_len, context.residual
    batch = context.sequences * heads
    pairs = batch * q_len * kv_len
    if mixer.score == "phase":
        count = pairs * mixer.head_dim / 2
        cosines = Elementwise("score phases", 2 * pairs * element, work=count, special=count)
        gradient = replace(cosines, name="score phases gradient", work=2 * count, special=2 * count)
        builder.step("attention_core", [cosines], [gradient])
        return
    dtype = context.precision.attention
    product = batched_gemm("position scores", (q_len, kv_len, mixer.head_dim), batch, dtype, element)
    gradients = [
        batched_gemm("position score query gradient", (q_len, mixer.head_dim, kv_len), batch, dtype, element),
        batched_gemm("position gradient", (kv_len, mixer.head_dim, q_len), batch, dtype, element),
    ]
    shift = Elementwise("position shift", 2 * pairs * element, kind="permute")
    total = Elementwise("score sum", 3 * pairs * element, kind="add")
    builder.step(
        "attention_core", [product, shift, total], [replace(shift, name="position shift gradient"), *gradients]
    )


def add_channel_join(builder: WorkBuilder, context: Context, mixer: Attention) -> None:
    """Add the copy that joins attended channels with the others, and the activation before the output projection.

    Each reads and writes all channels: 2*d*e a token. [SHViT, arXiv 2401.16456, figure 4: cat, then the projection]
    """
    hidden = context.architecture.hidden
    if mixer.partial is not None:
        size = 2 * context.tokens * hidden * context.residual
        join = Elementwise("channel join", size, kind="permute", rows=context.tokens)
        builder.step("attention_core", [join], [replace(join, name="channel split gradient")])
    if mixer.output_activation:
        inner = hidden if mixer.partial is not None else mixer.q_heads * mixer.v_head_dim
        size = 2 * context.tokens * inner / context.parallel.tp * context.residual
        forward = Elementwise("output activation", size, kind="activation", rows=context.tokens)
        builder.elementwise("attention_core", forward, 1.5 * size)
        builder.save("output activation input", "attention_core", size / 2)
