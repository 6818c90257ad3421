"""The expert all-to-all's time from the fit of its kernels: what processors send, and what the links carry."""

from __future__ import annotations

import math
from typing import ClassVar

from costmodel.cost.parameter import DeclaredRecord, constant, fitted, like
from costmodel.cost.residual import Features
from costmodel.cost.time import SHORTEST, Machine, Terms, Time, message, p_norm
from costmodel.equations import equation
from costmodel.network.expert_all_to_all import TokenCopies, token_copies
from costmodel.network.group_links import GroupLinks, require_group_links
from costmodel.quantities import Count, Mask, Quantity, Seconds, anywhere, ceil, log2, maximum, minimum, where
from costmodel.records import replace
from costmodel.workload.operators import ExpertAllToAll

AXES = {"tokens": 2.0, "token_bytes": 2.0, "top_k": 2.0, "experts": 3.0, "ranks": 2.0}


class LowLatencyForm(DeclaredRecord, kw_only=True):
    """Kernels that send a copy of a token to every expert, on all processors.

    `ctas`, as many as experts that all processors serve at a time, share the tokens. Copies inside a node go over its
    own links, or over the NIC like those to other nodes (`uses_intra_links`).
    """

    SECTION: ClassVar[str] = "9.1"
    AXES: ClassVar[dict[str, float]] = AXES

    launch: float = fitted("s", 1e-5, 1e-6, 3e-4, "kernel overhead, notification included")
    rank_latency: float = fitted("s", 1e-7, 1e-10, 1e-5, "fixed time for each rank")
    token_latency: float = fitted("s", 1e-6, 1e-9, 1e-4, "what a token costs its CTA")
    send_bandwidth: float = fitted("B/s", 2e10, 1e8, 1e13, "what a CTA moves")
    intra_efficiency: float = fitted("1", 0.7, 0.01, 1.0, "of the bandwidth inside a node")
    inter_efficiency: float = fitted("1", 0.7, 0.01, 1.0, "of the bandwidth between nodes")
    overlap_p: float = fitted("1", 3.0, 1.0, 12.0, "p-norm that joins times which overlap")
    expert_latency: float = fitted("s", 1e-7, 1e-10, 1e-5, "fixed time for each expert")
    inter_setup: float = fitted(
        "s", 5e-6, 1e-9, 1e-4, "fixed time of an exchange between nodes beside the links' latency"
    )

    inter_hops: float = constant("messages between nodes that wait for one another, by the kernels' source", "1")
    uses_intra_links: bool = constant("copies inside a node go over its own links, not over the NIC")

    def time(self, operator: ExpertAllToAll, machine: Machine) -> Time:
        """Return the time of one direction, zero in a group of one."""
        return _message(self.terms(operator, machine), _links(operator, machine))

    @equation
    def terms(self, operator: ExpertAllToAll, machine: Machine) -> Terms:
        """Return the terms.

        t = fixed_time + busy_time
        fixed_time = launch + latency + rank_latency * links.size + expert_latency * operator.experts
        busy_time = (send**overlap_p + intra_time**overlap_p + nic_time**overlap_p) ** (1 / overlap_p)
        send = operator.tokens / ctas * (token_latency + operator.token_bytes / send_bandwidth)
        ctas = operator.experts / ceil(operator.experts / machine.device.processors)
        """
        links = _links(operator, machine)
        ctas = operator.experts / ceil(operator.experts / machine.device.processors)
        send = operator.tokens / ctas * (self.token_latency + operator.token_bytes / self.send_bandwidth)
        copies = token_copies(operator, links)
        if not self.uses_intra_links:
            copies = replace(copies, intra=0.0, inter=operator.top_k * operator.expert_load * (1.0 - 1.0 / links.size))
        intra_time, nic_time = _wire_times(operator, links, copies, self.intra_efficiency, self.inter_efficiency)
        uses_nic = links.nodes > 1 if self.uses_intra_links else links.size > 1
        latency = _links_latency(self, links, uses_nic)
        fixed = self.launch + latency + self.rank_latency * links.size + self.expert_latency * operator.experts
        return {
            "fixed_time": fixed, "busy_time": p_norm(self.overlap_p, SHORTEST, send, intra_time, nic_time),
            "links_latency": latency, "send_time": send, "intra_time": intra_time, "inter_time": nic_time, "ctas": ctas,
            "intra_copies": copies.intra, "inter_copies": copies.inter,
        }  # fmt: skip

    def features(self, operator: ExpertAllToAll) -> Features:
        """Return log2 of tokens, bytes of a copy, experts a token, experts and ranks."""
        return _features(operator)


class NormalForm(DeclaredRecord, kw_only=True):
    """Kernels that send a copy of a token to every node and rank, on the processors that communication holds."""

    SECTION: ClassVar[str] = "9.1"
    AXES: ClassVar[dict[str, float]] = AXES

    launch: float = like(LowLatencyForm, "launch")
    rank_latency: float = like(LowLatencyForm, "rank_latency")
    token_latency: float = fitted("s", 1e-6, 1e-9, 1e-4, "what a token costs its processor")
    send_bandwidth: float = fitted("B/s", 2e10, 1e8, 1e13, "what a processor moves")
    intra_efficiency: float = like(LowLatencyForm, "intra_efficiency")
    inter_efficiency: float = like(LowLatencyForm, "inter_efficiency")
    overlap_p: float = like(LowLatencyForm, "overlap_p")
    forward_cost: float = fitted("1", 1.0, 1e-2, 20.0, "cost of a copy to another node, over that of one to a rank")
    fabric_exponent: float = fitted("1", 0.1, 1e-3, 2.0, "exponent of the nodes by which their fabric slows down")
    inter_setup: float = like(LowLatencyForm, "inter_setup")

    inter_hops: float = constant("messages between nodes that wait for one another, by the kernels' source", "1")
    processors: int = constant("processors that send where a scenario holds none for communication", "count")
    fabric_max_nodes: Count = constant(
        "nodes of the widest group that was measured, up to which the exponent acts", "count", variable="nodes"
    )

    def time(self, operator: ExpertAllToAll, machine: Machine) -> Time:
        """Return the time of one direction, zero in a group of one."""
        links = _links(operator, machine)
        is_wider = anywhere(links.nodes > self.fabric_max_nodes)
        unlimited = replace(self, fabric_max_nodes=math.inf).terms(operator, machine) if is_wider else None
        return _message(self.terms(operator, machine), links, unlimited)

    @equation
    def terms(self, operator: ExpertAllToAll, machine: Machine) -> Terms:
        """Return the terms.

        t = fixed_time + busy_time
        fixed_time = launch + latency + rank_latency * links.size
        busy_time = (send**overlap_p + intra_time**overlap_p + inter_time**overlap_p) ** (1 / overlap_p)
        send = operator.tokens / senders * (token_latency + sent * operator.token_bytes / send_bandwidth)
        sent = copies.reached + forward_cost * copies.inter
        inter_time = nic_time * slowdown
        slowdown = max(min(links.nodes, fabric_max_nodes) / 2, 1) ** fabric_exponent
        """
        links = _links(operator, machine)
        comm_processors = machine.device.processors - machine.processors
        senders = where(comm_processors > 0, comm_processors, self.processors)
        copies = token_copies(operator, links)
        sent = copies.reached + self.forward_cost * copies.inter
        send = operator.tokens / senders * (self.token_latency + sent * operator.token_bytes / self.send_bandwidth)
        intra_time, nic_time = _wire_times(operator, links, copies, self.intra_efficiency, self.inter_efficiency)
        slowdown = maximum(minimum(links.nodes, self.fabric_max_nodes) / 2.0, 1.0) ** self.fabric_exponent
        inter_time = nic_time * slowdown
        latency = _links_latency(self, links, links.nodes > 1)
        return {
            "fixed_time": self.launch + latency + self.rank_latency * links.size,
            "busy_time": p_norm(self.overlap_p, SHORTEST, send, intra_time, inter_time), "links_latency": latency,
            "send_time": send, "intra_time": intra_time, "inter_time": inter_time, "senders": senders,
            "copies_sent": sent, "intra_copies": copies.intra, "inter_copies": copies.inter,
            "fabric_slowdown": slowdown,
        }  # fmt: skip

    def features(self, operator: ExpertAllToAll) -> Features:
        """Return log2 of tokens, bytes of a copy, experts a token, experts and ranks."""
        return _features(operator)


def _links(operator: ExpertAllToAll, machine: Machine) -> GroupLinks:
    return require_group_links(operator.group, machine.cluster, operator.name)


@equation
def _wire_times(
    operator: ExpertAllToAll,
    links: GroupLinks,
    copies: TokenCopies,
    intra_efficiency: Quantity,
    inter_efficiency: Quantity,
) -> tuple[Seconds, Seconds]:
    """Return what the links inside and between nodes take [s].

    intra_time = operator.tokens * operator.token_bytes * copies.intra / (intra_efficiency * links.intra)
    nic_time = operator.tokens * operator.token_bytes * copies.inter / (inter_efficiency * links.exchange)
    """
    sent = operator.tokens * operator.token_bytes
    intra_time = sent * copies.intra / (intra_efficiency * links.intra)
    nic_time = sent * copies.inter / (inter_efficiency * links.exchange)
    return intra_time, nic_time


@equation
def _links_latency(form: LowLatencyForm | NormalForm, links: GroupLinks, uses_nic: Mask) -> Seconds:
    """Return the latency of the links: inside the node, and where the NIC is used of each message that is waited for.

    What else an exchange between nodes takes at any latency of its links, is `inter_setup`: a quicker NIC keeps it.

        latency = links.intra_latency + where(uses_nic, outside, 0)
        outside = form.inter_hops * links.inter_latency + form.inter_setup + links.exchange_setup
    """
    outside = form.inter_hops * links.inter_latency + form.inter_setup + links.exchange_setup
    return links.intra_latency + where(uses_nic, outside, 0.0)


def _message(terms: Terms, links: GroupLinks, unlimited: Terms | None = None) -> Time:
    """Return the time of some terms. unlimited: those of an exponent that acts past its measured range."""
    fixed, has_peers = terms["fixed_time"], links.size > 1
    wider = None if unlimited is None else where(has_peers, fixed + unlimited["busy_time"], 0.0)
    return message(where(has_peers, fixed + terms["busy_time"], 0.0), where(has_peers, fixed, 0.0), wider)


def _features(operator: ExpertAllToAll) -> Features:
    sizes = (operator.tokens, operator.token_bytes, float(operator.top_k), operator.experts, operator.group.size)
    return tuple(log2(maximum(size, 1.0)) for size in sizes)
