"""Sessions at their means: tokens as requests one by one have them, hits by hand, and Little's law of sessions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

import costmodel
from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.serving.sessions import (
    _lost,
    busy_sessions,
    rate_of_sessions,
    session_means,
    session_time,
    under_way,
)
from costmodel.serving.draw import RequestDraw
from costmodel.serving.state import OUTPUT, PROMPT
from costmodel.workload.plans import Serving
from costmodel.workload.requests import Gaps, Lengths, RequestStream, Sessions, SharedPrefix, SubAgents

BLOCK = 16
FIXED = Serving(input_tokens=100.0, output_tokens=10.0, rate=1.0, concurrency=1.0)


def means(sessions: Sessions, shared: float = 64.0, **changes: Any) -> Any:
    plan = Serving(**{"input_tokens": 100.0, "output_tokens": 10.0, "rate": 1.0, **changes})
    return session_means(plan, sessions, shared, BLOCK)


def test_a_session_of_three_turns_by_hand() -> None:
    """Prompts of 164, 274 and 384 tokens. The cache has 64 of the first, then full blocks of 173 and 283: 160, 272."""
    found = means(Sessions(turns=Lengths(mean=3)))
    assert (found.requests, found.prompt, found.output) == (3.0, (164 + 274 + 384) / 3, 10.0)
    assert found.cached == pytest.approx((64 + 160 + 272) / 3)
    assert (found.context, found.final) == ((174 + 284 + 394) / 3, 394.0)


def test_a_first_prompt_of_its_own_is_part_of_all_later_ones() -> None:
    found = means(Sessions(turns=Lengths(mean=2), first=Lengths(mean=500)))
    assert found.prompt == (564 + 674) / 2


AGENTS: dict[str, Any] = {
    "share": 1.0, "count": Lengths(mean=2), "turns": Lengths(mean=3), "input": Lengths(mean=40),
    "output": Lengths(mean=8),
}  # fmt: skip


@pytest.mark.parametrize("context", ["new", "fork"])
@pytest.mark.parametrize("turns", [1, 2, 5])
def test_tokens_are_those_of_requests_one_by_one(context: Literal["new", "fork"], turns: int) -> None:
    """Of whole sessions, with agents after every answer but the last."""
    sessions = Sessions(turns=Lengths(mean=turns), agents=SubAgents(context=context, **AGENTS))
    found, count = means(sessions), 4 * (turns + (turns - 1) * 6)
    assert found.requests * 4 == count
    stream = RequestStream(count=count, sessions=sessions, prefix=SharedPrefix(tokens=64))
    draw = RequestDraw(FIXED, stream, BLOCK, seed=0)
    length = draw.draw(count).length
    assert found.prompt == pytest.approx(length[:, PROMPT].mean())
    assert found.output == pytest.approx(length[:, OUTPUT].mean())


def test_tokens_of_sessions_that_differ_are_means_of_many() -> None:
    sessions = Sessions(turns=Lengths(distribution="uniform", low=1, high=9),
                        agents=SubAgents(context="fork", **{**AGENTS, "share": 0.3}))  # fmt: skip
    found, count = means(sessions), 60_000
    stream = RequestStream(count=count, sessions=sessions, prefix=SharedPrefix(tokens=64))
    length = RequestDraw(FIXED, stream, BLOCK, seed=0).draw(count).length
    assert found.prompt == pytest.approx(length[:, PROMPT].mean(), rel=0.02)
    assert found.output == pytest.approx(length[:, OUTPUT].mean(), rel=0.01)


def loaded(**stated: Any) -> costmodel.Workload:
    serving = {
        "rate": None, "concurrency": 1, "input_tokens": 100, "output_tokens": 10,
        "memory.blocks": 4000, **stated,
    }  # fmt: skip
    changes = {f"scenarios.serving.{key}": value for key, value in serving.items()}
    return costmodel.load("llama3_8b_rtx4090", set=changes, scenarios=["serving"])


@pytest.mark.parametrize("context", ["new", "fork"])
def test_hits_are_those_of_requests_one_by_one(context: str) -> None:
    """Of one session after the other, but for the shared tokens, which the first prompt has to compute."""
    agents = {"share": 1, "count": 2, "turns": 3, "input": 40, "output": 8, "context": context}
    sessions = {"turns": 3, "agents": agents}
    workload = loaded(requests={"count": 60, "arrivals": "closed_loop", "prefix": {"tokens": 64}, "sessions": sessions})
    closed, events = (workload.simulate(engine=engine)["scenarios"]["serving"] for engine in ("analytic", "event"))
    total = events["requests"]
    prompt = closed["metrics"]["input_tokens_per_second"] / closed["metrics"]["requests_per_second"]
    assert total["input_tokens"] == pytest.approx(60 * prompt)
    assert total["cached_tokens"] + 64 == pytest.approx(60 * prompt * closed["metrics"]["prefix_hit_rate"], abs=1.0)
    assert closed["metrics"]["prefix_hit_rate"] == pytest.approx(events["metrics"]["prefix_hit_rate"], rel=0.01)


def test_sessions_are_their_rate_times_their_time() -> None:
    """Little's law: those that begin a second, times steps and gaps of each, are the sessions of the closed loop."""
    sessions = {"turns": 4, "think_time": "2 s"}
    for concurrency in (1, 5, 12):
        given = {"concurrency": concurrency, "requests": {"arrivals": "closed_loop", "sessions": sessions}}
        scenario = loaded(**given).scenario("serving")
        evaluation = evaluate(scenario, loaded(**given).calibration(scenario))
        metrics = evaluation.metrics(None)
        rate, latency = metrics["requests_per_second"], metrics["latency"]
        assert rate is not None
        assert latency is not None
        lifetime = 4 * latency + 3 * 2.0
        assert rate / 4 * lifetime == pytest.approx(concurrency, rel=1e-6)


def test_without_gaps_every_session_has_a_request_under_way() -> None:
    found = means(Sessions(turns=Lengths(mean=5)))
    assert busy_sessions(Serving(1.0, 1.0, concurrency=7.0, means=found)) == 7.0
    agents = means(Sessions(turns=Lengths(mean=5), agents=SubAgents(**AGENTS)))
    assert (agents.requests, agents.steps) == (5 + 4 * 2 * 3, 5 + 4 * 3)
    assert busy_sessions(Serving(1.0, 1.0, concurrency=17.0, means=agents)) == 29.0


def test_the_rate_of_sessions_by_hand() -> None:
    """Of 10 sessions of 5 requests of 3 s with 4 gaps of 4 s: 50 every 31 s. Where requests wait for it, all it can."""
    found = means(Sessions(turns=Lengths(mean=5), think_time=Gaps(mean=4.0)))
    assert session_time(found, 3.0) == 31.0
    assert rate_of_sessions(found, 10.0, 100.0, lambda _: 3.0) == pytest.approx(50.0 / 31.0)
    full = rate_of_sessions(found, 1000.0, 2.0, lambda rate: 1.0 / (2.0 - rate) if rate < 2.0 else np.inf)
    assert 1.9 < full < 2.0


def test_the_requests_of_sessions_by_hand() -> None:
    """Of 10 sessions, each 15 s of 31 s."""
    found = means(Sessions(turns=Lengths(mean=5), think_time=Gaps(mean=4.0)))
    assert under_way(found, 10.0, lambda _: 3.0) == pytest.approx(150.0 / 31.0)


def test_no_more_wait_than_sessions_have_under_way() -> None:
    """Many seats and few sessions: near the highest stable rate an open loop would have ever more of them wait."""
    sessions = {"turns": 4, "think_time": "0.01 s"}
    given = {"concurrency": 30, "requests": {"arrivals": "closed_loop", "sessions": sessions}}
    scenario = loaded(**given).scenario("serving")
    metrics = evaluate(scenario, loaded(**given).calibration(scenario)).metrics(None)
    assert metrics["concurrency"] is not None
    assert metrics["concurrency"] <= 30.0


def test_longer_gaps_are_fewer_requests_that_are_served_faster() -> None:
    rates, latencies = [], []
    for gap in ("0.5 s", "2 s", "8 s"):
        given = {
            "concurrency": 40,
            "requests": {"arrivals": "closed_loop", "sessions": {"turns": 4, "think_time": gap}},
        }
        scenario = loaded(**given).scenario("serving")
        metrics = evaluate(scenario, loaded(**given).calibration(scenario)).metrics(None)
        rates.append(metrics["requests_per_second"])
        latencies.append(metrics["latency"])
    assert rates[0] > rates[1] > rates[2]
    assert latencies[0] > latencies[1] > latencies[2]


def test_a_cache_that_is_too_small_for_the_sessions_is_said() -> None:
    given = {"concurrency": 8, "requests": {"arrivals": "closed_loop", "sessions": {"turns": 6, "think_time": "3 s"}}}
    notes = {}
    for blocks in (200, 4000):
        workload = loaded(**{**given, "memory.blocks": blocks})
        scenario = workload.scenario("serving")
        notes[blocks] = " ".join(evaluate(scenario, workload.calibration(scenario)).notes())
    assert "sessions at their means: 375 tokens a prompt" in notes[200]
    assert ["computed again" in notes[blocks] for blocks in (200, 4000)] == [True, False]


def test_pairs_of_turns_are_those_of_their_distribution() -> None:
    draw = np.random.default_rng(0).integers(2, 12, 200_000, endpoint=True)
    uniform = Lengths(distribution="uniform", low=2, high=12)
    assert uniform.pairs == pytest.approx((draw * (draw - 1) / 2).mean(), rel=0.01)
    assert Lengths(distribution="values", values=(1.0, 4.0)).pairs == 3.0
    assert Lengths(mean=5).pairs == 10.0


def test_of_unknown_lengths_a_last_token_and_half_a_block_are_in_no_full_block() -> None:
    """Ends of 1 to 16 tokens, each as likely, leave 0 to 15 of a block besides the last token."""
    assert _lost(None, 16.0) == 1.0 + 7.5 == _lost(np.arange(1.0, 17.0), 16.0)
