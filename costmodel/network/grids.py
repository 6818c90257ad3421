"""Meshes and tori of routers: dies on a wafer, chips in a torus that optical circuits close.

Router r is at (r mod s1, r / s1 mod s2, ...). Endpoint e hangs on router e / h, h = ports of a router - 2 * dimensions.
A torus joins both ends of a side of more than two routers. Messages take one dimension after the other. On a side over
which a group extends over e routers, an even exchange of S bytes a rank loads its fullest directed link with

    h * S * floor(e^2 / 4) / e,    half of that where the side is closed

Gathers may also take rings over all sides at once, a part of the buffer beginning with each (`bucket`).

Sources: Dally, Towles, Principles and Practices of Interconnection Networks, 2004, chapters 3 to 5. Seo et al., ISCA
2005 (either order of dimensions). Chan, Heimlich, Purkayastha, van de Geijn, Collective communication, 2007 (buckets).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations, product

import numpy as np

from costmodel.equations import equation
from costmodel.errors import InputError
from costmodel.hardware import Network
from costmodel.network.shortest_paths import Paths, Switches
from costmodel.quantities import (
    Bytes,
    BytesPerSecond,
    Count,
    Indices,
    Mask,
    Seconds,
    ceil,
    floor,
    maximum,
    minimum,
    where,
)
from costmodel.records import Record

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


class Side(Record):
    """A side of a mesh or torus for a group that is a box of it, each router with one rank of one group.

    extent: ranks of the group along it.
    interleaved: groups whose ranks lie between these, on the same links.
    is_ring: whether its ends are joined, so that data goes round both ways.
    """

    extent: Count
    interleaved: Count
    is_ring: Mask

    @property
    def steps(self) -> Count:
        """Return the steps of a gather along it: floor(extent / 2) both ways round a ring, else extent - 1."""
        return where(self.is_ring, floor(self.extent / 2.0), self.extent - 1.0)


def box_sides(network: Network, ranks: Count, stride: Count) -> list[Side]:
    """Return the sides of a group, none where routers have several endpoints. Whether it fills them: `fills_box`."""
    if np.any(np.not_equal(endpoints_per_router(network), 1.0)):
        return []
    spans, steps = _sides(network, ranks * stride), _sides(network, stride)
    return [
        Side(span / step, step, closes & (span == side))
        for (span, closes), (step, _), side in zip(spans, steps, network.shape, strict=True)
    ]


def fills_box(sides: Sequence[Side], ranks: Count) -> Mask:
    """Tell whether a group of more than one rank is a whole box: its extents are whole numbers with that product."""
    product_of_sides: Count = 1.0
    whole: Mask = ranks > 1
    for side in sides:
        product_of_sides = product_of_sides * side.extent
        whole = whole & (side.extent == floor(side.extent)) & (side.interleaved == floor(side.interleaved))
    return whole & (product_of_sides == ranks)


@equation
def bucket(sides: Sequence[Side], link: BytesPerSecond, latencies: Sequence[Seconds]) -> tuple[Count, Seconds]:
    """Return the seconds of a gather for each byte of its buffer, and its latency [s]; 0 in a group of one.

        per_byte := sum over phases of the slowest part's shard * (extent - 1) / (ways * link / interleaved) / (n * d)
        latency := sum over phases of the longest part's steps * latency of a step

    The buffer is divided into d parts, one for each side that the group extends over. Part k takes rings over the sides
    k, k + 1, ... in turn, so that all sides are busy at once; what a rank holds of it, the shard, grows by each extent.
    A ring that closes takes both ways at once.

    latencies: of a step along each side.
    """
    table = np.stack(np.broadcast_arrays(*(
        np.asarray(value, dtype=np.float64)
        for side, latency in zip(sides, latencies, strict=True)
        for value in (side.extent, where(side.is_ring, 2.0, 1.0) * link / side.interleaved, side.steps * latency)
    )))  # fmt: skip
    extent, rate, wait = table[0::3], table[1::3], table[2::3]
    order = np.argsort(extent <= 1.0, axis=0, kind="stable")  # sides that the group extends over come first
    extent, rate, wait = (np.take_along_axis(each, order, axis=0) for each in (extent, rate, wait))
    used = np.maximum((extent > 1.0).sum(axis=0), 1)
    shard, per_byte, latency = np.ones_like(extent), np.zeros(used.shape), np.zeros(used.shape)
    for phase in range(len(sides)):
        at = (np.arange(len(sides)).reshape(-1, *([1] * used.ndim)) + phase) % used
        taken = [np.take_along_axis(each, at, axis=0) for each in (extent, rate, wait)]
        busy = phase < used
        per_byte = per_byte + np.where(busy, (shard * (taken[0] - 1.0) / taken[1]).max(axis=0), 0.0)
        latency = latency + np.where(busy, taken[2].max(axis=0), 0.0)
        shard = shard * taken[0]
    per_byte = per_byte / (np.prod(extent, axis=0) * used)
    return (per_byte, latency) if used.ndim else (float(per_byte), float(latency))


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
    start, goal = (np.stack(np.unravel_index(numbers[side], tuple(shape), order="F"), axis=1) for side in ends)
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
