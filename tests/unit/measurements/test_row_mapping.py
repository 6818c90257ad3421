"""What a measured row becomes: work and bytes by hand, and the rows that are left out with their reason."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_rows
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise, ExpertAllToAll, Gemm, MixedAttention

GEMM = {"op": "gemm", "m": 128, "n": 256, "k": 512}
ATTENTION = {"batch": 4, "q_heads": 32, "kv_heads": 8, "head_dim": 128, "v_head_dim": 128, "q_len": 1, "kv_len": 1000}
LAYER = {
    "op": "moe_layer", "num_experts": 8, "topk": 2, "ep_size": 2, "tp_size": 2, "num_tokens": 16, "hidden": 64,
    "inter": 128, "distribution": "balanced",
}  # fmt: skip
EXCHANGE = {
    "op": "moe_dispatch", "sub_op": "normal", "dtype_in": "bf16", "num_experts": 64, "topk": 8, "num_tokens": 100,
    "hidden": 1024, "world_size": 16, "gpus_per_node": 8,
}  # fmt: skip


def only(table, catalogue):
    """Return the one group of rows that a table makes."""
    mapped, left_out = map_rows(table, catalogue)
    assert left_out == []
    assert len(mapped) == 1
    return mapped[0]


def reasons(table, catalogue):
    mapped, left_out = map_rows(table, catalogue)
    assert mapped == []
    return [one.reason for one in left_out]


def test_rows_of_one_kernel_become_one_operator_with_arrays(table, catalogue):
    found = only(table(GEMM, GEMM | {"m": 64}), catalogue)
    (product,) = found.operators
    assert isinstance(product, Gemm)
    assert found.rows.tolist() == [0, 1]
    assert product.m.tolist() == [128.0, 64.0]
    assert product.traffic.tolist() == [2.0 * (m * 512 + 512 * 256 + m * 256) for m in (128, 64)]


def test_other_formats_make_other_groups(table, catalogue):
    mapped, _ = map_rows(table(GEMM, GEMM | {"dtype_in": "fp32", "dtype_out": "fp32"}), catalogue)
    assert sorted(one.operators[0].dtype for one in mapped) == ["bf16", "fp32"]


def test_block_scaled_operands_carry_their_scales(table):
    row = GEMM | {"device": "H800_SXM", "dtype_in": "fp8_e4m3_blk128", "dtype_out": "bf16"}
    (product,) = only(table(row), Catalogue()).operators
    assert product.a_bytes == 1 + 4 / 128
    assert product.b_bytes == 1 + 4 / 128**2
    assert product.out_bytes == 2.0


def test_a_quantisation_inside_the_time_is_a_cast_before_the_product(table, catalogue):
    cast, product = only(
        table(GEMM | {"notes": "dynamic activation quantisation kernel included"}), catalogue
    ).operators
    assert isinstance(cast, Elementwise)
    assert cast.traffic.tolist() == [128 * 512 * (2.0 + 2.0)]
    assert isinstance(product, Gemm)


def test_what_a_timed_call_holds_beside_a_product_reads_all_of_its_left_operand(table, catalogue):
    largest, cast, product = only(table(GEMM | {"includes": '"amax,quantize"'}), catalogue).operators
    assert (largest.traffic.tolist(), cast.traffic.tolist()) == ([128 * 512 * 2.0], [128 * 512 * (2.0 + 2.0)])
    assert isinstance(product, Gemm)


def test_an_accumulated_result_is_read_and_written(table, catalogue):
    (product,) = only(table(GEMM | {"dtype_out": "fp32"}), catalogue).operators
    assert product.out_bytes == 8.0


def test_grouped_products_share_their_rows_and_skip_empty_groups(table, catalogue):
    row = GEMM | {"op": "grouped_gemm", "num_groups": 16}
    (product,) = only(table(row, row | {"m": 4}), catalogue).operators
    assert product.groups.tolist() == [16.0, 4.0]
    assert product.m.tolist() == [8.0, 1.0]


def test_the_gradients_of_a_grouped_product_have_its_flop(table, catalogue):
    row = GEMM | {"op": "grouped_gemm", "num_groups": 16}
    rows = [row | {"sub_op": name} for name in ("fwd", "bwd_grad_act", "bwd_grad_w")]
    mapped, _ = map_rows(table(*rows), catalogue)
    assert {float(one.operators[0].flop[0]) for one in mapped} == {2.0 * 128 * 256 * 512}


def test_a_balanced_expert_layer_copies_rows_together_and_sums_them_again(table, catalogue):
    found = only(table(LAYER), catalogue)
    permute, up, activation, down, total = found.operators
    rows, width = 16 * 2 / 2, 64.0
    assert found.family == "grouped_gemm"
    assert (up.groups[0], up.m[0], up.n[0], up.k[0]) == (4.0, rows / 4, 2 * width, 64.0)
    assert (down.n[0], down.k[0]) == (64.0, width)
    assert (up.local_experts[0], up.experts[0], up.tokens[0]) == (4.0, 8.0, 16.0)
    assert activation.traffic[0] == rows * width * 3 * 2
    assert permute.traffic[0] == rows * 64 * 2 * 2
    assert total.traffic[0] == (rows + 16) * 64 * 2


def test_triton_keeps_every_copy_and_writes_zeros_for_other_ranks(table, catalogue):
    permute, _, activation, _, total = only(table(LAYER | {"kernel": "fused_moe_triton"}), catalogue).operators
    copies, rows, width = 16 * 2.0, 16.0, 64.0
    assert activation.traffic[0] == copies * width * 3 * 2
    assert permute.traffic[0] == (copies - rows) * (2 * width + 64) * 2 + 16 * 64 * 2 * 2
    assert total.traffic[0] == (copies + 16) * 64 * 2


@pytest.mark.parametrize(
    ("changed", "is_tuned"),
    [({}, 1.0), ({"tp_size": 1}, 0.0), ({"ep_size": 1}, 0.0), ({"ep_size": 1, "tp_size": 4}, 1.0),
     ({"framework": ""}, 0.0), ({"device": "SIBLING"}, 0.0), ({"dtype_in": "fp32"}, 0.0)],
)  # fmt: skip
def test_rows_of_layers_with_tuned_tiles_of_their_engine_say_so(table, catalogue, changed, is_tuned):
    found = only(table(LAYER | {"framework": "a build of fast 0.1"} | changed), catalogue)
    assert [float(np.max(one.tuned)) for one in found.operators if isinstance(one, Gemm)] == [is_tuned, is_tuned]


def test_skewed_routing_loads_the_timed_rank_more_and_touches_fewer_experts(table, catalogue):
    row = LAYER | {"num_experts": 128, "topk": 8, "ep_size": 8, "num_tokens": 64}
    even = only(table(row), catalogue).operators[1]
    skewed = only(table(row | {"distribution": "power_law_1.2"}), catalogue).operators[1]
    again = only(table(row | {"distribution": "power_law_1.2"}), catalogue).operators[1]
    assert skewed.m[0] * skewed.groups[0] > even.m[0] * even.groups[0] == 64.0
    assert skewed.groups[0] < even.groups[0] == 16.0
    assert skewed.groups[0] == again.groups[0]
    assert skewed.m_std[0] > even.m_std[0] == 0.0


def test_exact_rows_of_a_fused_expert_kernel_are_used(table, catalogue):
    row = LAYER | {"sub_op": "fused_experts", "m": 30, "num_groups": 3, "distribution": "uniform_random"}
    up, down, copied = only(table(row), catalogue).operators
    assert (up.m[0], up.groups[0], down.groups[0]) == (10.0, 3.0, 3.0)
    assert copied.kind == "permute"


def test_masked_groups_are_told_from_contiguous_ones(table, catalogue):
    row = GEMM | {"op": "grouped_gemm", "num_groups": 16, "dtype_in": "bf16"}
    for name, masked in (("masked_up", True), ("contiguous_down", False)):
        (product,) = only(table(row | {"sub_op": name}), catalogue).operators
        assert product.masked is masked
        assert product.m_std[0] == pytest.approx(0.6 / 12**0.5 * 8.0)


def test_index_logits_are_one_product_of_all_heads_with_one_key(table, catalogue):
    row = {
        "op": "paged_mqa_logits", "batch": 2, "q_heads": 64, "kv_heads": 1, "head_dim": 128, "q_len": 1, "kv_len": 1000,
        "dtype_in": "bf16", "dtype_out": "fp32",
    }  # fmt: skip
    (core,) = only(table(row), catalogue).operators
    assert core.flop[0] == 2 * 2 * 64 * 1000 * 128
    assert core.traffic[0] == 2 * (64 * 128 * 2 + 1000 * (128 * 2 + 4) + 1000 * 4)


def test_decoding_reads_every_key_once(table, catalogue):
    found = only(table(ATTENTION | {"op": "attention_decode"}), catalogue)
    (core,) = found.operators
    assert (found.family, core.family) == ("attention_decode", "attention_decode")
    assert core.flop.tolist() == [2.0 * 4 * 32 * 1000 * 256]
    assert core.traffic.tolist() == [2.0 * 4 * (32 * 256 + 8 * 1000 * 256)]


def test_a_narrow_cache_is_read_in_its_own_format(table, catalogue):
    row = ATTENTION | {"op": "attention_decode", "kv_dtype": "fp8_e4m3"}
    (core,) = only(table(row), catalogue).operators
    assert core.traffic.tolist() == [4 * (2.0 * 32 * 256 + 8 * 1000 * 256)]
    assert core.dtype == "bf16"


def test_a_causal_chunk_sees_its_history_and_itself(table, catalogue):
    row = ATTENTION | {"op": "attention_prefill", "q_len": 100, "causal": 1}
    (core,) = only(table(row), catalogue).operators
    assert core.qk_pairs.tolist() == [100 * 900 + 100 * 101 / 2]
    (full,) = only(table(row | {"causal": 0}), catalogue).operators
    assert full.qk_pairs.tolist() == [100 * 1000.0]


def test_a_mixed_call_is_one_kernel_unless_it_is_two(table, catalogue):
    row = ATTENTION | {"op": "attention_mixed", "q_len": 16, "batch2": 3, "q2_len": 1, "kv2_len": 50}
    one = only(table(row), catalogue)
    two = only(table(row | {"kernel": "prefill + decode wrappers (two kernels)"}), catalogue)
    (mixed,) = one.operators
    assert isinstance(mixed, MixedAttention)
    assert (one.family, two.family) == ("attention_mixed", "attention_prefill")
    assert [core.family for core in two.operators] == ["attention_prefill", "attention_decode"]
    assert mixed.parts[1].qk_pairs.tolist() == two.operators[1].qk_pairs.tolist() == [50.0]


def test_two_populations_that_decode_in_one_call_are_one_kernel(table, catalogue):
    row = ATTENTION | {"op": "attention_decode_skewed", "q_len": 1, "batch2": 3, "q2_len": 1, "kv2_len": 50}
    (mixed,) = only(table(row), catalogue).operators
    assert mixed.family == "attention_decode_skewed"
    assert [core.kv_len.tolist() for core in mixed.parts] == [[1000.0], [50.0]]


def test_kernels_that_run_again_and_again_find_l2_warm(table, catalogue):
    row = ATTENTION | {"op": "attention_decode"}
    warm = {
        timing: only(table(row | {"timing": timing}), catalogue).warm_l2
        for timing in ("cuda_graph_loop", "kineto_kernel")
    }
    assert warm == {"cuda_graph_loop": True, "kineto_kernel": False}


def test_a_single_query_decodes_unless_the_library_goes_by_the_phase(table, catalogue):
    row = ATTENTION | {"op": "attention_prefill", "q_len": 1, "causal": 1}
    assert only(table(row | {"framework": "vllm 0.14.0"}), catalogue).family == "attention_decode"
    assert only(table(row | {"framework": "trtllm 1.0.0"}), catalogue).family == "attention_prefill"


def test_decoding_that_rotates_its_queries_reads_and_writes_their_rotated_part(table, catalogue):
    row = ATTENTION | {"op": "mla_decode", "q_heads": 16, "kv_heads": 1, "head_dim": 576, "v_head_dim": 512}
    written = {}
    for cache in ("bf16", "fp8_e4m3"):
        _, kept = only(table(row | {"kv_dtype": cache, "notes": "mla_rope_generation kernel"}), catalogue).operators
        written[cache] = float(kept.traffic[0])
    assert written["bf16"] == 4 * (576 * (2 + 2) + 16 * 64 * (2 + 2))
    assert written["fp8_e4m3"] == 4 * (576 * (2 + 1) + 16 * 576 * (2 + 1))


def test_a_cache_write_inside_the_time_is_an_operator_of_its_own(table, catalogue):
    row = ATTENTION | {"op": "attention_decode", "kernel": "Attention module: KV write + flash-attn varlen"}
    core, written = only(table(row), catalogue).operators
    assert isinstance(core, AttentionKernel)
    assert written.traffic.tolist() == [4 * 8 * 256 * (2.0 + 2.0)]


def test_latents_serve_every_head_as_keys_and_values(table, catalogue):
    row = ATTENTION | {"op": "mla_decode", "kv_heads": 1, "head_dim": 576, "v_head_dim": 512}
    (core,) = only(table(row), catalogue).operators
    assert core.flop.tolist() == [2.0 * 4 * 32 * 1000 * 1088]
    assert core.traffic.tolist() == [2.0 * 4 * (1000 * 576 + 32 * 1088)]


@pytest.mark.parametrize(
    ("name", "bytes_moved"),
    [
        ("silu_and_mul", 6),
        ("fused_add_rmsnorm", 8),
        ("layernorm", 4),
        ("rope", 4),
        ("add", 6),
        ("addu", 4),
        ("sampler_greedy", 2),
    ],
)
def test_an_elementwise_kernel_moves_what_its_name_says(table, catalogue, name, bytes_moved):
    (stream,) = only(table({"op": "elementwise", "sub_op": name, "m": 10, "n": 20}), catalogue).operators
    assert stream.traffic.tolist() == [10 * 20 * float(bytes_moved)]


def test_a_quantisation_reads_wide_and_writes_narrow(table, catalogue):
    (cast,) = only(table({"op": "quantize", "dtype_out": "fp8_e4m3", "m": 10, "n": 20}), catalogue).operators
    assert cast.traffic.tolist() == [10 * 20 * 3.0]


def test_a_collective_runs_on_the_node_that_has_the_device(table, catalogue):
    row = {"op": "all_reduce", "bytes": 1e6, "world_size": 16, "gpus_per_node": 8}
    found = only(table(row), catalogue)
    (operator,) = found.operators
    assert isinstance(operator, Collective)
    assert (operator.size.tolist(), operator.group.size) == ([1e6], 16.0)
    assert (found.cluster.node.name, found.cluster.count, found.cluster.node.count) == ("box", 2.0, 8.0)


def test_without_a_node_file_pairs_of_bridged_devices_only_have_nvlink(table, catalogue):
    row = {"device": "SIBLING", "op": "all_reduce", "bytes": 1e6, "world_size": 4, "gpus_per_node": 4}
    switched = only(table(row), catalogue)
    bridged = only(table(row | {"notes": "a pairwise_nvlink box"}), catalogue)
    pair = only(table(row | {"notes": "a pairwise_nvlink box", "world_size": 2}), catalogue)
    assert [found.cluster.node.intra.name for found in (switched, bridged, pair)] == ["nvlink", "pcie", "nvlink"]
    assert [found.cluster.node.peer_to_peer for found in (switched, bridged, pair)] == [True, False, True]


def test_ranks_on_nodes_that_no_file_joins_are_left_out(table, catalogue):
    row = {"device": "SIBLING", "op": "send_recv", "bytes": 1e6, "world_size": 2, "gpus_per_node": 1}
    assert reasons(table(row), catalogue) == ["no node file says how nodes of sibling are joined"]


def test_exchanges_of_other_groups_and_choices_stand_apart(table, catalogue):
    mapped, _ = map_rows(table(EXCHANGE, EXCHANGE | {"topk": 4}, EXCHANGE | {"world_size": 8}), catalogue)
    operators = [one.operators[0] for one in mapped]
    assert all(isinstance(one, ExpertAllToAll) for one in operators)
    assert sorted((one.top_k, one.group.size) for one in operators) == [(4, 16.0), (8, 8.0), (8, 16.0)]
    assert operators[0].token_bytes.tolist() == [2048.0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (GEMM | {"time_us": -1}, "no time was published, only a rate"),
        (
            GEMM | {"flag": "x;host_overhead_included", "tier": "secondary"},
            "the time is the host's or a coarse timer's",
        ),
        (GEMM | {"device": "NOBODY"}, "no device file is named or aliased NOBODY"),
        (GEMM | {"dtype_in": "fp8_e4m3"}, "chip has no fp8 unit"),
        (GEMM | {"dtype_in": "fp8_blk128"}, "number format fp8_blk128 is unknown; did you mean `fp8_e4m3_blk128`?"),
        (GEMM | {"op": "sorting"}, "the package has no such operator"),
        ({"op": "elementwise", "sub_op": "mystery"}, "what element-wise kernel mystery reads and writes is unknown"),
        (EXCHANGE | {"sub_op": "other"}, "exchange mode other is unknown"),
        (LAYER | {"distribution": "odd"}, "routing distribution odd is unknown"),
        (LAYER | {"ep_size": 3}, "the experts do not divide over the ranks"),
    ],
)
def test_rows_that_cannot_be_priced_are_left_out_with_the_reason(table, catalogue, row, reason):
    assert reasons(table(row), catalogue) == [reason]


def test_a_long_time_with_host_overhead_is_kept(table, catalogue):
    mapped, left_out = map_rows(table(GEMM | {"flag": "host_overhead_included", "tier": "primary"}), catalogue)
    assert (len(mapped), left_out) == (1, [])


def test_a_row_without_its_shape_is_left_out_and_the_others_stay(table, catalogue):
    rows = table(GEMM, GEMM | {"k": "", "m": 3}, GEMM | {"m": 5}, GEMM | {"m": "", "n": "", "k": ""})
    mapped, left_out = map_rows(rows, catalogue)
    assert [one.rows.tolist() for one in mapped] == [[0, 2]]
    assert [(one.reason, one.rows.tolist()) for one in left_out] == [
        ("`m`, `n`, `k` are empty, which the operation needs", [3]),
        ("`k` is empty, which the operation needs", [1]),
    ]


def test_every_row_is_either_mapped_or_left_out(table, catalogue):
    rows = table(GEMM, GEMM | {"time_us": -1}, LAYER, EXCHANGE, GEMM | {"device": "NOBODY"}, EXCHANGE | {"topk": 4})
    mapped, left_out = map_rows(rows, catalogue)
    places = np.concatenate([one.rows for one in (*mapped, *left_out)])
    assert sorted(places.tolist()) == list(range(len(rows)))


def test_a_column_has_no_rows(table, catalogue):
    row = {"op": "elementwise", "sub_op": "gelu", "m": 65536, "n": 1}
    column, rows = only(table(row, row | {"n": 64}), catalogue).operators[0].rows.tolist()
    assert (column, rows) == (0.0, 65536.0)


@pytest.mark.parametrize(
    ("changes", "groups"),
    [({}, (2.0, 2)), ({"world_size": 48}, (6.0, 4)), ({"world_size": 8}, (1.0, 1)), ({"num_experts": 65}, (1.0, 1))],
)
def test_a_token_goes_to_four_nodes_at_most_and_to_any_where_experts_stand_in_no_groups(
    table, catalogue, changes, groups
):
    (exchange,) = only(table(EXCHANGE | {"num_experts": 96} | changes), catalogue).operators
    assert isinstance(exchange, ExpertAllToAll)
    assert (exchange.expert_groups, exchange.group_top_k) == groups


LATENT = ATTENTION | {"kv_heads": 1, "head_dim": 576, "v_head_dim": 512, "includes": "kv_write"}


@pytest.mark.parametrize(
    ("row", "size"),
    [
        (GEMM | {"includes": '"amax,quantize"'}, "m"), (GEMM | {"op": "grouped_gemm", "num_groups": 16}, "m"),
        (ATTENTION | {"op": "attention_decode", "includes": "kv_write"}, "batch"),
        (ATTENTION | {"op": "attention_prefill", "q_len": 100, "causal": 1, "includes": "kv_write"}, "batch"),
        (ATTENTION | {"op": "attention_backward", "q_len": 1000, "causal": 1}, "batch"),
        (LATENT | {"op": "mla_prefill", "q_len": 100, "head_dim": 192, "v_head_dim": 128}, "batch"),
        (LATENT | {"op": "mla_decode", "notes": "mla_rope_generation kernel"}, "batch"),
        (LAYER, "num_tokens"), (EXCHANGE, "num_tokens"),
    ],
)  # fmt: skip
def test_twice_the_tokens_are_twice_the_flop_and_twice_the_bytes_of_what_goes_along(table, catalogue, row, size):
    once, twice = (only(table(row | {size: count * row[size]}), catalogue).operators for count in (1, 2))
    for one, two in zip(once, twice, strict=True):
        if isinstance(one, ExpertAllToAll):
            assert (two.tokens, two.token_bytes) == (2.0 * one.tokens, one.token_bytes)
            continue
        assert np.asarray(two.flop) == pytest.approx(2.0 * np.asarray(one.flop))
        if isinstance(one, (Elementwise, AttentionKernel)):
            assert np.asarray(two.traffic) == pytest.approx(2.0 * np.asarray(one.traffic))
