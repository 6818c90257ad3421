"""Meshes and tori of routers: dies on a wafer, chips in a torus that optical circuits close.

Router r is at (r mod s1, r / s1 mod s2, ...). Endpoint e hangs on router e / h, h = ports of a router - 2 * dimensions.
A torus joins both ends of a side of more than two routers. Messages take one dimension after the other. On a side over
which a group extends over e routers, an even exchange of S bytes a rank loads its fullest directed link with

    h * S * floor(e^2 / 4) / e,    half of that where the side is closed

Sources: Dally, Towles, Principles and Practices of Interconnection Networks, 2004, chapters 3 to 5. Seo et al., ISCA
2005 (either order of dimensions).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations, product

import numpy as np

from costmodel.errors import InputError
from costmodel.hardware import Network
from costmodel.network.shortest_paths import Paths, Switches
from costmodel.quantities import Bytes, Count, Indices, ceil, floor, maximum, minimum, where

GRIDS = ("mesh", "torus")
MAX_ENTRIES = 60_000_000  # of path rows times their links: about half a gigabyte


def endpoints_per_router(network: Network) -> Count:
    """Return the endpoints of a router: its ports less two a dimension."""
    return network.radix - 2.0 * len(network.shape)


def _sides(network: Network, routers: Count) -> Iterator[tuple[Count, bool]]:
    """Yield (extent, whether it is a closed ring) of the first `routers` routers along each side."""
    below = 1.0
    for side in network.shape:
        extent = minimum(maximum(ceil(routers / below), 1.0), side)
        yield extent, network.topology == "torus" and side > 2
        below = below * side


def _is_closed(network: Network, side: float) -> bool:
    return network.topology == "torus" and side > 2


def link_count(network: Network) -> Count:
    """Return the cables between routers: sum over sides of (s - 1) * routers / s, or of all where a torus closes it."""
    routers = float(np.prod(network.shape))
    return sum(routers / side * (side if _is_closed(network, side) else side - 1) for side in network.shape)


def diameter(network: Network) -> Count:
    """Return the links between the farthest routers: sum of s - 1, or of floor(s/2) where a torus closes the side."""
    return sum(side // 2 if _is_closed(network, side) else side - 1 for side in network.shape)


def cut(network: Network) -> Count:
    """Return the links that a cut across the longest side severs: routers / s, twice that of a closed ring.

    Of an odd side the halves differ by one layer.
    """
    routers, side = float(np.prod(network.shape)), max(network.shape)
    return routers / side * (2.0 if _is_closed(network, side) else 1.0) if side > 1 else routers / 2


def exchange_load(network: Network, endpoints: Count) -> Bytes:
    """Return the bytes on the fullest link for each byte that every one of `endpoints` sends to all equally."""
    load: Bytes = 0.0
    per_router = endpoints_per_router(network)
    for (extent, closes), side in zip(_sides(network, endpoints / per_router), network.shape, strict=True):
        open_load = floor(extent * extent / 4.0) / extent
        load = maximum(load, where(closes & (extent == side), 0.5, 1.0) * open_load)
    return per_router * load


def farthest_hops(network: Network, endpoints: Count) -> Count:
    """Return the links between the farthest of `endpoints`."""
    hops: Count = 0.0
    routers = endpoints / endpoints_per_router(network)
    for (extent, closes), side in zip(_sides(network, routers), network.shape, strict=True):
        hops = hops + where(closes & (extent == side), floor(extent / 2.0), extent - 1.0)
    return hops


def neighbour_load(network: Network, stride: Count) -> Count:
    """Return the bytes on a link between routers for each byte that all endpoints send to those `stride` farther on.

    Of h endpoints a router: h on each of the links between them. Of fewer than h apart, those that leave the router.
    """
    per_router = endpoints_per_router(network)
    return where(stride < per_router, maximum(stride, 1.0), per_router * neighbour_hops(network, stride))


def neighbour_hops(network: Network, stride: Count) -> Count:
    """Return the links between routers of ranks that are `stride` endpoints apart."""
    distance, below = stride / endpoints_per_router(network), 1.0
    hops: Count = 1.0
    for side in network.shape:
        hops = where(distance >= below, maximum(ceil(distance / below), 1.0), hops)
        below = below * side
    return hops


def ring_hops(network: Network, endpoints: Count, stride: Count) -> Count:
    """Return the links of a ring's longest step: back over a mesh to the first rank, over a torus's own end."""
    farthest = farthest_hops(network, endpoints)
    if network.topology == "mesh":
        return farthest
    routers = endpoints / endpoints_per_router(network)
    used: Count = 0.0
    for extent, _ in _sides(network, routers):
        used = used + where(extent > 1, 1.0, 0.0)
    return minimum(farthest, used * neighbour_hops(network, stride))


# ---- paths ----------------------------------------------------------------------------------------------------------


def grid_cables(network: Network) -> Iterator[tuple[int, int]]:
    """Yield the routers at both ends of each cable."""
    shape = tuple(map(int, network.shape))
    places = np.arange(int(np.prod(shape))).reshape(shape[::-1])
    for axis, side in enumerate(reversed(shape)):
        lines = np.moveaxis(places, axis, -1).reshape(-1, side)
        for line in lines.tolist():
            yield from pairwise(line)
            if _is_closed(network, side):
                yield line[-1], line[0]


def grid_paths(network: Network, switches: Switches, ends: tuple[Indices, Indices], *, one_order: bool) -> Paths:
    """Return the paths of pairs of routers that take one dimension after the other.

    ends: sources and targets.
    one_order: the first dimension first, half-way round forwards. Else every order and, half the way round a ring,
    either direction. Raises InputError where they are too many to hold.
    """
    numbers = np.array([int(name.rpartition(".")[2]) for name in switches.names])
    shape = np.array(network.shape, np.intp)
    start, goal = (_places(numbers[side], shape) for side in ends)
    dimensions = len(shape)
    orders = list(permutations(range(dimensions)))[: 1 if one_order else None]
    ties = list(product((1, -1), repeat=dimensions))[: 1 if one_order or network.topology == "mesh" else None]
    longest = max(int(diameter(network)), 1)
    if len(orders) * len(ties) * len(start) * longest > MAX_ENTRIES:
        raise InputError.single(
            f"there are more than {MAX_ENTRIES:,} links on the paths of all pairs", hint="use fewer ranks"
        )
    rows = [_walk(network, switches, (start, goal), order, tie) for order in orders for tie in ties]
    pair = np.tile(np.arange(len(start)), len(rows))
    if len(rows) == 1:
        return Paths(rows[0], np.arange(len(start)), np.ones(len(start), np.intp))
    unique = np.unique(np.column_stack([pair, np.concatenate(rows)]), axis=0)
    counts = np.bincount(unique[:, 0], minlength=len(start))
    return Paths(unique[:, 1:], np.cumsum(counts) - counts, counts)


def _places(routers: Indices, shape: Indices) -> Indices:
    """Return the coordinates of routers, shape (routers, dimensions)."""
    return np.stack(np.unravel_index(routers, tuple(shape), order="F"), axis=1)


def _walk(
    network: Network, switches: Switches, ends: tuple[Indices, Indices], order: Sequence[int], tie: Sequence[int]
) -> Indices:
    """Return the links of each pair's path, -1 after its last. tie: direction of half a ring, by dimension."""
    shape = np.array(network.shape, np.intp)
    here, goal = ends[0].copy(), ends[1]
    count = len(switches.names)
    numbers = np.array([int(name.rpartition(".")[2]) for name in switches.names])
    switch = np.empty(count, np.intp)
    switch[numbers] = np.arange(count)
    keys = switches.tail * count + switches.head
    rows = np.full((len(here), max(int(diameter(network)), 1)), -1, np.intp)
    used = np.zeros(len(here), np.intp)
    for dimension in order:
        side = int(shape[dimension])
        gap = goal[:, dimension] - here[:, dimension]
        step = np.sign(gap)
        if _is_closed(network, side):
            round_trip = np.abs(gap) * 2
            step = np.where(round_trip > side, -step, np.where(round_trip == side, tie[dimension], step))
        for _ in range(side):
            moving = np.flatnonzero(here[:, dimension] != goal[:, dimension])
            if not len(moving):
                break
            before = np.ravel_multi_index(tuple(here[moving].T), tuple(shape), order="F")
            here[moving, dimension] = (here[moving, dimension] + step[moving]) % side
            after = np.ravel_multi_index(tuple(here[moving].T), tuple(shape), order="F")
            rows[moving, used[moving]] = np.searchsorted(keys, switch[before] * count + switch[after])
            used[moving] += 1
    return rows
