"""Continuous batching: step times put together by the steady state, its limits, and what memory cuts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import (
    CLUSTER,
    DECODE,
    DENSE_MODEL,
    DEVICE,
    DRAFTS,
    FP8,
    FRAMEWORK,
    MOE_MODEL,
    PREFILL,
    SERVING,
    scenario,
    with_device,
    with_level,
)

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.inference import PassTimes
from costmodel.analytic.operator_timing import operator_timer
from costmodel.analytic.serving.continuous_batching import EngineSteps, only_requests
from costmodel.analytic.serving.engine_state import starts_ahead, steady_state
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Cluster
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.architecture import Architecture
from costmodel.workload.counting import kv_bytes_per_token
from costmodel.workload.engine import CacheTier, Engine, EngineMemory, Scheduler, SchedulerRule
from costmodel.workload.framework_parts import EagerPrompts
from costmodel.workload.plans import Serving
from costmodel.workload.requests import (
    Autoscale,
    Failure,
    Lengths,
    Replicas,
    RequestStream,
    Sessions,
    SharedPrefix,
    Slo,
)
from costmodel.workload.scenario import Communication, Parallelism, Plan, Scenario

EXPERTS = Parallelism(dp=16.0, ep=16.0)
ALONE = replace(SERVING, scheduler=Scheduler(token_budget=None))


def of(
    plan: Plan, model: Architecture = DENSE_MODEL, layout: Parallelism | None = None, cluster: Cluster = CLUSTER
) -> Scenario:
    return scenario(plan, model, layout, FP8, Communication(dispatch="fp8"), cluster)


def point(chosen: Scenario) -> Point:
    return evaluate_point(chosen, Calibration())


def metrics(chosen: Scenario) -> dict[str, float]:
    result = point(chosen)
    assert result.fits
    return {name: value for name, value in result.metrics.items() if value is not None}


def memory_of(size: float) -> Cluster:
    return with_device(CLUSTER, with_level(DEVICE, "hbm", 2e12, size))


CASES = {
    "chunked": of(SERVING),
    "alone": of(ALONE),
    "saturated": of(replace(SERVING, concurrency=1000.0, scheduler=Scheduler(token_budget=64.0))),
    "hits": of(replace(SERVING, prefix_hit_rate=0.7)),
    "tensor parallel": of(SERVING, layout=Parallelism(tp=4.0, dp=2.0)),
    "pipeline": of(replace(SERVING, micro_batches=2), layout=Parallelism(pp=4.0)),
    "experts": of(replace(SERVING, micro_batches=2), MOE_MODEL, EXPERTS),
    "experts alone": of(replace(ALONE, micro_batches=2), MOE_MODEL, EXPERTS),
    "drafts": of(replace(SERVING, speculative=DRAFTS), MOE_MODEL, EXPERTS),
    "cut": of(replace(SERVING, concurrency=4096.0, scheduler=Scheduler(token_budget=8192.0)), cluster=memory_of(4e9)),
}


@pytest.mark.parametrize("name", list(CASES))
def test_requests_in_flight_are_their_rate_times_their_latency(name: str) -> None:
    chosen = CASES[name]
    assert isinstance(chosen.plan, Serving)
    found = metrics(chosen)
    in_flight = chosen.plan.concurrency * chosen.parallel.dp
    assert found["requests_per_second"] * found["latency"] == pytest.approx(in_flight, rel=1e-9)


@pytest.mark.parametrize("name", list(CASES))
def test_the_breakdown_sums_to_the_latency(name: str) -> None:
    result = point(CASES[name])
    assert sum(line.time for line in result.breakdown) == pytest.approx(result.metrics["latency"], rel=1e-9)
    assert all(line.time >= -1e-12 for line in result.breakdown)


def test_rates_follow_from_requests() -> None:
    found = metrics(CASES["tensor parallel"])
    rate = found["requests_per_second"]
    assert found["latency"] == pytest.approx(found["ttft"] + 255 * found["tpot"])
    assert found["input_tokens_per_second"] == pytest.approx(1024 * rate)
    assert found["tokens_per_second"] == pytest.approx(256 * rate)
    assert found["tokens_per_second_per_device"] == pytest.approx(32 * rate)
    assert found["cost_per_million_tokens"] == pytest.approx(8 * 2 / 3600 * 1e6 / found["tokens_per_second"])


def test_one_request_whose_prompt_runs_alone_is_a_prefill_and_its_decoding() -> None:
    found = metrics(of(replace(ALONE, concurrency=1.0)))
    prefill = metrics(of(replace(PREFILL, tokens_per_device=1024.0, micro_batches=1)))
    decode = metrics(of(replace(DECODE, batch_per_device=1.0, micro_batches=1)))
    assert found["ttft"] == pytest.approx(prefill["ttft"], rel=1e-12)
    assert found["tpot"] == pytest.approx(decode["tpot"], rel=1e-12)


def test_prompts_that_are_cached_cost_their_last_token_only() -> None:
    """A full hit computes one token: beside many decoding requests it is one more row of their step."""
    hit = replace(SERVING, prefix_hit_rate=1.0)
    found = metrics(of(hit))
    decode = metrics(of(replace(DECODE, batch_per_device=32.0, micro_batches=1)))
    assert found["tpot"] == pytest.approx(decode["tpot"], rel=0.05)
    assert found["ttft"] < 1.5 * decode["tpot"]
    missed = metrics(of(SERVING))
    assert found["ttft"] < missed["ttft"]
    assert found["tokens_per_second"] > missed["tokens_per_second"]


def test_hits_read_their_keys_and_compute_nothing_else() -> None:
    """The attention core of what is new still sees the whole prompt."""
    half = metrics(of(replace(PREFILL, prefix_hit_rate=0.5)))["ttft"]
    short = metrics(of(replace(PREFILL, input_tokens=512.0, tokens_per_device=2048.0)))["ttft"]
    assert short < half < metrics(of(PREFILL))["ttft"]


def test_throughput_grows_with_concurrency_until_chunks_are_full() -> None:
    few = replace(SERVING, scheduler=Scheduler(token_budget=128.0))
    plans = [replace(few, concurrency=number) for number in (1.0, 4.0, 16.0, 64.0, 500.0)]
    found = [metrics(of(plan)) for plan in plans]
    rates = [each["tokens_per_second"] for each in found]
    assert rates == sorted(rates)
    assert [each["tpot"] for each in found] == sorted(each["tpot"] for each in found)
    # Steps of 128 tokens; a request takes 1,024 for its prompt and 255 to decode. Its chunks are what decoding leaves.
    per_step = 128 / (1024 + 255)
    chunk = 128 - 255 * per_step
    assert found[-1]["concurrency"] == pytest.approx(per_step * (1024 / chunk + 255))
    assert found[-1]["ttft"] > found[-2]["ttft"]


def test_a_smaller_chunk_lets_decoding_go_on_and_prompts_wait() -> None:
    small, large = (metrics(of(replace(SERVING, scheduler=Scheduler(token_budget=chunk)))) for chunk in (128.0, 1024.0))
    alone = metrics(of(ALONE))
    assert small["ttft"] > large["ttft"]
    assert large["ttft"] >= alone["ttft"]


def test_requests_without_room_for_their_cache_wait_and_the_result_says_so() -> None:
    result = point(CASES["cut"])
    assert result.fits
    admitted, most = result.metrics["concurrency"], result.metrics["max_concurrency"]
    assert admitted == most
    assert most is not None
    assert most < 4096
    assert result.memory is not None
    assert sum(result.memory.values()) <= result.capacity
    assert any(f"{most:g} of 4096 requests" in note for note in result.notes)
    assert any(line.name == "waiting for memory" and line.bound == "capacity" for line in result.breakdown)
    assert point(CASES["chunked"]).notes == ()


@pytest.mark.parametrize(
    ("stream", "slo", "told"),
    [
        (RequestStream(input=Lengths(mean=512.0)), None, ()),
        (
            RequestStream(input=Lengths(distribution="lognormal", mean=512.0)),
            None,
            ("`requests.input`, taken at the mean",),
        ),
        (RequestStream(sessions=Sessions(turns=Lengths(mean=3.0))), None, ("`requests.sessions` one by one",)),
        (RequestStream(arrivals="burst"), None, ("arrivals: burst",)),
        (None, Slo(ttft=0.5), ()),
        (RequestStream(trace="calls.csv"), None, ("`requests.trace`",)),
        (RequestStream(prefix=SharedPrefix(groups=1.0, tokens=100.0)), None, ("`requests.prefix`",)),
    ],
)
def test_a_note_says_what_of_the_requests_the_closed_form_takes_no_notice_of(
    stream: RequestStream | None, slo: Slo | None, told: tuple[str, ...]
) -> None:
    for concurrency, rate in ((8.0, None), (None, 0.5)):
        plan = replace(SERVING, requests=stream, slo=slo, concurrency=concurrency, rate=rate)
        notes = evaluate(scenario(plan, DENSE_MODEL), Calibration()).notes()
        left = [note for note in notes if note.startswith("closed form: without")]
        assert len(left) == (1 if told else 0)
        assert all(word in left[0] for word in told)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("replicas.prefill", {"replicas": Replicas(count=2.0, prefill=1.0)}),
        ("replicas.autoscale", {"replicas": Replicas(autoscale=Autoscale(most=2.0, target=4.0))}),
        ("replicas.failures", {"replicas": Replicas(failures=(Failure(replica=0.0, at=1.0, lasts=1.0),))}),
        ("replicas.max_waiting", {"replicas": Replicas(max_waiting=4.0)}),
        ("replicas.routing", {"replicas": Replicas(count=2.0, routing="least_loaded")}),
        ("memory.tiers", {"memory": EngineMemory(utilization=0.9, tiers=(CacheTier(capacity=1e9, bandwidth=1e9),))}),
        ("scheduler.policy", {"scheduler": Scheduler(policy="priority")}),
        ("scheduler.preemption: swap", {"scheduler": Scheduler(preemption="swap")}),
    ],
)
def test_what_of_a_deployment_only_requests_one_by_one_know_is_named(key: str, changes: dict[str, Any]) -> None:
    plan = replace(SERVING, **changes)
    assert only_requests(SERVING) == ()
    assert only_requests(plan) == (f"`{key}`",)
    notes = evaluate(scenario(plan, DENSE_MODEL), Calibration()).notes()
    assert f"closed form: without `{key}`; `--engine event` has them" in notes


def test_the_largest_concurrency_is_what_memory_leaves_for_caches() -> None:
    found = metrics(of(replace(SERVING, concurrency=64.0)))
    memory = point(of(replace(SERVING, concurrency=64.0))).memory
    assert memory is not None
    one = kv_bytes_per_token(DENSE_MODEL) * (1024 + 128)
    rest = 80e9 - memory["weights"] - memory["reserve"]
    assert found["max_concurrency"] == pytest.approx(rest / one, rel=0.02)
    assert memory["kv_cache"] == pytest.approx(64 * one)


def test_no_room_for_one_request_is_infeasible() -> None:
    result = point(of(SERVING, cluster=memory_of(6e8)))
    assert not result.fits
    assert all(value is None for value in result.metrics.values())


def test_no_step_beats_its_weights_and_caches() -> None:
    for name in ("chunked", "alone", "experts", "pipeline"):
        chosen = CASES[name]
        memory = point(chosen).memory
        assert memory is not None
        read = memory["weights"] if name != "experts" else 0.0
        assert metrics(chosen)["tpot"] >= (read + memory["kv_cache"] / chosen.parallel.pp) / 2e12 * 0.95, name


def test_drafting_gives_more_tokens_in_the_same_time() -> None:
    plain = metrics(of(replace(SERVING, concurrency=8.0), MOE_MODEL, EXPERTS))
    drafting = metrics(of(replace(SERVING, concurrency=8.0, speculative=DRAFTS), MOE_MODEL, EXPERTS))
    assert 1.0 < drafting["tokens_per_second"] / plain["tokens_per_second"] < 1.8


def test_a_request_s_lines_have_what_client_and_front_end_add_and_neither_queue_nor_running_step_hides() -> None:
    def lines(request: float, request_token: float) -> dict[str, float]:
        engine = Engine(
            "1",
            rules=(SchedulerRule(max_num_seqs=64.0, token_budget=512.0),),
            scheduler=Scheduler(),
            memory=EngineMemory(utilization=0.9),
            request=request,
            request_token=request_token,
        )
        chosen = replace(of(SERVING), framework=replace(FRAMEWORK, engine=engine))
        found = {line.name: line.time for line in point(chosen).breakdown}
        assert sum(found.values()) == pytest.approx(metrics(chosen)["latency"], rel=1e-9)
        return found

    known = lines(5e-3, 2e-6)
    adds = 5e-3 + 2e-6 * SERVING.input_tokens - known["steps under way"] / 2.0
    assert known["client and front end"] == pytest.approx(adds, rel=2e-3)  # steps are nearly all of one length
    assert "client and front end" not in lines(1e-6, 0.0)


def test_part_of_a_prompt_more_takes_its_share_of_a_step_with_one_more() -> None:
    chosen = of(ALONE)
    assert isinstance(chosen.plan, Serving)
    timer, state = operator_timer(chosen, Calibration()), steady_state(chosen, chosen.plan, 8.0)
    one, mean, two = (
        steps.rounds(steps.times(None), 1.0)[0]
        for steps in (
            EngineSteps.of(chosen, chosen.plan, replace(state, prompts=prompts), timer) for prompts in (1.0, 1.01, 2.0)
        )
    )
    assert mean == pytest.approx(0.99 * one + 0.01 * two, rel=1e-12)


def test_what_the_host_starts_ahead_of_a_pass_shortens_its_wait_for_the_host_alone() -> None:
    waiting = PassTimes(latency=94e-3, slowest=94e-3, busy=40e-3, kernels=40e-3, host=54e-3)
    begun, hidden = waiting.started_ahead(20e-3), waiting.started_ahead(1.0)
    assert (begun.latency, begun.slowest, begun.host) == pytest.approx((74e-3, 74e-3, 34e-3))
    assert (hidden.latency, hidden.host) == pytest.approx((40e-3, 0.0))


def test_one_user_has_no_step_behind_which_the_host_could_start_kernels() -> None:
    framework = replace(FRAMEWORK, eager_prompts=EagerPrompts(operator=1e-3))
    chosen = replace(of(replace(SERVING, scheduler=replace(SERVING.scheduler, overlapped=True))), framework=framework)
    assert isinstance(chosen.plan, Serving)
    timer = operator_timer(chosen, Calibration())
    heads = [
        EngineSteps.of(chosen, chosen.plan, steady_state(chosen, chosen.plan, users), timer).head
        for users in (1.0, 8.0)
    ]
    assert heads[0] == 0.0
    assert 0.5 < heads[1] < 1.0
    layouts = replace(chosen, parallel=Parallelism(pp=np.array([1.0, 2.0])))
    assert np.asarray(starts_ahead(layouts, chosen.plan)).tolist() == [True, False]
