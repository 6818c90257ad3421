"""Collectives on the flow level: against closed forms, against symmetry, and what moves them."""

from __future__ import annotations

import numpy as np
import pytest
from builders import CLUSTER, NODE, ONE_NODE

from costmodel.errors import InfeasibleError, InputError
from costmodel.hardware import Cluster, Link, Network
from costmodel.network.collective_flows import ALGORITHMS, bus_factor, phases
from costmodel.network.collectives import CLOSED_FORMS, algorithm_time, best_chunks, pipelined
from costmodel.network.expert_all_to_all import expert_all_to_all_time, payload_bytes
from costmodel.network.group_links import group_links, layout
from costmodel.network.simulation import FlowRun, phase_outcome, run_collective, run_expert_all_to_all
from costmodel.network.uniform_all_to_all import uniform_flow_classes
from costmodel.records import replace
from costmodel.schema.files import load_cluster
from costmodel.workload.operators import ExpertAllToAll, Group

SIZE = 1e9
MPFT, MRFT = load_cluster("h800-2048-mpft"), load_cluster("h800-2048-mrft")
assert CLUSTER.network is not None
# Links to the host that are no slower than the NICs behind them, as in every shipped node
HOST_LINK = Link("pcie", 100e9, 2e-6)
WIDE = replace(NODE, device=replace(NODE.device, links={**NODE.device.links, "pcie": HOST_LINK}))
INSTANT = replace(
    CLUSTER,
    node=replace(WIDE, intra=replace(WIDE.intra, latency=0.0)),
    network=replace(CLUSTER.network, topology="mrft", latency_same_leaf=0.0, latency_cross_leaf=0.0),
)
EVERY = [(kind, name) for kind, forms in CLOSED_FORMS.items() for name in forms if name != "bucket"]  # of tori alone


def with_network(cluster: Cluster, **changes: object) -> Cluster:
    assert cluster.network is not None
    return replace(cluster, network=replace(cluster.network, **changes))  # type: ignore[arg-type]


def time(kind: str, cluster: Cluster, ranks: int, algorithm: str | None = None, size: float = SIZE) -> float:
    return run_collective(kind, size, FlowRun(cluster, layout(cluster, ranks)), algorithm).time


def test_the_two_levels_have_the_same_algorithms() -> None:
    assert {kind: set(made) for kind, made in ALGORITHMS.items()} == {
        kind: set(made) for kind, made in CLOSED_FORMS.items()
    }


@pytest.mark.parametrize(("kind", "algorithm"), EVERY)
@pytest.mark.parametrize("ranks", [2, 8])
def test_in_a_node_flows_take_the_closed_form(kind: str, algorithm: str, ranks: int) -> None:
    closed = algorithm_time(kind, algorithm, SIZE, group_links(Group(float(ranks)), ONE_NODE))
    share = 1.0 if algorithm != "tree" or ranks > 2 else 0.5  # of two ranks either tree is one edge
    if algorithm == "tree":
        assert share * 0.5 * closed <= time(kind, ONE_NODE, ranks, algorithm) <= closed * (1 + 1e-9)
    else:
        assert time(kind, ONE_NODE, ranks, algorithm) == pytest.approx(float(closed), rel=1e-9)


@pytest.mark.parametrize(("kind", "algorithm"), [pair for pair in EVERY if pair[1] != "tree"])
@pytest.mark.parametrize("ranks", [16, 64])
def test_between_nodes_flows_that_meet_no_others_take_the_closed_form(kind: str, algorithm: str, ranks: int) -> None:
    closed = algorithm_time(kind, algorithm, SIZE, group_links(Group(float(ranks)), INSTANT))
    assert time(kind, INSTANT, ranks, algorithm) == pytest.approx(float(closed), rel=1e-9)


def test_what_goes_up_an_edge_of_the_two_trees_comes_down_it() -> None:
    """Edges of eight ranks in order: 1-2, 2-4, 3-2, 4-0, 5-6, 6-4, 7-6; of the second tree a rank on."""
    (up_and_down,) = phases("all_reduce", "tree", SIZE, layout(ONE_NODE, 8))
    edges = {(1, 2), (2, 4), (3, 2), (4, 0), (5, 6), (6, 4), (7, 6)}
    both = [*edges, *(((child + 1) % 8, (parent + 1) % 8) for child, parent in edges)]
    sent = zip(up_and_down.source.tolist(), up_and_down.target.tolist(), strict=True)
    assert sorted(sent) == sorted([*both, *((parent, child) for child, parent in both)])


@pytest.mark.parametrize("nodes", [3, 5])
def test_rings_stay_on_their_rails_over_an_odd_number_of_nodes(nodes: int) -> None:
    closed = algorithm_time("all_gather", "ring", SIZE, group_links(Group(8.0 * nodes), INSTANT))
    assert time("all_gather", INSTANT, 8 * nodes, "ring") == pytest.approx(float(closed), rel=1e-9)


@pytest.mark.parametrize("kind", list(ALGORITHMS))
def test_a_collective_of_one_takes_no_time(kind: str) -> None:
    assert time(kind, ONE_NODE, 1) == 0.0


def test_latency_is_what_is_left_of_an_empty_collective() -> None:
    outcome = run_collective("all_gather", 0.0, FlowRun(ONE_NODE, layout(ONE_NODE, 8)), "ring")
    assert outcome.time == outcome.latency == pytest.approx(7e-6)
    assert outcome.bottleneck == "latency"
    assert outcome.bottleneck_text == "latency"


# ---- symmetry -------------------------------------------------------------------------------------------------------

SHAPES = [
    ("mpft", 8.0, {}),
    ("mpft", 8.0, {"pxn": False}),
    ("mrft", 1.0, {}),
    ("mrft", 1.0, {"pxn": False}),
    ("ft2", 1.0, {}),
    ("ft3", 1.0, {"radix": 16.0}),
    ("rail", 1.0, {}),
    ("mrft", 1.0, {"oversubscription": 2.0, "radix": 96.0}),
]


@pytest.mark.parametrize("placed", [{}, {"stride": 4}, {"stride": 2, "groups": 4}], ids=["packed", "spread", "groups"])
@pytest.mark.parametrize(("topology", "planes", "more"), SHAPES)
@pytest.mark.parametrize(
    ("policy", "shares"), [("spray", {}), ("static", {}), ("adaptive", {}), ("spray", {"fabric": 0.1})]
)
def test_symmetry_gives_what_the_flows_give(
    topology: str,
    planes: float,
    more: dict[str, object],
    placed: dict[str, int],
    policy: str,
    shares: dict[str, float],
) -> None:
    cluster = with_network(MRFT, topology=topology, planes=planes, routing=policy, **more)
    run = FlowRun(cluster, layout(cluster, 64, **placed), shares)
    by_symmetry = run_collective("all_to_all", SIZE, run, "direct")
    (phase,) = phases("all_to_all", "direct", SIZE, run.rank_layout)
    by_flows = phase_outcome(phase, run)
    assert by_symmetry.time == pytest.approx(by_flows.time, rel=1e-9)
    assert by_symmetry.latency == pytest.approx(by_flows.latency)


def test_symmetry_is_not_claimed_where_it_does_not_hold() -> None:
    capacity = {"intra": 1.0, "nic": 1.0, "fabric": 1.0}
    uneven = layout(MRFT, 8 * 33)  # 32 nodes on one leaf, one on the next
    assert uniform_flow_classes(MRFT, uneven, capacity, "spray") is None
    apart = layout(with_network(MRFT, topology="ft2"), 128)
    assert uniform_flow_classes(with_network(MRFT, topology="ft2"), apart, capacity, "ecmp") is None
    together = layout(with_network(MRFT, topology="ft2"), 16)  # two nodes on one leaf: no path to draw
    assert uniform_flow_classes(with_network(MRFT, topology="ft2"), together, capacity, "ecmp") is not None
    small = with_network(replace(MPFT, count=64.0), radix=4.0)  # planes of four leaves with two ports each: 8 nodes
    assert uniform_flow_classes(small, layout(small, 64), capacity, "spray") is not None
    assert uniform_flow_classes(small, layout(small, 128), capacity, "spray") is None
    broken = with_network(MPFT, failed=("plane0",))
    assert uniform_flow_classes(broken, layout(broken, 128), capacity, "spray") is None


def test_a_uniform_exchange_of_a_whole_cluster_needs_no_flows() -> None:
    large = replace(MPFT, count=2048.0)
    outcome = run_collective("all_to_all", SIZE, FlowRun(large, layout(large, 16_384)))
    assert outcome.cluster_links is None
    assert outcome.time == pytest.approx((16_384 - 8) / 16_384 * SIZE / 50e9 + 7.03e-6)


# ---- planes, rails and routing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [32, 64, 128])
@pytest.mark.parametrize("size", [2.0**27, 2.0**34])
def test_planes_and_rails_are_alike_and_what_parts_them_is_as_large_as_by_hand(ranks: int, size: float) -> None:
    """DeepSeek-AI, arXiv 2505.09343, figures 5 and 6; the hand calculations are those of reports/network."""
    planes, rails = (time("all_to_all", cluster, ranks, size=size) for cluster in (MPFT, MRFT))
    assert planes == pytest.approx(rails, rel=0.015)
    off = [time("all_to_all", with_network(cluster, pxn=False), ranks, size=size) for cluster in (MPFT, MRFT)]
    assert off[0] / planes == pytest.approx((1 + 7 / 8) * 50 / 64, rel=0.002)
    assert off[0] / off[1] > 1.05
    assert time("all_to_all", with_network(MPFT, failed=("plane3",)), ranks, size=size) / planes == pytest.approx(
        8 / 7, rel=0.002
    )
    nodes = ranks // 8
    placed = layout(MPFT, ranks, stride=256 // nodes, groups=2048 // ranks)
    full, half = (
        run_collective("all_to_all", size, FlowRun(with_network(MPFT, oversubscription=over, radix=radix), placed)).time
        for over, radix in ((1.0, 64.0), (2.0, 96.0))
    )
    a_leaf = max(nodes // 4, 1)
    assert half / full == pytest.approx(2 * (nodes - a_leaf) / (nodes - 1), rel=0.004)
    assert half / full > 1.05


@pytest.mark.parametrize("members", [2, 8, 32])
def test_hashed_paths_are_slower_than_static_and_adaptive_ones(members: int) -> None:
    """DeepSeek-AI, arXiv 2505.09343, figure 8: all-gathers over the leaves of an Ethernet fabric."""
    fabric = replace(MRFT.network, topology="ft2")  # type: ignore[type-var]
    single = replace(MRFT, node=replace(MRFT.node, count=1.0), count=256.0, network=fabric)
    rank_layout = layout(single, members, stride=256 // members, groups=256 // members)

    def gather(policy: str) -> float:
        return run_collective(
            "all_gather", SIZE, FlowRun(with_network(single, routing=policy), rank_layout), "ring"
        ).time

    assert gather("static") == pytest.approx(gather("adaptive"), rel=1e-6)
    assert gather("spray") == pytest.approx(gather("adaptive"), rel=1e-6)
    assert gather("ecmp") > 1.5 * gather("adaptive")


def test_more_failures_never_help() -> None:
    lost = [(), ("plane0",), ("plane0", "plane1"), ("plane0", "plane1", "plane2")]
    times = [time("all_to_all", with_network(MPFT, failed=failed), 32) for failed in lost]
    assert times == sorted(times)
    assert times[3] / times[0] == pytest.approx(8 / 5, rel=1e-3)


def test_nodes_without_a_nic_cannot_exchange() -> None:
    lone = replace(CLUSTER, node=replace(NODE, nic=None))
    for kind in ("all_to_all", "all_reduce"):
        with pytest.raises(InfeasibleError, match="no NIC"):
            time(kind, lone, 16)


def test_unknown_collectives_and_algorithms_are_errors() -> None:
    run = FlowRun(ONE_NODE, layout(ONE_NODE, 8))
    for kind, algorithm, message in (
        ("gossip", "ring", "no collective is named 'gossip'"),
        ("all_reduce", "telepathy", "all_reduce has no algorithm 'telepathy'"),
    ):
        with pytest.raises(InputError, match=message):
            run_collective(kind, SIZE, run, algorithm)
    with pytest.raises(InputError, match="power of two"):
        run_collective("all_reduce", SIZE, FlowRun(ONE_NODE, layout(ONE_NODE, 6)), "halving_doubling")
    with pytest.raises(InputError, match="negative or not a number"):
        run_collective("all_reduce", float("inf"), run)


def test_a_box_without_switches_does_not_add_up_on_the_way() -> None:
    box = load_cluster("nodes/rtx-4090-x8")
    with pytest.raises(InputError, match="no switches that copy or add up"):
        time("all_reduce", box, 8, "in_switch")
    halved = 7 / 8 * SIZE / (box.node.intra.bandwidth / 2)
    assert time("all_to_all", box, 8) == pytest.approx(halved, rel=1e-3)


# ---- experts --------------------------------------------------------------------------------------------------------


def exchange(ranks: int, kind: str = "dispatch", mode: str = "normal") -> ExpertAllToAll:
    """Return V3's, 4,096 tokens a rank in FP8."""
    copy = 7168 * float(payload_bytes("fp8"))
    return ExpertAllToAll(
        kind,
        tokens=4096.0,
        token_bytes=copy,
        top_k=8,
        experts=256.0,
        expert_groups=8.0,
        group_top_k=4,
        group=Group(float(ranks)),
        mode=mode,
        expert_load=1.0,
        family=kind,
    )


@pytest.mark.parametrize("mode", ["normal", "low_latency"])
@pytest.mark.parametrize("ranks", [8, 16, 32, 64])
def test_an_exchange_takes_its_closed_form(ranks: int, mode: str) -> None:
    operator = exchange(ranks, mode=mode)
    outcome = run_expert_all_to_all(operator, FlowRun(INSTANT, layout(INSTANT, ranks)))
    assert outcome.time == pytest.approx(
        float(expert_all_to_all_time(operator, group_links(operator.group, INSTANT))), rel=1e-9
    )


def test_one_copy_a_node_beats_one_an_expert() -> None:
    run = FlowRun(INSTANT, layout(INSTANT, 64))
    once, each = (run_expert_all_to_all(exchange(64, mode=mode), run).time for mode in ("normal", "low_latency"))
    assert each / once == pytest.approx(8 * (1 - 8 / 64) / (3.629 * 7 / 8), rel=1e-3)


def test_copies_in_the_network_help_senders_and_not_receivers() -> None:
    """Full-duplex links carry what is received at the same time, so that the time stays (MECHANISMS of the paper)."""
    run = FlowRun(INSTANT, layout(INSTANT, 64))
    plain, copied = (run_expert_all_to_all(exchange(64), run, in_network=which) for which in (False, True))
    assert plain.carried is not None
    assert copied.carried is not None
    assert copied.cluster_links is not None
    sent, received = (copied.cluster_links.numbers[f"nic_{way}"] for way in ("up", "down"))
    assert copied.time == pytest.approx(plain.time)
    assert copied.carried[sent] == pytest.approx(plain.carried[sent] / (3.629 * 7 / 8), rel=1e-3)
    assert copied.carried[received] == pytest.approx(plain.carried[received])


def test_payloads_have_their_scales() -> None:
    assert payload_bytes("bf16") == 2.0
    assert payload_bytes("fp8") == pytest.approx(1 + 4 / 128)
    assert payload_bytes("logfmt8") == pytest.approx(1 + 8 / 128)
    assert payload_bytes("logfmt10") == pytest.approx(1.25 + 8 / 128)
    with pytest.raises(InputError, match="unknown payload 'fp7'"):
        payload_bytes("fp7")


def test_chunks_are_as_many_as_make_the_pipeline_shortest() -> None:
    best = float(best_chunks(1e-2, 8.0, 1e-6))
    times = [float(pipelined(1e-2, 8.0, 1e-6, chunks)) for chunks in (best - 20, best, best + 20)]
    assert times[1] == min(times)
    assert float(pipelined(1e-2, 8.0, 1e-6, 1.0)) == pytest.approx(8 * (1e-2 + 1e-6))
    assert float(best_chunks(0.0, 8.0, 1e-6)) == 1.0


def test_bus_bandwidth_counts_as_nccl_tests_does() -> None:
    assert bus_factor("all_reduce", 8) == 2 * 7 / 8
    assert bus_factor("all_gather", 8) == bus_factor("all_to_all", 8) == 7 / 8
    assert bus_factor("broadcast", 8) == bus_factor("send_recv", 8) == 1.0


def test_a_slow_link_to_the_host_bounds_the_nic_behind_it() -> None:
    narrow = replace(INSTANT, node=replace(INSTANT.node, device=NODE.device))  # 25 GB/s before 50
    assert time("all_to_all", narrow, 64) == pytest.approx(2 * time("all_to_all", INSTANT, 64))


def test_an_unknown_network_is_one_switch() -> None:
    plain = Cluster("plain", WIDE, 4.0, Network("unspecified", 1.0, 32.0, None, None, None, "static"))
    assert time("all_to_all", plain, 32) == pytest.approx(24 / 32 * SIZE / 50e9, rel=1e-3)
    assert np.isfinite(time("all_reduce", plain, 32))
