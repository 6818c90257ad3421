"""Intervals: they hold the point, widen with the spread, and agree with random sampling."""

from __future__ import annotations

import numpy as np
import pytest
from builders import BF16, DECODE, DENSE_MODEL, FAMILIES, FP8, MOE_MODEL, PREFILL, STEP, scenario, spreads

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.intervals import _logs, deviations, intervals
from costmodel.analytic.stream_times import Perturbation, Perturbations
from costmodel.analytic.training.step_model import step_model
from costmodel.analytic.training.step_times import step_times
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.spread import Spread
from costmodel.hardware import Power
from costmodel.quantities import Quantity
from costmodel.records import replace
from costmodel.result import Metrics
from costmodel.workload.plans import Serving, Training
from costmodel.workload.scenario import Communication, Parallelism, Scenario

EXPERTS = Parallelism(pp=2.0, dp=16.0, ep=16.0)
SCENARIOS: dict[str, Scenario] = {
    "training": scenario(STEP, MOE_MODEL, EXPERTS, FP8, Communication(10.0, dispatch="fp8")),
    "dense": scenario(STEP, DENSE_MODEL, Parallelism(pp=4.0, tp=2.0)),
    "prefill": scenario(PREFILL, MOE_MODEL, replace(EXPERTS, pp=1.0)),
    "decode": scenario(DECODE, MOE_MODEL, replace(EXPERTS, pp=1.0)),
}


def span(of: Scenario, calibration: Calibration, metric: str | None = None) -> tuple[float, float]:
    point = evaluate_point(of, calibration)
    pair = point.intervals[metric or point.headline]
    assert pair is not None
    return pair


def width(pair: tuple[float, float]) -> float:
    return float(np.log(pair[1] / pair[0]))


@pytest.mark.parametrize("name", list(SCENARIOS))
@pytest.mark.parametrize("spread", [(0.9, 1.0, 1.1), (1.5, 2.0, 4.0), (0.2, 0.4, 0.6), (1.0, 1.0, 5.0)])
def test_an_interval_holds_its_point(name: str, spread: tuple[float, float, float]) -> None:
    point = evaluate_point(SCENARIOS[name], spreads(*spread))
    for metric, value in point.metrics.items():
        pair = point.intervals[metric]
        if value is not None:
            assert pair is not None
            assert pair[0] <= value <= pair[1], metric


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_wider_spread_widens_the_interval(name: str) -> None:
    widths = [width(span(SCENARIOS[name], spreads(1 / factor, 1.0, factor))) for factor in (1.0, 1.1, 1.5, 3.0)]
    assert widths[0] == pytest.approx(0, abs=1e-12)
    assert widths == sorted(widths)
    assert widths[1] < widths[2] < widths[3]


def test_one_family_s_spread_moves_only_what_it_is_part_of() -> None:
    of = SCENARIOS["dense"]
    absent = Calibration("test", {"moe_dispatch": FamilyFit(spread=Spread((1.0,), (0.1,), (1.0,), (10.0,)))})
    value = evaluate_point(of, Calibration()).metrics["step_time"]
    assert span(of, absent) == (value, value)
    present = spreads(0.5, 1.0, 2.0, ("gemm",))
    assert width(span(of, present)) > 0
    every = spreads(0.5, 1.0, 2.0)
    without = Calibration("test", {name: fit for name, fit in every.families.items() if not name.startswith("moe")})
    assert span(of, every) == span(of, without)


def test_a_family_of_everything_scales_times_and_rates_alike() -> None:
    """One family alone in a scenario: the interval of a time is its spread, of a rate the inverse."""
    moved: Metrics = {"time": 10.0, "rate": 0.1, "bubble_time": 4.0, "exposed_communication_time": 0.0, "open": None}

    def evaluate(moves: Perturbations) -> Metrics:
        assert moves is not None
        move = moves["gemm"]
        ratio = 1.5 + move.low * (0.5 - 1.5) + move.high * (3.0 - 1.5)
        return {
            "time": 10.0 * ratio, "rate": 0.1 / ratio, "bubble_time": 4.0 * ratio,
            "exposed_communication_time": 0.0 * ratio, "open": None,
        }  # fmt: skip

    found = intervals(moved, ["gemm"], 0, evaluate)
    assert found["time"] == pytest.approx((5.0, 30.0))
    assert found["rate"] == pytest.approx((0.1 / 3, 0.1 / 0.5))
    assert found["bubble_time"] == pytest.approx((2.0, 12.0))
    assert found["exposed_communication_time"] == pytest.approx((0.0, 0.0))
    assert found["open"] is None


def test_rates_that_are_multiples_of_each_other_have_intervals_that_are() -> None:
    of = scenario(Serving(1024.0, 128.0, 8.0), DENSE_MODEL)
    kernels = spreads(0.8, 1.0, 1.3)
    whole = FamilyFit(spread=Spread((1.0,), (0.7,), (1.0,), (1.6,)))
    point = evaluate_point(of, replace(kernels, families={**kernels.families, "composition_serving": whole}))
    requests = point.intervals["requests_per_second"]
    assert requests is not None
    assert width(requests) > np.log(1.6 / 0.7)
    for metric, tokens in (("input_tokens_per_second", 1024), ("tokens_per_second", 128)):
        assert point.intervals[metric] == pytest.approx((tokens * requests[0], tokens * requests[1]))


def test_independent_families_add_in_quadrature_on_a_logarithmic_scale() -> None:
    def evaluate(moves: Perturbations) -> Metrics:
        assert moves is not None
        product: Quantity = 1.0
        for move in moves.values():
            product = product * (1.0 - 0.5 * move.low + 1.0 * move.high)
        return {"time": product, "bubble_time": 3.0 + product}

    found = intervals({"time": 1.0, "bubble_time": 4.0}, ["a", "b"], 0, evaluate)
    both = np.sqrt(2) * np.log(2)
    assert found["time"] == pytest.approx((np.exp(-both), np.exp(both)))
    assert found["bubble_time"] == pytest.approx((4 - np.sqrt(2) * 0.5, 4 + np.sqrt(2)))


def test_deviations_of_a_time_are_those_of_its_interval_and_a_count_has_none() -> None:
    def evaluate(moves: Perturbations) -> Metrics:
        assert moves is not None
        product: Quantity = 2.0
        for move in moves.values():
            product = product * (1.0 - 0.5 * move.low + 2.0 * move.high)
        return {"step_time": product}

    (found,) = deviations({"step_time": 1.0, "devices": 8.0}, ["a", "b"], evaluate).values()
    assert found == pytest.approx((np.log(2), np.sqrt(2) * np.log(2), np.sqrt(2) * np.log(3)))


def test_a_zero_metric_stays_above_zero() -> None:
    point = evaluate_point(scenario(STEP, DENSE_MODEL), spreads(0.5, 1.0, 2.0))
    for name in ("bubble_time", "exposed_communication_time"):
        pair = point.intervals[name]
        assert pair is not None
        assert pair[0] >= 0


def test_exact_families_are_not_moved() -> None:
    uncertain = FamilyFit(spread=Spread((1.0,), (0.5,), (1.0,), (2.0,)))
    calibration = Calibration("test", {"gemm": FamilyFit(), "elementwise": uncertain})
    assert evaluate(SCENARIOS["dense"], calibration).families() == {"elementwise"}
    assert (
        evaluate_point(SCENARIOS["training"], Calibration()).intervals["step_time"]
        == (evaluate_point(SCENARIOS["training"], Calibration()).metrics["step_time"],) * 2
    )


def test_counts_have_no_interval() -> None:
    point = evaluate_point(SCENARIOS["training"], spreads(0.5, 1.5, 3.0))
    assert point.intervals["flop_per_token"] == (point.metrics["flop_per_token"],) * 2
    decode = evaluate_point(SCENARIOS["decode"], spreads(0.5, 1.5, 3.0))
    assert decode.intervals["max_batch_per_device"] == (decode.metrics["max_batch_per_device"],) * 2


@pytest.mark.parametrize("name", ["training", "dense"])
def test_quadrature_agrees_with_random_sampling(name: str) -> None:
    """Each family's ratio is drawn log-normally with the 10 and 90 % points of its spread; families are independent."""
    of = SCENARIOS[name]
    assert isinstance(of.plan, Training)
    low, median, high = 0.8, 1.0, 1.25
    calibration = spreads(low, median, high)
    priced = step_model(of, of.plan, calibration)
    random, draws = np.random.default_rng(7), 20_000
    sigma = np.log(high) / 1.2815515655446004
    moves: dict[str, Perturbation] = {}
    for family in FAMILIES:
        ratio = np.exp(sigma * random.standard_normal(draws))
        # ratio = 1 + low * (0.8 - 1) + high * (1.25 - 1): a draw above one takes a multiple of the upper move.
        moves[family] = Perturbation(
            np.where(ratio < 1, (1 - ratio) / (1 - low), 0.0), np.where(ratio > 1, (ratio - 1) / (high - 1), 0.0)
        )
    sampled = np.asarray(step_times(priced, moves).step)
    lowest, highest = np.quantile(sampled, [0.1, 0.9])
    pair = span(of, calibration, "step_time")
    centre = float(step_times(priced, None).step)
    assert np.log(pair[1] / centre) == pytest.approx(np.log(highest / centre), rel=0.1)
    assert np.log(centre / pair[0]) == pytest.approx(np.log(centre / lowest), rel=0.1)


def test_layers_of_one_family_do_not_average_its_error_away() -> None:
    short = replace(DENSE_MODEL, layers=(replace(DENSE_MODEL.layers[0], repeat=2),))
    long = replace(DENSE_MODEL, layers=(replace(DENSE_MODEL.layers[0], repeat=32),))
    calibration = spreads(0.5, 1.0, 2.0)
    # The short model's head, of the same family, weighs more; independent layers, 16 times as many, would quarter it.
    ratio = width(span(scenario(PREFILL, long, precision=BF16), calibration)) / width(
        span(scenario(PREFILL, short, precision=BF16), calibration)
    )
    assert 0.8 < ratio < 1.25


def test_a_training_step_on_an_architecture_that_nobody_compared_is_wider() -> None:
    def run(factor: float) -> FamilyFit:
        return FamilyFit(spread=Spread((1.0,), (1 / factor,), (1.0,), (factor,)))

    kernels = spreads(0.9, 1.0, 1.1)
    of = SCENARIOS["dense"]
    known = {"composition_training": run(1.1), "composition_untried": run(1.5), "composition_tried/volta": run(1.0)}
    own = {f"composition_tried/{of.cluster.device.architecture}": run(1.0)}
    untried, tried = (span(of, replace(kernels, families=kernels.families | more)) for more in (known, known | own))
    assert width(untried) > 2 * width(tried)
    prefill = SCENARIOS["prefill"]
    more = {"composition_inference": run(1.1)}
    assert span(prefill, replace(kernels, families=kernels.families | known | more)) == span(
        prefill, replace(kernels, families=kernels.families | known | own | more)
    )


@pytest.mark.parametrize(
    ("power", "down", "up"),
    [
        (Power(500.0, 100.0, error=0.25), 1.25, 1.25),
        (Power(500.0, 100.0, busy=10.0, memory=1e-12, error=0.1), 1.1, 1.1),
        (Power(500.0, 100.0, error=0.0), 1.0, 1.0),
        (Power(500.0), 1.0, 1.0),
    ],
)
def test_an_energy_has_the_error_of_its_board_s_power(power: Power, down: float, up: float) -> None:
    """Kernels and runs have next to no error here, so that the ends are the power's alone."""

    def exact(low: float, high: float) -> FamilyFit:
        return FamilyFit(spread=Spread((1.0,), (1.0 / low,), (1.0,), (high,)))

    of = SCENARIOS["prefill"]
    node = replace(of.cluster.node, device=replace(of.cluster.device, power=power))
    kernels = spreads(0.9999, 1.0, 1.0001)
    known = {"composition_inference": exact(1, 1)}
    chosen = replace(of, cluster=replace(of.cluster, node=node))
    point = evaluate_point(chosen, replace(kernels, families=kernels.families | known))
    joules, ends = point.metrics["energy_per_token"], point.intervals["energy_per_token"]
    assert joules is not None
    assert ends == pytest.approx((joules / down, joules * up), rel=1e-3)


def test_a_family_s_spread_is_its_median_and_the_ways_down_and_up_from_there() -> None:
    fit = FamilyFit(spread=Spread((1.0,), (0.5,), (1.5,), (3.0,)))
    found = _logs(Calibration("one", {"gemm": fit}), "gemm")
    assert found == pytest.approx((np.log(1.5), np.log(3.0), np.log(2.0)))
    assert _logs(Calibration("one", {"gemm": fit}), "collective") is None
