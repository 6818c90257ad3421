"""A sweep: masks and reasons where points cannot run, blocks of one order, chunks, missing values."""

from __future__ import annotations

import re

import numpy as np
import pytest
from builders import (
    CLUSTER,
    DECODE,
    DENSE_MODEL,
    DEVICE,
    FRAMEWORK,
    MOE_MODEL,
    NODE,
    ONE_NODE,
    STEP,
    scenario,
    spreads,
    with_device,
    with_level,
)

from costmodel.analytic import blocks as blocks_module
from costmodel.analytic.blocks import blocks, single, take
from costmodel.analytic.grid import evaluate_grid, evaluate_point, evaluate_single
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.result import REASONS, Result
from costmodel.workload.plans import Decode, Generate
from costmodel.workload.scenario import Parallelism, Plan, Scenario

CALIBRATION = spreads(0.9, 1.5, 2.5)


def axis(values: list[float], place: int = 0, dimensions: int = 1) -> Array:
    return np.array(values).reshape(tuple(-1 if dimension == place else 1 for dimension in range(dimensions)))


def reasons(result: Result) -> list[str]:
    return [REASONS[code] for code in np.asarray(result.reason).reshape(-1)]


def steps(result: Result) -> Array:
    return np.asarray(result.metrics["step_time"])


def test_points_that_cannot_run_are_missing_masked_and_explained() -> None:
    degrees = axis([1.0, 2.0, 3.0, 8.0, 16.0])
    result = evaluate_grid(scenario(STEP, DENSE_MODEL, Parallelism(tp=degrees), cluster=ONE_NODE), CALIBRATION, (5,))
    assert list(np.asarray(result.fits)) == [True, True, False, True, False]
    assert reasons(result) == [REASONS[0], REASONS[0], REASONS[1], REASONS[0], REASONS[1]]
    assert list(np.isnan(steps(result))) == [False, False, True, False, True]
    low, high = result.intervals["step_time"] or (0.0, 0.0)
    assert list(np.isnan(np.asarray(low))) == list(np.isnan(np.asarray(high))) == [False, False, True, False, True]


def test_points_that_do_not_fit_in_memory_say_so() -> None:
    small = with_device(CLUSTER, with_level(DEVICE, "hbm", 2e12, 3e9))
    batches = axis([1.0, 2.0, 4.0, 8.0, 16.0])
    result = evaluate_grid(scenario(replace(STEP, micro_batch=batches), DENSE_MODEL, cluster=small), CALIBRATION, (5,))
    assert set(reasons(result)) == {REASONS[2]}
    large = with_device(CLUSTER, with_level(DEVICE, "hbm", 2e12, axis([2e9, 80e9])))
    varied = evaluate_grid(scenario(STEP, DENSE_MODEL, cluster=large), CALIBRATION, (2,))
    assert reasons(varied) == [REASONS[2], REASONS[0]]
    assert np.isnan(steps(varied)[0])


def test_devices_without_a_way_out_of_their_node_are_unreachable() -> None:
    lone = replace(CLUSTER, node=replace(NODE, nic=None), network=None)
    grid = scenario(STEP, DENSE_MODEL, Parallelism(dp=axis([8.0, 16.0])), cluster=lone)
    result = evaluate_grid(grid, CALIBRATION, (2,))
    assert reasons(result) == [REASONS[0], REASONS[3]]
    assert np.isnan(steps(result)[1])


@pytest.mark.parametrize(
    ("dp", "capacity", "nic", "reason"), [(8.0, 80e9, True, 0), (8.0, 1e9, True, 2), (16.0, 80e9, False, 3)]
)
def test_a_single_point_has_the_reason_of_a_grid(dp: float, capacity: float, nic: bool, reason: int) -> None:
    node = NODE if nic else replace(NODE, nic=None)
    cluster = with_device(replace(CLUSTER, node=node), with_level(DEVICE, "hbm", 2e12, capacity))
    chosen = scenario(STEP, DENSE_MODEL, Parallelism(dp=dp), cluster=cluster)
    alone = evaluate_single(chosen, CALIBRATION)
    together = evaluate_grid(replace(chosen, parallel=Parallelism(dp=axis([dp]))), CALIBRATION, (1,))
    assert alone.reason == reason == np.asarray(together.reason)[0]
    assert alone.fits == (reason == 0) == bool(np.asarray(together.fits)[0])
    assert (alone.metrics["step_time"] is None) == (reason != 0)


def test_a_metric_that_no_price_gives_is_open_over_the_whole_grid() -> None:
    free = with_device(CLUSTER, replace(DEVICE, price=replace(DEVICE.price, rental=None)))
    result = evaluate_grid(
        scenario(DECODE, DENSE_MODEL, Parallelism(tp=axis([1.0, 2.0])), cluster=free), CALIBRATION, (2,)
    )
    assert result.metrics["cost_per_million_tokens"] is None
    assert result.intervals["cost_per_million_tokens"] is None


def test_axes_are_dimensions_in_key_order() -> None:
    plan = replace(STEP, sequence=axis([512.0, 1024.0, 2048.0], 0, 2))
    kernels = replace(FRAMEWORK, launch=axis([0.0, 1e-6], 1, 2))
    result = evaluate_grid(scenario(plan, DENSE_MODEL, framework=kernels), CALIBRATION, (3, 2))
    assert steps(result).shape == (3, 2)
    assert np.all(np.diff(steps(result), axis=0) > 0)
    assert np.all(np.diff(steps(result), axis=1) > 0)


def test_an_index_needs_a_number_for_each_axis() -> None:
    result = evaluate_grid(scenario(STEP, DENSE_MODEL, Parallelism(tp=axis([1.0, 2.0]))), CALIBRATION, (2,))
    with pytest.raises(IndexError, match="0 indices for 1 axes"):
        result.point()


def test_an_order_that_no_schedule_has_is_left_out() -> None:
    """An odd pipeline, too few micro-batches and half a micro-batch beside sound points."""
    plan = replace(STEP, schedule="dualpipe", global_batch=axis([16.0, 17.0, 6.0], 1, 2))
    grid = scenario(plan, DENSE_MODEL, Parallelism(pp=axis([2.0, 3.0, 4.0], 0, 2), dp=1.0))
    result = evaluate_grid(grid, CALIBRATION, (3, 3))
    assert np.asarray(result.fits).tolist() == [[True, False, True], [False] * 3, [True, False, False]]
    half = replace(grid, plan=replace(plan, micro_batch=axis([1.0, 3.0], 1, 2), global_batch=16.0))
    assert np.asarray(evaluate_grid(half, CALIBRATION, (3, 2)).fits).tolist() == [
        [True, False],
        [False] * 2,
        [True, False],
    ]


def test_virtual_stages_vary_where_the_schedule_lets_them() -> None:
    """Interleaving takes two or more, as many as there are layers for, and whole groups of micro-batches."""
    plan = replace(STEP, schedule="interleaved", global_batch=axis([8.0, 10.0], 2, 3))
    degrees = Parallelism(pp=axis([1.0, 2.0, 4.0], 0, 3), virtual=axis([1.0, 2.0, 4.0], 1, 3))
    result = evaluate_grid(scenario(plan, DENSE_MODEL, degrees), CALIBRATION, (3, 3, 2))
    assert np.asarray(result.fits).tolist() == [
        [[False, False], [True, True], [True, True]],
        [[False, False], [True, True], [True, True]],
        [[False, False], [True, False], [False, False]],
    ]
    assert {reasons(result)[index] for index in np.flatnonzero(~np.asarray(result.fits).reshape(-1))} == {REASONS[1]}
    assert np.array_equal(np.isnan(steps(result)), ~np.asarray(result.fits))


# ---- blocks ---------------------------------------------------------------------------------------------------------


def covered(grid: Scenario, shape: tuple[int, ...]) -> Array:
    count = np.zeros(shape)
    for block in blocks(grid, shape):
        count[np.ix_(*block.index)] += 1
    return count


def test_blocks_cover_every_point_with_an_order_once() -> None:
    plan = replace(STEP, micro_batch=axis([1.0, 2.0, 3.0], 0, 3), global_batch=axis([48.0, 50.0], 2, 3))
    grid = scenario(plan, DENSE_MODEL, Parallelism(pp=axis([1.0, 2.0], 1, 3)))
    expected = [[[1, 1], [1, 1]], [[1, 1], [1, 1]], [[1, 0], [1, 0]]]  # 50 are not whole micro-batches of three
    assert covered(grid, (3, 2, 2)).tolist() == expected


def test_the_order_is_constant_in_a_block() -> None:
    plan = replace(STEP, micro_batch=axis([1.0, 2.0, 2.0], 0, 2), global_batch=axis([32.0, 64.0], 1, 2))
    for block in blocks(scenario(plan, DENSE_MODEL), (3, 2)):
        assert not isinstance(block.scenario.plan, type(DECODE))
        count = np.unique(block.scenario.plan.global_batch / block.scenario.plan.micro_batch)  # type: ignore[union-attr]
        assert len(count) == 1


def test_long_axes_are_cut_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(STEP, sequence=axis([256.0 * (1 + step) for step in range(23)]))
    grid = scenario(plan, DENSE_MODEL)
    whole = steps(evaluate_grid(grid, CALIBRATION, (23,)))
    monkeypatch.setattr(blocks_module, "POINTS", 5)
    assert len(list(blocks(grid, (23,)))) == 5
    np.testing.assert_array_equal(steps(evaluate_grid(grid, CALIBRATION, (23,))), whole)


def test_taking_and_singling_out_follow_the_axes_that_an_array_varies_on() -> None:
    tree = scenario(
        replace(STEP, sequence=axis([1.0, 2.0, 3.0], 0, 2)), DENSE_MODEL, Parallelism(dp=axis([4.0, 5.0], 1, 2))
    )
    part = take(tree, (np.array([0, 2]), np.array([1])), (3, 2))
    assert np.asarray(part.plan.sequence).tolist() == [[1.0], [3.0]]  # type: ignore[union-attr]
    assert np.asarray(part.parallel.dp).tolist() == [[5.0]]
    point = single(tree, (1, 0))
    assert (point.plan.sequence, point.parallel.dp) == (2.0, 4.0)  # type: ignore[union-attr]
    assert point.architecture is tree.architecture


def test_a_scenario_that_does_not_fit_still_prints_its_ledger() -> None:
    small = with_device(CLUSTER, with_level(DEVICE, "hbm", 2e12, 3e9))
    document = evaluate_point(scenario(STEP, MOE_MODEL, cluster=small), Calibration()).document()
    assert document["memory"]["fits"] is False
    assert document["memory"]["weights"] > 0
    assert document["bound"] == "capacity"
    assert set(document["metrics"].values()) == {None}
    needed = sum(value for name, value in document["memory"].items() if name not in ("capacity", "fits"))
    over = needed - document["memory"]["capacity"]
    assert document["reason"].startswith("does not fit in memory: the device needs ")
    assert f"needs {needed / 2**30:,.1f} GiB but has " in document["reason"]
    assert f"({over / 2**30:,.1f} GiB short)" in document["reason"]


def test_what_takes_most_of_the_memory_is_named_with_what_shrinks_it() -> None:
    def reason(plan: Plan, capacity: float) -> str:
        small = with_device(CLUSTER, with_level(DEVICE, "hbm", 2e12, capacity))
        told = evaluate_point(scenario(plan, DENSE_MODEL, cluster=small), Calibration()).reason
        assert told is not None
        return told

    def named(part: str, relief: str, plan: Plan, capacity: float) -> bool:
        return re.search(rf"Largest part: {part}, [\d.]+ GiB\. {relief}", reason(plan, capacity)) is not None

    assert named("KV cache", "Lower `batch_per_device`", Decode(4096.0, 4096.0, 64.0), 8e10)
    assert named("weights", "Raise `parallel.tp` or `parallel.pp`", Decode(1.0, 64.0, 64.0), 5e8)
    step = replace(STEP, micro_batch=1.0, sequence=64.0, zero=0)
    assert named("optimizer", r"Shard it \(`optimizer.zero: 1`\)", step, 1e9)
    prompt = reason(Generate(1.0, 65536.0, 64.0), 1.5e9)
    assert re.search(r"activations, [\d.]+ GiB\. Compute prompts in chunks \(`chunk_tokens`, now 65,536\)", prompt)
    assert "ower" not in prompt, "one prompt has no smaller batch"
