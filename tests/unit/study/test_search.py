"""A search finds what trying every layout finds; its bounds hold; sensitivities are those of single evaluations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

import costmodel
from costmodel.analytic.grid import evaluate_grid
from costmodel.errors import InputError
from costmodel.study.bounds import Bounder
from costmodel.study.goals import Goal, read_goal
from costmodel.study.layouts import divisors, training_space, variants
from costmodel.study.search import search
from costmodel.study.sensitivity import STEP, sensitivities
from costmodel.workload.scenario import Training

SMALL = {
    "model.layers.0.repeat": 4, "scenarios.selective.global_batch": 4, "hardware.memory.hbm.capacity": "32 GiB",
    "scenarios.selective.parallel.pp": 2, "scenarios.selective.parallel.virtual": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def small() -> costmodel.Workload:
    return costmodel.load("gpt3_175b_a100", set=SMALL, scenarios=["selective"])


def goal_of(
    workload: costmodel.Workload, scenario: str, objective: str | None = None, constraints: tuple[str, ...] = (),
    derived: Mapping[str, str] | None = None,
) -> Goal:  # fmt: skip
    return read_goal(workload.scenario(scenario).answers, scenario, objective, constraints, derived or {})


def every_layout(workload: costmodel.Workload, devices: int) -> list[tuple[float, dict[str, object]]]:
    """Return the step time of every layout that runs, each variant as one grid, the shortest first."""
    chosen = workload.scenario("selective")
    assert isinstance(chosen.plan, Training)
    space = training_space(chosen, chosen.plan, devices)
    paths = {tuple(f"scenarios.selective.{name}" for name in space.columns): tuple(space.columns.values())}
    base, shape = workload.varied("selective", paths)
    found = []
    for variant in variants(chosen.plan):
        result = evaluate_grid(variant.of(base), workload.calibration(base), shape)
        times = np.asarray(result.metrics["step_time"])
        for row in np.flatnonzero(np.asarray(result.fits)):
            interleaved = space.columns["parallel.virtual"][row] > 1
            if interleaved == (variant.schedule == "interleaved"):
                at = {name: int(column[row]) for name, column in space.columns.items()}
                found.append((float(times[row]), {**at, **variant.document()}))
    return sorted(found, key=lambda each: each[0])


def test_the_winner_is_that_of_trying_every_layout(small: costmodel.Workload) -> None:
    found = search(small, "selective", goal_of(small, "selective"), [8])
    tried = every_layout(small, 8)
    assert found.best[0].objective == pytest.approx(tried[0][0], rel=1e-9)
    assert found.best[0].at == tried[0][1]
    assert found.scheduled < found.feasible < found.looked_at


def test_no_layout_beats_its_bounds(small: costmodel.Workload) -> None:
    chosen = small.scenario("selective")
    assert isinstance(chosen.plan, Training)
    space = training_space(chosen, chosen.plan, 8)
    paths = {tuple(f"scenarios.selective.{name}" for name in space.columns): tuple(space.columns.values())}
    base, shape = small.varied("selective", paths)
    for variant in variants(chosen.plan):
        scenario = variant.of(base)
        assert isinstance(scenario.plan, Training)
        calibration = small.calibration(base)
        bounder, rows = Bounder(calibration, chosen.plan, np.arange(space.size)), np.arange(space.size)
        memory = bounder.memory(scenario, scenario.plan)
        bounder.price(scenario, rows)
        step = bounder.step(scenario, rows)
        result = evaluate_grid(scenario, calibration, shape)
        runs = np.asarray(result.fits)
        assert np.all(np.asarray(result.metrics["step_time"])[runs] >= step[runs])
        capacity = base.cluster.device.device_memory.capacity
        assert np.all(memory[runs] <= capacity)


def test_the_fewest_devices_that_meet_a_target_are_found(small: costmodel.Workload) -> None:
    times = {
        number: search(small, "selective", goal_of(small, "selective"), [number]).best[0].objective
        for number in (8, 16)
    }
    assert times[8] > times[16]
    target = (times[8] + times[16]) / 2
    goal = goal_of(small, "selective", "minimise devices", (f"step_time <= {target} s",))
    assert search(small, "selective", goal, (4, 8, 16)).best[0].devices == 16


def test_a_search_of_decoding_gives_the_best_rate_under_a_limit_and_the_front() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    goal = goal_of(workload, "decode", None, ("tpot <= 50 ms",), {"rate": "devices / tpot"})
    found = search(workload, "decode", goal, (64, 128))
    assert all(one.metrics["tpot"] is not None and one.metrics["tpot"] <= 0.05 for one in found.best)
    rates = [
        (one.metrics["tokens_per_second_per_device"], one.metrics["tokens_per_second_per_user"]) for one in found.front
    ]
    for one, after in itertools.pairwise(rates):
        assert after[0] > one[0]  # type: ignore[operator]
        assert after[1] <= one[1]  # type: ignore[operator]
    assert found.best[0].objective == max(one.metrics["tokens_per_second_per_device"] or 0.0 for one in found.front)


@pytest.mark.parametrize(
    ("objective", "constraints", "told"),
    [
        ("fastest", (), "is no objective"),
        ("minimise step_tim", (), "did you mean `step_time`"),
        ("minimise step_time", ("step_time < 3 GB",), "step_time is a duration"),
        ("minimise __import__('os')", (), "is not allowed"),
    ],
)
def test_a_bad_goal_is_told(small: costmodel.Workload, objective: str, constraints: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError, match=told.replace("(", r"\(")):
        goal_of(small, "selective", objective, constraints)


def test_divisors_are_all_of_them() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12]


def test_an_elasticity_is_that_of_two_evaluations() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    rows = {row.path: row for row in sensitivities(workload, "decode", "tpot")}
    path = "hardware.device.memory.hbm.bandwidth"
    ends = [
        costmodel.load("deepseek_v3", set={path: f"{3.35 * (1 + side * STEP)} TB/s"}, scenarios=["decode"])
        .evaluate("decode").metrics["tpot"]
        for side in (1, -1)
    ]  # fmt: skip
    expected = np.log(float(ends[0]) / float(ends[1])) / np.log((1 + STEP) / (1 - STEP))  # type: ignore[arg-type]
    assert rows[path].elasticity == pytest.approx(expected, rel=1e-6)
    assert rows[path].saved is not None
    assert rows[path].saved > 0


def test_the_bound_follows_its_one_bandwidth_alone() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode_ep_bound"])
    rows = sensitivities(workload, "decode_ep_bound", "tpot")
    assert [(row.path, round(row.elasticity, 6)) for row in rows] == [("hardware.node.nic.bandwidth", -1.0)]


def test_an_unknown_metric_is_told() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    with pytest.raises(InputError, match="did you mean `tpot`"):
        sensitivities(workload, "decode", "tpott")
