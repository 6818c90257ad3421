"""Prefill and decode: one pass, two streams, exchanges under the other micro-batch's computation."""

from __future__ import annotations

import pytest
from builders import CLUSTER, DECODE, DENSE_MODEL, FP8, MOE_MODEL, NODE, PREFILL, scenario

import costmodel
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.inference import PassModel, Segment, inference_context, pass_model, pass_times
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Nic
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.architecture import Architecture
from costmodel.workload.counting import kv_bytes_per_token, parameter_count
from costmodel.workload.framework_parts import EagerPrompts
from costmodel.workload.plans import Decode, Prefill
from costmodel.workload.scenario import Communication, Parallelism, Plan, Scenario

EXPERTS = Parallelism(dp=16.0, ep=16.0)
LOW_LATENCY = Communication(mode="low_latency", dispatch="fp8")


def of(plan: Plan, layout: Parallelism = EXPERTS, nic: float = 50e9) -> Scenario:
    cluster = replace(CLUSTER, node=replace(NODE, nic=Nic(nic, 1.0, 2e-6)))
    communication = LOW_LATENCY if isinstance(plan, Decode) else Communication(10.0, dispatch="fp8")
    return scenario(plan, MOE_MODEL, layout, FP8, communication, cluster)


def point(chosen: Scenario) -> Point:
    return evaluate_point(chosen, Calibration())


def headline(chosen: Scenario) -> float:
    result = point(chosen)
    value = result.metrics[result.headline]
    assert value is not None
    return value


CASES = {
    "prefill": of(PREFILL),
    "decode": of(DECODE),
    "one micro-batch": of(replace(DECODE, micro_batches=1)),
    "four micro-batches": of(replace(DECODE, micro_batches=4)),
    "slow network": of(DECODE, nic=1e8),
    "tensor parallel": of(DECODE, Parallelism(tp=4.0, dp=4.0, ep=16.0)),
    "pipeline": of(PREFILL, Parallelism(pp=2.0, dp=8.0, ep=8.0)),
    "dense": scenario(DECODE, DENSE_MODEL, Parallelism(tp=4.0)),
    "dense prefill": scenario(PREFILL, DENSE_MODEL, Parallelism(cp=2.0)),
}


def eager(chosen: Scenario, seconds: float) -> Scenario:
    return replace(chosen, framework=replace(chosen.framework, eager_prompts=EagerPrompts(layer=seconds)))


@pytest.mark.parametrize("name", ["prefill", "dense prefill", "pipeline"])
def test_prompts_take_no_less_than_the_host_that_starts_their_kernels(name: str) -> None:
    plain, chosen = headline(CASES[name]), CASES[name]
    assert headline(eager(chosen, 1e-9)) == plain
    found = point(eager(chosen, 1.0))
    layers = chosen.architecture.depth * getattr(chosen.plan, "micro_batches", 1)
    sends = sum(line.time for line in found.breakdown if "pipeline send" in line.name)
    assert found.metrics["ttft"] == pytest.approx(layers + sends)
    assert sum(line.time for line in found.breakdown) == pytest.approx(found.metrics["ttft"])


@pytest.mark.parametrize("name", ["prefill", "dense prefill"])
def test_a_layer_takes_the_host_in_proportion_to_the_kernels_that_it_starts(name: str) -> None:
    layer, operator = EagerPrompts(layer=2.0, kernels=20.0), EagerPrompts(operator=0.1)
    times = [
        headline(replace(CASES[name], framework=replace(CASES[name].framework, eager_prompts=each)))
        for each in (layer, operator)
    ]
    assert times[0] == pytest.approx(times[1])


@pytest.mark.parametrize("name", ["prefill", "dense prefill", "pipeline"])
def test_prompts_take_no_less_than_the_starts_of_their_kernels_and_messages(name: str) -> None:
    """What takes no time, such as an exchange with nobody, is not started."""
    chosen = CASES[name]
    started = replace(chosen, framework=replace(chosen.framework, eager_prompts=EagerPrompts(operator=1.0)))
    plain, found = point(chosen), point(started)
    batches = getattr(chosen.plan, "micro_batches", 1)
    lines = [line for line in plain.breakdown if line.time + line.hidden > 0 and "pipeline send" not in line.name]
    sends = sum(line.time for line in found.breakdown if "pipeline send" in line.name)
    starts = found.metrics["ttft"] - sends
    assert starts == pytest.approx(round(starts))
    assert chosen.architecture.depth * 5 < starts < chosen.architecture.depth * max(len(lines), 5) * 2
    shortest = EagerPrompts(operator=1e-12)
    assert headline(replace(chosen, framework=replace(chosen.framework, eager_prompts=shortest))) == headline(chosen)
    calls = EagerPrompts(operator=1.0, within=("attention core",))
    within = replace(started, framework=replace(started.framework, eager_prompts=calls))
    assert point(within).metrics["ttft"] == pytest.approx(found.metrics["ttft"] - chosen.architecture.depth * batches)


@pytest.mark.parametrize(("name", "seconds"), [("prefill", 1.0), ("dense prefill", 0.0)])
def test_only_models_with_experts_have_no_graphs_of_prompts_where_a_framework_says_so(
    name: str, seconds: float
) -> None:
    chosen = eager(CASES[name], 1.0)
    of_experts = EagerPrompts(layer=1.0, only=("experts",))
    with_experts = replace(chosen, framework=replace(chosen.framework, eager_prompts=of_experts))
    assert headline(with_experts) == headline(eager(chosen, seconds))


def test_decoding_needs_no_host_for_its_kernels() -> None:
    assert headline(eager(CASES["decode"], 1.0)) == headline(CASES["decode"])


@pytest.mark.parametrize("name", list(CASES))
def test_breakdown_sums_to_the_headline(name: str) -> None:
    result = point(CASES[name])
    assert sum(line.time for line in result.breakdown) == pytest.approx(headline(CASES[name]), rel=1e-12)
    assert all(line.time >= -1e-15 and line.hidden >= -1e-15 for line in result.breakdown)


@pytest.mark.parametrize("scenario_name", ["prefill", "decode", "decode_4k"])
def test_the_flagship_s_breakdown_sums_to_its_headline(v3: costmodel.Workload, scenario_name: str) -> None:
    result = v3.evaluate(scenario_name).point()
    assert sum(line.time for line in result.breakdown) == pytest.approx(result.metrics[result.headline], rel=1e-12)


@pytest.mark.parametrize("name", ["prefill", "decode", "slow network", "four micro-batches"])
def test_hidden_and_exposed_exchanges_are_all_exchanges(name: str) -> None:
    chosen = CASES[name]
    assert isinstance(chosen.plan, Prefill | Decode)
    lines = [line for line in point(chosen).breakdown if line.name in {"dispatch", "combine"}]
    priced = pass_model(chosen, chosen.plan, Calibration())
    layer = [
        item
        for segment in priced.segments[2]
        for item in segment.operators
        if item.operator.name in {"dispatch", "combine"}
    ]
    total = 6 * chosen.plan.micro_batches * sum(float(item.time.seconds) for item in layer)
    assert sum(line.time + line.hidden for line in lines) == pytest.approx(total, rel=1e-12)


def test_a_single_micro_batch_exposes_its_exchanges() -> None:
    lines = point(CASES["one micro-batch"]).breakdown
    assert sum(line.hidden for line in lines) == pytest.approx(0, abs=1e-15)


def test_two_micro_batches_hide_exchanges_shorter_than_computation_in_every_layer() -> None:
    """Between two exchanges of a micro-batch the other one computes, also across the border of two layers."""
    idle = {}
    for depth in (6, 24):
        layers = (MOE_MODEL.layers[0], replace(MOE_MODEL.layers[1], repeat=depth))
        chosen = replace(of(PREFILL, nic=4e11), architecture=replace(MOE_MODEL, layers=layers))
        node = replace(chosen.cluster.node, intra=replace(chosen.cluster.node.intra, bandwidth=4e11))
        chosen = replace(chosen, cluster=replace(chosen.cluster, node=node))
        priced = pass_model(chosen, PREFILL, Calibration())
        attention, dispatch, experts, combine, _ = (_seconds(segment) for segment in priced.segments[2])
        assert max(dispatch, combine) < min(attention, experts)
        times = pass_times(priced, None)
        idle[depth] = float(times.latency - times.busy)
    assert idle[24] == pytest.approx(idle[6])  # only the last layer's exchanges have nothing to hide under


def test_a_pass_is_at_least_its_computation_and_at_least_its_exchanges() -> None:
    for chosen in CASES.values():
        assert isinstance(chosen.plan, Prefill | Decode)
        priced = pass_model(chosen, chosen.plan, Calibration())
        times = pass_times(priced, None)
        exchanges = priced.stages[0].program.counts[1:] @ _exchange_rows(priced)
        assert times.latency * (1 + 1e-12) >= times.busy >= times.kernels
        assert times.latency * (1 + 1e-12) >= max(map(float, exchanges), default=0.0)


def _exchange_rows(priced: PassModel) -> list[float]:
    slots = (priced.segments[kind][part] for kind, part in priced.stages[0].program.slots)
    return [_seconds(segment) for segment in slots]


def _seconds(segment: Segment) -> float:
    return sum(float(item.time.seconds) for item in segment.operators)


def test_the_mean_context_decides_the_keys() -> None:
    assert isinstance(DECODE, Decode)
    assert inference_context(of(DECODE), DECODE).kv_len == 1024 + 128
    longer = replace(DECODE, output_tokens=2048.0)
    assert headline(of(longer)) > headline(of(DECODE))


@pytest.mark.parametrize("layout", [Parallelism(tp=4.0), Parallelism(cp=4.0), Parallelism(tp=2.0, cp=2.0)])
def test_ranks_of_a_tensor_and_context_parallel_group_serve_their_requests_together(layout: Parallelism) -> None:
    decode, prefill = (inference_context(of(plan, layout), plan) for plan in (DECODE, PREFILL))
    assert decode.sequences == 4 * 16
    assert prefill.sequences == 4 * 2


def test_rates_follow_from_the_headline() -> None:
    prefill, decode = point(CASES["prefill"]).metrics, point(CASES["decode"]).metrics
    ttft, tpot = prefill["ttft"], decode["tpot"]
    assert ttft is not None
    assert tpot is not None
    assert prefill["tokens_per_second_per_device"] == pytest.approx(4096 / ttft)
    assert prefill["cost_per_million_tokens"] == pytest.approx(2 / 3600 * 1e6 * ttft / 4096)
    assert decode["tokens_per_second_per_device"] == pytest.approx(32 / tpot)
    assert decode["tokens_per_second_per_user"] == pytest.approx(1 / tpot)
    assert decode["cost_per_million_tokens"] == pytest.approx(2 / 3600 * 1e6 * tpot / 32)


@pytest.mark.parametrize("pp", [2.0, 3.0, 8.0])
def test_a_pipeline_s_latency_is_the_sum_of_its_stages_and_its_rate_the_slowest(pp: float) -> None:
    """Eight layers on three stages are 3, 3 and 2: the head stands on the last."""
    layout = Parallelism(pp=pp)
    prefill = of(PREFILL, layout)
    prefill = replace(prefill, architecture=DENSE_MODEL)
    times = pass_times(pass_model(prefill, PREFILL, Calibration()), None)
    alone = pass_times(pass_model(replace(prefill, parallel=Parallelism()), PREFILL, Calibration()), None)
    hops = [line.time for line in point(prefill).breakdown if line.name == "pipeline send"]
    assert times.latency == pytest.approx(float(alone.latency) + sum(hops), rel=1e-12)
    assert pp * times.slowest > alone.latency  # no split of the layers, embedding and head is exactly even
    found = point(prefill).metrics
    assert found["ttft"] == pytest.approx(times.latency)
    assert found["tokens_per_second_per_device"] == pytest.approx(4096 / (pp * float(times.slowest)))


def test_a_round_of_decoding_waits_for_the_slowest_stage_or_for_its_own_last_token() -> None:
    chosen = replace(of(DECODE, Parallelism(pp=3.0)), architecture=DENSE_MODEL)
    times = pass_times(pass_model(chosen, DECODE, Calibration()), None)
    assert point(chosen).metrics["tpot"] == pytest.approx(max(float(times.latency), 3 * float(times.slowest)))
    assert times.round(1.0) == times.latency
    result = point(chosen)
    assert sum(line.time for line in result.breakdown) == pytest.approx(result.metrics["tpot"], rel=1e-12)


def test_a_pipeline_keeps_the_caches_of_all_its_sets_for_a_part_of_the_layers() -> None:
    one, four = (point(replace(of(DECODE, Parallelism(pp=pp)), architecture=DENSE_MODEL)).memory for pp in (1.0, 4.0))
    assert one is not None
    assert four is not None
    assert four["kv_cache"] == pytest.approx(one["kv_cache"])  # four sets, each on a quarter of the layers
    # The fullest stage has a quarter of the layers and the embedding or the head, here equally large.
    table = 2 * 32_000 * 1024
    assert four["weights"] == pytest.approx((one["weights"] - 2 * table) / 4 + table, rel=1e-3)


@pytest.mark.parametrize("plan", [replace(PREFILL, tokens_per_device=128.0), replace(DECODE, batch_per_device=0.125)])
def test_eight_ranks_together_serve_one_sequence(plan: Prefill | Decode) -> None:
    chosen = scenario(replace(plan, micro_batches=1), DENSE_MODEL, Parallelism(tp=8.0))
    assert inference_context(chosen, replace(plan, micro_batches=1)).sequences == 1
    found = point(chosen).metrics
    rate = found["tokens_per_second_per_device"]
    assert rate is not None
    assert 8 * rate == pytest.approx((1024 if isinstance(plan, Prefill) else 1) / headline(chosen))


def test_the_largest_batch_is_whole_sequences_of_the_group() -> None:
    most = point(scenario(replace(DECODE, micro_batches=2, batch_per_device=0.5), DENSE_MODEL, Parallelism(tp=4.0)))
    value = most.metrics["max_batch_per_device"]
    assert value is not None
    assert value % 0.5 == 0
    whole = point(scenario(replace(DECODE, micro_batches=2), DENSE_MODEL, Parallelism(tp=4.0)))
    assert whole.metrics["max_batch_per_device"] == value


@pytest.mark.parametrize("batch", [1.0, 32.0, 512.0])
@pytest.mark.parametrize("model", [DENSE_MODEL, MOE_MODEL], ids=["dense", "moe"])
def test_a_step_takes_at_least_as_long_as_reading_weights_and_caches(model: Architecture, batch: float) -> None:
    chosen = scenario(replace(DECODE, batch_per_device=batch, micro_batches=1), model)
    weights = 2 * parameter_count(model).active  # those that one token visits, without the embedding
    caches = batch * kv_bytes_per_token(model) * (1024 + 128)
    assert headline(chosen) >= (weights + caches) / 2e12 * 0.999  # norms' vectors are not counted as read


def test_a_pipeline_adds_a_message_a_hop() -> None:
    one, two = (point(of(PREFILL, Parallelism(pp=pp, dp=8.0, ep=8.0))) for pp in (1.0, 2.0))
    sends = [line.time for line in two.breakdown if line.name == "pipeline send"]
    assert len(sends) == 1
    assert sends[0] > 0
    assert [line for line in one.breakdown if line.name == "pipeline send"] == []


def test_decoding_does_not_depend_on_the_formats_of_training() -> None:
    other = replace(FP8, master=None, gradients="bf16", moments="bf16", activations="bf16")
    plain = of(DECODE)
    assert headline(replace(plain, precision=other)) == headline(plain)


def test_the_same_context_is_read_by_either_spelling() -> None:
    split = replace(DECODE, input_tokens=512.0, output_tokens=1280.0)
    assert headline(of(split)) == headline(of(DECODE))
