"""Fabrics as graphs, cable by cable: switches, endpoints and the cables between them.

Nodes are named `nic12`, `leaf0.3` (plane 0, leaf 3), `spine0.1`, `core0.5`, `router0.7`, `chip2`. Endpoints carry
`endpoint=True`, every node its `plane`. Only the leaves that hold endpoints are built, with all spines of the full
fabric.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations

import networkx as nx
import numpy as np

from costmodel.equations import equation
from costmodel.errors import InputError
from costmodel.hardware import Network
from costmodel.network import topologies
from costmodel.network.grids import endpoints_per_router, grid_cables

RAILED = ("mrft", "rail", "mpft")
"""Topologies in which NIC i of every node hangs on the leaves of rail i."""

MOST_ROUTERS = 65_536  # of a grid: its graph then takes seconds


def fabric_graph(network: Network, endpoints: int, rails: int = 1) -> nx.MultiGraph:
    """Return the part of a fabric that holds `endpoints`, numbered node by node, `rails` in each node.

    Raises InputError where the topology has no graph or not that many ports.
    """
    if network.topology not in topologies.TOPOLOGIES or network.topology == "pcie":
        raise InputError.single(
            f"topology {network.topology!r} has no graph", field="network.topology",
            hint=f"write one of {', '.join(name for name in topologies.TOPOLOGIES if name != 'pcie')}",
        )  # fmt: skip
    full = topologies.full_fabric(network, float(endpoints))
    if full is None or endpoints > full.endpoints:
        ports = 0.0 if full is None else full.endpoints
        raise InputError.single(
            f"the fabric has {ports:,.0f} ports, {endpoints:,} endpoints need one each",
            hint="use fewer ranks, more planes or switches with more ports", field="network.radix",
        )  # fmt: skip
    graph = nx.MultiGraph()
    match network.topology:
        case "nvlink":
            _nvlink(graph, network, endpoints)
        case "mesh" | "torus":
            _grid(graph, network, endpoints)
        case "ocs":
            _add_switch(graph, "circuits0", 0)
            for number in range(endpoints):
                _add_nic(graph, number, "circuits0")
        case "sf":
            _slim_fly(graph, network, endpoints)
        case "df":
            _dragonfly(graph, network, endpoints)
        case _:
            _fat_trees(graph, network, endpoints, rails)
    return graph


@equation
def leaf_assignment(network: Network, endpoints: int, rails: int) -> tuple[list[int], list[int], topologies.Ports]:
    """Return (plane of each endpoint, its leaf inside the plane, ports of a leaf) of a fat tree.

        planes := fabrics side by side: an endpoint is on that of its number modulo planes, or of its rail's

    mpft: NIC i of node n is in plane i.
    mrft: on leaf floor(n/d) of rail i.
    rail: on leaf i of unit floor(n/d). Else endpoints fill leaves in order.
    """
    ports, planes = topologies.leaf_ports(network.radix, network.oversubscription), int(network.planes)
    down, every = int(ports.down), range(endpoints)
    if network.topology not in RAILED or rails == 1:
        if planes > 1 and network.topology not in RAILED:
            return [e % planes for e in every], [e // planes // down for e in every], ports
        return [0] * endpoints, [e // down for e in every], ports
    leaves_per_rail = math.ceil(math.ceil(endpoints / rails) / down)
    if planes > 1:
        rails_per_plane = max(rails // planes, 1)
        return (
            [e % rails % planes for e in every],
            [e % rails // planes % rails_per_plane * leaves_per_rail + e // rails // down for e in every],
            ports,
        )
    if network.topology == "rail":
        return [0] * endpoints, [e // rails // down * rails + e % rails for e in every], ports
    return [0] * endpoints, [e % rails * leaves_per_rail + e // rails // down for e in every], ports


def _add_switch(graph: nx.MultiGraph, name: str, plane: int) -> str:
    graph.add_node(name, endpoint=False, plane=plane)
    return name


def _add_nic(graph: nx.MultiGraph, number: int, switch: str) -> None:
    graph.add_node(f"nic{number}", endpoint=True, plane=graph.nodes[switch]["plane"])
    graph.add_edge(f"nic{number}", switch)


def _fat_trees(graph: nx.MultiGraph, network: Network, endpoints: int, rails: int) -> None:
    """Add the trees of all planes: leaves under spines, and pods under cores where the topology has three levels."""
    plane_of, leaf_of, ports = leaf_assignment(network, endpoints, rails)
    up, half = int(ports.up), int(network.radix) // 2
    three_levels = topologies.has_three_levels(network, float(endpoints))
    tree = (topologies.three_level_fat_tree if three_levels else topologies.two_level_fat_tree)(
        network.radix, network.oversubscription
    )
    most_leaves = tree.endpoints / ports.down
    for plane in range(int(network.planes)):
        used = sorted({leaf for leaf, number in zip(leaf_of, plane_of, strict=True) if number == plane})
        if used and used[-1] >= most_leaves:
            raise InputError.single(
                f"plane {plane} has {most_leaves:.0f} leaves, leaf {used[-1]} is needed",
                hint="use fewer nodes or switches with more ports", field="network.radix",
            )  # fmt: skip
        leaves = {leaf: _add_switch(graph, f"leaf{plane}.{leaf}", plane) for leaf in used}
        if three_levels:
            _pods(graph, leaves, plane, up, half)
        else:
            spines = [_add_switch(graph, f"spine{plane}.{spine}", plane) for spine in range(up)]
            graph.add_edges_from((leaf, spine) for leaf in leaves.values() for spine in spines)
    for number in range(endpoints):
        _add_nic(graph, number, f"leaf{plane_of[number]}.{leaf_of[number]}")


def _pods(graph: nx.MultiGraph, leaves: dict[int, str], plane: int, up: int, half: int) -> None:
    """Add the spines of each pod and, of several pods, cores: spine s of every pod under its own `half`."""
    pods = sorted({leaf // half for leaf in leaves})
    spines = {(pod, s): _add_switch(graph, f"spine{plane}.{pod}.{s}", plane) for pod in pods for s in range(up)}
    graph.add_edges_from((name, spines[leaf // half, s]) for leaf, name in leaves.items() for s in range(up))
    if len(pods) > 1:
        cores = [_add_switch(graph, f"core{plane}.{number}", plane) for number in range(up * half)]
        graph.add_edges_from((spines[pod, number // half], core) for pod in pods for number, core in enumerate(cores))


def _nvlink(graph: nx.MultiGraph, network: Network, endpoints: int) -> None:
    for chip in range(int(network.planes)):
        _add_switch(graph, f"chip{chip}", 0)
    for number in range(endpoints):
        graph.add_node(f"gpu{number}", endpoint=True, plane=0)
        graph.add_edges_from((f"gpu{number}", f"chip{chip}") for chip in range(int(network.planes)))


def _grid(graph: nx.MultiGraph, network: Network, endpoints: int) -> None:
    routers = int(np.prod(network.shape))
    if routers > MOST_ROUTERS:
        raise InputError.single(
            f"a {network.topology} of {routers:,} routers is too large to be laid out", field="network.shape",
            hint=f"state up to {MOST_ROUTERS:,}, or take the closed form",
        )  # fmt: skip
    names = [_add_switch(graph, f"router0.{number}", 0) for number in range(routers)]
    graph.add_edges_from((names[first], names[second]) for first, second in grid_cables(network))
    _add_nics(graph, endpoints, 1, int(endpoints_per_router(network)))


def _slim_fly(graph: nx.MultiGraph, network: Network, endpoints: int) -> None:
    """Add a McKay-Miller-Siran graph for prime q [Besta, Hoefler, SC 2014, section II-B]. All of its routers.

    (0, x, y) - (0, x, y') where y - y' is in X. (1, m, c) - (1, m, c') where c - c' is in X'. (0, x, y) - (1, m, c)
    where y = m*x + c. All modulo q.
    """
    numbers = topologies.slim_fly_numbers(network.radix)
    q, hosts = int(numbers.q), int(numbers.hosts)
    if any(q % divisor == 0 for divisor in range(2, int(q**0.5) + 1)):
        raise InputError.single(
            f"a Slim Fly of {network.radix:g}-port routers has q = {q}, not a prime: only its counts are known",
            hint="graphs are built for prime q: 11 ports (q = 5), 17 (q = 7), 30 (q = 13)", field="network.radix",
        )  # fmt: skip
    generators = _generators(q, int(numbers.delta))
    for plane in range(int(network.planes)):
        names = {
            (side, x, y): _add_switch(graph, f"router{plane}.{(side * q + x) * q + y}", plane)
            for side in (0, 1) for x in range(q) for y in range(q)
        }  # fmt: skip
        for side, steps in enumerate(generators):
            for x in range(q):
                for y, z in combinations(range(q), 2):
                    if (z - y) % q in steps:
                        graph.add_edge(names[side, x, y], names[side, x, z])
        graph.add_edges_from(
            (names[0, x, (m * x + c) % q], names[1, m, c]) for x in range(q) for m in range(q) for c in range(q)
        )
    _add_nics(graph, endpoints, int(network.planes), hosts)


def _generators(q: int, delta: int) -> tuple[set[int], set[int]]:
    """Return X and X' from the powers of a primitive element of the integers modulo q."""
    root = next(g for g in range(2, q + 1) if len({pow(g, e, q) for e in range(q - 1)}) == q - 1)
    if delta == 1:
        return {pow(root, e, q) for e in range(0, q - 1, 2)}, {pow(root, e, q) for e in range(1, q - 1, 2)}
    w = (q + 1) // 4
    evens = [*range(0, 2 * w - 1, 2), *range(2 * w - 1, 4 * w - 2, 2)]
    odds = [*range(1, 2 * w, 2), *range(2 * w, 4 * w - 1, 2)]
    return {pow(root, e, q) for e in evens}, {pow(root, e, q) for e in odds}


def _dragonfly(graph: nx.MultiGraph, network: Network, endpoints: int) -> None:
    """Add all groups of a balanced dragonfly: routers of a group all joined, global ports spread over other groups."""
    numbers = topologies.dragonfly_numbers(network.radix, network.groups)
    h, a, groups = int(numbers.per_router), int(numbers.routers), int(numbers.groups)
    for plane in range(int(network.planes)):
        names = [[_add_switch(graph, f"router{plane}.{g * a + r}", plane) for r in range(a)] for g in range(groups)]
        for group in names:
            graph.add_edges_from(combinations(group, 2))
        offsets = list(_offsets(a * h, groups))
        far_port: dict[int, int] = {}  # port -> the port at the other end, `offset` groups further on
        ports_by_offset: dict[int, list[int]] = {}
        for port, offset in enumerate(offsets):
            ports_by_offset.setdefault(offset, []).append(port)
        for offset, ports in ports_by_offset.items():
            far_port.update(zip(ports, ports_by_offset[groups - offset], strict=True))
        for g in range(groups):
            for port, offset in enumerate(offsets):
                far_group = (g + offset) % groups
                if (g, port) < (far_group, far_port[port]):
                    graph.add_edge(names[g][port // h], names[far_group][far_port[port] // h])
    _add_nics(graph, endpoints, int(network.planes), h)


def _offsets(ports: int, groups: int) -> Iterable[int]:
    """Yield for each global port how many groups further its link ends. Each offset as often as its opposite."""
    others = groups - 1
    if others < 1:
        return
    rounds, rest = divmod(ports, others)
    for _ in range(rounds):
        yield from range(1, groups)
    each_way = rest // 2
    yield from (*range(1, each_way + 1), *range(groups - each_way, groups))
    if rest % 2 and groups % 2 == 0:
        yield groups // 2


def _add_nics(graph: nx.MultiGraph, endpoints: int, planes: int, hosts: int) -> None:
    """Add endpoints to routers, `hosts` on each. Plane by plane where there are several."""
    for number in range(endpoints):
        _add_nic(graph, number, f"router{number % planes}.{number // planes // hosts}")
