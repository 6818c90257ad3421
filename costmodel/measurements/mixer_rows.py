"""Measured kernels of linear recurrences, of selections of keys and of hyper-connections as operators."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.measurements.row_group import RowGroup, Unmapped
from costmodel.quantities import Array
from costmodel.workload.architecture import Recurrence
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.mixers import Decay
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator
from costmodel.workload.recurrences import scan_macs

# The tables' names of recurrences.
_DECAYS: Mapping[str, Decay] = {"gdn": "delta", "kda": "channel_delta", "mamba2": "gated"}
_CHUNK = {"gdn": 64.0, "kda": 64.0, "mamba2": 128.0}  # the models' files
_STATE = ELEMENT_BYTES["fp32"]  # SGLang's and vLLM's default of a state (mamba_ssm_cache_dtype float32)
_SCORE, _INDEX = ELEMENT_BYTES["fp32"], 4.0
_SEPARATE = "_qkv3"  # in names of kernels that are three calls, as Kimi's layers make them
_WORST = "flat"  # scores that all tie, for which a selection looks at every digit


def recurrence(batch: RowGroup) -> list[Operator]:
    """Return the convolution, the scan, or both with the norm after them, as the row's `sub_op` says."""
    name, _, part = batch.text("sub_op").partition("_")
    if name not in _DECAYS or part not in ("conv", "scan", "fused"):
        raise Unmapped(f"what kernel {batch.text('sub_op') or 'without a name'} computes is unknown")
    if part == "conv" and batch.text("kernel").endswith(_SEPARATE):
        return [_convolution(batch, batch.number("conv_channels") / 3.0)] * 3
    if part == "conv":
        return [_convolution(batch)]
    if part == "scan":
        return [_scan(batch, name)]
    rows = batch.number("batch") * batch.number("q_len")
    values = batch.number("q_heads") * batch.number("v_head_dim")
    width = batch.number("q_heads") * (2.0 * batch.number("head_dim") + batch.number("v_head_dim"))
    norm = Elementwise("output norm", 2 * rows * values * _wide(batch), kind="norm", rows=rows)
    return [_scan(batch, name), _convolution(batch, width), norm]


def _wide(batch: RowGroup) -> float:
    return float(batch.format("dtype_in").left)


def _decodes(batch: RowGroup) -> bool:
    return not batch.text("op").endswith("prefill")


def _convolution(batch: RowGroup, width: Array | None = None) -> Elementwise:
    """Return the convolution of `conv_channels` over a few tokens. A decoding step shifts the inputs that wait.

    A channel of a prompt is a row. Drafts that are verified leave the waiting inputs of each token behind.
    """
    channels = batch.number("conv_channels") if width is None else width
    sequences, new = batch.number("batch"), batch.number("q_len")
    waiting = sequences * (batch.number("d_conv") - 1.0) * channels * _wide(batch)
    traffic = 2 * sequences * new * channels * _wide(batch)
    if not _decodes(batch):
        return Elementwise("short convolution", traffic, kind="conv", rows=sequences * channels)
    return Elementwise("short convolution", traffic + (1.0 + new) * waiting, kind="conv_update")


def _scan(batch: RowGroup, name: str) -> AttentionKernel:
    """Return the scan as a model's layer has it. Drafts that are verified leave a state behind each token."""
    sequences, new, heads = batch.number("batch"), batch.number("q_len"), batch.number("q_heads")
    q, v = batch.number("head_dim"), batch.number("v_head_dim")
    keys, decodes = batch.number("k_heads") * q, _decodes(batch)
    mixer = Recurrence(heads=heads, key_dim=q, value_dim=v, chunk=_CHUNK[name], decay=_DECAYS[name])
    rows = sequences * new * 2.0 * (keys + heads * v) * _wide(batch)
    state = sequences * heads * q * v * _STATE
    return AttentionKernel(
        "attention core", sequences=sequences, heads=heads, q_len=new, qk_pairs=new,
        macs_per_pair=scan_macs(mixer, decodes=decodes), dtype=batch.compute_format().unit,
        traffic=rows + ((1.0 + new) * state if decodes else state),
        family=f"linear_attention_{'decode' if decodes else 'prefill'}", kind=_DECAYS[name], kv_heads=heads,
        kv_len=new,
    )  # fmt: skip


def selection(batch: RowGroup) -> list[Operator]:
    """Return the selection of the best `sparse_topk` keys of each query, of one key in `compress_ratio` tokens.

    Scores that tie, a benchmark's worst case, take a kind of their own.
    """
    sequences, new = batch.number("batch"), batch.number("q_len")
    keys = batch.number("kv_len") / compression(batch)
    tokens = sequences * new
    pairs = tokens * np.maximum(keys - (new - 1.0) / (2.0 * compression(batch)), 1.0)
    size = pairs * _SCORE + tokens * batch.number("sparse_topk") * _INDEX
    ties = batch.text("score_mode").endswith(_WORST)
    return [Elementwise("key selection", size, kind="topk_select_ties" if ties else "topk_select", rows=tokens)]


def compression(batch: RowGroup) -> Array:
    """Return the tokens of one scored key: one where the table states no compression."""
    return np.nan_to_num(batch.rows.number("compress_ratio"), nan=1.0)


def hyper_connection(batch: RowGroup) -> list[Operator]:
    """Return the reads (`pre`) or writes (`post`) of the streams at one site, as a model's layer has them."""
    tokens, hidden, streams = batch.number("num_tokens"), batch.number("hidden"), batch.number("hc_mult")
    size = tokens * hidden * _wide(batch)
    if batch.text("sub_op") == "post":
        return [Elementwise("stream write", (2.0 * streams + 1.0) * size, kind="hyper_connection_post", rows=tokens)]
    if batch.text("sub_op") != "pre":
        raise Unmapped(f"what hyper-connection {batch.text('sub_op') or 'without a name'} computes is unknown")
    gemm = Gemm(
        "stream weights", m=tokens, n=streams * (streams + 2.0), k=streams * hidden, dtype="fp32",
        a_bytes=_wide(batch), b_bytes=ELEMENT_BYTES["fp32"], out_bytes=ELEMENT_BYTES["fp32"],
    )  # fmt: skip
    read = Elementwise("stream read", (streams + 1.0) * size, kind="hyper_connection_pre", rows=tokens)
    return [gemm, read]
