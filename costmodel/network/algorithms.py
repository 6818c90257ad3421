"""Named algorithms of collectives in closed form, the counterparts of `patterns` on the flow level.

Sizes are whole buffers, as nccl-tests counts them. `collectives` has what a library chooses from; here each stands
alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from costmodel.errors import InputError
from costmodel.network.collectives import steps_to_all
from costmodel.network.group_links import GroupLinks
from costmodel.quantities import Bytes, Count, Quantity, Seconds, maximum, minimum, where


def algorithm_time(kind: str, algorithm: str, size: Bytes, path: GroupLinks) -> Seconds:
    """Return the time of a collective by one algorithm [s]; raise InputError where it has no such algorithm."""
    made = CLOSED.get(kind, {})
    if algorithm not in made:
        raise InputError.single(
            f"{kind} has no algorithm {algorithm!r} in closed form", hint=f"write one of {', '.join(made) or '(none)'}"
        )
    return where(path.size > 1, made[algorithm](size, path), 0.0)


def pipelined(whole: Seconds, steps: Count, latency: Seconds, chunks: Count) -> Seconds:
    """Return the time of data that passes `steps` hops in chunks: (steps - 1 + chunks) * (whole / chunks + latency).

    whole: of all data over one hop, without latency.
    """
    return (steps - 1 + chunks) * (whole / chunks + latency)


def best_chunks(whole: Seconds, steps: Count, latency: Seconds) -> Count:
    """Return how many chunks make `pipelined` shortest: sqrt((steps - 1) * whole / latency), at least one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Quantity = np.sqrt((steps - 1) * whole / np.asarray(latency, float))
    return maximum(1.0, np.round(found) if isinstance(found, np.ndarray) and found.ndim else float(np.round(found)))


def ring(size: Bytes, path: GroupLinks) -> Seconds:
    """Return one pass of a ring: (n-1)/n * S/B + (n-1)*a."""
    n = path.size
    return (n - 1) / n * size / _ring_bandwidth(path) + (n - 1) * path.latency


def _ring_bandwidth(path: GroupLinks) -> Quantity:
    """Return the bandwidth of l rings over all NICs: min(B_in * l/(l-1), l*B_out).

    Of the l hops that a ring makes in a node one leaves it. `collectives` counts all l on the inner link.
    """
    local = path.ranks_per_node
    inside = path.intra * local / maximum(local - 1, 1.0)
    crossing = where(local > 1, minimum(inside, local * path.inter), path.inter)
    return where(path.nodes > 1, crossing, path.intra)


def hierarchical(size: Bytes, path: GroupLinks) -> Seconds:
    """Return rings along the rails, then in the nodes.

    (m-1)/m * S/l / B_out + (m-1)*a_out + (l-1)/l * S/B_in + (l-1)*a_in
    """
    local, nodes = path.ranks_per_node, path.nodes
    outer = (nodes - 1) / nodes * size / local / path.inter + (nodes - 1) * path.inter_latency
    return outer + (local - 1) / local * size / path.intra + (local - 1) * path.intra_latency


def halving_doubling(size: Bytes, path: GroupLinks) -> Seconds:
    """Return log2(n) exchanges, the nearest with half of the buffer.

    Inside nodes (l-1)/l * S/B_in + log2(l)*a_in, then between them (1/l - 1/n) * S/B_out + log2(N)*a_out.
    """
    local, n = path.ranks_per_node, path.size
    inner = (local - 1) / local * size / path.intra + np.log2(local) * path.intra_latency
    outer = (1 / local - 1 / n) * size / path.inter + np.log2(path.nodes) * path.inter_latency
    return inner + outer


def trees(size: Bytes, path: GroupLinks) -> Seconds:
    """Return the bound of two complementary binary trees, up and down at once: 2*S/B + 2*ceil(log2 n)*a.

    A rank inside one tree sends its half to a parent and to two children, and as a leaf of the other to a parent. Which
    of these leave a node depends on the ranks; the flow level counts them.
    """
    return 2 * size / path.slowest + 2 * steps_to_all(path.size) * path.latency


def in_switch(size: Bytes, path: GroupLinks) -> Seconds:
    """Return a reduction in the switches: S/B_in + a; between nodes S/l / B_out + a_out, between rings in the nodes."""
    local = path.ranks_per_node
    inside = (local - 1) / local * size / path.intra + (local - 1) * path.intra_latency
    between = 2 * inside + size / local / path.inter + path.inter_latency
    return where(path.nodes > 1, between, size / path.intra + path.intra_latency)


def multicast(size: Bytes, path: GroupLinks) -> Seconds:
    """Return one copy in and one out of every rank, which switches make: S/B + a."""
    return size / where(path.nodes > 1, path.inter, path.intra) + path.latency


def chain(size: Bytes, path: GroupLinks) -> Seconds:
    """Return the bound of a broadcast in many small chunks: S/B + min(n-1, ceil(log2 n))*a."""
    return size / _ring_bandwidth(path) + minimum(path.size - 1, steps_to_all(path.size)) * path.latency


def direct_all_to_all(size: Bytes, path: GroupLinks) -> Seconds:
    """Return the slower of both links, used at once: max((l-1)/n * S/B_in, (n-l)/n * S/B_out) + a."""
    inner = (path.ranks_per_node - 1) / path.size * size / path.intra
    return maximum(inner, (path.size - path.ranks_per_node) / path.size * size / path.inter) + path.latency


def hierarchical_all_to_all(size: Bytes, path: GroupLinks) -> Seconds:
    """Return one exchange after the other: (l-1)/l * S/B_in + a_in + (N-1)/N * S/B_out + a_out."""
    inner = where(
        path.ranks_per_node > 1,
        (path.ranks_per_node - 1) / path.ranks_per_node * size / path.intra + path.intra_latency,
        0.0,
    )
    outer = where(path.nodes > 1, (path.nodes - 1) / path.nodes * size / path.inter + path.inter_latency, 0.0)
    return inner + outer


def message(size: Bytes, path: GroupLinks) -> Seconds:
    """Return a message to the next rank, over the slowest link: S/B + a."""
    return size / path.slowest + path.latency


Form = Callable[[Bytes, GroupLinks], Seconds]


def _twice(once: Form) -> Form:
    return lambda size, path: 2 * once(size, path)


_GATHERS: dict[str, Form] = {"ring": ring, "hierarchical": hierarchical, "halving_doubling": halving_doubling}
CLOSED: dict[str, dict[str, Form]] = {
    "all_reduce": {name: _twice(form) for name, form in _GATHERS.items()} | {"tree": trees, "in_switch": in_switch},
    "all_gather": _GATHERS,
    "reduce_scatter": _GATHERS,
    "broadcast": {"ring": chain, "multicast": multicast},
    "all_to_all": {"direct": direct_all_to_all, "hierarchical": hierarchical_all_to_all},
    "send_recv": {"direct": message},
}
"""Collective -> algorithm -> its closed form."""
