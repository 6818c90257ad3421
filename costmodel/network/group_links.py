"""The links of a group of ranks: where its ranks are, how many share a node, and the two links that a rank uses."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from costmodel.equations import equation
from costmodel.errors import InfeasibleError, InputError
from costmodel.hardware import Cluster, Network
from costmodel.network import grids
from costmodel.network.grids import GRIDS, box_sides, fills_box
from costmodel.network.topologies import full_fabric, leaf_ports
from costmodel.quantities import (
    BytesPerSecond,
    Count,
    Indices,
    Quantity,
    Seconds,
    ceil,
    floor,
    is_single,
    maximum,
    minimum,
    where,
)
from costmodel.records import Record, replace
from costmodel.workload.operators import Group

LATEST = 4  # groups whose links are kept: the fits of a message ask one after the other
SHORTEST_LOAD = 1e-9  # of an exchange that no link between routers carries


class GroupLinks(Record):
    """A group of `size` ranks on `nodes` nodes, and the links of one of them, one direction.

    intra, inter: bandwidth inside and between nodes [B/s].
    intra_latency, inter_latency: of a small message [s]. A latency that no source states counts as zero: the time stays
    a lower bound.
    exchange_share: bandwidth of a rank that sends to all others equally, over `inter`, which neighbours have.
    step_share: latency between neighbours over `inter_latency`, that of the farthest pair.
    setup, exchange_setup: time in which circuits are set for neighbours, and for all others one after the other [s].
    bucket_bandwidth, bucket_latency: of a gather by rings over all sides of a mesh or torus [B/s, s]; null or zero
    bandwidth where the group is no box of one.
    """

    size: Count
    ranks_per_node: Count
    nodes: Count
    intra: BytesPerSecond
    inter: BytesPerSecond
    intra_latency: Seconds
    inter_latency: Seconds
    exchange_share: Quantity = 1.0
    step_share: Quantity = 1.0
    setup: Seconds = 0.0
    exchange_setup: Seconds = 0.0
    bucket_bandwidth: BytesPerSecond | None = None
    bucket_latency: Seconds = 0.0

    @equation
    def scaled(self, wider: Quantity, longer: Quantity) -> GroupLinks:
        """Return links of as many times the bandwidth and the latency.

        intra = wider * self.intra
        inter = wider * self.inter
        intra_latency = longer * self.intra_latency
        inter_latency = longer * self.inter_latency
        """
        return GroupLinks(
            self.size, self.ranks_per_node, self.nodes, wider * self.intra, wider * self.inter,
            longer * self.intra_latency, longer * self.inter_latency, self.exchange_share, self.step_share,
            self.setup, self.exchange_setup,
            None if self.bucket_bandwidth is None else wider * self.bucket_bandwidth, longer * self.bucket_latency,
        )  # fmt: skip

    @property
    @equation
    def exchange(self) -> BytesPerSecond:
        """Return the bandwidth of a rank that sends to all other nodes equally.

        exchange = inter * exchange_share
        """
        return self.inter * self.exchange_share

    @property
    def step_latency(self) -> Seconds:
        """Return the latency of a ring's longest step."""
        return where(self.nodes > 1, self.inter_latency * self.step_share, self.intra_latency)

    @property
    def slowest(self) -> BytesPerSecond:
        """Return the bandwidth of the slowest link that the group crosses."""
        return where(
            self.nodes > 1, where(self.ranks_per_node > 1, minimum(self.intra, self.inter), self.inter), self.intra
        )

    @property
    def latency(self) -> Seconds:
        """Return the latency of the farthest pair."""
        return where(self.nodes > 1, self.inter_latency, self.intra_latency)


@lru_cache(maxsize=LATEST)
def group_links(group: Group, cluster: Cluster) -> GroupLinks:
    """Return the links of a group whose ranks are `stride` apart, nodes filled in rank order.

    ranks_per_node = clip(devices a node / stride, 1, size); nodes = size / ranks_per_node.
    """
    node = cluster.node
    ranks_per_node = group.on_one_node(node.count)
    nodes = group.size / ranks_per_node
    span = maximum(group.size * group.stride / node.count, nodes)
    inter, inter_latency = _between_nodes(cluster, nodes, span)
    intra, intra_latency = _inside_node(cluster)
    links = GroupLinks(group.size, ranks_per_node, nodes, intra, inter, intra_latency, inter_latency)
    network = cluster.network
    if network is None or cluster.node.nic is None:
        return links
    if network.topology in GRIDS:
        return _on_grid(links, cluster, network, span * node.count)
    return _on_circuits(links, network) if network.topology == "ocs" else links


def _on_grid(links: GroupLinks, cluster: Cluster, network: Network, endpoints: Count) -> GroupLinks:
    """Return the links of a group whose first and last device are `endpoints` apart on a mesh or torus.

    neighbours   min(B_nic, B_link / neighbour_load): as many rings interleave
    exchange     min(B_nic, B_link * (n-l)/n / exchange_load)
    """
    nic = cluster.node.nic
    assert nic is not None
    out = nic.bandwidth * nic.per_device
    link = (nic.bandwidth if network.bandwidth is None else network.bandwidth) * nic.per_device
    stride = endpoints / links.nodes
    near = minimum(out, link / grids.neighbour_load(network, stride))
    share_outside = (links.size - links.ranks_per_node) / links.size
    even = minimum(out, link * share_outside / maximum(grids.exchange_load(network, endpoints), SHORTEST_LOAD))
    same = nic.latency or 0.0 if network.latency_same_leaf is None else network.latency_same_leaf
    cross = same if network.latency_cross_leaf is None else network.latency_cross_leaf
    farthest, ring = (
        same + hops / 2.0 * (cross - same)
        for hops in (grids.farthest_hops(network, endpoints), grids.ring_hops(network, endpoints, stride))
    )
    leaves_node = links.nodes > 1
    links = replace(
        links, inter=near, inter_latency=farthest, exchange_share=where(leaves_node, even / near, 1.0),
        step_share=where(leaves_node & (farthest > 0), ring / where(farthest > 0, farthest, 1.0), 1.0),
    )  # fmt: skip
    sides = grids.box_sides(network, links.size, stride) if np.all(np.equal(cluster.node.count, 1.0)) else []
    if not sides:
        return links
    waits = [same + side.interleaved / 2.0 * (cross - same) for side in sides]
    per_byte, latency = grids.bucket(sides, link, waits)
    fits = grids.fills_box(sides, links.size)
    fastest = (links.size - 1.0) / links.size / where(fits, per_byte, 1.0)
    return replace(links, bucket_bandwidth=where(fits, minimum(out, fastest), 0.0), bucket_latency=latency)


@equation
def _on_circuits(links: GroupLinks, network: Network) -> GroupLinks:
    """Return the links of a group on optical circuit switches, `planes` of them, each with a port of every endpoint.

        exchange_share := lit ports, of `planes` of them (`lit_share`)
        slots = ceil(others / network.planes)
        exchange_setup = leaves_node * slots * network.reconfiguration

    A ring's circuits are set once. An even exchange goes through the nodes - 1 pairings that reach all others, `planes`
    at a time: slots = ceil((nodes - 1) / planes), each set anew. [Mellette et al., RotorNet, SIGCOMM 2017]
    """
    others = maximum(links.nodes - 1.0, 1.0)
    slots = ceil(others / network.planes)
    leaves_node = where(links.nodes > 1, 1.0, 0.0)
    return replace(
        links, exchange_share=lit_share(others, network.planes), setup=leaves_node * network.reconfiguration,
        exchange_setup=leaves_node * slots * network.reconfiguration,
    )  # fmt: skip


@equation
def lit_share(others: Count, ports: Count) -> Quantity:
    """Return the share of a device's optical ports that are in use where it reaches `others` nodes, each as often.

    exchange_share = where(others <= ports, one_slot, others / (ports * ceil(others / ports)))
    one_slot = floor(ports / min(others, ports)) * others / ports      so many ports to each
    """
    one_slot = floor(ports / minimum(others, ports)) * others / ports
    return where(others <= ports, one_slot, others / (ports * ceil(others / ports)))


def require_group_links(group: Group, cluster: Cluster | None, name: str) -> GroupLinks:
    """Return the links of a message's group. Raises InfeasibleError where no cluster says how its ranks are joined."""
    if cluster is None:
        raise InfeasibleError(f"{name}: no cluster says how its ranks are connected")
    return group_links(group, cluster)


def _inside_node(cluster: Cluster) -> tuple[BytesPerSecond, Seconds]:
    """Return bandwidth and latency between two devices of a node.

    Without peer-to-peer access a message is stored in host memory and read from there: two hops one after the other, at
    half the link's bandwidth and twice its latency. All devices share the host's memory bandwidth, which each byte uses
    twice.
    """
    node = cluster.node
    latency = node.intra.latency if node.intra.latency is not None else 0.0
    if node.peer_to_peer:
        return node.intra.bandwidth, latency
    staged = node.intra.bandwidth / 2
    shared = staged if node.host.bandwidth is None else node.host.bandwidth / (2 * node.count)
    return minimum(staged, shared), 2 * latency


@equation
def _between_nodes(cluster: Cluster, nodes: Count, span: Count) -> tuple[BytesPerSecond, Seconds]:
    """Return bandwidth and latency between nodes, for one device. span: nodes from the group's first to its last.

        inter = bandwidth * nic.per_device      a NIC is on one of the planes, which add endpoints, not bandwidth
        bandwidth = port / narrowing            of a NIC or its port, over the uplinks' share where a leaf is left

    The NIC and the fabric's port both bound. A fabric's latency is end to end and stands for the NIC's. Without a NIC
    the ranks cannot reach each other: an error at a single point, NaN on a grid.
    """
    nic, network = cluster.node.nic, cluster.network
    if nic is None:
        if isinstance(nodes, np.ndarray):
            return where(nodes > 1, np.nan, cluster.node.intra.bandwidth), 0.0
        if nodes > 1:
            raise InfeasibleError(
                f"{cluster.node.name} has no NIC, so a job cannot span nodes: set hardware.node.nic, or use at most "
                f"{cluster.node.count:g} devices"
            )
        return cluster.node.intra.bandwidth, 0.0
    bandwidth = nic.bandwidth
    latency = nic.latency if nic.latency is not None else 0.0
    if network is not None:
        bandwidth = bandwidth if network.bandwidth is None else minimum(bandwidth, network.bandwidth)
        same = network.latency_same_leaf if network.latency_same_leaf is not None else latency
        cross = network.latency_cross_leaf if network.latency_cross_leaf is not None else same
        _check_whole(network)
        _check_ports(network, span * cluster.node.count)
        if network.topology in (*GRIDS, "ocs"):
            inter = bandwidth * nic.per_device
            return inter, same
        # One plane has one port a node. Beyond a leaf all ranks may have to go through the spines at once.
        in_leaf = span <= leaf_ports(network.radix, network.oversubscription).down
        latency = where(in_leaf, same, cross)
        port, narrowing = bandwidth, where(in_leaf, 1.0, network.oversubscription)
        bandwidth = port / narrowing
    inter = bandwidth * nic.per_device
    return inter, latency


def _check_ports(network: Network, endpoints: Count) -> None:
    """Raise InputError where a group's first and last device are more distant than the fabric has ports."""
    if not all(map(is_single, (endpoints, network.radix, network.planes, network.oversubscription))):
        return  # points of a grid that cannot be wired stay bounds
    full = full_fabric(network, endpoints)
    if full is not None and np.any(np.less(full.endpoints, endpoints)):
        raise InputError.single(
            f"the fabric has {float(full.endpoints):,.0f} ports, {float(endpoints):,.0f} endpoints need one each",
            hint="use fewer ranks, more planes or switches with more ports", field="network.radix",
        )  # fmt: skip


_FLOWS = "use `costmodel collective --engine flow`, or `simulate --engine event` with `simulation.contention: true`"


def _check_whole(network: Network) -> None:
    """Raise InputError for what only flows see: parts that have failed, planes without forwarding over NVLink."""
    if network.failed:
        raise InputError.single("closed forms do not support failed parts", field="network.failed", hint=_FLOWS)
    if not network.pxn and np.any(np.greater(network.planes, 1)):
        text = "closed forms do not support forwarding over PCIe"
        raise InputError.single(text, field="network.pxn", hint=_FLOWS)


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
