"""Serving at a rate: one request alone, saturation, and what lies between."""

from __future__ import annotations

import numpy as np
import pytest
from builders import CLUSTER, DENSE_MODEL, FRAMEWORK, MOE_MODEL, SERVING, scenario

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.analytic.serving.open_loop import OpenLoopEvaluation
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Power
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.engine import Engine, EngineMemory, Scheduler, SchedulerRule
from costmodel.workload.plans import Serving
from costmodel.workload.requests import RequestStream
from costmodel.workload.scenario import Parallelism, Scenario

SEATS = Scheduler(max_num_seqs=64.0, token_budget=512.0)
OPEN = replace(SERVING, concurrency=None, rate=1.0, scheduler=SEATS)
ENGINE = Engine(
    "1",
    rules=(SchedulerRule(max_num_seqs=64.0, token_budget=512.0),),
    scheduler=Scheduler(overlapped=True),
    memory=EngineMemory(utilization=0.9),
    request=5e-3,
)


def of(plan: Serving, layout: Parallelism | None = None) -> Scenario:
    return scenario(plan, DENSE_MODEL, layout, cluster=CLUSTER)


def point(plan: Serving, layout: Parallelism | None = None) -> Point:
    return evaluate_point(of(plan, layout), Calibration())


def metrics(plan: Serving, layout: Parallelism | None = None) -> dict[str, float]:
    return {name: value for name, value in point(plan, layout).metrics.items() if value is not None}


def at(load: float, plan: Serving = OPEN) -> Serving:
    return replace(plan, rate=load * metrics(plan)["highest_stable_rate"])


def test_one_request_alone_is_a_closed_loop_of_one() -> None:
    alone = metrics(replace(OPEN, rate=1e-9))
    closed = metrics(replace(SERVING, concurrency=1.0, scheduler=SEATS))
    for name in ("ttft", "tpot", "latency"):
        assert alone[name] == pytest.approx(closed[name], rel=1e-8)


def test_the_highest_stable_rate_is_that_of_a_closed_loop_of_all_seats() -> None:
    full = metrics(replace(SERVING, concurrency=64.0, scheduler=SEATS))
    assert metrics(OPEN)["highest_stable_rate"] == pytest.approx(full["requests_per_second"], rel=1e-9)
    replicas = metrics(OPEN, Parallelism(dp=4.0))["highest_stable_rate"]
    assert replicas == pytest.approx(4 * full["requests_per_second"], rel=1e-9)


@pytest.mark.parametrize("output_tokens", [2.0, 8.0, 64.0])
def test_steps_start_no_more_prompts_than_their_tokens_hold_however_short_outputs_are(output_tokens: float) -> None:
    short = replace(OPEN, input_tokens=256.0, output_tokens=output_tokens)
    found = metrics(short)
    step = short.input_tokens + output_tokens - 1.0  # tokens of a request, of which a step has 512
    (alone,) = (metrics(replace(short, rate=1e-9)),)
    assert found["highest_stable_rate"] <= 512.0 / step / alone["tpot"]
    full = metrics(replace(SERVING, concurrency=64.0, scheduler=SEATS, input_tokens=256.0, output_tokens=output_tokens))
    assert found["highest_stable_rate"] == pytest.approx(full["requests_per_second"], rel=1e-9)
    near = metrics(replace(short, rate=0.99 * found["highest_stable_rate"]))
    assert near["ttft"] < 200.0 * alone["ttft"]


def test_one_seat_is_a_single_server() -> None:
    """M/D/1 [Pollaczek and Khinchine]: load/(2*(1 - load)) services of waiting."""
    single = replace(OPEN, scheduler=Scheduler(max_num_seqs=1.0, token_budget=2048.0))
    alone = metrics(replace(single, rate=1e-9))
    for load in (0.05, 0.5, 0.9):
        found = metrics(at(load, single))
        waiting = load / (2 * (1 - load)) * alone["latency"]
        assert found["ttft"] == pytest.approx(alone["ttft"] + waiting, rel=1e-9)
        assert found["tpot"] == pytest.approx(alone["tpot"], rel=1e-9)


def test_little_links_rate_and_number() -> None:
    for load in (0.1, 0.5, 0.8):
        found = metrics(at(load))
        evaluation = evaluate(of(at(load)), Calibration())
        assert isinstance(evaluation, OpenLoopEvaluation)
        solution = evaluation.solution()
        serving = found["latency"] - sum(float(wait) for wait in solution.waits.values())
        assert found["concurrency"] == pytest.approx(found["requests_per_second"] * serving, rel=1e-9)
        assert float(solution.steps.running) == pytest.approx(found["concurrency"] + 1, rel=0.02)


def test_times_grow_with_the_rate() -> None:
    found = [metrics(at(load)) for load in (1e-6, 0.1, 0.3, 0.6, 0.9, 0.99)]
    for name in ("ttft", "tpot", "latency", "concurrency", "kv_use"):
        values = [each[name] for each in found]
        assert values == sorted(values)
    assert found[-1]["ttft"] > 1.2 * found[0]["ttft"]


def test_even_arrivals_wait_less_and_meet_fewer_others() -> None:
    poisson, even = (metrics(replace(at(0.5), arrival_scv=scv)) for scv in (1.0, 0.0))
    assert even["tpot"] < poisson["tpot"]
    assert even["ttft"] < poisson["ttft"]


def test_the_verdict_follows_the_load() -> None:
    assert point(at(0.3)).verdict == "stable"
    assert point(at(0.99)).verdict == "backlogged"
    over = point(at(1.2))
    assert over.verdict == "overloaded"
    assert over.fits
    assert over.document()["metrics"]["ttft"] is None
    assert over.metrics["requests_per_second"] == pytest.approx(over.metrics["highest_stable_rate"])
    assert any("overloaded" in note for note in over.notes)
    assert sum(line["share"] for line in over.document()["breakdown"]) == pytest.approx(1.0)


def test_the_closed_form_says_where_only_requests_one_by_one_answer() -> None:
    def beyond(plan: Serving) -> str | None:
        evaluation = evaluate(of(plan), Calibration())
        assert isinstance(evaluation, OpenLoopEvaluation)
        return evaluation.beyond()

    assert [beyond(at(load)) for load in (0.1, 0.7, 2.0)] == [None] * 3
    for load in (0.8, 0.95, 1.05):
        assert f"{load:.0%} of the highest stable one" in (beyond(at(load)) or "")
        assert any("closed form: the rate is" in note for note in point(at(load)).notes)
    assert beyond(replace(at(2.0), requests=RequestStream(count=100.0))) is not None  # a run that ends
    assert "decoded in 1 steps" in (beyond(at(0.1, replace(OPEN, output_tokens=2.0))) or "")
    assert "load: 70% of the highest stable rate" in point(at(0.7)).notes


def test_percentiles_surround_the_mean() -> None:
    result = point(at(0.6))
    assert result.percentiles is not None
    tails = result.percentiles["e2e"]
    assert tails["p50"] == pytest.approx(result.metrics["latency"], rel=0.02)
    assert tails["p50"] < tails["p90"] < tails["p99"]
    first = result.percentiles["ttft"]
    assert first["p50"] < first["p90"] < first["p99"]
    assert result.document()["percentiles"]["tpot"]["p99"] > result.metrics["tpot"]


def test_the_breakdown_sums_to_the_latency() -> None:
    result = point(at(0.6))
    assert sum(line.time for line in result.breakdown) == pytest.approx(result.metrics["latency"], rel=1e-9)


def test_engines_add_their_client_and_the_step_that_is_scheduled_already() -> None:
    busy = at(0.5)

    def first(request: float, *, overlapped: bool) -> float:
        framework = replace(FRAMEWORK, engine=replace(ENGINE, request=request))
        plan = replace(busy, scheduler=replace(SEATS, overlapped=overlapped))
        return float(evaluate_point(replace(of(plan), framework=framework), Calibration()).metrics["ttft"] or 0.0)

    alone, plain, ahead = (first(0.0, overlapped=False), first(5e-3, overlapped=False), first(5e-3, overlapped=True))
    assert plain == pytest.approx(alone + 5e-3, rel=1e-6)
    assert 0.9 < (ahead - plain) / metrics(busy)["tpot"] < 1.3


def test_a_grid_is_its_points() -> None:
    rates, lengths = np.array([1.0, 5.0, 40.0]), np.array([128.0, 1024.0])
    plan = replace(OPEN, rate=rates.reshape(-1, 1), input_tokens=lengths.reshape(1, -1))
    grid = evaluate_grid(scenario(plan, MOE_MODEL), Calibration(), (3, 2))
    for i, rate in enumerate(rates):
        for j, length in enumerate(lengths):
            single = scenario(replace(OPEN, rate=float(rate), input_tokens=float(length)), MOE_MODEL)
            expected = evaluate_point(single, Calibration()).metrics
            for name in ("ttft", "tpot", "latency", "concurrency", "highest_stable_rate"):
                assert grid.metrics[name][i, j] == pytest.approx(expected[name], rel=1e-9)


def test_ranks_that_wait_for_each_others_prompts_are_left_to_requests() -> None:
    """The closed form has means of them, and says so. As if all had the tokens of the one with most they are slower."""
    chosen = scenario(replace(OPEN, rate=1.0), MOE_MODEL, Parallelism(dp=8.0, ep=8.0))
    padded = replace(chosen, framework=replace(chosen.framework, padded_ranks=True))
    alone, together = (evaluate(each, Calibration()) for each in (chosen, padded))
    assert isinstance(alone, OpenLoopEvaluation)
    assert isinstance(together, OpenLoopEvaluation)
    assert float(alone.metrics(None)["ttft"] or 0.0) < float(together.metrics(None)["ttft"] or 0.0)
    one_rank = evaluate(scenario(replace(OPEN, rate=1.0), MOE_MODEL, Parallelism(tp=8.0, ep=8.0)), Calibration())
    assert isinstance(one_rank, OpenLoopEvaluation)
    assert one_rank.beyond() is None
    assert all("wait for each other's prompts" in (each.beyond() or "") for each in (alone, together))


def test_times_between_nodes_are_those_of_their_own_batch() -> None:
    """The table's interpolation against steps priced at the batch itself."""
    for load in (0.02, 0.2, 0.45, 0.7):
        evaluation = evaluate(of(at(load)), Calibration())
        assert isinstance(evaluation, OpenLoopEvaluation)
        found, priced = evaluation._exact
        mixed, decode = priced.rounds(priced.times(None), 1.0)
        assert float(found.steps.with_prompts) == pytest.approx(float(mixed), rel=0.01)
        assert float(found.steps.decode_only) == pytest.approx(float(decode), rel=0.01)


def test_energy_near_the_highest_rate_is_that_of_all_seats() -> None:
    power = Power(500.0, idle=80.0, busy=100.0, tensor=1e-12, memory=1e-10)
    cluster = replace(CLUSTER, node=replace(CLUSTER.node, device=replace(CLUSTER.device, power=power)))

    def joules(plan: Serving) -> float | None:
        return evaluate_point(scenario(plan, DENSE_MODEL, cluster=cluster), Calibration()).metrics["energy_per_token"]

    full = joules(replace(SERVING, concurrency=64.0, scheduler=SEATS))
    assert joules(at(0.9999)) == pytest.approx(full, rel=2e-3)
    rate = 1e-6
    assert joules(replace(OPEN, rate=rate)) == pytest.approx(80.0 / rate / OPEN.output_tokens, rel=1e-3)


def test_the_share_of_its_blocks_that_an_engine_uses_grows_with_its_users() -> None:
    memory = replace(SERVING, memory=EngineMemory(utilization=0.9))
    one, eight = (metrics(replace(memory, concurrency=users))["kv_use"] for users in (1.0, 8.0))
    assert 0.0 < one < 1.0 / 8.0
    assert eight == pytest.approx(8.0 * one)


def test_requests_in_flight_hold_the_blocks_of_as_many_whatever_the_pipeline() -> None:
    each = []
    for stages in (1.0, 2.0, 4.0):
        found = metrics(at(0.5), Parallelism(pp=stages))
        each.append(found["kv_use"] * found["kv_blocks"] / found["concurrency"])
    assert each == pytest.approx([each[0]] * 3)
    assert OPEN.input_tokens / 16 < each[0] < (OPEN.input_tokens + OPEN.output_tokens) / 16 + 1  # blocks of 16 tokens
