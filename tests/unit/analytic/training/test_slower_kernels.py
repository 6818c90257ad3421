"""What a training step makes all kernels longer by."""

from __future__ import annotations

import pytest
from builders import DENSE_MODEL, PREFILL, STEP, scenario

from costmodel.analytic.grid import evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.workload.scenario import Parallelism, Scenario

ALONE = Parallelism(dp=1.0)


def slowed(of: Scenario, throttle: float) -> Scenario:
    return replace(of, framework=replace(of.framework, sustained_slowdown=throttle))


def step_of(of: Scenario) -> float:
    value = evaluate_point(of, Calibration()).metrics["step_time"]
    assert value is not None
    return value


def test_throttle_makes_a_step_of_kernels_alone_so_much_longer() -> None:
    of = scenario(STEP, DENSE_MODEL, ALONE)
    assert step_of(slowed(of, 1.25)) == pytest.approx(1.25 * step_of(of), rel=1e-12)


def test_throttle_leaves_messages_and_inference_alone() -> None:
    both = scenario(STEP, DENSE_MODEL, Parallelism(dp=8.0))
    before, after = (evaluate_point(slowed(both, factor), Calibration()) for factor in (1.0, 1.5))
    after_by_name = {entry.name: entry.time for entry in after.breakdown}
    sent = [entry for entry in before.breakdown if "network" in entry.by_bound]
    assert sent
    for entry in sent:
        assert after_by_name[entry.name] == entry.time
    prompts = scenario(PREFILL, DENSE_MODEL, ALONE)
    assert evaluate_point(slowed(prompts, 1.5), Calibration()).metrics == evaluate_point(prompts, Calibration()).metrics
