"""Fabrics cable by cable against their closed forms."""

from __future__ import annotations

from itertools import combinations

import networkx as nx
import numpy as np
import pytest

from costmodel.errors import InputError
from costmodel.hardware import Network
from costmodel.network.graphs import fabric_graph
from costmodel.network.topologies import Fabric, full_fabric, named_fabric, slim_fly_numbers


def network(topology: str, radix: int, planes: int = 1, **more: object) -> Network:
    return Network(topology, float(planes), float(radix), 50e9, None, None, "static", **more)  # type: ignore[arg-type]


def whole(fabric: Network, endpoints: float = 1.0) -> Fabric:
    found = full_fabric(fabric, endpoints)
    assert found is not None
    return found


def switches(graph: nx.MultiGraph) -> list[str]:
    return [name for name, says in graph.nodes(data=True) if not says["endpoint"]]


FULL = [
    network("ft2", 4),
    network("ft2", 16),
    network("ft2", 9),
    network("ft2", 12, oversubscription=2.0),
    network("ft3", 4),
    network("ft3", 8),
    network("ft3", 16),
    network("ft3", 6, oversubscription=2.0),
    network("mrft", 8),
    network("mpft", 8, 4),
    network("mpft", 16, 8),
    network("sf", 8),  # q = 3
    network("sf", 11),  # q = 5
    network("df", 3),
    network("df", 7),
    network("df", 11),
    network("df", 15),
    network("df", 7, groups=7.0),
    network("df", 7, groups=6.0),
    network("df", 11, groups=17.0),
    network("nvlink", 8, 4),
]


@pytest.mark.parametrize("fabric", FULL, ids=lambda one: f"{one.topology}-{one.radix:g}-{one.planes:g}")
def test_a_graph_has_the_parts_that_the_closed_form_counts(fabric: Network) -> None:
    counted = whole(fabric)
    rails = 4 if fabric.topology in ("mrft", "mpft") else 1
    rails = int(fabric.planes) if fabric.planes > 1 and fabric.topology == "mpft" else rails
    graph = fabric_graph(fabric, int(counted.endpoints), rails)
    between = graph.subgraph(switches(graph))
    assert len(graph) - len(between) == counted.endpoints
    assert len(between) == counted.switches
    assert between.number_of_edges() == counted.links
    assert max(dict(graph.degree(switches(graph))).values()) <= fabric.radix


@pytest.mark.parametrize("fabric", FULL, ids=lambda one: f"{one.topology}-{one.radix:g}-{one.planes:g}")
def test_a_graph_is_as_wide_as_the_closed_form_says(fabric: Network) -> None:
    counted = whole(fabric)
    graph = fabric_graph(fabric, int(counted.endpoints), int(fabric.planes) if fabric.topology == "mpft" else 1)
    ends = {next(iter(graph[name])) for name, says in graph.nodes(data=True) if says["endpoint"]}
    farthest = 0
    for part in nx.connected_components(nx.Graph(graph.subgraph(switches(graph)))):
        lengths = dict(nx.all_pairs_shortest_path_length(nx.Graph(graph.subgraph(part))))
        farthest = max([farthest, *(lengths[a][b] for a in part & ends for b in part & ends)])
    assert farthest == counted.diameter


@pytest.mark.parametrize(("topology", "radix", "over"), [("ft2", 8, 1.0), ("ft3", 4, 1.0), ("ft2", 12, 2.0)])
def test_the_cut_of_a_fat_tree_is_its_smallest(topology: str, radix: int, over: float) -> None:
    """What flows between two sets of endpoints is bounded by the smallest cut [max-flow min-cut]."""
    fabric = network(topology, radix, oversubscription=over)
    counted = whole(fabric)
    graph = fabric_graph(fabric, int(counted.endpoints))
    directed = nx.DiGraph()
    for a, b in graph.edges():
        for one, other in ((a, b), (b, a)):
            directed.add_edge(one, other, capacity=1.0)
    half = int(counted.endpoints) // 2
    for number in range(int(counted.endpoints)):
        directed.add_edge("source", f"nic{number}", capacity=1.0 if number < half else 0.0)
        directed.add_edge(f"nic{number}", "sink", capacity=1.0 if number >= half else 0.0)
    assert nx.maximum_flow_value(directed, "source", "sink") == pytest.approx(counted.cut)


@pytest.mark.parametrize(("radix", "q", "delta"), [(8, 3, -1), (11, 5, 1), (17, 7, -1)])
def test_the_cut_of_a_slim_fly_is_its_spectral_bound(radix: int, q: int, delta: int) -> None:
    """A cut into halves severs at least N/4 * (degree - second eigenvalue) links [Fiedler 1973]."""
    numbers = slim_fly_numbers(float(radix))
    assert (numbers.q, numbers.delta) == (q, delta)
    graph = fabric_graph(network("sf", radix), 1)
    matrix = nx.to_numpy_array(nx.Graph(graph.subgraph(switches(graph))))
    degree, second = np.sort(np.linalg.eigvalsh(matrix))[::-1][:2]
    assert degree == pytest.approx(float(numbers.degree))
    assert whole(network("sf", radix)).cut == pytest.approx(len(matrix) / 4 * (degree - second))


@pytest.mark.parametrize("groups", [4, 6, 8])
def test_the_cut_of_a_dragonfly_is_the_mean_over_halves_of_its_groups(groups: int) -> None:
    fabric = network("df", 7, groups=float(groups))
    graph = fabric_graph(fabric, 1)
    group = {name: int(name.split(".")[1]) // 4 for name in switches(graph)}
    severed = [
        sum((group[a] in half) != (group[b] in half) for a, b in graph.edges() if a in group and b in group)
        for half in combinations(range(groups), groups // 2)
    ]
    assert np.mean(severed) == pytest.approx(whole(fabric).cut)


def test_a_slim_fly_of_no_prime_is_counted_and_not_built() -> None:
    paper = network("sf", 64)
    assert slim_fly_numbers(64.0).q == 28
    assert whole(paper).switches == 1_568
    with pytest.raises(InputError, match="q = 28, not a prime"):
        fabric_graph(paper, 64)


def test_rails_and_planes_keep_a_rail_together() -> None:
    """NIC i of every node hangs on the leaves of rail i; of mpft in plane i; of `rail` on leaf i of its unit."""
    for topology, planes in (("mrft", 1), ("mpft", 4)):
        graph = fabric_graph(network(topology, 8, planes), 32, 4)
        leaf = {nic: next(iter(graph[f"nic{nic}"])) for nic in range(32)}
        rails = [{leaf[nic] for nic in range(rail, 32, 4)} for rail in range(4)]
        assert all(not a & b for a, b in combinations(rails, 2))
        assert all(len(rail) == 2 for rail in rails)
    graph = fabric_graph(network("rail", 8), 32, 4)
    assert next(iter(graph["nic0"])) == next(iter(graph["nic12"])) == "leaf0.0"  # nodes 0 and 3: a unit
    assert next(iter(graph["nic16"])) == "leaf0.4"  # node 4: the next unit


@pytest.mark.parametrize(
    ("fabric", "endpoints", "message"),
    [
        (network("ft2", 8), 33, "32 ports"),
        (network("hypercube", 8), 4, "no graph"),
        (network("pcie", 8), 4, "no graph"),
        (network("mrft", 8), 36, "32 ports"),
    ],
)
def test_what_does_not_fit_a_fabric_is_an_error(fabric: Network, endpoints: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fabric_graph(fabric, endpoints, 4)


def test_rails_need_leaves_of_their_own() -> None:
    with pytest.raises(InputError, match="plane 0 has 8 leaves, leaf 11 is needed"):
        fabric_graph(network("mrft", 8), 30, 6)  # five nodes: two leaves for each of six rails


def test_a_topology_by_itself_says_how_large_it_is() -> None:
    assert named_fabric(network("pcie", 2, groups=2.0), 8.0).switches == 6  # four switches below two bridges
    assert named_fabric(network("pcie", 4, groups=2.0), 8.0).switches == 2  # devices on the bridges
    assert named_fabric(network("pcie", 2, groups=2.0), 8.0).links == 5
    assert named_fabric(network("rail", 64), 1016.0).switches == 96
    for fabric, message in (
        (network("pcie", 2), "no size of its own"),
        (network("hypercube", 8), "no counts"),
        (network("ft2", 1), "cannot be made"),
    ):
        with pytest.raises(InputError, match=message):
            named_fabric(fabric, None)
    with pytest.raises(InputError, match="32 ports for endpoints, 40"):
        named_fabric(network("ft2", 8), 40.0)
