"""Reductions of ZeRO-2 that run on beside later passes: by queues, by hand, and in the limits of the network."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from builders import CLUSTER, DENSE_MODEL, HOSTED, STEP, assert_adds_up, scenario, with_device
from hypothesis import given
from hypothesis import strategies as st

from costmodel.analytic.grid import evaluate_grid, evaluate_point, evaluate_single
from costmodel.analytic.recurrence.program import Event, Program, Slot, compile_events, compile_schedule
from costmodel.analytic.recurrence.tape import async_reduce_span, makespan
from costmodel.analytic.stream_times import stream_times
from costmodel.analytic.training.layer_overlap import (
    LayerPart,
    LayerSegment,
    async_reduce_order,
    async_reduce_times,
    pass_seconds,
)
from costmodel.analytic.training.overlapped_comm import layer_seconds
from costmodel.analytic.training.step_model import step_model
from costmodel.analytic.training.step_times import step_streams
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Cluster
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.memory import stage_work
from costmodel.workload.plans import Sharding, Training
from costmodel.workload.scenario import Offload, Parallelism, Scenario
from costmodel.workload.schedules.schedule import Kind

OVERLAPPED = Sharding(overlap=True)
LAYOUTS = {"1f1b": (4, 1), "interleaved": (4, 2), "gpipe": (4, 1), "zb-h1": (4, 1), "zb-v": (2, 2), "alone": (1, 1)}
seconds = st.floats(0.01, 10.0)


def linked(bandwidth: float, latency: float = 1e-6) -> Cluster:
    """Return the cluster with links of that bandwidth inside nodes, and NICs of a quarter of it."""
    device = CLUSTER.device
    link = replace(device.links["nvlink"], bandwidth=bandwidth, latency=latency)
    nic = replace(CLUSTER.node.nic, bandwidth=bandwidth / 4, latency=latency)
    cluster = with_device(CLUSTER, replace(device, links={**device.links, "nvlink": link}))
    return replace(cluster, node=replace(cluster.node, nic=nic))


def step(
    layout: str, *, zero: int = 2, sharding: Sharding = OVERLAPPED, cluster: Cluster = CLUSTER, batches: float = 16.0
) -> Scenario:
    pp, virtual = LAYOUTS[layout]
    name = "1f1b" if layout == "alone" else layout
    plan = replace(STEP, zero=zero, sharding=sharding, schedule=name, global_batch=8 * batches, sequence=1024.0)
    return scenario(plan, DENSE_MODEL, Parallelism(pp=float(pp), virtual=float(virtual), dp=8.0), cluster=cluster)


def point(of: Scenario) -> Point:
    return evaluate_point(of, Calibration())


def time(of: Scenario) -> float:
    value = point(of).metrics["step_time"]
    assert value is not None
    return value


# ---- one pass, and a program of them --------------------------------------------------------------------------------


@given(
    units=st.lists(st.tuples(st.integers(1, 4), seconds, st.one_of(st.just(0.0), seconds)), min_size=1, max_size=5),
    start=st.floats(0.0, 20.0),
    free=st.floats(0.0, 20.0),
)
def test_a_pass_is_its_units_of_which_each_waits_for_the_reduction_before(
    units: list[tuple[int, float, float]], start: float, free: float
) -> None:
    done, wire = start, free
    for count, compute, reduce in units:
        for _ in range(count):
            done = max(done + compute, wire)
            wire = done + reduce
    found = async_reduce_times([LayerSegment(count, compute, reduce=reduce) for count, compute, reduce in units])
    assert max(start + found.head, free) + found.rest == pytest.approx(done, rel=1e-12)
    assert done + found.trail == pytest.approx(wire, rel=1e-12)


@given(units=st.lists(st.tuples(seconds, st.one_of(st.just(0.0), seconds)), min_size=1, max_size=8))
def test_the_closed_form_is_the_makespan_of_the_order_that_the_event_engine_runs(
    units: list[tuple[float, float]],
) -> None:
    events: list[Event[int]] = []
    done: dict[LayerPart, int] = {}
    durations: list[float] = []
    for (layer, part), needs in async_reduce_order(len(units)):
        done[layer, part] = len(events)
        after = tuple(done[need] for need in needs if need in done)
        events.append(Event(int(part == "reduce"), len(events), after))
        durations.append({"compute": units[layer][0], "reduce": units[layer][1]}.get(part, 0.0))
    program = compile_events(events, range(len(events)))
    found = async_reduce_times([LayerSegment(1, compute, reduce=reduce) for compute, reduce in units])
    whole = makespan(program, np.array(durations)[:, None])
    assert whole[0] == pytest.approx(found.head + found.rest + found.trail, rel=1e-12)


@given(count=st.integers(1, 20), compute=seconds, reduce=seconds)
def test_equal_layers_take_as_long_as_where_the_pass_ends_with_its_reductions(
    count: int, compute: float, reduce: float
) -> None:
    chain = [LayerSegment(count, compute, reduce=reduce)]
    found = async_reduce_times(chain)
    assert found.head + found.rest + found.trail == pytest.approx(pass_seconds(chain), rel=1e-12)


def walked(program: Program[Slot], times: list[Array], transfer: float) -> tuple[float, float, dict[int, float]]:
    """Return span, what reductions take beyond it, and the waits of each slot: event by event."""
    finish: list[float] = []
    previous, free = dict[int, float](), dict[int, float]()
    waits = dict.fromkeys(range(len(program.slots)), 0.0)
    for event, (stream, slot) in enumerate(zip(program.stream.tolist(), program.slot.tolist(), strict=True)):
        came = [finish[need] + transfer for need in program.receives[:, event].tolist() if need >= 0]
        head, rest, trail = (float(part[slot]) for part in times)
        done = max([previous.get(stream, 0.0), *came]) + head
        if program.slots[slot].kind is not Kind.FORWARD and program.slots[slot].kind is not Kind.BACKWARD_INPUT:
            waits[slot] += max(free.get(stream, 0.0) - done, 0.0)
            done = max(done, free.get(stream, 0.0)) + rest
            free[stream] = done + trail
        previous[stream] = done
        finish.append(done)
    span = max(finish)
    return span, max(max(free.values()) - span, 0.0), waits


@pytest.mark.parametrize(("name", "pp", "virtual"), [("1f1b", 4, 1), ("interleaved", 4, 2), ("zb-h1", 3, 1)])
def test_a_program_goes_as_event_by_event(name: str, pp: int, virtual: int) -> None:
    program = compile_schedule(name, pp, virtual, 3 * pp)
    draw = np.random.default_rng(3)
    reduces = [slot.kind not in (Kind.FORWARD, Kind.BACKWARD_INPUT) for slot in program.slots]
    shape = (len(program.slots), 50)
    head = draw.uniform(0.1, 1.0, shape)
    rest, trail = (np.where(np.array(reduces)[:, None], draw.uniform(0.0, 2.0, shape), 0.0) for _ in range(2))
    found = async_reduce_span(program, reduces, (head, rest, trail), 0.1)
    events = np.bincount(program.slot, minlength=len(program.slots))
    for at in range(shape[1]):
        span, left, waits = walked(program, [head[:, at], rest[:, at], trail[:, at]], 0.1)
        assert found.span[at] == pytest.approx(span, rel=1e-12)
        assert found.left[at] == pytest.approx(left, rel=1e-9, abs=1e-12)
        assert found.waits[:, at] * events == pytest.approx([waits[slot] for slot in range(len(events))], abs=1e-9)


def test_without_reductions_a_program_takes_its_makespan() -> None:
    program = compile_schedule("interleaved", 4, 2, 8)
    head = np.random.default_rng(1).uniform(0.1, 1.0, (len(program.slots), 3))
    nothing = np.zeros_like(head)
    found = async_reduce_span(program, [True] * len(program.slots), (head, nothing, nothing), 0.2)
    np.testing.assert_allclose(found.span, makespan(program, head, 0.2), rtol=1e-13)
    assert not found.left.any()
    assert not found.waits.any()


@pytest.mark.parametrize("reduce", [0.5, 2.5, 4.0])
def test_a_round_takes_the_longer_of_computing_and_reducing_where_a_chunk_is_one_unit(reduce: float) -> None:
    """Forward 1 s and backward 2 s a chunk, two chunks a rank: 2 * max(1 + 2, r) more for each micro-batch."""
    spans = []
    for batches in (16, 32):
        program = compile_schedule("interleaved", 4, 2, batches)
        backward = np.array([[slot.kind is Kind.BACKWARD] for slot in program.slots])
        head = np.where(backward, 2.0, 1.0)
        trail = np.where(backward, reduce, 0.0)
        found = async_reduce_span(program, backward[:, 0].tolist(), (head, np.zeros_like(head), trail))
        spans.append(float((found.span + found.left)[0]))
    assert (spans[1] - spans[0]) / 16 == pytest.approx(2 * max(3.0, reduce))


# ---- a step ----------------------------------------------------------------------------------------------------------


def reductions(of: Scenario) -> tuple[list[LayerSegment], float, float]:
    """Return the units of a backward pass on a lone stage, its forward pass and the end of the step [s]."""
    assert isinstance(of.plan, Training)
    model = step_model(of, of.plan, Calibration())
    assert model.overlapped_comm is not None
    layers = step_streams(model, None).layers
    works = model.works_of(0)
    units = [
        LayerSegment(
            count,
            layer_seconds(layers, Kind.BACKWARD)[work.name],
            reduce=stream_times(model.overlapped_comm.layers[work.name]["reduce"], None).total,
        )
        for count, work in reversed(works)
    ]
    forward = sum(float(count * layer_seconds(layers, Kind.FORWARD)[work.name]) for count, work in works)
    passes = point(of).schedule
    assert passes is not None
    return units, forward, passes["optimizer"]


@pytest.mark.parametrize("bandwidth", [2e9, 1e10, 3e10, 2e11])
def test_on_one_stage_a_micro_batch_adds_what_is_worked_out_by_hand(bandwidth: float) -> None:
    """Forward, head and its reduction, eight layers and theirs, and the table, whose reduction runs on."""
    (head, layer, table), forward, _ = reductions(step("alone", cluster=linked(bandwidth)))
    rest = max(layer.compute, head.reduce) + 7 * max(layer.compute, layer.reduce) + max(table.compute, layer.reduce)
    wanted = max(forward + head.compute, table.reduce) + rest
    short, long = (time(step("alone", cluster=linked(bandwidth), batches=batches)) for batches in (8.0, 16.0))
    assert (long - short) / 8 == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_bandwidth_is_never_slower(layout: str) -> None:
    times = [time(step(layout, cluster=linked(bandwidth))) for bandwidth in np.geomspace(1e8, 1e13, 16)]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(times))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_an_endless_network_it_is_stage_1_without_communication(layout: str) -> None:
    endless = linked(1e22, 0.0)
    silent = replace(step(layout, zero=1, sharding=Sharding(), cluster=endless))
    assert time(step(layout, cluster=endless)) == pytest.approx(time(silent), rel=1e-3)  # less launches once a step


@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_a_slow_network_a_step_takes_at_least_all_of_its_reductions(layout: str) -> None:
    """And little more where only the first pass, and the last reductions and gathers, have nothing beside them."""
    of = step(layout, cluster=linked(1e8))
    assert isinstance(of.plan, Training)
    model = step_model(of, of.plan, Calibration())
    assert model.overlapped_comm is not None
    wire = max(
        sum(
            float(count * stream_times(model.overlapped_comm.layers[work.name]["reduce"], None).total)
            for stage in tail.stages
            for count, work in stage_work(model.work, stage)
        )
        for tail in model.optimizer_steps
    )
    passes = point(of).schedule
    assert passes is not None
    assert 16 * wire <= time(of) <= 1.25 * 16 * wire + passes["optimizer"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bandwidth", [1e9, 1e10, 1e11])
def test_it_is_no_slower_than_where_passes_wait_for_their_reductions(layout: str, bandwidth: float) -> None:
    exposed = time(step(layout, sharding=Sharding(overlap=False), cluster=linked(bandwidth)))
    assert time(step(layout, cluster=linked(bandwidth))) <= exposed * (1 + 1e-3)


def test_without_overlap_a_micro_batch_adds_its_passes_and_all_of_its_reductions() -> None:
    units, forward, _ = reductions(step("alone"))
    wanted = forward + sum(float(unit.count * (unit.compute + unit.reduce)) for unit in units)
    short, long = (time(step("alone", sharding=Sharding(overlap=False), batches=batches)) for batches in (8.0, 16.0))
    assert (long - short) / 8 == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bandwidth", [1e9, 2e10])
def test_parts_and_breakdown_sum_to_the_step(layout: str, bandwidth: float) -> None:
    result = point(step(layout, cluster=linked(bandwidth)))
    assert_adds_up(result)


def test_a_grid_of_bandwidths_is_its_points() -> None:
    wide = np.geomspace(1e9, 1e12, 70)
    grid = evaluate_grid(step("interleaved", cluster=linked(wide)), Calibration(), (70,))  # type: ignore[arg-type]
    for at in (0, 33, 69):
        alone = evaluate_single(step("interleaved", cluster=linked(float(wide[at]))), Calibration())
        for name, value in alone.metrics.items():
            if value is not None:
                assert np.asarray(grid.metrics[name])[at] == pytest.approx(value, rel=1e-9), name


def test_gradients_that_go_on_to_the_host_are_waited_for_at_the_end_of_each_pass() -> None:
    """As in DeepSpeed; and a grid with shares of none and of some is its points."""
    shares = np.array([0.0, 0.5])
    of = replace(step("alone", cluster=replace(HOSTED, node=replace(HOSTED.node, intra=linked(1e10).node.intra))))
    grid = evaluate_grid(replace(of, offload=Offload(optimizer=shares)), Calibration(), (2,))
    points = [
        evaluate_single(replace(of, offload=Offload(optimizer=float(share))), Calibration()).metrics["step_time"]
        for share in shares
    ]
    assert np.asarray(grid.metrics["step_time"]) == pytest.approx(points, rel=1e-9)
