"""Mixers of images and bags, stages of their own width and grid: work and parameters against counting."""

from __future__ import annotations

import math

import pytest
from builders import DENSE_MODEL, GQA, context

from costmodel.records import replace
from costmodel.workload.architecture import Convolution, DenseFfn, Gate, Layer, MilPool, Mixer, MoeFfn, NoFfn, Spectral
from costmodel.workload.layers import model_work
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise, Gemm
from costmodel.workload.work import LayerWork


def layer(mixer: Mixer, width: float | None = None, scale: float = 1.0, tokens: float = 196.0) -> LayerWork:
    model = replace(DENSE_MODEL, layers=(Layer(1, mixer, NoFfn(), width=width, scale=scale),))
    return model_work(context(model, phase="prefill", new_tokens=tokens)).layers[0]


def flop(work: LayerWork) -> float:
    return float(sum(each.flop for each in work.forward if isinstance(each, Gemm | Elementwise | AttentionKernel)))


def parameters(work: LayerWork, name: str) -> float:
    return float(sum(each.total for each in work.parameters if each.name == name))


def test_convolution() -> None:
    """A 3x3 convolution of stride 2 from 8 to 16 channels onto 14 x 14 places."""
    work = layer(Convolution(3.0, inputs=8.0, stride=2.0), width=16.0)
    counted = 0
    for _ in range(14 * 14):
        counted += 3 * 3 * 8 * 16
    assert flop(work) == 2 * counted
    assert parameters(work, "convolution") == 3 * 3 * 8 * 16
    (product,) = (each for each in work.forward if isinstance(each, Gemm))
    assert product.traffic == 2 * (28 * 28 * 8 + 9 * 8 * 16 + 14 * 14 * 16)  # each element once


def test_depth_wise_convolution() -> None:
    work = layer(Convolution(3.0, depthwise=True), width=16.0)
    assert flop(work) == 2 * 196 * 9 * 16
    assert parameters(work, "convolution") == 9 * 16


def test_stages_have_a_width_and_a_grid_of_their_own() -> None:
    assert flop(layer(Convolution(1.0), width=64.0, scale=0.25)) == 2 * 49 * 64 * 64
    assert flop(layer(replace(GQA, causal=False), scale=0.25)) == flop(layer(replace(GQA, causal=False), tokens=49.0))


def test_spectral_gate() -> None:
    work = layer(Spectral(14.0, 14.0), width=64.0)
    half = 14 * 8
    assert flop(work) == pytest.approx(64 * (5 * 196 * math.log2(196) + 6 * half))
    assert parameters(work, "spectral gate") == 2 * half * 64


def test_gate_and_pool() -> None:
    assert parameters(layer(Gate(heads=8.0)), "feature gate") == 16
    bag = layer(MilPool(branches=5.0, inner=128.0), tokens=1000.0)
    assert flop(bag) == 1000 * 2 * (2 * 1024 * 128 + 128 * 5 + 1024 * 5)
    assert flop(layer(MilPool(5.0, 128.0), tokens=10_000.0)) == pytest.approx(10 * flop(bag))


def test_partial_attention_projects_some_channels_only() -> None:
    """SHViT: one head over 48 of 320 channels with keys of 16; the output projection takes all of them."""
    mixer = replace(
        GQA, q_heads=1.0, kv_heads=1.0, head_dim=16.0, v_head_dim=48.0, partial=48.0, causal=False, rotary=False
    )
    work = layer(mixer, width=320.0, tokens=16.0)
    assert parameters(work, "qkv projection") == 48 * (16 + 16 + 48)
    assert parameters(work, "output projection") == 320 * 320
    assert flop(work) == 2 * 16 * (48 * 80 + 320 * 320) + 2 * 16 * 16 * (16 + 48)


def test_a_layer_without_ffn_is_its_mixer_alone() -> None:
    model = replace(DENSE_MODEL, layers=(Layer(1, GQA, DenseFfn(2816.0, gated=True)),))
    whole = model_work(context(model, phase="prefill")).layers[0]
    alone = model_work(context(replace(model, layers=(Layer(1, GQA, NoFfn()),)), phase="prefill")).layers[0]
    assert flop(whole) - flop(alone) == 2 * 1024 * 3 * 1024 * 2816


def test_a_plain_layer_folds_its_norm_and_has_one_pass_behind_it() -> None:
    model = replace(DENSE_MODEL, layers=(Layer(1, Convolution(1.0), NoFfn(), norm="layer", width=64.0, plain=True),))
    work = model_work(context(model, phase="prefill", new_tokens=49.0)).layers[0]
    assert [each.name for each in work.forward if not isinstance(each, Collective)] == ["convolution", "activation"]
    assert parameters(work, "folded norm") == 2 * 64
    assert sum(each.traffic for each in work.forward if isinstance(each, Elementwise)) == 2 * 49 * 64 * 2


def moe(ffn: MoeFfn) -> LayerWork:
    model = replace(DENSE_MODEL, layers=(Layer(1, GQA, ffn),))
    return model_work(context(model, phase="prefill", new_tokens=64.0, kv_len=64.0)).layers[0]


def test_masked_experts_send_their_tokens_to_the_others() -> None:
    ffn = MoeFfn(experts=16.0, intermediate=64.0, top_k=2)

    def rows(one: MoeFfn) -> float:
        return float(sum(each.flop for each in moe(one).forward if isinstance(each, Gemm) and "expert" in each.name))

    assert rows(replace(ffn, masked=0.25)) == pytest.approx(rows(ffn) / 0.75)
    assert [each.total for each in moe(replace(ffn, masked=0.25)).parameters] == [
        each.total for each in moe(ffn).parameters
    ]


@pytest.mark.parametrize(("extra", "work"), [("token_similarity", 64 * 64 * 1024), ("attention_matrix", 64 * 64 * 16)])
def test_routers_that_look_at_other_tokens(extra: str, work: int) -> None:
    ffn = MoeFfn(experts=16.0, intermediate=64.0, top_k=2)
    assert flop(moe(replace(ffn, router_extra=extra))) - flop(moe(ffn)) == 2 * work
