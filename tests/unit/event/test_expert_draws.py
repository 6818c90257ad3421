"""Uneven experts by events: each micro-batch has its own load, and waits are what the schedule makes of it."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import pytest
from builders import FP8, LATENT, MOE, STEP, scenario

from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.training.jitter import relative_deviation
from costmodel.analytic.training.step_model import step_model
from costmodel.analytic.training.step_times import step_streams
from costmodel.cost.calibration import Calibration
from costmodel.event.evaluation import EventEngine
from costmodel.event.expert_draws import expected_largest, expert_draws
from costmodel.records import replace
from costmodel.workload.architecture import Architecture, Layer
from costmodel.workload.scenario import Communication, Parallelism, Scenario
from costmodel.workload.schedules import Chunk, order

MODEL = Architecture("equal", 2048.0, 1000.0, (Layer(8, LATENT, MOE),))


def step(schedule: str, pp: float, seed: int | None = None, load: float = 1.6) -> Scenario:
    plan = replace(STEP, schedule=schedule, global_batch=128.0)
    chosen = scenario(
        plan, MODEL, Parallelism(pp=pp, dp=8.0, ep=8.0), FP8, Communication(10.0, "fp8", expert_load=load)
    )
    if seed is None:
        return chosen
    return replace(chosen, simulation=replace(chosen.simulation, experts="drawn", seed=seed))


def seconds(of: Scenario) -> float:
    value = EventEngine(perturbed=False).point(of, Calibration()).metrics["step_time"]
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("ranks", "largest"), [(1.0, 0.0), (2.0, 1 / sqrt(pi)), (3.0, 1.5 / sqrt(pi)), (10.0, 1.53875)]
)
def test_the_largest_of_some_normal_numbers(ranks: float, largest: float) -> None:
    assert expected_largest(ranks) == pytest.approx(largest, abs=1e-5)


def test_draws_have_a_mean_of_one_and_are_shared_where_texts_decide() -> None:
    schedule = order("1f1b", 4, 1, 4096)
    own, shared = (expert_draws(schedule, 4, 64.0, 1, shared=shared) for shared in (False, True))
    assert own.excess.shape == (4096, 4, 4)
    assert own.excess.mean() == pytest.approx(1.0, abs=3e-3)
    assert own.excess.std() == pytest.approx(float(relative_deviation(64.0)), rel=0.06)  # as the closed form has it
    assert shared.of(Chunk(0, 7), 0) == shared.of(Chunk(3, 7), 2) != shared.of(Chunk(0, 8), 0)
    assert own.of(Chunk(0, 7), 0) != own.of(Chunk(3, 7), 0)


def test_on_one_rank_nobody_waits_and_a_step_takes_what_its_micro_batches_do() -> None:
    """16 micro-batches with x times the excess of their experts: step + sum of excess * (x - 1)."""
    plain, drawn = seconds(step("1f1b", 1.0)), step("1f1b", 1.0, seed=3)
    plan = drawn.plan
    model = step_model(drawn, plan, Calibration())  # type: ignore[arg-type]
    stage = step_streams(model, None).stages[0]
    excess = float(stage.forward.imbalance_time + stage.backward.imbalance_time)
    draws = expert_draws(order("1f1b", 1, 1, 16), 8, 8.0, 3, shared=True).excess.ravel()
    assert seconds(drawn) == pytest.approx(plain + excess * float((draws - 1.0).sum()), rel=1e-9)


@pytest.mark.parametrize("schedule", ["1f1b", "dualpipe"])
def test_waits_of_events_are_on_the_mean_those_that_the_closed_form_expects(schedule: str) -> None:
    closed = evaluate_point(step(schedule, 4.0), Calibration()).metrics["step_time"]
    found = np.array([seconds(step(schedule, 4.0, seed)) for seed in range(8)])
    assert found.std() > 0
    assert found.mean() == pytest.approx(closed, rel=5e-3)
