"""Parameters, caches and FLOP against published counts and counts by hand."""

from __future__ import annotations

import pytest
from builders import DENSE_MODEL, GPT_22B, GQA, MOE_MODEL, context, kv_bytes_per_sequence

import costmodel
from costmodel.records import replace
from costmodel.schema.resolve import resolve
from costmodel.workload.architecture import Architecture, DenseFfn, HeadGroup, Layer, Pattern
from costmodel.workload.counting import (
    attention_flop_per_token,
    kv_bytes_per_token,
    parameter_count,
    training_flop_per_token,
)


def published(model: str) -> Architecture:
    """Return a shipped model."""
    resolved = resolve("deepseek_v3", overrides={"model": f"models/{model}"}, scenarios=["decode_ep_bound"])
    return resolved.scenarios["decode_ep_bound"].architecture


def test_v3_counts_are_those_of_its_report(v3: costmodel.Workload) -> None:
    model = v3.model()
    assert model["parameters"] == pytest.approx(671.03e9, rel=1e-5)
    assert model["active_parameters"] == pytest.approx(36.62e9, rel=1e-3)
    assert model["active_parameters_with_embedding"] == pytest.approx(37.55e9, rel=1e-3)
    assert model["kv_cache_bytes_per_token"] == 70_272
    assert model["training_flop_per_token"] == pytest.approx(250e9, rel=0.015)


def test_the_mtp_module_of_v3_is_a_layer_and_a_projection(v3: costmodel.Workload) -> None:
    attention = 7168 * (1536 + 576) + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168 + 1536 + 512
    experts = 257 * 3 * 7168 * 2048 + 256 * 7168
    layer = attention + experts + 2 * 7168
    assert v3.model()["mtp_parameters"] == layer + 2 * 7168**2 + 3 * 7168


@pytest.mark.parametrize(
    ("model", "kv_bytes"), [("qwen2.5-72b", 327_680), ("llama-3.1-405b", 516_096), ("deepseek-v3", 70_272)]
)
def test_kv_cache_of_a_token_is_exact(model: str, kv_bytes: float) -> None:
    assert kv_bytes_per_token(published(model)) == kv_bytes


@pytest.mark.parametrize(
    ("model", "flop"), [("deepseek-v3", 250e9), ("deepseek-v2", 155e9), ("llama-3.1-405b", 2448e9)]
)
def test_training_flop_of_a_token_is_as_published_at_4096(model: str, flop: float) -> None:
    architecture = published(model)
    assert training_flop_per_token(architecture, parameter_count(architecture).active, 4096.0) == pytest.approx(
        flop, rel=0.015
    )


@pytest.mark.parametrize(
    ("model", "parameters"), [("llama-3-8b", 8.03e9), ("llama-3.1-405b", 405.85e9), ("deepseek-v2", 235.7e9)]
)
def test_parameters_are_as_published(model: str, parameters: float) -> None:
    architecture = published(model)
    count = parameter_count(architecture)
    assert count.total == pytest.approx(parameters, rel=2e-3)


def test_a_dense_model_has_the_parameters_of_its_matrices_and_norms() -> None:
    d, f, vocabulary = 1024, 2816, 32_000
    layer = d * (16 + 2 * 4) * 64 + 16 * 64 * d + 3 * d * f + 2 * d
    count = parameter_count(DENSE_MODEL)
    assert count.total == 8 * layer + 2 * vocabulary * d + d
    assert count.active == count.total - vocabulary * d
    assert count.active_with_embedding == count.total
    assert count.mtp == 0


def test_a_token_visits_only_its_experts() -> None:
    count = parameter_count(MOE_MODEL)
    idle = 6 * (64 - 4) * 3 * 1024 * 512
    assert count.total - count.active_with_embedding == pytest.approx(idle)


def test_a_tied_head_adds_no_parameters_but_works() -> None:
    tied = replace(DENSE_MODEL, tied_embeddings=True)
    apart, together = (parameter_count(model) for model in (DENSE_MODEL, tied))
    assert apart.total - together.total == 32_000 * 1024
    assert apart.active == together.active


def test_biases_and_positions_are_counted() -> None:
    d = 6144
    layer = 12 * d * d + 13 * d  # four biases of 3d + d + 4d + d, two norms of 2d each
    count = parameter_count(GPT_22B)
    assert count.total == 48 * layer + (51_200 + 2048) * d + 2 * d


def test_a_window_bounds_what_a_sequence_keeps_but_not_what_a_token_writes() -> None:
    groups = (HeadGroup(0.75, Pattern("window", 512.0)), HeadGroup(0.25, Pattern()))
    mixed = replace(DENSE_MODEL, layers=(Layer(8, replace(GQA, head_groups=groups), DenseFfn(2816.0, gated=True)),))
    token = 8 * 4 * 128 * 2
    assert kv_bytes_per_token(mixed) == token
    assert kv_bytes_per_sequence(mixed, 2048.0, 2.0, 1.0) == token * (0.75 * 512 + 0.25 * 2048)
    assert kv_bytes_per_sequence(mixed, 256.0, 2.0, 1.0) == token * 256


def test_tensor_parallelism_splits_the_cache_of_heads_down_to_one_and_a_latent_never() -> None:
    whole = kv_bytes_per_token(DENSE_MODEL)
    assert [kv_bytes_per_token(DENSE_MODEL, tp=tp) for tp in (2.0, 4.0, 16.0)] == [whole / 2, whole / 4, whole / 4]
    assert kv_bytes_per_token(MOE_MODEL, tp=8.0) == kv_bytes_per_token(MOE_MODEL) == 8 * (128 + 32) * 2


def test_causal_attention_sees_half_the_keys() -> None:
    full = attention_flop_per_token(DENSE_MODEL, 2048.0, causal=False)
    assert full == 8 * 2 * 16 * 128 * 2048
    assert attention_flop_per_token(DENSE_MODEL, 2048.0, causal=True) == full / 2


def test_the_model_flop_of_a_window_are_those_that_its_pairs_take() -> None:
    window, sequence = 1024.0, 2048.0
    mixer = replace(GQA, head_groups=(HeadGroup(1.0, Pattern("window", window)),))
    model = replace(DENSE_MODEL, layers=(Layer(8, mixer, DenseFfn(2816.0, gated=True)),))
    pairs = context(new_tokens=sequence).pairs(Pattern("window", window), causal=True)
    per_token = 8 * 2 * 16 * 128 * pairs / sequence
    assert attention_flop_per_token(model, sequence, causal=True) == pytest.approx(per_token, rel=2e-3)


def test_frozen_parameters_have_no_gradient_and_a_reference_has_a_pass_forward_of_its_own() -> None:
    model, active, sequence = MOE_MODEL, 1e9, 1024.0
    attention = attention_flop_per_token(model, sequence, causal=True)
    trained, frozen, compared = (
        training_flop_per_token(model, active, sequence, **keys) for keys in ({}, {"frozen": active}, {"passes": 1.0})
    )
    assert trained == pytest.approx(6 * active + 3 * attention)
    assert frozen == pytest.approx(4 * active + 3 * attention)
    assert compared - trained == pytest.approx(2 * active + attention)
