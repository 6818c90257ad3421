"""Collectives in closed form: the fastest of ring, two-level and halving-doubling, each with its latency steps.

Sizes are as nccl-tests counts them: the whole buffer. Ring, and halving and doubling: Thakur et al., IJHPCA 2005.
"""

from __future__ import annotations

import math

import numpy as np

from costmodel.network.group_links import GroupLinks
from costmodel.quantities import Bytes, Count, Quantity, Seconds, maximum, minimum, where


def collective_time(kind: str, size: Bytes, path: GroupLinks) -> Seconds:
    """Return the time of one collective [s]; zero in a group of one. Raises KeyError on an unknown kind."""
    return where(path.size > 1, _TIMES[kind](size, path), 0.0)


def ring_bandwidth(path: GroupLinks) -> Quantity:
    """Return the bandwidth of rings that cross nodes on every rank's own NIC, bounded by the inner link."""
    crossing = where(path.ranks_per_node > 1, minimum(path.intra, path.ranks_per_node * path.inter), path.inter)
    return where(path.nodes > 1, crossing, path.intra)


def all_gather_time(size: Bytes, path: GroupLinks) -> Seconds:
    """Return the faster of a flat ring and a two-level one.

    ring: (n-1)/n * S/B + (n-1)*a
    two levels: (m-1)/m * S/n_l / B_out + (m-1)*a_out, then (l-1)/l * S / B_in + (l-1)*a_in
    with n = l*m ranks, l on each of m nodes; the outer step moves each rank's 1/l of the buffer.
    """
    n, local, nodes = path.size, path.ranks_per_node, path.nodes
    ring = (n - 1) / n * size / ring_bandwidth(path) + (n - 1) * path.latency
    outer = (nodes - 1) / nodes * size / local / path.inter + (nodes - 1) * path.inter_latency
    inner = (local - 1) / local * size / path.intra + (local - 1) * path.intra_latency
    return minimum(ring, outer + inner)


def all_reduce_time(size: Bytes, path: GroupLinks) -> Seconds:
    """Return the faster of reduce-scatter plus all-gather, and recursive halving and doubling.

    halving and doubling: 2*log2(n)*a + 2*(n-1)/n * S/B over the rings' bandwidth
    """
    n = path.size
    doubling = 2 * steps_to_all(n) * path.latency + 2 * (n - 1) / n * size / ring_bandwidth(path)
    return minimum(2 * all_gather_time(size, path), doubling)


def tree_all_reduce_time(size: Bytes, path: GroupLinks) -> Seconds:
    """Return the all-reduce of NCCL, whose rings and double binary trees are chains inside a node.

    2*(n-1)/n * S/B + 2*(l-1)*a_in + 2*log2(m)*a_out
    """
    steps = (path.ranks_per_node - 1) * path.intra_latency + steps_to_all(path.nodes) * path.inter_latency
    return 2 * (path.size - 1) / path.size * size / ring_bandwidth(path) + 2 * steps


def all_to_all_time(size: Bytes, path: GroupLinks) -> Seconds:
    """Return the slower of the inner and the outer share, which move at the same time.

    inner: (l-1)/n * S/B_in; outer: (n-l)/n * S/B_out; plus the farthest latency.
    """
    inner = (path.ranks_per_node - 1) / path.size * size / path.intra
    outer = (path.size - path.ranks_per_node) / path.size * size / path.inter
    return maximum(inner, outer) + path.latency


def send_recv_time(size: Bytes, path: GroupLinks) -> Seconds:
    """Return a message between neighbours of the group: S/B + a over the link between them.

    Neighbours share a node where the group has more than one rank on each; the slowest pair sets the pace.
    """
    return size / path.slowest + path.latency


def broadcast_time(size: Bytes, path: GroupLinks) -> Seconds:
    """Return the bound of a pipelined broadcast: S/B and the fewer of a chain's (n-1) and a tree's log2(n) steps."""
    return size / ring_bandwidth(path) + minimum(path.size - 1, steps_to_all(path.size)) * path.latency


def steps_to_all(value: Count) -> Count:
    """Return the number of doublings that reach `value` ranks."""
    return np.ceil(np.log2(value)) if isinstance(value, np.ndarray) else float(math.ceil(math.log2(value)))


_TIMES = {
    "all_reduce": all_reduce_time,
    "all_gather": all_gather_time,
    "reduce_scatter": all_gather_time,  # the same volume and steps, backwards
    "all_to_all": all_to_all_time,
    "send_recv": send_recv_time,
    "broadcast": broadcast_time,
}
