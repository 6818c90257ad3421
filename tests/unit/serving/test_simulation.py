"""A serving scenario as a simulation: checkpoints, the highest stable rate, fleets that change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import costmodel
from costmodel.analytic.serving.open_loop import OpenLoopEvaluation
from costmodel.api import event_engine, request_engine
from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError
from costmodel.serving import checkpoint
from costmodel.serving.apart import serve_by_threads
from costmodel.serving.deployment import new_service
from costmodel.serving.evaluation import RequestEvaluation
from costmodel.serving.first_run import run_as_python
from costmodel.serving.fleet import run_apart
from costmodel.serving.output import track_events
from costmodel.serving.routing import Service
from costmodel.serving.sessions import draw_turns
from costmodel.serving.simulation import Simulation
from costmodel.serving.state import FIRST_BIN_WIDTH
from costmodel.serving.step_times import distinct_prompts, row_axis
from costmodel.serving.summary import request_times
from costmodel.workload.plans import Serving
from costmodel.workload.requests import Lengths, Sessions, SubAgents

BASE = {
    "scenarios.serving.concurrency": None, "scenarios.serving.rate": "4 /s", "scenarios.serving.output_tokens": 24,
    "scenarios.serving.scheduler.max_num_seqs": 16, "scenarios.serving.requests": {"count": 60},
}  # fmt: skip


def evaluation(given: Mapping[str, Any] = BASE, **changes: Any) -> RequestEvaluation:
    """Return the shipped server with few requests. changes: of its `replicas`."""
    given = {**given, **({"scenarios.serving.replicas": changes} if changes else {})}
    workload = costmodel.load("llama3_8b_rtx4090", set=given, scenarios=["serving"])
    scenario = workload.scenario("serving")
    assert isinstance(scenario.plan, Serving)
    return RequestEvaluation(scenario, scenario.plan, workload.calibration(scenario))


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return evaluation().simulation


def test_a_closed_loop_that_ends_is_simulated_unasked_and_none_of_its_users_rests() -> None:
    """A request is sent when the one before has ended, and meets the engine later by client and front end."""
    loop = {"scenarios.serving.framework": "vllm", "scenarios.serving.concurrency": 1,
            "scenarios.serving.requests": {"arrivals": "closed_loop", "count": 3}}  # fmt: skip
    workload = costmodel.load("llama3_8b_rtx4090", set=loop, scenarios=["serving"])
    assert workload.simulate()["engine"] == "event"
    served = evaluation(loop).served
    times, arrival = request_times(served), served.requests["arrival"]
    assert np.diff(arrival) == pytest.approx(times.e2e[:-1])
    assert times.ttft == pytest.approx(times.ttft[0])


def test_the_front_end_takes_its_time_and_more_for_longer_prompts() -> None:
    spread = {"distribution": "uniform", "low": 100, "high": 900}
    changed = {"scenarios.serving.framework": "vllm", "scenarios.serving.requests": {"count": 20, "input": spread}}
    chosen = evaluation({**BASE, **changed})
    served, engine = chosen.served, chosen.simulation.scenario.framework.engine
    assert engine is not None
    prompt = served.requests["prompt"]
    taken = request_times(served).ttft - (served.requests["first"] - served.requests["arrival"])
    np.testing.assert_allclose(taken, engine.request + engine.request_token * prompt, rtol=1e-6)
    assert len(np.unique(prompt)) > 10


def test_counters_of_a_track_stand_one_bin_apart_and_reach_to_the_last_token(simulation: Simulation) -> None:
    served = simulation.run()
    busy = [event for event in track_events(served) if event["ph"] == "C" and "busy" in event["args"]]
    width = 1e6 * FIRST_BIN_WIDTH
    assert [event["ts"] for event in busy] == [place * width for place in range(len(busy))]
    assert 0.0 <= 1e6 * served.requests["finish"].max() - busy[-1]["ts"] <= 2.0 * width
    assert all(0.0 <= event["args"]["busy"] <= 1.0 for event in busy)


def test_wider_bins_hold_what_the_narrow_ones_held() -> None:
    """A run of an hour has wider bins than one of seconds, and the same prompts: its requests come one by one."""
    long = evaluation({**BASE, "scenarios.serving.rate": "0.02 /s"}).simulation.run()
    assert long.engines.state["bin_width"][0] > FIRST_BIN_WIDTH
    assert long.engines.occupancy[0]["prompt_tokens"].sum() == pytest.approx(long.requests["prompt"].sum())


def test_a_table_has_each_prompt_that_can_be_once() -> None:
    chunks, rows, keys = np.array([1.0, 4.0]), np.array([1.0, 2.0, 8.0]), np.array([1.0, 4.0, 16.0])
    prompts, places = distinct_prompts(chunks, rows, keys)
    assert places.shape == (2, 3, 3)
    assert prompts.shape[1] == len(np.unique(prompts, axis=1).T) == 14
    assert prompts[:, places[0, 2, 0]].tolist() == [1.0, 8.0, 8.0]
    assert prompts[:, places[1, 1, 1]].tolist() == [4.0, 4.0, 4.0]
    assert prompts[:, places[1, 2, 2]].tolist() == [4.0, 8.0, 16.0]


def half(simulation: Simulation, path: Path) -> None:
    """Write a checkpoint of a simulation that was stopped in the middle."""
    requests, tables = simulation.requests, simulation.times.tables
    service = new_service(simulation.scenario, simulation.plan, requests, simulation.policy, tables)
    mark = checkpoint.identity(service)
    simulation._serve(service, simulation.plan, float(requests.arrival[30]))
    assert not checkpoint.is_over(service)
    checkpoint.save(path, service, mark)


def test_a_simulation_that_was_stopped_ends_as_one_that_was_not(simulation: Simulation, tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    half(simulation, path)
    for served in (simulation.run(checkpoint=path), simulation.run(checkpoint=tmp_path / "new.npz")):
        np.testing.assert_array_equal(served.requests["finish"], simulation.run().requests["finish"])
        np.testing.assert_array_equal(served.engines.gaps, simulation.run().engines.gaps)


def test_a_checkpoint_of_another_simulation_or_a_damaged_one_is_refused(simulation: Simulation, tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    half(simulation, path)
    with pytest.raises(InputError, match="is of another simulation"):
        simulation.run(slowdown=1.1, checkpoint=path)
    whole = path.read_bytes()
    for damaged in (whole[:1000], whole[:-900] + bytes([whole[-900] ^ 255]) + whole[-899:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is no checkpoint"):
            simulation.run(checkpoint=path)


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("requests", {"count": 10**7, "arrivals": "burst"}, "requests.count: 10,000,000 requests that wait"),
        ("requests", {"count": 10**8}, "requests.count: 100000000 is too large"),
        ("requests", {"count": 100, "prefix": {"groups": 10**9, "tokens": 16}}, "groups: 1000000000 is too large"),
        ("requests", {"count": 100, "input": {"distribution": "uniform", "low": 9, "high": 1}}, "has `low` above"),
        ("replicas", {"count": 200_000}, "replicas: 200,000 engines"),
        ("replicas", {"count": 60_000}, "replicas: 60,000 engines need"),
        ("replicas", {"autoscale": {"most": 4, "target": 8, "interval": "1 ns"}}, "interval: '1 ns' is too small"),
        ("replicas", {"breakdowns": {"device_mtbf": "1 us", "repair": "1 s"}}, "device_mtbf: fails"),
        ("rate", "1e-9 /s", "requests: the requests come over"),
    ],
)
def test_what_takes_too_much_is_refused_before_it_runs(key: str, value: Any, place: str) -> None:
    with pytest.raises(InputError, match=re.escape(place)):
        _ = evaluation({**BASE, f"scenarios.serving.{key}": value}).simulation


def test_sessions_far_longer_than_the_run_are_cut_where_it_ends() -> None:
    """A session of 10^8 requests, of which each starts a million agents, gives as many rows as asked for."""
    agents = SubAgents(share=0.5, count=Lengths(mean=10**6), turns=Lengths(mean=10**6))
    turns = draw_turns(Sessions(turns=Lengths(mean=10**8), agents=agents), 1000, np.random.default_rng(0))
    assert len(turns.chain) == 1000


def test_beyond_the_highest_stable_rate_a_queue_grows_and_below_it_does_not() -> None:
    found = evaluation()
    rate = found.times()["highest_stable_rate"]
    assert rate is not None
    verdicts = []
    for share in (0.7, 1.5):
        changes = {
            **BASE, "scenarios.serving.rate": float(rate) * share, "scenarios.serving.requests": {"count": 600},
        }  # fmt: skip
        workload = costmodel.load("llama3_8b_rtx4090", set=changes, scenarios=["serving"])
        scenario = workload.scenario("serving")
        assert isinstance(scenario.plan, Serving)
        verdicts.append(RequestEvaluation(scenario, scenario.plan, workload.calibration(scenario)).verdict())
    assert verdicts[0] in ("stable", "backlogged")
    assert verdicts[1] == "overloaded"


@pytest.mark.parametrize(
    ("seats", "rate", "verdict"),
    [(256, 1.0, "stable"), (256, 5.0, "stable"), (4, 4.0, "stable"), (4, 6.5, "backlogged")],
)
def test_the_verdict_is_of_requests_that_queue_as_in_the_closed_form(seats: int, rate: float, verdict: str) -> None:
    """A request that waits for one other prompt does not queue; most do where all of a few seats are taken."""
    chosen = evaluation({
        **BASE, "scenarios.serving.scheduler.max_num_seqs": seats, "scenarios.serving.rate": rate,
        "scenarios.serving.requests": {"count": 1500},
    })  # fmt: skip
    closed = OpenLoopEvaluation(chosen.simulation.scenario, chosen.simulation.plan, Calibration())
    assert chosen.verdict() == closed.verdict() == verdict


RANKS = """
schema: costmodel/workload@1
model: models/qwen3-235b-a22b
scenarios:
  serving: {phase: serving, cluster: nodes/dgx-h100, framework: vllm, precision: {compute: fp8-inference}, rate: 1 /s,
    parallel: {dp: 8, ep: 8}, input_tokens: 2000, output_tokens: 100, scheduler: {max_num_seqs: 8},
    requests: {count: 50}}
"""


def test_ranks_that_wait_for_each_others_prompts_are_simulated_unasked(tmp_path: Path) -> None:
    """Of few requests their steps are longer than those of the closed form, where ranks without one start none."""
    path = tmp_path / "ranks.yaml"
    path.write_text(RANKS, encoding="utf-8")
    workload = costmodel.load(path)
    document = workload.simulate()
    assert document["engine"] == "event"
    assert any("wait for each other's prompts" in note for note in document["scenarios"]["serving"]["notes"])
    closed = workload.evaluate("serving").point().metrics["tpot"]
    assert closed is not None
    assert document["scenarios"]["serving"]["metrics"]["tpot"] > 1.05 * closed
    loop = workload.changed(
        {
            "scenarios.serving.rate": None,
            "scenarios.serving.concurrency": 8,
            "scenarios.serving.requests": {"count": 16},
        }
    )
    assert any("wait for each other's prompts" in note for note in loop.points()["serving"].notes)


def test_a_scenario_with_failures_and_a_full_queue_says_what_they_did() -> None:
    failures = [{"replica": at % 2, "at": f"{at} s", "lasts": "0.5 s"} for at in range(2, 12)]
    found = evaluation(count=2, routing="least_loaded", max_waiting=2, failures=failures)
    counted = found.details()["requests"]
    assert isinstance(counted, dict)
    assert counted["lost_requests"] > 0
    assert counted["requests"] + counted["rejected_requests"] == 60
    assert np.isfinite(found.served.done.requests["finish"]).all()


def test_replicas_that_break_down_serve_the_share_of_time_in_which_they_work(tmp_path: Path) -> None:
    breakdowns = {"device_mtbf": "3 s", "repair": "1 s"}
    found = evaluation(count=2, routing="least_loaded", breakdowns=breakdowns)
    counted = found.details()["requests"]
    assert isinstance(counted, dict)
    assert counted["breakdowns"] > 0
    assert np.isfinite(found.served.requests["finish"]).all()
    half(found.simulation, tmp_path / "state.npz")
    gone_on = found.simulation.run(checkpoint=tmp_path / "state.npz")
    np.testing.assert_array_equal(gone_on.requests["finish"], found.served.requests["finish"])
    rates = []
    for replicas in ({"count": 2}, {"count": 2, "breakdowns": breakdowns}):
        given = {**BASE, "scenarios.serving.replicas": replicas}
        result = costmodel.load("llama3_8b_rtx4090", set=given, scenarios=["serving"]).evaluate("serving")
        rates.append(float(np.asarray(result.metrics["highest_stable_rate"])))
    assert rates[1] == pytest.approx(rates[0] * 3.0 / (3.0 + 1.0))


def test_any_number_of_threads_gives_the_same_bytes() -> None:
    simulation, services = evaluation(count=5).simulation, []
    for workers in (1, 2):
        tables = simulation.times.tables
        service = new_service(simulation.scenario, simulation.plan, simulation.requests, simulation.policy, tables)
        serve_by_threads(partial(run_as_python, run_apart), service, np.inf, workers)
        services.append((service.requests, *service.engines))
    for one, other in zip(*services, strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_request_longer_than_the_cache_is_told() -> None:
    given = {**BASE, "scenarios.serving.memory.blocks": 4}
    workload = costmodel.load("llama3_8b_rtx4090", set=given, scenarios=["serving"])
    scenario = workload.scenario("serving")
    assert isinstance(scenario.plan, Serving)
    with pytest.raises(InputError, match="does not fit in the KV cache of 64 tokens"):
        Simulation(scenario, scenario.plan, workload.calibration(scenario))


def test_prompts_computed_elsewhere_leave_decoding_steps_alone() -> None:
    mixed, apart = evaluation(count=2), evaluation(count=2, prefill=1, transfer={"bandwidth": "50 GB/s"})
    assert float(apart.times()["tpot"] or 0.0) < float(mixed.times()["tpot"] or 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 2, "prefill": 2}, "leaves no engine that decodes"),
        ({"count": 2, "failures": [{"replica": 2, "at": "1 s", "lasts": "1 s"}]}, "engine 2 does not exist"),
        ({"autoscale": {"most": 2, "least": 3, "target": 4}}, "has `least` above `most`"),
        ({"transfer": {"bandwidth": "1 GB/s"}}, "needs engines that only compute prompts"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluation(**changes)


def served_totals(**changes: Any) -> dict[str, float]:
    """Return the sums of a run of the shipped server. changes: of its scenario."""
    hardware = {"hardware.node.host.memory": "64 GB"}
    given = {**BASE, **hardware, **{f"scenarios.serving.{key}": value for key, value in changes.items()}}
    workload = costmodel.load("llama3_8b_rtx4090", set=given, scenarios=["serving"])
    scenario = workload.scenario("serving")
    assert isinstance(scenario.plan, Serving)
    found = RequestEvaluation(scenario, scenario.plan, workload.calibration(scenario)).details()["requests"]
    assert isinstance(found, dict)
    return found


def test_caches_of_preempted_requests_go_to_the_host_where_the_scheduler_swaps() -> None:
    crowded = {"rate": "200 /s", "memory.blocks": 320, "output_tokens": 400}
    computed, swapped = (served_totals(**crowded, **{"scheduler.preemption": kind}) for kind in ("recompute", "swap"))
    assert computed["preemptions"] > 0
    assert computed["swapped_tokens"] == 0
    assert swapped["swapped_tokens"] > 0
    assert swapped["recomputed_tokens"] == 0 < computed["recomputed_tokens"]


def test_a_tier_raises_the_share_of_prompts_that_are_not_computed() -> None:
    prefix = {"count": 80, "prefix": {"groups": 20, "tokens": 512}}
    few = {"requests": prefix, "memory.blocks": 320, "rate": "4 /s", "input_tokens": 600}
    without, behind = (
        served_totals(**few, **tiers)
        for tiers in ({}, {"memory.tiers": [{"capacity": "64 GB", "bandwidth": "20 GB/s"}]})
    )
    assert behind["loaded_tokens"] > 0 == without["loaded_tokens"]
    assert behind["cached_tokens"] > without["cached_tokens"]


def test_swapping_needs_to_know_the_host() -> None:
    given = {**BASE, "scenarios.serving.scheduler.preemption": "swap"}
    workload = costmodel.load("llama3_8b_rtx4090", set=given, scenarios=["serving"])
    scenario = workload.scenario("serving")
    assert isinstance(scenario.plan, Serving)
    with pytest.raises(InputError, match="the host memory of rtx-4090-x1 is not known"):
        Simulation(scenario, scenario.plan, workload.calibration(scenario))


def test_more_requests_a_second_wait_longer_and_more_engines_less() -> None:
    """The same requests at another speed, and dealt out to more engines."""
    drawn = {"count": 200, "output": {"distribution": "lognormal", "mean": 24, "deviation": 20, "high": 100}}

    def waits(rate: float, engines: int) -> float:
        replicas = {"count": engines, "routing": "least_loaded"}
        return served_totals(requests=drawn, rate=f"{rate} /s", replicas=replicas)["wait_time"]

    by_rate = [waits(rate, 1) for rate in (2, 16, 128)]
    by_engines = [waits(128, engines) for engines in (1, 2, 8)]
    assert by_rate == sorted(by_rate)
    assert by_engines == sorted(by_engines, reverse=True)
    assert by_rate[0] < by_rate[-1]
    assert by_engines[-1] < by_engines[0]


def test_an_objective_that_asks_for_less_is_met_by_as_many_or_more() -> None:
    met = []
    for slo in ("100 ms", "1 s", "1000 s"):
        given = {**BASE, "scenarios.serving.rate": "60 /s", "scenarios.serving.slo": {"ttft": slo, "tpot": "1 s"}}
        workload = costmodel.load("llama3_8b_rtx4090", set=given, scenarios=["serving"])
        scenario = workload.scenario("serving")
        assert isinstance(scenario.plan, Serving)
        met.append(RequestEvaluation(scenario, scenario.plan, workload.calibration(scenario)).times()["goodput"])
    assert met == sorted(met)
    assert met[0] < met[-1]


def test_urgent_requests_wait_less_and_priorities_have_to_be_stated() -> None:
    """A crowded server: one request in five is urgent. The weights of priorities are how often they are drawn."""
    crowded = {**BASE, "scenarios.serving.rate": "40 /s", "scenarios.serving.scheduler.policy": "priority"}
    stated = {"count": 100, "priority": {"values": [0, 7], "weights": [0.2, 0.8]}}
    workload = costmodel.load(
        "llama3_8b_rtx4090", set={**crowded, "scenarios.serving.requests": stated}, scenarios=["serving"]
    )
    scenario = workload.scenario("serving")
    assert isinstance(scenario.plan, Serving)
    served = Simulation(scenario, scenario.plan, workload.calibration(scenario)).run()
    priority, wait = served.requests["priority"], served.requests["scheduled"] - served.requests["arrival"]
    assert set(priority.tolist()) == {0, 7}
    assert 5 < (priority == 0).sum() < 40
    assert wait[priority == 0].mean() < 0.5 * wait[priority == 7].mean()
    plain = costmodel.load("llama3_8b_rtx4090", set=crowded, scenarios=["serving"])
    with pytest.raises(InputError, match="needs priorities"):
        plain.simulate(engine="event")
    weightless = {**crowded, "scenarios.serving.requests": {"priority": {"values": [0, 1], "weights": [1.0]}}}
    with pytest.raises(InputError, match="a weight for each value"):
        costmodel.load("llama3_8b_rtx4090", set=weightless, scenarios=["serving"])


@pytest.mark.parametrize(
    ("changes", "few"),
    [
        ({"output_tokens": 24}, True),
        ({"output_tokens": 5000}, False),
        ({"input_tokens": 5000, "requests": {"count": 5000}}, False),
        ({"requests": {"count": 60, "prefix": {"tokens": 100_000}}}, True),
    ],
)
def test_python_alone_serves_few_tokens_chunks_and_prefixes(changes: dict[str, Any], few: bool) -> None:
    """A chunk of a prompt takes it time, too, but a prefix is one run however long it is."""
    stated = {f"scenarios.serving.{key}": value for key, value in changes.items()}
    simulation = evaluation({**BASE, "scenarios.serving.memory.blocks": 100_000, **stated}).simulation
    assert simulation.is_long != few


def test_every_run_for_an_answer_and_its_intervals_is_told_once() -> None:
    shares: list[float] = []
    workload = costmodel.load("llama3_8b_rtx4090", set=BASE, scenarios=["serving"])
    requests = request_engine(on_progress=shares.append)
    (point,) = workload.points(engine="event", simulation=event_engine(requests=requests)).values()
    assert point.intervals["ttft"] is not None
    assert shares == pytest.approx([run / 6 for run in range(1, 7)])


def test_requests_of_one_token_have_no_time_per_token_and_say_so() -> None:
    given = {**BASE, "scenarios.serving.requests": {"count": 30, "output": {"distribution": "constant", "mean": 1}}}
    document = costmodel.load("llama3_8b_rtx4090", set=given, scenarios=["serving"]).simulate(engine="event")
    found = document["scenarios"]["serving"]
    for name in ("tpot", "tokens_per_second_per_user"):
        assert found["metrics"][name] is None
        assert found["intervals"][name] is None
        assert found["reasons"][name] == "no request has a token after its first"
    assert found["metrics"]["latency"] == pytest.approx(found["metrics"]["ttft"])


def test_the_load_is_of_what_arrives_and_an_overloaded_run_says_what_is_served() -> None:
    many = {**BASE, "scenarios.serving.rate": "40 /s", "scenarios.serving.requests": {"count": 300}}
    found = evaluation(many)
    metrics, arrival = found.times(), found.served.requests["arrival"]
    stable, served = metrics["highest_stable_rate"], metrics["requests_per_second"]
    assert stable is not None
    assert served is not None
    arriving = (len(arrival) - 1) / float(np.ptp(arrival))
    assert arriving > 1.5 * float(served)
    load, overloaded = found.notes()
    assert load == f"load: {arriving / float(stable):.0%} of the highest stable rate"
    assert overloaded.startswith(f"overloaded: {arriving:.3g} requests/s arrive, {float(stable):.3g} can be served;")
    short = evaluation({**many, "scenarios.serving.rate": "12 /s"})
    assert short.verdict() == "stable"
    arriving = short.outcome.tally.arrival_rate
    said = list(short._of_load(arriving, 0.9 * arriving))  # as of an engine whose queue does not show yet
    assert said[1].startswith(f"overloaded in the long run: {0.9 * arriving:.3g} requests/s can be served")
    assert len(list(short._of_load(arriving, 1.1 * arriving))) == 1


def test_requests_that_are_turned_away_arrive_too_and_a_note_counts_them() -> None:
    many = {**BASE, "scenarios.serving.rate": "40 /s", "scenarios.serving.requests": {"count": 300}}
    every, fewer = evaluation(many), evaluation(many, count=1, max_waiting=1)
    rejected = int(fewer.served.fleet.state["rejected"][0])
    assert rejected > 100
    load, turned_away = fewer.notes()
    assert load == every.notes()[0]
    assert turned_away.startswith(f"{rejected / 300:.0%} turned away: {rejected} of 300 requests ")


@pytest.mark.parametrize("rate", [0.1, 4.0])
def test_the_concurrency_is_what_arrives_times_how_long_it_is_worked_on(rate: float) -> None:
    """Little's law: of the time between first arrival and last token, not of busy time alone."""
    found = evaluation({**BASE, "scenarios.serving.rate": rate})
    metrics, requests = found.times(), found.served.requests
    worked = float(np.mean(requests["finish"] - requests["scheduled"]))
    assert metrics["concurrency"] == pytest.approx(float(metrics["requests_per_second"] or 0.0) * worked, rel=0.03)


@pytest.mark.parametrize(
    ("bandwidth", "output", "verdict"),
    [("50 GB/s", 24, "stable"), ("0.1 GB/s", 24, "overloaded"), ("50 GB/s", 1000, "overloaded")],
)
def test_the_verdict_counts_what_caches_wait_for_their_link_and_to_decode(
    bandwidth: str, output: int, verdict: str
) -> None:
    given = {**BASE, "scenarios.serving.requests": {"count": 200}, "scenarios.serving.output_tokens": output}
    found = evaluation(given, count=2, prefill=1, transfer={"bandwidth": bandwidth})
    assert found.verdict() == verdict
    assert any("are served; the queue only grows" in note for note in found.notes()) == (verdict == "overloaded")
    latency, lines = found.times()["latency"], {entry.name: entry.time for entry in found.breakdown()}
    assert sum(lines.values()) == pytest.approx(latency)
    assert (lines["waiting for the engine"] > 0.5 * float(latency or 0.0)) == (verdict == "overloaded")
    tokens = float(np.mean(found.served.requests["prompt"]))
    assert lines["transfer of the prompt's cache"] == pytest.approx(tokens * found.served.fleet.token_time)


def test_a_run_without_a_breakdown_says_how_many_were_to_come_and_what_replicas_serve_that_have_some() -> None:
    found = evaluation(count=2, breakdowns={"device_mtbf": "1000 h", "repair": "250 h"})
    elapsed = float(np.max(found.served.requests["finish"]) - found.served.requests["arrival"].min())
    assert found.served.fleet.state["failures"][0] == 0
    note = found.notes()[-1]
    assert note.startswith(
        f"no breakdown fell into this run of {elapsed:.3g} s, in which {elapsed * 2 / 3.6e6:.2g} are "
    )
    assert found.stable_rate == pytest.approx(0.8 * float(evaluation(count=2).stable_rate or 0.0))
    often = evaluation(count=2, breakdowns={"device_mtbf": "3 s", "repair": "1 s"})
    assert not any(note.startswith("no breakdown") for note in often.notes())


def test_tables_have_each_small_step_and_then_both_sides_of_every_end_of_a_tile_up_to_two_per_cent() -> None:
    rows = row_axis(1100.0).tolist()
    assert rows[:256] == list(range(1, 257))
    assert rows[256:] == [257, 384, 385, 512, 513, 640, 641, 768, 769, 896, 897, 1024, 1025, 1100]
    assert row_axis(3.0).tolist() == [1.0, 2.0, 3.0]


def test_a_replica_that_is_stuck_is_named_by_its_number_among_all() -> None:
    simulation = evaluation(count=5).simulation
    tables = simulation.times.tables
    for workers in (1, 2):
        for stuck in (-1, 0, 2, 3):
            service = new_service(simulation.scenario, simulation.plan, simulation.requests, simulation.policy, tables)
            service.engines.state["free"][stuck : stuck + 1] = -7  # none of -1
            found = serve_by_threads(_stuck, service, np.inf, workers)
            assert found == stuck


def _stuck(service: Service, until: float) -> int:  # noqa: ARG001  as a loop of the engine takes them
    return int(next(iter(np.flatnonzero(service.engines.state["free"] == -7)), -1))
