"""A pass of prompts and decoding requests does the work of both, with one kernel for what they share."""

from __future__ import annotations

import pytest
from builders import BF16, DENSE_MODEL, FP8, FRAMEWORK, GQA, MOE_MODEL, context

from costmodel.records import replace
from costmodel.workload.architecture import Architecture, DenseFfn, HeadGroup, Layer, Pattern
from costmodel.workload.context import Context
from costmodel.workload.dtypes import GroupScaling
from costmodel.workload.layers import model_work
from costmodel.workload.mixed import label_operators, merge_models, reuse_operators
from costmodel.workload.operators import (
    WEIGHT_ONLY,
    AttentionKernel,
    Collective,
    Elementwise,
    ExpertAllToAll,
    Gemm,
    HostGemm,
    HostTransfer,
    MixedAttention,
    Operator,
    base_name,
)
from costmodel.workload.passes import Pass, pass_work
from costmodel.workload.scenario import Offload, Parallelism, Routing

FOUR_BITS = replace(BF16, weights="int4", weight_scaling=GroupScaling(128.0))
LAYOUT = Parallelism(tp=2.0, dp=8.0, ep=16.0)


def parts(model: Architecture) -> tuple[Context, Context]:
    decode = context(model, LAYOUT, "decode", sequences=24.0, new_tokens=1.0, kv_len=900.0)
    chunk = context(model, LAYOUT, "prefill", sequences=1.0, new_tokens=256.0, kv_len=700.0)
    return replace(decode, precision=FP8), replace(chunk, precision=FP8)


def operators(*contexts: Context) -> list[Operator]:
    return list(pass_work(Pass(contexts, 1)).operators())


def experts(found: list[Operator]) -> Gemm:
    return next(one for one in found if isinstance(one, Gemm) and one.name == "expert up")


@pytest.mark.parametrize("model", [DENSE_MODEL, MOE_MODEL], ids=["dense", "moe"])
def test_flop_exchanges_and_collectives_of_both_are_conserved(model: Architecture) -> None:
    decode, chunk = parts(model)
    alone, together = [*operators(decode), *operators(chunk)], operators(decode, chunk)
    for kind, amount in (
        (Gemm, lambda one: one.flop),
        (AttentionKernel, lambda one: one.flop),
        (AttentionKernel, lambda one: one.traffic),
        (Elementwise, lambda one: one.traffic),
        (Elementwise, lambda one: one.rows),
        (ExpertAllToAll, lambda one: one.tokens),
        (Collective, lambda one: one.size),
    ):
        sums = [sum(amount(one) for one in found if isinstance(one, kind)) for found in (together, alone)]
        assert sums[0] == pytest.approx(sums[1], rel=1e-12), kind


@pytest.mark.parametrize("model", [DENSE_MODEL, MOE_MODEL], ids=["dense", "moe"])
def test_weights_are_read_once_for_both(model: Architecture) -> None:
    decode, chunk = parts(model)
    alike = replace(decode, sequences=decode.tokens + chunk.tokens)
    weights = [
        sum(one.groups * one.k * one.n * one.b_bytes for one in found if isinstance(one, Gemm) and one.family != "bmm")
        for found in (operators(decode, chunk), operators(alike))
    ]
    # The chunk of a latent-attention model expands its keys and values, which decoding does not.
    expansion = [one for one in operators(chunk) if isinstance(one, Gemm) and one.name == "key-value up"]
    extra = sum(one.k * one.n * one.b_bytes for one in expansion)
    assert weights[0] == pytest.approx(weights[1] + extra, rel=1e-12)


@pytest.mark.parametrize("model", [DENSE_MODEL, MOE_MODEL], ids=["dense", "moe"])
def test_narrow_weights_are_read_once_for_both_too(model: Architecture) -> None:
    decode, chunk = (replace(part, precision=FOUR_BITS) for part in parts(model))
    up = [one for one in operators(decode, chunk) if one.name in ("ffn up", "expert up")]
    alone = [one for part in (decode, chunk) for one in operators(part) if one.name in ("ffn up", "expert up")]
    assert len(up) == len(model.kinds) == len(alone) / 2
    assert {one.family for one in up} <= WEIGHT_ONLY
    rows = [sum(one.m * one.groups for one in found if isinstance(one, Gemm)) for found in (up, alone)]
    assert rows[0] == pytest.approx(rows[1])


def test_the_host_computes_its_experts_once_for_the_tokens_of_both() -> None:
    decode, chunk = (
        replace(part, parallel=Parallelism(), offload=Offload(experts="host", weights=0.5, kv_cache=0.25))
        for part in parts(MOE_MODEL)
    )
    layer = pass_work(Pass((decode, chunk), 1)).body.layers[1]
    alone = model_work(decode).layers[1], model_work(chunk).layers[1]
    (product,) = (one for one in layer.forward if isinstance(one, HostGemm) and one.name == "expert up")
    assert product.gemm.m * product.gemm.groups == pytest.approx(4 * (24 + 256))
    assert product.gemm.groups == pytest.approx(64)
    moved = [one for one in layer.forward if isinstance(one, HostTransfer)]
    assert [float(one.size) for one in moved] == [(24 + 256) * 1024 * 2] * 2
    beside = [[work.forward[at].name for at in sorted(work.beside_host)] for work in (layer, *alone)]
    assert beside[0] == beside[1] == beside[2] != []
    sizes = [{copy.name: copy.size for copy in work.host_transfers} for work in (layer, *alone)]
    assert sizes[0]["weights from the host"] == sizes[1]["weights from the host"]
    for name in ("cache from the host", "cache to the host"):
        assert sizes[0][name] == pytest.approx(sizes[1][name] + sizes[2][name])


@pytest.mark.parametrize("load", ["balanced", "uniform", "zipf"])
def test_experts_are_those_that_the_tokens_of_both_reach(load: str) -> None:
    """As in a pass of one kind with as many tokens, whichever of them come from where."""
    decode, chunk = (replace(part, routing=Routing(load, exponent=0.8)) for part in parts(MOE_MODEL))
    together = experts(operators(decode, chunk))
    alike = experts(operators(replace(decode, sequences=decode.tokens + chunk.tokens)))
    for name in ("m", "groups", "m_std", "expert_load"):
        assert getattr(together, name) == pytest.approx(getattr(alike, name), rel=1e-12), name
    alone = experts(operators(replace(decode, sequences=1.0)))
    assert alone.groups < together.groups


def test_a_step_without_decoding_requests_is_its_prompts() -> None:
    decode, chunk = (replace(part, routing=Routing("uniform")) for part in parts(MOE_MODEL))
    together = operators(replace(decode, sequences=0.0), chunk)
    alone = operators(chunk)
    assert sum(one.flop for one in together if isinstance(one, Gemm | AttentionKernel)) == pytest.approx(
        sum(one.flop for one in alone if isinstance(one, Gemm | AttentionKernel))
    )


def test_each_part_keeps_its_attention_kernel() -> None:
    cores = [one for one in operators(*parts(DENSE_MODEL)) if isinstance(one, AttentionKernel)]
    assert [core.family for core in cores] == ["attention_decode", "attention_prefill"]
    assert [float(core.q_len) for core in cores] == [1.0, 256.0]


ONE_CORE = replace(FRAMEWORK, implementations={"attention_mixed": "any"})


@pytest.mark.parametrize("windowed", [False, True])
def test_an_engine_s_one_kernel_for_both_does_the_work_of_two(windowed: bool) -> None:
    groups = (HeadGroup(0.5, Pattern()), HeadGroup(0.5, Pattern("window", 300.0)))
    layer = Layer(8, replace(GQA, head_groups=groups) if windowed else GQA, DenseFfn(2816.0, gated=True))
    model = replace(DENSE_MODEL, layers=(layer,))
    two, one = parts(model), [replace(part, framework=ONE_CORE) for part in parts(model)]
    apart, together = operators(*two), operators(*one)
    cores = [each for each in together if isinstance(each, MixedAttention)]
    assert len(cores) == (2 if windowed else 1)
    assert not any(isinstance(each, AttentionKernel) for each in together)
    assert len(together) == len(apart) - len(cores)
    for core in cores:
        assert [part.family for part in core.parts] == ["attention_prefill", "attention_decode"]
    for amount in (lambda each: each.flop, lambda each: each.traffic):
        alone = sum(amount(each) for each in apart if isinstance(each, AttentionKernel))
        assert sum(amount(core) for core in cores) == pytest.approx(alone, rel=1e-12)


def test_latent_attention_and_shared_sequences_keep_two_kernels() -> None:
    for model, parallel in ((MOE_MODEL, LAYOUT), (DENSE_MODEL, Parallelism(cp=2.0))):
        seen = [replace(part, framework=ONE_CORE, parallel=parallel) for part in parts(model)]
        assert not any(isinstance(each, MixedAttention) for each in operators(*seen))


def test_a_narrow_cache_chooses_the_kernel_for_both() -> None:
    narrow = replace(BF16, kv_cache="fp8")
    seen = [replace(part, framework=ONE_CORE, precision=narrow) for part in parts(DENSE_MODEL)]
    (core,) = (each for each in operators(*seen) if isinstance(each, MixedAttention))
    assert core.variant == "bf16_kvquant"


def test_the_order_of_a_layer_is_kept() -> None:
    decode, chunk = parts(MOE_MODEL)
    layer = merge_models(model_work(decode), model_work(chunk)).layers[1].forward
    names = [one.name for one in layer]
    ordered = ["attention norm", "query up", "attention core", "output projection", "dispatch", "expert up", "combine"]
    assert [name for name in names if name in ordered if names.count(name) == 1] == [
        name for name in ordered if names.count(name) == 1
    ]
    assert names.index("dispatch") < names.index("expert up") < names.index("expert down") < names.index("combine")
    assert names.count("dispatch") == names.count("expert up") == 1


def test_a_label_stands_before_every_name_and_casts_still_share_a_line() -> None:
    work = label_operators(model_work(parts(MOE_MODEL)[0]).layers[1], "decode")
    assert {one.name.partition(": ")[0] for one in work.forward} == {"decode"}
    assert base_name("decode: query up cast") == "decode: casts"
    assert base_name("decode: attention core") == "decode: attention core"
    assert base_name("attention core gradient") == "attention core"


def test_only_what_the_length_changes_is_an_operator_of_its_own() -> None:
    decode, _ = parts(DENSE_MODEL)
    known = model_work(decode).layers[0]
    longer = reuse_operators(model_work(replace(decode, kv_len=901.0)).layers[0], known.forward)
    new = [one for one in longer.forward if all(one is not other for other in known.forward)]
    assert [one.name for one in new] == ["attention core"]


def test_context_parallel_keys_of_a_chunk_still_land_somewhere() -> None:
    decode, chunk = (replace(part, parallel=Parallelism(cp=4.0)) for part in parts(DENSE_MODEL))
    alone, together = model_work(chunk).layers[0], merge_models(model_work(decode), model_work(chunk)).layers[0]
    assert together.receive_buffers == alone.receive_buffers > 0
