"""Measured steps of a site: what they say of others, of themselves, and over a grid."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import STEP, scenario

from costmodel.analytic.anchors import Anchored, apart
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.analytic.intervals import NORMAL_90
from costmodel.cost.calibration import Calibration
from costmodel.workload.scenario import Anchor, MeasuredStep, Parallelism, Scenario
from costmodel.workload.site_scatter import Apart, SiteScatter

SCATTER = SiteScatter(site=0.1, alike=0.05, own=0.04, repeat=0.003, length=1.0, kinds=1.0)
NOTHING_SHARED = SiteScatter(site=0.0, alike=0.0, own=0.1, repeat=0.003, length=1.0, kinds=1.0)
RUN = scenario(parallel=Parallelism(dp=8.0))
OTHER = scenario(replace(STEP, sequence=8192.0), parallel=Parallelism(dp=8.0, tp=2.0))


def step_time(one: Scenario) -> float:
    time = evaluate_point(one, Calibration()).metrics["step_time"]
    assert time is not None
    return time


def measured(ratio: float, *runs: Scenario, scatter: SiteScatter = SCATTER) -> Anchor:
    """Return an anchor of runs that took `ratio` times what is predicted."""
    return Anchor(tuple(MeasuredStep(run, "step_time", ratio * step_time(run)) for run in runs), scatter)


def test_one_run_moves_others_by_the_share_of_the_variance_that_they_have_in_common() -> None:
    residual, distance = math.log(1.2), apart(RUN, OTHER)
    common = 0.1**2 + 0.05**2 * math.exp(-0.5 * (math.log(4.0) ** 2 + 3 * math.log(2.0) ** 2))
    assert distance.same == 0.0
    expected = residual * common / (0.1**2 + 0.05**2 + 0.04**2 + 0.003**2)
    anchored = replace(OTHER, anchor=measured(1.2, RUN))
    assert math.log(step_time(anchored) / step_time(OTHER)) == pytest.approx(expected, rel=1e-9)


def test_a_run_that_was_measured_takes_what_was_measured_but_for_repetition() -> None:
    point = evaluate_point(replace(RUN, anchor=measured(0.9, RUN)), Calibration())
    low, high = point.intervals["step_time"] or (0.0, 0.0)
    assert point.metrics["step_time"] == pytest.approx(0.9 * step_time(RUN), rel=1e-3)
    assert high / low == pytest.approx(1.0, abs=0.02)


def test_more_measured_runs_move_further_and_narrow_more() -> None:
    runs = [replace(RUN, plan=replace(STEP, global_batch=batch)) for batch in (8.0, 16.0, 32.0)]
    points = [evaluate_point(replace(OTHER, anchor=measured(1.2, *runs[:count])), Calibration()) for count in (1, 2, 3)]
    times = [point.metrics["step_time"] or 0.0 for point in points]
    widths = [high / low for low, high in (point.intervals["step_time"] or (1.0, 1.0) for point in points)]
    assert step_time(OTHER) < times[0] < times[1] < times[2] < 1.2 * step_time(OTHER)
    assert widths[0] > widths[1] > widths[2]


def test_a_surprising_measured_step_says_less_of_others() -> None:
    def width(ratio: float) -> float:
        point = evaluate_point(replace(OTHER, anchor=measured(ratio, RUN)), Calibration())
        low, high = point.intervals["step_time"] or (1.0, 1.0)
        return math.log(high / low)

    variance = 0.1**2 + 0.05**2 + 0.04**2 + 0.003**2
    assert width(2.0) / width(1.05) == pytest.approx(
        math.sqrt((4 + math.log(2.0) ** 2 / variance) / (4 + math.log(1.05) ** 2 / variance)), rel=1e-6
    )


def test_a_run_that_shares_nothing_moves_nothing() -> None:
    anchored = replace(OTHER, anchor=measured(1.2, RUN, scatter=NOTHING_SHARED))
    assert step_time(anchored) == pytest.approx(step_time(OTHER), rel=1e-12)


def test_all_parts_of_a_step_are_moved_alike_and_sum_to_it() -> None:
    plain = evaluate_point(OTHER, Calibration())
    point = evaluate_point(replace(OTHER, anchor=measured(1.2, RUN)), Calibration())
    factor = (point.metrics["step_time"] or 0.0) / (plain.metrics["step_time"] or 1.0)
    listed = sum(entry.time for entry in point.breakdown) + (point.metrics["bubble_time"] or 0.0)
    assert listed == pytest.approx(point.metrics["step_time"])
    assert sum((point.schedule or {}).values()) == pytest.approx(point.metrics["step_time"])
    assert (point.metrics["mfu"] or 0.0) * factor == pytest.approx(plain.metrics["mfu"])
    assert point.basis() == {**dict.fromkeys(plain.basis(), 0.0), "anchored": 1.0}
    assert point.document()["anchor"]["steps"] == 1
    assert "anchor" not in plain.document()


@pytest.mark.parametrize(("metric", "power"), [("tokens_per_second", -1.0), ("mfu", -1.0), ("step_time", 1.0)])
def test_a_rate_is_an_anchor_as_a_time_is(metric: str, power: float) -> None:
    value = evaluate_point(RUN, Calibration()).metrics[metric] or 0.0
    anchor = Anchor((MeasuredStep(RUN, metric, value * 1.1**power),), SCATTER)
    assert step_time(replace(OTHER, anchor=anchor)) == pytest.approx(
        step_time(replace(OTHER, anchor=measured(1.1, RUN))), rel=1e-9
    )


def test_a_grid_is_its_points() -> None:
    batches = np.array([16.0, 64.0, 256.0])
    anchor = measured(1.2, RUN)
    grid = evaluate_grid(
        replace(RUN, plan=replace(STEP, global_batch=batches), anchor=anchor), Calibration(), batches.shape
    )
    points = [
        evaluate_point(replace(RUN, plan=replace(STEP, global_batch=batch), anchor=anchor), Calibration())
        for batch in batches.tolist()
    ]
    np.testing.assert_allclose(grid.metrics["step_time"], [point.metrics["step_time"] for point in points], rtol=1e-9)
    low, high = grid.interval("step_time") or (0.0, 0.0)
    np.testing.assert_allclose(low, [(point.intervals["step_time"] or (0, 0))[0] for point in points], rtol=1e-9)
    np.testing.assert_allclose(high, [(point.intervals["step_time"] or (0, 0))[1] for point in points], rtol=1e-9)


def test_alike_runs_share_more_the_nearer_they_are() -> None:
    shared = [float(SCATTER.covariance(Apart(size**2, 0.0, 0.0))) for size in (0.0, 0.5, 1.0, 4.0)]
    assert shared == sorted(shared, reverse=True)
    assert float(SCATTER.covariance(Apart(0.0, 1.0, 0.0))) < shared[0]
    assert shared[-1] == pytest.approx(0.1**2, rel=0.01)


def test_the_nearer_end_of_both_intervals_counts_and_holds_the_value() -> None:
    site = Anchored(factor=1.0, deviation=math.log(1.2) / NORMAL_90, steps=1, ratios=(1.0,))
    assert site.interval(6.0, None) == pytest.approx((5.0, 7.2))
    assert site.interval(6.0, (4.0, 9.0)) == pytest.approx((5.0, 7.2))
    assert site.interval(6.0, (5.5, 6.5)) == pytest.approx((5.5, 6.5))
    assert site.interval(6.0, (6.1, 6.5)) == pytest.approx((6.0, 6.5))  # whose centre the kernels' medians move
