"""Selection of keys by an indexer: small heads score every earlier key, and a query attends to the best of them."""

from __future__ import annotations

from costmodel.quantities import Count, is_single
from costmodel.workload.architecture import Indexer, Pattern
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import Linear, add_linear
from costmodel.workload.operators import AttentionKernel, Elementwise, Operator
from costmodel.workload.work import Parameters, WorkBuilder

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
    builder.step("attention_core", [_selection(context, indexer, pairs)])


def _add_projections(
    builder: WorkBuilder, context: Context, indexer: Indexer, query_inputs: Count, ratio: Count
) -> None:
    """Add the projections of queries, from latents or the residual stream, of keys, and of the heads' weights."""
    hidden, tokens, tp = context.architecture.hidden, context.tokens, context.parallel.tp
    projects_keys = is_single(ratio) and ratio == 1.0
    query = Linear(
        "indexer query", operator="indexer", producer="norm", rows=tokens, inputs=query_inputs,
        outputs=indexer.heads * indexer.head_dim, cast_input=False, saved_element=0.0, replicas=tp,
    )  # fmt: skip
    add_linear(builder, context, query)
    keys = indexer.head_dim if projects_keys else 0.0
    outputs = keys + (indexer.heads if indexer.weighted else 0.0)
    if not (is_single(outputs) and outputs == 0.0):
        rest = Linear(
            "indexer keys and weights", operator="indexer", producer="norm", rows=tokens, inputs=hidden,
            outputs=outputs, cast_input=False, saved_element=0.0, replicas=tp, dtype=context.precision.attention,
        )  # fmt: skip
        add_linear(builder, context, rest)
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


def _selection(context: Context, indexer: Indexer, pairs: Count) -> Operator:
    """Return the selection of the best keys: it reads every score and writes an index per selected key."""
    selected = context.tokens * indexer.top_k / indexer.block
    size = context.sequences * pairs * SCORE_BYTES + selected * INDEX_BYTES
    return Elementwise("key selection", size, kind="topk_select", rows=context.tokens)
