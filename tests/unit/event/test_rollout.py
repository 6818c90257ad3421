"""Rollouts of a step of reinforcement learning by events: near the closed form, and the same where nothing is drawn."""

from __future__ import annotations

import pytest

import costmodel
from costmodel.schema.loader import parse_tree

TEXT = """
model: models/llama-3-8b
scenarios:
  engines:
    phase: serving
    cluster: nodes/dgx-h100
    framework: vllm
    replicas: {count: 8}
    concurrency: 32
    input_tokens: 128
    output_tokens: 128
    memory: {utilization: 60 %}
  train:
    phase: training
    cluster: nodes/dgx-h100
    parallel: {tp: 2, pp: 2, dp: 2}
    global_batch: 32
    sequence: 256
  step: {phase: rl, rollout: engines, train: train, prompts: 32, samples: 8, offload: all}
"""
SPREAD = "{output: {distribution: lognormal, mean: 128, deviation: 100, high: 512}}"


@pytest.mark.parametrize("requests", ["null", SPREAD])
def test_requests_one_by_one_take_about_the_time_of_the_closed_form(requests: str) -> None:
    workload = costmodel.load(parse_tree(TEXT, "step.yaml"), set={"scenarios.engines.requests": requests})
    closed, events = (workload.points(["step"], engine)["step"] for engine in ("analytic", "event"))
    assert events.metrics["rollout_time"] == pytest.approx(closed.metrics["rollout_time"], rel=0.08)
    assert events.metrics["train_time"] == pytest.approx(closed.metrics["train_time"], rel=0.02)
    for name in ("log_probability_time", "update_time", "offload_time"):
        assert events.metrics[name] == closed.metrics[name]
    assert sum(line.time for line in events.breakdown) == pytest.approx(events.metrics["step_time"])
    interval = events.intervals["rollout_time"]
    assert interval is not None
    assert interval[0] < (events.metrics["rollout_time"] or 0.0) < interval[1]
    closed_interval, idle = closed.intervals["rollout_time"], events.intervals["idle_share"]
    assert closed_interval is not None
    assert idle is not None
    above = closed_interval[1] / (closed.metrics["rollout_time"] or 0.0)
    assert interval[1] / (events.metrics["rollout_time"] or 0.0) == pytest.approx(above, rel=1e-3)
    assert idle[1] - idle[0] < 0.01  # engines are slower as a whole, busy or not


def test_other_seeds_draw_other_answers_and_their_timeline_is_that_of_training() -> None:
    changes = {"scenarios.engines.requests": SPREAD}
    rollouts = []
    for seed in ("1", "2"):
        workload = costmodel.load(
            parse_tree(TEXT, "step.yaml"), set={**changes, "scenarios.engines.simulation.seed": seed}
        )
        rollouts.append(workload.points(["step"], "event")["step"].metrics["rollout_time"])
    assert rollouts[0] != rollouts[1]
    engine = costmodel.api.event_engine()
    workload.points(["step"], "event", engine)
    assert set(engine.timelines) == {"step"}
