"""Laws of whole served runs, by requests: Little's, tokens to the last one, and what rate, replicas and limits do."""

from __future__ import annotations

from typing import Any

import pytest

import costmodel

OUTPUT, REQUESTS = 96, 600
SERVER = {
    "phase": "serving", "cluster": "nodes/h100-x1", "framework": "vllm", "input_tokens": 700, "output_tokens": OUTPUT,
}  # fmt: skip


def served(rate: float | None, drafts: dict[str, Any] | None = None, **more: Any) -> Any:
    run = SERVER | ({} if rate is None else {"rate": f"{rate} /s"}) | {"requests": {"count": REQUESTS}} | more
    run |= {} if drafts is None else {"speculative": drafts}
    document = {"schema": "costmodel/workload@1", "model": "models/llama-3-8b", "scenarios": {"run": run}}
    return costmodel.load(document).simulate(engine="event")["scenarios"]["run"]


@pytest.mark.parametrize("drafts", [None, {"depth": 2, "acceptance": 0.6, "drafter": "ngram"}])
@pytest.mark.parametrize("rate", [4.0, 20.0])
def test_requests_in_flight_are_their_rate_times_their_latency(rate: float, drafts: dict[str, Any] | None) -> None:
    """N = X * T [Little, Operations Research 9(3), 1961], T without wait and client; all tokens come."""
    metrics = served(rate, drafts)["metrics"]
    most = metrics["requests_per_second"] * metrics["latency"]
    assert most - metrics["requests_per_second"] * metrics["ttft"] < metrics["concurrency"] < most
    assert metrics["tokens_per_second"] == pytest.approx(metrics["requests_per_second"] * OUTPUT, rel=1e-9)
    assert metrics["input_tokens_per_second"] == pytest.approx(metrics["requests_per_second"] * 700, rel=1e-9)


def test_the_same_requests_in_less_time_or_on_fewer_engines_are_never_sooner_done() -> None:
    """Of one draw of gaps, scaled by the rate."""
    by_rate = [served(rate)["metrics"] for rate in (2.0, 10.0, 20.0, 30.0)]
    by_replicas = [served(30.0, replicas={"count": count})["metrics"] for count in (1, 2, 4)]
    for name in ("ttft", "tpot", "latency"):
        rising = [each[name] for each in by_rate]
        assert rising == sorted(rising)
        falling = [each[name] for each in by_replicas]
        assert falling == sorted(falling, reverse=True)


def test_a_looser_limit_never_lowers_the_goodput() -> None:
    limits = ("20 ms", "30 ms", "60 ms", "1 s", "1 h")
    good = [served(20.0, slo={"ttft": limit, "tpot": "1 s"})["metrics"]["goodput"] for limit in limits]
    assert good == sorted(good)
    assert good[0] < good[-1]
    assert good[-1] == pytest.approx(served(20.0)["metrics"]["requests_per_second"], rel=1e-9)


def test_users_whose_requests_are_all_alike_stay_in_step_and_a_note_says_so() -> None:
    spread = {"distribution": "uniform", "low": 0.75 * OUTPUT, "high": 1.25 * OUTPUT}
    loop = {"arrivals": "closed_loop", "count": 320}
    runs = [
        served(None, concurrency=users, requests=loop | more)
        for users, more in ((16, {}), (16, {"ramp": "3 s"}), (16, {"output": spread}), (1, {}))
    ]
    in_step, *others = [run["percentiles"]["ttft"]["p50"] for run in runs]
    assert in_step > 2.0 * max(others)
    assert ["alike" in "".join(run["notes"]) for run in runs] == [True, False, False, False]
