"""Where the ranks of a group are."""

from __future__ import annotations

import numpy as np

from costmodel.errors import InputError
from costmodel.hardware import Cluster
from costmodel.network.grids import GRIDS, box_sides, fills_box
from costmodel.quantities import Indices
from costmodel.records import Record


class Layout(Record):
    """A group of `ranks`, `ranks_per_node` on each of `nodes` nodes, every `stride`-th node of the cluster.

    groups: how many such groups work at the same time, the others on the nodes in between and after.
    sides: extent along each side of a mesh or torus that the group is a box of, and whether it is a ring; else none.
    """

    ranks: int
    ranks_per_node: int
    nodes: int
    stride: int = 1
    groups: int = 1
    sides: tuple[tuple[int, bool], ...] = ()

    def device(self, rank: Indices, per_node: int, group: int = 0) -> Indices:
        """Return the device of a rank of a group, devices numbered node by node, `per_node` on each."""
        span = self.stride * self.nodes
        first_node = group // self.stride * span + group % self.stride
        return (first_node + rank // self.ranks_per_node * self.stride) * per_node + rank % self.ranks_per_node

    @property
    def last_node(self) -> int:
        """Return one more than the last node in use."""
        full = -(-self.groups // self.stride) * self.stride * self.nodes
        return full if self.groups > 1 else (self.nodes - 1) * self.stride + 1


def layout(cluster: Cluster, ranks: int, *, stride: int = 1, groups: int = 1) -> Layout:
    """Return the layout of `ranks` of a cluster. Raises InputError where they do not fit it.

    A group takes devices of one node, or whole nodes.
    """
    per_node, nodes = int(cluster.node.count), int(cluster.count)
    if ranks < 1:
        raise InputError.single(f"a collective needs at least one rank, not {ranks}", hint="write --ranks 2 or more")
    if ranks > per_node * nodes:
        raise InputError.single(
            f"rank {ranks - 1} is outside the cluster: {cluster.name} has {per_node * nodes:,} devices",
            hint=f"write --ranks {per_node * nodes} or fewer",
        )
    if ranks > per_node and ranks % per_node:
        raise InputError.single(
            f"{ranks} ranks do not fill whole nodes of {per_node} devices",
            hint=f"write --ranks {ranks // per_node * per_node} or {-(-ranks // per_node) * per_node}",
        )
    sides = _sides(cluster, ranks, stride)
    rank_layout = Layout(ranks, min(ranks, per_node), max(ranks // per_node, 1), stride, groups, sides)
    needed = rank_layout.last_node
    if needed > nodes:
        raise InputError.single(
            f"{groups} groups of {rank_layout.nodes} nodes, {stride} apart, need {needed} nodes of {nodes}",
            hint="use fewer ranks, or place them closer",
        )
    return rank_layout


def _sides(cluster: Cluster, ranks: int, stride: int) -> tuple[tuple[int, bool], ...]:
    """Return the sides of the box that a group is, none where it is none."""
    network = cluster.network
    if network is None or network.topology not in GRIDS or cluster.node.count != 1:
        return ()
    sides = box_sides(network, float(ranks), float(stride))
    return tuple((int(side.extent), bool(side.is_ring)) for side in sides) if fills_box(sides, float(ranks)) else ()


def pairs(ranks: int) -> tuple[Indices, Indices]:
    """Return (source, target) of a message from every rank to every other."""
    source = np.repeat(np.arange(ranks), ranks - 1)
    target = np.tile(np.arange(ranks - 1), ranks)
    return source, target + (target >= source)
