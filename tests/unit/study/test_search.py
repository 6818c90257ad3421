"""A search finds what trying every layout finds; its bounds hold; sensitivities are those of single evaluations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

import costmodel
from costmodel.analytic.grid import evaluate_grid
from costmodel.errors import InputError
from costmodel.study.bounds import Bounder
from costmodel.study.goals import Goal, read_goal
from costmodel.study.layouts import divisors, training_space, variants
from costmodel.study.placement import stage_sizes
from costmodel.study.search import Space, search, searched
from costmodel.study.search_steps import alike_layers
from costmodel.study.sensitivity import STEP, sensitivities
from costmodel.study.sweep import NOTHING, Wanted
from costmodel.workload.plans import Training

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
    return read_goal(workload.scenario(scenario).result_kind, scenario, objective, constraints, derived or {})


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


SLOW = {
    "scenarios.selective.optimizer.zero": 2, "scenarios.selective.optimizer.overlap": True,
    "hardware.device.links.nvlink.bandwidth": "2 GB/s", "hardware.memory.hbm.capacity": "200 GiB",
}  # fmt: skip


SUMS = {"scenarios.selective.framework.accumulation": "autograd"}


ANCHORED = {"scenarios.selective.anchor": "{metric: step_time, value: 10 s}"}


@pytest.mark.parametrize(
    "also", [{}, SLOW, SUMS, ANCHORED], ids=["as stated", "reductions that run on", "sums by autograd", "anchored"]
)
def test_no_layout_beats_its_bounds(also: dict[str, object]) -> None:
    small = costmodel.load("gpt3_175b_a100", set=SMALL | also, scenarios=["selective"])
    chosen = small.scenario("selective")
    assert isinstance(chosen.plan, Training)
    space = training_space(chosen, chosen.plan, 8)
    paths = {tuple(f"scenarios.selective.{name}" for name in space.columns): tuple(space.columns.values())}
    base, shape = small.varied("selective", paths)
    tried = list(variants(chosen.plan, ("optimizer.zero",) if also == SLOW else ()))
    for variant in tried[:1] if also == ANCHORED else tried:
        scenario = variant.of(base)
        assert isinstance(scenario.plan, Training)
        calibration = small.calibration(base)
        rows = np.arange(space.size)
        count = np.asarray(chosen.plan.global_batch) / (space.columns["parallel.dp"] * space.columns["micro_batch"])
        bounder = Bounder(calibration, chosen.plan, alike_layers(base, space.columns, count))
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
    best = max(one.metrics["tokens_per_second_per_device"] or 0.0 for one in found.front)
    assert found.best[0].objective == pytest.approx(best, rel=1e-12)


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


def test_stated_stages_hold_on_their_number_and_give_the_ends_weight_on_others() -> None:
    chosen = costmodel.load("deepseek_v3", scenarios=["training"]).scenario("training")
    plan, architecture = chosen.plan, chosen.architecture
    assert isinstance(plan, Training)
    assert stage_sizes(architecture, plan, 16) == plan.stages == (*[4] * 15, 1)
    assert stage_sizes(architecture, plan, 4) == (16, 16, 16, 13)
    assert stage_sizes(architecture, plan, 32) == (*[2] * 30, 1, 0)
    assert all(sum(stage_sizes(architecture, plan, number) or ()) == 61 for number in range(1, 62))
    assert stage_sizes(architecture, replace(plan, stages=None), 8) is None
    uneven = replace(plan, stages=(3, *[4] * 14, 2))
    assert stage_sizes(architecture, uneven, 4) == (15, 16, 16, 14)


STUDY = (
    "scenarios.decode.batch_per_device=16,48,64; hardware.node.nic.bandwidth=40 GB/s,50 GB/s,100 GB/s",
    "scenarios.decode.parallel.ep=32,64",
    "scenarios.decode.input_tokens=1024,8192",
    "scenarios.decode.communication.combine=bf16,fp8",
)


def test_the_axes_of_a_study_are_part_of_its_search() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    wanted = Wanted({}, ("scenarios.decode.batch_per_device <= 48", "tpot <= 100 ms"))
    found = searched(workload, "decode", "maximise tokens_per_second_per_device", wanted, Space((64,), STUDY))
    best = found.best[0]
    assert best.at["batch_per_device"] == 48
    assert best.at["hardware.node.nic.bandwidth"] == 50e9
    assert best.at["scenarios.decode.input_tokens"] == 1024
    assert best.at["scenarios.decode.communication.combine"] == "fp8"
    assert {one.at["parallel.ep"] for one in [*found.best, *found.front]} <= {32, 64}
    point = costmodel.load("deepseek_v3", scenarios=["decode"], set={
        "scenarios.decode.communication.combine": "fp8", "hardware.node.nic.bandwidth": 50e9,
        "scenarios.decode.input_tokens": 1024, "scenarios.decode.batch_per_device": 48,
        **{f"scenarios.decode.{name}": value for name, value in best.at.items() if name.startswith("parallel.")},
    }).evaluate("decode")  # fmt: skip
    assert best.objective == pytest.approx(float(point.metrics["tokens_per_second_per_device"]), rel=1e-9)  # type: ignore[arg-type]


def test_axes_of_a_training_step_leave_the_layouts_that_have_their_values() -> None:
    varied = (
        "scenarios.selective.global_batch=4,8", "scenarios.selective.schedule=1f1b",
        "hardware.memory.hbm.bandwidth=1.5 TB/s,3 TB/s", "scenarios.selective.optimizer.zero=1",
    )  # fmt: skip
    changes = {path: value for path, value in SMALL.items() if not path.endswith("global_batch")}
    workload = costmodel.load("gpt3_175b_a100", set=changes, scenarios=["selective"])
    found = searched(workload, "selective", "maximise tokens_per_second", NOTHING, Space((8,), varied))
    assert found.best[0].at["global_batch"] == 8
    assert found.best[0].at["hardware.memory.hbm.bandwidth"] == 3e12
    assert {(one.at["schedule"], one.at["optimizer.zero"]) for one in found.best} == {("1f1b", 1)}


def test_too_many_layouts_are_refused_with_their_number(small: costmodel.Workload) -> None:
    axis = "hardware.node.nic.bandwidth=1GB/s..50GB/s:99999"
    with pytest.raises(InputError, match=r"\d,\d+ layouts at the values of the axes, 20,000,000 are the most"):
        searched(
            small, "selective", None, NOTHING, Space((8,), (axis, "hardware.memory.hbm.bandwidth=1TB/s..2TB/s:999"))
        )


def test_an_objective_that_needs_a_price_says_which() -> None:
    workload = costmodel.load("gpt3_175b_a100", set={"hardware.price.rental": "null"}, scenarios=["selective"])
    with pytest.raises(InputError, match=r"a100-sxm-80gb has no rental price: set hardware.price.rental"):
        searched(workload, "selective", "minimise cost_per_trillion_tokens", NOTHING)
