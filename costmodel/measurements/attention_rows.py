"""Measured attention kernels as operators."""

from __future__ import annotations

import numpy as np

from costmodel.measurements.mixer_rows import compression
from costmodel.measurements.row_group import RowGroup, Unmapped
from costmodel.quantities import Array, Bytes, minimum
from costmodel.records import replace
from costmodel.workload.operators import AttentionKernel, Elementwise, MixedAttention, Operator
from costmodel.workload.patterns import Pattern

_LATENT = 576.0  # elements of a cached token in every measured MLA: 512 of the latent and 64 rotated (meta.csv)
_SCALE = 4.0  # bytes of the scale of an indexed key
_ROTATED = 64.0  # of them, and of each head's query
_BY_PHASE = ("trtllm",)  # frameworks that choose the kernel by the request's phase, not by its number of queries


def attention(batch: RowGroup) -> list[Operator]:
    """Return the core of `batch` sequences, and the write of their new keys where the timed call makes that as well."""
    sequences, new = batch.number("batch"), batch.number("q_len")
    # A single query a sequence is a decoding step, whatever the call is named: most libraries have one kernel for it.
    decodes = bool((new == 1).all()) and not batch.text("framework").startswith(_BY_PHASE)
    family = "attention_decode" if decodes else batch.text("op")
    core = _core(batch, family, sequences, new, batch.number("kv_len"))
    return [core, *_cache_write(batch, sequences * new)]


def mixed(batch: RowGroup) -> list[Operator]:
    """Return `batch` chunks of prompts and `batch2` decoding sequences: one kernel, or two where the tables say so."""
    chunks, new = batch.number("batch"), batch.number("q_len")
    others, more = batch.number("batch2"), batch.number("q2_len")
    prefill = _core(batch, "attention_prefill", chunks, new, batch.number("kv_len"))
    decode = _core(batch, "attention_decode", others, more, batch.number("kv2_len"))
    cores = [prefill, decode] if "two kernels" in batch.says else [MixedAttention("attention", (prefill, decode))]
    return [*cores, *_cache_write(batch, chunks * new + others * more)]


def skewed(batch: RowGroup) -> list[Operator]:
    """Return two populations that decode in one call."""
    first, second = (
        _core(batch, "attention_decode", batch.number(count), batch.number(new), batch.number(keys))
        for count, new, keys in (("batch", "q_len", "kv_len"), ("batch2", "q2_len", "kv2_len"))
    )
    return [MixedAttention("attention", (first, second), "attention_decode_skewed")]


def backward(batch: RowGroup) -> list[Operator]:
    """Return the backward core, which recomputes the scores: 3*q + 2*v multiply-adds a pair.

    Traffic: q, o, do in and dq out; k, v in and dk, dv out.
    """
    sequences, heads, rows = batch.number("batch"), batch.number("q_heads"), batch.number("q_len")
    q, v = batch.number("head_dim"), batch.number("v_head_dim")
    element = batch.compute_format()
    keys = batch.number("kv_heads") * batch.number("kv_len")
    traffic = sequences * (heads * rows + keys) * 2 * (q + v) * element.left
    pairs = _pairs(batch, rows, batch.number("kv_len"))
    return [
        AttentionKernel(
            "attention gradient", sequences=sequences, heads=heads, q_len=rows, qk_pairs=pairs,
            macs_per_pair=3 * q + 2 * v, dtype=element.unit, traffic=traffic,
            family="attention_backward", kv_heads=batch.number("kv_heads"), kv_len=batch.number("kv_len"),
            kv_token_bytes=(q + v) * element.left, forward_macs_per_pair=q + v,
        )
    ]  # fmt: skip


def latent_prefill(batch: RowGroup) -> list[Operator]:
    """Return MLA with keys and values of every head. The cache's format does not concern the core."""
    sequences, new = batch.number("batch"), batch.number("q_len")
    core = _core(batch, "mla_prefill", sequences, new, batch.number("kv_len"), cached=batch.format("dtype_in").left)
    return [core, *_latent_write(batch, sequences * new)]


def latent_decode(batch: RowGroup) -> list[Operator]:
    """Return absorbed MLA: every head reads the same latents, whose first part serves as values as well."""
    sequences, new, keys = batch.number("batch"), batch.number("q_len"), batch.number("kv_len")
    pairs = _pairs(batch, new, keys)
    return [_latent(batch, "mla_decode", pairs, sequences * keys), *_latent_write(batch, sequences * new)]


def sparse_latent(batch: RowGroup) -> list[Operator]:
    """Return absorbed MLA over the `sparse_topk` keys that a query picked.

    Each token of a sequence that may be picked is read once. A single query a sequence is a decoding step.
    """
    if np.isnan(batch.rows.number("sparse_topk")).any():
        raise Unmapped("a module over compressed keys states no choice of keys")
    sequences, new, keys = batch.number("batch"), batch.number("q_len"), batch.number("kv_len")
    picked = minimum(batch.number("sparse_topk"), keys)
    prefill = batch.text("op") == "sparse_mla_prefill" and not bool((new == 1).all())
    read = sequences * minimum(new * picked, keys)
    core = _latent(batch, "sparse_mla_prefill" if prefill else "sparse_mla_decode", new * picked, read)
    return [replace(core, selected=batch.number("sparse_topk"))]


def index_logits(batch: RowGroup) -> list[Operator]:
    """Return the scores of all heads of a query for the keys before it, summed to one FP32 number a pair: DSA's index.

    All heads share one key, which carries an FP32 scale. With `compress_ratio` one stands for as many tokens.
    """
    if np.isnan(batch.rows.number("q_len")).any():
        raise Unmapped("the index of a module over compressed keys states no queries")
    sequences, heads, new = batch.number("batch"), batch.number("q_heads"), batch.number("q_len")
    ratio, width = compression(batch), batch.number("head_dim")
    keys, pairs = batch.number("kv_len") / ratio, _pairs(batch, new, batch.number("kv_len")) / ratio
    element = batch.compute_format()
    cached = width * _cached(batch) + _SCALE
    traffic = sequences * (new * heads * width * element.left + keys * cached + pairs * batch.format("dtype_out").left)
    family = "paged_mqa_logits" if batch.text("sub_op").endswith("paged") else batch.text("op")
    return [
        AttentionKernel(
            "index logits", sequences=sequences, heads=1.0, q_len=heads * new, qk_pairs=heads * pairs,
            macs_per_pair=width, dtype=element.unit, traffic=traffic, family=family,
            kv_len=keys, kv_token_bytes=cached,
        )
    ]  # fmt: skip


def _latent(batch: RowGroup, family: str, pairs: Array, read: Array) -> AttentionKernel:
    """Return an absorbed core that reads `read` cached tokens once."""
    sequences, heads, rows = batch.number("batch"), batch.number("q_heads"), batch.number("q_len")
    width, value = batch.number("head_dim"), batch.number("v_head_dim")
    element = batch.compute_format()
    traffic = read * width * _cached(batch) + sequences * rows * heads * (width + value) * element.left
    return AttentionKernel(
        "mla", sequences=sequences, heads=heads, q_len=rows, qk_pairs=pairs, macs_per_pair=width + value,
        dtype=element.unit, traffic=traffic, family=family,
        kv_heads=1.0, kv_len=read / sequences, kv_token_bytes=width * _cached(batch),
        quantized_kv=bool(_cached(batch) < element.left),
    )  # fmt: skip


def _core(
    batch: RowGroup, family: str, sequences: Array, new: Array, keys: Array, *, cached: Bytes | None = None
) -> AttentionKernel:
    """Return softmax(QK')V of `new` queries over `keys` keys of each sequence."""
    heads, kv_heads = batch.number("q_heads"), batch.number("kv_heads")
    q, v = batch.number("head_dim"), batch.number("v_head_dim")
    element, out = batch.compute_format(), batch.format("dtype_out")
    stored = _cached(batch) if cached is None else cached
    pairs, window = _pairs(batch, new, keys), _window(batch, keys)
    if family == "attention_decode":
        keys = np.asarray(Pattern(window=window).keys_read(new, keys))
    traffic = sequences * (heads * new * (q * element.left + v * out.left) + kv_heads * keys * (q + v) * stored)
    return AttentionKernel(
        "attention", sequences=sequences, heads=heads, q_len=new, qk_pairs=pairs, macs_per_pair=q + v,
        dtype=element.unit, traffic=traffic, family=family,
        kv_heads=kv_heads, kv_len=keys, kv_token_bytes=(q + v) * stored,
        quantized_kv=bool(_cached(batch) < element.left),
        last_query_kv_len=None if np.isnan(batch.rows.number("window")).all() else minimum(window, keys),
    )  # fmt: skip


def _pairs(batch: RowGroup, new: Array, keys: Array) -> Array:
    """Return (query, key) pairs of one head and sequence. A new token sees the window before it, and itself."""
    return np.asarray(Pattern(window=_window(batch, keys)).pairs(new, keys, causal=batch.text("causal") != "0"))


def _window(batch: RowGroup, keys: Array) -> Array:
    return np.fmin(batch.rows.number("window"), keys)


def _cached(batch: RowGroup) -> Bytes:
    return batch.format("kv_dtype", default=batch.text("dtype_in")).left


def _cache_write(batch: RowGroup, tokens: Array) -> list[Operator]:
    """Return the copy of new keys and values to the cache, where the tables say that the time holds it."""
    stated = "kv_write" in batch.includes
    if not stated and "KV write +" not in batch.says and "KV-cache write" not in batch.says:
        return []
    width = batch.number("kv_heads") * (batch.number("head_dim") + batch.number("v_head_dim"))
    return [Elementwise("kv cache write", tokens * width * (batch.format("dtype_in").left + _cached(batch)))]


def _latent_write(batch: RowGroup, tokens: Array) -> list[Operator]:
    """Return the rotation and the copy of new latents to the cache, where the tables say that the time holds them.

    Where decoding rotates the queries as well (`mla_rope_generation`), their rotated part is read and written. With a
    narrower cache the whole query is, into the cache's format.
    """
    rotates = "mla_rope_generation" in batch.says
    if "kv_write" not in batch.includes and "latent KV write" not in batch.says and not rotates:
        return []
    element, stored = batch.format("dtype_in").left, _cached(batch)
    moved = tokens * _LATENT * (element + stored)
    if rotates:
        width, written = (_LATENT, stored) if stored < element else (_ROTATED, element)
        moved = moved + tokens * batch.number("q_heads") * width * (element + written)
    return [Elementwise("kv cache write", moved)]
