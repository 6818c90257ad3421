"""A collective's time from the fit of its kind: a protocol for small messages and one for large, over the links."""

from __future__ import annotations

import math
from typing import ClassVar

from costmodel.cost.parameter import DeclaredRecord, constant, fitted, mechanism
from costmodel.cost.residual import Features
from costmodel.cost.time import Machine, Terms, Time, message
from costmodel.equations import equation
from costmodel.network.collectives import doublings, nccl_time, ring_transfer
from costmodel.network.group_links import GroupLinks, require_group_links
from costmodel.quantities import Bytes, Count, Mask, Quantity, Seconds, anywhere, log2, maximum, minimum, where
from costmodel.records import replace
from costmodel.workload.operators import Collective

ALL_REDUCE = "all_reduce"
STEPPED = (ALL_REDUCE, "all_gather", "reduce_scatter", "broadcast")  # rings over all ranks, whose steps add up
LL_SHARE = 0.5  # of the bandwidth: NCCL's protocol of small messages sends a flag with every four bytes
LARGEST_EXPONENT = 60.0  # of two: beyond it one protocol has all of the message


class Nvls(DeclaredRecord, kw_only=True):
    """Switches add up inside a node: a device sends its buffer once, and receives 1/n of it more."""

    nvls_efficiency: float = fitted("1", 0.65, 0.5, 1.0, "of the bandwidth where switches add up")
    nvls_latency: float = fitted("s", 1e-5, 1e-8, 1e-3, "fixed time of large messages where switches add up")

    @equation
    def time(self, size: Bytes, links: GroupLinks) -> Seconds:
        """Return the time of an all-reduce inside a node.

        nvls = nvls_latency + wire + links.intra_latency
        wire = size * (1 + 1 / links.size) / (nvls_efficiency * links.intra)
        """
        wire = size * (1.0 + 1.0 / links.size) / (self.nvls_efficiency * links.intra)
        return self.nvls_latency + wire + links.intra_latency


class CustomAllReduce(DeclaredRecord, kw_only=True):
    """All-reduces of inference engines that read the memory of other devices of a node, in one shot or two."""

    one_shot_efficiency: float = fitted("1", 0.7, 0.01, 1.0, "of the bandwidth of an all-reduce in one shot")
    two_shot_efficiency: float = fitted("1", 0.7, 0.01, 1.0, "the same in two shots")

    @equation
    def time(self, size: Bytes, links: GroupLinks, small_step: float) -> Seconds:
        """Return the faster of one shot and two.

        custom = min(one_shot, two_shots)
        one_shot = latency + (links.size - 1) * size / (one_shot_efficiency * links.intra)
        two_shots = 2 * latency + volume / (two_shot_efficiency * links.intra)
        volume = 2 * (links.size - 1) / links.size * size
        latency = small_step * links.intra_latency
        """
        others, latency = links.size - 1.0, small_step * links.intra_latency
        one_shot = latency + others * size / (self.one_shot_efficiency * links.intra)
        volume = 2.0 * others / links.size * size
        two_shots = 2.0 * latency + volume / (self.two_shot_efficiency * links.intra)
        return minimum(one_shot, two_shots)


class HostBridge(DeclaredRecord, kw_only=True):
    """Ranks behind several PCIe switches read each other's memory over the host's bridges, which all of them share."""

    bridge_efficiency: float = fitted("1", 0.5, 0.01, 1.0, "of the links' bandwidth where bridges are crossed at all")
    bridge_sharing: float = fitted("1", 0.5, 1e-3, 2.5, "exponent by which that falls with ranks")
    switch_ranks: int = constant("ranks behind one PCIe switch", "count", 2)
    bridge_max_ranks: Count = constant(
        "ranks of a node whose bridges were measured, up to which the exponent acts", "count"
    )

    def narrowed(self, links: GroupLinks) -> GroupLinks:
        """Return the links of a group of a node."""
        switches = maximum(minimum(links.ranks_per_node, self.bridge_max_ranks) / self.switch_ranks, 1.0)
        share = where(switches > 1.0, self.bridge_efficiency * switches ** (-self.bridge_sharing), 1.0)
        return replace(links, intra=share * links.intra)


class ClusterSteps(DeclaredRecord, kw_only=True):
    """What a step of messages takes on several nodes, instead of the links' latencies.

    NCCL, src/graph/tuning.cc, LL128 of large messages and LL of small ones.
    """

    intra_step: float = constant("a step inside one of several nodes", "s")
    inter_step: float = constant("a step to another node, the network's latency aside", "s")
    tree_step: float = constant("a level of a tree over nodes, the network's latency aside", "s")

    @equation
    def time(self, kind: str, links: GroupLinks) -> Seconds:
        """Return the time of the steps between all ranks, whatever they carry: of a ring, twice or a tree's if reduced.

        hops = where(both_ways, 2 * min(ring_hops, tree_hops), ring_hops)
        ring_hops = (links.size - links.nodes) * intra_step + (links.nodes - 1) * (inter_step + latency)
        tree_hops = (links.ranks_per_node - 1) * intra_step + ceil(log2(links.nodes)) * (tree_step + latency)
        """
        latency, both_ways = links.inter_latency, kind == ALL_REDUCE
        ring_hops = (links.size - links.nodes) * self.intra_step + (links.nodes - 1.0) * (self.inter_step + latency)
        tree_hops = (links.ranks_per_node - 1.0) * self.intra_step + doublings(links.nodes) * (self.tree_step + latency)
        return where(both_ways, 2.0 * minimum(ring_hops, tree_hops), ring_hops)


class CollectiveForm(DeclaredRecord, kw_only=True):
    """One kind of collective: a protocol for small messages and one for large.

    Libraries take their protocol by the size of the message, not by what is fastest, so links do not move the switch.
    bare: the closed form of the kind over links of bandwidth B and latency a, with its volume and steps. Of an
    all-reduce that of NCCL. Between nodes `inter_efficiency` stands for `large_efficiency`, and the steps of
    `ClusterSteps` for the latencies of `bare`, of small messages and of large ones. Over PCIe B is multiplied by
    bridge_efficiency * (min(ranks, bridge_max_ranks) / switch_ranks)^-bridge_sharing where the ranks of a node are more
    than `switch_ranks`.
    """

    SECTION: ClassVar[str] = "8.6"
    AXES: ClassVar[dict[str, float]] = {"size": 2.0, "ranks": 1.0}

    launch: float = fitted("s", 3e-6, 3e-7, 3e-4, "kernel overhead")
    small_step: float = fitted("1", 0.5, 1e-3, 30.0, "time of a step of small messages, over a link's latency")
    small_efficiency: float = fitted("1", 0.2, 1e-3, 1.0, "of the links' bandwidth, small messages")
    large_latency: float = fitted("s", 1e-5, 1e-8, 1e-3, "further fixed time of large messages")
    large_step: float = fitted("1", 0.5, 1e-3, 30.0, "time of a step of large messages, over a link's latency")
    large_efficiency: float = fitted("1", 0.7, 0.01, 1.0, "of the links' bandwidth, large messages")
    protocol_switch: float = fitted("B", 1e6, 1e3, 3e8, "size at which one protocol gives way to the other")
    switch_sharpness: float = fitted("1", 6.0, 2.0, 12.0, "exponent of the size that says how suddenly")
    nvls: Nvls | None = mechanism(Nvls)
    custom_all_reduce: CustomAllReduce | None = mechanism(CustomAllReduce)
    host_bridge: HostBridge | None = mechanism(HostBridge)

    host_staged_efficiency: float = constant("of the bandwidth, large messages stored in host memory", "1", 0.0)
    inter_efficiency: float = constant(
        "of the NICs' bandwidth, large messages between nodes; null: large_efficiency", "1", 0.0
    )
    cluster_steps: ClusterSteps | None = mechanism(ClusterSteps)
    small_cluster_steps: ClusterSteps | None = mechanism(ClusterSteps, "small_")

    def time(self, operator: Collective, machine: Machine) -> Time:
        """Return the time of one collective, zero in a group of one."""
        links = self._links(operator, machine)
        fixed = self._terms(operator, links, 0.0 * operator.size)["t"]
        seconds = self._terms(operator, links, operator.size)["t"]
        has_peers = links.size > 1
        return message(
            where(has_peers, seconds, 0.0), where(has_peers, minimum(fixed, seconds), 0.0),
            self._unlimited(operator, machine, links),
        )  # fmt: skip

    def _unlimited(self, operator: Collective, machine: Machine, links: GroupLinks) -> Seconds | None:
        """Return the time if bridges were shared ever more past the ranks that were measured, null up to these."""
        bridge = self.host_bridge
        if bridge is None or not anywhere((links.ranks_per_node > bridge.bridge_max_ranks) & (links.size > 1)):
            return None
        wider = replace(self, host_bridge=replace(bridge, bridge_max_ranks=math.inf))
        return wider.terms(operator, machine)["t"]

    def terms(self, operator: Collective, machine: Machine) -> Terms:
        """Return the terms of the equation."""
        return self._terms(operator, self._links(operator, machine), operator.size)

    def features(self, operator: Collective) -> Features:
        """Return log2 of the buffer [B] and of the ranks."""
        return log2(maximum(operator.size, 1.0)), log2(maximum(operator.group.size, 1.0))

    def _links(self, operator: Collective, machine: Machine) -> GroupLinks:
        """Return the links of the group. Inside a node they are slower over the host or its bridges."""
        links = require_group_links(operator.group, machine.cluster, operator.name)
        if machine.cluster is None:
            return links
        node = machine.cluster.node
        if not node.peer_to_peer:
            staged = self.host_staged_efficiency / self.large_efficiency
            return replace(links, intra=links.intra * staged) if staged else links
        return links if self.host_bridge is None else self.host_bridge.narrowed(links)

    @equation
    def _terms(self, operator: Collective, links: GroupLinks, size: Bytes) -> Terms:
        """Return the terms of moving `size` bytes by the protocols that the operator's own size takes.

        t = launch + (1 - large_share) * small_time + large_share * large_time
        """
        share = self._large_share(operator.size)
        small = self._small_terms(operator.kind, size, links)
        large = self._large_terms(operator.kind, size, links)
        seconds = self.launch + (1.0 - share) * small["small_time"] + share * large["large_time"]
        return {"t": seconds, "large_share": share, **small, **large}

    @equation
    def _large_share(self, size: Bytes) -> Quantity:
        """Return the share of the protocol for large messages.

        large_share = power / (1 + power)
        power = 2 ** min(max(exponent, -LARGEST_EXPONENT), LARGEST_EXPONENT)
        exponent = switch_sharpness * (log2(max(size, 1)) - log2(protocol_switch))
        """
        exponent = self.switch_sharpness * (log2(maximum(size, 1.0)) - log2(self.protocol_switch))
        power = 2.0 ** minimum(maximum(exponent, -LARGEST_EXPONENT), LARGEST_EXPONENT)
        return power / (1.0 + power)

    @equation
    def _small_terms(self, kind: str, size: Bytes, links: GroupLinks) -> Terms:
        """Return the terms of small messages.

        small_time = where(takes_custom, custom, bare)
        """
        share = min(self.small_efficiency, LL_SHARE)
        inner, outer = links.scaled(self.small_efficiency, self.small_step), links.scaled(share, 1.0)
        bare = _bare(self.small_cluster_steps, kind, size, links, inner, outer)
        takes_custom: Mask = False
        custom = bare
        if self.custom_all_reduce is not None:
            takes_custom, custom = links.nodes <= 1, self.custom_all_reduce.time(size, links, self.small_step)
        return {"small_time": where(takes_custom, custom, bare)}

    @equation
    def _large_terms(self, kind: str, size: Bytes, links: GroupLinks) -> Terms:
        """Return the terms of large messages.

        large_time = where(links.nodes > 1, ring, min(ring, nvls))      nvls: infinite without switches that add up
        ring = large_latency + bare
        inter = inter_efficiency * links.inter                          where a fit has one of its own between nodes
        """
        scaled = links.scaled(self.large_efficiency, self.large_step)
        if self.inter_efficiency:
            scaled = replace(scaled, inter=self.inter_efficiency * links.inter)
        bare = _bare(self.cluster_steps, kind, size, links, scaled, scaled)
        ring = self.large_latency + bare
        nvls = math.inf if self.nvls is None or kind != ALL_REDUCE else self.nvls.time(size, links)
        return {"large_time": where(links.nodes > 1, ring, minimum(ring, nvls))}


@equation
def _bare(
    steps: ClusterSteps | None, kind: str, size: Bytes, links: GroupLinks, inner: GroupLinks, outer: GroupLinks
) -> Seconds:  # fmt: skip
    """Return the time of NCCL's algorithm on links at their efficiencies [s].

        bare = where(has_steps, across, inside)
        across = hops + transfer + links.setup
        transfer = passes * ring_time               the bytes of rings over all nodes

    steps: those on several nodes, null: of the links' latencies.
    inner, outer: links of what runs inside a node or by latencies, and of what runs on several nodes.
    """
    across = inside = nccl_time(kind, size, inner)
    has_steps: Mask = False
    if steps is not None and kind in STEPPED:
        passes, sent = 2.0 if kind == ALL_REDUCE else 1.0, size
        if kind == "broadcast":  # all of it, not what others lack
            sent = size * links.size / maximum(links.size - 1.0, 1.0)
        hops, ring_time = steps.time(kind, links), ring_transfer(sent, outer)
        transfer = passes * ring_time
        has_steps, across = links.nodes > 1, hops + transfer + links.setup
    return where(has_steps, across, inside)
