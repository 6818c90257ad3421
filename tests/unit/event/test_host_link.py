"""Messages and copies that meet on a device's link to its host, by hand and by events."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from builders import DECODE, FP8, HOSTED, MOE_MODEL, PREFILL, scenario, with_device

from costmodel.analytic.evaluation import PassEvaluation
from costmodel.analytic.grid import evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.event.engine import run
from costmodel.event.evaluation import EventEngine
from costmodel.event.graph import Graph, Task
from costmodel.event.links import Links, LinkUse, pass_link_use
from costmodel.hardware import Link
from costmodel.network.flows import FlowSession
from costmodel.network.group_links import group_links
from costmodel.network.host import HOST_IN, HOST_OUT, NIC_IN, NIC_OUT, link_shares, message_bytes
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.operators import Collective, Group, HostTransfer
from costmodel.workload.plans import Decode, Prefill
from costmodel.workload.scenario import Communication, Offload, Parallelism, Scenario

EXCHANGE = LinkUse(1.0, {HOST_OUT: 0.75, HOST_IN: 0.75, NIC_OUT: 1.0, NIC_IN: 1.0})
COPY = LinkUse(1.0, {HOST_IN: 1.0}, is_copy=True)
Piece = tuple[LinkUse, float, tuple[int, ...]]  # what it moves, seconds alone, pieces that it waits for


def by_events(pieces: list[Piece], policy: str) -> list[float]:
    graph, links = Graph(), Links(None, policy)
    for number, (use, alone, after) in enumerate(pieces):
        stream = graph.stream("rank", 0, str(number))
        before, message = links.crossing(alone, use, (0, stream))
        graph.add(Task(str(number), stream, before, after, message=message))
    links.assign_links(graph)
    return [float(end) for end in run(graph).finish]


def test_what_never_meets_loses_nothing() -> None:
    assert by_events([(COPY, 3.0, ()), (EXCHANGE, 4.0, (0,))], "shared") == pytest.approx([3.0, 7.0], rel=1e-6)


def test_two_that_meet_all_along_keep_the_link_full() -> None:
    """The link has 4 s of a copy and 0.75 * 4 s of a message to carry, and both want it all the time: 7 s for each."""
    assert by_events([(COPY, 4.0, ()), (EXCHANGE, 4.0, ())], "shared") == pytest.approx([7.0, 7.0], rel=1e-6)


def test_the_shorter_of_two_is_slowed_wholly_and_the_longer_by_its_work() -> None:
    """A message of 1 s at 1/1.75 takes 1.75 s; the copy has then done 1 s of 8, and ends at 1.75 + 7 = 8.75 s."""
    assert by_events([(COPY, 8.0, ()), (EXCHANGE, 1.0, ())], "shared") == pytest.approx([8.75, 1.75], rel=1e-6)


def test_messages_first_leave_a_copy_what_they_do_not_take() -> None:
    """The copy does 4 * 0.25 = 1 s of its work beside the message of 4 s, and 3 s after it."""
    assert by_events([(COPY, 4.0, ()), (EXCHANGE, 4.0, ())], "messages_first") == pytest.approx([7.0, 4.0], rel=1e-6)


def test_copies_first_stop_a_message_that_finds_no_room() -> None:
    assert by_events([(COPY, 4.0, ()), (EXCHANGE, 1.0, ())], "copies_first") == pytest.approx([4.0, 5.0], rel=1e-6)


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


BUSY: Mapping[str, Decode | Prefill] = {
    "decode": replace(DECODE, batch_per_device=512.0, input_tokens=256.0),
    "prefill": replace(PREFILL, prefix_hit_rate=0.5, tokens_per_device=65_536.0),
}


def simulated(of: Scenario) -> float:
    return headline(EventEngine().point(of, Calibration()))


@pytest.mark.parametrize("phase", BUSY)
def test_a_pass_waits_where_copies_and_exchanges_share_a_link(phase: str) -> None:
    """With links of their own the pass takes what the closed form says, which knows no sharing."""
    separate = simulated(served(BUSY[phase], "separate"))
    assert separate == pytest.approx(headline(evaluate_point(served(BUSY[phase]), Calibration())), rel=5e-3)
    for policy in ("messages_first", "copies_first"):
        assert simulated(served(BUSY[phase], policy)) >= separate * (1.0 - 1e-9)
    assert simulated(served(BUSY[phase], "shared")) > 1.002 * separate


def test_a_pass_without_copies_has_no_shared_links() -> None:
    for offload, has_use in ((Offload(), False), (Offload(kv_cache=0.3), True)):
        of = replace(served(BUSY["decode"]), offload=offload)
        assert bool(pass_link_use(of, PassEvaluation(of, BUSY["decode"], Calibration()).model)) is has_use


def test_lines_of_a_breakdown_add_up_where_links_are_shared() -> None:
    point = EventEngine().point(served(BUSY["decode"]), Calibration())
    assert sum(line.time for line in point.breakdown) == pytest.approx(headline(point), rel=1e-9)
    assert all(line.time >= 0 for line in point.breakdown)
