"""Gradients of micro-batches: added up by the product, or by kernels of their own; reduced in parts or as a whole."""

from __future__ import annotations

import pytest
from builders import DENSE_MODEL, FP8, MOE_MODEL, STEP, scenario

from costmodel.analytic.grid import evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.framework_parts import TrainingProgram
from costmodel.workload.scenario import Parallelism, Scenario

BATCHES = 8  # micro-batches of a step
PRODUCTS = 8 * (1024 * (16 + 2 * 4) * 64 + 1024 * 1024 + 3 * 1024 * 2816) + 32_000 * 1024  # weights of layers and head


def step(how: str = "product", reduction: str = "scatter", batches: float = BATCHES, zero: int = 1) -> Scenario:
    plan = replace(STEP, zero=zero, global_batch=8.0 * batches, sequence=1024.0)
    of = scenario(plan, DENSE_MODEL, Parallelism(dp=8.0))
    return replace(of, framework=replace(of.framework, training=TrainingProgram(accumulation=how, reduction=reduction)))


def point(of: Scenario) -> Point:
    return evaluate_point(of, Calibration())


def summed(of: Scenario) -> float:
    """Return the bytes that kernels of sums move in a step."""
    return sum(entry.traffic or 0.0 for entry in point(of).breakdown if entry.name.endswith("gradient sum"))


def sent(of: Scenario, kind: str) -> float:
    return sum(entry.time + entry.hidden for entry in point(of).breakdown if entry.name.endswith(kind))


def test_products_that_add_up_need_no_kernel_for_it() -> None:
    assert summed(step()) == 0.0


def test_a_buffer_takes_every_micro_batch_and_autograd_all_but_the_first() -> None:
    """BF16 results are read, FP32 gradients read and written: 10 B a weight and micro-batch."""
    assert summed(step("buffer")) == pytest.approx(10 * PRODUCTS * BATCHES)
    assert summed(step("autograd")) == pytest.approx(10 * PRODUCTS * (BATCHES - 1))
    assert summed(step("autograd", batches=1)) == 0.0


def test_kernels_of_their_own_are_never_faster_than_none() -> None:
    times = [point(step(how)).metrics["step_time"] or 0.0 for how in ("product", "autograd", "buffer")]
    assert 0.0 < times[0] < times[1] < times[2]


def test_narrow_products_and_experts_add_up_likewise() -> None:
    of = scenario(STEP, MOE_MODEL, Parallelism(dp=16.0, ep=16.0), FP8)
    apart = replace(of, framework=replace(of.framework, training=TrainingProgram(accumulation="buffer")))
    assert summed(apart) > 0
    assert (point(apart).metrics["step_time"] or 0.0) > (point(of).metrics["step_time"] or 0.0)


@pytest.mark.parametrize("zero", [1, 2])
def test_an_all_reduce_sends_what_a_reduce_scatter_and_a_gather_would(zero: int) -> None:
    parts, whole = (step(reduction=how, zero=zero) for how in ("scatter", "all_reduce"))
    assert sent(parts, "gradient all-reduce") == 0.0
    assert sent(whole, "gradient reduce-scatter") == 0.0
    assert sent(whole, "gradient all-reduce") == pytest.approx(2 * sent(parts, "gradient reduce-scatter"), rel=0.02)


def test_stage_three_has_no_use_for_whole_gradients() -> None:
    assert point(step(reduction="all_reduce", zero=3)).metrics == point(step(zero=3)).metrics
