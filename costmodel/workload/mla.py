"""Multi-head latent attention: expanded in training and prefill, absorbed in decoding."""

from __future__ import annotations

from costmodel.quantities import Count
from costmodel.workload.architecture import Mla, Pattern
from costmodel.workload.attention_kernels import (
    add_cache_write,
    add_fused_attention,
    add_output_projection,
    has_quantized_kv,
    merge_partial_results,
)
from costmodel.workload.context import Context
from costmodel.workload.context_parallel import (
    gather_kv,
)
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import (
    Linear,
    add_linear,
    add_norm,
)
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm
from costmodel.workload.work import Parameters, WorkBuilder


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
    add_output_projection(builder, context, inner)


def _add_expanded(builder: WorkBuilder, context: Context, mixer: Mla) -> None:
    """Add keys and values of every head from the latent, rotary with key assembly, and the fused core.

    Latents of earlier tokens are expanded as well: the cache holds nothing else of them.
    """
    heads, tokens, element = mixer.heads / context.parallel.tp, context.tokens, context.residual
    cached = context.sequences * (context.kv_len / context.parallel.cp)
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
    add_cache_write(builder, context, mixer.kv_lora + mixer.rope_dim, context.kv_len - context.new_tokens)
    gather_kv(builder, context, heads * (key + mixer.v_head_dim))
    builder.save("query, key, value", "mla_up", tokens * heads * (2 * key + mixer.v_head_dim) * element)
    pairs = context.pairs(Pattern(), causal=mixer.causal)
    add_fused_attention(builder, context, (key, mixer.v_head_dim), heads, heads, pairs, "mla")


def _add_absorbed(builder: WorkBuilder, context: Context, mixer: Mla) -> None:
    """Add decoding in the latent space: W_uk folded into the query, W_uv into the output.

    Core: 2*(c + r) + 2*c FLOP a pair; every head reads the same c + r cached elements, whatever tp is.
    """
    heads, tokens, dtype = mixer.heads / context.parallel.tp, context.tokens, context.precision.attention
    element, width = ELEMENT_BYTES[dtype], mixer.kv_lora + mixer.rope_dim
    total = mixer.kv_lora * mixer.heads * (mixer.nope_dim + mixer.v_head_dim)
    builder.add_parameters(Parameters("key-value up", total, total / context.parallel.tp, total))

    def absorb(name: str, n: Count, k: Count) -> Gemm:
        return Gemm(
            name,
            m=tokens,
            n=n,
            k=k,
            dtype=dtype,
            a_bytes=element,
            b_bytes=element,
            out_bytes=element,
            groups=heads,
            family="bmm",
        )

    builder.step("mla_up", [absorb("query absorption", mixer.kv_lora, mixer.nope_dim)])
    rotated = 2 * tokens * (heads + 1.0) * mixer.rope_dim * context.residual
    builder.step("rotary", [Elementwise("rotary", rotated, kind="rotary", rows=tokens)])
    add_cache_write(builder, context, mixer.kv_lora + mixer.rope_dim, context.kv_len - context.new_tokens)
    keys = context.cached_keys(Pattern())
    cache = context.sequences * keys * width * context.precision.kv_element
    streamed = cache + context.sequences * context.new_tokens * heads * (width + mixer.kv_lora) * element
    builder.step(
        "attention_core",
        [
            AttentionKernel(
                "attention core",
                sequences=context.sequences,
                heads=heads,
                q_len=context.new_tokens,
                qk_pairs=context.pairs(Pattern(), causal=mixer.causal),
                macs_per_pair=width + mixer.kv_lora,
                dtype=dtype,
                traffic=streamed,
                family="mla_decode",
                kv_len=keys,
                kv_token_bytes=width * ELEMENT_BYTES[context.precision.kv_cache],
                quantized_kv=has_quantized_kv(context),
            )
        ],
    )
    merge_partial_results(builder, context, heads * width, heads * mixer.kv_lora)
    builder.step("mla_up", [absorb("value absorption", mixer.v_head_dim, mixer.kv_lora)])
