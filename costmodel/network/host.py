"""Times of the host: copies over a device's link to it, and what its processors compute and stream from memory."""

from __future__ import annotations

from costmodel.errors import InfeasibleError
from costmodel.hardware import Cluster, Link
from costmodel.quantities import BytesPerSecond, Count, FlopPerSecond, Seconds, minimum
from costmodel.workload.operators import HostGemm, HostTransfer, HostWork


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
