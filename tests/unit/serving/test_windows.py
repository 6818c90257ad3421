"""Long runs in windows: the same as one that keeps every request, with quantiles as close as is stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import costmodel
from costmodel.serving import simulation as simulations
from costmodel.serving.distributions import ERROR, Histogram, Sample
from costmodel.serving.evaluation import Options, RequestEvaluation
from costmodel.serving.simulation import Simulation
from costmodel.serving.summary import QUANTILES, Outcome, Tally, changes, percentiles, totals
from costmodel.workload.plans import Serving, Slo

BASE: dict[str, Any] = {
    "concurrency": None, "rate": "20 /s", "output_tokens": 24, "scheduler": {"max_num_seqs": 16},
    "requests": {"count": 300, "output": {"distribution": "exponential", "mean": 24, "high": 200}},
}  # fmt: skip
REQUESTS = BASE["requests"]
CASES: dict[str, dict[str, Any]] = {
    "one engine": {},
    "even": {"requests": {**REQUESTS, "arrivals": "even"}},
    "gamma": {"requests": {**REQUESTS, "arrivals": "gamma", "cv": 2}, "replicas": {"count": 3}},
    "random": {"replicas": {"count": 3, "routing": "random"}},
    "least loaded": {"replicas": {"count": 2, "routing": "least_loaded"}},
    "unlike": {"replicas": {"routing": "least_loaded", "others": [{"count": 2, "scheduler": {"max_num_seqs": 4}}]}},
    "power of two": {"replicas": {"count": 3, "routing": "power_of_two", "signal_delay": "0.2 s"}},
    "prefix": {"requests": {**REQUESTS, "prefix": {"groups": 9, "tokens": 128}},
               "replicas": {"count": 2, "routing": "prefix"}},
    "repeated": {"prefix_hit_rate": "40 %"},
    "preemption": {"memory": {"blocks": 120}, "rate": "40 /s"},
    "failure": {"replicas": {"count": 2, "failures": [{"replica": 0, "at": "3 s", "lasts": "2 s"}]}},
    "breakdowns": {"replicas": {"count": 2, "breakdowns": {"device_mtbf": "4 s", "repair": "1 s"}}},
    "full queue": {"rate": "60 /s", "replicas": {"count": 1, "max_waiting": 4}},
    "pools": {"replicas": {"count": 3, "prefill": 1, "transfer": {"bandwidth": "2 GB/s"}}},
    "priority": {"scheduler": {"max_num_seqs": 8, "policy": "priority"}, "rate": "60 /s",
                 "requests": {**REQUESTS, "priority": {"values": [0, 1, 2]}}},
    "classes": {"requests": {**REQUESTS, "classes": [
        {"name": name, "share": share, "input": {"distribution": "uniform", "low": low, "high": 2 * low}}
        for name, share, low in (("short", 0.7, 20), ("long", 0.3, 200))]}},
}  # fmt: skip


def workload(changed: dict[str, Any]) -> costmodel.Workload:
    stated = {f"scenarios.serving.{key}": value for key, value in {**BASE, **changed}.items()}
    return costmodel.load("llama3_8b_rtx4090", set=stated, scenarios=["serving"])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let windows be short."""
    monkeypatch.setattr(simulations, "WINDOW", 37)
    monkeypatch.setattr(simulations, "MOST_KEPT", 100)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("case", CASES)
def test_a_run_in_windows_is_the_same(case: str) -> None:
    loaded = workload(CASES[case])
    scenario = loaded.scenario("serving")
    plan, calibration = scenario.plan, loaded.calibration(scenario)
    assert isinstance(plan, Serving)
    whole = Simulation(scenario, plan, calibration, keeps=True)
    served = whole.run()
    exact, parts = Outcome.of(served, Tally.of(served, plan.slo)), Simulation(scenario, plan, calibration)
    assert parts.streams
    assert not whole.streams
    streamed = parts.streamed(plan.slo)
    assert totals(streamed) == pytest.approx(totals(exact), rel=1e-12)
    assert changes(streamed) == pytest.approx(changes(exact), rel=1e-12)
    assert streamed.tally.slope == pytest.approx(exact.tally.slope, rel=1e-9)
    assert streamed.tally.arrival_rate == pytest.approx(exact.tally.arrival_rate, rel=1e-12)
    close, known = (percentiles(each.tally, each.engines.gaps) for each in (streamed, exact))
    assert close["itl"] == known["itl"]
    for name in ("ttft", "tpot", "e2e"):
        assert close[name] == pytest.approx(known[name], rel=ERROR)


@pytest.mark.usefixtures("few")
def test_an_answer_in_windows_says_so_and_has_the_metrics_of_one_that_keeps_every_request() -> None:
    loaded = workload({})
    scenario = loaded.scenario("serving")
    plan, calibration = scenario.plan, loaded.calibration(scenario)
    assert isinstance(plan, Serving)
    parts, whole = (RequestEvaluation(scenario, plan, calibration, Options(keeps=keeps)) for keeps in (False, True))
    known = {key: each for key, each in whole.times().items() if each is not None and key != "highest_stable_rate"}
    assert {name: parts.times()[name] for name in known} == pytest.approx(known, rel=1e-12)
    assert parts.verdict() == whole.verdict()
    assert [note for note in parts.notes() if note.startswith("percentiles: within 0.1%")]
    assert not [note for note in whole.notes() if note.startswith("percentiles")]
    assert len(parts.simulation.requests.arrival) == 37


@given(st.lists(st.floats(1e-6, 1e8), min_size=1, max_size=60), st.sampled_from(list(QUANTILES.values())))
def test_a_histogram_is_as_close_as_it_states(values: list[float], share: float) -> None:
    exact, close = Sample(), Histogram()
    for part in np.array_split(np.array(values), 3):
        exact.add(part)
        close.add(part)
    assert close.count == exact.count
    assert close.mean == pytest.approx(exact.mean, rel=1e-12)
    assert close.quantile(share) == pytest.approx(exact.quantile(share), rel=ERROR * (1 + 1e-9))
    limit = float(np.median(values))
    apart = np.mean(np.abs(np.array(values) / limit - 1.0) < 3 * ERROR)
    assert close.share_above(limit) == pytest.approx(exact.share_above(limit), abs=float(apart))


@pytest.mark.parametrize(("arrived", "arrivals", "rate"), [(3, (2.0, 6.0), 0.5), (2, (2.0, 2.0), None)])
def test_a_rate_is_of_the_gaps_between_arrivals(
    arrived: int, arrivals: tuple[float, float], rate: float | None
) -> None:
    tally = Tally(Slo(), Sample)
    tally.arrived, tally.arrivals = arrived, arrivals
    assert tally.arrival_rate == rate


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_growth_of_waits_is_the_same_in_any_unit_of_time(scale: float) -> None:
    tally, arrival = Tally(Slo(), Sample), np.array([0.0, 0.25, 0.5, 0.75])
    tally._add_moments(scale * arrival, scale * 3.0 * arrival)
    assert tally.slope == pytest.approx(3.0)
    assert Tally(Slo(), Sample).slope == 0.0
