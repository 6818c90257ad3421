"""What a training step makes kernels longer by: `throttle` all of them, `interference` those beside collectives."""

from __future__ import annotations

import pytest
from builders import CLUSTER, DENSE_MODEL, PREFILL, STEP, scenario

from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.overlapped_comm import DP_COMM_SLOWDOWN, within_node
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.operators import Collective, Group
from costmodel.workload.plans import Sharding
from costmodel.workload.scenario import Parallelism, Scenario

ALONE = Parallelism(dp=1.0)
SHARDED = replace(STEP, zero=3, sharding=Sharding(overlap=True))


def slowed(of: Scenario, throttle: float = 1.0, interference: float = 1.0) -> Scenario:
    return replace(of, framework=replace(of.framework, sustained_slowdown=throttle, dp_comm_slowdown=interference))


def lost(point: Point) -> float:
    return sum(entry.time for entry in point.breakdown if entry.name == DP_COMM_SLOWDOWN)


def step_of(of: Scenario) -> float:
    value = evaluate_point(of, Calibration()).metrics["step_time"]
    assert value is not None
    return value


def test_throttle_makes_a_step_of_kernels_alone_so_much_longer() -> None:
    of = scenario(STEP, DENSE_MODEL, ALONE)
    assert step_of(slowed(of, 1.25)) == pytest.approx(1.25 * step_of(of), rel=1e-12)


def test_throttle_leaves_messages_and_inference_alone() -> None:
    both = scenario(STEP, DENSE_MODEL, Parallelism(dp=8.0))
    before, after = (evaluate_point(slowed(both, factor), Calibration()) for factor in (1.0, 1.5))
    after_by_name = {entry.name: entry.time for entry in after.breakdown}
    sent = [entry for entry in before.breakdown if "network" in entry.by_bound]
    assert sent
    for entry in sent:
        assert after_by_name[entry.name] == entry.time
    prompts = scenario(PREFILL, DENSE_MODEL, ALONE)
    assert evaluate_point(slowed(prompts, 1.5), Calibration()).metrics == evaluate_point(prompts, Calibration()).metrics


def test_ranks_of_one_node_that_send_the_same_bytes_each() -> None:
    wide = Collective("gradients", "reduce_scatter", 1e9, Group(64.0, 8.0))
    few = within_node(wide, 8.0)
    assert few.group.size == 8
    assert few.size * 7 / 8 == pytest.approx(wide.size * 63 / 64)
    assert within_node(wide, 64.0).size == pytest.approx(wide.size)


def test_interference_is_a_share_of_what_collectives_take_inside_a_node() -> None:
    """Over NICs ten times slower collectives take longer, but keep no more processors busy."""
    of = slowed(scenario(SHARDED, DENSE_MODEL, Parallelism(dp=64.0)), interference=2.0)
    nic = CLUSTER.node.nic
    assert nic is not None
    slow = replace(
        of, cluster=replace(CLUSTER, node=replace(CLUSTER.node, nic=replace(nic, bandwidth=nic.bandwidth / 10)))
    )
    fast, slower = (evaluate_point(each, Calibration()) for each in (of, slow))
    assert lost(slower) == pytest.approx(lost(fast), rel=1e-9)
    assert lost(fast) > 0


def test_more_interference_is_never_faster_and_none_is_none() -> None:
    of = scenario(SHARDED, DENSE_MODEL, Parallelism(dp=64.0))
    steps = [step_of(slowed(of, interference=factor)) for factor in (1.0, 1.5, 2.0, 4.0)]
    assert steps == sorted(steps)
    assert lost(evaluate_point(of, Calibration())) == 0.0


def test_a_node_of_one_device_has_no_links_inside_to_go_by() -> None:
    lonely = replace(CLUSTER, node=replace(CLUSTER.node, count=1.0))
    of = scenario(SHARDED, DENSE_MODEL, Parallelism(dp=16.0), cluster=lonely)
    point = evaluate_point(slowed(of, interference=2.0), Calibration())
    plain = evaluate_point(of, Calibration())
    moved = sum(
        entry.time + entry.hidden
        for entry in plain.breakdown
        if "weight all-gather" in entry.name or "reduce-scatter" in entry.name
    )
    assert lost(point) == pytest.approx(0.5 * moved, rel=0.2)
    assert evaluate_point(
        scenario(SHARDED, DENSE_MODEL, ALONE, cluster=replace(lonely, node=replace(lonely.node, nic=None))),
        Calibration(),
    ).fits
