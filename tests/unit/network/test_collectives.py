"""Collectives and paths against formulas worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from builders import CLUSTER, NODE, ONE_NODE, links_of

from costmodel.errors import InfeasibleError, InputError
from costmodel.hardware import Host, Nic
from costmodel.network.collectives import algorithm_time, collective_time, fastest_time, nccl_time, ring_bandwidth
from costmodel.network.group_links import GroupLinks, group_links
from costmodel.records import replace
from costmodel.workload.operators import Group

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "broadcast")
SIZE = 1e9
NO_LATENCY = (0.0, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_one_has_nothing_to_send(kind: str) -> None:
    assert collective_time(kind, SIZE, links_of(1.0, 1.0)) == 0
    mixed = GroupLinks(np.array([1.0, 8.0]), np.array([1.0, 8.0]), np.array([1.0, 1.0]), 200e9, 50e9, 1e-6, 3e-6)
    assert [time == 0 for time in np.asarray(collective_time(kind, SIZE, mixed))] == [True, False]


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(KeyError, match="gossip"):
        collective_time("gossip", SIZE, links_of(8.0, 8.0))


@pytest.mark.parametrize(
    ("kind", "bytes_on_the_link"),
    [
        ("all_reduce", 2 * 7 / 8 * SIZE),
        ("all_gather", 7 / 8 * SIZE),
        ("reduce_scatter", 7 / 8 * SIZE),
        ("all_to_all", 7 / 8 * SIZE),
        ("send_recv", SIZE),
        ("broadcast", SIZE),
    ],
)
def test_in_a_node_without_latency_the_inner_link_carries_the_volume(kind: str, bytes_on_the_link: float) -> None:
    node = links_of(8.0, 8.0, latencies=NO_LATENCY)
    assert collective_time(kind, SIZE, node) == pytest.approx(bytes_on_the_link / 200e9)


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("all_reduce", 6),
        ("all_gather", 7),
        ("reduce_scatter", 7),
        ("all_to_all", 1),
        ("send_recv", 1),
        ("broadcast", 3),
    ],
)
def test_an_empty_message_in_a_node_takes_its_latency_steps(kind: str, steps: float) -> None:
    assert collective_time(kind, 0.0, links_of(8.0, 8.0)) == pytest.approx(steps * 1e-6)


def test_a_ring_makes_one_hop_in_a_node_over_a_nic_and_the_others_over_the_inner_link() -> None:
    assert ring_bandwidth(links_of(32.0, 8.0)) == pytest.approx(200e9 * 8 / 7)
    assert ring_bandwidth(links_of(8.0, 2.0)) == pytest.approx(min(200e9 * 2 / 1, 2 * 50e9))
    assert ring_bandwidth(links_of(32.0, 8.0, outer=1e9)) == 8e9  # all NICs of a node
    assert ring_bandwidth(links_of(4.0, 1.0)) == 50e9
    assert ring_bandwidth(links_of(8.0, 8.0)) == 200e9


def test_the_bytes_of_rings_are_those_that_a_simulated_ring_sends() -> None:
    """Three rings over four nodes of three ranks: count what each rank sends inside its node and over its NIC."""
    nodes, local, size = 4, 3, 1.0
    inner, nic = np.zeros(nodes * local), np.zeros(nodes * local)
    for channel in range(local):
        order = [node * local + (channel + step) % local for node in range(nodes) for step in range(local)]
        for sender, receiver in zip(order, [*order[1:], order[0]], strict=True):
            link = inner if sender // local == receiver // local else nic
            link[sender] += (nodes * local - 1) / (nodes * local) * size / local
    group = links_of(12.0, 3.0, inner=2.0, outer=1.0, latencies=NO_LATENCY)
    assert algorithm_time("all_gather", "ring", size, group) == pytest.approx(max(inner.max() / 2.0, nic.max() / 1.0))


def test_two_levels_gather_a_share_over_the_nic_and_all_in_the_node() -> None:
    across = links_of(32.0, 8.0, latencies=NO_LATENCY)
    # Four nodes of eight: each rank fetches 3/4 of its eighth over 50 GB/s, then 7/8 of all over 200 GB/s ...
    two_levels = 3 / 4 * SIZE / 8 / 50e9 + 7 / 8 * SIZE / 200e9
    # ... or rings over all NICs at once, of whose eight hops in a node seven are over the inner link.
    ring = 31 / 32 * SIZE * 7 / 8 / 200e9
    assert algorithm_time("all_gather", "hierarchical", SIZE, across) == pytest.approx(two_levels)
    assert collective_time("all_gather", SIZE, across) == pytest.approx(min(two_levels, ring))


def test_small_messages_double_in_the_node_and_between_nodes() -> None:
    across = links_of(64.0, 8.0)
    assert fastest_time("all_gather", 0.0, across) == pytest.approx(3 * 3e-6 + 3 * 1e-6)
    assert collective_time("all_reduce", 0.0, across) == pytest.approx(2 * (3 * 3e-6 + 3 * 1e-6))
    assert collective_time("all_gather", 0.0, across) == pytest.approx(7 * 3e-6 + 7 * 1e-6)  # libraries have rings


def test_halving_and_doubling_takes_powers_of_two() -> None:
    six = links_of(6.0, 6.0)
    assert fastest_time("all_gather", 0.0, six) == pytest.approx(5e-6)
    assert collective_time("all_reduce", 0.0, six) == pytest.approx(2 * 3e-6)  # trees
    with pytest.raises(InputError, match="takes a power of two of ranks, not 6"):
        algorithm_time("all_reduce", "halving_doubling", SIZE, six)
    axis = GroupLinks(np.array([4.0, 6.0]), np.array([4.0, 6.0]), np.array([1.0, 1.0]), 200e9, 50e9, 1e-6, 3e-6)
    assert list(np.isinf(np.asarray(algorithm_time("all_reduce", "halving_doubling", SIZE, axis)))) == [False, True]


def test_a_slow_nic_limits_rings_over_nodes() -> None:
    slow = links_of(16.0, 8.0, outer=1e9, latencies=NO_LATENCY)
    ring, two_levels = 15 / 16 * SIZE / 8e9, 1 / 2 * SIZE / 8 / 1e9 + 7 / 8 * SIZE / 200e9
    assert collective_time("all_gather", SIZE, slow) == pytest.approx(min(ring, two_levels))


def test_switches_that_add_up_are_asked_for_by_name() -> None:
    """No file says which switches do: an H100's can, an A100's cannot."""
    node = links_of(8.0, 8.0, latencies=NO_LATENCY)
    assert algorithm_time("all_reduce", "in_switch", SIZE, node) == pytest.approx(SIZE / 200e9)
    assert fastest_time("all_reduce", SIZE, node) == pytest.approx(2 * 7 / 8 * SIZE / 200e9)


def test_an_all_to_all_uses_both_links_at_once() -> None:
    across = links_of(16.0, 8.0)
    assert collective_time("all_to_all", SIZE, across) == pytest.approx(
        max(7 / 16 * SIZE / 200e9, 8 / 16 * SIZE / 50e9) + 3e-6
    )
    fast_nic = links_of(16.0, 8.0, inner=20e9)
    assert collective_time("all_to_all", SIZE, fast_nic) == pytest.approx(7 / 16 * SIZE / 20e9 + 3e-6)


def test_a_message_between_nodes_takes_the_slowest_link() -> None:
    assert collective_time("send_recv", SIZE, links_of(16.0, 8.0)) == pytest.approx(SIZE / 50e9 + 3e-6)


# ---- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "stride", "local", "nodes"),
    [(8, 1, 8, 1), (4, 1, 4, 1), (32, 1, 8, 4), (4, 2, 4, 1), (8, 2, 4, 2), (4, 8, 1, 4), (4, 64, 1, 4), (1, 1, 1, 1)],
)
def test_neighbours_fill_nodes_in_rank_order(size: float, stride: float, local: float, nodes: float) -> None:
    group = group_links(Group(float(size), float(stride)), CLUSTER)
    assert (group.ranks_per_node, group.nodes) == (local, nodes)


def test_the_latency_of_the_fabric_stands_for_the_nic_s_and_grows_beyond_a_leaf() -> None:
    assert group_links(Group(8.0), CLUSTER).latency == 1e-6
    assert group_links(Group(256.0), CLUSTER).latency == 2e-6  # 32 nodes: half the ports of a 64-port leaf
    assert group_links(Group(264.0), CLUSTER).latency == 3e-6
    assert group_links(Group(4.0, 64.0), CLUSTER).latency == 2e-6  # four ranks, the last in the 32nd node
    assert group_links(Group(4.0, 72.0), CLUSTER).latency == 3e-6


def test_several_nics_add_up_and_a_slow_port_bounds_each() -> None:
    doubled = replace(CLUSTER, node=replace(NODE, nic=Nic(50e9, 2.0, 2e-6)))
    assert group_links(Group(16.0), doubled).inter == 100e9
    assert CLUSTER.network is not None
    ports = replace(doubled, network=replace(CLUSTER.network, bandwidth=25e9))
    assert group_links(Group(16.0), ports).inter == 50e9


def test_without_peer_to_peer_messages_share_the_host_s_memory() -> None:
    box = replace(ONE_NODE, node=replace(NODE, peer_to_peer=False, host=Host(None, 160e9, None)))
    group = group_links(Group(8.0), box)
    assert group.intra == 160e9 / 16  # eight devices, each byte written and read
    assert group.intra_latency == 2e-6
    unstated = replace(box, node=replace(box.node, host=Host(None, None, None)))
    assert group_links(Group(8.0), unstated).intra == 100e9  # two hops over the link, one after the other


def test_nodes_without_a_nic_cannot_work_together() -> None:
    lone = replace(CLUSTER, node=replace(NODE, nic=None))
    assert group_links(Group(8.0), lone).nodes == 1
    with pytest.raises(InfeasibleError, match="no NIC"):
        group_links(Group(16.0), lone)
    grid = group_links(Group(np.array([8.0, 16.0])), lone)
    assert list(np.isnan(np.asarray(collective_time("all_reduce", SIZE, grid)))) == [False, True]


def test_an_all_reduce_of_nccl_passes_the_chain_of_a_node_and_the_tree_between_nodes_twice():
    group = links_of(32.0, 8.0)
    steps = 2 * (7 * group.intra_latency + 2 * group.inter_latency)
    assert nccl_time("all_reduce", 0.0, group) == pytest.approx(steps)
    assert nccl_time("all_reduce", 1e9, group) == pytest.approx(steps + 2 * 31 / 32 * 1e9 * 7 / 8 / group.intra)


def test_halving_and_doubling_by_hand() -> None:
    """16 ranks, eight a node: 7/8 of the buffer inside in three steps, then 1/8 - 1/16 between nodes in one."""
    links = links_of(16.0, 8.0, 200e9, 50e9, (1e-6, 3e-6))
    inside, between = 7 / 8 * 1e9 / 200e9 + 3 * 1e-6, (1 / 8 - 1 / 16) * 1e9 / 50e9 + 3e-6
    assert algorithm_time("all_gather", "halving_doubling", 1e9, links) == pytest.approx(inside + between, rel=1e-12)
    assert algorithm_time("all_reduce", "halving_doubling", 1e9, links) == pytest.approx(
        2 * (inside + between), rel=1e-12
    )


def test_switches_add_up_between_rings_in_the_nodes() -> None:
    links = GroupLinks(32.0, 8.0, 4.0, 200e9, 50e9, 1e-6, 3e-6)  # 32 ranks, 8 on each of 4 nodes
    inside = 7 / 8 * SIZE / 200e9 + 7 * 1e-6
    expected = 2 * inside + SIZE / 8 / 50e9 + 3e-6
    assert algorithm_time("all_reduce", "in_switch", SIZE, links) == pytest.approx(expected)
