"""A collective's time from the fit of its kind: a protocol for small messages and one for large, over the links."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from costmodel.cost.machine import Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time, message
from costmodel.network.collectives import doublings, nccl_time, ring_transfer
from costmodel.network.group_links import GroupLinks, require_group_links
from costmodel.quantities import Bytes, Quantity, Seconds, log2, maximum, minimum, where
from costmodel.workload.operators import Collective

ALL_REDUCE = "all_reduce"
STEPPED = (ALL_REDUCE, "all_gather", "reduce_scatter")  # rings over all ranks, whose steps add up
LARGEST_EXPONENT = 60.0  # of two: beyond it one protocol has all of the message


@dataclass(frozen=True, slots=True, eq=False)
class CollectiveForm:
    """The fitted form of one kind of collective.

        t     = launch + w * small + (1 - w) * large,   w = 1 / (1 + (size / switch)^sharpness)
        small = bare(size; share * B, hop * a)
        large = min(start + bare(size; bulk * B, stride * a), settle + size * (1 + 1/n) / (reduced * B) + a)

    bare: the closed form of the kind over the group's links, bandwidth B and latency a, with its volumes and steps; of
    an all-reduce that of NCCL.
    Libraries take their protocol by the size of the message, not by what is fastest, so links do not move `switch`.
    launch: fixed time [s]; hop, stride: what a step takes, over the latency of a link; share, bulk: of the bandwidth;
    start: further fixed time of the protocol for large messages [s]; switch [B].

    reduced: share of the bandwidth where switches add up (NVLS), so that a device sends its buffer once and receives
    1/n of it more; settle: fixed time of that [s]; zero where they do not. staged: what stands for `bulk` where
    messages are stored in host memory on their way; across: what stands for it between nodes; zero: `bulk` too.

    inside, between, level: what a step of large messages takes inside one of several nodes and, beside the network's
    latency a, to another one and along a level of a tree [s]; zero: `stride` counts there too. On n ranks of N nodes
    with l on each they stand in place of the latencies of `bare`:

        ring   (n - N) * inside + (N - 1) * (between + a)          once; twice for an all-reduce, or
        tree   2 * ((l - 1) * inside + log2(N) * (level + a))      where that is less

    [NCCL, src/graph/tuning.cc, LL128.]

    once, twice: shares of an all-reduce inside a node that reads its peers' memory; zero where there is none. In place
    of `small` stands min(hop*a + (n-1)*size/(once*B), 2*hop*a + 2*(n-1)/n*size/(twice*B)).
    """

    launch: float
    hop: float
    share: float
    start: float
    stride: float
    bulk: float
    switch: float
    sharpness: float
    reduced: float = 0.0
    settle: float = 0.0
    once: float = 0.0
    twice: float = 0.0
    staged: float = 0.0
    across: float = 0.0
    inside: float = 0.0
    between: float = 0.0
    level: float = 0.0

    AXES = ("size", "ranks")
    FORMULA: ClassVar[str] = (
        "t = launch + the protocol for the size: steps * hop * latency + volume / (share of bandwidth), large messages "
        "after a start"
    )

    def time(self, operator: Collective, machine: Machine) -> Time:
        """Return the time of one collective; zero in a group of one."""
        way = require_group_links(operator.group, machine.cluster, operator.name)
        if self.staged and machine.cluster is not None and not machine.cluster.node.peer_to_peer:
            way = replace(way, intra=way.intra * self.staged / self.bulk)
        seconds, fixed = self._seconds(operator, way, operator.size), self._seconds(operator, way, 0.0 * operator.size)
        joined = way.size > 1
        return message(where(joined, seconds, 0.0), where(joined, minimum(fixed, seconds), 0.0))

    def features(self, operator: Collective) -> Features:
        """Return log2 of the buffer [B] and of the ranks."""
        return log2(maximum(operator.size, 1.0)), log2(maximum(operator.group.size, 1.0))

    def _seconds(self, operator: Collective, way: GroupLinks, moved: Bytes) -> Seconds:
        """Return the time of the protocols that the operator's size takes, moving `moved` bytes."""
        large = self._share_of_large(operator.size)
        small = self._peers(moved, way) if self.once else nccl_time(operator.kind, moved, self._by_steps(way))
        return self.launch + (1.0 - large) * small + large * self._large(operator.kind, moved, way)

    def _share_of_large(self, size: Bytes) -> Quantity:
        exponent = self.sharpness * (log2(maximum(size, 1.0)) - log2(self.switch))
        power = 2.0 ** minimum(maximum(exponent, -LARGEST_EXPONENT), LARGEST_EXPONENT)
        return power / (1.0 + power)

    def _by_steps(self, way: GroupLinks) -> GroupLinks:
        return _scaled(way, self.share, self.hop)

    def _large(self, kind: str, moved: Bytes, way: GroupLinks) -> Seconds:
        links = _scaled(way, self.bulk, self.stride)
        if self.across:
            links = replace(links, inter=self.across * way.inter)
        ring = self.start + nccl_time(kind, moved, links)
        if self.between and kind in STEPPED:
            passes = 2.0 if kind == ALL_REDUCE else 1.0
            ring = where(
                way.nodes > 1, self.start + self._steps(kind, way) + passes * ring_transfer(moved, links), ring
            )
        if not self.reduced or kind != ALL_REDUCE:
            return ring
        switched = self.settle + moved * (1.0 + 1.0 / way.size) / (self.reduced * way.intra) + way.intra_latency
        return where(way.nodes > 1, ring, minimum(ring, switched))

    def _steps(self, kind: str, way: GroupLinks) -> Seconds:
        """Return what the steps between the ranks of several nodes take, whatever they carry."""
        ring = (way.size - way.nodes) * self.inside + (way.nodes - 1.0) * (self.between + way.inter_latency)
        if kind != ALL_REDUCE:
            return ring
        tree = (way.ranks_per_node - 1.0) * self.inside + doublings(way.nodes) * (self.level + way.inter_latency)
        return 2.0 * minimum(ring, tree)

    def _peers(self, moved: Bytes, way: GroupLinks) -> Seconds:
        """Return the faster of one shot and two; across nodes there is neither."""
        others, latency = way.size - 1.0, self.hop * way.intra_latency
        once = latency + others * moved / (self.once * way.intra)
        twice = 2.0 * latency + 2.0 * others / way.size * moved / (self.twice * way.intra)
        across = nccl_time(ALL_REDUCE, moved, self._by_steps(way))
        return where(way.nodes > 1, across, minimum(once, twice))


def _scaled(way: GroupLinks, share: float, hop: float) -> GroupLinks:
    return replace(
        way, intra=share * way.intra, inter=share * way.inter, intra_latency=hop * way.intra_latency,
        inter_latency=hop * way.inter_latency,
    )  # fmt: skip
