"""Measured steps of a site: what they say of others, of themselves, and over a grid."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from builders import DECODE, GENERATE, SERVING, STEP, scenario

import costmodel
from costmodel.analytic.anchors import Predicted, anchored, separation
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.analytic.intervals import NORMAL_90
from costmodel.analytic.training_evaluation import TrainingEvaluation
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.spread import Spread
from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.schema.anchor import ScatterFile
from costmodel.workload.requests import Replicas
from costmodel.workload.scenario import Anchor, MeasuredStep, Parallelism, Plan, Scenario
from costmodel.workload.site_scatter import Separation, SiteScatter

SCATTER = SiteScatter(site=0.5, alike=0.3, repeat=0.003, length=1.0, kinds=1.0)
NOTHING_SHARED = SiteScatter(site=0.0, alike=0.0, repeat=0.003, length=1.0, kinds=1.0)
DEVIATION = 0.1  # of the log of any run's time


def within(half: float) -> FamilyFit:
    """Return the roofline's fit with an interval."""
    return FamilyFit(spread=Spread((1.0,), (math.exp(-half),), (1.0,), (math.exp(half),)))


def scattered(deviation: float = DEVIATION) -> Calibration:
    """Return kernels of the roofline that are all but certain, of which whole runs scatter by a deviation."""
    return Calibration(families={"composition_training": within(NORMAL_90 * deviation), "gemm/bf16": within(1e-9)})


RUNS = scattered()
RUN = scenario(parallel=Parallelism(dp=8.0))
OTHER = scenario(replace(STEP, sequence=8192.0), parallel=Parallelism(dp=8.0, tp=2.0))


def step_time(one: Scenario) -> float:
    time = evaluate_point(one, RUNS).metrics["step_time"]
    assert time is not None
    return time


def measured(ratio: float, *runs: Scenario, scatter: SiteScatter = SCATTER) -> Anchor:
    """Return an anchor of runs that took `ratio` times what is predicted."""
    return Anchor(tuple(MeasuredStep(run, "step_time", ratio * step_time(run)) for run in runs), scatter)


def half_width(one: Scenario, calibration: Calibration = RUNS) -> float:
    low, high = evaluate_point(one, calibration).intervals["step_time"] or (0.0, 0.0)
    return math.log(high / low) / 2.0


def test_one_run_moves_and_narrows_others_by_the_share_of_the_variance_that_they_have_in_common() -> None:
    residual, distance = math.log(1.2), separation(RUN, OTHER)
    common = 0.5 + 0.3 * math.exp(-0.5 * (math.log(4.0) ** 2 + 3 * math.log(2.0) ** 2))
    assert distance.same == 0.0
    known = DEVIATION**2 + 0.003**2
    anchored = replace(OTHER, anchor=measured(1.2, RUN))
    moved = math.log(step_time(anchored) / step_time(OTHER))
    assert moved == pytest.approx(residual * common * DEVIATION**2 / known, rel=1e-9)
    left = math.sqrt(1.0 - (common * DEVIATION) ** 2 / known)
    assert half_width(anchored) == pytest.approx(left * half_width(OTHER), rel=1e-9)


def test_a_run_that_was_measured_takes_what_was_measured_but_for_repetition() -> None:
    anchored = replace(RUN, anchor=measured(0.9, RUN))
    assert step_time(anchored) == pytest.approx(0.9 * step_time(RUN), rel=1e-3)
    assert half_width(anchored) == pytest.approx(NORMAL_90 * 0.003, rel=1e-3)


def test_more_measured_runs_move_further_and_narrow_more() -> None:
    runs = [replace(RUN, plan=replace(STEP, global_batch=batch)) for batch in (8.0, 16.0, 32.0)]
    points = [evaluate_point(replace(OTHER, anchor=measured(1.2, *runs[:count])), RUNS) for count in (1, 2, 3)]
    times = [point.metrics["step_time"] or 0.0 for point in points]
    widths = [high / low for low, high in (point.intervals["step_time"] or (1.0, 1.0) for point in points)]
    assert step_time(OTHER) < times[0] < times[1] < times[2] < 1.2 * step_time(OTHER)
    assert widths[0] > widths[1] > widths[2]


def test_a_run_of_larger_error_is_moved_further_and_says_less_of_others() -> None:
    other = replace(OTHER, anchor=measured(1.2, RUN))
    moved = {each: math.log(evaluate_point(other, scattered(each)).metrics["step_time"] or 0.0) for each in (0.05, 0.5)}
    assert moved[0.05] == pytest.approx(moved[0.5], rel=1e-2)  # of equal errors: by what runs have in common
    step = TrainingEvaluation(RUN, STEP, RUNS)
    few, many = (
        anchored(OTHER, measured(1.2, RUN), DEVIATION, lambda _: Predicted(step.metrics(None), own))  # noqa: B023
        for own in (0.05, 0.5)
    )
    assert math.log(float(few.factor)) == pytest.approx(10.0 * math.log(float(many.factor)), rel=0.01)
    wide = anchored(OTHER, measured(1.2, RUN), 0.5, lambda _: Predicted(step.metrics(None), 0.05))
    assert math.log(float(wide.factor)) == pytest.approx(5.0 * math.log(float(few.factor)), rel=1e-9)


def test_a_run_that_shares_nothing_moves_nothing() -> None:
    anchored = replace(OTHER, anchor=measured(1.2, RUN, scatter=NOTHING_SHARED))
    assert step_time(anchored) == pytest.approx(step_time(OTHER), rel=1e-12)
    assert half_width(anchored) == pytest.approx(half_width(OTHER), rel=1e-12)


def test_the_deviation_of_a_run_is_near_that_of_its_interval() -> None:
    known = scattered()
    sure = {name: within(0.3 if name == "gemm/bf16" else 1e-9) for name in known.families if "composition" not in name}
    calibration = replace(known, families={**known.families, **sure})
    own = float(TrainingEvaluation(RUN, STEP, calibration).deviation(calibration))
    bare = float(TrainingEvaluation(RUN, STEP, known).deviation(known))
    assert bare == pytest.approx(DEVIATION, rel=1e-6)
    assert bare < own < math.hypot(DEVIATION, 0.3 / NORMAL_90)
    assert own == pytest.approx(half_width(RUN, calibration) / NORMAL_90, rel=0.2)


def test_a_certain_prediction_is_not_moved() -> None:
    certain = evaluate_point(replace(OTHER, anchor=measured(1.2, RUN)), Calibration())
    assert certain.metrics["step_time"] == pytest.approx(step_time(OTHER), rel=1e-12)


def test_all_parts_of_a_step_are_moved_alike_and_sum_to_it() -> None:
    plain = evaluate_point(OTHER, RUNS)
    point = evaluate_point(replace(OTHER, anchor=measured(1.2, RUN)), RUNS)
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
    value = evaluate_point(RUN, RUNS).metrics[metric] or 0.0
    anchor = Anchor((MeasuredStep(RUN, metric, value * 1.1**power),), SCATTER)
    assert step_time(replace(OTHER, anchor=anchor)) == pytest.approx(
        step_time(replace(OTHER, anchor=measured(1.1, RUN))), rel=1e-9
    )


def test_a_grid_is_its_points() -> None:
    batches = np.array([16.0, 64.0, 256.0])
    anchor = measured(1.2, RUN)
    grid = evaluate_grid(replace(RUN, plan=replace(STEP, global_batch=batches), anchor=anchor), RUNS, batches.shape)
    points = [
        evaluate_point(replace(RUN, plan=replace(STEP, global_batch=batch), anchor=anchor), RUNS)
        for batch in batches.tolist()
    ]
    np.testing.assert_allclose(grid.metrics["step_time"], [point.metrics["step_time"] for point in points], rtol=1e-9)
    low, high = grid.interval("step_time") or (0.0, 0.0)
    np.testing.assert_allclose(low, [(point.intervals["step_time"] or (0, 0))[0] for point in points], rtol=1e-9)
    np.testing.assert_allclose(high, [(point.intervals["step_time"] or (0, 0))[1] for point in points], rtol=1e-9)


def test_alike_runs_share_more_the_nearer_they_are() -> None:
    shared = [float(SCATTER.correlation(Separation(size**2, 0.0, 0.0))) for size in (0.0, 0.5, 1.0, 4.0)]
    assert shared == sorted(shared, reverse=True)
    assert float(SCATTER.correlation(Separation(0.0, 1.0, 0.0))) < shared[0]
    assert float(SCATTER.correlation(Separation(0.0, 0.0, 1.0))) == pytest.approx(1.0)
    assert shared[-1] == pytest.approx(0.5, rel=0.01)


def test_shares_of_a_scatter_are_no_more_than_a_whole() -> None:
    stated = {"site": 0.6, "alike": 0.4, "repeat": 0.01, "length": 1.0, "kinds": 1.0, "rows": 1, "publications": 1}
    assert ScatterFile.model_validate(stated).site == 0.6
    with pytest.raises(ValueError, match="more than a whole"):
        ScatterFile.model_validate(stated | {"alike": 0.5})


@pytest.mark.parametrize(
    ("plan", "loads"),
    [
        (STEP, ("global_batch",)), (GENERATE, ("batch",)), (DECODE, ()), (SERVING, ()),
        (replace(SERVING, concurrency=None, rate=4.0), ("rate",)),
        (replace(SERVING, replicas=Replicas(count=3.0)), ()),
    ],
)  # fmt: skip
def test_twice_the_devices_with_twice_the_load_do_the_same_work_each(plan: Plan, loads: tuple[str, ...]) -> None:
    """Away from the run is then how many devices there are, and nothing else."""
    twice = replace(plan, **{name: 2.0 * getattr(plan, name) for name in loads})
    one, other = (scenario(each, parallel=Parallelism(dp=dp)) for each, dp in ((plan, 2.0), (twice, 4.0)))
    assert float(separation(one, other).sizes) == pytest.approx(math.log(2.0) ** 2)


def test_a_measured_step_is_used_on_its_own_cluster_and_said_to_be_useless_on_another() -> None:
    own = "{metric: step_time, value: 30 s%s}"
    used, elsewhere = (
        costmodel.load("deepseek_v3", set={"scenarios.training.anchor": own % more}).scenario("training")
        for more in ("", ", set: {cluster: clusters/h800-2048-mrft}")
    )
    assert used.anchor is not None
    assert elsewhere.anchor is None
    said = [any(note.startswith("anchor: not used") for note in one.notes) for one in (used, elsewhere)]
    assert said == [False, True]


SITE = """
schema: costmodel/anchor@1
name: mine
steps:
  - name: one
    scenario: {workload: deepseek_v3, scenario: training}
    metric: step_time
    value: 30 s
"""


def test_a_file_of_measured_steps_is_for_any_cluster_of_its_framework_and_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(SITE, encoding="utf-8")

    def anchored_on(cluster: str) -> Scenario:
        anchor = {"scenarios.training.anchor": "./mine.yaml", "scenarios.training.cluster": cluster}
        return costmodel.load("deepseek_v3", set=anchor, scenarios=["training"]).scenario("training")

    assert anchored_on("clusters/h800-2048-mrft").anchor is not None
    with pytest.raises(InputError, match=r"was measured with .* on h800-sxm, this scenario has .* on h100-sxm"):
        anchored_on("clusters/h100-superpod")
