"""A grid is its points: every metric, interval and mask, whatever the axes change."""

from __future__ import annotations

import numpy as np
import pytest
from builders import (
    CLUSTER,
    DECODE,
    DENSE_MODEL,
    GENERATE,
    GQA,
    MOE_MODEL,
    PREFILL,
    SERVING,
    STEP,
    pools,
    scenario,
    spreads,
    with_device,
    with_level,
)
from hypothesis import given
from hypothesis import strategies as st
from strategies import few, scenarios

import costmodel
from costmodel.analytic.blocks import single
from costmodel.analytic.grid import evaluate_grid, evaluate_single
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.spread import Spread
from costmodel.errors import InputError
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.result import BAD_LAYOUT, Result
from costmodel.workload.architecture import HeadGroup, Pattern
from costmodel.workload.engine import Scheduler
from costmodel.workload.plans import Speculative
from costmodel.workload.scenario import Communication, Parallelism, Scenario

# A spread that depends on time, so that an interval has to be taken kernel by kernel.
FIT = FamilyFit(spread=Spread((1e-6, 1e-4, 1e-2), (0.5, 0.8, 0.9), (2.0, 1.5, 1.1), (6.0, 3.0, 1.3)))
CALIBRATION = Calibration("test", dict.fromkeys(spreads(1, 1, 1).families, FIT))


def equal(grid: Scenario, shape: tuple[int, ...]) -> Result:
    """Assert that a grid equals its single points to 1e-9; return it."""
    together = evaluate_grid(grid, CALIBRATION, shape)
    spans = together.intervals
    for index in np.ndindex(*shape):
        code = int(np.asarray(together.reason)[index])
        assert bool(np.asarray(together.fits)[index]) == (code == 0)
        try:
            alone = evaluate_single(single(grid, index), CALIBRATION)
        except InputError:
            assert code == BAD_LAYOUT
            assert all(np.isnan(np.asarray(value)[index]) for value in together.metrics.values() if value is not None)
            continue
        assert alone.reason == code, index
        limits = alone.intervals
        for name, value in together.metrics.items():
            single_value = alone.metrics[name]
            if value is None or single_value is None:
                assert value is None or np.isnan(np.asarray(value)[index])
                continue
            assert np.asarray(value)[index] == pytest.approx(single_value, rel=1e-9, abs=1e-15), (name, index)
            pair, wanted = spans[name], limits[name]
            assert pair is not None
            assert wanted is not None
            for have, want in zip(pair, wanted, strict=True):
                assert np.asarray(have)[index] == pytest.approx(want, rel=1e-9, abs=1e-15), (name, index)
    return together


def axis(values: list[float], place: int, dimensions: int) -> Array:
    return np.array(values).reshape(tuple(-1 if dimension == place else 1 for dimension in range(dimensions)))


def test_axes_that_change_the_order_and_do_not_divide() -> None:
    plan = replace(STEP, micro_batch=axis([1.0, 2.0, 3.0], 1, 3), global_batch=axis([24.0, 32.0], 2, 3))
    result = equal(scenario(plan, DENSE_MODEL, Parallelism(pp=axis([1.0, 2.0, 4.0], 0, 3), dp=2.0)), (3, 3, 2))
    assert 0 < np.asarray(result.fits).sum() < 18


def test_dualpipe_with_pipelines_batches_and_replicas_that_may_not_exist() -> None:
    plan = replace(STEP, schedule="dualpipe", global_batch=axis([16.0, 32.0, 36.0], 1, 3))
    layout = Parallelism(pp=axis([2.0, 3.0, 4.0], 0, 3), dp=axis([1.0, 2.0, 4.0], 2, 3))
    result = equal(scenario(plan, MOE_MODEL, layout, communication=Communication(10.0)), (3, 3, 3))
    assert 0 < np.asarray(result.fits).sum() < 27


def test_virtual_stages_and_pipelines_that_may_not_exist() -> None:
    for schedule, fitting in (("interleaved", 5), ("zb-v", 4)):
        plan = replace(STEP, schedule=schedule, global_batch=axis([8.0, 12.0], 2, 3))
        layout = Parallelism(pp=axis([2.0, 3.0], 0, 3), virtual=axis([1.0, 2.0, 4.0], 1, 3))
        result = equal(scenario(plan, DENSE_MODEL, layout), (2, 3, 2))
        assert np.asarray(result.fits).sum() == fitting


def test_degrees_of_every_kind_on_one_linked_axis() -> None:
    layout = Parallelism(
        tp=np.array([1.0, 2.0, 4.0, 8.0, 3.0, 1.0]),
        pp=np.array([4.0, 1.0, 2.0, 2.0, 1.0, 1.0]),
        dp=np.array([2.0, 8.0, 4.0, 2.0, 8.0, 16.0]),
        ep=np.array([2.0, 8.0, 16.0, 1.0, 8.0, 16.0]),
        cp=np.array([1.0, 2.0, 1.0, 4.0, 1.0, 1.0]),
    )
    for plan in (STEP, PREFILL, DECODE):
        result = equal(scenario(plan, MOE_MODEL, layout), (6,))
        assert list(np.asarray(result.fits)) == [True, True, True, True, False, True]


def test_context_parallel_degrees_of_every_form() -> None:
    for form in ("gather", "ring", "ulysses"):
        layout = Parallelism(cp=axis([1.0, 2.0, 8.0, 32.0], 0, 2), dp=axis([1.0, 2.0], 1, 2), context=form)
        for plan in (replace(STEP, sequence=4096.0, global_batch=8.0), PREFILL, DECODE):
            result = equal(scenario(plan, DENSE_MODEL, layout), (4, 2))
            assert np.asarray(result.fits).sum() == (6 if form == "ulysses" and plan is not DECODE else 8)


def test_memory_that_does_not_suffice() -> None:
    small = with_device(CLUSTER, with_level(CLUSTER.device, "hbm", 2e12, axis([1e9, 6e9, 2e10, 1e12], 0, 2)))
    for plan in (
        replace(STEP, sequence=axis([512.0, 4096.0], 1, 2)),
        replace(DECODE, batch_per_device=axis([2.0, 512.0], 1, 2)),
    ):
        result = equal(scenario(plan, DENSE_MODEL, cluster=small), (4, 2))
        assert 0 < np.asarray(result.fits).sum() < 8


def test_shapes_of_the_model() -> None:
    wide = replace(DENSE_MODEL, hidden=axis([512.0, 1024.0, 1536.0], 0, 2), vocabulary=axis([1000.0, 32_000.0], 1, 2))
    for plan in (STEP, PREFILL, DECODE):
        assert np.all(equal(scenario(plan, wide, Parallelism(tp=2.0)), (3, 2)).fits)


def test_every_size_of_a_static_batch() -> None:
    plan = replace(
        GENERATE,
        batch=axis([24.0, 64.0, 66.0], 0, 4),
        input_tokens=axis([100.0, 1024.0], 1, 4),
        output_tokens=axis([1.0, 2.0, 300.0], 2, 4),
        pipeline_batches=axis([1.0, 2.0], 3, 4),
        micro_batches=2,
    )
    result = equal(scenario(plan, DENSE_MODEL, Parallelism(dp=4.0, pp=2.0)), (3, 2, 3, 2))
    assert 0 < np.asarray(result.fits).sum() < 36


def test_every_size_of_continuous_batching() -> None:
    for chunk in (None, axis([64.0, 2000.0], 3, 4)):
        plan = replace(
            SERVING,
            input_tokens=axis([100.0, 1024.0], 0, 4),
            output_tokens=axis([2.0, 300.0], 1, 4),
            concurrency=axis([1.0, 64.0, 5000.0], 2, 4),
            prefix_hit_rate=axis([0.0, 1.0], 3, 4),
            scheduler=Scheduler(token_budget=chunk),
        )
        small = with_device(CLUSTER, with_level(CLUSTER.device, "hbm", 2e12, 4e9))
        assert np.all(equal(scenario(plan, DENSE_MODEL, Parallelism(tp=2.0), cluster=small), (2, 2, 3, 2)).fits)


def test_every_size_of_drafting_and_of_pipelines_on_linked_axes() -> None:
    drafts = Speculative(np.array([1.0, 3.0, 2.0, 1.0]), np.array([0.0, 0.8, 1.0, 0.5]))
    layout = Parallelism(pp=np.array([1.0, 2.0, 3.0, 16.0]))
    plans = (
        replace(DECODE, speculative=drafts, batch_per_device=np.array([2.0, 2.0, 3.0, 4.0])),
        replace(GENERATE, speculative=drafts, batch=48.0),
        replace(SERVING, speculative=drafts, concurrency=48.0),
    )
    for plan in plans:
        result = equal(scenario(plan, MOE_MODEL, layout), (4,))
        assert not np.asarray(result.fits)[3]  # sixteen stages for eight layers


def test_every_size_of_two_pools() -> None:
    two = pools(
        Parallelism(dp=axis([4.0, 8.0], 0, 3), ep=4.0),
        Parallelism(tp=2.0, dp=8.0, ep=axis([2.0, 16.0, 3.0], 1, 3)),
        hits=axis([0.0, 0.9], 2, 3),
    )
    prefill = replace(two.prefill.plan, tokens_per_device=axis([2048.0, 1024.0], 0, 3))
    decode = replace(two.decode.plan, batch_per_device=axis([2.0, 64.0], 0, 3))
    two = replace(two, prefill=replace(two.prefill, plan=prefill), decode=replace(two.decode, plan=decode))
    result = equal(scenario(two, MOE_MODEL), (2, 3, 2))
    assert 0 < np.asarray(result.fits).sum() < 12


def test_windows_that_change_places_along_an_axis() -> None:
    windows = (axis([300.0, 1200.0], 0, 1), 1100.0)
    groups = tuple(HeadGroup(0.5, Pattern("window", window)) for window in windows)
    layer = replace(DENSE_MODEL.layers[0], mixer=replace(GQA, head_groups=groups))
    assert np.all(equal(scenario(GENERATE, replace(DENSE_MODEL, layers=(layer,))), (2,)).fits)


@few
@given(of=scenarios(), random=st.randoms(use_true_random=False))
def test_random_scenarios_on_a_product_of_random_axes(of: Scenario, random: object) -> None:
    import random as module

    assert isinstance(random, module.Random)
    factors = [[random.uniform(0.3, 3.0) for _ in range(count)] for count in (2, 3)]
    device, nic = of.cluster.device, of.cluster.node.nic
    assert nic is not None
    level = device.device_memory
    assert level.bandwidth is not None
    faster = with_level(device, "hbm", level.bandwidth * axis(factors[0], 0, 3))
    cluster = with_device(of.cluster, replace(faster, processors=device.processors + axis([0.0, 17.0], 2, 3)))
    cluster = replace(
        cluster, node=replace(cluster.node, nic=replace(nic, bandwidth=nic.bandwidth * axis(factors[1], 1, 3)))
    )
    assert np.all(equal(replace(of, cluster=cluster), (2, 3, 2)).fits)


@few
@given(of=scenarios(), seed=st.integers(0, 1000))
def test_random_scenarios_at_scattered_points(of: Scenario, seed: int) -> None:
    random = np.random.default_rng(seed)
    device = of.cluster.device
    link = device.links["nvlink"]
    faster = replace(link, bandwidth=link.bandwidth * random.uniform(0.3, 3.0, 4))
    scattered = replace(device, links={**device.links, "nvlink": faster})
    launch = of.framework.launch * random.uniform(0.5, 2.0, 4)
    equal(replace(of, cluster=with_device(of.cluster, scattered), framework=replace(of.framework, launch=launch)), (4,))


def test_the_flagship_s_sweep_equals_its_points() -> None:
    workload = costmodel.load("deepseek_v3", set={"hardware.memory.hbm.capacity": "2 TiB"}, scenarios=["training"])
    random = np.random.default_rng(0)
    product = workload.evaluate(
        "training",
        vary={
            "hardware.links.nvlink.bandwidth": [1e11, 9e11],
            "hardware.node.nic.bandwidth": [2e10, 2e11],
            "scenarios.training.micro_batch": [1, 3],
            "scenarios.training.sequence": [1024, 3001],
        },
    )
    scattered = workload.evaluate(
        "training",
        vary={
            ("scenarios.training.sequence", "hardware.node.nic.bandwidth"): (
                1024 + np.arange(5),
                random.uniform(2e10, 2e11, 5),
            )
        },
    )
    for result, index in ((product, (0, 0, 0, 0)), (product, (1, 0, 1, 1)), (scattered, (0,)), (scattered, (4,))):
        assert np.all(result.fits)
        document = result.at(*index)
        for name, value in document["metrics"].items():
            pair = result.intervals[name]
            if value is None:  # no price
                assert result.metrics[name] is None
                assert pair is None
                continue
            assert np.asarray(result.metrics[name])[index] == pytest.approx(value, rel=1e-9)
            assert pair is not None
            assert [np.asarray(end)[index] for end in pair] == pytest.approx(document["intervals"][name], rel=1e-9)
