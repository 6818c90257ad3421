"""Collectives in closed form: one formula for each algorithm, the one that a library takes, and the fastest of all.

Sizes S are whole buffers, as nccl-tests counts them. A group has n ranks, l on each of N nodes; B_in and B_out are the
bandwidths, a_in and a_out the latencies of a rank's links inside and between nodes, a that of the farthest pair. The
same algorithms as flows: `collective_flows`. Ring, and halving and doubling: Thakur et al., IJHPCA 2005.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from costmodel.equations import equation
from costmodel.errors import InputError
from costmodel.network.group_links import GroupLinks
from costmodel.quantities import (
    Bytes,
    BytesPerSecond,
    Count,
    Mask,
    Quantity,
    Seconds,
    ceil,
    floor,
    is_single,
    log2,
    maximum,
    minimum,
    where,
)


def collective_time(kind: str, size: Bytes, links: GroupLinks) -> Seconds:
    """Return the time of the fastest algorithm that libraries have for a collective [s], zero in a group of one.

    Raises KeyError on an unknown kind.
    """
    return _least(kind, LIBRARY[kind], size, links)


def fastest_time(kind: str, size: Bytes, links: GroupLinks) -> Seconds:
    """Return the time of the fastest algorithm of a collective [s], zero in a group of one.

    Algorithms of `IN_SWITCHES` are left out: no file says which switches add up or copy.
    """
    return _least(kind, [name for name in CLOSED_FORMS[kind] if name not in IN_SWITCHES], size, links)


def fastest_algorithm(kind: str, size: Bytes, links: GroupLinks) -> str:
    """Return the name of the algorithm whose time `fastest_time` is, at a single size."""
    names = [name for name in CLOSED_FORMS[kind] if name not in IN_SWITCHES]
    return min(names, key=lambda name: float(CLOSED_FORMS[kind][name](size, links)))


@equation
def _least(kind: str, names: Sequence[str], size: Bytes, links: GroupLinks) -> Seconds:
    """Return the time of the fastest of some algorithms of a collective [s].

    wire_time = where(links.size > 1, algorithm_time, 0)
    inside = where(links.size > 1, algorithm_time, 0)
    """
    algorithm_time = minimum(*(CLOSED_FORMS[kind][name](size, links) for name in names))
    return where(links.size > 1, algorithm_time, 0.0)


def algorithm_time(kind: str, algorithm: str, size: Bytes, links: GroupLinks) -> Seconds:
    """Return the time of a collective by one algorithm [s], infinite at points of an array that it does not suit.

    Raises InputError where the collective has no such algorithm, or where it does not suit the only point.
    """
    forms = CLOSED_FORMS.get(kind, {})
    if algorithm not in forms:
        known = ", ".join(forms) or "(none)"
        raise InputError.single(f"{kind} has no algorithm {algorithm!r} in closed form", hint=f"write one of {known}")
    time = where(links.size > 1, forms[algorithm](size, links), 0.0)
    if is_single(time) and time == np.inf:
        raise InputError.single(f"{algorithm} takes {_SUITED[algorithm]}, not {links.size:g} ranks here")
    return time


@equation
def nccl_time(kind: str, size: Bytes, links: GroupLinks) -> Seconds:
    """Return the time of a collective of NCCL [s], the base of fitted collectives.

    It is `collective_time`, but of an all-reduce the volume of rings and the steps of double binary trees, which are
    chains inside a node: NCCL takes trees for small messages and rings for large ones [NCCL, src/graph/tuning.cc].

        inside = where(links.size > 1, 2 * ring_time + 2 * steps + links.setup, 0)
        steps = (links.ranks_per_node - 1) * links.intra_latency + ceil(log2(links.nodes)) * links.inter_latency
    """
    if kind != "all_reduce":
        return collective_time(kind, size, links)
    steps = (links.ranks_per_node - 1) * links.intra_latency + doublings(links.nodes) * links.inter_latency
    ring_time = ring_transfer(size, links)
    return where(links.size > 1, 2 * ring_time + 2 * steps + links.setup, 0.0)


@equation
def ring_bandwidth(links: GroupLinks) -> BytesPerSecond:
    """Return the bandwidth of l rings over all NICs of a node.

        bandwidth = where(links.nodes > 1, crossing, links.intra)
        crossing = where(local > 1, min(inner, local * links.inter), links.inter)
        inner = links.intra * local / where(local > 1, local - 1, 1)

    Each ring carries S/l. It enters a node by the NIC of one rank, passes all l ranks and leaves by the NIC of another
    one: l hops a node, of which l-1 are over inner links and one over a NIC. The rings leave by different ranks, so
    that a rank sends l-1 of the l rings over its inner link and one over its NIC, both at the same time. Of the volume
    V of all rings, (n-1)/n * S, its inner link carries V*(l-1)/l and its NIC V/l.

    NCCL does so where links inside nodes bound: NCCL_CROSS_NIC and "Alternate rings" in src/graph/connect.cc, issues
    1411 (rings over two H800 nodes are faster than NVLink) and 1494 of NVIDIA/nccl. Rings that leave a node by the NIC
    by which they came make all l hops inside: min(B_in, l*B_out).
    """
    local = links.ranks_per_node
    inner = links.intra * local / where(local > 1, local - 1, 1.0)
    crossing = where(local > 1, minimum(inner, local * links.inter), links.inter)
    return where(links.nodes > 1, crossing, links.intra)


@equation
def ring_transfer(size: Bytes, links: GroupLinks) -> Seconds:
    """Return the time of the bytes of one pass of a ring, without latencies.

    ring_time = (links.size - 1) / links.size * size / bandwidth
    """
    bandwidth = ring_bandwidth(links)
    return (links.size - 1) / links.size * size / bandwidth


@equation
def ring(size: Bytes, links: GroupLinks) -> Seconds:
    """Return the time of one pass of a ring.

    one_way = ring_time + (links.size - 1) * links.step_latency + links.setup
    algorithm_time = ring_time + (links.size - 1) * links.step_latency + links.setup
    """
    ring_time = ring_transfer(size, links)
    return ring_time + (links.size - 1) * links.step_latency + links.setup


@equation
def hierarchical(size: Bytes, links: GroupLinks) -> Seconds:
    """Return the time of rings along the rails, then in the nodes.

    one_way = outer + links.setup + inner
    algorithm_time = outer + links.setup + inner
    outer = (nodes - 1) / nodes * size / local / links.inter + (nodes - 1) * links.inter_latency * links.step_share
    inner = (local - 1) / local * size / links.intra + (local - 1) * links.intra_latency
    """
    local, nodes = links.ranks_per_node, links.nodes
    outer = (nodes - 1) / nodes * size / local / links.inter + (nodes - 1) * links.inter_latency * links.step_share
    inner = (local - 1) / local * size / links.intra + (local - 1) * links.intra_latency
    return outer + links.setup + inner


@equation
def halving_doubling(size: Bytes, links: GroupLinks) -> Seconds:
    """Return log2(n) exchanges, the nearest with half of the buffer, infinite where n or l is no power of two.

        one_way = inner + outer
        algorithm_time = inner + outer
        inner = (local - 1) / local * size / links.intra + log2(local) * links.intra_latency
        outer = sent / links.exchange + log2(links.nodes) * (links.inter_latency + links.setup)
        sent = (1 / local - 1 / n) * size

    Distant partners share links as all ranks together do: B_all, that of an even exchange.
    """
    local, n = links.ranks_per_node, links.size
    inner = (local - 1) / local * size / links.intra + log2(local) * links.intra_latency
    sent = (1 / local - 1 / n) * size
    outer = sent / links.exchange + log2(links.nodes) * (links.inter_latency + links.setup)
    return where(_is_power_of_two(n) & _is_power_of_two(local), inner + outer, np.inf)


@equation
def bucket(size: Bytes, links: GroupLinks) -> Seconds:
    """Return rings over all sides of a mesh or torus at once, infinite where the group is no box of one.

    one_way = (links.size - 1) / links.size * size / links.bucket_bandwidth + links.bucket_latency
    algorithm_time = (links.size - 1) / links.size * size / links.bucket_bandwidth + links.bucket_latency
    """
    if links.bucket_bandwidth is None:
        return np.inf
    bandwidth = where(links.bucket_bandwidth > 0, links.bucket_bandwidth, np.nan)
    time = (links.size - 1) / links.size * size / bandwidth + links.bucket_latency
    return where(links.bucket_bandwidth > 0, time, np.inf)


@equation
def trees(size: Bytes, links: GroupLinks) -> Seconds:
    """Return the bound of two complementary binary trees, up and down at once.

        algorithm_time = 2 * size / slowest + 2 * ceil(log2(links.size)) * links.latency + links.setup

    A rank inside one tree sends its half to a parent and to two children, and as a leaf of the other to a parent. Which
    of these leave a node depends on the ranks. The flow level counts them.
    """
    slowest = where(links.nodes > 1, minimum(links.slowest, links.exchange), links.slowest)
    return 2 * size / slowest + 2 * doublings(links.size) * links.latency + links.setup


@equation
def in_switch(size: Bytes, links: GroupLinks) -> Seconds:
    """Return a reduction in the switches, between nodes between rings in the nodes.

    algorithm_time = where(links.nodes > 1, between, size / links.intra + links.intra_latency)
    between = 2 * inside + size / local / links.inter + links.inter_latency
    inside = (local - 1) / local * size / links.intra + (local - 1) * links.intra_latency
    """
    local = links.ranks_per_node
    inside = (local - 1) / local * size / links.intra + (local - 1) * links.intra_latency
    between = 2 * inside + size / local / links.inter + links.inter_latency
    return where(links.nodes > 1, between, size / links.intra + links.intra_latency)


@equation
def multicast(size: Bytes, links: GroupLinks) -> Seconds:
    """Return one copy in and one out of every rank, which switches make.

    algorithm_time = size / where(links.nodes > 1, links.inter, links.intra) + links.latency
    """
    return size / where(links.nodes > 1, links.inter, links.intra) + links.latency


@equation
def chain(size: Bytes, links: GroupLinks) -> Seconds:
    """Return the bound of a broadcast in many small chunks.

    algorithm_time = size / bandwidth + steps * links.step_latency + links.setup
    steps = min(links.size - 1, ceil(log2(links.size)))
    """
    steps, bandwidth = minimum(links.size - 1, doublings(links.size)), ring_bandwidth(links)
    return size / bandwidth + steps * links.step_latency + links.setup


@equation
def both_links(sent_inside: Bytes, sent_outside: Bytes, links: GroupLinks) -> Seconds:
    """Return the slower of both links, used at once.

        algorithm_time = max(sent_inside / links.intra, sent_outside / links.exchange) + fixed
        fixed = links.latency + links.exchange_setup

    sent_inside: what a rank sends over its link inside the node [B].
    sent_outside: what it sends to all other nodes equally, over its NIC [B].
    """
    fixed = links.latency + links.exchange_setup
    return maximum(sent_inside / links.intra, sent_outside / links.exchange) + fixed


@equation
def direct_all_to_all(size: Bytes, links: GroupLinks) -> Seconds:
    """Return a message from every rank to every other, over both links at once.

    sent_inside = (local - 1) / n * size
    sent_outside = (n - local) / n * size
    """
    local, n = links.ranks_per_node, links.size
    sent_inside, sent_outside = (local - 1) / n * size, (n - local) / n * size
    return both_links(sent_inside, sent_outside, links)


@equation
def hierarchical_all_to_all(size: Bytes, links: GroupLinks) -> Seconds:
    """Return one exchange after the other.

    algorithm_time = inner + where(nodes > 1, outer, 0)
    inner = where(local > 1, (local - 1) / local * size / links.intra + links.intra_latency, 0)
    outer = (nodes - 1) / nodes * size / links.exchange + links.inter_latency + links.exchange_setup
    """
    local, nodes = links.ranks_per_node, links.nodes
    inner = where(local > 1, (local - 1) / local * size / links.intra + links.intra_latency, 0.0)
    outer = (nodes - 1) / nodes * size / links.exchange + links.inter_latency + links.exchange_setup
    return inner + where(nodes > 1, outer, 0.0)


@equation
def message(size: Bytes, links: GroupLinks) -> Seconds:
    """Return a message to the next rank of the group, over the slowest link that any pair uses.

    algorithm_time = size / links.slowest + links.step_latency + links.setup
    """
    return size / links.slowest + links.step_latency + links.setup


def doublings(ranks: Count) -> Count:
    """Return ceil(log2 n): how many doublings reach n ranks."""
    return ceil(log2(ranks))


def _is_power_of_two(count: Count) -> Mask:
    exponent = log2(count)
    return exponent == floor(exponent)


ClosedForm: TypeAlias = Callable[[Bytes, GroupLinks], Seconds]


def _both_ways(form: ClosedForm) -> ClosedForm:
    """Return an all-reduce: a reduce-scatter, and an all-gather of the same volume and steps the way back.

    The second pass begins with the circuits that the first one ended with.
    """

    @equation
    def both_ways(size: Bytes, links: GroupLinks) -> Seconds:
        """Return the time of both.

        algorithm_time = 2 * one_way - links.setup
        """
        one_way = form(size, links)
        return 2 * one_way - links.setup

    return both_ways


_GATHERS: dict[str, ClosedForm] = {
    "ring": ring, "hierarchical": hierarchical, "halving_doubling": halving_doubling, "bucket": bucket,
}  # fmt: skip
CLOSED_FORMS: Mapping[str, Mapping[str, ClosedForm]] = {
    "all_reduce": {name: _both_ways(form) for name, form in _GATHERS.items()} | {"tree": trees, "in_switch": in_switch},
    "all_gather": _GATHERS,
    "reduce_scatter": _GATHERS,
    "broadcast": {"ring": chain, "multicast": multicast},
    "all_to_all": {"direct": direct_all_to_all, "hierarchical": hierarchical_all_to_all},
    "send_recv": {"direct": message},
}
"""Collective -> algorithm -> its closed form."""
LIBRARY: Mapping[str, Sequence[str]] = {
    "all_reduce": ("ring", "hierarchical", "halving_doubling", "tree", "bucket"),
    "all_gather": ("ring", "hierarchical", "bucket"),
    "reduce_scatter": ("ring", "hierarchical", "bucket"),
    "broadcast": ("ring",),
    "all_to_all": ("direct",),
    "send_recv": ("direct",),
}
"""Collective -> algorithms that libraries have; gathers of NCCL are rings."""
IN_SWITCHES = ("in_switch", "multicast")
"""Algorithms that need switches which add up or copy."""
_SUITED = {"halving_doubling": "a power of two of ranks", "bucket": "a box of a mesh or torus, one rank a router"}


def pipelined(whole: Seconds, steps: Count, latency: Seconds, chunks: Count) -> Seconds:
    """Return the time of data that passes `steps` hops in chunks: (steps - 1 + chunks) * (whole / chunks + latency).

    whole: of all data over one hop, without latency.
    """
    return (steps - 1 + chunks) * (whole / chunks + latency)


def best_chunks(whole: Seconds, steps: Count, latency: Seconds) -> Count:
    """Return how many chunks make `pipelined` shortest: sqrt((steps - 1) * whole / latency), at least one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        number: Quantity = np.sqrt((steps - 1) * whole / np.asarray(latency, float))
    return maximum(1.0, np.round(number) if isinstance(number, np.ndarray) and number.ndim else float(np.round(number)))
