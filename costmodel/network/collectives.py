"""Collectives in closed form: one formula for each algorithm, the one that a library takes, and the fastest of all.

Sizes S are whole buffers, as nccl-tests counts them. A group has n ranks, l on each of N nodes; B_in and B_out are the
bandwidths, a_in and a_out the latencies of a rank's links inside and between nodes, a that of the farthest pair. The
same algorithms as flows: `collective_flows`. Ring, and halving and doubling: Thakur et al., IJHPCA 2005.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

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


def _least(kind: str, names: Sequence[str], size: Bytes, links: GroupLinks) -> Seconds:
    times = [CLOSED_FORMS[kind][name](size, links) for name in names]
    return where(links.size > 1, minimum(*times), 0.0)


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
        raise InputError.single(f"{algorithm} takes a power of two of ranks, not {links.size:g}")
    return time


def nccl_time(kind: str, size: Bytes, links: GroupLinks) -> Seconds:
    """Return the time of a collective of NCCL [s], the base of fitted collectives.

    It is `collective_time`, but of an all-reduce the volume of rings and the steps of double binary trees, which are
    chains inside a node: NCCL takes trees for small messages and rings for large ones [NCCL, src/graph/tuning.cc].

        2*(n-1)/n * S/B_ring + 2*(l-1)*a_in + 2*ceil(log2 N)*a_out + setup
    """
    if kind != "all_reduce":
        return collective_time(kind, size, links)
    steps = (links.ranks_per_node - 1) * links.intra_latency + doublings(links.nodes) * links.inter_latency
    return where(links.size > 1, 2 * ring_transfer(size, links) + 2 * steps + links.setup, 0.0)


def ring_bandwidth(links: GroupLinks) -> BytesPerSecond:
    """Return the bandwidth of l rings over all NICs of a node: min(B_in * l/(l-1), l*B_out); B_in in one node.

    Each ring carries S/l. It enters a node by the NIC of one rank, passes all l ranks and leaves by the NIC of another
    one: l hops a node, of which l-1 are over inner links and one over a NIC. The rings leave by different ranks, so
    that a rank sends l-1 of the l rings over its inner link and one over its NIC, both at the same time. With
    V = (n-1)/n * S over all rings its inner link carries V*(l-1)/l and its NIC V/l.

    NCCL does so where links inside nodes bound: NCCL_CROSS_NIC and "Alternate rings" in src/graph/connect.cc, issues
    1411 (rings over two H800 nodes are faster than NVLink) and 1494 of NVIDIA/nccl. Rings that leave a node by the NIC
    by which they came make all l hops inside: min(B_in, l*B_out).
    """
    local = links.ranks_per_node
    inside = links.intra * local / where(local > 1, local - 1, 1.0)
    crossing = where(local > 1, minimum(inside, local * links.inter), links.inter)
    return where(links.nodes > 1, crossing, links.intra)


def ring_transfer(size: Bytes, links: GroupLinks) -> Seconds:
    """Return the time of the bytes of one pass of a ring, without latencies: (n-1)/n * S/B_ring."""
    return (links.size - 1) / links.size * size / ring_bandwidth(links)


def ring(size: Bytes, links: GroupLinks) -> Seconds:
    """Return one pass of a ring: (n-1)/n * S/B_ring + (n-1)*a_step + setup."""
    return ring_transfer(size, links) + (links.size - 1) * links.step_latency + links.setup


def hierarchical(size: Bytes, links: GroupLinks) -> Seconds:
    """Return rings along the rails, then in the nodes.

    (N-1)/N * S/l / B_out + (N-1)*a_step + setup + (l-1)/l * S/B_in + (l-1)*a_in
    """
    local, nodes = links.ranks_per_node, links.nodes
    outer = (nodes - 1) / nodes * size / local / links.inter + (nodes - 1) * links.inter_latency * links.step_share
    return outer + links.setup + (local - 1) / local * size / links.intra + (local - 1) * links.intra_latency


def halving_doubling(size: Bytes, links: GroupLinks) -> Seconds:
    """Return log2(n) exchanges, the nearest with half of the buffer, infinite where n or l is no power of two.

    Inside nodes (l-1)/l * S/B_in + log2(l)*a_in, then between them (1/l - 1/n) * S/B_all + log2(N)*(a_out + setup).
    Distant partners share links as all ranks together do: B_all, that of an even exchange.
    """
    local, n = links.ranks_per_node, links.size
    inner = (local - 1) / local * size / links.intra + log2(local) * links.intra_latency
    outer = (1 / local - 1 / n) * size / links.exchange
    outer = outer + log2(links.nodes) * (links.inter_latency + links.setup)
    return where(_is_power_of_two(n) & _is_power_of_two(local), inner + outer, np.inf)


def trees(size: Bytes, links: GroupLinks) -> Seconds:
    """Return the bound of two complementary binary trees, up and down at once: 2*S/B + 2*ceil(log2 n)*a + setup.

    A rank inside one tree sends its half to a parent and to two children, and as a leaf of the other to a parent. Which
    of these leave a node depends on the ranks. The flow level counts them.
    """
    slowest = where(links.nodes > 1, minimum(links.slowest, links.exchange), links.slowest)
    return 2 * size / slowest + 2 * doublings(links.size) * links.latency + links.setup


def in_switch(size: Bytes, links: GroupLinks) -> Seconds:
    """Return a reduction in the switches: S/B_in + a. Between nodes S/l / B_out + a_out, between rings in the nodes."""
    local = links.ranks_per_node
    inside = (local - 1) / local * size / links.intra + (local - 1) * links.intra_latency
    between = 2 * inside + size / local / links.inter + links.inter_latency
    return where(links.nodes > 1, between, size / links.intra + links.intra_latency)


def multicast(size: Bytes, links: GroupLinks) -> Seconds:
    """Return one copy in and one out of every rank, which switches make: S/B + a."""
    return size / where(links.nodes > 1, links.inter, links.intra) + links.latency


def chain(size: Bytes, links: GroupLinks) -> Seconds:
    """Return the bound of a broadcast in many small chunks: S/B_ring + min(n-1, ceil(log2 n))*a_step + setup."""
    steps = minimum(links.size - 1, doublings(links.size))
    return size / ring_bandwidth(links) + steps * links.step_latency + links.setup


def both_links(intra: Bytes, inter: Bytes, links: GroupLinks) -> Seconds:
    """Return the slower of both links, used at once: max(intra/B_in, inter/B_all) + a + setup.

    intra, inter: what a rank sends over its link inside the node and, to all other nodes equally, over its NIC [B].
    """
    return maximum(intra / links.intra, inter / links.exchange) + links.latency + links.exchange_setup


def direct_all_to_all(size: Bytes, links: GroupLinks) -> Seconds:
    """Return a message from every rank to every other: max((l-1)/n * S/B_in, (n-l)/n * S/B_out) + a."""
    local, n = links.ranks_per_node, links.size
    return both_links((local - 1) / n * size, (n - local) / n * size, links)


def hierarchical_all_to_all(size: Bytes, links: GroupLinks) -> Seconds:
    """Return one exchange after the other: (l-1)/l * S/B_in + a_in + (N-1)/N * S/B_out + a_out."""
    local, nodes = links.ranks_per_node, links.nodes
    inner = where(local > 1, (local - 1) / local * size / links.intra + links.intra_latency, 0.0)
    outer = (nodes - 1) / nodes * size / links.exchange + links.inter_latency + links.exchange_setup
    return inner + where(nodes > 1, outer, 0.0)


def message(size: Bytes, links: GroupLinks) -> Seconds:
    """Return a message to the next rank of the group, over the slowest link that any pair uses: S/B + a."""
    return size / links.slowest + links.step_latency + links.setup


def doublings(ranks: Count) -> Count:
    """Return ceil(log2 n): how many doublings reach n ranks."""
    return ceil(log2(ranks))


def _is_power_of_two(count: Count) -> Mask:
    exponent = log2(count)
    return exponent == floor(exponent)


ClosedForm: TypeAlias = Callable[[Bytes, GroupLinks], Seconds]


def _both_ways(one_way: ClosedForm) -> ClosedForm:
    """Return an all-reduce: a reduce-scatter, and an all-gather of the same volume and steps the way back.

    The second pass begins with the circuits that the first one ended with.
    """
    return lambda size, links: 2 * one_way(size, links) - links.setup


_GATHERS: dict[str, ClosedForm] = {"ring": ring, "hierarchical": hierarchical, "halving_doubling": halving_doubling}
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
    "all_reduce": ("ring", "hierarchical", "halving_doubling", "tree"),
    "all_gather": ("ring", "hierarchical"),
    "reduce_scatter": ("ring", "hierarchical"),
    "broadcast": ("ring",),
    "all_to_all": ("direct",),
    "send_recv": ("direct",),
}
"""Collective -> algorithms that libraries have; gathers of NCCL are rings."""
IN_SWITCHES = ("in_switch", "multicast")
"""Algorithms that need switches which add up or copy."""


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
