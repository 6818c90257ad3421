"""Meshes, tori and optical circuits: counts and times by hand, and flows against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from builders import NODE

from costmodel.errors import InputError
from costmodel.hardware import Cluster, Network, Nic
from costmodel.network.collectives import algorithm_time
from costmodel.network.graphs import fabric_graph
from costmodel.network.grids import diameter, farthest_hops, neighbour_hops
from costmodel.network.group_links import group_links, layout
from costmodel.network.simulation import FlowRun, run_collective
from costmodel.network.topologies import bisection_bandwidth, full_fabric
from costmodel.records import replace
from costmodel.schema.build import network as build_network
from costmodel.schema.device import NetworkFile
from costmodel.schema.files import load_cluster
from costmodel.workload.operators import Group

LINK = 100e9  # B/s of a link between routers
SIZE = 1.28e9


def dies(
    topology: str, shape: tuple[float, ...], routing: str = "spray", ports: float = 1.0, **more: object
) -> Cluster:
    """Return one die a router, whose way into it is as wide as all of the router's links."""
    radix = 2.0 * len(shape) + ports if shape else 64.0
    fabric = Network(topology, 1.0, radix, LINK, 0.0, 0.0, routing, shape=shape)
    fabric = replace(fabric, **more)  # type: ignore[arg-type]
    die = replace(NODE.device, links={"nvlink": NODE.intra})  # without a host behind PCIe
    node = replace(NODE, device=die, count=1.0, nic=Nic(4 * LINK, 1.0, 0.0))
    return Cluster("wafer", node, float(np.prod(shape)) * ports if shape else 16.0, fabric)


def closed(kind: str, cluster: Cluster, ranks: int, algorithm: str, stride: float = 1.0) -> float:
    return float(algorithm_time(kind, algorithm, SIZE, group_links(Group(float(ranks), stride), cluster)))


def flows(kind: str, cluster: Cluster, ranks: int, algorithm: str, **placed: int) -> float:
    return run_collective(kind, SIZE, FlowRun(cluster, layout(cluster, ranks, **placed)), algorithm).time


@pytest.mark.parametrize(
    ("topology", "shape", "links", "diameter", "cut"),
    [
        ("mesh", (8.0, 8.0), 2 * 8 * 7, 14, 8),
        ("torus", (8.0, 8.0), 2 * 64, 8, 16),
        ("mesh", (4.0, 2.0), 3 * 2 + 1 * 4, 4, 2),
        ("torus", (4.0, 4.0, 4.0), 3 * 64, 6, 32),
        ("torus", (4.0, 2.0), 4 * 2 + 4, 3, 4),  # two routers a side are joined once
    ],
)
def test_parts_of_a_grid_by_hand(topology: str, shape: tuple[float, ...], links: int, diameter: int, cut: int) -> None:
    network = dies(topology, shape).network
    assert network is not None
    fabric = full_fabric(network, 1.0)
    assert fabric is not None
    routers = float(np.prod(shape))
    assert (fabric.endpoints, fabric.switches, fabric.links) == (routers, routers, links)
    assert (fabric.diameter, fabric.cut) == (diameter, cut)
    assert bisection_bandwidth(fabric, LINK) == cut * LINK
    graph = fabric_graph(network, int(routers))
    assert sum(1 for a, b in graph.edges() if "nic" not in a + b) == links


@pytest.mark.parametrize(
    ("topology", "shape", "factor"),
    [
        ("mesh", (8.0, 8.0), 16 / 8),  # floor(8^2 / 4) / 8: a row's middle link carries 4 * 4 * 8 messages of S/64
        ("torus", (8.0, 8.0), 1.0),
        ("mesh", (5.0, 5.0), 6 / 5),
        ("torus", (5.0, 5.0), 3 / 5),
        ("torus", (4.0, 4.0, 4.0), 1 / 2),
        ("mesh", (6.0, 3.0), 9 / 6),
    ],
)
@pytest.mark.parametrize("routing", ["static", "spray"])
def test_an_all_to_all_takes_its_fullest_link(
    topology: str, shape: tuple[float, ...], factor: float, routing: str
) -> None:
    cluster = dies(topology, shape, routing)
    ranks = int(np.prod(shape))
    expected = factor * SIZE / LINK
    assert closed("all_to_all", cluster, ranks, "direct") == pytest.approx(expected)
    if topology == "mesh" or routing == "spray" or shape[0] % 2:  # half-way round, one way alone is fuller
        assert flows("all_to_all", cluster, ranks, "direct") == pytest.approx(expected)
    else:
        assert flows("all_to_all", cluster, ranks, "direct") > expected


@pytest.mark.parametrize(("topology", "shape"), [("mesh", (4.0, 4.0)), ("torus", (4.0, 4.0)), ("mesh", (5.0, 3.0))])
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather"])
def test_a_ring_uses_each_directed_link_once(topology: str, shape: tuple[float, ...], kind: str) -> None:
    cluster, ranks = dies(topology, shape, "static"), int(np.prod(shape))
    expected = (2 if kind == "all_reduce" else 1) * (ranks - 1) / ranks * SIZE / LINK
    assert closed(kind, cluster, ranks, "ring") == pytest.approx(expected)
    assert flows(kind, cluster, ranks, "ring") == pytest.approx(expected)


@pytest.mark.parametrize(("stride", "hops"), [(1, 1), (2, 2), (4, 1), (8, 2)])
def test_rings_that_interleave_share_their_links(stride: int, hops: int) -> None:
    cluster = dies("mesh", (4.0, 4.0), "static")
    ranks = 16 // stride
    expected = (ranks - 1) / ranks * SIZE / LINK * hops
    assert closed("all_gather", cluster, ranks, "ring", float(stride)) == pytest.approx(expected)
    if stride in (1, 4):
        assert flows("all_gather", cluster, ranks, "ring", stride=stride, groups=stride) == pytest.approx(expected)


def test_a_part_of_a_mesh_and_several_endpoints_a_router() -> None:
    rows = dies("mesh", (8.0, 8.0), "static")  # 16 ranks: two rows of eight
    assert closed("all_to_all", rows, 16, "direct") == pytest.approx(2 * SIZE / LINK)
    assert flows("all_to_all", rows, 16, "direct") == pytest.approx(2 * SIZE / LINK)
    shared = dies("mesh", (4.0, 4.0), "static", ports=2.0)
    assert closed("all_to_all", shared, 32, "direct") == pytest.approx(2 * SIZE / LINK)
    assert flows("all_to_all", shared, 32, "direct") == pytest.approx(2 * SIZE / LINK)
    for stride in (1, 2):  # all on a router send to the next one, or the last of each does
        expected = (32 // stride - 1) / (32 // stride) * SIZE / LINK * stride
        assert closed("all_gather", shared, 32 // stride, "ring", float(stride)) == pytest.approx(expected)
        placed = {"stride": stride, "groups": stride}
        assert flows("all_gather", shared, 32 // stride, "ring", **placed) == pytest.approx(expected)
    wide = dies("mesh", (4.0, 4.0), "static", ports=4.0)
    expected = 31 / 32 * SIZE / LINK * 2  # two of the four on a router send out of it
    assert closed("all_gather", wide, 32, "ring", 2.0) == pytest.approx(expected)
    assert flows("all_gather", wide, 32, "ring", stride=2, groups=2) == pytest.approx(expected)
    narrow = replace(rows, node=replace(rows.node, nic=Nic(LINK / 4, 1.0, 0.0)))
    assert closed("all_to_all", narrow, 64, "direct") == pytest.approx(63 / 64 * SIZE / (LINK / 4))


@pytest.mark.parametrize(
    ("topology", "shape", "links"),
    [
        ("torus", (8.0,), 7 / 2 / 8),  # seven shards of S/8 over a link, half of them each way round
        ("torus", (4.0, 4.0), 15 / 16 / 4),  # four links of every router are busy all the time
        (
            "torus",
            (8.0, 4.0),
            (7 / 2 + 4 * 7 / 2) / 64,
        ),  # the part that begins with the short side is the slower one twice
        ("mesh", (4.0, 4.0), (3 + 4 * 3) / 32),  # the link to the last of a row carries what lies behind it
        (
            "torus",
            (4.0, 2.0),
            (3 / 2 + 2 * 3 / 2) / 16 + 1 / 16,
        ),  # 1.5, then max(4 * 1, 2 * 1.5): two routers are no ring
        ("torus", (4.0, 4.0, 4.0), 63 / 64 / 4),  # six links, but a way into the router as wide as four
    ],
)
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather"])
def test_rings_over_all_sides_at_once_by_hand(topology: str, shape: tuple[float, ...], links: float, kind: str) -> None:
    cluster, ranks = dies(topology, shape, "static"), int(np.prod(shape))
    expected = (2 if kind == "all_reduce" else 1) * links * SIZE / LINK
    assert closed(kind, cluster, ranks, "bucket") == pytest.approx(expected)
    if len(shape) < 3:  # flows meet the narrow way in each phase by itself, as the closed form does not
        assert flows(kind, cluster, ranks, "bucket") == pytest.approx(expected)
    assert expected <= closed(kind, cluster, ranks, "ring") * (1 + 1e-9)


def test_rings_over_sides_of_groups_that_interleave_or_fill_no_box() -> None:
    columns = dies("torus", (4.0, 4.0), "static")  # every fourth router: a ring by itself
    expected = 3 / 2 / 4 * SIZE / LINK
    assert closed("all_gather", columns, 4, "bucket", 4.0) == pytest.approx(expected)
    half = closed(
        "all_gather", dies("torus", (8.0, 2.0), "static"), 4, "bucket", 2.0
    )  # two groups of four share a ring
    assert half == pytest.approx(2 * expected)
    for cluster, ranks in ((columns, 12), (dies("torus", (8.0, 8.0)), 12), (dies("mesh", (4.0, 4.0), ports=2.0), 16)):
        if ranks == 12 and cluster is columns:
            continue  # three rows of four are a box, open on one side
        with pytest.raises(InputError, match="bucket takes a box"):
            closed("all_gather", cluster, ranks, "bucket")
    assert closed("all_gather", columns, 12, "bucket") == pytest.approx(flows("all_gather", columns, 12, "bucket"))


def test_rings_over_sides_wait_for_their_steps() -> None:
    """Two steps a side both ways round: four of 1.2 us each."""
    cluster = dies("torus", (4.0, 4.0), "static", latency_same_leaf=1e-6, latency_cross_leaf=1.4e-6)
    expected = 15 / 16 / 4 * SIZE / LINK + 4 * 1.2e-6
    assert closed("all_gather", cluster, 16, "bucket") == pytest.approx(expected)
    assert flows("all_gather", cluster, 16, "bucket") == pytest.approx(expected)


def test_a_pod_of_tpus_has_the_bandwidths_that_google_states() -> None:
    """Cloud TPU v6e, per Pod: 102.4 TB/s of all-reduce and 3.2 TB/s of bisection bandwidth."""
    pod = load_cluster("tpu-v6e-256")
    assert pod.network is not None
    links = replace(group_links(Group(256.0), pod), bucket_latency=0.0)
    bus = 2 * 255 / 256 * SIZE / float(algorithm_time("all_reduce", "bucket", SIZE, links))
    assert 256 * bus == pytest.approx(102.4e12)
    fabric = full_fabric(pod.network, 256.0)
    assert fabric is not None
    assert bisection_bandwidth(fabric, 100e9) == pytest.approx(3.2e12)


def test_latency_goes_by_links() -> None:
    """0.2 us a link: (cross - same) / 2. A mesh's ring goes back to its first rank, 6 links; a torus's 2 at most."""
    for topology, hops, farthest in (("mesh", 6, 6), ("torus", 2, 4)):
        cluster = dies(topology, (4.0, 4.0), "static", latency_same_leaf=1e-6, latency_cross_leaf=1.4e-6)
        bytes_alone = 15 / 16 * SIZE / LINK
        expected = bytes_alone + 15 * (1e-6 + hops * 0.2e-6)
        assert closed("all_gather", cluster, 16, "ring") == pytest.approx(expected)
        assert flows("all_gather", cluster, 16, "ring") == pytest.approx(expected)
        links = group_links(Group(16.0), cluster)
        assert links.latency == pytest.approx(1e-6 + farthest * 0.2e-6)


@pytest.mark.parametrize(
    ("planes", "slots", "dark"), [(1.0, 15, 1.0), (4.0, 4, 16 / 15), (5.0, 3, 1.0), (15.0, 1, 1.0), (20.0, 1, 20 / 15)]
)
def test_circuits_are_set_for_one_pairing_after_the_other(planes: float, slots: int, dark: float) -> None:
    cluster = dies("ocs", (), planes=planes, reconfiguration=1e-3)
    port = LINK  # of all planes together
    exchange = 15 / 16 * SIZE / port * dark + slots * 1e-3
    assert closed("all_to_all", cluster, 16, "direct") == pytest.approx(exchange)
    assert flows("all_to_all", cluster, 16, "direct") == pytest.approx(exchange)
    ring = 15 / 16 * SIZE / port + 1e-3
    assert closed("all_gather", cluster, 16, "ring") == pytest.approx(ring)
    assert flows("all_gather", cluster, 16, "ring") == pytest.approx(ring)
    for algorithm in ("ring", "hierarchical"):  # both passes go to the same neighbours
        both = 2 * 15 / 16 * SIZE / port + 1e-3
        assert closed("all_reduce", cluster, 16, algorithm) == pytest.approx(both)
        assert flows("all_reduce", cluster, 16, algorithm) == pytest.approx(both)
    if planes == 1.0:  # four exchanges out and four back, whose first is with the last partner
        halved = 2 * 15 / 16 * SIZE / port + 7e-3
        assert closed("all_reduce", cluster, 16, "halving_doubling") == pytest.approx(halved)
        assert flows("all_reduce", cluster, 16, "halving_doubling") == pytest.approx(halved)
        assert closed("all_reduce", cluster, 16, "tree") == pytest.approx(2 * SIZE / port + 1e-3)
        for kind, algorithm in (("broadcast", "ring"), ("send_recv", "direct")):
            assert closed(kind, cluster, 16, algorithm) == pytest.approx(SIZE / port + 1e-3)


def test_a_grid_over_an_array_is_its_points() -> None:
    cluster = dies("torus", (8.0, 8.0), latency_same_leaf=1e-6, latency_cross_leaf=2e-6)
    sizes = np.array([1.0, 8.0, 16.0, 48.0, 64.0])
    links = group_links(Group(sizes), cluster)
    whole = np.asarray(algorithm_time("all_to_all", "direct", SIZE, links))
    assert whole[1:] == pytest.approx([closed("all_to_all", cluster, int(n), "direct") for n in sizes[1:]])
    gathered = np.asarray(algorithm_time("all_gather", "bucket", SIZE, links))
    assert gathered == pytest.approx([0.0, *(closed("all_gather", cluster, int(n), "bucket") for n in sizes[1:])])


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"topology": "mesh", "radix": 5}, "needs one to three sides"),
        ({"topology": "torus", "radix": 4, "shape": [4, 4]}, "no port of a router"),
        ({"topology": "mesh", "radix": 5, "shape": [4, 4], "planes": 2}, "one plane"),
        ({"topology": "ft2", "radix": 8, "shape": [4, 4]}, "has no shape"),
        ({"topology": "ft2", "radix": 8, "reconfiguration": "1 ms"}, "has no circuits"),
    ],
)
def test_a_grid_that_cannot_be_built_says_why(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        NetworkFile(**wrong)  # type: ignore[arg-type]
    assert build_network(NetworkFile(topology="mesh", radix=5, shape=[4, 4])).shape == (4.0, 4.0)  # type: ignore[arg-type]


def test_a_grid_with_too_few_routers_says_so() -> None:
    network = dies("mesh", (4.0, 4.0)).network
    assert network is not None
    with pytest.raises(InputError, match="16 ports"):
        fabric_graph(network, 17)
    with pytest.raises(InputError, match="16 ports, 17 endpoints"):
        group_links(Group(17.0), dies("mesh", (4.0, 4.0)))
    assert group_links(Group(np.array([16.0, 17.0])), dies("mesh", (4.0, 4.0))).nodes.tolist() == [16.0, 17.0]


def test_a_grid_that_is_too_large_to_lay_out_is_refused() -> None:
    network = dies("mesh", (4096.0, 4096.0)).network
    assert network is not None
    with pytest.raises(InputError, match="16,777,216 routers is too large"):
        fabric_graph(network, 4)


def test_failed_links_are_gone_round() -> None:
    cluster = dies("mesh", (3.0, 3.0), "static", failed=("router0.0-router0.1",))
    assert flows("all_gather", cluster, 9, "ring") > 8 / 9 * SIZE / LINK


@pytest.mark.parametrize("ports", [1.0, 2.0])
@pytest.mark.parametrize("topology", ["mesh", "torus"])
def test_hops_are_those_of_the_routers_positions(topology: str, ports: float) -> None:
    """Endpoints are numbered along the first side first; ranks along a side are as many routers apart as they say."""
    shape = (5.0, 4.0, 3.0)
    network = dies(topology, shape, ports=ports).network
    assert network is not None
    below = 1
    for side in shape:
        for number in range(1, int(side)):
            assert neighbour_hops(network, ports * below * number) == number
        below *= int(side)
    places = np.stack(np.unravel_index(np.arange(60), (5, 4, 3), order="F"))
    apart = np.abs(places[:, :, None] - places[:, None, :])
    sides = np.array([5, 4, 3])[:, None, None]
    ways = np.minimum(apart, sides - apart) if topology == "torus" else apart
    assert diameter(network) == farthest_hops(network, 60 * ports) == ways.sum(axis=0).max()


def test_nodes_of_several_devices_are_as_far_apart_as_their_routers() -> None:
    """Two devices a node and a node a router: eight ranks fill a row of four, every second of sixteen fills two."""
    one = dies("mesh", (4.0, 4.0), ports=2.0, latency_same_leaf=1e-6, latency_cross_leaf=3e-6)
    box = replace(one, node=replace(one.node, count=2.0), count=16.0)
    for group, hops in ((Group(8.0), 3), (Group(8.0, 2.0), 4), (Group(32.0), 6)):
        assert group_links(group, box).inter_latency == pytest.approx(1e-6 + hops / 2 * 2e-6)
    assert group_links(Group(2.0), box).nodes == 1


@pytest.mark.parametrize("topology", ["mesh", "torus"])
def test_a_group_in_one_node_of_a_grid_shares_no_port(topology: str) -> None:
    cluster = dies(topology, (4.0, 4.0))
    inside = replace(cluster, node=replace(cluster.node, count=4.0))
    within, whole = (group_links(Group(ranks), inside) for ranks in (4.0, 16.0))
    assert (within.exchange_share, within.step_share) == (1.0, 1.0)
    assert whole.exchange_share != 1.0
