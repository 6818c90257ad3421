"""The expert all-to-all's time from the fit of its kernels: what processors send, and what the links carry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from costmodel.cost.calibration import SHORTEST
from costmodel.cost.gemm import p_norm
from costmodel.cost.machine import Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time, message
from costmodel.network.expert_all_to_all import TokenCopies, token_copies
from costmodel.network.group_links import GroupLinks, require_group_links
from costmodel.quantities import Count, Mask, Quantity, Seconds, ceil, log2, maximum, where
from costmodel.workload.operators import ExpertAllToAll

AXES = ("tokens", "copy", "choices", "experts", "ranks")


@dataclass(frozen=True, slots=True, eq=False)
class LowLatencyForm:
    """The fitted form of kernels that send a copy to every expert, on all processors.

        t     = launch + a_in + hop * a_out + slot * experts + peer * ranks + (send^p + inner^p + outer^p)^(1/p)
        send  = T / blocks * (token + b / rate),   blocks = experts / ceil(experts / processors)
        inner = copies inside the node * b / (share * B_in),   outer = copies to others * b / (nic * B_out)

    launch: fixed time [s]; hop: steps between nodes, over the latency there; slot: cost of an expert's counter [s];
    peer: of a rank's queue [s]; token: what a token costs its block [s]; rate: what a block moves [B/s]; share, nic: of
    the bandwidths.
    direct: copies inside a node go over its own links; else over the NIC, as those to other nodes.
    """

    launch: float
    hop: float
    slot: float
    peer: float
    token: float
    rate: float
    share: float
    nic: float
    sharpness: float
    direct: bool = True

    AXES = AXES
    FORMULA: ClassVar[str] = (
        "t = launch + latencies + slot * experts + peer * ranks + p-norm of (tokens of a block, bytes inside the "
        "node / share of its links, bytes between nodes / share of the NIC)"
    )

    def time(self, operator: ExpertAllToAll, machine: Machine) -> Time:
        """Return the time of one direction; zero in a group of one."""
        way = require_group_links(operator.group, machine.cluster, operator.name)
        blocks = operator.experts / ceil(operator.experts / machine.device.processors)
        send = operator.tokens / blocks * (self.token + operator.token_bytes / self.rate)
        found = token_copies(operator, way)
        if not self.direct:
            found = replace(found, intra=0.0, inter=operator.top_k * operator.expert_load * (1.0 - 1.0 / way.size))
        inner, outer = _wire(operator, way, found, self.share, self.nic)
        across = way.nodes > 1 if self.direct else way.size > 1
        fixed = self.launch + _latency(way, self.hop, across) + self.peer * way.size + self.slot * operator.experts
        return _message(fixed, p_norm(self.sharpness, SHORTEST, send, inner, outer), way)

    def features(self, operator: ExpertAllToAll) -> Features:
        """Return log2 of tokens, bytes of a copy, experts a token, experts and ranks."""
        return _features(operator)


@dataclass(frozen=True, slots=True, eq=False)
class NormalForm:
    """The fitted form of kernels that send a copy to every node and rank, on the processors that communication holds.

        t     = launch + a_in + hop * a_out + peer * ranks + (send^p + inner^p + outer^p)^(1/p)
        send  = T / processors * (token + (E_ranks + relay * E_nodes * (1 - 1/N)) * b / rate)
        inner = T * E_ranks * (1 - 1/l) * b / (share * B_in)
        outer = T * E_nodes * (1 - 1/N) * b / (nic * B_out) * (N/2)^crowd

    launch: fixed time, notification included [s]; hop: steps between nodes, over the latency there; peer: cost of a
    rank [s]; token: what a token costs its processor [s]; rate: what a processor moves [B/s]; relay: how much more it
    costs to hand a copy to another node than to a rank; share, nic: of the bandwidths; crowd: how
    much slower NICs are where more nodes share the fabric. processors: taken where a scenario holds none.
    """

    launch: float
    hop: float
    peer: float
    token: float
    rate: float
    relay: float
    share: float
    nic: float
    crowd: float
    sharpness: float
    processors: float

    AXES = AXES
    FORMULA: ClassVar[str] = (
        "t = launch + latencies + peer * ranks + p-norm of (tokens of a processor, bytes inside the node / share of "
        "its links, bytes between nodes / share of the NIC * (nodes/2)^crowd)"
    )

    def time(self, operator: ExpertAllToAll, machine: Machine) -> Time:
        """Return the time of one direction; zero in a group of one."""
        way = require_group_links(operator.group, machine.cluster, operator.name)
        held = machine.device.processors - machine.processors
        working = where(held > 0, held, self.processors)
        found = token_copies(operator, way)
        handled = found.reached + self.relay * found.inter
        send = operator.tokens / working * (self.token + handled * operator.token_bytes / self.rate)
        inner, outer = _wire(operator, way, found, self.share, self.nic)
        outer = outer * maximum(way.nodes / 2.0, 1.0) ** self.crowd
        fixed = self.launch + _latency(way, self.hop, way.nodes > 1) + self.peer * way.size
        return _message(fixed, p_norm(self.sharpness, SHORTEST, send, inner, outer), way)

    def features(self, operator: ExpertAllToAll) -> Features:
        """Return log2 of tokens, bytes of a copy, experts a token, experts and ranks."""
        return _features(operator)


def _wire(
    operator: ExpertAllToAll, way: GroupLinks, found: TokenCopies, share: Quantity, nic: Quantity
) -> tuple[Seconds, Seconds]:
    """Return what the links inside and between nodes take [s]."""
    sent = operator.tokens * operator.token_bytes
    return sent * found.intra / (share * way.intra), sent * found.inter / (nic * way.inter)


def _latency(way: GroupLinks, hop: Quantity, across: Mask) -> Seconds:
    """Return the latency of the links: that inside the node, and `hop` times that of the NIC where it is used."""
    return way.intra_latency + where(across, hop * way.inter_latency, 0.0)


def _message(fixed: Seconds, busy: Seconds, way: GroupLinks) -> Time:
    joined = way.size > 1
    return message(where(joined, fixed + busy, 0.0), where(joined, fixed, 0.0))


def _features(operator: ExpertAllToAll) -> Features:
    sizes: tuple[Count, ...] = (
        operator.tokens, operator.token_bytes, float(operator.top_k), operator.experts, operator.group.size,
    )  # fmt: skip
    return tuple(log2(maximum(size, 1.0)) for size in sizes)
