"""Adapters of a frozen model and preference training: what they compute, hold and move, and their limits."""

from __future__ import annotations

import numpy as np
import pytest
from builders import BF16, CLUSTER, DENSE_MODEL, MOE_MODEL, STEP, assert_adds_up, scenario

from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.analytic.training.step_model import training_context
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.adapters import Adapters
from costmodel.workload.architecture import Architecture
from costmodel.workload.counting import adapter_parameters, parameter_count
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.memory import Ledger
from costmodel.workload.operators import Collective, Elementwise, Gemm
from costmodel.workload.plans import Preference, Sharding, Training
from costmodel.workload.scenario import Parallelism, Scenario
from costmodel.workload.validity import rules

RANK = 16.0
LORA = Adapters(RANK)
QLORA = Adapters(RANK, base_precision="nf4")
WIDTHS = {"q": (1024, 1024), "k": (1024, 256), "v": (1024, 256), "o": (1024, 1024)}
WIDTHS |= {"gate": (1024, 2816), "up": (1024, 2816), "down": (2816, 1024)}
TRAINED = 8 * sum(RANK * (inputs + outputs) for inputs, outputs in WIDTHS.values())
SHORT = replace(STEP, global_batch=8.0, sequence=1024.0)


def step(adapters: Adapters | None, plan: Training = SHORT, **other: object) -> Scenario:
    return scenario(replace(plan, adapters=adapters), **other)  # type: ignore[arg-type]


def point(of: Scenario) -> Point:
    return evaluate_point(of, Calibration())


def held(of: Scenario) -> Ledger:
    ledger = ledger_of(of)
    assert ledger is not None
    return ledger


def work(of: Scenario) -> ModelWork:
    assert isinstance(of.plan, Training)
    return model_work(training_context(of, of.plan))


def products(of: Scenario, name: str) -> list[Gemm]:
    return [each for each in work(of).layers[0].operators if isinstance(each, Gemm) and each.name.startswith(name)]


# ---- products -------------------------------------------------------------------------------------------------------


def test_a_frozen_product_takes_4_flop_a_weight_and_token_and_a_trained_one_6() -> None:
    for adapters, factor in ((None, 6.0), (LORA, 4.0)):
        flop = sum(each.flop for each in products(step(adapters), "ffn down"))
        assert flop == factor * 2816 * 1024 * 1024


def test_an_adapter_is_six_products_of_its_rank() -> None:
    found = products(step(Adapters(RANK, ("down",))), "adapter")
    shapes = {(each.name, each.m, each.n, each.k) for each in found}
    rows, inputs, outputs = 1024, 2816, 1024
    assert shapes == {
        ("adapter A", rows, RANK, inputs),
        ("adapter B", rows, outputs, RANK),
        ("adapter B input gradient", rows, RANK, outputs),
        ("adapter B weight gradient", RANK, outputs, rows),
        ("adapter A input gradient", rows, inputs, RANK),
        ("adapter A weight gradient", inputs, RANK, rows),
    }


def test_one_adapter_on_joined_layers_has_one_a_for_all_of_them() -> None:
    joined, apart = (adapter_parameters(DENSE_MODEL, Adapters(RANK, names))[0] for names in (("qkv",), ("q", "k", "v")))
    assert joined == 8 * RANK * (1024 + 1536)
    assert apart == 8 * RANK * (3 * 1024 + 1536)


def test_without_targets_all_linear_layers_have_adapters_and_the_head_none() -> None:
    assert adapter_parameters(DENSE_MODEL, LORA)[0] == TRAINED
    with_head = Adapters(RANK, ("vocabulary_projection",))
    assert adapter_parameters(DENSE_MODEL, with_head)[0] == RANK * (1024 + 32_000)


def test_experts_have_adapters_each_and_a_token_visits_those_of_its_experts() -> None:
    total, active = adapter_parameters(MOE_MODEL, Adapters(RANK, ("down",)))
    dense, each, shared = 2 * RANK * (2816 + 1024), RANK * (512 + 1024), RANK * (512 + 1024)
    assert total == pytest.approx(dense + 6 * (64 * each + shared))
    assert active == pytest.approx(dense + 6 * (4 * each + shared))


# ---- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [DENSE_MODEL, MOE_MODEL])
def test_rank_0_is_a_frozen_model_without_adapters(model: Architecture) -> None:
    frozen = step(Adapters(0.0), architecture=model)
    kinds = work(frozen).kinds
    assert not any(each.weight_gradient for each in kinds)
    assert not any(item.trains for each in kinds for item in each.parameters)
    assert not any("adapter" in each.name for kind in kinds for each in kind.operators)
    assert (
        point(frozen).metrics["step_time"]
        == point(step(Adapters(0.0, ("o",)), architecture=model)).metrics["step_time"]
    )
    memory = held(frozen)
    assert memory.gradients == memory.optimizer == 0


def test_rank_0_equals_frozen_training_without_gradients_of_weights_and_without_an_optimizer() -> None:
    frozen, full = work(step(Adapters(0.0))).layers[0], work(step(None)).layers[0]
    assert [each.name for each in frozen.forward] == [each.name for each in full.forward]
    assert [each.name for each in frozen.input_gradient] == [each.name for each in full.input_gradient]
    schedule, trained = (point(step(each)).schedule for each in (Adapters(0.0), None))
    assert schedule is not None
    assert trained is not None
    assert schedule["optimizer"] == 0
    assert schedule["forward"] == pytest.approx(trained["forward"])
    assert schedule["backward_input"] < 0.7 * trained["backward_input"]  # products of weights' gradients are half


def test_more_rank_is_never_faster_and_a_sweep_of_ranks_is_its_points() -> None:
    ranks = np.array([1.0, 8.0, 64.0, 512.0])
    grid = evaluate_grid(step(Adapters(ranks)), Calibration(), (4,)).metrics["step_time"]
    points = [point(step(Adapters(float(rank)))).metrics["step_time"] for rank in ranks]
    assert grid == pytest.approx(points)
    assert (np.diff(np.asarray(grid)) > 0).all()


def test_one_rank_exchanges_nothing() -> None:
    assert point(step(LORA)).metrics["exposed_communication_time"] == 0


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_gradients_and_states_are_of_adapters_alone() -> None:
    memory, full = held(step(LORA)), held(step(None))
    assert memory.gradients == 4 * TRAINED
    assert memory.optimizer == 12 * TRAINED
    assert memory.weights == full.weights + 2 * TRAINED


def test_nf4_weights_take_4_127_bits_each() -> None:
    linear = 8 * sum(inputs * outputs for inputs, outputs in WIDTHS.values())
    wide, narrow = held(step(LORA)).weights, held(step(QLORA)).weights
    assert wide - narrow == pytest.approx(linear * (2 - (4 + 8 / 64 + 32 / (64 * 256)) / 8))


def test_a_rank_as_large_as_the_model_holds_as_much_as_full_training_and_its_base() -> None:
    """A matrix of n x n and an adapter of rank n/2 have as many parameters."""
    adapted, full = held(step(Adapters(512.0, ("o",)))), held(step(None))
    per_parameter = full.optimizer / parameter_count(DENSE_MODEL).total
    assert adapted.optimizer == pytest.approx(per_parameter * 8 * 1024 * 1024)


def test_frozen_layers_without_adapters_keep_no_input_for_their_gradients() -> None:
    activations = [held(step(Adapters(RANK, names))).activations for names in (("o",), ("o", "down"), ())]
    kept = 8 * 1024 * 2  # bytes of one channel of all layers and tokens
    assert activations[1] - activations[0] == pytest.approx(kept * (2816 + RANK))
    assert activations[2] - activations[1] == pytest.approx(kept * (2 * 1024 + 5 * RANK))


def test_chunks_of_the_loss_keep_the_logits_of_one() -> None:
    whole, chunked = (held(step(None, replace(SHORT, loss_chunks=count))) for count in (1.0, 8.0))
    assert whole.activations - chunked.activations == 1024 * 32_000 * 4 * 7 / 8


# ---- dequantisation -------------------------------------------------------------------------------------------------


def test_frozen_narrow_weights_are_expanded_for_both_passes_and_then_multiplied_as_wide_ones() -> None:
    layer = work(step(QLORA)).layers[0]
    for operators in (layer.forward, layer.input_gradient):
        (expansion,) = (each for each in operators if each.name == "ffn down expansion")
        assert isinstance(expansion, Elementwise)
        main, scales = 0.5 + (1 + 4 / 256) / 64 + 2, 16 / 64
        assert expansion.traffic == pytest.approx(2816 * 1024 * (main + scales))
        assert expansion.calls == 3
    wide = {(each.family, each.traffic) for each in products(step(LORA), "ffn down")}
    assert {(each.family, each.traffic) for each in products(step(QLORA), "ffn down")} == wide


def test_quantised_adapters_are_slower_and_the_parts_add_up() -> None:
    quantised, plain = point(step(QLORA)), point(step(LORA))
    assert_adds_up(quantised)
    assert (quantised.metrics["step_time"] or 0) > (plain.metrics["step_time"] or 0)


# ---- sharding -------------------------------------------------------------------------------------------------------


def messages(of: Scenario) -> dict[str, float]:
    kinds = work(of).kinds
    return {each.name: float(each.size) for kind in kinds for each in kind.operators if isinstance(each, Collective)}


def test_data_parallel_ranks_reduce_the_gradients_of_adapters() -> None:
    for zero, share in ((0, 1.0), (1, 1.0 / 8)):
        plan = replace(SHORT, zero=zero)
        of = step(LORA, plan, parallel=Parallelism(dp=8.0))
        lines = {line.name: line for line in point(of).breakdown}
        assert lines["dense optimizer"].traffic == pytest.approx(share * TRAINED * (4 + 16 + 8 + 2))
        assert not any("expert" in name for name in lines)


def test_fully_sharded_ranks_gather_the_frozen_weights_too() -> None:
    plan = replace(SHORT, zero=3, sharding=Sharding())
    sharded = held(step(LORA, plan, parallel=Parallelism(dp=8.0)))
    alone = held(step(LORA, plan))
    assert sharded.weights == pytest.approx(alone.weights / 8)
    assert sharded.gradients == pytest.approx(alone.gradients / 8)
    assert_adds_up(point(step(LORA, plan, parallel=Parallelism(dp=8.0))))


def test_a_tensor_parallel_group_adds_up_what_is_between_the_halves_of_an_adapter() -> None:
    of = step(LORA, parallel=Parallelism(tp=4.0))
    sizes = messages(of)
    assert {name: size for name, size in sizes.items() if "adapter" in name} == {
        f"{name} adapter all-reduce": 1024 * RANK * 2 for name in WIDTHS
    }
    whole, split = held(step(LORA)).gradients, held(of).gradients
    repeated = 8 * RANK * (5 * 1024 + 2 * 1024)  # A of what columns split, B of what rows split
    assert split == pytest.approx((whole - 4 * repeated) / 4 + 4 * repeated)


# ---- preference training --------------------------------------------------------------------------------------------


def test_a_pair_is_two_sequences_and_a_reference_pass() -> None:
    pair = replace(SHORT, preference=Preference("none"))
    twice = point(step(None, replace(SHORT, micro_batch=2.0, global_batch=16.0)))
    alone = point(step(None, pair))
    assert alone.metrics["step_time"] == pytest.approx(twice.metrics["step_time"])
    assert alone.metrics["tokens_per_second"] == pytest.approx(twice.metrics["tokens_per_second"])
    with_reference = point(step(None, replace(pair, preference=Preference("copy"))))
    assert (with_reference.metrics["step_time"] or 0) > (alone.metrics["step_time"] or 0)
    flop = work(step(None, pair)).layers[0].forward
    both = work(step(None, replace(pair, preference=Preference()))).layers[0].forward
    assert len(both) == 2 * len(flop)
    assert_adds_up(with_reference)


def test_the_reference_of_adapters_is_the_base_and_needs_no_second_copy() -> None:
    pair = replace(SHORT, preference=Preference())
    without = replace(SHORT, preference=Preference("none"))
    assert held(step(QLORA, pair)).weights == held(step(QLORA, without)).weights
    copied = held(step(None, pair)).weights - held(step(None, without)).weights
    assert copied == held(step(Adapters(0.0), without)).weights
    names = [each.name for each in work(step(QLORA, pair)).layers[0].forward]
    assert "reference: ffn down expansion" in names
    assert not any(name.startswith("reference: adapter") for name in names)


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (replace(SHORT, adapters=Adapters(8.0, ("gates",))), "adapters.targets"),
        (replace(SHORT, adapters=Adapters(2048.0)), "adapters.rank"),
        (replace(SHORT, preference=Preference("base")), "preference.reference"),
    ],
)
def test_what_a_model_does_not_have_is_refused(plan: Training, field: str) -> None:
    assert [rule.field for rule in rules(scenario(plan, precision=BF16, cluster=CLUSTER)) if not rule.holds] == [field]
