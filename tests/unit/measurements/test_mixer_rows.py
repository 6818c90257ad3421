"""Rows of recurrences, selections of keys and hyper-connections: work and bytes by hand, as a model's layer counts."""

from __future__ import annotations

import pytest

from costmodel.measurements.row_mapping import map_rows
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm

RECURRENCE = {
    "batch": 2, "q_heads": 8, "k_heads": 4, "head_dim": 128, "v_head_dim": 64, "d_conv": 4, "conv_channels": 1536,
}  # fmt: skip
STATES = 2 * 8 * 128 * 64 * 4.0


def only(table, catalogue):
    """Return the one group of rows that a table makes."""
    mapped, left_out = map_rows(table, catalogue)
    assert left_out == []
    assert len(mapped) == 1
    return mapped[0]


def test_a_prompt_s_scan_reads_rows_and_writes_states(table, catalogue):
    row = RECURRENCE | {"op": "linear_attention_prefill", "sub_op": "gdn_scan", "q_len": 100}
    found = only(table(row), catalogue)
    (scan,) = found.operators
    assert isinstance(scan, AttentionKernel)
    assert (found.family, scan.variant) == ("linear_attention_prefill", "delta")
    assert scan.traffic.tolist() == [2 * 100 * 2 * (4 * 128 + 8 * 64) * 2.0 + STATES]
    assert scan.macs_per_pair.tolist() == [pytest.approx(64 * 192 + 2 * 128 * 64 + 64 * 128 + 64 * 64 / 3)]


@pytest.mark.parametrize(("op", "new", "moved"), [("linear_attention_decode", 1, 2), ("linear_attention_verify", 4, 5)])
def test_a_decoding_step_reads_states_and_leaves_one_behind_each_token(table, catalogue, op, new, moved):
    row = RECURRENCE | {"op": op, "sub_op": "kda_scan", "q_len": new}
    found = only(table(row), catalogue)
    (scan,) = found.operators
    assert (found.family, scan.variant) == ("linear_attention_decode", "channel_delta")
    assert scan.traffic.tolist() == [2 * new * 2 * (4 * 128 + 8 * 64) * 2.0 + moved * STATES]


def test_a_convolution_keeps_the_inputs_that_wait(table, catalogue):
    prompt = RECURRENCE | {"op": "linear_attention_prefill", "sub_op": "mamba2_conv", "q_len": 10}
    step = RECURRENCE | {"op": "linear_attention_decode", "sub_op": "mamba2_conv", "q_len": 1}
    (of_prompt,) = only(table(prompt), catalogue).operators
    (of_step,) = only(table(step), catalogue).operators
    assert (of_prompt.variant, of_step.variant) == ("conv", "conv_update")
    assert of_prompt.traffic.tolist() == [2 * 2 * 10 * 1536 * 2.0]
    assert of_step.traffic.tolist() == [2 * 2 * 1536 * 2.0 + 2 * (2 * 3 * 1536 * 2.0)]


def test_queries_keys_and_values_may_have_convolutions_of_their_own(table, catalogue):
    row = RECURRENCE | {"op": "linear_attention_prefill", "sub_op": "kda_conv", "q_len": 10}
    apart, joined = (table(row | {"kernel": f"causal_conv1d_fn{end}"}) for end in ("_qkv3", ""))
    three, (one,) = only(apart, catalogue).operators, only(joined, catalogue).operators
    assert [each.rows.tolist() for each in three] == [[2 * 1536 / 3]] * 3
    assert sum(each.traffic for each in three).tolist() == one.traffic.tolist()


def test_one_kernel_may_be_convolution_scan_and_norm(table, catalogue):
    row = RECURRENCE | {"op": "linear_attention_decode", "sub_op": "kda_fused", "q_len": 1}
    found = only(table(row), catalogue)
    assert [one.variant for one in found.operators] == ["channel_delta", "conv_update", "norm"]
    assert found.fused == 2


def test_a_selection_reads_the_scores_of_compressed_keys(table, catalogue):
    row = {
        "op": "topk_select", "dtype_in": "fp32", "batch": 3, "q_len": 1, "kv_len": 4000, "sparse_topk": 512,
        "compress_ratio": 4,
    }  # fmt: skip
    (clear,) = only(table(row | {"score_mode": "v1_top_last"}), catalogue).operators
    (ties,) = only(table(row | {"score_mode": "v1_flat"}), catalogue).operators
    assert isinstance(clear, Elementwise)
    assert clear.traffic.tolist() == [3 * (1000 * 4.0 + 512 * 4.0)]
    assert (clear.kind, ties.kind) == ("topk_select", "topk_select_ties")


def test_an_index_over_compressed_keys_scores_one_in_as_many_tokens(table, catalogue):
    row = {
        "op": "mqa_logits", "dtype_in": "bf16", "dtype_out": "fp32", "batch": 2, "q_heads": 64, "head_dim": 128,
        "q_len": 1, "kv_len": 4000, "causal": 1,
    }  # fmt: skip
    whole = only(table(row), catalogue)
    quarter = only(table(row | {"compress_ratio": 4, "sub_op": "dsv4_paged"}), catalogue)
    assert (whole.family, quarter.family) == ("mqa_logits", "paged_mqa_logits")
    assert (quarter.operators[0].flop * 4).tolist() == whole.operators[0].flop.tolist()


def test_a_single_query_of_sparse_attention_decodes(table, catalogue):
    row = {
        "op": "sparse_mla_prefill", "batch": 2, "q_heads": 16, "kv_heads": 1, "head_dim": 576, "v_head_dim": 512,
        "kv_len": 4096, "sparse_topk": 2048,
    }  # fmt: skip
    step, prompt = (only(table(row | {"q_len": new}), catalogue) for new in (1, 64))
    assert (step.family, prompt.family) == ("sparse_mla_decode", "sparse_mla_prefill")
    assert step.operators[0].selected.tolist() == [2048.0]


def test_streams_are_read_with_weights_and_written(table, catalogue):
    row = {"op": "hyper_connection", "num_tokens": 10, "hidden": 64, "hc_mult": 4}
    gemm, read = only(table(row | {"sub_op": "pre", "dtype_in": "bf16"}), catalogue).operators
    (write,) = only(table(row | {"sub_op": "post"}), catalogue).operators
    assert isinstance(gemm, Gemm)
    assert (gemm.n.tolist(), gemm.k.tolist()) == ([24.0], [256.0])
    assert read.traffic.tolist() == [5 * 10 * 64 * 2.0]
    assert write.traffic.tolist() == [9 * 10 * 64 * 2.0]


def test_experts_in_mxfp4_have_kernels_of_their_own(table, catalogue):
    layer = {
        "op": "moe_layer", "num_experts": 8, "topk": 2, "ep_size": 1, "tp_size": 1, "num_tokens": 16, "hidden": 64,
        "inter": 128, "distribution": "balanced", "dtype_out": "bf16",
    }  # fmt: skip
    for stored, variant in (("w4a16_mxfp4", "bf16_mxfp4"), ("w4a16", "bf16")):
        found = only(table(layer | {"dtype_in": stored}), catalogue)
        assert found.family == "grouped_gemm_weight_only"
        assert {one.variant for one in found.operators if isinstance(one, Gemm)} == {variant}


def test_experts_between_exchanges_have_buffers_of_fixed_size_and_no_streams_around_them(table, catalogue):
    layer = {
        "op": "moe_layer", "sub_op": "deepep_masked", "dtype_in": "bf16", "num_experts": 8, "topk": 2, "ep_size": 2,
        "tp_size": 1, "num_tokens": 16, "hidden": 64, "inter": 128, "distribution": "balanced",
        "includes": '"up_gemm,act,quantize,down_gemm"',
    }  # fmt: skip
    up, activation, down = only(table(layer), catalogue).operators
    assert (up.variant, activation.kind, down.variant) == ("bf16_masked", "activation", "bf16_masked")
