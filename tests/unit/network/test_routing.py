"""Which links flows load: by policy, over rails and planes, and when parts have failed."""

from __future__ import annotations

import numpy as np
import pytest
from builders import CLUSTER, NODE

from costmodel.errors import InfeasibleError, InputError
from costmodel.hardware import Cluster, Host, Network
from costmodel.network.cluster_links import KINDS, ClusterLinks, build_cluster_links, ports
from costmodel.network.group_links import layout, pairs
from costmodel.network.routing import POLICIES, FlowRoutes, Flows, inside_latency, route
from costmodel.network.shortest_paths import NextHops, shortest_paths
from costmodel.network.splitmix import hashed
from costmodel.network.uniform_all_to_all import hashed_all_to_all
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.schema.files import load_cluster, load_topology

pytestmark = pytest.mark.core  # with numba and without

# nodes of four with 50 GB/s NICs and 200 GB/s between devices, 8-port switches
FOUR = replace(NODE, count=4.0)


def cluster(topology: str, planes: int = 1, nodes: int = 8, local: int = 4, **more: object) -> Cluster:
    fabric = Network(topology, float(planes), 8.0, None, 2e-6, 3e-6, "adaptive", **more)  # type: ignore[arg-type]
    return Cluster("test", replace(NODE, count=float(local)), float(nodes), fabric)


def routed(
    hardware: Cluster, policy: str = "spray", nodes: int | None = None
) -> tuple[ClusterLinks, Flows, FlowRoutes]:
    links = build_cluster_links(hardware, int(hardware.count) if nodes is None else nodes)
    source, target = pairs(links.devices)
    flows = Flows(source, target, np.ones(len(source)))
    return links, flows, route(links, flows, policy)


def loads(links: ClusterLinks, routes: FlowRoutes, kind: str) -> Array:
    return routes.incidence.load(np.ones(routes.incidence.flows))[links.kind == KINDS.index(kind)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("topology", ["ft2", "mrft", "rail", "mpft"])
def test_every_byte_between_nodes_leaves_and_enters_by_a_nic_once(policy: str, topology: str) -> None:
    links, flows, routes = routed(cluster(topology, 4 if topology == "mpft" else 1), policy)
    crossing = (flows.source // 4 != flows.target // 4).sum()
    assert loads(links, routes, "nic").sum() == pytest.approx(2 * crossing)


def test_two_nics_of_a_device_are_one_with_cables_as_wide_behind_it() -> None:
    """NICs of 50 GB/s; switches with ports of 40 GB/s pass on no more than that from each."""
    narrow = replace(cluster("ft2"), network=replace(cluster("ft2").network, bandwidth=40e9))  # type: ignore[type-var]
    nic = replace(NODE.nic, per_device=2.0)  # type: ignore[type-var]
    both = [replace(each, node=replace(each.node, nic=nic)) for each in (cluster("ft2"), narrow)]
    assert [ports(each) for each in both] == [(100e9, 100e9), (80e9, 80e9)]


@pytest.mark.parametrize("policy", ["static", "adaptive", "spray"])
def test_a_uniform_exchange_fills_all_uplinks_alike(policy: str) -> None:
    links, _, routes = routed(cluster("ft2"), policy)
    between = loads(links, routes, "fabric")
    assert between.min() == pytest.approx(between.max())


def test_ecmp_fills_some_uplinks_more_and_the_seed_chooses_which() -> None:
    links, flows, routes = routed(cluster("ft2"), "ecmp")
    between = loads(links, routes, "fabric")
    assert between.max() > 1.1 * between.mean()
    other = loads(links, route(links, flows, "ecmp", seed=1), "fabric")
    assert other.sum() == between.sum()
    assert (other != between).any()
    assert (loads(links, route(links, flows, "ecmp"), "fabric") == between).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_links_do_not_depend_on_the_order_of_flows(policy: str) -> None:
    links, flows, routes = routed(cluster("ft3", nodes=4), policy)
    order = np.random.default_rng(0).permutation(len(flows.source))
    mixed = route(links, Flows(flows.source[order], flows.target[order], flows.size[order]), policy)
    for flow in (0, 7, 100):
        there = slice(mixed.incidence.start[flow], mixed.incidence.start[flow + 1])
        here = slice(routes.incidence.start[order[flow]], routes.incidence.start[order[flow] + 1])
        assert set(mixed.incidence.links[there]) == set(routes.incidence.links[here])


def test_pxn_changes_rails_inside_the_node_and_leaves_the_spine_empty() -> None:
    rails = cluster("mrft", nodes=4)
    links, _, on = routed(rails)
    assert loads(links, on, "fabric").sum() == 0  # four nodes: a leaf for each rail
    _, _, off = routed(replace(rails, network=replace(rails.network, pxn=False)))
    assert loads(links, off, "fabric").sum() == pytest.approx(2 * 16 * 3 * 3)  # three other rails in three other nodes
    assert loads(links, on, "intra").sum() - loads(links, off, "intra").sum() == pytest.approx(2 * 16 * 3 * 3)


def test_planes_without_pxn_change_over_the_host_s_link() -> None:
    planes = cluster("mpft", 4, nodes=4, pxn=False)
    links, _, routes = routed(planes)
    host = loads(links, routes, "pcie")
    # own 12 messages to other nodes, and 3/4 of them again for others
    assert host == pytest.approx(12 * (1 + 3 / 4))


def test_a_failed_plane_divides_its_traffic_over_the_others() -> None:
    links, _, routes = routed(cluster("mpft", 4, nodes=4, failed=("plane1",)))
    nics = loads(links, routes, "nic").reshape(2, 4, 4)
    assert nics[:, :, 1] == pytest.approx(0.0)
    assert nics[:, :, [0, 2, 3]] == pytest.approx(12 * 4 / 3)


@pytest.mark.parametrize("part", ["nic5", "leaf0.1", "spine0.2", "leaf0.0-spine0.1"])
@pytest.mark.parametrize("policy", POLICIES)
def test_flows_go_around_what_has_failed(part: str, policy: str) -> None:
    links, flows, routes = routed(cluster("mrft", nodes=8, pxn=False, failed=(part,)), policy)
    assert len(routes.incidence.start) == len(flows.source) + 1
    crossing = (flows.source // 4 != flows.target // 4).sum()
    assert loads(links, routes, "nic").sum() == pytest.approx(2 * crossing)
    loaded = routes.incidence.load(flows.size)
    assert not [links.names[link] for link in np.flatnonzero(loaded) if part in links.names[link].split(">")]
    assert not any(name == part.replace("-", ">") for name in np.array(links.names)[loaded > 0])


@pytest.mark.parametrize(
    ("topology", "planes", "failed", "message"),
    [
        ("mrft", 1, ("plane0",), "disconnect the network"),
        ("ft2", 1, tuple(f"spine0.{spine}" for spine in range(4)), "no path from leaf0.0 to"),
        ("mpft", 4, tuple(f"plane{plane}" for plane in range(4)), "disconnect the network"),
        ("mpft", 4, ("nic0", "nic1", "nic2", "nic3"), "no NIC path from device 0"),
    ],
)
def test_failures_that_disconnect_a_network_are_an_error(
    topology: str, planes: int, failed: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InfeasibleError, match=message):
        routed(cluster(topology, planes, failed=failed))


@pytest.mark.parametrize(
    ("failed", "message"),
    [
        ("plane7", "no part 'plane7'"),
        ("nic99", "no part 'nic99'"),
        ("leaf0.0-leaf0.1", "no link connects leaf0.0 and leaf0.1; leaf0.0 is joined to"),
        ("gremlin", "no part 'gremlin'"),
    ],
)
def test_what_is_not_there_cannot_fail(failed: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_cluster_links(cluster("ft2", failed=(failed,)), 8)


@pytest.mark.parametrize("nodes", [1, 4])
def test_what_a_group_does_not_use_may_fail(nodes: int) -> None:
    far = cluster("mrft", nodes=8, pxn=False, failed=("leaf0.1", "nic31"))  # of nodes 4 to 7
    sound = replace(far, network=replace(far.network, failed=()))
    broken, whole = (loads(*routed(one, nodes=nodes)[::2], "nic") for one in (far, sound))
    assert broken == pytest.approx(whole)
    with pytest.raises(InputError, match=r"no part 'leaf0\.99'"):
        build_cluster_links(replace(far, network=replace(far.network, failed=("leaf0.99",))), nodes)


def test_a_link_without_bandwidth_is_an_error() -> None:
    nothing = replace(FOUR, intra=replace(FOUR.intra, bandwidth=0.0))
    with pytest.raises(InputError, match=r"link intra0.up has a bandwidth of 0 B/s"):
        build_cluster_links(replace(cluster("ft2"), node=nothing), 8)
    with pytest.raises(InputError, match="unknown kind of link 'nics'"):
        build_cluster_links(cluster("ft2"), 8, {"nics": 0.5})


def test_unknown_policies_are_errors() -> None:
    with pytest.raises(InputError, match="unknown routing 'hot potato'"):
        routed(cluster("ft2"), "hot potato")


def test_measured_shares_scale_the_links_of_their_kind() -> None:
    whole, part = (build_cluster_links(cluster("ft2"), 2, shares) for shares in ({}, {"nic": 0.5, "intra": 0.9}))
    for kind, share in (("nic", 0.5), ("intra", 0.9), ("pcie", 1.0)):
        of_kind = whole.kind == KINDS.index(kind)
        assert part.capacity[of_kind] == pytest.approx(share * whole.capacity[of_kind])


def test_without_peer_to_peer_bytes_go_up_and_down_and_through_memory() -> None:
    box = replace(NODE, peer_to_peer=False, host=Host(None, 160e9, 2.0, interconnect=40e9))
    links, flows, routes = routed(Cluster("box", box, 1.0, None))
    assert loads(links, routes, "pcie") == pytest.approx(2 * 7)  # stored, then read: each link twice as long
    assert loads(links, routes, "memory") == pytest.approx(2 * len(flows.source))
    assert loads(links, routes, "socket") == pytest.approx(2 * 4 * 4)  # half of the pairs, on either side


@pytest.mark.parametrize(
    ("fabric", "target", "latency"),
    [("h800-2048-mpft", 8, 2.8e-6), ("h800-2048-mpft", 8 * 32, 3.7e-6), ("h800-2048-mpft", 1, 3.33e-6)],
)
def test_the_latencies_of_table_5(fabric: str, target: int, latency: float) -> None:
    """DeepSeek-AI, arXiv 2505.09343, table 5: 64 B, InfiniBand in one leaf and over two, NVLink."""
    links = build_cluster_links(load_cluster(fabric), 33)
    routes = route(links, Flows(np.array([0]), np.array([target]), np.array([64.0])), "static")
    assert routes.latency[0] == pytest.approx(latency)


@pytest.mark.parametrize(("target", "latency"), [(1, 3.6e-6), (40, 5.6e-6)])
def test_the_latencies_of_table_5_over_ethernet(target: int, latency: float) -> None:
    plain = load_cluster("h800-2048-mrft")
    one = replace(plain, node=replace(plain.node, count=1.0), network=load_topology("roce-ft2")[0])
    routes = route(build_cluster_links(one, 64), Flows(np.array([0]), np.array([target]), np.array([64.0])), "ecmp")
    assert routes.latency[0] == pytest.approx(latency)


def test_a_third_level_takes_as_long_again() -> None:
    _, flows, routes = routed(cluster("ft3", nodes=8))
    far = (flows.source == 0) & (flows.target == 31)
    assert routes.latency[far] == pytest.approx(2e-6 + 2 * 1e-6)


@pytest.mark.parametrize(
    ("ranks", "more", "message"),
    [
        (0, {}, "at least one rank, not 0"),
        (513, {}, "rank 512 is outside the cluster"),
        (12, {}, "12 ranks do not fill whole nodes"),
        (64, {"stride": 16}, "need 113 nodes of 64"),
        (64, {"groups": 9}, "9 groups"),
    ],
)
def test_ranks_that_the_cluster_does_not_have_are_errors(ranks: int, more: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout(CLUSTER, ranks, **more)


def test_groups_interleave_and_share_no_device() -> None:
    rank_layout = layout(CLUSTER, 16, stride=4, groups=8)
    rank = np.arange(16)
    devices = np.concatenate([rank_layout.device(rank, 8, group) for group in range(8)])
    assert sorted(devices) == list(range(128))
    assert list(rank_layout.device(rank, 8, 1)[[0, 8]]) == [8, 40]  # node 1, and the fourth after it


def test_a_path_follows_from_its_number_where_all_choices_are_alike() -> None:
    """Of a tree of three levels: the first link's choice changes fastest."""
    links = build_cluster_links(cluster("ft3", nodes=32, local=1), 32)
    switches = links.switches
    assert switches is not None
    leaf, other = np.unique(links.leaf)[[0, -1]]  # of two pods
    paths = shortest_paths(switches, np.array([leaf, leaf]), np.array([other, leaf]))
    assert isinstance(paths, NextHops)
    assert paths.count.tolist() == [16, 1]
    assert paths.hops.tolist() == [4, 0]
    rows = paths.listed().rows
    assert len(np.unique(rows[:16], axis=0)) == 16
    assert (rows[16] == -1).all()
    for row in rows[:16]:
        assert switches.tail[row[0]] == leaf
        assert switches.head[row[-1]] == other
        assert (switches.head[row[:-1]] == switches.tail[row[1:]]).all()
    assert rows[:16, 0].tolist() == rows[:4, 0].tolist() * 4


def test_too_many_paths_around_failures_are_refused_before_they_are_listed() -> None:
    whole = cluster("ft3", nodes=4096, local=1)
    assert whole.network is not None
    broken = replace(whole, network=replace(whole.network, radix=32.0, failed=("spine0.0.0-core0.3",)))
    links = build_cluster_links(broken, 4096)
    leaves = np.unique(links.leaf)
    ends = [side.ravel() for side in np.meshgrid(leaves, leaves)]
    assert links.switches is not None
    with pytest.raises(InputError, match=r"more than 4,000,000 equal paths"):
        shortest_paths(links.switches, *ends)


def test_hashes_are_those_of_splitmix64() -> None:
    """The first two words from a state of zero, as its reference code prints them."""
    assert hashed(np.array([0, 1]), np.array([0, 0])).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize(
    ("topology", "more"),
    [
        ("ft2", {}), ("ft3", {}), ("mrft", {}), ("mrft", {"pxn": False}), ("mpft", {"planes": 4}),
        ("mpft", {"planes": 4, "pxn": False}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("groups", [{}, {"stride": 2, "groups": 2}])
def test_an_exchange_that_is_counted_loads_what_its_routes_load(
    topology: str, more: dict[str, object], groups: dict[str, int]
) -> None:
    pytest.importorskip("numba")
    hardware = cluster(topology, **more)  # type: ignore[arg-type]
    part = layout(hardware, 16, **groups)
    links = build_cluster_links(hardware, part.last_node)
    counted = hashed_all_to_all(links, part, 5)
    assert counted is not None
    source, target = (
        np.concatenate([part.device(rank, 4, group) for group in range(part.groups)]) for rank in pairs(16)
    )
    routes = route(links, Flows(source, target, np.ones(len(source))), "ecmp", 5)
    assert counted[0] == pytest.approx(routes.incidence.load(np.ones(len(source))), abs=1e-9)
    assert counted[1] == pytest.approx(routes.latency.max(), rel=1e-12)


def test_a_message_inside_a_node_hops_once_or_twice_over_its_link() -> None:
    link = replace(FOUR.intra, latency=2e-6)
    nodes = [replace(FOUR, intra=link, peer_to_peer=peers) for peers in (True, False)]
    nodes.append(replace(FOUR, intra=replace(link, latency=None)))
    assert [inside_latency(Cluster("one", node, 1.0)) for node in nodes] == [2e-6, 4e-6, 0.0]


def test_of_no_ends_there_are_no_paths() -> None:
    links = build_cluster_links(cluster("ft2", nodes=16, local=1), 16)
    assert links.switches is not None
    none = np.array([], np.intp)
    assert not len(shortest_paths(links.switches, none, none).hops)
