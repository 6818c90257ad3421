"""Collectives as phases of flows between ranks, for the flow level.

Sizes are whole buffers, as nccl-tests counts them. Ring: Patarasu, Yuan, JPDC 69(2), 2009. Halving and doubling:
Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005. Two trees: Sanders, Speck, Traeff, Parallel Computing 35(12), 2009.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from costmodel.errors import InputError
from costmodel.network.collectives import IN_SWITCHES
from costmodel.network.expert_all_to_all import copies_to
from costmodel.network.group_links import Layout, pairs
from costmodel.quantities import Array, Bytes, Indices
from costmodel.records import Record
from costmodel.workload.operators import ExpertAllToAll


class Phase(Record):
    """Messages between ranks that flow at the same time: from `source` to `target`, `size` each [B].

    steps: latencies that pass one after the other, because data goes on in steps or chunks.
    uniform: every rank sends every other the same.
    lighter: (`up` or `down`, share): the links of ranks that carry only a share of the bytes, because switches copy or
        add up on the way.
    switched: switches copy or add up the messages of all ranks.
    """

    source: Indices
    target: Indices
    size: Array
    steps: float = 1.0
    uniform: bool = False
    lighter: tuple[str, float] = ("up", 1.0)
    switched: bool = False


Maker: TypeAlias = "Callable[[float, Layout], Iterator[Phase]]"


def phases(kind: str, algorithm: str, size: float, rank_layout: Layout) -> list[Phase]:
    """Return the phases of a collective, one after the other. Raises InputError where it has no such algorithm."""
    makers = ALGORITHMS.get(kind)
    if makers is None:
        raise InputError.single(f"no collective is named {kind!r}", hint=f"write one of {', '.join(ALGORITHMS)}")
    if algorithm not in makers:
        raise InputError.single(f"{kind} has no algorithm {algorithm!r}", hint=f"write one of {', '.join(makers)}")
    return [] if rank_layout.ranks == 1 else list(makers[algorithm](size, rank_layout))


def algorithms(kind: str, rank_layout: Layout) -> tuple[str, ...]:
    """Return the algorithms of a collective that suit a layout, without those that need switches which add up or copy.

    An all-to-all is direct: in two levels it is never faster where flows meet no others, and has ever so many more.
    """
    if kind == "all_to_all":
        return ("direct",)
    two_levels = rank_layout.nodes > 1 and rank_layout.ranks_per_node > 1
    unsuited = {*IN_SWITCHES, *(() if two_levels else ("hierarchical",)), *(() if rank_layout.sides else ("bucket",))}
    if rank_layout.ranks & (rank_layout.ranks - 1):
        unsuited.add("halving_doubling")
    return tuple(name for name in ALGORITHMS[kind] if name not in unsuited)


def expert_phases(exchange: ExpertAllToAll, rank_layout: Layout, *, in_network: bool = False) -> list[Phase]:
    """Return the phases of one direction of the expert all-to-all with uniform routing.

    normal: one copy a node to the rank of the same number there, and on to the ranks of the experts inside it, at the
    same time, chunk by chunk. Else one copy an expert straight to its rank. in_network: switches copy what is
    dispatched (one copy leaves a rank) or add up what is combined (one arrives).
    """
    if rank_layout.ranks == 1:
        return []
    sent = float(exchange.tokens * exchange.token_bytes)
    nodes, ranks, local = float(rank_layout.nodes), float(rank_layout.ranks), rank_layout.ranks_per_node
    if not exchange.deduplicates:
        source, target = pairs(rank_layout.ranks)
        to_rank = sent * exchange.top_k * float(exchange.expert_load) / rank_layout.ranks
        return [Phase(source, target, np.full(len(source), to_rank), uniform=True)]
    to_node = sent * float(copies_to(exchange, nodes)) / nodes
    to_rank = sent * float(copies_to(exchange, ranks)) / local
    rank = np.arange(rank_layout.ranks)
    targets = [(rank + step * local) % rank_layout.ranks for step in range(1, rank_layout.nodes)]
    targets += [rank // local * local + (rank + step) % local for step in range(1, local)]
    sizes = np.repeat([to_node] * (rank_layout.nodes - 1) + [to_rank] * (local - 1), rank_layout.ranks)
    copies = float(exchange.targets(nodes)) * (1 - 1 / nodes)
    side = "up" if exchange.name.startswith("dispatch") else "down"
    lighter = (side, min(1.0, 1.0 / copies) if in_network and copies else 1.0)
    return [Phase(np.tile(rank, len(targets)), np.concatenate(targets), sizes, lighter=lighter)]


def _ring_orders(rank_layout: Layout) -> list[Indices]:
    """Return the ring of each channel as ranks in order. There are as many as ranks on a node.

    A ring leaves a node at the rank of the same number at which it enters the next, so that it stays on one rail there.
    """
    local, nodes = rank_layout.ranks_per_node, rank_layout.nodes
    if nodes == 1 or local == 1:
        return [np.arange(rank_layout.ranks)]
    orders = []
    for channel in range(local):
        doors = [(channel - node % 2) % local for node in range(nodes)]
        if nodes % 2:
            doors[-1] = (channel - 2) % local
        inside = [_passage(*ends, local) for ends in zip(doors, [*doors[1:], doors[0]], strict=True)]
        orders.append(np.concatenate([node * local + ranks for node, ranks in enumerate(inside)]))
    return orders


def _passage(enters: int, leaves: int, local: int) -> Indices:
    """Return all ranks of a node from the one where a ring enters to the one where it leaves."""
    between = [rank % local for rank in range(enters + 1, enters + local) if rank % local != leaves]
    return np.array([enters, *between, *([] if enters == leaves else [leaves])], np.intp)


def _rings(volume: float, steps: float, rank_layout: Layout, *, closed: bool = True) -> Iterator[Phase]:
    """Yield `volume` bytes over each link of the rings, divided among the channels."""
    orders = _ring_orders(rank_layout)
    source = np.concatenate([order if closed else order[:-1] for order in orders])
    target = np.concatenate([np.roll(order, -1) if closed else order[1:] for order in orders])
    yield Phase(source, target, np.full(len(source), volume / len(orders)), steps)


def _ring(size: float, rank_layout: Layout) -> Iterator[Phase]:
    n = rank_layout.ranks
    yield from _rings((n - 1) / n * size, n - 1.0, rank_layout)


def _ring_in_nodes(size: float, rank_layout: Layout) -> Iterator[Phase]:
    """Yield a ring inside every node over `size` bytes."""
    local, rank = rank_layout.ranks_per_node, np.arange(rank_layout.ranks)
    target = rank // local * local + (rank + 1) % local
    yield Phase(rank, target, np.full(rank_layout.ranks, (local - 1) / local * size), local - 1.0)


def _ring_over_nodes(size: float, rank_layout: Layout) -> Iterator[Phase]:
    """Yield a ring over the nodes for each rail, each over its part of `size` bytes."""
    nodes, local, rank = rank_layout.nodes, rank_layout.ranks_per_node, np.arange(rank_layout.ranks)
    volume = np.full(rank_layout.ranks, (nodes - 1) / nodes * size / local)
    yield Phase(rank, (rank + local) % rank_layout.ranks, volume, nodes - 1.0)


def _hierarchical(size: float, rank_layout: Layout) -> Iterator[Phase]:
    yield from _ring_in_nodes(size, rank_layout)
    yield from _ring_over_nodes(size, rank_layout)


def _both_ways(one_way: Maker) -> Maker:
    """Return an all-reduce: a reduce-scatter, and an all-gather of the same flows, the last first."""

    def both(size: float, rank_layout: Layout) -> Iterator[Phase]:
        scattered = list(one_way(size, rank_layout))
        yield from scattered
        yield from reversed(scattered)

    return both


def _halving_doubling(size: float, rank_layout: Layout) -> Iterator[Phase]:
    """Yield log2(n) exchanges with partners ever more distant. The nearest gets the most."""
    n = rank_layout.ranks
    if n & (n - 1):
        raise InputError.single(f"halving_doubling takes a power of two of ranks, not {n}")
    rank = np.arange(n)
    for step in range(int(math.log2(n))):
        yield Phase(rank, rank ^ (1 << step), np.full(n, size / 2 ** (step + 1)))


def _bucket(size: float, rank_layout: Layout) -> Iterator[Phase]:
    """Yield rings over the sides of a mesh or torus, a part of the buffer beginning with each, both ways at once."""
    sides = [(axis, extent, is_ring) for axis, (extent, is_ring) in enumerate(rank_layout.sides) if extent > 1]
    if not sides:
        raise InputError.single("bucket takes a box of a mesh or torus, one rank a router")
    shards = np.full(len(sides), size / rank_layout.ranks / len(sides))
    for phase in range(len(sides)):
        taken = [sides[(part + phase) % len(sides)] for part in range(len(sides))]
        messages = [_along(rank_layout, side, shard) for side, shard in zip(taken, shards, strict=True)]
        steps = max(extent // 2 if is_ring else extent - 1 for _, extent, is_ring in taken)
        source, target, sizes = (np.concatenate(column) for column in zip(*messages, strict=True))
        yield Phase(source, target, sizes, float(steps))
        shards = shards * [extent for _, extent, _ in taken]


def _along(rank_layout: Layout, side: tuple[int, int, bool], shard: float) -> tuple[Indices, Indices, Array]:
    """Return (source, target, size) along a side: half of its shards each way round a ring, else all from behind."""
    axis, extent, is_ring = side
    shape = [extent for extent, _ in rank_layout.sides]
    place = list(np.unravel_index(np.arange(rank_layout.ranks), shape, order="F"))
    source, target, sizes = [], [], []
    for step in (1, -1):
        there = [*place[:axis], (place[axis] + step) % extent, *place[axis + 1 :]]
        behind = place[axis] + 1 if step == 1 else extent - place[axis]
        sends = np.flatnonzero(is_ring | (behind < extent))
        source.append(sends)
        target.append(np.ravel_multi_index(there, shape, order="F")[sends])
        sizes.append(np.where(is_ring, (extent - 1) / 2, behind)[sends] * shard)
    return np.concatenate(source), np.concatenate(target), np.concatenate(sizes)


def _trees(size: float, rank_layout: Layout) -> Iterator[Phase]:
    """Yield two complementary binary trees, half of the buffer each, up and down at the same time, in chunks."""
    n = rank_layout.ranks
    parents = _parents(n)
    child = np.flatnonzero(parents >= 0)
    parent = parents[child]
    # The second tree is the first one, shifted by a rank.
    source = np.concatenate([child, parent, (child + 1) % n, (parent + 1) % n])
    target = np.concatenate([parent, child, (parent + 1) % n, (child + 1) % n])
    yield Phase(source, target, np.full(len(source), size / 2), 2.0 * math.ceil(math.log2(n)))


def _parents(n: int) -> Indices:
    """Return the parent of each rank of an in-order binary tree, -1 for the root: odd ranks are leaves."""
    parent = np.full(n, -1)
    for rank in range(1, n):
        bit = rank & -rank
        up = (rank ^ bit) | (bit << 1)
        parent[rank] = up if up < n else rank ^ bit
    return parent


def _in_switch(size: float, rank_layout: Layout) -> Iterator[Phase]:
    """Yield a reduction in the switches: of every rank's buffer inside a node, of its part between nodes."""
    rank = np.arange(rank_layout.ranks)
    if rank_layout.nodes == 1:
        yield Phase(rank, rank, np.full(rank_layout.ranks, size), switched=True)
        return
    yield from _ring_in_nodes(size, rank_layout)
    yield Phase(rank, rank, np.full(rank_layout.ranks, size / rank_layout.ranks_per_node), switched=True)
    yield from _ring_in_nodes(size, rank_layout)


def _direct(size: float, rank_layout: Layout) -> Iterator[Phase]:
    source, target = (np.empty(0, np.intp),) * 2
    yield Phase(source, target, np.array([size / rank_layout.ranks]), uniform=True)


def _hierarchical_all_to_all(size: float, rank_layout: Layout) -> Iterator[Phase]:
    """Yield an exchange inside the nodes, by rail of the target, then one along the rails."""
    n, local, nodes = rank_layout.ranks, rank_layout.ranks_per_node, rank_layout.nodes
    rank = np.arange(n)
    in_node = [rank // local * local + (rank + step) % local for step in range(1, local)]
    along_rail = [(rank + step * local) % n for step in range(1, nodes)]
    for targets, volume in ((in_node, size / local), (along_rail, size / nodes)):
        if targets:
            count = len(targets)
            yield Phase(np.tile(rank, count), np.concatenate(targets), np.full(n * count, volume))


def _chain(size: float, rank_layout: Layout) -> Iterator[Phase]:
    steps = float(min(rank_layout.ranks - 1, math.ceil(math.log2(rank_layout.ranks))))
    yield from _rings(size, steps, rank_layout, closed=False)


def _multicast(size: float, rank_layout: Layout) -> Iterator[Phase]:
    rank = np.arange(rank_layout.ranks)
    yield Phase(rank, rank, np.full(rank_layout.ranks, size), switched=True)


def _message(size: float, rank_layout: Layout) -> Iterator[Phase]:
    rank = np.arange(rank_layout.ranks)
    yield Phase(rank, (rank + 1) % rank_layout.ranks, np.full(rank_layout.ranks, size))


_GATHERS: dict[str, Maker] = {
    "ring": _ring, "hierarchical": _hierarchical, "halving_doubling": _halving_doubling, "bucket": _bucket,
}  # fmt: skip
ALGORITHMS: dict[str, dict[str, Maker]] = {
    "all_reduce": {name: _both_ways(maker) for name, maker in _GATHERS.items()}
    | {"tree": _trees, "in_switch": _in_switch},
    "all_gather": _GATHERS,
    "reduce_scatter": _GATHERS,
    "broadcast": {"ring": _chain, "multicast": _multicast},
    "all_to_all": {"direct": _direct, "hierarchical": _hierarchical_all_to_all},
    "send_recv": {"direct": _message},
}
"""Collective -> algorithm -> its phases, from the whole buffer [B] and the layout."""


def bus_factor(kind: str, ranks: int) -> float:
    """Return bus bandwidth over algorithm bandwidth [nccl-tests, doc/PERFORMANCE.md]."""
    share = (ranks - 1) / ranks
    return {"all_reduce": 2 * share, "all_gather": share, "reduce_scatter": share, "all_to_all": share}.get(kind, 1.0)


def bandwidth(size: Bytes, time: float) -> float:
    """Return size / time [B/s], zero where nothing takes time."""
    return float(size) / time if time else 0.0
