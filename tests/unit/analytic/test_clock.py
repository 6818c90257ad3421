"""Power limits move the time of what the processors bound, in every phase and engine, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from builders import (
    CLUSTER,
    DECODE,
    DENSE_MODEL,
    DEVICE,
    GENERATE,
    PREFILL,
    SERVING,
    STEP,
    pools,
    scenario,
    with_device,
)

import costmodel
from costmodel.analytic.grid import evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Power
from costmodel.records import replace
from costmodel.result import Point
from costmodel.study.sensitivity import sensitivities
from costmodel.workload.scenario import Parallelism, Plan

BOARD = Power(700.0, 100.0, busy=120.0, tensor=2e-12, memory=50e-12, timed=700.0)
OPEN = replace(SERVING, rate=1.0, concurrency=None)
PLANS = [STEP, PREFILL, DECODE, GENERATE, SERVING, OPEN, pools()]
LIMITS = (1000.0, 700.0, 500.0, 400.0, 300.0, 200.0)


def point(plan: Plan, limit: float) -> Point:
    device = replace(DEVICE, power=replace(BOARD, tdp=limit))
    return evaluate_point(scenario(plan, DENSE_MODEL, cluster=with_device(CLUSTER, device)), Calibration())


@pytest.mark.parametrize("plan", PLANS)
def test_fewer_watts_never_make_it_faster_and_no_board_draws_more(plan: Plan) -> None:
    points = [point(plan, limit) for limit in LIMITS]
    for limit, one in zip(LIMITS, points, strict=True):
        energy, rate = one.metrics["energy_per_token"], one.metrics["tokens_per_second_per_device"]
        assert energy is not None
        assert rate is not None
        assert 100.0 <= energy * rate <= limit * (1 + 1e-9)
    times = [one.metrics[one.headline] for one in points]
    assert times == sorted(times)
    if plan is not OPEN:  # whose few requests leave its boards cool
        assert times[-1] > times[1]


def test_the_own_limit_leaves_times_as_they_are_measured() -> None:
    device = replace(DEVICE, power=replace(BOARD, timed=None))
    plain = evaluate_point(scenario(STEP, DENSE_MODEL, cluster=with_device(CLUSTER, device)), Calibration())
    assert point(STEP, 700.0).metrics == plain.metrics


def test_messages_and_what_memory_bounds_take_as_long() -> None:
    cluster = with_device(CLUSTER, replace(DEVICE, power=BOARD))
    of = scenario(STEP, DENSE_MODEL, Parallelism(dp=8.0), cluster=cluster)
    device = replace(DEVICE, power=replace(BOARD, tdp=250.0))
    own, less = (
        evaluate_point(each, Calibration()) for each in (of, replace(of, cluster=with_device(CLUSTER, device)))
    )
    after = {entry.name: entry for entry in less.breakdown}
    kept = [entry for entry in own.breakdown if set(entry.by_bound) <= {"network", "memory", "latency"}]
    slower = [entry for entry in own.breakdown if set(entry.by_bound) == {"compute"}]
    assert kept
    assert slower
    assert all(sum(after[each.name].by_bound.values()) == pytest.approx(sum(each.by_bound.values())) for each in kept)
    assert all(after[each.name].time > 1.05 * each.time for each in slower)


@pytest.mark.parametrize("name", ["training", "prefill"])
def test_limits_move_the_flagship_in_both_engines_and_over_a_grid(v3: costmodel.Workload, name: str) -> None:
    limits = [700.0, 500.0, 250.0]
    headline = {"training": "step_time", "prefill": "ttft"}[name]
    grid = np.asarray(v3.evaluate(name, {"hardware.power.tdp": limits}).metrics[headline])
    each = [v3.changed({"hardware.power.limit": f"{limit} W"}, [name]) for limit in limits]
    np.testing.assert_allclose(grid, [one.evaluate(name).metrics[headline] for one in each], rtol=1e-9)
    assert grid[0] <= grid[1] < grid[2]
    assert grid[2] > 1.2 * grid[0]
    events = each[2].evaluate(name, engine="event").metrics[headline]
    assert events == pytest.approx(grid[2], rel=0.02)


def test_decoding_that_memory_bounds_keeps_its_clock_down_to_what_it_draws() -> None:
    """Mixtral's experts are read faster than they multiply."""
    of = costmodel.load("mixtral_8x7b_h100", scenarios=["decode"])
    own, less = (of.changed({"hardware.power.tdp": f"{limit} W"}).evaluate("decode").metrics for limit in (700, 450))
    assert less == own


def test_a_limit_that_binds_moves_the_step_less_than_in_proportion(v3: costmodel.Workload) -> None:
    """Watts go at least with the clock, and not all of the step does."""
    ranked = sensitivities(v3.changed({"hardware.power.tdp": "350 W"}, ["training"]), "training", "step_time")
    (found,) = (one.elasticity for one in ranked if one.path.endswith("power.tdp"))
    assert -1.0 < found < -0.1
