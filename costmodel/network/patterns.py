"""Who sends how much to whom in a collective: phases of flows, for the flow level.

Sizes are whole buffers, as nccl-tests counts them. Ring: Patarasu, Yuan, JPDC 69(2), 2009; halving and doubling:
Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005; two trees: Sanders, Speck, Traeff, Parallel Computing 35(12), 2009.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from costmodel.errors import InputError
from costmodel.network.collectives import IN_SWITCHES
from costmodel.network.expert_all_to_all import copies_to
from costmodel.network.layout import Layout, pairs
from costmodel.quantities import Array, Bytes, Indices
from costmodel.workload.operators import ExpertAllToAll


@dataclass(frozen=True, slots=True, eq=False)
class Phase:
    """Messages between ranks that flow at the same time: from `source` to `target`, `size` each [B].

    steps: latencies that pass one after the other, because data goes on in steps or chunks. uniform: every rank sends
    every other the same. lighter: which of a rank's links (`up` or `down`) carries only a share of the bytes, because
    switches copy or add up on the way, and that share.
    """

    source: Indices
    target: Indices
    size: Array
    steps: float = 1.0
    uniform: bool = False
    lighter: tuple[str, float] = ("up", 1.0)
    switched: bool = False


def phases(kind: str, algorithm: str, size: float, where: Layout) -> list[Phase]:
    """Return the phases of a collective, one after the other; raise InputError where it has no such algorithm."""
    made = ALGORITHMS.get(kind)
    if made is None:
        raise InputError.single(f"no collective is named {kind!r}", hint=f"write one of {', '.join(ALGORITHMS)}")
    if algorithm not in made:
        raise InputError.single(f"{kind} has no algorithm {algorithm!r}", hint=f"write one of {', '.join(made)}")
    return [] if where.ranks == 1 else list(made[algorithm](size, where))


def algorithms(kind: str, rank_layout: Layout) -> tuple[str, ...]:
    """Return the algorithms of a collective that suit a layout, without those that need switches which add up or copy.

    An all-to-all is direct: in two levels it is never faster where flows meet no others, and has ever so many more.
    """
    if kind == "all_to_all":
        return ("direct",)
    two_levels = rank_layout.nodes > 1 and rank_layout.ranks_per_node > 1
    unsuited = {*IN_SWITCHES, *(() if two_levels else ("hierarchical",))}
    if rank_layout.ranks & (rank_layout.ranks - 1):
        unsuited.add("halving_doubling")
    return tuple(name for name in ALGORITHMS[kind] if name not in unsuited)


def exchange_phases(exchange: ExpertAllToAll, where: Layout, *, in_network: bool = False) -> list[Phase]:
    """Return the phases of one direction of the expert all-to-all with uniform routing.

    normal: one copy a node to the rank of the same number there, and on to the ranks of the experts inside it, at the
    same time, chunk by chunk; else one copy an expert straight to its rank. in_network: switches copy what is
    dispatched (one copy leaves a rank) or add up what is combined (one arrives).
    """
    if where.ranks == 1:
        return []
    bytes_ = float(exchange.tokens * exchange.token_bytes)
    if not exchange.deduplicates:
        source, target = pairs(where.ranks)
        each = bytes_ * exchange.top_k * float(exchange.expert_load) / where.ranks
        return [Phase(source, target, np.full(len(source), each), uniform=True)]
    nodes, ranks = float(where.nodes), float(where.ranks)
    a_node = bytes_ * float(copies_to(exchange, nodes)) / nodes
    inside = bytes_ * float(copies_to(exchange, ranks)) / where.ranks_per_node
    made: list[tuple[Indices, Indices, Array]] = []
    rank = np.arange(where.ranks)
    for step in range(1, where.nodes):
        made.append((rank, (rank + step * where.ranks_per_node) % where.ranks, np.full(where.ranks, a_node)))
    for step in range(1, where.ranks_per_node):
        made.append(
            (
                rank,
                rank // where.ranks_per_node * where.ranks_per_node + (rank + step) % where.ranks_per_node,
                np.full(where.ranks, inside),
            )
        )
    source, target, sizes = (np.concatenate(parts) for parts in zip(*made, strict=True))
    copies = float(exchange.targets(nodes)) * (1 - 1 / nodes)
    side = "up" if exchange.name.startswith("dispatch") else "down"
    lighter = (side, min(1.0, 1.0 / copies) if in_network and copies else 1.0)
    return [Phase(source, target, sizes, lighter=lighter)]


def _ring_orders(where: Layout) -> list[Indices]:
    """Return the ring of each channel as ranks in order; there are as many as ranks on a node.

    A ring leaves a node at the rank of the same number at which it enters the next, so that it stays on one rail there.
    """
    if where.nodes == 1 or where.ranks_per_node == 1:
        return [np.arange(where.ranks)]
    orders = []
    for channel in range(where.ranks_per_node):
        doors = [(channel - node % 2) % where.ranks_per_node for node in range(where.nodes)]
        if where.nodes % 2:
            doors[-1] = (channel - 2) % where.ranks_per_node
        passed = [_passage(*ends, where.ranks_per_node) for ends in zip(doors, [*doors[1:], doors[0]], strict=True)]
        orders.append(np.concatenate([node * where.ranks_per_node + inside for node, inside in enumerate(passed)]))
    return orders


def _passage(enters: int, leaves: int, local: int) -> Indices:
    """Return all ranks of a node from the one where a ring enters to the one where it leaves."""
    between = [rank % local for rank in range(enters + 1, enters + local) if rank % local != leaves]
    return np.array([enters, *between, *([] if enters == leaves else [leaves])], np.intp)


def _ring(volume: float, steps: float, where: Layout, *, closed: bool = True) -> Iterator[Phase]:
    """Yield `volume` bytes over each link of the rings, divided among the channels."""
    orders = _ring_orders(where)
    source = np.concatenate([order if closed else order[:-1] for order in orders])
    target = np.concatenate([np.roll(order, -1) if closed else order[1:] for order in orders])
    yield Phase(source, target, np.full(len(source), volume / len(orders)), steps)


def _all_gather_ring(size: float, where: Layout) -> Iterator[Phase]:
    n = where.ranks
    yield from _ring((n - 1) / n * size, n - 1.0, where)


def _inner(size: float, where: Layout) -> Iterator[Phase]:
    """Yield a ring inside every node over `size` bytes."""
    local = where.ranks_per_node
    rank = np.arange(where.ranks)
    target = rank // local * local + (rank + 1) % local
    yield Phase(rank, target, np.full(where.ranks, (local - 1) / local * size), local - 1.0)


def _outer(size: float, where: Layout) -> Iterator[Phase]:
    """Yield a ring over the nodes for each rail, each over its part of `size` bytes."""
    nodes = where.nodes
    rank = np.arange(where.ranks)
    target = (rank + where.ranks_per_node) % where.ranks
    yield Phase(rank, target, np.full(where.ranks, (nodes - 1) / nodes * size / where.ranks_per_node), nodes - 1.0)


def _all_gather_hierarchical(size: float, where: Layout) -> Iterator[Phase]:
    yield from _outer(size, where)
    yield from _inner(size, where)


def _twice(once: Callable[[float, Layout], Iterator[Phase]]) -> Callable[[float, Layout], Iterator[Phase]]:
    """Return a reduce-scatter and an all-gather."""

    def both(size: float, where: Layout) -> Iterator[Phase]:
        yield from once(size, where)
        yield from once(size, where)

    return both


def _doubling(size: float, where: Layout) -> Iterator[Phase]:
    """Yield log2(n) exchanges with partners ever farther away; the nearest gets the most."""
    if where.ranks & (where.ranks - 1):
        raise InputError.single(f"halving and doubling takes a power of two of ranks, not {where.ranks}")
    rank = np.arange(where.ranks)
    for step in range(int(math.log2(where.ranks))):
        yield Phase(rank, rank ^ (1 << step), np.full(where.ranks, size / 2 ** (step + 1)))


def _trees(size: float, where: Layout) -> Iterator[Phase]:
    """Yield two complementary binary trees, half of the buffer each, up and down at the same time, in chunks."""
    n = where.ranks
    first = _parents(n)
    child = np.flatnonzero(first >= 0)
    edges = [(child, first[child]), ((child + 1) % n, (first[child] + 1) % n)]
    source = np.concatenate([part for below, above in edges for part in (below, above)])
    target = np.concatenate([part for below, above in edges for part in (above, below)])
    yield Phase(source, target, np.full(len(source), size / 2), 2.0 * math.ceil(math.log2(n)))


def _parents(n: int) -> Indices:
    """Return the parent of each rank of an in-order binary tree, -1 for the root: odd ranks are leaves."""
    parent = np.full(n, -1)
    for rank in range(1, n):
        bit = rank & -rank
        up = (rank ^ bit) | (bit << 1)
        parent[rank] = up if up < n else rank ^ bit
    return parent


def _in_switch(size: float, where: Layout) -> Iterator[Phase]:
    """Yield a reduction in the switches: of every rank's buffer inside a node, of its part between nodes."""
    rank = np.arange(where.ranks)
    if where.nodes == 1:
        yield Phase(rank, rank, np.full(where.ranks, size), switched=True)
        return
    yield from _inner(size, where)
    yield Phase(rank, rank, np.full(where.ranks, size / where.ranks_per_node), switched=True)
    yield from _inner(size, where)


def _all_to_all(size: float, where: Layout) -> Iterator[Phase]:
    source, target = (np.empty(0, np.intp),) * 2
    yield Phase(source, target, np.array([size / where.ranks]), uniform=True)


def _all_to_all_hierarchical(size: float, where: Layout) -> Iterator[Phase]:
    """Yield an exchange inside the nodes, by rail of the target, then one along the rails."""
    rank, local = np.arange(where.ranks), where.ranks_per_node
    for steps, count, each in ((range(1, local), 1, size / local), (range(1, where.nodes), local, size / where.nodes)):
        if not len(steps):
            continue
        if count == 1:
            target = [rank // local * local + (rank + step) % local for step in steps]
        else:
            target = [(rank + step * local) % where.ranks for step in steps]
        yield Phase(np.tile(rank, len(steps)), np.concatenate(target), np.full(where.ranks * len(steps), each))


def _chain(size: float, where: Layout) -> Iterator[Phase]:
    yield from _ring(size, float(min(where.ranks - 1, math.ceil(math.log2(where.ranks)))), where, closed=False)


def _multicast(size: float, where: Layout) -> Iterator[Phase]:
    """Yield one copy out of the root, which switches copy to all."""
    rank = np.arange(where.ranks)
    yield Phase(rank, rank, np.full(where.ranks, size), switched=True)


def _neighbours(size: float, where: Layout) -> Iterator[Phase]:
    rank = np.arange(where.ranks)
    yield Phase(rank, (rank + 1) % where.ranks, np.full(where.ranks, size))


Maker = Callable[[float, Layout], Iterator[Phase]]
ALGORITHMS: dict[str, dict[str, Maker]] = {
    "all_reduce": {
        "ring": _twice(_all_gather_ring), "hierarchical": _twice(_all_gather_hierarchical),
        "halving_doubling": _twice(_doubling), "tree": _trees, "in_switch": _in_switch,
    },
    "all_gather": {
        "ring": _all_gather_ring, "hierarchical": _all_gather_hierarchical, "halving_doubling": _doubling,
    },
    "reduce_scatter": {
        "ring": _all_gather_ring, "hierarchical": _all_gather_hierarchical, "halving_doubling": _doubling,
    },
    "broadcast": {"ring": _chain, "multicast": _multicast},
    "all_to_all": {"direct": _all_to_all, "hierarchical": _all_to_all_hierarchical},
    "send_recv": {"direct": _neighbours},
}  # fmt: skip
"""Collective -> algorithm -> its phases, from the whole buffer [B] and the layout."""


def bus_factor(kind: str, ranks: int) -> float:
    """Return bus bandwidth over algorithm bandwidth [nccl-tests, doc/PERFORMANCE.md]."""
    share = (ranks - 1) / ranks
    return {"all_reduce": 2 * share, "all_gather": share, "reduce_scatter": share, "all_to_all": share}.get(kind, 1.0)


def bandwidth(size: Bytes, time: float) -> float:
    """Return size / time [B/s]; zero where nothing takes time."""
    return float(size) / time if time else 0.0
