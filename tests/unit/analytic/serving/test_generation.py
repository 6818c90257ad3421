"""A static batch: its parts, the mean over a growing cache, its ledger, and what a pipeline changes."""

from __future__ import annotations

import numpy as np
import pytest
from builders import (
    CLUSTER,
    DENSE_MODEL,
    DEVICE,
    DRAFTS,
    FP8,
    GENERATE,
    GQA,
    MOE_MODEL,
    NODE,
    kv_bytes_per_sequence,
    scenario,
    with_device,
    with_level,
)

from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.inference import pass_model_of, pass_times
from costmodel.analytic.operator_timing import operator_timer
from costmodel.analytic.serving.generation import decode_pass, kv_breakpoints, kv_lengths
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Cluster, Nic
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.architecture import Architecture, HeadGroup, Pattern
from costmodel.workload.passes import pass_work, pipeline_batches
from costmodel.workload.plans import Decode, Generate, Prefill
from costmodel.workload.scenario import Communication, Parallelism, Scenario

ROOMY = with_device(CLUSTER, with_level(DEVICE, "hbm", 2e12, 1e15))
EXPERTS = Parallelism(dp=16.0, ep=16.0)


def windowed(*windows: float) -> Architecture:
    groups = tuple(HeadGroup(1.0 / len(windows), Pattern("window", window)) for window in windows)
    layer = replace(DENSE_MODEL.layers[0], mixer=replace(GQA, head_groups=groups))
    return replace(DENSE_MODEL, layers=(layer, DENSE_MODEL.layers[0]))


def of(
    plan: Generate | Prefill | Decode,
    model: Architecture = DENSE_MODEL,
    layout: Parallelism | None = None,
    cluster: Cluster = ROOMY,
) -> Scenario:
    return scenario(plan, model, layout, FP8, Communication(mode="low_latency", dispatch="fp8"), cluster)


def metrics(chosen: Scenario) -> dict[str, float]:
    point = evaluate_point(chosen, Calibration())
    assert point.fits
    return {name: value for name, value in point.metrics.items() if value is not None}


def point(chosen: Scenario) -> Point:
    return evaluate_point(chosen, Calibration())


def mean_of_all_steps(chosen: Scenario, plan: Generate) -> float:
    """Return the mean step time with every step of the batch evaluated at its own length."""
    keys = np.arange(plan.input_tokens + 1, plan.input_tokens + plan.output_tokens)
    one = decode_pass(chosen, plan, keys)
    times = pass_times(pass_model_of(chosen, one, pass_work(one), operator_timer(chosen, Calibration())), None)
    return float(np.mean(times.round(pipeline_batches(chosen, plan))))


@pytest.mark.parametrize(
    ("prompt", "output", "model"),
    [
        (16.0, 4096.0, DENSE_MODEL),
        (4096.0, 2.0, DENSE_MODEL),
        (1.0, 20_000.0, windowed(1000.0)),
        (16.0, 4096.0, windowed(3000.0, 500.0)),
    ],
)
def test_the_mean_step_is_the_mean_of_all_steps_where_step_times_are_linear_between_windows(
    prompt: float, output: float, model: Architecture
) -> None:
    plan = replace(GENERATE, input_tokens=prompt, output_tokens=output)
    assert metrics(of(plan, model))["tpot"] == pytest.approx(mean_of_all_steps(of(plan, model), plan), rel=1e-7)


@pytest.mark.parametrize("nic", [2e9, 5e9, 1e10, 5e10])
def test_the_mean_step_is_close_where_growing_attention_begins_to_hide_exchanges(nic: float) -> None:
    cluster = replace(ROOMY, node=replace(ROOMY.node, nic=Nic(nic, 1.0, 2e-6)))
    plan = Generate(8192.0, 16.0, 4096.0, micro_batches=2)
    chosen = of(plan, MOE_MODEL, EXPERTS, cluster)
    assert metrics(chosen)["tpot"] == pytest.approx(mean_of_all_steps(chosen, plan), rel=2e-3)


def test_weights_of_lengths_sum_to_one_and_stay_between_first_and_last_step() -> None:
    for model in (DENSE_MODEL, windowed(1100.0), windowed(1100.0, 1200.0, 9e9)):
        for output in (1.0, 2.0, 300.0):
            plan = replace(GENERATE, output_tokens=output)
            found = kv_lengths(of(plan, model), plan)
            assert sum(weight for _, weight in found) == pytest.approx(1.0)
            assert all(1024.5 <= keys <= 1024 + output for keys, _ in found)
            assert sum(weight * keys for keys, weight in found) == pytest.approx(1024 + output / 2)


def test_windows_come_in_order_once_each() -> None:
    assert kv_breakpoints(windowed(3000.0, 500.0)) == [500.0, 3000.0]
    assert kv_breakpoints(MOE_MODEL) == []
    grid = windowed(np.array([1.0, 5.0]), np.array([3.0, 3.0]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(kv_breakpoints(grid), [[1.0, 3.0], [3.0, 5.0]])


@pytest.mark.parametrize("layout", [Parallelism(), Parallelism(tp=4.0), Parallelism(dp=8.0, ep=8.0)])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_one_output_token_is_a_prefill(layout: Parallelism, micro_batches: int) -> None:
    ranks = layout.tp * layout.dp
    prefill = Prefill(1024.0, 64.0 / ranks * 1024.0, micro_batches)
    generate = replace(GENERATE, output_tokens=1.0, micro_batches=micro_batches)
    found = metrics(of(generate, MOE_MODEL, layout))
    assert found["latency"] == found["ttft"]
    assert found["ttft"] == pytest.approx(metrics(of(prefill, MOE_MODEL, layout))["ttft"], rel=1e-12)


def test_two_output_tokens_are_a_prefill_and_one_step() -> None:
    generate = metrics(of(replace(GENERATE, output_tokens=2.0), MOE_MODEL, EXPERTS))
    step = metrics(of(Decode(4.0, 1024.0, 2.0), MOE_MODEL, EXPERTS))  # the new token is the 1,025th
    assert generate["latency"] == pytest.approx(generate["ttft"] + step["tpot"], rel=1e-12)


def test_rates_follow_from_the_latency() -> None:
    found = metrics(of(GENERATE, layout=Parallelism(tp=2.0, dp=4.0)))
    assert found["latency"] == pytest.approx(found["ttft"] + 255 * found["tpot"])
    assert found["tokens_per_second"] == pytest.approx(64 * 256 / found["latency"])
    assert found["tokens_per_second_per_device"] == pytest.approx(found["tokens_per_second"] / 8)
    assert found["cost_per_million_tokens"] == pytest.approx(8 * 2 / 3600 * 1e6 / found["tokens_per_second"])


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        (DENSE_MODEL, Parallelism(tp=2.0)),
        (DENSE_MODEL, Parallelism(pp=4.0)),
        (MOE_MODEL, EXPERTS),
        (MOE_MODEL, Parallelism(pp=2.0, dp=8.0, ep=8.0)),
        (windowed(1100.0), Parallelism()),
    ],
)
@pytest.mark.parametrize("drafts", [None, DRAFTS])
def test_the_breakdown_of_both_parts_sums_to_the_latency(
    model: Architecture, layout: Parallelism, drafts: object
) -> None:
    speculative = DRAFTS if drafts is not None and model.mtp is not None else None
    result = point(of(replace(GENERATE, micro_batches=2, speculative=speculative), model, layout))
    assert sum(line.time for line in result.breakdown) == pytest.approx(result.metrics["latency"], rel=1e-12)
    assert {line.name.partition(":")[0] for line in result.breakdown} >= {"prefill", "decode"}


def test_the_ledger_holds_the_cache_at_its_longest() -> None:
    memory = point(of(GENERATE, layout=Parallelism(dp=4.0))).memory
    assert memory is not None
    assert memory["kv_cache"] == 16 * kv_bytes_per_sequence(DENSE_MODEL, 1024.0 + 256.0, 2.0, 1.0)


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    layout = Parallelism(tp=2.0, dp=2.0)
    small = replace(ROOMY, node=replace(NODE, device=with_level(DEVICE, "hbm", 2e12, 4e9)))
    plan = replace(GENERATE, batch=8.0, micro_batches=2)
    most = metrics(of(plan, layout=layout, cluster=small))["max_batch"]
    assert most % 4 == 0
    assert point(of(replace(plan, batch=most), layout=layout, cluster=small)).fits
    assert not point(of(replace(plan, batch=most + 4), layout=layout, cluster=small)).fits


def test_a_larger_batch_takes_longer_and_gives_more_tokens() -> None:
    found = [metrics(of(replace(GENERATE, batch=batch))) for batch in (1.0, 2.0, 8.0, 64.0, 512.0)]
    for name in ("latency", "ttft", "tpot", "tokens_per_second"):
        values = [each[name] for each in found]
        assert values == sorted(values), name


def test_a_batch_that_fills_the_pipeline_works_on_all_stages() -> None:
    """Equal jobs in a line of machines: the first takes the sum of stages, each other the slowest stage."""
    layout = Parallelism(pp=4.0)
    full, single = (
        metrics(of(replace(GENERATE, pipeline_batches=parts, batch=32.0), layout=layout)) for parts in (None, 1.0)
    )
    stage = metrics(of(replace(GENERATE, batch=8.0, pipeline_batches=1.0), layout=layout))
    assert stage["ttft"] < full["ttft"] < 4 * stage["ttft"]
    assert full["tpot"] >= stage["tpot"] * (1 - 1e-12)
    # Small batches are bound by weights: four at once in the pipe take as long as one that is four times as large.
    assert full["tpot"] < 1.5 * single["tpot"]


def test_fewer_sequences_than_stages_fill_what_they_can() -> None:
    plan = replace(GENERATE, batch=1.0)
    chosen = of(plan, layout=Parallelism(pp=4.0))
    assert pipeline_batches(chosen, plan) == 1
    assert metrics(chosen)["latency"] > 0
