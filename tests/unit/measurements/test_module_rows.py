"""Whole attention modules: their rows hold the kernels of the model's layer, and nothing that the call did not time."""

from __future__ import annotations

import pytest

from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_rows
from costmodel.workload.operators import AttentionKernel, Gemm

DSA = "norm,q_b_proj,rope,kv_write,indexer_proj,indexer_logits,topk_select,absorb_bmm,attention,absorb_bmm,o_proj"
MLA = {
    "device": "H100_SXM", "op": "mla_module_decode", "framework": "vllm 0.24.0", "model": "deepseek-ai/DeepSeek-V3",
    "gemm_type": "bf16", "kv_dtype": "bf16", "batch": 4, "q_heads": 16, "q_len": 1, "kv_len": 1000,
    "includes": "qkv_a_proj;norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    return Catalogue()


@pytest.fixture
def kernels(table, shipped):
    """Return the kernels of one row by name."""

    def of(**changed):
        row = MLA | {"includes": "qkv_a_proj"} | changed
        row["includes"] = f'"{row["includes"]}"'
        ((part,), left_out) = map_rows(table(row), shipped)
        assert left_out == []
        assert part.family == row["op"]
        return {each.name: each for each in part.operators}

    return of


def one(value) -> float:
    return float(value.item() if hasattr(value, "item") else value)


def test_a_rank_has_its_share_of_heads_and_the_whole_projection_of_latents(kernels):
    found = kernels()
    down, up, out = (found[name] for name in ("latent projection", "query up", "output projection"))
    assert (one(down.n), one(down.k)) == (1536 + 512 + 64, 7168)
    assert (one(up.n), one(up.k)) == (16 * 192, 1536)
    assert (one(out.n), one(out.k)) == (7168, 16 * 128)
    assert (one(up.m), one(found["attention core"].heads)) == (4, 16)


def test_decoding_is_absorbed_and_a_prompt_s_attention_expanded(kernels):
    prompt = kernels(op="mla_module_prefill", q_len=1000)
    assert {"query absorption", "value absorption"} <= kernels().keys()
    assert "query absorption" not in prompt
    assert one(prompt["key-value up"].m) == 4 * 1000
    assert prompt["attention core"].family == "mla_prefill"


def test_vllm_computes_a_few_tokens_of_a_prompt_as_it_decodes(kernels):
    found = kernels(op="mla_module_prefill", q_len=64, kernel="FLASH_ATTN_MLA")
    assert found["attention core"].family == "mla_decode"
    assert one(found["query absorption"].m) == 4 * 64
    assert kernels(op="mla_module_prefill", q_len=64, kernel="FLASH_ATTN")["attention core"].family == "mla_prefill"


@pytest.mark.parametrize(("weights", "unit"), [("bf16", "bf16"), ("fp8_e4m3_blk128", "fp8"), ("nvfp4", "fp4")])
def test_weights_are_in_their_format_and_the_core_is_not(kernels, weights, unit):
    found = kernels(gemm_type=weights, device="B200_SXM", kv_dtype="fp8_e4m3")
    assert isinstance(found["query up"], Gemm)
    assert found["query up"].dtype == unit
    assert ("query up cast" in found) == (weights != "bf16")
    core = found["attention core"]
    assert isinstance(core, AttentionKernel)
    assert (core.dtype, core.quantized_kv, one(core.kv_token_bytes)) == ("bf16", True, 576)


V32 = {"op": "dsa_module_decode", "model": "deepseek-ai/DeepSeek-V3.2", "framework": "sglang 0.5.14"}


def test_a_projection_that_was_not_timed_is_not_there_nor_is_its_cast(kernels):
    whole = kernels(**V32, includes=f"qkv_a_proj,{DSA}", gemm_type="fp8_e4m3_blk128")
    part = kernels(**V32, includes=DSA, gemm_type="fp8_e4m3_blk128")
    assert whole.keys() - part.keys() == {"latent projection", "latent projection cast"}


def test_a_module_that_reuses_a_selection_has_no_indexer_but_selects(kernels):
    own, reused = kernels(**V32, includes=DSA), kernels(**V32, includes="norm,q_b_proj,absorb_bmm,attention,o_proj")
    assert {"indexer query", "indexer scores", "key selection"} <= own.keys() - reused.keys()
    assert own["attention core"].family == reused["attention core"].family == "sparse_mla_decode"
    assert one(reused["attention core"].selected) == 2048


def test_a_short_prompt_of_dsa_attends_to_all_keys_where_values_of_every_head_were_made(kernels):
    found = kernels(
        **V32 | {"op": "dsa_module_prefill"}, q_len=512, includes="norm,q_b_proj,kv_b_proj,attention,o_proj"
    )
    assert found["attention core"].family == "mla_prefill"
    assert "indexer query" not in found


@pytest.mark.parametrize(
    ("op", "model", "names"),
    [
        ("dsv4_csa_module_decode", "sgl-project/DeepSeek-V4-Flash-FP8", {"key pooling", "key selection"}),
        ("dsv4_hca_module_decode", "deepseek-ai/DeepSeek-V4-Pro", {"key pooling"}),
        ("msa_module_decode", "MiniMaxAI/MiniMax-M3", {"key selection", "qkv projection"}),
    ],
)
def test_modules_are_the_layers_of_their_model_that_have_such_attention(kernels, op, model, names):
    found = kernels(op=op, model=model, q_heads=8, includes="")
    assert names <= found.keys()
    assert ("key selection" in found) == ("hca" not in op)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"framework": "mine 1.0"}, "no framework file is named as `framework` mine 1.0"),
        ({"framework": ""}, "no framework file is named as `framework` is, which is blank"),
        ({"gemm_type": "w4a16"}, "no precision file has weights in w4a16"),
        ({"op": "msa_module_decode"}, "model deepseek-v3 has no msa_module"),
    ],
)
def test_a_row_that_names_nothing_known_is_left_out_and_says_why(table, shipped, changed, why):
    mapped, ((left,)) = map_rows(table(MLA | changed), shipped)
    assert mapped == []
    assert left.reason == why


def test_a_model_that_nobody_knows_is_left_out(table, shipped):
    mapped, (left,) = map_rows(table(MLA | {"model": "mine/Model"}), shipped)
    assert mapped == []
    assert left.reason.startswith("model mine/Model: ")
