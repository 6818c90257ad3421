"""Data parallelism: what every ZeRO stage moves and when, what computation hides of it, what each rank then holds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from builders import CLUSTER, DENSE_MODEL, FP8, MOE_MODEL, STEP, assert_adds_up, scenario, spreads, with_device

from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.grid import evaluate_grid, evaluate_point, evaluate_single
from costmodel.analytic.stream_times import stream_times
from costmodel.analytic.training.layer_overlap import LayerSegment, pass_seconds
from costmodel.analytic.training.step_model import step_model
from costmodel.analytic.training.step_times import step_streams, step_times
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Cluster
from costmodel.quantities import Quantity
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.memory import Ledger, stage_work
from costmodel.workload.operators import Collective, Elementwise, Group
from costmodel.workload.plans import Sharding, Training
from costmodel.workload.scenario import Parallelism, Scenario
from costmodel.workload.schedules.schedule import Kind
from costmodel.workload.validity import rules

BATCHES = 8.0  # micro-batches of a step
RANKS = 8.0
LAYER = 1024 * (16 + 2 * 4) * 64 + 1024 * 1024 + 3 * 1024 * 2816 + 2 * 1024  # parameters
ENDS = 2 * 32_000 * 1024 + 1024
PARAMETERS = 8 * LAYER + ENDS
PLAIN, OVERLAPPED = Sharding(), Sharding(overlap=True)


def step(zero: int, sharding: Sharding = PLAIN, dp: Quantity = RANKS, cluster: Cluster = CLUSTER) -> Scenario:
    plan = replace(STEP, zero=zero, sharding=sharding, global_batch=64.0, sequence=1024.0)
    return scenario(plan, DENSE_MODEL, Parallelism(dp=dp), cluster=cluster)


def linked(bandwidth: Quantity) -> Cluster:
    """Return the cluster with links of that bandwidth inside nodes."""
    device = CLUSTER.device
    link = replace(device.links["nvlink"], bandwidth=bandwidth, latency=0.0)
    return with_device(CLUSTER, replace(device, links={**device.links, "nvlink": link}))


def point(of: Scenario) -> Point:
    return evaluate_point(of, Calibration())


def seconds(of: Scenario, metric: str = "step_time") -> float:
    value = point(of).metrics[metric]
    assert value is not None
    return value


def held(of: Scenario) -> Ledger:
    ledger = ledger_of(of)
    assert ledger is not None
    return ledger


# ---- volumes --------------------------------------------------------------------------------------------------------


def moved(of: Scenario) -> dict[str, float]:
    """Return the bytes that a rank sends in a step, by kind: rings send (n-1)/n of a buffer, an all-reduce twice."""
    plan = of.plan
    assert isinstance(plan, Training)
    priced = step_model(of, plan, Calibration())
    (tail,) = priced.optimizer_steps
    listed = [(1.0, item.operator) for item in tail.serial]
    if priced.overlapped_comm is not None:
        works = stage_work(priced.work, tail.stages[0])
        for kind in (Kind.FORWARD, Kind.BACKWARD):
            passes = (priced.overlapped_comm.by_layer(works, kind, once_per_step=once) for once in (False, True))
            for (count, _, usual), (_, _, whole) in zip(*passes, strict=True):
                listed += [(count * BATCHES, each.operator) for _, each in usual]
                listed += [(count, each.operator) for part, each in whole if (part, each) not in usual]
    found: dict[str, float] = {}
    for often, operator in listed:
        if isinstance(operator, Collective):
            ranks = float(operator.group.size)
            sent = (2 if operator.kind == "all_reduce" else 1) * (ranks - 1) / ranks * float(operator.size)
            found[operator.kind] = found.get(operator.kind, 0.0) + often * sent
    return found


SHARE = (RANKS - 1) / RANKS


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(
    ("zero", "options", "scattered", "gathered"),
    [
        (1, Sharding(), 4.0, 2.0),
        (1, Sharding(reduce="micro_batch"), 4 * BATCHES, 2.0),
        (2, Sharding(), 4 * BATCHES, 2.0),
        (2, Sharding(reduce="step"), 4.0, 2.0),
        (2, Sharding(gradients="bf16"), 2 * BATCHES, 2.0),
        (3, Sharding(), 4 * BATCHES, 2 * 2 * BATCHES),
        (3, Sharding(reduce="step"), 4.0, 2 * 2 * BATCHES),
        (3, Sharding(keep_gathered=True), 4 * BATCHES, 2 * BATCHES),
        (3, Sharding(keep_gathered=True, gradients="bf16"), 2 * BATCHES, 2 * BATCHES),
    ],
)
def test_every_stage_moves_its_published_volume(
    zero: int, options: Sharding, scattered: float, gathered: float, overlap: bool
) -> None:
    """Bytes a parameter and step, FP32 gradients and BF16 weights [Rajbhandari et al., SC 2020, section 7].

    With equal formats stages 1 and 2 move 2*P*(n-1)/n, stage 3 three of them a micro-batch.
    """
    sent = moved(step(zero, replace(options, overlap=overlap)))
    assert sent == pytest.approx(
        {"reduce_scatter": scattered * PARAMETERS * SHARE, "all_gather": gathered * PARAMETERS * SHARE}
    )


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("zero", [1, 3])
def test_weights_travel_as_memory_holds_them(zero: int, overlap: bool) -> None:
    """Linear layers in FP8 with their scales; norms, embedding and head in 16 bits, as the ledger counts them."""
    plain = step(zero, Sharding(overlap=overlap, keep_gathered=zero == 3))
    narrow = replace(plain, precision=replace(FP8, weights="fp8"))
    whole = ledger_of(replace(narrow, plan=replace(narrow.plan, zero=0, sharding=Sharding())))
    assert whole is not None
    assert whole.weights < PARAMETERS * 1.5
    often = BATCHES if zero == 3 else 1.0
    assert moved(narrow)["all_gather"] == pytest.approx(often * float(whole.weights) * SHARE)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("reduce", "often"), [(None, 1.0), ("step", 1.0), ("micro_batch", BATCHES)])
def test_without_sharding_all_gradients_are_reduced(reduce: str | None, often: float, overlap: bool) -> None:
    sent = moved(step(0, Sharding(overlap, reduce)))
    assert sent == pytest.approx({"all_reduce": 2 * 4 * often * PARAMETERS * SHARE})


def test_groups_that_repeat_the_states_scatter_inside_and_reduce_their_parts_across() -> None:
    """Two groups of four: (n-1)/n of four, and an all-reduce of a quarter over two (FSDP's HYBRID_SHARD)."""
    sent = moved(step(3, Sharding(group=4.0)))
    assert sent == pytest.approx(
        {
            "reduce_scatter": 4 * BATCHES * PARAMETERS * 3 / 4,
            "all_gather": 4 * BATCHES * PARAMETERS * 3 / 4,
            "all_reduce": 2 * 4 * BATCHES * PARAMETERS / 4 / 2,
        }
    )
    assert held(step(3, Sharding(group=4.0))).optimizer == pytest.approx(12 * PARAMETERS / 4)


def test_groups_inside_a_node_gather_over_its_links_only() -> None:
    plan = replace(STEP, zero=3, global_batch=64.0, sequence=1024.0)
    across = scenario(plan, DENSE_MODEL, Parallelism(dp=32.0))
    inside = replace(across, plan=replace(plan, sharding=Sharding(group=8.0)))
    times = []
    for of in (across, inside):
        assert isinstance(of.plan, Training)
        priced = step_model(of, of.plan, Calibration())
        assert priced.overlapped_comm is not None
        times.append(sum(float(item.time.seconds) for item in priced.overlapped_comm.layers["layer 0"]["gather"]))
    assert times[1] == pytest.approx(1e-6 + 7 / 8 * 2 * LAYER / 200e9 + 7e-6)
    assert times[1] < times[0]


def test_experts_are_shared_by_as_many_ranks_as_stand_in_the_group() -> None:
    """Sixteen ranks, experts over four: groups of eight hold every expert twice, groups of two one part each."""
    for group, shared, repeated in ((None, 4.0, 1.0), (8.0, 2.0, 2.0), (2.0, 1.0, 4.0)):
        plan = replace(STEP, zero=3, sharding=Sharding(group=group))
        of = scenario(plan, MOE_MODEL, Parallelism(dp=16.0, ep=4.0))
        priced = step_model(of, plan, Calibration())
        assert priced.overlapped_comm is not None
        groups = {
            (item.operator.name, item.operator.kind): float(item.operator.group.size)
            for item in priced.overlapped_comm.layers["layer 1"]["reduce"]
            if isinstance(item.operator, Collective)
        }
        assert groups["expert gradient reduce-scatter", "reduce_scatter"] == shared
        assert groups.get(("expert gradient all-reduce over copies", "all_reduce"), 1.0) == repeated


def test_gradients_that_travel_in_another_format_are_cast_there_and_back() -> None:
    plan = replace(STEP, zero=2, sharding=Sharding(gradients="bf16"))
    priced = step_model(scenario(plan, DENSE_MODEL, Parallelism(dp=RANKS)), plan, Calibration())
    assert priced.overlapped_comm is not None
    casts = [
        item.operator
        for item in priced.overlapped_comm.layers["layer 0"]["reduce"]
        if isinstance(item.operator, Elementwise)
    ]
    assert [cast.traffic for cast in casts] == [pytest.approx(LAYER * (1 + 1 / RANKS) * (4 + 2))]


# ---- overlap --------------------------------------------------------------------------------------------------------

CASES = {
    f"stage {zero}, {name}": step(zero, sharding)
    for zero in range(4)
    for name, sharding in {
        "default": Sharding(),
        "overlapped": OVERLAPPED,
        "exposed": Sharding(overlap=False),
        "every micro-batch": Sharding(overlap=True, reduce="micro_batch"),
        "once": Sharding(overlap=True, reduce="step"),
    }.items()
}


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("bandwidth", [1e9, 2e10, 2e11])
def test_parts_and_breakdown_sum_to_the_step(name: str, bandwidth: float) -> None:
    result = point(replace(CASES[name], cluster=linked(bandwidth)))
    assert_adds_up(result)
    assert min(line.hidden for line in result.breakdown) >= -1e-9 * (result.metrics["step_time"] or 0.0)


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zb-h1", "dualpipe", "zb-v"])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_parts_and_breakdown_sum_to_the_step_of_a_pipeline(schedule: str, zero: int) -> None:
    plan = replace(STEP, zero=zero, sharding=OVERLAPPED, schedule=schedule)
    virtual = {"interleaved": 2.0, "zb-v": 2.0}.get(schedule, 1.0)
    of = scenario(plan, MOE_MODEL, Parallelism(pp=4.0, dp=4.0, ep=4.0, virtual=virtual))
    result = point(of)
    assert result.schedule is not None
    assert sum(result.schedule.values()) == pytest.approx(result.metrics["step_time"], rel=1e-12)
    total = sum(line.time for line in result.breakdown) + (result.metrics["bubble_time"] or 0.0)
    assert total == pytest.approx(result.metrics["step_time"], rel=1e-12)


@pytest.mark.parametrize("zero", range(4))
def test_without_communication_overlap_changes_nothing(zero: int) -> None:
    times = [seconds(step(zero, Sharding(overlap), dp=1.0)) for overlap in (None, True, False)]
    assert times == pytest.approx([times[0]] * 3, rel=1e-12)


@pytest.mark.parametrize("zero", range(4))
@pytest.mark.parametrize("bandwidth", [1e8, 3e9, 1e10, 1e11, 1e13])
def test_overlap_lies_between_the_longer_of_both_and_their_sum(zero: int, bandwidth: float) -> None:
    exposed, hidden = (
        step(zero, Sharding(overlap, "micro_batch"), cluster=linked(bandwidth)) for overlap in (False, True)
    )
    alone, together = seconds(exposed), seconds(hidden)
    waiting = seconds(exposed, "exposed_communication_time")
    assert max(alone - waiting, waiting) <= together * (1 + 1e-9)
    assert together <= alone * (1 + 1e-3)  # a message a layer in place of one has more latencies


@pytest.mark.parametrize(("zero", "share"), [(1, 1 / 3), (3, 0.0)])
def test_kernels_are_slower_beside_what_moves_once_a_step(zero: int, share: float) -> None:
    """A factor of 1.5 adds a third of the time of hidden messages; nothing beside those of every micro-batch."""
    of = step(zero, OVERLAPPED, cluster=linked(4e11))
    slow = replace(of, framework=replace(of.framework, moe_comm_slowdown=1.5))
    assert_adds_up(point(slow))
    assert isinstance(of.plan, Training)
    comm = step_model(of, of.plan, Calibration()).overlapped_comm
    assert comm is not None
    moved = sum(
        count * float(timed.time.seconds)
        for name, count in (("layer 0", 8), ("head", 1))  # nothing computes for as long as the embedding's take
        for part in ("gather", "reduce")
        for timed in comm.layers[name][part]
    )
    assert seconds(slow) - seconds(of) == pytest.approx(share * moved, rel=0.05)


def test_a_pass_of_stage_3_is_that_of_its_layers_on_two_streams() -> None:
    """The forward slot against embedding, eight layers and head with their gathers, put together by hand."""
    of = step(3, cluster=linked(2e10))
    plan = of.plan
    assert isinstance(plan, Training)
    priced = step_model(of, plan, Calibration())
    assert priced.overlapped_comm is not None
    sums = step_streams(priced, None).layers
    gathers = {
        name: stream_times(fields["gather"], None).total for name, fields in priced.overlapped_comm.layers.items()
    }
    reduces = {
        name: stream_times(fields["reduce"], None).total for name, fields in priced.overlapped_comm.layers.items()
    }
    names = (("embedding", 1), ("layer 0", 8), ("head", 1))
    forward = [LayerSegment(count, sums[name].forward.total, gather=gathers[name]) for name, count in names]
    backward = [
        LayerSegment(count, sums[name].backward.total, gather=gathers[name], reduce=reduces[name])
        for name, count in reversed(names)
    ]
    parts = step_times(priced, None).by_kind
    assert np.asarray(parts["forward"]) == pytest.approx(BATCHES * pass_seconds(forward))
    assert np.asarray(parts["backward"]) == pytest.approx(BATCHES * pass_seconds(backward))


def test_reductions_once_a_step_are_hidden_by_the_last_backward_pass_only() -> None:
    """On a fast network overlap leaves the ends of the passes; on a slow one it saves about one pass each way."""
    layers = replace(DENSE_MODEL, vocabulary=64.0)
    exposed, hidden = (
        replace(step(1, Sharding(overlap), cluster=linked(2e11)), architecture=layers) for overlap in (False, True)
    )
    assert seconds(hidden, "exposed_communication_time") < 0.5 * seconds(exposed, "exposed_communication_time")
    slow = linked(1e8)
    exposed, hidden = (step(1, Sharding(overlap), cluster=slow) for overlap in (False, True))
    passes = point(exposed).schedule
    assert passes is not None
    saved = seconds(exposed) - seconds(hidden)
    one = (passes["forward"] + passes["backward_input"]) / BATCHES
    assert one / 2 < saved <= one


def test_only_weight_gradients_hide_reductions_where_they_run_last_by_themselves() -> None:
    """Zero-bubble schedules end with weight gradients, which are shorter than whole backward passes."""
    found = {}
    for schedule in ("1f1b", "zb-h1"):
        plan = replace(STEP, zero=1, sharding=OVERLAPPED, schedule=schedule)
        of = scenario(plan, DENSE_MODEL, Parallelism(pp=2.0, dp=RANKS), cluster=linked(1e9))
        found[schedule] = step_model(of, plan, Calibration()).optimizer_steps[0].last
    assert found == {"1f1b": Kind.BACKWARD, "zb-h1": Kind.BACKWARD_WEIGHT}


@pytest.mark.parametrize("name", list(CASES))
def test_more_bandwidth_is_never_slower(name: str) -> None:
    found = evaluate_grid(replace(CASES[name], cluster=linked(np.geomspace(1e8, 1e13, 30))), Calibration(), (30,))
    times = np.asarray(found.metrics["step_time"])
    assert np.all(times[1:] <= times[:-1] * (1 + 1e-12))


def test_a_tied_table_moves_once_on_one_stage_and_with_each_end_on_two() -> None:
    tied = replace(DENSE_MODEL, tied_embeddings=True)
    plan = replace(STEP, zero=3, global_batch=64.0)
    for pp, tables in ((1.0, 1.0), (2.0, 2.0)):
        priced = step_model(scenario(plan, tied, Parallelism(pp=pp, dp=4.0)), plan, Calibration())
        assert priced.overlapped_comm is not None
        gathered = sum(
            count * sum(float(each.operator.size) for part, each in beside if part == "gather")  # type: ignore[union-attr]
            for stage in priced.pipeline.layout
            for count, _, beside in priced.overlapped_comm.by_layer(stage_work(priced.work, stage), Kind.FORWARD)
        )
        assert gathered == pytest.approx(2 * (8 * LAYER + tables * 32_000 * 1024 + 1024))


def test_a_moved_family_moves_gathers_too() -> None:
    result = evaluate_point(step(3, cluster=linked(1e9)), spreads(0.5, 1.0, 2.0))
    low, high = result.intervals["step_time"] or (0.0, 0.0)
    plain = result.metrics["step_time"]
    assert plain is not None
    assert low < 0.6 * plain
    assert high > 1.8 * plain


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_the_published_memory_of_a_7_5_b_model_on_64_ranks() -> None:
    """120, 31.4, 16.6 and 1.9 GB: FP16 weights and gradients, 12 bytes of states [SC 2020, figure 1]."""
    million = 7.5e9 / (8 * LAYER + ENDS)
    formats = replace(scenario().precision, gradients="bf16")
    for zero, published in ((0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)):
        ledger = held(replace(step(zero, dp=64.0), precision=formats))
        states = (ledger.weights + ledger.gradients + ledger.optimizer) * million
        assert float(states) / 1e9 == pytest.approx(published, abs=0.05)


def test_stage_3_holds_one_gathered_layer_or_two_neighbours_and_their_gradients() -> None:
    """The largest pair: an end of 32,000 * 1024 and a layer; two bytes of weights and four of gradients each."""
    table = 32_000 * 1024
    for sharding, parameters in ((OVERLAPPED, table + 1024 + LAYER), (Sharding(overlap=False), table + 1024)):
        assert held(step(3, sharding)).communication == pytest.approx(6 * parameters)
    assert held(step(3, dp=1.0)).communication == 0
    small = replace(step(3), architecture=replace(DENSE_MODEL, vocabulary=64.0))
    assert held(small).communication == pytest.approx(6 * 2 * LAYER)


def test_gradients_that_add_up_on_every_rank_are_whole() -> None:
    """FSDP's no_sync: nothing is scattered before the last micro-batch, so nothing can be dropped."""
    split, whole = held(step(3)), held(step(3, Sharding(reduce="step")))
    assert whole.gradients == pytest.approx(RANKS * split.gradients)
    kept = held(step(3, Sharding(keep_gathered=True)))
    assert kept.weights == pytest.approx(RANKS * split.weights)
    assert kept.optimizer == split.optimizer


@pytest.mark.parametrize("zero", range(4))
@pytest.mark.parametrize("sharding", [Sharding(), Sharding(reduce="step"), Sharding(False), Sharding(group=2.0)])
def test_more_ranks_never_hold_more(zero: int, sharding: Sharding) -> None:
    ranks = (2.0, 4.0, 8.0, 16.0, 64.0)
    sharding = sharding if zero else replace(sharding, group=None)
    totals = [float(held(step(zero, sharding, dp=dp)).total) for dp in ranks]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(totals))


# ---- rules and grids ------------------------------------------------------------------------------------------------


def broken(of: Scenario) -> set[str]:
    return {rule.field for rule in rules(of) if not rule.holds}


def test_options_that_a_stage_does_not_have_are_refused() -> None:
    assert broken(step(2, Sharding(keep_gathered=True))) == {"optimizer.keep_gathered"}
    assert broken(step(0, Sharding(group=4.0))) == {"optimizer.shard_group"}
    assert broken(step(1, Sharding(group=3.0))) == {"optimizer.shard_group"}
    assert broken(step(1, Sharding(group=16.0))) == {"optimizer.shard_group"}
    assert broken(step(1, Sharding(group=4.0))) == set()
    cut = step(2)
    assert broken(replace(cut, plan=replace(cut.plan, muon=5.0))) == {"optimizer.name"}


def test_a_group_holds_whole_sets_of_experts_or_a_part_of_one() -> None:
    plan = replace(STEP, zero=1, sharding=Sharding(group=6.0), global_batch=48.0)
    of = scenario(plan, MOE_MODEL, Parallelism(dp=24.0, ep=4.0))
    assert broken(of) == {"optimizer.shard_group"}


@pytest.mark.parametrize("zero", range(4))
@pytest.mark.parametrize("overlap", [False, True])
def test_a_grid_of_ranks_and_groups_is_its_points(zero: int, overlap: bool) -> None:
    """Reductions come once a step or with each micro-batch: every stage and every overlap meets both."""
    reduce = ("step", "micro_batch")[(zero + overlap) % 2]
    dp = np.array([1.0, 2.0, 8.0, 16.0]).reshape(-1, 1)
    group = np.array([1.0, 2.0, 8.0]).reshape(1, -1)
    sharding = Sharding(overlap, reduce, group=group if zero else None)
    plan = replace(
        STEP, zero=zero, sharding=sharding, global_batch=64.0, micro_batch=np.array([[1.0], [1.0], [2.0], [4.0]])
    )
    grid = scenario(plan, MOE_MODEL, Parallelism(dp=dp, cp=2.0, ep=2.0))
    together = evaluate_grid(grid, Calibration(), (4, 3))
    for index in np.ndindex(4, 3):
        alone = replace(sharding, group=float(group[0, index[1]]) if zero else None)
        one = replace(plan, sharding=alone, micro_batch=float(plan.micro_batch[index[0], 0]))  # type: ignore[index]
        of = replace(grid, plan=one, parallel=replace(grid.parallel, dp=float(dp[index[0], 0])))
        if broken(of):
            assert not np.asarray(together.fits)[index]
            continue
        wanted = evaluate_single(of, Calibration())
        for name, value in wanted.metrics.items():
            if value is not None:
                assert np.asarray(together.metrics[name])[index] == pytest.approx(value, rel=1e-9), (name, index)


def test_a_group_is_one_of_the_ranks_that_hold_the_same_parameters() -> None:
    """Stride: tensor-parallel ranks hold other parameters, so sharers stand tp apart."""
    plan = replace(STEP, zero=3, sharding=Sharding(group=2.0))
    priced = step_model(scenario(plan, DENSE_MODEL, Parallelism(tp=2.0, dp=8.0)), plan, Calibration())
    assert priced.overlapped_comm is not None
    (gather,) = priced.overlapped_comm.layers["layer 0"]["gather"]
    assert isinstance(gather.operator, Collective)
    group: Group = gather.operator.group
    assert (group.size, group.stride) == (2.0, 2.0)
    across = next(
        item.operator
        for item in priced.overlapped_comm.layers["layer 0"]["reduce"]
        if "all-reduce" in item.operator.name
    )
    assert isinstance(across, Collective)
    assert (across.group.size, across.group.stride) == (4.0, 4.0)
