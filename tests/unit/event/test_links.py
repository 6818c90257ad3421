"""Messages on the links of a whole cluster: alone as long as their fit says, together as their flows share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import costmodel
from costmodel.analytic.operator_timing import operator_timer
from costmodel.api import event_engine
from costmodel.cost.calibration import Calibration
from costmodel.cost.time import message
from costmodel.event.graph import Graph
from costmodel.event.links import binding_links
from costmodel.event.task_groups import wire_seconds
from costmodel.hardware import Cluster
from costmodel.network.flows import FlowSession, run_flows
from costmodel.network.link_loads import LinkLoad, LinkLoads
from costmodel.network.routing import Flows, route
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.workload.operators import Collective, ExpertAllToAll, Group

PLACE = "scenarios.training.simulation"
FABRICS = ("h800-2048-mpft", "h800-2048-mrft")


def cluster(fabric: str = "h800-2048-mpft", **network: str) -> Cluster:
    changes = {f"hardware.network.{name}": value for name, value in network.items()}
    workload = costmodel.load("deepseek_v3", cluster=f"clusters/{fabric}", set=changes, scenarios=["training"])
    return workload.scenario("training").cluster


@cache
def simulated(fabric: str = "h800-2048-mpft", *, contention: bool = True, **network: str) -> tuple[float, Graph]:
    """Return the time and the tasks of a short training step of DeepSeek-V3: 32 micro-batches."""
    changes = {f"hardware.network.{name}": value for name, value in network.items()}
    changes |= {f"{PLACE}.contention": str(contention).lower(), "scenarios.training.global_batch": "4096"}
    workload = costmodel.load("deepseek_v3", set=changes, cluster=f"clusters/{fabric}", scenarios=["training"])
    engine = event_engine()
    value = workload.points(engine="event", simulation=engine)["training"].metrics["step_time"]
    assert value is not None
    return value, engine.timelines["training"].graph


def step(fabric: str = "h800-2048-mpft", *, contention: bool = True, **network: str) -> float:
    return simulated(fabric, contention=contention, **network)[0]


def exchange(ranks: float = 64.0, mode: str = "normal") -> ExpertAllToAll:
    family = "moe_dispatch" if mode == "normal" else "moe_dispatch_low_latency"
    return ExpertAllToAll(
        "dispatch",
        tokens=4096.0,
        token_bytes=7168.0,
        top_k=8,
        experts=256.0,
        expert_groups=8.0,
        group_top_k=4,
        group=Group(ranks),
        mode=mode,
        expert_load=1.0,
        family=family,
    )


def on(load: LinkLoad, kind: str, loads: LinkLoads) -> Array:
    """Return how full the links of a kind are."""
    names = [loads.cluster_links.names[link] for link in load.links]
    return np.array([busy for name, busy in zip(names, load.busy, strict=True) if name.startswith(kind)])


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("mode", ["normal", "low_latency"])
def test_an_exchange_alone_takes_as_long_as_where_no_flows_meet(fabric: str, mode: str) -> None:
    load = LinkLoads(cluster(fabric), 16, 128).collective(exchange(mode=mode), 3)
    assert load.slowdown == pytest.approx(1.0, rel=5e-3)


@pytest.mark.parametrize("kind", ["all_reduce", "reduce_scatter", "all_gather"])
@pytest.mark.parametrize("group", [Group(128.0), Group(256.0), Group(4.0, 64.0), Group(8.0)])
def test_a_collective_alone_takes_as_long_as_where_no_flows_meet(kind: str, group: Group) -> None:
    loads = LinkLoads(cluster(), 16, 128, stage_replicas=2)
    load = loads.collective(Collective(kind, kind, 1e9, group), 1)
    assert load.slowdown == pytest.approx(1.0, rel=5e-3)
    assert load.busy.max() <= load.isolated_time * (1 + 1e-9)


@pytest.mark.parametrize("narrow", [1, 3])
def test_what_crosses_leaves_shares_their_uplinks_and_nothing_else_does(narrow: int) -> None:
    """48 nodes stand under a leaf with 16 uplinks, three ranks of 16 nodes: all that they send to others takes thrice.

    With as many uplinks as NICs, or to ranks under the same leaf, nothing takes longer.
    """
    loads = LinkLoads(cluster(oversubscription=str(narrow)), 16, 128)
    alone = 1e6 / 50e9
    crossing = together([loads.send(1e6, rank, rank + 3) for rank in range(3)])
    assert crossing == pytest.approx([narrow * alone] * 3)
    staying = together([loads.send(1e6, source, target) for source, target in ((0, 1), (1, 0))])
    assert staying == pytest.approx([alone] * 2)


def test_hashed_paths_collide_and_adaptive_ones_do_not() -> None:
    found = {
        policy: LinkLoads(cluster(routing=policy), 16, 128).send(1e6, 1, 2).slowdown for policy in ("ecmp", "adaptive")
    }
    assert found["adaptive"] == pytest.approx(1.0)
    assert found["ecmp"] >= 2.0


def test_a_part_of_the_devices_loads_its_own_links_and_all_parts_together_what_the_rank_does() -> None:
    loads = LinkLoads(cluster(), 16, 128)
    whole = loads.collective(exchange(), 2)
    parts = [loads.collective(exchange(), 2, (number, 128)) for number in range(128)]
    together = np.zeros(len(loads.cluster_links.capacity))
    for part in parts:
        together[part.links] += part.busy
        assert part.isolated_time == whole.isolated_time
    assert together[whole.links] == pytest.approx(whole.busy)
    assert len(on(parts[0], "nic", loads)) < len(on(whole, "nic", loads))


def together(loads: Sequence[LinkLoad]) -> list[float]:
    """Return when messages end that start at the same time, each as one flow [s]."""
    weights = binding_links(loads, [(number, number) for number in range(len(loads))])
    session = FlowSession(np.ones(1 + max((link for each in weights for link in each), default=0)))
    numbers = [session.add(each, load.isolated_time, 1.0) for each, load in zip(weights, loads, strict=True)]
    ends = [0.0] * len(loads)
    while (at := session.next_completion()) is not None:
        for flow in session.advance(at):
            ends[numbers.index(flow)] = float(at)
    return ends


@pytest.mark.parametrize(
    ("network", "longer"), [({}, 0.0), ({"oversubscription": "3"}, 0.0), ({"routing": "ecmp"}, 0.15)]
)
def test_two_sends_end_when_all_of_their_flows_do(network: dict[str, str], longer: float) -> None:
    """The same by hand: the flows of both messages, one by one, on the flow level.

    A message goes on in proportion on all of its links: where hashes make some of its flows wait, others wait with
    them and do not leave a common NIC early.
    """
    loads = LinkLoads(cluster(**network), 16, 128)
    ends = together([loads.send(1e6, 2, 3), loads.send(1e6, 4, 3)])
    device = np.arange(128)
    source = np.concatenate([2 * 128 + device, 4 * 128 + device])
    target = np.tile(3 * 128 + device, 2)
    flows = Flows(source, target, np.full(256, 1e6))
    by_flow = run_flows(route(loads.cluster_links, flows, loads._policy).incidence, flows.size)
    assert by_flow.makespan * (1 - 1e-6) <= max(ends) <= by_flow.makespan * (1 + longer + 1e-6)


def test_of_what_is_exposed_the_same_share_is_on_the_wire() -> None:
    reduction = Collective("sum", "all_reduce", 1e6, Group(8.0))
    sent = operator_timer(costmodel.load("deepseek_v3").scenario("training"), Calibration()).time_operator(reduction)
    sent = replace(sent, time=message(4e-6, 1e-6))
    assert wire_seconds(sent, 2e-6) == pytest.approx(1.5e-6)


def test_two_messages_that_need_one_nic_take_as_long_as_both_and_those_that_need_others_do_not() -> None:
    loads = LinkLoads(cluster(), 16, 128)
    one, other = loads.send(1e6, 0, 1), loads.send(1e6, 0, 1)
    assert together([one, other]) == pytest.approx([2 * one.isolated_time] * 2)
    assert together([one, loads.send(1e6, 1, 0)]) == pytest.approx([one.isolated_time] * 2)  # the other way
    assert together([one, loads.send(1e6, 5, 6)]) == pytest.approx([one.isolated_time] * 2)


@st.composite
def messages(draw: st.DrawFn) -> tuple[list[LinkLoad], list[tuple[int, int]]]:
    count, links = draw(st.integers(1, 7)), draw(st.integers(1, 8))
    share = st.sampled_from((0.0, 0.0, 0.2, 0.35, 0.5, 1.0))
    rows = [np.array(draw(st.lists(share, min_size=links, max_size=links))) for _ in range(count)]
    loads = [LinkLoad(np.flatnonzero(row), row[row > 0], 1.0, 1.0) for row in rows]
    streams = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    return loads, [(stream // 2, stream) for stream in streams]


@given(messages())
def test_links_that_are_left_out_never_bound_what_streams_can_send(
    drawn: tuple[list[LinkLoad], list[tuple[int, int]]],
) -> None:
    """Any set of messages, one of each stream, has the same fair rates on all links as on those that are kept."""
    loads, senders = drawn
    kept = binding_links(loads, senders)
    for first in range(len(loads)):
        chosen: dict[int, int] = {}
        for at in (*range(first, len(loads)), *range(first)):
            chosen.setdefault(senders[at][1], at)
        few, every = FlowSession(np.ones(64)), FlowSession(np.ones(64))
        pairs = [
            (
                few.add(kept[at], 1.0, 1.0),
                every.add(dict(zip(loads[at].links.tolist(), loads[at].busy.tolist(), strict=True)), 1.0, 1.0),
            )
            for at in chosen.values()
        ]
        assert [few.rate(one) for one, _ in pairs] == pytest.approx([every.rate(other) for _, other in pairs], rel=1e-5)


def test_both_fabrics_train_equally_fast_with_all_their_links() -> None:
    mpft, mrft = (step(fabric) for fabric in FABRICS)
    assert mpft == pytest.approx(mrft, rel=5e-3)
    # The closed form lets the two messages of a pair of chunks meet always, links only those that do.
    assert mpft == pytest.approx(step(contention=False), rel=5e-3)


@pytest.mark.parametrize("network", [{"routing": "ecmp"}, {"failed": "[nic3]"}])
def test_collisions_and_lost_nics_make_the_step_longer(network: dict[str, str]) -> None:
    assert step(**network) > 1.001 * step()


def test_without_anything_that_meets_both_engines_agree() -> None:
    """Pairs of messages that share no link: DeepSeek-V2's exchanges stay inside nodes, its sends leave them."""
    few = {"scenarios.training.global_batch": "4096"}
    changes = {f"{PLACE}.contention": "true", **few}
    closed = costmodel.load("deepseek_v2", set=few, scenarios=["training"]).points()["training"]
    found = costmodel.load("deepseek_v2", set=changes, scenarios=["training"]).points(engine="event")["training"]
    assert found.metrics["step_time"] == pytest.approx(closed.metrics["step_time"], rel=5e-3)


def test_the_same_messages_take_the_same_paths_again() -> None:
    found, again = (LinkLoads(cluster(routing="ecmp"), 16, 128).collective(exchange(), 3) for _ in range(2))
    assert found.isolated_time == again.isolated_time
    np.testing.assert_array_equal(found.busy, again.busy)


def test_many_ranks_of_one_expert_group_are_not_simulated_twice() -> None:
    _, graph = simulated("h800-2048-mpft", contention=True)
    assert 1 + max(stream.device for stream in graph.streams) == 16
    sends = [task for task in graph.tasks if task.name == "pipeline send"]
    assert len(sends) == 2 * 15 * 2 * 16  # 32 micro-batches from both ends, activations and gradients, over 15 borders
    assert all(task.seconds > 2.8e-6 for task in sends)  # the fabric's latency at least, before bytes move
