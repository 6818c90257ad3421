"""Prompts in chunks: as much work as in one pass, less memory, passes that follow one another, advice that helps."""

from __future__ import annotations

import re

import pytest
from builders import CLUSTER, DENSE_MODEL, DEVICE, FRAMEWORK, GENERATE, UNFUSED, pools, scenario, with_level

from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.inference import pass_ledger, pass_model, pass_times, prefill_passes
from costmodel.analytic.serving.generation import prompt_passes_of
from costmodel.api import load
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.result import Point
from costmodel.study.published.predictions import TOTAL, counted_work
from costmodel.workload.engine import Scheduler
from costmodel.workload.passes import prompt_passes
from costmodel.workload.plans import Decode, Generate, Prefill, Serving
from costmodel.workload.scenario import Parallelism, Plan, Scenario


def point(chosen: Scenario) -> Point:
    return evaluate_point(chosen, Calibration())


def metric(chosen: Scenario, name: str) -> float:
    value = point(chosen).metrics[name]
    assert value is not None
    return value


WHOLE = Prefill(input_tokens=8192.0, tokens_per_device=8192.0)
CUT = replace(WHOLE, chunk_tokens=2048.0)


def test_prompts_are_cut_into_equal_passes() -> None:
    """10,000 tokens at most 4,096 at a time: three passes of 3,333, whose last tokens see 6,667 on the mean."""
    passes = prompt_passes(1.0, 10_000.0, 10_000.0, 4096.0)
    assert (passes.count, passes.sequences) == (3.0, 1.0)
    assert passes.new_tokens == pytest.approx(10_000 / 3)
    assert passes.kv_len == pytest.approx((10_000 / 3 + 20_000 / 3 + 10_000) / 3)
    whole = prompt_passes(6.0, 1000.0, 1200.0, 2000.0)  # two prompts a pass, of which a cache holds 200 tokens
    assert (whole.count, whole.sequences, whole.new_tokens, whole.kv_len) == (3.0, 2.0, 1000.0, 1200.0)
    uncut = prompt_passes(6.0, 1000.0, 1200.0, None)
    assert (uncut.count, uncut.sequences, uncut.new_tokens, uncut.kv_len) == (1.0, 6.0, 1000.0, 1200.0)
    cached = prompt_passes(1.0, 1000.0, 9000.0, 500.0)
    assert (cached.count, cached.new_tokens, cached.kv_len) == (2.0, 500.0, 8750.0)


def test_chunks_do_as_much_work() -> None:
    whole, cut = (counted_work(scenario(plan)) for plan in (WHOLE, CUT))
    for line in ("attention core", "qkv", "ffn up"):
        names = [name for name in whole if name.startswith(line)]
        assert names
        for name in names:
            assert cut[name]["flop"] == pytest.approx(whole[name]["flop"], rel=1e-12), name
            assert cut[name]["pairs"] == pytest.approx(whole[name]["pairs"], rel=1e-12), name
    assert cut[TOTAL]["traffic"] > whole[TOTAL]["traffic"]  # weights are read four times


def test_a_chunk_needs_a_quarter_of_the_activations_and_the_whole_cache() -> None:
    def ledger(plan: Prefill) -> tuple[float, float]:
        found = pass_ledger(scenario(plan, framework=UNFUSED), plan)
        return float(found.activations), float(found.kv_cache)

    whole, cut = ledger(WHOLE), ledger(CUT)
    assert whole[1] == cut[1] == 8192 * 8 * 4 * 128 * 2
    assert cut[0] == pytest.approx(whole[0] / 4, rel=1e-9)


@pytest.mark.parametrize("pp", [1.0, 4.0])
def test_passes_follow_one_another_through_the_pipeline(pp: float) -> None:
    chosen = scenario(CUT, parallel=Parallelism(pp=pp))
    times = pass_times(pass_model(chosen, CUT, Calibration()), None)
    assert prefill_passes(chosen, CUT).count == 4.0
    found = point(chosen)
    assert found.metrics["ttft"] == pytest.approx(float(times.latency + 3 * times.slowest), rel=1e-12)
    rate = 8192.0 / (4 * pp * float(times.slowest))
    assert found.metrics["tokens_per_second_per_device"] == pytest.approx(rate, rel=1e-12)
    assert sum(line.time for line in found.breakdown) == pytest.approx(found.metrics["ttft"], rel=1e-12)


def test_a_static_batch_and_a_pool_cut_their_prompts_too() -> None:
    batch = replace(GENERATE, chunk_tokens=GENERATE.input_tokens)  # one prompt a pass, 64 passes
    whole, cut = (point(scenario(plan)) for plan in (GENERATE, batch))
    assert whole.metrics["tpot"] == cut.metrics["tpot"]
    one = metric(scenario(replace(GENERATE, batch=1.0)), "ttft")
    assert cut.metrics["ttft"] == pytest.approx(64 * one, rel=1e-9)
    assert sum(line.time for line in cut.breakdown) == pytest.approx(cut.metrics["latency"], rel=1e-12)
    plan = pools()
    assert isinstance(plan.prefill.plan, Prefill)
    prefill = replace(plan.prefill, plan=replace(plan.prefill.plan, chunk_tokens=1024.0))
    divided = scenario(replace(plan, prefill=prefill))
    split = point(divided)
    assert metric(divided, "ttft") > metric(scenario(plan), "ttft")
    alone = metric(scenario(prefill.plan, communication=prefill.communication), "tokens_per_second_per_device")
    assert split.metrics["prefill_tokens_per_second_per_device"] == pytest.approx(alone, rel=1e-12)
    assert sum(line.time for line in split.breakdown) == pytest.approx(split.metrics["latency"], rel=1e-12)


def test_frameworks_have_chunks_of_their_own() -> None:
    """A prompt of 32,768 tokens under llama.cpp: 64 passes of 512; scores of one pass fit beside the model."""
    changes = {"scenarios.chat.input_tokens": 32768, "scenarios.chat.cluster": "nodes/h100-x1"}
    for framework, passes in (("llama-cpp", 64), ("vllm", 4), ("hf-static", 1)):
        workload = load("llama3_8b_rtx4090", set={**changes, "scenarios.chat.framework": f"frameworks/{framework}"})
        chosen = workload.resolved.scenarios["chat"]
        assert isinstance(chosen.plan, Generate)
        assert prompt_passes_of(chosen, chosen.plan).count == passes
        assert framework == "hf-static" or workload.evaluate("chat").point().reason is None
    stated = load("llama3_8b_rtx4090", set={**changes, "scenarios.chat.chunk_tokens": 8192})
    own = stated.resolved.scenarios["chat"].plan
    assert isinstance(own, Generate)
    assert own.chunk_tokens == 8192


@pytest.mark.parametrize("plan", [
    Prefill(1e6, 5e5, chunk_tokens=4096.0), Decode(0.5, 1e6, 64.0), Generate(1.0, 1e6, 64.0, chunk_tokens=4096.0),
    Serving(1e6, 64.0, 1.0, scheduler=Scheduler(token_budget=4096.0)),
])  # fmt: skip
def test_nothing_is_advised_that_is_at_its_minimum(plan: Plan) -> None:
    """One request in a group of two devices: no smaller batch is left, and none is advised."""
    parallel = Parallelism(tp=2.0 if isinstance(plan, Prefill | Decode) else 1.0)
    small = replace(CLUSTER, node=replace(CLUSTER.node, device=with_level(DEVICE, "hbm", 2e12, 2e9)))
    told = evaluate_point(scenario(plan, DENSE_MODEL, parallel, cluster=small, framework=FRAMEWORK), Calibration())
    assert told.reason is not None
    assert "Largest part: KV cache" in told.reason
    assert not re.search(r"\b[Ll]ower `", told.reason)
    assert "horten `input_tokens`" in told.reason


def test_chunks_are_advised_where_activations_do_not_fit() -> None:
    small = replace(CLUSTER, node=replace(CLUSTER.node, device=with_level(DEVICE, "hbm", 2e12, 6e9)))
    plan = replace(WHOLE, input_tokens=65536.0, tokens_per_device=65536.0)
    told = evaluate_point(scenario(plan, cluster=small, framework=UNFUSED), Calibration())
    assert told.reason is not None
    assert "`chunk_tokens`, now 65,536" in told.reason
    cut = evaluate_point(scenario(replace(plan, chunk_tokens=64.0), cluster=small, framework=UNFUSED), Calibration())
    assert cut.reason is None


@pytest.mark.parametrize(("plan", "field"), [
    (Prefill(1e6, 1e6, chunk_tokens=4096.0), "tokens_per_device"), (Decode(1.0, 1e6, 64.0), "batch_per_device"),
])  # fmt: skip
def test_of_two_requests_in_a_group_one_less_is_advised(plan: Plan, field: str) -> None:
    small = replace(CLUSTER, node=replace(CLUSTER.node, device=with_level(DEVICE, "hbm", 2e12, 2e9)))
    told = evaluate_point(
        scenario(plan, DENSE_MODEL, Parallelism(tp=2.0), cluster=small, framework=FRAMEWORK), Calibration()
    )
    assert f"ower `{field}`" in (told.reason or "")
