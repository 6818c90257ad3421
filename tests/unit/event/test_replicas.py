"""Data-parallel replicas one by one: alike without noise, as slow as the slowest with it."""

from __future__ import annotations

import numpy as np
import pytest
from builders import DECODE, FP8, LATENT, MOE, MOE_MODEL, PREFILL, STEP, scenario

from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError
from costmodel.event import replicas as module
from costmodel.event.engine import run
from costmodel.event.evaluation import EventEngine
from costmodel.event.graph import MESSAGE, Graph, Task
from costmodel.event.replicas import Replicas, replicas_spanned, replicated
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.architecture import Architecture, Layer
from costmodel.workload.operators import Collective, Group
from costmodel.workload.scenario import Communication, Parallelism, Scenario
from costmodel.workload.simulation import Simulation, Slowdown

EQUAL = Architecture("equal", 2048.0, 1000.0, (Layer(16, LATENT, MOE),))
LAYOUT = Parallelism(pp=4.0, dp=8.0, ep=4.0)
CASES = {
    "dualpipe": scenario(
        replace(STEP, schedule="dualpipe", global_batch=128.0), EQUAL, LAYOUT, FP8, Communication(10.0)
    ),
    "zero 3": scenario(replace(STEP, zero=3), MOE_MODEL, LAYOUT),
    "tensor parallel": scenario(STEP, MOE_MODEL, Parallelism(tp=2.0, pp=2.0, dp=4.0, ep=8.0)),
    "prefill": scenario(PREFILL, MOE_MODEL, replace(LAYOUT, pp=2.0)),
    "decode": scenario(DECODE, MOE_MODEL, Parallelism(dp=8.0, ep=8.0)),
}
STRAGGLER = Slowdown(1, "compute", 0.1)


def simulated(of: Scenario, *, full: bool = False, **asked: object) -> Point:
    told = replace(of, simulation=replace(Simulation(), **asked))
    return EventEngine(full=full).point(told, Calibration())


def time(of: Scenario, *, full: bool = False, **asked: object) -> float:
    point = simulated(of, full=full, **asked)
    value = point.metrics[point.headline]
    assert value is not None, point.reason
    return value


@pytest.mark.parametrize("case", CASES)
def test_replicas_without_noise_take_as_long_as_one(case: str) -> None:
    of = CASES[case]
    plain = time(of)
    assert time(of, replicas=3) == pytest.approx(plain, rel=1e-9)
    assert time(of, full=True) == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_one_slow_replica_holds_up_all_of_them(case: str) -> None:
    """Rank 1 + pp is rank 1 of the second replica, on which the simulation of one replica knows nothing."""
    of = CASES[case]
    slow = replace(STRAGGLER, rank=int(of.parallel.pp) + (1 if of.parallel.pp > 1 else 0))
    assert time(of, replicas=2, slowdowns=(slow,)) > 1.05 * time(of)
    every = time(of, replicas=2, slowdowns=(replace(STRAGGLER, rank=None),))
    assert time(of, replicas=2, slowdowns=(slow,)) <= every * (1 + 1e-9)


def test_replicas_that_share_no_experts_meet_only_at_the_reduction() -> None:
    """Until the passes are done the other replica runs at its own speed: its last pass ends before the slow one's."""
    of = scenario(STEP, MOE_MODEL, Parallelism(pp=2.0, dp=2.0))
    engine = EventEngine()
    told = replace(of, simulation=Simulation(replicas=2, slowdowns=(replace(STRAGGLER, rank=2),)))
    engine.point(told, Calibration())
    timeline = engine.timelines[of.name]
    passes = [span for span in timeline.graph.spans if span.kind != "optimizer"]
    ends = [max(timeline.finish[each.last] for each in passes if each.device // 2 == replica) for replica in (0, 1)]
    begins = [timeline.start[each.first] for each in timeline.graph.spans if each.kind == "optimizer"]
    assert ends[0] < 0.95 * ends[1]
    assert min(begins) >= ends[1]


def test_jitter_costs_more_the_more_replicas_wait_for_each_other() -> None:
    times = [np.mean([time(CASES["decode"], jitter=0.1, seed=seed, replicas=count) for seed in range(5)])
             for count in (1, 2, 8)]  # fmt: skip
    assert times[0] < times[1] < times[2]


@pytest.mark.parametrize(("case", "least"), [("dualpipe", 0.98), ("prefill", 1.0)])
def test_replicas_share_links_as_one_that_stands_for_all_does(case: str, least: float) -> None:
    """Without shared links the two messages of a pair of chunks are taken to meet always, which is longer."""
    of = CASES[case]
    assert of.cluster.network is not None
    of = replace(of, cluster=replace(of.cluster, network=replace(of.cluster.network, topology="ft2")))
    one = time(of, contention=True)
    assert one >= least * time(of) * (1 - 1e-9)
    assert time(of, contention=True, full=True) == pytest.approx(one, rel=1e-3)


def test_more_replicas_than_there_are_is_an_error_with_its_place() -> None:
    with pytest.raises(InputError, match="9 replicas are more than the layout has: dp = 8") as caught:
        simulated(CASES["decode"], replicas=9)
    assert caught.value.problems[0].field.endswith("simulation.replicas")


def test_too_many_tasks_are_an_error_where_replicas_differ_and_a_note_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_TASKS", 1000)
    (note,) = [
        each for each in simulated(CASES["zero 3"], full=True).notes if "identical data-parallel replicas" in each
    ]
    assert "one of 8" in note
    with pytest.raises(InputError, match="more than 1,000 tasks"):
        simulated(CASES["zero 3"], full=True, jitter=0.01)
    assert Replicas(8, 8, differ=True).simulated(125) == 8


def test_members_of_a_meeting_start_when_the_last_has_come() -> None:
    """Two pairs of four replicas: a kernel of 1 to 4 s by replica, then a message of 1 s that a pair has in common."""
    graph = Graph()
    for name in ("compute", "exchange"):
        graph.stream("rank 0", 0, name)
    kernel = graph.add(Task("kernel", 0, 1.0))
    message = graph.add(Task("message", 1, 1.0, (kernel,), MESSAGE))
    made = replicated(graph, 4, {message: 2}, lambda _: ())
    for replica in range(4):
        made.tasks[2 * replica] = made.tasks[2 * replica]._replace(seconds=1.0 + replica)
    found = run(made)
    assert found.start[1:8:2].tolist() == [2.0, 2.0, 4.0, 4.0]


@pytest.mark.parametrize(("ranks", "stride", "replicas"), [(8.0, 2.0, 4), (2.0, 1.0, 1), (4.0, 8.0, 8)])
def test_a_group_spans_the_replicas_whose_devices_it_reaches(ranks: float, stride: float, replicas: int) -> None:
    """With four devices a replica, eight ranks two apart reach 16 devices: four replicas."""
    message = Collective("sum", "all_reduce", 1.0, Group(ranks, stride))
    assert replicas_spanned(message, 4.0) == replicas
    assert replicas_spanned(None, 4.0) == 1
