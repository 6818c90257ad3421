"""What each word of the model grammar costs: parameters, operators and kept tensors, counted by hand."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from builders import DECODE, DENSE_MODEL, FP8, GQA, MOE, STEP, context, kv_bytes_per_sequence, scenario, spreads

from costmodel.analytic.evaluation import evaluate
from costmodel.records import replace
from costmodel.workload.architecture import (
    Architecture,
    Attention,
    DenseFfn,
    HeadGroup,
    Layer,
    MoeFfn,
    Pattern,
    stage_layout,
)
from costmodel.workload.counting import attention_flop_per_token, parameter_count
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.operators import Collective, Elementwise, Gemm, Operator
from costmodel.workload.scenario import Parallelism
from costmodel.workload.work import LayerWork

D, V, F = 1024, 32_000, 2816  # of the models below: hidden, vocabulary, FFN
H, G, Q = 16, 4, 64  # query heads, key-value heads, width of a head
TOKENS, E = 1024, 2  # tokens of a micro-batch, bytes of an element
STREAM = TOKENS * D * E
LAYER = Layer(1, GQA, DenseFfn(float(F), gated=True))
PLAIN = Layer(1, Attention(16.0, 16.0, 64.0, 64.0), DenseFfn(4096.0, gated=False), norm="layer")


def model(*layers: Layer, **ends: object) -> Architecture:
    """Return a model of these layers."""
    return replace(DENSE_MODEL, layers=layers, **ends)  # type: ignore[arg-type]


def work(architecture: Architecture, **view: object) -> ModelWork:
    """Return the work of a model on one rank."""
    return model_work(replace(context(architecture), **view))  # type: ignore[arg-type]


def layer_work(layer: Layer, **view: object) -> LayerWork:
    """Return the work of a layer on one rank."""
    return work(model(layer), **view).layers[0]


def parameters(layer: Layer) -> float:
    """Return the parameters of one layer."""
    return float(sum(item.total for item in layer_work(layer).parameters))


def with_mixer(**changes: object) -> Layer:
    """Return the layer with its attention changed."""
    return replace(LAYER, mixer=replace(GQA, **changes))  # type: ignore[arg-type]


def with_experts(**changes: object) -> Layer:
    """Return a layer of experts with some of their words changed."""
    return replace(LAYER, ffn=replace(MOE, groups=None, group_top_k=None, **changes))  # type: ignore[arg-type]


def kept(of: LayerWork) -> float:
    """Return the bytes that a layer keeps for its backward pass."""
    return float(sum(item.size for item in of.saved))


def traffic(operators: Iterable[Operator], name: str) -> float:
    """Return the bytes of the element-wise operators of a name."""
    return float(sum(item.traffic for item in operators if isinstance(item, Elementwise) and item.name == name))


def names(operators: Iterable[Operator]) -> list[str]:
    """Return the names of operators in order."""
    return [item.name for item in operators]


# ---- attention ------------------------------------------------------------------------------------------------------


def test_biases_of_queries_keys_and_values_come_without_that_of_the_output() -> None:
    whole = (H + 2 * G) * Q
    none, inner, all_of_them = (
        parameters(with_mixer(bias=bias, output_bias=output))
        for bias, output in ((False, None), (True, False), (True, None))
    )
    assert (inner - none, all_of_them - none) == (whole, whole + D)


@pytest.mark.parametrize(("kind", "vectors"), [("head", 2 * Q), ("projection", (H + G) * Q)])
def test_a_norm_of_queries_and_keys_is_one_pass_over_both_before_they_are_rotated(kind: str, vectors: int) -> None:
    plain, normed = layer_work(LAYER), layer_work(with_mixer(qk_norm=kind))
    size = TOKENS * (H + G) * Q * E
    assert parameters(with_mixer(qk_norm=kind)) - parameters(LAYER) == vectors
    assert traffic(normed.forward, "query-key norm") == 2 * size
    assert traffic(normed.input_gradient, "query-key norm gradient") == 3 * size
    assert kept(normed) - kept(plain) == size
    order = names(normed.forward)
    assert order.index("qkv projection") < order.index("query-key norm") < order.index("rotary")


def test_a_norm_over_the_projection_is_split_as_the_projection_is_and_one_a_head_is_not() -> None:
    split = replace(context(model(with_mixer(qk_norm="projection"))), parallel=Parallelism(tp=4.0))
    local = next(item.local for item in model_work(split).layers[0].parameters if item.name == "query-key norm")
    assert local == (H + G) * Q / 4
    shared = replace(context(model(with_mixer(qk_norm="head"))), parallel=Parallelism(tp=4.0))
    assert next(i.local for i in model_work(shared).layers[0].parameters if i.name == "query-key norm") == 2 * Q


def test_a_layer_norm_of_queries_and_keys_has_biases_too() -> None:
    layer = replace(with_mixer(qk_norm="head"), norm="layer")
    assert parameters(layer) - parameters(replace(LAYER, norm="layer")) == 2 * 2 * Q


def test_recomputing_the_projection_repeats_the_norm_and_the_rotation() -> None:
    again = layer_work(with_mixer(qk_norm="head"), recompute=frozenset({"qkv"}))
    repeated = names(again.input_gradient)
    assert {"qkv projection", "query-key norm", "rotary"} <= set(repeated)
    assert not [item.name for item in again.saved if item.producer == "qkv"]


def test_rotation_moves_the_elements_that_are_rotated() -> None:
    assert traffic(layer_work(LAYER).forward, "rotary") == 2 * TOKENS * (H + G) * Q * E
    assert traffic(layer_work(with_mixer(rotary_dim=16.0)).forward, "rotary") == 2 * TOKENS * (H + G) * 16 * E


def test_alibi_costs_what_no_positions_cost() -> None:
    none, slopes = (layer_work(with_mixer(rotary=False, alibi=alibi)) for alibi in (False, True))
    assert names(slopes.forward) == names(none.forward)
    assert kept(slopes) == kept(none)
    assert parameters(with_mixer(rotary=False, alibi=True)) == parameters(LAYER)


# ---- blocks and norms -----------------------------------------------------------------------------------------------


def block(**changes: object) -> LayerWork:
    return layer_work(replace(PLAIN, **changes))  # type: ignore[arg-type]


def test_a_parallel_block_keeps_its_input_once() -> None:
    sequential, two, one = block(), block(block="parallel"), block(block="parallel", shared_norm=True)
    assert kept(sequential) - kept(two) == STREAM  # one norm's input less
    assert kept(sequential) - kept(one) == 2 * STREAM  # and one product's input less


def test_a_parallel_block_has_the_norms_that_it_says() -> None:
    sequential, two, one = (
        parameters(replace(PLAIN, block=kind, shared_norm=shared))
        for kind, shared in (("sequential", False), ("parallel", False), ("parallel", True))
    )
    assert sequential == two == one + 2 * D


def test_a_parallel_block_adds_both_branches_in_its_norm() -> None:
    """It reads x and two results and writes their sum and one or two normed tensors; backward reads two gradients."""
    for shared, written in ((True, 1), (False, 2)):
        found = block(block="parallel", shared_norm=shared)
        assert traffic(found.forward, "block norm") == (4 + written) * STREAM
        assert traffic(found.input_gradient, "block norm gradient") == 5 * STREAM
    both = traffic(block().forward, "attention norm") + traffic(block().forward, "ffn norm")
    assert both == 8 * STREAM


def test_a_parallel_block_does_the_products_of_a_sequential_one() -> None:
    def products(of: LayerWork) -> float:
        every = (*of.forward, *of.input_gradient, *of.weight_gradient)
        return float(sum(item.flop for item in every if isinstance(item, Gemm)))

    assert products(block()) == products(block(block="parallel")) == products(block(block="parallel", shared_norm=True))


@pytest.mark.parametrize(
    ("changes", "forward", "backward"),
    [({}, 2, 2), ({"block": "parallel"}, 1, 2), ({"block": "parallel", "shared_norm": True}, 1, 1)],
)
def test_a_parallel_block_reduces_its_results_once_and_a_gradient_for_each_norm(
    changes: dict[str, object], forward: int, backward: int
) -> None:
    found = layer_work(replace(PLAIN, **changes), parallel=Parallelism(tp=4.0))  # type: ignore[arg-type]

    def reductions(operators: Iterable[Operator]) -> int:
        return len([item for item in operators if isinstance(item, Collective) and item.group.size == 4])

    assert (reductions(found.forward), reductions(found.input_gradient)) == (forward, backward)


def test_a_shared_norm_casts_its_result_once() -> None:
    def casts(shared: bool) -> int:
        layer = replace(PLAIN, block="parallel", shared_norm=shared)
        found = layer_work(layer, precision=FP8).forward
        return len([name for name in names(found) if name in {"qkv projection cast", "ffn up cast"}])

    assert (casts(True), casts(False)) == (1, 2)


def test_norms_after_the_branches_cost_an_add_and_keep_as_much() -> None:
    before, after = block(), block(norm_position="after")
    assert kept(after) == kept(before)
    assert parameters(replace(PLAIN, norm_position="after")) == parameters(PLAIN)
    assert traffic(after.forward, "attention norm") == 3 * STREAM
    assert traffic(after.input_gradient, "attention norm gradient") == 5 * STREAM


def test_norms_on_both_sides_add_two_norms_and_their_inputs() -> None:
    before, both = block(), block(norm_position="both")
    assert parameters(replace(PLAIN, norm_position="both")) - parameters(PLAIN) == 2 * 2 * D
    assert kept(both) - kept(before) == 2 * STREAM
    assert traffic(both.forward, "ffn output norm") == 2 * STREAM


@pytest.mark.parametrize(("kind", "vectors"), [("rms", 1), ("layer", 2), ("layer_no_bias", 1)])
def test_a_kind_of_norm_has_its_vectors(kind: str, vectors: int) -> None:
    attention = next(item for item in block(norm=kind).parameters if item.name == "attention norm")
    assert attention.total == vectors * D


# ---- experts --------------------------------------------------------------------------------------------------------


def test_experts_without_gates_have_two_matrices() -> None:
    one = D * 512
    assert parameters(with_experts()) - parameters(with_experts(gated=False)) == (64 + 1) * one
    up = next(item for item in layer_work(with_experts(gated=False)).forward if item.name == "expert up")
    assert isinstance(up, Gemm)
    assert up.n == 512


def test_biases_of_experts_are_each_expert_s_own_and_active_as_the_experts_are() -> None:
    plain, biased = (parameter_count(model(with_experts(bias=bias))) for bias in (False, True))
    one = 2 * 512 + D
    assert biased.total - plain.total == (64 + 1) * one
    assert biased.active - plain.active == (4 + 1) * one


def test_biases_of_experts_are_spread_over_the_ranks_that_hold_them() -> None:
    def local(bias: bool) -> float:
        seen = replace(context(model(with_experts(bias=bias, shared=0.0))), parallel=Parallelism(dp=8.0, ep=8.0))
        return float(sum(item.local for item in model_work(seen).layers[0].parameters if item.expert))

    assert local(True) - local(False) == 64 / 8 * (2 * 512 + D)


def test_a_router_may_have_a_bias() -> None:
    assert parameters(with_experts(router_bias=True)) - parameters(with_experts()) == 64


def test_the_gate_of_shared_experts_is_a_column_and_keeps_their_result() -> None:
    plain, gated = layer_work(with_experts()), layer_work(with_experts(shared_gate=True))
    assert parameters(with_experts(shared_gate=True)) - parameters(with_experts()) == D
    gate = next(item for item in gated.forward if item.name == "shared expert gate")
    assert isinstance(gate, Gemm)
    assert (gate.m, gate.n, gate.k) == (TOKENS, 1, D)
    assert kept(gated) - kept(plain) == STREAM


def test_experts_in_a_parallel_block_keep_its_input_once() -> None:
    layer = replace(with_experts(), block="parallel", shared_norm=True)
    inputs = [item.name for item in layer_work(layer).saved if item.producer == "norm" and item.size]
    assert inputs == ["qkv projection input"]


# ---- the ends -------------------------------------------------------------------------------------------------------


def total(**ends: object) -> float:
    return float(parameter_count(model(LAYER, **ends)).total)


def test_a_head_may_have_a_bias_also_where_its_matrix_is_the_embedding() -> None:
    assert total(head_bias=True) - total() == V
    assert total(head_bias=True, tied_embeddings=True) - total(tied_embeddings=True) == V


def test_a_model_without_a_final_norm_still_adds_the_last_branch() -> None:
    head = work(model(LAYER, final_norm="none")).head
    assert total() - total(final_norm="none") == D
    assert traffic(head.forward, "final residual add") == 3 * STREAM
    assert "final norm" not in names(head.forward)


def test_a_final_norm_may_be_of_another_kind() -> None:
    assert total(final_norm="layer") - total() == D


def test_the_final_norm_adds_what_the_last_layer_has_not() -> None:
    def final(**changes: object) -> float:
        return traffic(work(model(replace(LAYER, **changes))).head.forward, "final norm")  # type: ignore[arg-type]

    assert final() == final(norm_position="both") == 4 * STREAM
    assert final(block="parallel") == 5 * STREAM
    assert final(norm_position="after") == 2 * STREAM


def test_a_norm_of_the_embedding_is_one_more_norm() -> None:
    assert total(embedding_norm="layer") - total() == 2 * D
    embedding = work(model(LAYER, embedding_norm="layer")).embedding
    assert traffic(embedding.forward, "embedding norm") == 2 * STREAM


# ---- layers that take turns -----------------------------------------------------------------------------------------

WINDOWED = replace(LAYER, mixer=replace(GQA, head_groups=(HeadGroup(1.0, Pattern("window", 256.0)),)))
TURNS = model(*(WINDOWED, LAYER) * 4)
APART = model(*(replace(layer) for layer in TURNS.layers))  # the same layers, each an object of its own
RUNS = model(replace(WINDOWED, repeat=4), replace(LAYER, repeat=4))


def test_layers_that_take_turns_are_counted_as_runs_of_them() -> None:
    assert TURNS.depth == RUNS.depth == 8
    assert parameter_count(TURNS).total == parameter_count(RUNS).total
    assert kv_bytes_per_sequence(TURNS, 1024.0, E, 1.0) == 4 * 2 * G * Q * E * (256 + 1024)
    by_hand = 4 * 2 * H * 2 * Q * (512 + (256 - 256**2 / 2048))
    assert attention_flop_per_token(TURNS, 1024.0, causal=True) == by_hand


def test_a_kind_of_layer_is_expanded_once() -> None:
    assert [TURNS.kinds[layer] for layer in (WINDOWED, LAYER)] == [4, 4]
    assert len(work(TURNS).layers) == 2
    assert len(work(APART).layers) == 8


def test_stages_with_the_same_kinds_of_layers_are_one_kind_of_stage() -> None:
    stages = stage_layout(TURNS, 4)
    assert len(set(stages[1:-1])) == 1
    assert stages[1].layers == (1, 1)


@pytest.mark.parametrize("plan", [STEP, DECODE, replace(DECODE, micro_batches=1)])
def test_a_kind_that_comes_back_costs_what_equal_layers_cost(plan: object) -> None:
    calibration = spreads(1.0, 1.5, 2.0)
    parallel = Parallelism(pp=2.0) if plan is STEP else Parallelism()
    found = [
        evaluate(scenario(plan, architecture, parallel), calibration)  # type: ignore[arg-type]
        for architecture in (TURNS, APART)
    ]
    once, again = (one.metrics(None)[one.headline] for one in found)
    assert once == pytest.approx(again, rel=1e-12)
    held = [one.ledger.total for one in found if one.ledger is not None]
    assert held[0] == pytest.approx(held[1])


def test_experts_in_every_second_layer_are_half_of_those_in_all() -> None:
    experts: MoeFfn = replace(MOE, groups=None, group_top_k=None)
    dense, sparse = LAYER, replace(LAYER, ffn=experts)
    half, every, none = (
        parameter_count(model(*layers)).total for layers in ((dense, sparse) * 4, (sparse,) * 8, (dense,) * 8)
    )
    assert half == (every + none) / 2
