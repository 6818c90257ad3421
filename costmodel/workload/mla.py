"""Multi-head latent attention: expanded in training and prefill, absorbed in decoding and where an indexer selects."""

from __future__ import annotations

from costmodel.quantities import Count, maximum, minimum
from costmodel.workload import attention_kernels as kernels
from costmodel.workload.architecture import CompressedAttention, HeadGroup, Mla, Pattern
from costmodel.workload.attention_kernels import add_cache_write, add_indexer, has_quantized_kv
from costmodel.workload.context import Context
from costmodel.workload.context_parallel import gather_kv
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import Linear, add_linear, batched_gemm
from costmodel.workload.norms import add_norm
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm
from costmodel.workload.patterns import Selected
from costmodel.workload.work import Parameters, WorkBuilder


def add_mla(builder: WorkBuilder, context: Context, mixer: Mla, *, norm: str) -> None:
    """Add multi-head latent attention: expanded in training and prefill, absorbed in decoding.

    Parameters: d*(c_q + c + r) + c_q*H*(n + r) + c*H*(n + v) + H*v*d, with a norm on each latent; d*H*v of a gate. With
    an indexer, inference is absorbed throughout: each query has keys of its own, which no expansion could share.
    """
    hidden, tokens = context.architecture.hidden, context.tokens
    queries = mixer.heads * (mixer.nope_dim + mixer.rope_dim)
    latent = (0.0 if mixer.q_lora is None else mixer.q_lora) + mixer.kv_lora + mixer.rope_dim
    add_linear(builder, context, Linear(
        "latent projection", operator="mla_down", producer="norm", rows=tokens, inputs=hidden, outputs=latent,
        gathered=True, replicas=context.parallel.tp,
    ))  # fmt: skip
    if mixer.q_lora is None:
        query = Linear(
            "query projection", operator="mla_down", producer="norm", rows=tokens, inputs=hidden, outputs=queries,
            split="columns", cast_input=False, saved_element=0.0,
        )  # fmt: skip
    else:
        add_norm(builder, context, "query latent norm", norm, tokens, mixer.q_lora)
        query = Linear(
            "query up", operator="mla_up", producer="norm", rows=tokens, inputs=mixer.q_lora, outputs=queries,
            split="columns",
        )  # fmt: skip
    add_linear(builder, context, query)
    add_norm(builder, context, "key-value latent norm", norm, tokens, mixer.kv_lora)
    if mixer.indexer is not None:
        latent = hidden if mixer.q_lora is None else mixer.q_lora
        kernels.add_indexer(builder, context, mixer.indexer, query_inputs=latent, ratio=1.0)
    if context.phase == "decode" or (mixer.indexer is not None and context.phase != "training"):
        _add_absorbed(builder, context, mixer)
    else:
        _add_expanded(builder, context, mixer)
    if mixer.output_gate:
        kernels.add_output_gate(builder, context, mixer.heads * mixer.v_head_dim)
    kernels.add_output_projection(builder, context, mixer.heads * mixer.v_head_dim)


def _add_expanded(builder: WorkBuilder, context: Context, mixer: Mla) -> None:
    """Add keys and values of every head from the latent, rotary with key assembly, and the fused kernel.

    Latents of earlier tokens are expanded too: the cache holds nothing else of them.
    """
    heads, tokens, element = mixer.heads / context.parallel.tp, context.tokens, context.residual
    cached = context.sequences * (context.kv_len / context.parallel.cp)
    add_linear(builder, context, Linear(
        "key-value up", operator="mla_up", producer="norm", rows=cached, inputs=mixer.kv_lora,
        outputs=mixer.heads * (mixer.nope_dim + mixer.v_head_dim), split="columns",
    ))  # fmt: skip
    key = mixer.nope_dim + mixer.rope_dim
    # The rotated part of q in place; k from its latent part and the rotated part that all heads share.
    assembled_keys = cached * (heads * mixer.nope_dim + mixer.rope_dim + heads * key)
    rotated = tokens * 2 * heads * mixer.rope_dim if mixer.rotary else 0.0
    rotary = element * (rotated + assembled_keys)
    builder.step(
        "mla_up",
        [Elementwise("rotary", rotary, kind="rotary", rows=tokens)],
        [Elementwise("rotary gradient", rotary, rows=tokens)],
    )
    kernels.add_cache_write(
        builder, context, mixer.kv_lora + mixer.rope_dim, mixer.cached_tokens(context.kv_len - context.new_tokens)
    )
    gather_kv(builder, context, heads * (key + mixer.v_head_dim))
    builder.save("query, key, value", "mla_up", tokens * heads * (2 * key + mixer.v_head_dim) * element)
    for name, group in kernels.named_groups(mixer.groups):
        pattern, own = group.pattern, group.share * heads
        kernel = kernels.FusedAttention(
            "mla", pairs=context.pairs(pattern, causal=mixer.causal), name=name,
            last_query_kv_len=None if pattern.kind == "full" else pattern.last_query_keys(context.kv_len),
        )  # fmt: skip
        kernels.add_fused_attention(builder, context, kernels.HeadSizes(own, own, (key, mixer.v_head_dim)), kernel)


def _add_absorbed(builder: WorkBuilder, context: Context, mixer: Mla) -> None:
    """Add attention in the latent space: W_uk is absorbed into the query, W_uv into the output.

    Kernel: 2*(c + r) + 2*c FLOP per pair. Every head of a group reads the same c + r cached elements, whatever tp is. A
    prompt's queries that select keys read each latent that they may select once.
    """
    heads, tokens, dtype = mixer.heads / context.parallel.tp, context.tokens, context.precision.attention
    element, width = ELEMENT_BYTES[dtype], mixer.kv_lora + mixer.rope_dim
    total = mixer.kv_lora * mixer.heads * (mixer.nope_dim + mixer.v_head_dim)
    builder.add_parameters(Parameters("key-value up", total, total / context.parallel.tp, total))

    def absorb(name: str, n: Count, k: Count) -> Gemm:
        return batched_gemm(name, (tokens, n, k), heads, dtype, element)

    builder.step("mla_up", [absorb("query absorption", mixer.kv_lora, mixer.nope_dim)])
    if mixer.rotary:
        rotary = 2 * tokens * (heads + 1.0) * mixer.rope_dim * context.residual
        builder.step("rotary", [Elementwise("rotary", rotary, kind="rotary", rows=tokens)])
    kernels.add_cache_write(builder, context, width, mixer.cached_tokens(context.kv_len - context.new_tokens))
    decodes = context.phase == "decode"
    if not decodes:
        gather_kv(builder, context, width)
    builder.step(
        "attention_core", [_latent_kernel(context, mixer, *named) for named in kernels.named_groups(mixer.groups)]
    )
    if decodes:
        kernels.merge_partial_results(builder, context, heads * width, heads * mixer.kv_lora)
    builder.step("mla_up", [absorb("value absorption", mixer.v_head_dim, mixer.kv_lora)])


def _latent_kernel(context: Context, mixer: Mla, name: str, group: HeadGroup) -> AttentionKernel:
    decodes, dtype = context.phase == "decode", context.precision.attention
    heads, width = group.share * mixer.heads / context.parallel.tp, mixer.kv_lora + mixer.rope_dim
    # A prompt's keys are gathered from the context-parallel ranks; a decoding step's stay where they are cached.
    keys = context.cached_keys(group.pattern) * (1.0 if decodes else context.parallel.cp)
    cache = context.sequences * keys * width * context.precision.kv_element
    q_len = context.new_tokens if decodes else context.q_len
    results = context.sequences * q_len * heads * (width + mixer.kv_lora) * ELEMENT_BYTES[dtype]
    return AttentionKernel(
        name, sequences=context.sequences, heads=heads, q_len=q_len,
        qk_pairs=context.pairs(group.pattern, causal=mixer.causal), macs_per_pair=width + mixer.kv_lora, dtype=dtype,
        traffic=cache + results,
        family=f"{'mla' if mixer.indexer is None else 'sparse_mla'}_{'decode' if decodes else 'prefill'}",
        kv_len=keys, kv_token_bytes=width * ELEMENT_BYTES[context.precision.kv_cache],
        quantized_kv=kernels.has_quantized_kv(context), selected=0.0 if mixer.indexer is None else mixer.indexer.top_k,
    )  # fmt: skip


# ---- Attention on near keys and pooled far ones: one shared key, which is its value too (DeepSeek-V4's CSA and HCA).


def add_compressed_attention(builder: WorkBuilder, context: Context, mixer: CompressedAttention, *, norm: str) -> None:
    """Add query latent, shared key, pooled entries, their selection, the kernel, and the grouped output projection.

    Parameters: d*(c_q + h) + c_q*H*h + H*h*o + g*o*d + H of sinks, with norms of query latent and key; d*P + ratio*P/2
    of position biases for pooled branches of P outputs in all, values and gates. Every rank has the shared key and the
    pooled entries whole.
    """
    hidden, tokens, tp = context.architecture.hidden, context.tokens, context.parallel.tp
    add_linear(builder, context, Linear(
        "latent projection", operator="mla_down", producer="norm", rows=tokens, inputs=hidden,
        outputs=mixer.q_lora + mixer.head_dim + mixer.pooling_width, gathered=True, replicas=tp,
    ))  # fmt: skip
    add_norm(builder, context, "query latent norm", norm, tokens, mixer.q_lora)
    add_norm(builder, context, "key norm", norm, tokens, mixer.head_dim)
    query = Linear(
        "query up", operator="mla_up", producer="norm", rows=tokens, inputs=mixer.q_lora,
        outputs=mixer.heads * mixer.head_dim, split="columns",
    )  # fmt: skip
    add_linear(builder, context, query)
    heads = mixer.heads / tp
    size = 2 * tokens * heads * mixer.head_dim * context.residual
    gradient = [Elementwise("query norm gradient", 1.5 * size)]
    builder.step("qkv", [Elementwise("query norm", size, kind="norm", rows=tokens)], gradient)
    _add_rotary(builder, context, mixer, heads + 1.0, "rotary")
    add_cache_write(builder, context, mixer.head_dim, minimum(context.kv_len - context.new_tokens, mixer.window))
    _add_pooling(builder, context, mixer)
    if mixer.indexer is not None and mixer.ratio is not None:
        add_indexer(builder, context, mixer.indexer, query_inputs=mixer.q_lora, ratio=mixer.ratio)
    _add_kernel(builder, context, mixer)
    _add_rotary(builder, context, mixer, heads, "result rotary")
    _add_grouped_output(builder, context, mixer)
    builder.add_parameters(Parameters("attention sinks", mixer.heads, heads, mixer.heads))


def _add_rotary(builder: WorkBuilder, context: Context, mixer: CompressedAttention, heads: Count, name: str) -> None:
    """Add the rotation of part of each head: of queries and key, and back of the result, whose values are rotated."""
    size = 2 * context.tokens * heads * mixer.rotary_dim * context.residual
    gradient = Elementwise(f"{name} gradient", size, rows=context.tokens)
    builder.step("qkv", [Elementwise(name, size, kind="rotary", rows=context.tokens)], [gradient])


def _add_pooling(builder: WorkBuilder, context: Context, mixer: CompressedAttention) -> None:
    """Add the pooling of tokens into entries: a softmax of the gates weighs the values of `pools * ratio` tokens.

    It reads values and gates of the new tokens, and in decoding those that wait, in FP32. It writes an entry for each
    `ratio` tokens. Parameters: a bias per place and channel of the gates, and a norm of the entries.
    """
    if mixer.ratio is None:
        return
    read = context.tokens * mixer.pooling_width * context.residual
    widths = mixer.pooling_width / (2.0 * mixer.pools)
    written = context.tokens / mixer.ratio * widths * context.residual
    waiting = context.sequences * mixer.pooling_width * ELEMENT_BYTES["fp32"] if context.phase == "decode" else 0.0
    pooling = Elementwise("key pooling", read + written + 2 * waiting, kind="compressor", rows=context.tokens)
    builder.elementwise("kv_write", pooling, 2 * (read + written))
    builder.save("key pooling input", "mla_down", read)
    norms = mixer.head_dim + (0.0 if mixer.indexer is None else mixer.indexer.head_dim)
    builder.add_parameters(Parameters.replicated("key pooling", mixer.ratio * mixer.pools * widths + norms))


def _add_kernel(builder: WorkBuilder, context: Context, mixer: CompressedAttention) -> None:
    """Add the kernel: every head on the keys of its window and on pooled entries.

        pairs = sum over queries of min(window, earlier) + min(selected, earlier / ratio)       4*h FLOP a pair and head

    Bytes: queries and results, and each key and entry once that any query attends to.
    """
    heads, h = mixer.heads / context.parallel.tp, mixer.head_dim
    decodes, near = context.phase == "decode", Pattern("window", mixer.window)
    pairs, keys = context.pairs(near, causal=True), context.cached_keys(near)
    if mixer.ratio is not None:
        far = Pattern() if mixer.indexer is None else Selected(top_k=mixer.indexer.top_k * mixer.ratio)
        pairs = pairs + context.pairs(far, causal=True) / mixer.ratio
        keys = keys + context.cached_keys(far) / mixer.ratio
    q_len = context.new_tokens if decodes else context.q_len
    if not decodes:
        keys = keys * context.parallel.cp
        gather_kv(builder, context, h)
    element = context.precision.kv_element if decodes else context.residual
    traffic = context.sequences * (keys * h * element + 2 * q_len * heads * h * context.residual)
    # A tile of a prompt holds heads of a query, which share its keys: as rows of one head. A step splits the keys.
    tiled = (heads, q_len, pairs) if decodes else (1.0, heads * q_len, heads * pairs)
    kernel = AttentionKernel(
        "attention core", context.sequences, *tiled, macs_per_pair=2 * h, dtype=context.precision.attention,
        traffic=traffic,
        family=f"compressed_attention_{'decode' if decodes else 'prefill'}", kv_len=maximum(keys, 1.0),
        kv_token_bytes=h * ELEMENT_BYTES[context.precision.kv_cache], quantized_kv=has_quantized_kv(context),
    )  # fmt: skip
    gradient = AttentionKernel(
        "attention core gradient", context.sequences, *tiled, macs_per_pair=5 * h, dtype=context.precision.attention,
        traffic=2 * traffic, family="compressed_attention_backward", kv_len=kernel.kv_len, forward_macs_per_pair=2 * h,
    )  # fmt: skip
    builder.step("fused_core", [kernel], [gradient])
    builder.save("query and key", "mla_up", context.tokens * (heads + 1.0) * h * context.residual)


def _add_grouped_output(builder: WorkBuilder, context: Context, mixer: CompressedAttention) -> None:
    """Add the output projection: g groups of H/g heads, each to `output_rank`, and all of these to d."""
    groups = mixer.output_groups / context.parallel.tp
    inputs = mixer.heads * mixer.head_dim / mixer.output_groups
    element, dtype = context.residual, context.precision.attention
    total = mixer.heads * mixer.head_dim * mixer.output_rank
    shapes = {
        "": (context.tokens, mixer.output_rank, inputs),
        " input gradient": (context.tokens, inputs, mixer.output_rank),
        " weight gradient": (inputs, mixer.output_rank, context.tokens),
    }
    gemms = [batched_gemm(f"group projection{name}", shape, groups, dtype, element) for name, shape in shapes.items()]
    builder.step("output_projection", gemms[:1], gemms[1:2], gemms[2:])
    builder.save("group projection input", "fused_core", context.tokens * groups * inputs * element)
    builder.add_parameters(Parameters("group projection", total, total / context.parallel.tp, total, linear=True))
    add_linear(builder, context.part("attention_output"), Linear(
        "output projection", operator="output_projection", producer="attention_output", rows=context.tokens,
        inputs=mixer.output_groups * mixer.output_rank, outputs=context.architecture.hidden, split="rows",
    ))  # fmt: skip
