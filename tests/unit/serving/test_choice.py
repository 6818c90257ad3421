"""Which engine answers a serving scenario where none is asked for, and lengths that a file of requests gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import costmodel
from costmodel.analytic.evaluation import evaluate
from costmodel.api import request_engine
from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.schema.files import load_model
from costmodel.serving.choice import by_requests
from costmodel.serving.simulation import Simulation
from costmodel.serving.summary import request_times
from costmodel.workload.adapters import Adapters
from costmodel.workload.counting import adapter_parameters, has_served_layer
from costmodel.workload.plans import Serving

FEW = {"count": 40}
RATE = {"concurrency": None, "rate": "1 /s", "requests": FEW, "output_tokens": 24}
TRACE = "arrival_s,input_tokens,output_tokens\n0,400,20\n1,200,30\n2,300,40\n4,300,30\n"
WORKLOAD = """
schema: costmodel/workload@1
model: models/llama-3-8b
scenarios:
  serving: {phase: serving, cluster: nodes/rtx-4090-x1, precision: w4a16, chunk_tokens: 512, %s}
"""


def loaded(**changes: Any) -> costmodel.Workload:
    """Return the shipped server. changes: of its scenario."""
    given = {f"scenarios.serving.{key}": value for key, value in (RATE | changes).items()}
    return costmodel.load("llama3_8b_rtx4090", set=given, scenarios=["serving"])


def answer(engine: str | None = None, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the document of the shipped server, and its scenario. changes: of this."""
    document = loaded(**changes).simulate(engine=engine)
    return document, document["scenarios"]["serving"]


def test_the_closed_form_answers_where_it_holds() -> None:
    document, found = answer()
    assert document["engine"] == "analytic"
    assert "engine" not in found


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"replicas": {"count": 2, "max_waiting": 4}}, "replicas.max_waiting"),
        ({"replicas": {"count": 2, "prefill": 1, "transfer": {"bandwidth": "50 GB/s"}}}, "replicas.prefill"),
        ({"replicas": {"count": 2, "breakdowns": {"device_mtbf": "1 h", "repair": "10 min"}}}, "replicas.breakdowns"),
        ({"requests": FEW | {"sessions": {"turns": 4}}}, "requests.sessions"),
        ({"output_tokens": 3}, "decoded in 2 steps"),
        ({"rate": "15 /s"}, "83% of the highest stable one"),
        ({"rate": "11 /s", "chunk_tokens": None}, "prompts come while others have steps of their own"),
    ],
)
def test_requests_answer_where_only_they_do_as_if_they_were_asked_for(changes: dict[str, Any], why: str) -> None:
    document, found = answer(**changes)
    assert document["engine"] == found["engine"] == "event"
    assert document["seed"] is not None
    assert found["notes"][0].startswith("by requests one by one (`--engine event`): ")
    assert why in found["notes"][0]
    if "sessions" in why:  # for all reasons alike
        assert found["metrics"] == answer("event", **changes)[1]["metrics"]
    stated, closed = answer("analytic", **changes)
    assert stated["engine"] == "analytic"
    assert closed["metrics"]["ttft"] != found["metrics"]["ttft"]
    assert any(why in note and note.startswith("closed form: ") for note in closed["notes"])


def test_two_pools_are_answered_as_one_is() -> None:
    """Near the highest rate, and for a trace's spread, by requests; at little load and far too much in closed form."""
    pool = {"cluster": "nodes/dgx-h100"}
    run = {
        "phase": "serving",
        "prefill": {"instances": 1},
        "decode": {"instances": 1},
        "input_tokens": 512,
        "output_tokens": 24,
        "rate": "1 /s",
    }
    given = {"schema": "costmodel/workload@1", "model": "models/llama-3-8b", "scenarios": {"run": pool | run}}
    highest = costmodel.load(given).simulate(engine="analytic")["scenarios"]["run"]["metrics"]["highest_stable_rate"]
    for share, engine in ((0.3, "analytic"), (0.9, "event"), (2.0, "analytic")):
        own = costmodel.load(given, set={"scenarios.run.rate": share * highest, "scenarios.run.requests": FEW})
        assert own.simulate()["engine"] == engine
    spread = FEW | {"output": {"distribution": "lognormal", "mean": 20, "deviation": 9}}
    found = costmodel.load(given, set={"scenarios.run.requests": spread}).simulate()["scenarios"]["run"]
    assert "spread of `requests.output`" in found["notes"][0]


@pytest.mark.parametrize(("ranks", "waits"), [(1, False), (2, True)])
def test_requests_answer_for_a_closed_loop_whose_ranks_wait_for_each_other(ranks: int, waits: bool) -> None:
    run = {"phase": "serving", "cluster": "nodes/dgx-h100", "framework": "vllm", "parallel": {"dp": ranks, "ep": ranks},
           "input_tokens": 512, "output_tokens": 64, "concurrency": 8}  # fmt: skip
    given = {"schema": "costmodel/workload@1", "model": "models/qwen3-30b-a3b", "scenarios": {"run": run}}
    loaded = costmodel.load(given)
    assert by_requests(loaded.scenario("run"), loaded.calibration(loaded.scenario("run"))) is waits


def test_both_engines_have_the_same_means_of_ranks_that_step_together() -> None:
    """Of a load drawn at random: without the steps of other ranks a fifth off."""
    draw = np.random.default_rng(20261202)
    inputs, outputs, users = (int(draw.choice(each)) for each in ([512, 1024, 2048], [64, 128], [6, 8, 12]))
    run = {"phase": "serving", "cluster": "nodes/dgx-h100", "framework": "vllm", "parallel": {"dp": 2, "ep": 2},
           "input_tokens": inputs, "output_tokens": outputs, "concurrency": users, "precision": "bf16",
           "scheduler": {"max_num_seqs": 16}}  # fmt: skip
    spread = {"distribution": "uniform", "low": 1, "high": 2 * outputs - 1}
    requests = {"count": 300, "arrivals": "closed_loop", "ramp": f"{outputs / 80:g} s", "output": spread}
    found = {}
    for engine, more in (("analytic", {}), ("event", {"requests": requests})):
        given = {"schema": "costmodel/workload@1", "model": "models/qwen3-30b-a3b", "scenarios": {"run": run | more}}
        found[engine] = costmodel.load(given).simulate(engine=engine)["scenarios"]["run"]["metrics"]
    assert found["analytic"]["ttft"] == pytest.approx(found["event"]["ttft"], rel=0.15)
    assert found["analytic"]["tpot"] == pytest.approx(found["event"]["tpot"], rel=0.08)


def test_the_closed_form_beside_sessions_has_the_hits_that_requests_had() -> None:
    """It says how operators share a step: of prompts that were mostly in the cache."""
    workload = loaded(requests=FEW | {"sessions": {"turns": 4}})
    scenario = workload.scenario("serving")
    assert isinstance(scenario.plan, Serving)
    asked = request_engine()(scenario, scenario.plan, workload.calibration(scenario))
    hits = asked.metrics(None)["prefix_hit_rate"]
    assert hits > 0.3
    assert asked.closed.metrics(None)["prefix_hit_rate"] == pytest.approx(hits, rel=1e-9)


def test_what_requests_cannot_be_simulated_for_stays_with_the_closed_form() -> None:
    given = {"parallel": {"pp": 2}, "replicas": {"count": 2, "max_waiting": 4}, "cluster": "nodes/rtx-4090-x8"}
    document, found = answer(**given)
    assert document["engine"] == "analytic"
    assert any("replicas.max_waiting" in note for note in found["notes"])


def test_a_trace_gives_lengths_and_rate_unless_they_are_stated(tmp_path: Path) -> None:
    (tmp_path / "calls.csv").write_text(TRACE, encoding="utf-8")
    path = tmp_path / "run.yaml"

    def plan(text: str, **changes: object) -> Any:
        path.write_text(WORKLOAD % text, encoding="utf-8")
        return costmodel.load(path, set=changes).scenario("serving").plan

    left = plan("requests: {trace: ./calls.csv, speed: 2}")
    assert (left.input_tokens, left.output_tokens, left.rate) == (300.0, 30.0, 1.5)
    fewer = plan("requests: {trace: ./calls.csv, count: 2}")
    assert (fewer.input_tokens, fewer.output_tokens, fewer.rate) == (300.0, 25.0, 1.0)
    stated = plan("requests: {trace: ./calls.csv}, input_tokens: 100, rate: 86400 /d")
    assert (stated.input_tokens, stated.output_tokens, stated.rate) == (100.0, 30.0, 1.0)
    drawn = plan("rate: 1 /s, requests: {input: {distribution: uniform, low: 100, high: 300}, output: 50}")
    assert (drawn.input_tokens, drawn.output_tokens) == (200.0, 50.0)
    pairs = plan("rate: 1 /s, requests: {pairs: ./calls.csv}")
    assert (pairs.input_tokens, pairs.output_tokens, pairs.rate) == (300.0, 30.0, 1.0)
    with pytest.raises(InputError, match="needs `output_tokens`"):
        plan("rate: 1 /s, requests: {input: 100}")


def test_a_grid_over_a_trace_takes_its_lengths_too(tmp_path: Path) -> None:
    (tmp_path / "calls.csv").write_text(TRACE, encoding="utf-8")
    path = tmp_path / "run.yaml"
    path.write_text(WORKLOAD % "requests: {trace: ./calls.csv}", encoding="utf-8")
    left, capacity = costmodel.load(path), np.array([24e9, 48e9])
    grid = left.evaluate("serving", vary={"hardware.memory.hbm.capacity": capacity})
    path.write_text(WORKLOAD % "input_tokens: 300, output_tokens: 30, rate: 0.75 /s", encoding="utf-8")
    stated = costmodel.load(path).evaluate("serving", vary={"hardware.memory.hbm.capacity": capacity})
    for name in ("ttft", "tpot", "highest_stable_rate"):
        np.testing.assert_array_equal(grid.metrics[name], stated.metrics[name])


@pytest.mark.parametrize("engine", ["analytic", "event"])
def test_priorities_that_no_scheduler_looks_at_are_told(engine: str) -> None:
    requests = FEW | {"priority": {"values": [0, 1], "weights": [0.1, 0.9]}}
    note = "`requests.priority` has no effect: `scheduler.policy` is fcfs, not priority"
    assert note in answer(engine, requests=requests)[1]["notes"]
    assert note not in answer(engine, requests=requests, scheduler={"policy": "priority"})[1]["notes"]


@pytest.mark.parametrize("framework", ["vllm", "sglang"])
def test_first_tokens_of_a_closed_loop_are_those_of_its_requests_once_these_are_spread(framework: str) -> None:
    """Half of the time goes into prompts: who comes then waits for more than half of a mean step, and meets others."""
    users, each = 12, 20
    spread = {"distribution": "uniform", "low": 48, "high": 144}
    stream = {"arrivals": "closed_loop", "count": each * users, "output": spread}
    machine = {"cluster": "nodes/dgx-h100", "precision": "bf16", "framework": framework, "chunk_tokens": None}
    lengths = {"input_tokens": 4096, "output_tokens": 96, "rate": None, "concurrency": users}
    run = loaded(**machine, **lengths, requests=stream)
    scenario = run.scenario("serving")
    plan, calibration = scenario.plan, run.calibration(scenario)
    assert isinstance(plan, Serving)
    done = Simulation(scenario, plan, calibration, compiles=False).run().done
    later = np.argsort(done.requests["arrival"])[8 * users : -users]
    closed = evaluate(replace(scenario, plan=replace(plan, requests=None)), calibration).metrics(None)
    assert closed["ttft"] == pytest.approx(request_times(done).ttft[later].mean(), rel=0.07)


def test_the_tails_of_the_closed_form_are_those_of_some_requests_of_one_replica() -> None:
    """Four replicas at four times the rate get requests in turn, so that fewer come together. All else is means."""
    _, one = answer(rate="4 /s", requests=None)
    _, four = answer(rate="16 /s", requests=None, replicas={"count": 4}, cluster="nodes/rtx-4090-x8")
    all_four = loaded(rate="16 /s", requests={"count": 2000}, replicas={"count": 4}, cluster="nodes/rtx-4090-x8")
    scenario = all_four.scenario("serving")
    assert isinstance(scenario.plan, Serving)
    asked = request_engine()(scenario, scenario.plan, all_four.calibration(scenario)).percentiles()
    assert asked is not None
    for name in ("ttft", "tpot", "e2e"):
        assert four["percentiles"][name]["p99"] == pytest.approx(asked[name]["p99"], rel=0.1)
        assert four["percentiles"][name]["p99"] < one["percentiles"][name]["p99"]
    (said,) = (note for note in one["notes"] if "requests simulated one by one (seed 0)" in note)
    assert said.endswith("all else is means")  # as near as this
    assert four["metrics"]["goodput"] == pytest.approx(16.0)
    assert one["percentiles"]["tpot"]["p50"] == pytest.approx(one["metrics"]["tpot"], rel=0.1)


def test_goodput_is_the_share_of_requests_within_the_objective() -> None:
    tails = answer(rate="4 /s", requests=None)[1]["percentiles"]["ttft"]
    _, found = answer(rate="4 /s", requests=None, slo={"ttft": f"{tails['p90']} s"})
    assert found["metrics"]["goodput"] == pytest.approx(0.9 * 4.0, rel=0.01)


def test_pipelines_have_rough_tails_and_a_queue_without_end_has_none() -> None:
    given = {"parallel": {"pp": 2}, "cluster": "nodes/rtx-4090-x8", "rate": "4 /s", "requests": None}
    _, found = answer(**given)
    assert found["percentiles"]["ttft"]["p50"] < found["percentiles"]["ttft"]["p99"]
    assert found["metrics"]["goodput"] is None
    assert any(
        "percentiles are rough: the request engine does not simulate pipeline stages" in note for note in found["notes"]
    )
    _, over = answer("analytic", rate="100 /s", requests=None)
    assert over["verdict"] == "overloaded"
    assert over["percentiles"] == {}


TWO = [
    {"name": "long", "share": 0.25, "input": 800, "output": {"mean": 40, "distribution": "exponential"}},
    {"name": "short", "share": 0.75, "input": 100, "slo": {"ttft": "30 ms"}},
]


@pytest.mark.parametrize("engine", ["analytic", "event"])
def test_one_class_of_all_requests_is_as_none(engine: str) -> None:
    slo = {"ttft": "120 ms"}
    _, none = answer(engine, slo=slo)
    _, one = answer(engine, slo=slo, requests=FEW | {"classes": [{"name": "all", "share": 1}]})
    found = one.pop("classes")["all"]
    assert one == none
    means = none["metrics"]
    assert [found[key] for key in ("ttft", "goodput")] == pytest.approx([means["ttft"], means["goodput"]], rel=1e-12)
    assert found["share"] == 1.0
    assert 0.0 < found["attainment"] < 1.0


def test_requests_of_classes_keep_to_their_own_objectives_and_add_up_to_all() -> None:
    _, found = answer("event", requests=FEW | {"classes": TWO}, slo={"ttft": "10 s"})
    long, short = found["classes"]["long"], found["classes"]["short"]
    assert (long["input_tokens"], short["input_tokens"]) == (800, 100)
    assert long["attainment"] == 1.0 > short["attainment"]
    assert long["share"] + short["share"] == 1.0
    assert long["goodput"] + short["goodput"] == pytest.approx(found["metrics"]["goodput"], rel=1e-12)
    _, closed = answer("analytic", requests=FEW | {"classes": TWO}, slo={"ttft": "10 s"})
    means, (long, short) = closed["metrics"], closed["classes"].values()
    for time in ("ttft", "latency"):
        assert 0.25 * long[time] + 0.75 * short[time] == pytest.approx(means[time], rel=1e-12)
    assert long["ttft"] > 2 * short["ttft"]


def test_a_class_whose_prompts_take_several_steps_waits_for_what_decodes_in_each() -> None:
    """Of prompts of 100 and of 5,000 tokens in steps of 512: ten of these, beside what the others decode."""
    classes = [{"name": "long", "share": 0.05, "input": 5000}, {"name": "short", "share": 0.95, "input": 100}]
    more = {}
    for engine in ("analytic", "event"):
        known = answer(engine, rate="0.4 /s", requests={"count": 100, "classes": classes})[1]["classes"]
        more[engine] = known["long"]["ttft"] - known["short"]["ttft"]
    assert more["analytic"] == pytest.approx(more["event"], rel=0.15)


@pytest.mark.parametrize("engine", ["analytic", "event"])
def test_a_looser_objective_is_kept_to_by_as_many_or_more(engine: str) -> None:
    kept = []
    for limit in ("20 ms", "30 ms", "1 s"):
        classes = [TWO[0], TWO[1] | {"slo": {"ttft": limit}}]
        found = answer(engine, requests=FEW | {"classes": classes})[1]["classes"]["short"]
        kept.append(found["attainment"])
    assert kept == sorted(kept)
    assert 0.0 <= kept[0] < kept[-1] <= 1.0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"classes": [TWO[0]]}, r"add up to 0\.25"),
        ({"classes": [TWO[0], TWO[1] | {"name": "long"}]}, "the same name"),
        ({"classes": TWO, "sessions": {"turns": 4}}, "not allowed with `sessions`"),
    ],
)
def test_classes_that_cannot_be_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loaded(requests=FEW | more)


@pytest.mark.parametrize(
    ("engine", "changes"),
    [
        ("analytic", {"prefix_hit_rate": "50 %"}),
        ("analytic", {"rate": None, "concurrency": 4, "requests": None, "prefix_hit_rate": "50 %"}),
        ("event", {"rate": "0.2 /s", "requests": FEW | {"prefix": {"tokens": 200}}}),
    ],
)
def test_what_tokens_take_and_what_is_idle_add_up_to_the_power_and_the_rent(
    engine: str, changes: dict[str, Any]
) -> None:
    given = {f"scenarios.serving.{key}": value for key, value in (RATE | changes).items()}
    given |= {
        "hardware.price.rental": "0.4 $/h",
        "hardware.price.electricity": "0.1 $/kWh",
        "hardware.power.idle": "20 W",
    }
    given |= {"hardware.power.memory": "100 pJ", "hardware.node.facility.pue": 1.2}
    workload = costmodel.load("llama3_8b_rtx4090", set=given, scenarios=["serving"])
    found = workload.simulate(engine=engine)["scenarios"]["serving"]
    means, bill = found["metrics"], dict(found["tokens"])
    idle, output = bill.pop("idle"), means["tokens_per_second"]
    assert all(each["tokens_per_second"] > 0.0 and each["energy"] > 0.0 for each in bill.values())
    assert bill["cached"]["energy"] < 0.5 * bill["input"]["energy"] < 0.25 * bill["output"]["energy"]
    watts = idle["power"] + sum(each["tokens_per_second"] * each["energy"] for each in bill.values())
    assert watts == pytest.approx(means["energy_per_token"] * output, rel=1e-9)
    rents = (each["tokens_per_second"] * each["rent_per_million"] / 1e6 for each in bill.values())
    assert idle["cost_rate"] + sum(rents) == pytest.approx(means["cost_rate"], rel=1e-9)
    paid = (each["tokens_per_second"] * each["electricity_per_million"] / 1e6 for each in bill.values())
    assert idle["electricity_rate"] + sum(paid) == pytest.approx(watts * 0.1 / 3.6e6, rel=1e-9)
    if engine == "event":
        assert idle["share"] > 0.1
        assert idle["power"] == pytest.approx(20.0 * 1.2 * idle["share"], rel=0.5), "and its host's"


def test_adapters_of_no_rank_or_number_are_none() -> None:
    for engine, nothing in (("analytic", {"count": 0, "rank": 16}), ("event", {"count": 4, "rank": 0})):
        assert answer(engine, adapters=nothing)[1] == answer(engine)[1]


def test_adapters_take_their_memory_and_two_products_for_each_layer_that_they_name() -> None:
    served = {"count": 20, "rank": 16, "targets": ["q", "v"]}
    (_, none), (_, few), (_, many) = (
        answer("analytic", adapters=each) for each in (None, served, served | {"targets": []})
    )
    total, _ = adapter_parameters(loaded().scenario("serving").architecture, Adapters(16.0, ("q", "v")))
    assert few["memory"]["weights"] - none["memory"]["weights"] == pytest.approx(20 * 2 * float(total), rel=1e-9)
    assert few["metrics"]["kv_blocks"] < none["metrics"]["kv_blocks"]
    assert none["metrics"]["tpot"] < few["metrics"]["tpot"] < many["metrics"]["tpot"]
    layers = [loaded().scenario("serving").architecture.depth] * 2
    counts = [entry["count"] for entry in few["breakdown"] if "adapter" in entry["name"] and "decode" in entry["name"]]
    assert counts[0] == counts[1] > layers[0]
    event_few, event_none = (answer("event", adapters=each)[1] for each in (served, None))
    for metric in ("tpot", "ttft"):  # a prompt asks for one of them
        event = event_few["metrics"][metric] / event_none["metrics"][metric]
        assert event == pytest.approx(few["metrics"][metric] / none["metrics"][metric], rel=0.03)


def test_an_adapter_that_is_not_held_is_copied() -> None:
    held = {"count": 400, "rank": 16, "resident": 4}
    for engine in ("analytic", "event"):
        usual, waits = (answer(engine, rate="0.05 /s", adapters=held | {"count": count})[1] for count in (4, 400))
        link = loaded().scenario("serving").cluster.node.device.links["pcie"].bandwidth
        one = adapter_parameters(loaded().scenario("serving").architecture, Adapters(16.0, ()))[0] * 2
        more = waits["metrics"]["ttft"] - usual["metrics"]["ttft"]
        assert more == pytest.approx(0.99 * one / link, rel=0.5)
        assert any("4 of 400 are in memory" in note for note in waits["notes"])


@pytest.mark.parametrize("engine", ["analytic", "event"])
def test_fewer_adapters_in_memory_make_no_request_faster(engine: str) -> None:
    kept = ({"count": 32, "rank": 16, "resident": resident} for resident in (2, 8, 32))
    times = [answer(engine, adapters=each)[1]["metrics"]["latency"] for each in kept]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]


def test_experts_have_no_adapters_of_requests() -> None:
    assert not has_served_layer(load_model("models/mixtral-8x7b"), "down")
    assert has_served_layer(load_model("models/mixtral-8x7b"), "q")


def test_a_batch_has_no_more_adapters_than_are_in_memory() -> None:
    def token(resident: int) -> float:
        scenario = {"phase": "decode", "cluster": "nodes/rtx-4090-x1", "input_tokens": 500, "batch_per_device": 32}
        scenario |= {"precision": "w4a16", "adapters": {"count": 64, "rank": 16, "resident": resident}}
        workload = {"schema": "costmodel/workload@1", "model": "models/llama-3-8b", "scenarios": {"d": scenario}}
        return costmodel.load(workload).simulate()["scenarios"]["d"]["metrics"]["tpot"]

    assert token(64) > 0.0
    with pytest.raises(InputError, match="32 requests ask for more than 8 different adapters"):
        token(8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapters": {"count": 4, "rank": 16, "targets": ["w"]}}, "no linear layer 'w'"),
        ({"adapters": {"count": 4, "rank": 16}, "phase": "generate"}, "adapters"),
    ],
)
def test_adapters_that_cannot_be_served_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loaded(**changes)
