"""What a pipeline loses because chunks with uneven experts do not always take equally long, against draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from builders import FP8, MOE_MODEL, STEP, scenario

from costmodel.analytic.stream_times import StreamTimes
from costmodel.analytic.training.jitter import coupling, deviation, relative_deviation
from costmodel.analytic.training.step_model import ExpertImbalance, step_model
from costmodel.analytic.training.step_times import step_times
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Quantity
from costmodel.records import replace
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.order_statistics import normal_maximum_std
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Communication, Parallelism, Routing, Scenario
from costmodel.workload.schedules import Action, Kind, Schedule, order


@pytest.mark.parametrize("places", [1, 4, 64])
def test_the_deviation_of_a_maximum_is_that_of_draws(places: int) -> None:
    drawn = np.random.default_rng(5).normal(size=(20_000, places)).max(axis=1).std()
    assert normal_maximum_std(float(places)) == pytest.approx(drawn, rel=0.06)


def test_of_sixty_four_ranks_a_fifth_of_what_the_fullest_has_above_the_mean_is_chance() -> None:
    assert relative_deviation(64.0) == pytest.approx(0.187, abs=0.005)
    assert relative_deviation(1.0) == 0
    assert np.all(relative_deviation(np.array([1.0, 64.0])) == [0.0, relative_deviation(64.0)])


def test_layers_that_draw_apart_jitter_less_than_layers_that_are_alike() -> None:
    layers = [(4, StreamTimes(imbalance_time=0.003))]
    assert deviation([layers], 0.5, shared=False) == pytest.approx(0.003)
    assert deviation([layers], 0.5, shared=True) == pytest.approx(0.006)


@pytest.mark.parametrize("alike", [False, True])
def test_all_passes_of_a_layer_follow_one_draw_and_the_two_chunks_of_a_pair_their_own(alike: bool) -> None:
    both = StreamTimes(imbalance_time=0.003) + StreamTimes(imbalance_time=0.001)
    assert deviation([[(1, both)]], 0.5, shared=alike) == pytest.approx(0.002)
    assert deviation([[(1, both)], [(1, both)]], 0.5, shared=alike) == pytest.approx(0.002 * 2**0.5)


def lengths(action: Action) -> tuple[float, float]:
    """Return the time of an action's forward and of its backward pass, where F = B_in = W = 1."""
    both = 2.0 if action.kind in (Kind.BACKWARD, Kind.FORWARD_BACKWARD) else 1.0
    return float(action.forward is not None), 0.0 if action.backward is None else both


def span(of: Schedule, longer: Callable[[Action], float]) -> float:
    """Return when the last action is done, each of which takes as much longer than its passes."""
    needs = of.dependencies()
    done: dict[tuple[int, int], float] = {}
    left = {rank: list(range(len(actions))) for rank, actions in enumerate(of.ranks)}
    clock = [0.0] * len(of.ranks)
    while any(left.values()):
        for rank, positions in left.items():
            while positions and all((need.rank, need.position) in done for need in needs[rank][positions[0]]):
                at = positions.pop(0)
                arrived = max([done[need.rank, need.position] for need in needs[rank][at]], default=0.0)
                action = of.ranks[rank][at]
                clock[rank] = max(clock[rank], arrived) + sum(lengths(action)) + longer(action)
                done[rank, at] = clock[rank]
    return max(clock)


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1", "dualpipe"])
def test_the_coupling_is_the_idle_time_of_draws(schedule: str, alike: bool) -> None:
    of, small = order(schedule, 4, 1, 16), 0.02
    drawn = np.random.default_rng(9).normal(0.0, small, (100, 1 if alike else of.stages, of.micro_batches))
    drawn = np.broadcast_to(np.concatenate([drawn, -drawn]), (200, of.stages, of.micro_batches))

    def longer(action: Action, draw: Array) -> float:
        passes = zip(lengths(action), (action.forward, action.backward), strict=True)
        return sum(length * float(draw[chunk]) for length, chunk in passes if chunk is not None)

    whole = span(of, lambda _: 0.0)
    lost = np.mean([span(of, partial(longer, draw=draw)) for draw in drawn]) - whole
    a_deviation = span(of, lambda action: small * math.hypot(*lengths(action))) - whole
    assert coupling(schedule, 4, 1, 16, shared=alike) == pytest.approx(lost / a_deviation, abs=0.06)


def test_slow_micro_batches_cost_a_pipeline_more_than_slow_layers_but_for_one_that_has_other_work() -> None:
    of = {
        (schedule, alike): coupling(schedule, 8, 1, 32, shared=alike)
        for schedule in ("1f1b", "dualpipe", "zb-h1")
        for alike in (False, True)
    }
    assert of["1f1b", True] > of["1f1b", False]
    assert of["dualpipe", True] > of["dualpipe", False]
    assert of["zb-h1", True] < of["zb-h1", False]


def test_one_rank_loses_nothing() -> None:
    assert coupling("1f1b", 1, 1, 8, shared=False) == pytest.approx(0.0, abs=1e-9)
    assert coupling("1f1b", 1, 1, 8, shared=True) == pytest.approx(0.0, abs=1e-9)


def uneven(load: float | None) -> Scenario:
    plan = replace(STEP, schedule="dualpipe")
    return scenario(plan, MOE_MODEL, Parallelism(pp=4.0, dp=8.0, ep=8.0), FP8, Communication(10.0, expert_load=load))


def test_even_experts_do_not_jitter_and_uneven_ones_only_add_idle_time() -> None:
    for load, jitters in ((None, False), (1.0, False), (1.4, True)):
        of = uneven(load)
        assert isinstance(of.plan, Training)
        step = step_model(of, of.plan, Calibration())
        with_jitter, without = (step_times(each, None) for each in (step, replace(step, imbalance=ExpertImbalance())))
        gained = with_jitter.bubble - without.bubble
        assert bool(gained > 0) is jitters
        assert with_jitter.step - without.step == pytest.approx(gained)
        assert with_jitter.by_kind == without.by_kind


def test_counted_loads_are_the_same_in_every_chunk() -> None:
    (experts,) = {layer.ffn.experts for layer in MOE_MODEL.kinds if isinstance(layer.ffn, MoeFfn)}
    counts = (3.0, *(1.0,) * (int(experts) - 1))
    counted = replace(uneven(None), routing=Routing(load="counts", counts=counts))
    assert isinstance(counted.plan, Training)
    assert step_model(counted, counted.plan, Calibration()).imbalance.ranks == 1
    assert step_model(uneven(1.4), counted.plan, Calibration()).imbalance.ranks == 8


def test_a_stated_load_is_of_texts_and_a_uniform_one_of_chance() -> None:
    by_chance = replace(uneven(None), routing=Routing(load="uniform"))
    assert isinstance(by_chance.plan, Training)
    assert step_model(uneven(1.4), by_chance.plan, Calibration()).imbalance.shared_by_layers
    assert not step_model(by_chance, by_chance.plan, Calibration()).imbalance.shared_by_layers
    stated = step_model(uneven(1.4), by_chance.plan, Calibration())
    idle = [
        step_times(replace(stated, imbalance=ExpertImbalance(8.0, shared)), None).bubble for shared in (False, True)
    ]
    assert idle[1] > idle[0]


def test_a_grid_of_loads_and_networks_is_its_points() -> None:
    of = uneven(1.4)
    loads, sizes = np.array([[1.0], [1.2], [1.4]]), np.array([4.0, 8.0])
    assert isinstance(of.plan, Training)

    def span(load: Quantity, tokens: Quantity) -> Quantity:
        plan = replace(STEP, schedule="dualpipe", micro_batch=1.0, sequence=tokens * 256.0)
        asked = replace(of, plan=plan, communication=replace(of.communication, expert_load=load))
        return step_times(step_model(asked, plan, Calibration()), None).bubble

    grid = np.asarray(span(loads, sizes))
    assert grid.shape == (3, 2)
    for row, load in enumerate(loads[:, 0]):
        for column, size in enumerate(sizes):
            assert grid[row, column] == pytest.approx(float(span(float(load), float(size))), rel=1e-9)
