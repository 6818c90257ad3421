"""What a pipeline loses because chunks with uneven experts do not always take equally long, against draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import FP8, MOE_MODEL, STEP, scenario

from costmodel.analytic.jitter import coupling, deviation, relative_deviation
from costmodel.analytic.recurrence.pipeline import program_of
from costmodel.analytic.recurrence.waves import makespan_by_waves
from costmodel.analytic.sums import Sums
from costmodel.analytic.training import price_step, step_times
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Quantity
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.order_statistics import normal_maximum_deviation
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Communication, Parallelism, Routing, Scenario
from costmodel.workload.schedules import Kind, order

LENGTH = {Kind.FORWARD: 1.0, Kind.BACKWARD_INPUT: 1.3, Kind.BACKWARD_WEIGHT: 0.7, Kind.BACKWARD: 2.0}


@pytest.mark.parametrize("places", [1, 4, 64])
def test_the_deviation_of_a_maximum_is_that_of_draws(places: int) -> None:
    drawn = np.random.default_rng(5).normal(size=(20_000, places)).max(axis=1).std()
    assert normal_maximum_deviation(float(places)) == pytest.approx(drawn, rel=0.06)


def test_of_sixty_four_ranks_a_fifth_of_what_the_fullest_has_above_the_mean_is_chance() -> None:
    assert relative_deviation(64.0) == pytest.approx(0.187, abs=0.005)
    assert relative_deviation(1.0) == 0
    assert np.all(relative_deviation(np.array([1.0, 64.0])) == [0.0, relative_deviation(64.0)])


def test_layers_draw_apart_and_all_passes_of_a_layer_together() -> None:
    assert deviation([(4, Sums(uneven=0.003))], 0.5) == pytest.approx(0.003)
    assert deviation([(1, Sums(uneven=0.003) + Sums(uneven=0.001))], 0.5) == pytest.approx(0.002)


@pytest.mark.parametrize(("schedule", "share"), [("1f1b", 0.62), ("zb-h1", 0.3)])
def test_the_coupling_is_the_idle_time_of_independent_draws(schedule: str, share: float) -> None:
    program = program_of(order(schedule, 8, 1, 32), (0,) * 8)
    length = np.array([LENGTH[slot.kind] for slot in program.slots])[program.slot][:, None]
    half = np.random.default_rng(9).normal(0.0, 0.02, (len(length), 64))
    drawn = length * (1.0 + np.concatenate([half, -half], axis=1))
    rows = np.arange(len(length))
    assert program.waves is not None
    spans = makespan_by_waves(program.waves, rows, drawn, np.zeros(128))
    whole = makespan_by_waves(program.waves, rows, length, np.zeros(1))[0]
    found = coupling(schedule, 8, 1, 32)
    assert found == pytest.approx((spans.mean() / whole - 1) / 0.02, abs=0.06)
    assert found == pytest.approx(share, abs=0.06)


def uneven(load: float | None) -> Scenario:
    plan = replace(STEP, schedule="dualpipe")
    return scenario(plan, MOE_MODEL, Parallelism(pp=4.0, dp=8.0, ep=8.0), FP8, Communication(10.0, expert_load=load))


def test_even_experts_do_not_jitter_and_uneven_ones_only_add_idle_time() -> None:
    for load, jitters in ((None, False), (1.0, False), (1.4, True)):
        of = uneven(load)
        assert isinstance(of.plan, Training)
        step = price_step(of, of.plan, Calibration())
        with_jitter, without = (step_times(each, None) for each in (step, replace(step, expert_ranks=1.0)))
        gained = with_jitter.bubble - without.bubble
        assert bool(gained > 0) is jitters
        assert with_jitter.step - without.step == pytest.approx(gained)
        assert with_jitter.by_kind == without.by_kind


def test_counted_loads_are_the_same_in_every_chunk() -> None:
    (experts,) = {layer.ffn.experts for layer in MOE_MODEL.kinds if isinstance(layer.ffn, MoeFfn)}
    counts = (3.0, *(1.0,) * (int(experts) - 1))
    counted = replace(uneven(None), routing=Routing(load="counts", counts=counts))
    assert isinstance(counted.plan, Training)
    assert price_step(counted, counted.plan, Calibration()).expert_ranks == 1
    assert price_step(uneven(1.4), counted.plan, Calibration()).expert_ranks == 8


def test_a_grid_of_loads_and_networks_is_its_points() -> None:
    of = uneven(1.4)
    loads, sizes = np.array([[1.0], [1.2], [1.4]]), np.array([4.0, 8.0])
    assert isinstance(of.plan, Training)

    def span(load: Quantity, tokens: Quantity) -> Quantity:
        plan = replace(STEP, schedule="dualpipe", micro_batch=1.0, sequence=tokens * 256.0)
        asked = replace(of, plan=plan, communication=replace(of.communication, expert_load=load))
        return step_times(price_step(asked, plan, Calibration()), None).bubble

    grid = np.asarray(span(loads, sizes))
    assert grid.shape == (3, 2)
    for row, load in enumerate(loads[:, 0]):
        for column, size in enumerate(sizes):
            assert grid[row, column] == pytest.approx(float(span(float(load), float(size))), rel=1e-9)
