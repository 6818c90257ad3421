"""Uneven experts by events: each micro-batch has its own load, and waits are what the schedule makes of it."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import pytest
from builders import FP8, LATENT, MOE, STEP, scenario

from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.training.step_model import step_model
from costmodel.cost.calibration import Calibration
from costmodel.event.evaluation import EventEngine
from costmodel.event.training import expected_largest, expert_draws
from costmodel.records import replace
from costmodel.workload.architecture import Architecture, Layer, MoeFfn
from costmodel.workload.order_statistics import normal_maximum, normal_maximum_std
from costmodel.workload.scenario import Communication, Parallelism, Routing, Scenario
from costmodel.workload.schedules.catalogue import order
from costmodel.workload.schedules.schedule import Chunk

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
    assert own.excess.std() == pytest.approx(float(normal_maximum_std(64.0) / normal_maximum(64.0)), rel=0.06)
    assert shared.of(Chunk(0, 7), 0) == shared.of(Chunk(3, 7), 2) != shared.of(Chunk(0, 8), 0)
    assert own.of(Chunk(0, 7), 0) != own.of(Chunk(3, 7), 0)


def test_on_one_rank_nobody_waits_and_a_step_takes_what_its_micro_batches_do() -> None:
    """16 micro-batches with x times the excess of their experts: step + sum of excess * (x - 1)."""
    plain, excesses = seconds(step("1f1b", 1.0)), []
    for seed in (3, 4):
        draws = expert_draws(order("1f1b", 1, 1, 16), 8, 8.0, seed, shared=True).excess.ravel()
        excesses.append((seconds(step("1f1b", 1.0, seed=seed)) - plain) / float((draws - 1.0).sum()))
    assert 0 < excesses[0] < plain / 16
    assert excesses[1] == pytest.approx(excesses[0], rel=1e-6)


@pytest.mark.parametrize("schedule", ["1f1b", "dualpipe"])
def test_varying_loads_make_a_pipeline_wait_on_the_mean(schedule: str) -> None:
    mean = evaluate_point(step(schedule, 4.0), Calibration()).metrics["step_time"]
    assert isinstance(mean, float)
    found = np.array([seconds(step(schedule, 4.0, seed)) for seed in range(8)])
    assert found.std() > 0
    assert mean < found.mean() < 1.05 * mean


def test_counted_loads_are_the_same_in_every_chunk_and_stated_ones_of_a_micro_batch() -> None:
    stated = step("1f1b", 4.0)
    (experts,) = {layer.ffn.experts for layer in stated.architecture.kinds if isinstance(layer.ffn, MoeFfn)}
    unstated = replace(stated, communication=replace(stated.communication, expert_load=None))
    chance = replace(unstated, routing=Routing(load="uniform"))
    counted = replace(chance, routing=Routing(load="counts", counts=(3.0, *(1.0,) * (int(experts) - 1))))
    found = [step_model(each, each.plan, Calibration()).imbalance for each in (stated, chance, counted)]  # type: ignore[arg-type]
    assert [(each.ranks, each.shared_by_layers) for each in found] == [(8, True), (8, False), (1, False)]
