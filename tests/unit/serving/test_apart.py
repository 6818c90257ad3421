"""Replicas that share nothing serve the same to the byte, whoever runs them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import costmodel
from costmodel.serving.simulation import Simulation
from costmodel.study.executors import started_pool
from costmodel.workload.plans import Serving

FLEET = {
    "scenarios.serving.concurrency": None, "scenarios.serving.rate": "6 /s", "scenarios.serving.output_tokens": 16,
    "scenarios.serving.requests": {"count": 90}, "scenarios.serving.replicas": {"count": 3},
}  # fmt: skip


def simulation(**replicas: object) -> Simulation:
    given = {**FLEET, "scenarios.serving.replicas": {"count": 3, **replicas}}
    loaded = costmodel.load("llama3_8b_rtx4090", set=given, scenarios=["serving"])
    scenario = loaded.scenario("serving")
    assert isinstance(scenario.plan, Serving)
    return Simulation(scenario, scenario.plan, loaded.calibration(scenario), 2)


@pytest.mark.parametrize("scheduler", [None, "embedded"])
def test_workers_serve_a_fleet_as_this_process_does(scheduler: str | None) -> None:
    if scheduler is not None:
        pytest.importorskip("distributed")
    one = simulation(routing="round_robin")
    alone = one.run()
    with started_pool(2, scheduler) as pool:
        one.executor = pool.executor
        together = one.run()
    assert alone.requests.tobytes() == together.requests.tobytes()
    for rows, others in zip(alone.engines, together.engines, strict=True):
        assert rows.tobytes() == others.tobytes()
    assert len(np.unique(alone.requests["replica"])) == 3


def test_engines_that_depend_on_each_other_run_here_and_that_is_said() -> None:
    one = simulation(routing="least_loaded")
    with started_pool(2) as pool, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        one.executor = pool.executor
        one.run()
    assert any("not by the workers" in str(each.message) for each in said)
