"""Measured runs of passes, batches and servers: what they say of steps and first tokens, of others, and over a grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import DECODE, GENERATE, PREFILL, SERVING, pools, scenario

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.analytic.intervals import NORMAL_90
from costmodel.analytic.paces import of_prompts
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.spread import Spread
from costmodel.errors import InputError
from costmodel.event.evaluation import EventEngine
from costmodel.records import replace
from costmodel.result import Point
from costmodel.serving.evaluation import RequestEvaluation
from costmodel.workload.plans import RequestStream
from costmodel.workload.scenario import Anchor, MeasuredStep, Pace, Parallelism, Scenario
from costmodel.workload.site_scatter import SiteScatter

REPEAT = 0.003
SCATTER = SiteScatter(site=0.0, alike=0.7, repeat=REPEAT, length=2.0, kinds=1.0, passes=1.0)
OPEN = replace(SERVING, concurrency=None, rate=4.0)
LAYOUT = Parallelism(tp=8.0)
RUNS = {plan.phase: scenario(plan, parallel=LAYOUT) for plan in (PREFILL, DECODE, GENERATE)} | {
    "closed": scenario(SERVING, parallel=LAYOUT), "open": scenario(OPEN, parallel=LAYOUT),
    "pools": scenario(pools(LAYOUT, LAYOUT)),
}  # fmt: skip
OWN, FIRST = 0.1, 0.15  # deviations of the log of steps' times and of first tokens besides


def within(half: float) -> FamilyFit:
    """Return the roofline's fit with an interval."""
    return FamilyFit(spread=Spread((1.0,), (math.exp(-half),), (1.0,), (math.exp(half),)))


KERNELS = Calibration(
    families={
        "composition_inference": within(NORMAL_90 * OWN), "composition_serving": within(NORMAL_90 * OWN),
        "composition_first_token": within(NORMAL_90 * FIRST), "gemm/bf16": within(1e-9),
    }
)  # fmt: skip


def point(one: Scenario) -> Point:
    return evaluate_point(one, KERNELS)


def metric(one: Scenario, name: str) -> float:
    value = point(one).metrics[name]
    assert value is not None
    return value


def measured(one: Scenario, ratios: dict[str, float], runs: Scenario | None = None) -> Scenario:
    """Return a scenario anchored by a run whose metrics are so many times the predicted ones."""
    run = one if runs is None else runs
    steps = tuple(MeasuredStep(run, name, ratio * metric(run, name)) for name, ratio in ratios.items())
    before = () if one.anchor is None else one.anchor.steps
    return replace(one, anchor=Anchor((*before, *steps), SCATTER))


def half(one: Scenario, name: str) -> float:
    low, high = point(one).intervals[name] or (1.0, 1.0)
    return math.log(high / low) / 2.0


EACH = [
    ("prefill", "ttft"), ("decode", "tpot"), ("decode", "tokens_per_second_per_user"), ("generate", "ttft"),
    ("generate", "tpot"), ("closed", "tpot"), ("closed", "ttft"), ("closed", "tokens_per_second"), ("open", "tpot"),
    ("open", "ttft"), ("pools", "tpot"), ("pools", "ttft"), ("closed", "latency"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "name"), EACH)
def test_a_run_as_predicted_moves_nothing_and_narrows(run: str, name: str) -> None:
    own = RUNS[run]
    anchored = measured(own, {name: 1.0})
    before, after = point(own), point(anchored)
    assert {each: value for each, value in after.metrics.items() if value is not None} == pytest.approx(
        {each: value for each, value in before.metrics.items() if value is not None}, rel=1e-9
    )
    assert half(anchored, name) < 0.1 * half(own, name)
    assert all(half(anchored, each) <= half(own, each) + 1e-12 for each in ("ttft", "tpot") if before.metrics.get(each))
    assert after.basis()["anchored"] == 1.0


@pytest.mark.parametrize(("run", "name"), EACH)
def test_a_measured_run_is_predicted_as_measured(run: str, name: str) -> None:
    own, ratio = RUNS[run], (0.8, 1.25)[EACH.index((run, name)) % 2]
    anchored = measured(own, {name: ratio})
    assert metric(anchored, name) == pytest.approx(ratio * metric(own, name), rel=2e-3)


@pytest.mark.parametrize("run", ["generate", "closed", "open", "pools"])
def test_a_measured_time_per_token_moves_later_times_and_what_the_engine_makes_of_them(run: str) -> None:
    own = RUNS[run]
    anchored = measured(own, {"tpot": 1.25})
    plain, moved = point(own).metrics, point(anchored).metrics
    assert (moved["latency"] or 0.0) > 1.1 * (plain["latency"] or 1.0)
    assert (moved["ttft"] or 0.0) > (plain["ttft"] or 1.0)
    if run == "closed":  # all steps take a quarter longer
        assert moved["tokens_per_second"] == pytest.approx((plain["tokens_per_second"] or 0.0) / 1.25, rel=1e-3)
    if run == "open":  # the rate is what comes, and more requests share longer steps
        assert moved["requests_per_second"] == pytest.approx(plain["requests_per_second"])
        assert (moved["concurrency"] or 0.0) > (plain["concurrency"] or 1.0)
        assert moved["highest_stable_rate"] != plain["highest_stable_rate"]


def test_an_open_loop_is_solved_anew_so_that_steps_are_slower_by_less_than_a_token() -> None:
    own = RUNS["open"]
    anchor = point(measured(own, {"tpot": 1.5})).anchor
    assert anchor is not None
    assert 1.0 < anchor["factor"] <= 1.5
    paced = evaluate(replace(own, pace=Pace(anchor["factor"], anchor["factor"])), KERNELS)
    assert float(paced.metrics(None)["tpot"] or 0.0) == pytest.approx(1.5 * metric(own, "tpot"), rel=1e-3)


def test_first_tokens_take_their_own_part_and_what_they_share_with_steps() -> None:
    own = RUNS["closed"]
    first = measured(own, {"ttft": 1.25})
    share = OWN**2 / (OWN**2 + FIRST**2 + REPEAT**2)
    assert math.log(metric(first, "tpot") / metric(own, "tpot")) == pytest.approx(share * math.log(1.25), rel=1e-2)
    both = measured(own, {"tpot": 1.25, "ttft": 1.0})
    assert metric(both, "tpot") == pytest.approx(1.25 * metric(own, "tpot"), rel=5e-3)
    assert metric(both, "ttft") == pytest.approx(metric(own, "ttft"), rel=5e-3)
    assert point(both).anchor is not None
    assert (point(both).anchor or {})["first_token_factor"] == pytest.approx(1.0 / 1.25, rel=1e-2)


def test_prompts_and_decoding_of_a_batch_share_what_their_distance_leaves() -> None:
    own = RUNS["generate"]
    shared = 0.7 * math.exp(-0.5) * OWN**2 / (OWN**2 + REPEAT**2)
    moved = metric(measured(own, {"tpot": 1.2}), "ttft") / metric(own, "ttft")
    assert math.log(moved) == pytest.approx(shared * math.log(1.2), rel=1e-3)
    assert of_prompts(own, "ttft")
    assert not of_prompts(own, "latency")
    assert not of_prompts(RUNS["closed"], "ttft")


def test_a_second_run_narrows_further_and_a_far_one_moves_less() -> None:
    own = RUNS["closed"]
    near, far = (replace(own, plan=replace(SERVING, input_tokens=tokens)) for tokens in (1200.0, 8192.0))
    by = {name: measured(own, {"tpot": 1.2}, run) for name, run in (("near", near), ("far", far))}
    both = measured(by["near"], {"tpot": 1.2}, far)
    usual = metric(own, "tpot")
    assert usual < metric(by["far"], "tpot") < metric(by["near"], "tpot") < 1.2 * usual
    assert half(both, "tpot") < half(by["near"], "tpot") < half(by["far"], "tpot") < half(own, "tpot")
    longer = [metric(measured(own, {"tpot": ratio}, near), "tpot") for ratio in (0.8, 1.0, 1.1, 1.4)]
    assert longer == sorted(longer)


@pytest.mark.parametrize("run", ["prefill", "decode", "generate", "closed", "open", "pools"])
def test_lines_of_an_anchored_breakdown_sum_to_the_headline(run: str) -> None:
    name = "ttft" if run == "prefill" else "tpot"
    for ratios in ({name: 1.3}, *([{"tpot": 1.3, "ttft": 0.7}] if run in ("closed", "open", "pools") else [])):
        shown = point(measured(RUNS[run], ratios))
        assert sum(entry.time for entry in shown.breakdown) == pytest.approx(shown.metrics[shown.headline], rel=1e-6)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_simulated_passes_are_anchored_as_closed_forms_are(phase: str) -> None:
    anchored = measured(RUNS[phase], {"ttft" if phase == "prefill" else "tpot": 1.3})
    closed, simulated = point(anchored), evaluate_point(anchored, KERNELS, EventEngine().evaluate)
    assert simulated.metrics[closed.headline] == pytest.approx(closed.metrics[closed.headline], rel=1e-6)


def test_requests_one_by_one_take_the_same_longer_steps() -> None:
    own = replace(RUNS["open"], plan=replace(OPEN, requests=RequestStream(count=20.0)))
    engine = EventEngine(requests=RequestEvaluation)
    plain = evaluate_point(own, KERNELS, engine.evaluate)
    value = plain.metrics["tpot"]
    assert value is not None
    anchored = replace(own, anchor=Anchor((MeasuredStep(own, "tpot", 1.3 * value),), SCATTER))
    moved = evaluate_point(anchored, KERNELS, engine.evaluate)
    assert moved.metrics["tpot"] == pytest.approx(1.3 * value, rel=5e-3)
    factor = (moved.anchor or {})["factor"]
    slower = engine.evaluate(replace(own, pace=Pace(factor, factor)), KERNELS)
    assert float(slower.metrics(None)["tpot"] or 0.0) == pytest.approx(moved.metrics["tpot"], rel=1e-9)
    assert list(engine.served) == [own.name]


def test_tables_of_steps_and_single_steps_are_longer_alike() -> None:
    own = RUNS["closed"]
    steps = [
        RequestEvaluation(one, SERVING, KERNELS).simulation.times for one in (own, replace(own, pace=Pace(1.3, 1.3)))
    ]
    for step in ((8.0, 512.0), (8.0, 512.0, 1.0, 256.0, 256.0), (0.0, 0.0, 1.0, 256.0, 256.0)):
        assert steps[1](*step) == pytest.approx(1.3 * steps[0](*step), rel=1e-9)


def test_a_grid_is_its_points() -> None:
    near = replace(RUNS["closed"], plan=replace(SERVING, input_tokens=1200.0))
    anchor = measured(RUNS["closed"], {"tpot": 1.2, "ttft": 1.4}, near).anchor
    lengths = np.array([512.0, 1024.0, 4096.0])
    grid = evaluate_grid(
        replace(RUNS["closed"], plan=replace(SERVING, input_tokens=lengths), anchor=anchor), KERNELS, lengths.shape
    )
    points = [
        point(replace(RUNS["closed"], plan=replace(SERVING, input_tokens=length), anchor=anchor))
        for length in lengths.tolist()
    ]
    for name in ("tpot", "ttft", "tokens_per_second"):
        np.testing.assert_allclose(grid.metrics[name], [each.metrics[name] for each in points], rtol=1e-9)
        low, _ = grid.interval(name) or (0.0, 0.0)
        np.testing.assert_allclose(low, [(each.intervals[name] or (0.0, 0.0))[0] for each in points], rtol=1e-9)


def test_a_rate_that_requests_bring_and_a_value_of_another_unit_say_nothing() -> None:
    own = RUNS["open"]
    with pytest.raises(InputError, match="what requests bring"):
        point(measured(own, {"requests_per_second": 0.9}))
    with pytest.raises(InputError, match="check the unit"):
        point(measured(own, {"tpot": 1000.0}))


@pytest.mark.parametrize("ratio", [3600.0, 1e-3])
def test_a_first_token_of_another_unit_is_refused_as_any_time_is(ratio: float) -> None:
    with pytest.raises(InputError, match="times as long as predicted"):
        point(measured(RUNS["closed"], {"ttft": ratio}))


def test_a_result_names_what_it_rests_on_and_what_is_odd() -> None:
    shown = point(measured(RUNS["closed"], {"tpot": 1.1}))
    assert (shown.anchor or {})["rests_on"] == ["tpot of test"]
    assert not shown.notes
    odd = point(measured(RUNS["closed"], {"tpot": 3.0}))
    assert any("standard deviations of how sites scatter" in note for note in odd.notes)
