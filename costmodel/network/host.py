"""Times of the host: copies over a device's link to it, and what its processors compute and stream from memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.errors import InfeasibleError
from costmodel.hardware import Cluster, Link
from costmodel.network.expert_all_to_all import token_copies
from costmodel.network.group_links import GroupLinks, group_links
from costmodel.quantities import Bytes, BytesPerSecond, Count, FlopPerSecond, Quantity, Seconds, minimum, where
from costmodel.workload.operators import ExpertAllToAll, HostGemm, HostTransfer, HostWork, Message, Operator


def host_link(cluster: Cluster) -> Link:
    """Return the link of each device to its host. Raises InfeasibleError where there is none."""
    name = cluster.node.host.link
    if name not in cluster.device.links:
        raise InfeasibleError(f"{cluster.device.name} has no link {name!r} to its host")
    return cluster.device.links[name]


def host_bandwidth(cluster: Cluster, devices: Count) -> BytesPerSecond | None:
    """Return one device's share of its host's memory bandwidth [B/s], null where no source states it.

    devices: those that work at the same time, of which a node holds at most its count.
    """
    bandwidth = cluster.node.host.bandwidth
    return None if bandwidth is None else bandwidth / minimum(cluster.node.count, devices)


def transfer_time(transfer: HostTransfer, cluster: Cluster) -> Seconds:
    """Return the time of a copy between a device and its host on the wire [s].

        t = size / min(B_link, B_host / devices of a node)

    Every device has a link of its own. Each byte passes the host's memory once, and the devices of a node share that
    memory's bandwidth. A host bandwidth that no source states is no bound.
    """
    link, shared = host_link(cluster).bandwidth, host_bandwidth(cluster, transfer.devices)
    return transfer.size / (link if shared is None else minimum(link, shared))


def stream_time(work: HostWork, cluster: Cluster) -> Seconds:
    """Return the time in which the host's memory streams what its processors read and write for a device [s].

        t = traffic * devices of a node / B_host

    Raises InfeasibleError where no source states the host's bandwidth.
    """
    shared = host_bandwidth(cluster, work.devices)
    if shared is None:
        raise InfeasibleError(f"{cluster.node.name} does not state its host's memory bandwidth")
    return work.traffic / shared


def host_peak(cluster: Cluster, dtype: str, devices: Count) -> FlopPerSecond | None:
    """Return one device's share of its host's dense arithmetic [FLOP/s], null where no source states it."""
    peak = cluster.node.host.peak.get(dtype)
    return None if peak is None else peak / minimum(cluster.node.count, devices)


def arithmetic_time(work: HostGemm, cluster: Cluster) -> Seconds:
    """Return the time in which the host's processors compute a GEMM for a device [s], zero without a stated peak.

    t = FLOP * devices of a node / peak
    """
    peak = host_peak(cluster, work.gemm.dtype, work.devices)
    return 0.0 if peak is None else work.flop / peak


# ---- Links of one device that its messages and its copies both cross: the link to its host, and its NIC --------------
#
# A NIC hangs behind the device's link to its host, so that copies of weights or of the KV cache and messages between
# nodes cross the same one [arXiv 2505.09343, section 4.5.1].

HOST_OUT, HOST_IN, NIC_OUT, NIC_IN = ("host out", "host in", "NIC out", "NIC in")
SHARED, MESSAGES_FIRST, COPIES_FIRST, SEPARATE = ("shared", "messages_first", "copies_first", "separate")
"""Who gives way on the link to the host: both equally, copies, messages, or nobody, as each has a link of its own."""


def link_shares(operator: Operator, wire: Seconds, cluster: Cluster, efficiency: Quantity = 1.0) -> dict[str, Quantity]:
    """Return the share of each link's time that an operator takes while it runs alone, none of other operators.

        w = bytes / (B * wire), at most one

    wire: seconds in which its bytes move.
    efficiency: of the link to the host, which what its protocol adds leaves to data, of both copies and messages.
    Ranks of a group send and receive equal amounts, but for a message to one other rank.
    """
    if isinstance(operator, HostTransfer):
        return _of_bytes(
            {HOST_IN if operator.direction == "in" else HOST_OUT: operator.size}, wire, cluster, efficiency
        )
    if not isinstance(operator, Message):
        return {}
    intra, inter = message_bytes(operator, group_links(operator.group, cluster))
    node = cluster.node
    on_host = inter
    if node.intra.name == node.host.link:  # without peer-to-peer access stored in the host's memory, then read
        on_host = inter + (1.0 if node.peer_to_peer else 2.0) * intra
    return _of_bytes({HOST_OUT: on_host, HOST_IN: on_host, NIC_OUT: inter, NIC_IN: inter}, wire, cluster, efficiency)


def _of_bytes(sent: Mapping[str, Bytes], wire: Seconds, cluster: Cluster, efficiency: Quantity) -> dict[str, Quantity]:
    """Return the shares of what sends so many bytes over each link."""
    node = cluster.node
    host, nic = cluster.device.links.get(node.host.link), node.nic
    bandwidth = {} if host is None else dict.fromkeys((HOST_OUT, HOST_IN), host.bandwidth * efficiency)
    bandwidth |= {} if nic is None else dict.fromkeys((NIC_OUT, NIC_IN), nic.bandwidth * nic.per_device)
    seconds = where(np.greater(wire, 0), wire, 1.0)
    return {
        link: where(np.greater(wire, 0), minimum(size / (bandwidth[link] * seconds), 1.0), 0.0)
        for link, size in sent.items()
        if link in bandwidth and np.any(np.greater(size, 0))
    }


def message_bytes(operator: Message, links: GroupLinks) -> tuple[Bytes, Bytes]:
    """Return the bytes that a rank sends over its link inside the node and over its NIC [B].

    Of an exchange tokens * token_bytes * copies of section 9. Of a collective, with V the volume of a rank, l ranks on
    each of N nodes and n = l*N:

        all-gather, reduce-scatter (all-reduce: twice)   V = (n-1)/n * S,   V*(l-1)/l and V/l;   V and 0 on one node
        all-to-all                                       (l-1)/n * S and (n-l)/n * S
        broadcast                                        V = S
        send-receive                                     S over the link between the two
    """
    several = where(links.nodes > 1, 1.0, 0.0)
    if isinstance(operator, ExpertAllToAll):
        sent, copies = operator.tokens * operator.token_bytes, token_copies(operator, links)
        return sent * copies.intra, sent * copies.inter
    n, local, size = links.size, links.ranks_per_node, operator.calls * operator.size
    if operator.kind == "send_recv":
        return size * (1.0 - several), size * several
    if operator.kind == "all_to_all":
        return (local - 1.0) / n * size, (n - local) / n * size
    volume = size if operator.kind == "broadcast" else (n - 1.0) / n * size
    volume = 2.0 * volume if operator.kind == "all_reduce" else volume
    return volume * where(links.nodes > 1, (local - 1.0) / local, 1.0), volume / local * several
