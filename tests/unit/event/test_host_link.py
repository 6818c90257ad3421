"""Messages and copies that meet on a device's link to its host, by hand, in closed form and by events."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from builders import DECODE, FP8, FRAMEWORK, HOSTED, MOE_MODEL, PREFILL, pools, scenario, with_device

from costmodel.analytic.disaggregation import DisaggregatedEvaluation, delivered_cache
from costmodel.analytic.evaluation import PassEvaluation, evaluate
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.analytic.inference import pass_times
from costmodel.analytic.link_sharing import Meetings, Moving, shared_layout
from costmodel.analytic.recurrence import Event, compile_events
from costmodel.cost.calibration import Calibration
from costmodel.event.engine import run
from costmodel.event.evaluation import EventEngine
from costmodel.event.graph import MESSAGE, Graph, Task
from costmodel.event.links import Links
from costmodel.event.passes import pass_graph, pass_times_of
from costmodel.event.replicas import Replicas
from costmodel.hardware import Link, Nic
from costmodel.network.flow_session import FlowSession
from costmodel.network.group_links import group_links
from costmodel.network.link_shares import HOST_IN, HOST_OUT, NIC_IN, NIC_OUT, link_shares, message_bytes
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.operators import Collective, Group, HostTransfer
from costmodel.workload.plans import Decode, Prefill
from costmodel.workload.scenario import Communication, Offload, Parallelism, Scenario

EXCHANGE = Moving(1.0, {HOST_OUT: 0.75, HOST_IN: 0.75, NIC_OUT: 1.0, NIC_IN: 1.0})
COPY = Moving(1.0, {HOST_IN: 1.0}, is_copy=True)
CACHES = Moving(1.0, {HOST_OUT: 0.5, NIC_OUT: 0.75})
Piece = tuple[Moving, float, tuple[int, ...]]  # what it moves, seconds alone, pieces that it waits for


def in_closed_form(pieces: list[Piece], policy: str) -> list[float]:
    events = [Event(number, (0, number), after) for number, (_, _, after) in enumerate(pieces)]
    program = compile_events(events, [(0, number) for number in range(len(pieces))])
    seconds = np.array([[alone] for _, alone, _ in pieces])
    beside = frozenset(number for number, (moving, _, _) in enumerate(pieces) if moving is CACHES)
    layout = shared_layout(program, seconds, Meetings([moving for moving, _, _ in pieces], policy, beside, slowed=-1))
    return [float(end) for end in layout.finish[:, 0]]


def by_events(pieces: list[Piece], policy: str) -> list[float]:
    graph, links = Graph(), Links(None, policy)
    for number, (moving, alone, after) in enumerate(pieces):
        stream = graph.stream("rank", 0, str(number))
        before, message = links.crossing(alone, moving, (0, stream))
        graph.add(Task(str(number), stream, before, after, message=message))
    links.assign_links(graph)
    return [float(end) for end in run(graph).finish]


ENGINES = pytest.mark.parametrize("ends", [in_closed_form, by_events])
Ends = Callable[[list[Piece], str], list[float]]


@ENGINES
def test_what_never_meets_loses_nothing(ends: Ends) -> None:
    assert ends([(COPY, 3.0, ()), (EXCHANGE, 4.0, (0,))], "shared") == pytest.approx([3.0, 7.0], rel=1e-6)


@ENGINES
def test_two_that_meet_all_along_keep_the_link_full(ends: Ends) -> None:
    """The link has 4 s of a copy and 0.75 * 4 s of a message to carry, and both want it all the time: 7 s for each."""
    assert ends([(COPY, 4.0, ()), (EXCHANGE, 4.0, ())], "shared") == pytest.approx([7.0, 7.0], rel=1e-6)


@ENGINES
def test_the_shorter_of_two_is_slowed_wholly_and_the_longer_by_its_work(ends: Ends) -> None:
    """A message of 1 s at 1/1.75 takes 1.75 s; the copy has then done 1 s of 8, and ends at 1.75 + 7 = 8.75 s."""
    assert ends([(COPY, 8.0, ()), (EXCHANGE, 1.0, ())], "shared") == pytest.approx([8.75, 1.75], rel=1e-6)


@ENGINES
def test_messages_first_leave_a_copy_what_they_do_not_take(ends: Ends) -> None:
    """The copy does 4 * 0.25 = 1 s of its work beside the message of 4 s, and 3 s after it."""
    assert ends([(COPY, 4.0, ()), (EXCHANGE, 4.0, ())], "messages_first") == pytest.approx([7.0, 4.0], rel=1e-6)


@ENGINES
def test_copies_first_stop_a_message_that_finds_no_room(ends: Ends) -> None:
    assert ends([(COPY, 4.0, ()), (EXCHANGE, 1.0, ())], "copies_first") == pytest.approx([4.0, 5.0], rel=1e-6)


@ENGINES
def test_with_links_of_their_own_neither_gives_way(ends: Ends) -> None:
    assert ends([(COPY, 4.0, ()), (EXCHANGE, 4.0, ())], "separate") == pytest.approx([4.0, 4.0], rel=1e-6)


@ENGINES
def test_caches_on_their_way_to_another_pool_share_the_nic_with_an_exchange(ends: Ends) -> None:
    """Together they want 1.75 of the NIC and 1.25 of the link to the host: 1.75 counts, whatever goes first there."""
    for policy in ("shared", "messages_first", "separate"):
        assert ends([(CACHES, 4.0, ()), (EXCHANGE, 4.0, ())], policy) == pytest.approx([7.0, 7.0], rel=1e-6)


def test_kernels_beside_exchanges_lose_what_both_engines_say() -> None:
    """At a slowdown of 2 a kernel of 4 s does 0.5 s of its work beside an exchange of 1 s; what waits for it is late.

    Kernels of 4 and 2 s, an exchange of 1 s beside the first and one of 3 s behind it, which the second waits for: they
    end at 4.5, 9.5, 1 and 7.5 s. The compute stream is idle for 3 s of that, and hides nothing of the half second.
    """
    events = [Event(0, (0, 0)), Event(1, (0, 1)), Event(1, (0, 2), (0,)), Event(0, (0, 3), (2,))]
    program = compile_events(events, [(0, number) for number in range(4)])
    meetings = Meetings([None] * 4, slowed=0, slowing=1, slowdown=2.0)
    layout = shared_layout(program, np.array([[4.0], [1.0], [3.0], [2.0]]), meetings)
    graph = Graph(moe_comm_slowdown=2.0)
    compute, exchanges = (graph.stream("rank", 0, name) for name in ("compute", "exchanges"))
    graph.add(Task("kernel", compute, 4.0))
    graph.add(Task("exchange", exchanges, 1.0, (), MESSAGE, slows_kernels=True))
    graph.add(Task("exchange", exchanges, 3.0, (0,), MESSAGE, slows_kernels=True))
    graph.add(Task("kernel", compute, 2.0, (2,)))
    for ends in (layout.finish[:, 0], run(graph).finish):
        assert ends == pytest.approx([4.5, 1.0, 7.5, 9.5], rel=1e-6)


def test_a_class_gets_what_higher_ones_leave() -> None:
    """Of a link of 10 B/s the first class takes 6; two flows share the other 4 evenly, at 2 B/s each."""
    session = FlowSession(np.array([10.0]))
    low = [session.add({0: 1.0}, 100.0) for _ in range(2)]
    high = session.add({0: 1.0}, 100.0, limit=6.0, priority=1)
    assert [session.rate(flow) for flow in (high, *low)] == [6.0, 2.0, 2.0]


# ---- shares of links ------------------------------------------------------------------------------------------------

WIDE = with_device(HOSTED, replace(HOSTED.device, links={**HOSTED.device.links, "pcie": Link("pcie", 64e9, 2e-6)}))


def test_a_copy_fills_the_host_s_link_and_less_where_the_host_s_memory_bounds_it() -> None:
    """64 GB at 64 GB/s take 1 s; at 50 GB/s of the host's memory, 1.28 s, the link is in use for 0.78 of it."""
    copy = HostTransfer("cache", 64e9, "in", 8.0)
    assert link_shares(copy, 1.0, WIDE) == {HOST_IN: 1.0}
    assert link_shares(copy, 1.28, WIDE) == {HOST_IN: pytest.approx(0.78125)}
    assert link_shares(replace(copy, direction="out"), 1.25, WIDE, efficiency=0.8) == {HOST_OUT: 1.0}


def test_a_message_between_nodes_crosses_its_nic_and_the_host_s_link() -> None:
    """50 GB over a NIC of 50 GB/s in 1.25 s: 0.8 of the NIC, 0.625 of 64 GB/s."""
    send = Collective("send", "send_recv", 50e9, Group(2.0, 8.0), family="send_recv")
    shares = link_shares(send, 1.25, WIDE)
    assert shares == {
        link: pytest.approx(share)
        for link, share in {HOST_OUT: 0.625, HOST_IN: 0.625, NIC_OUT: 0.8, NIC_IN: 0.8}.items()
    }
    assert link_shares(replace(send, group=Group(2.0)), 1.25, WIDE) == {}  # over NVLink


@pytest.mark.parametrize(
    ("kind", "intra", "inter"),
    [  # 16 ranks on two nodes, S = 16 bytes
        ("all_gather", 15 * 7 / 8, 15 / 8),
        ("reduce_scatter", 15 * 7 / 8, 15 / 8),
        ("all_reduce", 30 * 7 / 8, 30 / 8),
        ("broadcast", 16 * 7 / 8, 16 / 8),
        ("all_to_all", 7.0, 8.0),
    ],
)
def test_bytes_of_collectives_on_both_kinds_of_link(kind: str, intra: float, inter: float) -> None:
    both = Collective(kind, kind, 16.0, Group(16.0))
    assert message_bytes(both, group_links(both.group, WIDE)) == pytest.approx((intra, inter))
    alone = replace(both, group=Group(8.0))
    assert message_bytes(alone, group_links(alone.group, WIDE))[1] == 0.0


# ---- whole passes ---------------------------------------------------------------------------------------------------


def served(plan: Decode | Prefill, policy: str = "shared", share: float = 0.3, mode: str = "low_latency") -> Scenario:
    """Return a mixture of experts on 16 devices of two nodes whose KV cache is partly the host's."""
    drawn = scenario(
        plan, MOE_MODEL, Parallelism(dp=16.0, ep=16.0), FP8, Communication(mode=mode, host_link=policy), WIDE
    )
    return replace(drawn, offload=Offload(kv_cache=share))


def headline(point: Point) -> float:
    value = point.metrics[point.headline]
    assert value is not None
    return value


def both_engines(of: Scenario) -> tuple[float, float]:
    calibration = Calibration()
    return headline(evaluate_point(of, calibration)), headline(EventEngine().point(of, calibration))


BUSY: Mapping[str, Decode | Prefill] = {
    "decode": replace(DECODE, batch_per_device=512.0, input_tokens=256.0),
    "prefill": replace(PREFILL, prefix_hit_rate=0.5, tokens_per_device=65_536.0),
}


@pytest.mark.parametrize("phase", BUSY)
@pytest.mark.parametrize("policy", ["shared", "messages_first", "copies_first", "separate"])
def test_both_engines_slow_a_pass_alike(phase: str, policy: str) -> None:
    closed, simulated = both_engines(served(BUSY[phase], policy))
    assert simulated == pytest.approx(closed, rel=5e-3)


def test_a_decoding_step_waits_for_copies_and_exchanges_that_meet() -> None:
    shared, separate = (
        headline(evaluate_point(served(BUSY["decode"], policy), Calibration())) for policy in ("shared", "separate")
    )
    assert shared > 1.01 * separate
    alone = replace(served(BUSY["decode"]), offload=Offload())
    assert headline(evaluate_point(alone, Calibration())) < separate


def test_kernels_that_exchanges_slow_are_laid_out_where_a_pass_copies() -> None:
    """What streams wait for hides little of what kernels lose: both engines agree, and a grid holds its points."""
    slow = replace(FRAMEWORK, moe_comm_slowdown=1.4)
    of = replace(served(BUSY["prefill"], mode="normal"), framework=slow)
    closed, simulated = both_engines(of)
    assert simulated == pytest.approx(closed, rel=5e-3)
    shares = np.array([0.0, 0.3])
    grid = evaluate_grid(replace(of, offload=Offload(kv_cache=shares)), Calibration(), (2,)).metrics["ttft"]
    points = [headline(evaluate_point(replace(of, offload=Offload(kv_cache=share)), Calibration())) for share in shares]
    assert np.asarray(grid) == pytest.approx(points, rel=1e-9)
    factors = np.array([[1.0], [1.4]])
    slower = replace(of, framework=replace(slow, moe_comm_slowdown=factors), offload=Offload(kv_cache=shares[None, :]))
    table = np.asarray(evaluate_grid(slower, Calibration(), (2, 2)).metrics["ttft"])
    assert table[1] == pytest.approx(points, rel=1e-9)
    assert np.all(table[0] < table[1])


def test_a_pass_without_copies_has_no_shared_links() -> None:
    assert evaluate(replace(served(BUSY["decode"]), offload=Offload()), Calibration()).model.moving == {}


def test_lines_of_a_breakdown_add_up_where_links_are_shared() -> None:
    point = evaluate_point(served(BUSY["decode"]), Calibration())
    assert sum(line.time for line in point.breakdown) == pytest.approx(headline(point), rel=1e-9)
    assert all(line.time >= 0 for line in point.breakdown)


def test_caches_between_pools_and_exchanges_slow_each_other_in_both_engines() -> None:
    """Caches of a pass beside its exchanges: both take longer than alone, and the events say how much."""
    plan = pools(Parallelism(dp=16.0, ep=16.0), Parallelism(dp=16.0, ep=16.0))
    plan = replace(plan, prefill=replace(plan.prefill, plan=replace(PREFILL, micro_batches=1)))
    of = scenario(plan, MOE_MODEL, plan.decode.parallel, FP8, cluster=WIDE)
    evaluation = evaluate(of, Calibration())
    assert isinstance(evaluation, DisaggregatedEvaluation)
    times = evaluation.times()
    alone = PassEvaluation(of.of_pool(plan.prefill), BUSY["prefill"], Calibration()).model
    pool = evaluation.prefill_pass
    graph = pass_graph(of.of_pool(plan.prefill), pool, Replicas())
    simulated = pass_times_of(pool, graph, run(graph.graph))
    assert times.sending > 1.05
    assert float(times.prefill.latency) > 1.001 * float(pass_times(replace(pool, moving={}), None).latency)
    assert simulated.latency == pytest.approx(float(times.prefill.latency), rel=5e-3)
    assert simulated.background == pytest.approx(float(times.prefill.background), rel=5e-3)
    assert alone.moving == {}


def test_caches_leave_a_stage_with_its_share_of_the_layers_and_arrive_request_by_request() -> None:
    """Four prompts of 1,024 tokens a device and pass, over two stages; 32 requests a device, one in 255 steps each."""
    plan = pools(Parallelism(pp=2.0, dp=8.0, ep=8.0), Parallelism(dp=16.0, ep=16.0))
    of = scenario(plan, MOE_MODEL, plan.decode.parallel, FP8, cluster=WIDE)
    evaluation = evaluate(of, Calibration())
    assert isinstance(evaluation, DisaggregatedEvaluation)
    leaving, arriving = (model.background for model in (evaluation.prefill_pass, evaluation.decode_pass))
    assert leaving is not None
    assert arriving is not None
    assert isinstance(leaving.operator, Collective)
    assert isinstance(arriving.operator, Collective)
    cache = delivered_cache(of, plan)
    assert leaving.operator.size == pytest.approx(4 * cache / 2)
    assert arriving.operator.size == pytest.approx(32 / 255 * cache)


def test_what_links_carry_of_caches_is_less_beside_exchanges() -> None:
    """A NIC of 0.1 GB/s bounds prompts that are mostly cached: caches that it carries, over what each takes longer."""
    slow = replace(WIDE, node=replace(WIDE.node, nic=Nic(1e8, 1.0, 2e-6)))
    plan = pools(Parallelism(dp=16.0, ep=16.0), Parallelism(dp=16.0, ep=16.0), hits=0.98)
    of = scenario(plan, MOE_MODEL, plan.decode.parallel, FP8, cluster=slow)
    evaluation = evaluate(of, Calibration())
    assert isinstance(evaluation, DisaggregatedEvaluation)
    times = evaluation.times()
    carried = 1e8 / delivered_cache(of, plan)
    rate = evaluate_point(of, Calibration()).metrics["prefill_tokens_per_second_per_device"]
    own = 4 / float(times.prefill.slowest)  # prompts of a pass
    assert times.sending > 1.0
    assert rate == pytest.approx(1024 * min(own, carried / float(times.sending)))
    assert carried / float(times.sending) < own
