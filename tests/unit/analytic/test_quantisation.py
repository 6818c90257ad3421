"""Quantised weights and caches: what a stored element takes, what products read, what a device holds."""

from __future__ import annotations

import numpy as np
import pytest
from builders import (
    BF16,
    CLUSTER,
    DECODE,
    DEVICE,
    FP8,
    FRAMEWORK,
    GQA,
    MOE_MODEL,
    context,
    scenario,
    with_device,
    with_level,
)

import costmodel
from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.grid import evaluate_point, evaluate_single
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError
from costmodel.hardware import MathUnit
from costmodel.records import replace
from costmodel.workload.architecture import Architecture, Attention, DenseFfn, Layer
from costmodel.workload.counting import kv_bytes_per_token
from costmodel.workload.dtypes import GroupScaling, element_bytes, math_unit
from costmodel.workload.layers import model_work
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm
from costmodel.workload.scenario import Framework, Parallelism, Precision, Scenario, Tile
from costmodel.workload.work import LayerWork

AWQ = replace(BF16, weights="int4", weight_scaling=GroupScaling(128.0, zero="int4"), master=None)
GPTQ_SYMMETRIC = replace(AWQ, weight_scaling=GroupScaling(128.0))
INT8 = replace(BF16, linear="int8", weights="int8", master=None)
KV4 = replace(BF16, kv_cache="int4", kv_scaling=GroupScaling(64.0, zero="fp16"))

LLAMA_2_7B = Architecture(
    "llama-2-7b", 4096.0, 32_000.0,
    (Layer(32, Attention(32.0, 32.0, 128.0, 128.0), DenseFfn(11_008.0, gated=True)),),
)  # fmt: skip
LLAMA_2_70B = Architecture(
    "llama-2-70b", 8192.0, 32_000.0,
    (Layer(80, Attention(64.0, 8.0, 128.0, 128.0), DenseFfn(28_672.0, gated=True)),),
)  # fmt: skip


def decoding(
    precision: Precision, architecture: Architecture = LLAMA_2_7B, framework: Framework = FRAMEWORK
) -> Scenario:
    return scenario(
        replace(DECODE, batch_per_device=1.0, micro_batches=1), architecture, precision=precision, framework=framework
    )


def weights_held(precision: Precision, architecture: Architecture = LLAMA_2_7B) -> float:
    ledger = ledger_of(decoding(precision, architecture))
    assert ledger is not None
    return float(ledger.weights)


def layer(precision: Precision, phase: str = "decode", architecture: Architecture = LLAMA_2_7B) -> LayerWork:
    view = replace(context(architecture, phase=phase, new_tokens=1.0, kv_len=1000.0), precision=precision)
    return model_work(view).layers[0]


def products(work: LayerWork) -> dict[str, Gemm]:
    return {item.name: item for item in work.forward if isinstance(item, Gemm)}


# ---- what an element takes ------------------------------------------------------------------------------------------


def test_a_group_shares_its_scale_and_its_zero_point() -> None:
    assert GroupScaling(128.0, zero="int4").element_bytes("int4") * 8 == 4 + 16 / 128 + 4 / 128
    assert GroupScaling(128.0).element_bytes("int4") * 8 == 4.125
    assert GroupScaling(32.0, "bf16", "bf16").element_bytes("int4") * 8 == 5
    assert GroupScaling(zero="fp16").element_bytes("int8") == 1
    assert GroupScaling(128.0).element_bytes("bf16") == 2  # 16 bits need no scale


def test_blocks_that_hold_their_scales_take_no_others() -> None:
    bits = {"nvfp4": 4.5, "mxfp4": 4.25, "q4_0": 4.5, "q8_0": 8.5, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625}
    for dtype, wanted in bits.items():
        assert element_bytes(dtype) * 8 == wanted
        assert element_bytes(dtype, 16.0) == element_bytes(dtype) == GroupScaling(16.0, "fp32").element_bytes(dtype)


def test_fp4_in_any_blocks_is_multiplied_in_one_unit() -> None:
    assert [math_unit(name) for name in ("nvfp4", "mxfp4", "fp4", "bf16", "int8")] == [
        "fp4",
        "fp4",
        "fp4",
        "bf16",
        "int8",
    ]


# ---- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "gigabytes"),
    [
        (LLAMA_2_7B, 3.89),  # TheBloke/Llama-2-7B-Chat-AWQ, model.safetensors
        (LLAMA_2_70B, 36.61),  # TheBloke/Llama-2-70B-AWQ, README
    ],
)
def test_weights_take_what_published_awq_checkpoints_take(architecture: Architecture, gigabytes: float) -> None:
    assert weights_held(AWQ, architecture) == pytest.approx(gigabytes * 1e9, abs=0.005e9)


def test_only_the_layers_projections_are_quantised() -> None:
    """32 layers of 4*4096^2 + 3*4096*11008 at 4.15625 bits; two tables of 32000*4096 and 65 norms at 16."""
    projections = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    assert weights_held(AWQ) == pytest.approx(projections * 4.15625 / 8 + 2 * (2 * 32_000 * 4096 + 65 * 4096))


def test_an_average_of_bits_stands_for_a_mixture_of_formats() -> None:
    mixture = replace(BF16, weights="q4_k", weight_bits=4.82, head_weights="q6_k")
    projections, table = 32 * (4 * 4096**2 + 3 * 4096 * 11_008), 32_000 * 4096
    wanted = projections * 4.82 / 8 + table * 6.5625 / 8 + 2 * (table + 65 * 4096)
    assert weights_held(mixture) == pytest.approx(wanted)


def test_a_tied_head_keeps_its_table_in_the_head_s_format() -> None:
    tied = replace(LLAMA_2_7B, tied_embeddings=True)
    table = 32_000 * 4096
    saved = weights_held(BF16, tied) - weights_held(replace(BF16, head_weights="q6_k"), tied)
    assert saved == pytest.approx(table * (2 - 210 / 256))


def test_shards_of_quantised_weights_sum_to_the_whole() -> None:
    split = replace(
        decoding(AWQ), parallel=Parallelism(tp=4.0), plan=replace(DECODE, batch_per_device=1.0, micro_batches=1)
    )
    ledger = ledger_of(split)
    assert ledger is not None
    norms = 65 * 4096 * 2
    assert 4 * (float(ledger.weights) - norms) == pytest.approx(weights_held(AWQ) - norms)


# ---- products -------------------------------------------------------------------------------------------------------


def test_products_read_weights_as_stored_and_multiply_as_before() -> None:
    plain, narrow = products(layer(BF16)), products(layer(AWQ))
    assert plain.keys() == narrow.keys()
    for name, product in narrow.items():
        assert (product.dtype, product.a_bytes, product.out_bytes) == ("bf16", 2.0, 2.0)
        assert product.b_bytes * 8 == pytest.approx(4.15625)
        assert (product.family, plain[name].family) == ("gemm_weight_only", "gemm")
        assert product.flop == plain[name].flop


def test_sixteen_bits_over_a_symmetric_group_of_128_is_marlin_s_3_87() -> None:
    """Marlin, README: at most 3.87 times faster, with 0.125 bits of storage overhead for the group scales."""
    ratio = products(layer(BF16))["ffn up"].b_bytes / products(layer(GPTQ_SYMMETRIC))["ffn up"].b_bytes
    assert ratio == pytest.approx(3.87, abs=0.01)


def test_router_head_and_embedding_keep_their_format() -> None:
    view = replace(context(MOE_MODEL, phase="decode", new_tokens=1.0, kv_len=100.0), precision=AWQ)
    work = model_work(view)
    router = products(work.layers[1])["router"]
    head = products(work.head)["vocabulary projection"]
    assert (router.b_bytes, head.b_bytes) == (2.0, 2.0)
    assert (router.family, head.family) == ("gemm", "gemm")
    assert products(work.layers[1])["expert up"].family == "grouped_gemm_weight_only"


def test_a_head_may_be_stored_narrower() -> None:
    view = replace(context(LLAMA_2_7B, phase="decode", new_tokens=1.0), precision=replace(BF16, head_weights="q6_k"))
    head = products(model_work(view).head)["vocabulary projection"]
    assert (head.b_bytes, head.family, head.dtype) == (210 / 256, "gemm_weight_only", "bf16")
    wide = replace(view, precision=replace(BF16, head_weights="fp32"))
    assert products(model_work(wide).head)["vocabulary projection"].b_bytes == 2.0  # cast before


def test_weights_wider_than_the_product_are_read_as_the_product_has_them() -> None:
    """V3's training keeps BF16 weights and multiplies FP8: casts are not counted, as before."""
    product = products(layer(replace(FP8, weights="bf16"), "training"))["ffn up"]
    assert product.b_bytes == 1 + 4 / 128**2
    assert product.family == "gemm"


def test_eight_bit_products_cast_their_inputs_and_run_on_their_own_unit() -> None:
    work = layer(INT8)
    product = products(work)["ffn up"]
    assert (product.dtype, product.a_bytes, product.b_bytes, product.family) == ("int8", 1.0, 1.0, "gemm")
    casts = [item for item in work.forward if isinstance(item, Elementwise) and item.name.endswith(" cast")]
    assert [item.name for item in casts] == [
        "qkv projection cast", "output projection cast", "ffn up cast", "ffn down cast",
    ]  # fmt: skip
    assert casts[2].traffic == 4096 * (2 + 1)


def test_block_scaled_fp4_reads_nine_bytes_for_sixteen_values() -> None:
    product = products(layer(replace(BF16, linear="nvfp4", weights="nvfp4")))["ffn up"]
    assert (product.dtype, product.a_bytes, product.b_bytes, product.family) == ("fp4", 9 / 16, 9 / 16, "gemm")
    on_bf16 = products(layer(replace(BF16, weights="nvfp4")))["ffn up"]
    assert (on_bf16.dtype, on_bf16.a_bytes, on_bf16.b_bytes, on_bf16.family) == (
        "bf16",
        2.0,
        9 / 16,
        "gemm_weight_only",
    )


def test_decoding_one_token_takes_at_least_its_weights_over_the_bandwidth() -> None:
    for precision in (BF16, GPTQ_SYMMETRIC, AWQ, replace(BF16, weights="int8")):
        read = weights_held(precision) - 32_000 * 4096 * 2  # the embedding is looked up
        time = evaluate_single(decoding(precision), Calibration()).metrics["tpot"]
        assert isinstance(time, float)
        assert time >= read / 2e12


@pytest.mark.parametrize(("model", "active", "bandwidth", "told"), [
    ("deepseek_v2", 21e9, 256e9, 20), ("deepseek_v2", 21e9, 500e9, 40), ("llama2_70b_a100", 69e9, 256e9, 7),
])  # fmt: skip
def test_four_bits_of_what_a_token_visits_bound_a_pc_s_tokens(
    model: str, active: float, bandwidth: float, told: float
) -> None:
    """Nearly 20 a second of V2 on a PC, or twice that; a dense 70 billion some [arXiv 2505.09343, section 2.2.2]."""
    known = costmodel.load(model)
    architecture = known.scenario(known.scenarios[0]).architecture
    pc = with_device(CLUSTER, with_level(DEVICE, "hbm", bandwidth, 256e9))
    four = replace(BF16, weights="int4", head_weights="int4", master=None)
    of = replace(decoding(four, architecture, replace(FRAMEWORK, launch=0.0)), cluster=pc)
    rate = evaluate_single(of, Calibration()).metrics["tokens_per_second_per_user"]
    assert isinstance(rate, float)
    assert 0.85 < rate / (bandwidth / (active * 0.5)) <= 1.02
    assert rate == pytest.approx(told, rel=0.1)


def test_few_rows_wait_for_no_more_than_a_small_tile() -> None:
    """At 64 rows a device with slow tensor cores would be limited by rows that are padding."""
    slow = with_device(CLUSTER, replace(DEVICE, math={**DEVICE.math, "bf16": MathUnit(1_000.0, 1e9)}))
    tiled = replace(FRAMEWORK, weight_only_tiles=(Tile(16, 128, 16),))
    times = [
        evaluate_single(replace(decoding(precision, framework=framework), cluster=slow), Calibration()).metrics["tpot"]
        for precision, framework in ((AWQ, FRAMEWORK), (AWQ, tiled), (BF16, tiled))
    ]
    coarse, fine, plain = (float(time) for time in times if time is not None)
    assert fine < coarse / 2
    assert plain == evaluate_single(replace(decoding(BF16), cluster=slow), Calibration()).metrics["tpot"]


@pytest.mark.parametrize(
    ("device", "family", "dtype"),
    [("a100-sxm-80gb", "gemm", "bf16"), ("a40", "gemm", "fp16"), ("a100-sxm-80gb", "grouped_gemm", "bf16")],
)
def test_kernels_that_expand_weights_rest_on_the_fit_of_plain_products(device: str, family: str, dtype: str) -> None:
    known = load_calibration(device, replace(FRAMEWORK, implementations={}))
    plain, expanding = (known.families[f"{product}/{dtype}"] for product in (family, f"{family}_weight_only"))
    assert (plain.basis, expanding.basis) == ("fitted", "transferred")
    assert (expanding.form, expanding.source) == (plain.form, plain.source)


def test_kernels_that_expand_weights_start_from_the_roofline_s_spread_where_no_product_was_fitted() -> None:
    known = load_calibration("mi300x", replace(FRAMEWORK, implementations={}))
    for family in ("gemm", "grouped_gemm"):
        expanded = known.family(f"{family}_weight_only")
        assert expanded.basis == "roofline"
        assert expanded.spread.times == known.family(family).spread.times


def test_training_refuses_weights_that_it_could_not_update() -> None:
    with pytest.raises(InputError, match="weights in int4 under products in bf16 cannot be trained"):
        evaluate_point(scenario(precision=AWQ), Calibration())


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_a_cached_element_carries_its_share_of_scale_and_zero_point() -> None:
    assert KV4.kv_element == 0.5 + 4 / 64
    assert replace(KV4, kv_scaling=GroupScaling(64.0)).kv_element == 0.5 + 2 / 64
    assert replace(BF16, kv_cache="fp8").kv_element == 1.0
    assert BF16.kv_element == 2.0


def test_cores_read_and_write_the_cache_as_stored() -> None:
    architecture = Architecture("one", 1024.0, 1000.0, (Layer(1, GQA, DenseFfn(2048.0, gated=True)),))
    plain, narrow = (layer(precision, architecture=architecture) for precision in (BF16, KV4))

    def of(work: LayerWork, name: str) -> float:
        (found,) = [item for item in work.forward if item.name == name]
        assert isinstance(found, AttentionKernel | Elementwise)
        return float(found.traffic)

    cached = 1000 * 4 * (64 + 64)
    assert of(plain, "attention core") - of(narrow, "attention core") == cached * (2 - 0.5625)
    assert of(plain, "kv cache write") - of(narrow, "kv cache write") == 4 * 128 * (2 - 0.5625)


def test_the_ledger_holds_the_cache_with_its_scales_and_the_model_s_fact_stays_at_bf16() -> None:
    ledgers = [ledger_of(decoding(precision)) for precision in (BF16, KV4, replace(BF16, kv_cache="fp8"))]
    plain, four, eight = (float(ledger.kv_cache) for ledger in ledgers if ledger is not None)
    assert four == pytest.approx(plain * 0.5625 / 2)
    assert eight == pytest.approx(plain / 2)
    assert kv_bytes_per_token(LLAMA_2_7B) == 32 * 2 * 4096 * 2


def test_bits_may_be_an_axis() -> None:
    bits = np.array([16.0, 8.0, 5.0, 4.0, 2.5])
    precision = replace(BF16, weights="int4", weight_bits=bits)
    ledger = ledger_of(decoding(precision))
    assert ledger is not None
    assert np.all(np.diff(np.asarray(ledger.weights)) < 0)
