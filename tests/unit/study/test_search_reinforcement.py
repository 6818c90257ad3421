"""A search of a step of reinforcement learning tries the best layouts of its training with all of its engines."""

from __future__ import annotations

from typing import Any

import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.schema.loader import parse_tree
from costmodel.study.search import Space, _engines, searched, settings
from costmodel.study.sweep import NOTHING, Wanted
from costmodel.workload.reinforcement import Reinforcement

TEXT = """
model: models/llama-3-8b
scenarios:
  engines:
    phase: serving
    cluster: nodes/dgx-h100
    replicas: {count: 4}
    concurrency: 16
    input_tokens: 128
    output_tokens: 256
    memory: {utilization: 60 %}
  train:
    phase: training
    cluster: nodes/dgx-h100
    parallel: {dp: 4}
    global_batch: 64
    sequence: 384
    optimizer: {zero: 3}
  step: {phase: rl, rollout: engines, train: train, prompts: 16, samples: 4, offload: all}
"""


def workload(**changes: str) -> costmodel.Workload:
    keys = {f"scenarios.step.{name}": value for name, value in changes.items()}
    return costmodel.load(parse_tree(TEXT, "step.yaml"), set=keys)


def test_the_best_layout_is_no_slower_than_the_scenarios_own_and_its_settings_make_it() -> None:
    own = workload()
    result = searched(own, "step", None, NOTHING)
    best = result.best[0]
    assert best.objective <= (own.evaluate("step").metrics["step_time"] or 0.0)
    assert best.devices == 4
    assert [one.objective for one in result.best] == sorted(one.objective for one in result.best)
    again = own.changed(settings(own, result)).evaluate("step")
    assert again.metrics["step_time"] == pytest.approx(best.objective)


def test_engines_take_all_devices_of_their_pool() -> None:
    for placement in ("colocated", "split"):
        keys: dict[str, Any] = {"placement": placement, "offload": "all" if placement == "colocated" else "none"}
        result = searched(workload(**keys), "step", "minimise cost_per_sample", NOTHING, Space((4,)))
        at = result.best[0].at
        engines = at["scenarios.engines.parallel.tp"] * at["scenarios.engines.replicas.count"]
        trains = (
            at["scenarios.train.parallel.tp"] * at["scenarios.train.parallel.dp"] * at["scenarios.train.parallel.pp"]
        )
        assert (engines == trains == 4) if placement == "colocated" else (engines + trains == 4)


def test_what_is_fixed_of_a_part_is_not_searched() -> None:
    fixed = ("scenarios.engines.parallel.tp=2", "scenarios.train.parallel.tp=2")
    for one in searched(workload(), "step", None, NOTHING, Space((), (), fixed)).best:
        assert one.at["scenarios.engines.parallel.tp"] == 2
        assert one.at["scenarios.train.parallel.tp"] == 2


def test_constraints_hold_and_axes_are_refused() -> None:
    result = searched(workload(), "step", "minimise cost_per_sample", Wanted({}, ("rollout_time <= 1 us",)))
    assert not result.best
    assert result.why is not None
    with pytest.raises(InputError, match="searched without axes"):
        searched(workload(), "step", None, NOTHING, Space((), ("scenarios.step.prompts=16,32",)))


@pytest.mark.parametrize(("devices", "degrees"), [(1, [1]), (8, [1, 2, 4, 8]), (12, [1, 2, 4])])
def test_engines_are_cut_by_degrees_that_divide_their_devices_and_32_heads(devices: int, degrees: list[int]) -> None:
    own = workload()
    plan = own.scenario("step").plan
    assert isinstance(plan, Reinforcement)
    layouts = list(_engines(own, plan, devices, ()))
    assert [each["scenarios.engines.parallel.tp"] for each in layouts] == degrees
    assert all(
        each["scenarios.engines.parallel.tp"] * each["scenarios.engines.replicas.count"] == devices for each in layouts
    )
