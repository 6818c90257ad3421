"""Times by the closed form: messages between devices, copies to the host, and the host's own work."""

from __future__ import annotations

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.machine import Machine
from costmodel.cost.terms import Terms
from costmodel.equations import equation
from costmodel.hardware import Cluster
from costmodel.network.collectives import collective_time
from costmodel.network.expert_all_to_all import expert_all_to_all_time, token_copies
from costmodel.network.group_links import GroupLinks, group_links
from costmodel.network.host import arithmetic_time, host_link, stream_time, transfer_time
from costmodel.quantities import Count, Seconds, where
from costmodel.workload.operators import Collective, ExpertAllToAll, HostGemm, HostTime, HostTransfer, HostUpdate


def collective_terms(operator: Collective, machine: Machine, cluster: Cluster, fit: FamilyFit) -> Terms:
    """Return the terms of a collective."""
    links = group_links(operator.group, cluster)
    launch = machine.framework.launch * fit.launch_factor
    return _wire_terms(links, launch, collective_time(operator.kind, operator.size, links), fit, operator.calls)


@equation
def expert_all_to_all_terms(operator: ExpertAllToAll, machine: Machine, cluster: Cluster, fit: FamilyFit) -> Terms:
    """Return the terms of one direction of the expert all-to-all.

    wire_time = max(inter_time, intra_time) + links.latency + links.exchange_setup
    inter_time = sent * copies.inter / links.exchange
    intra_time = sent * copies.intra / links.intra
    sent = operator.tokens * operator.token_bytes
    """
    links = group_links(operator.group, cluster)
    copies = token_copies(operator, links)
    sent = operator.tokens * operator.token_bytes
    launch = machine.framework.launch * fit.launch_factor
    return {
        **_wire_terms(links, launch, expert_all_to_all_time(operator, links), fit),
        "inter_time": sent * copies.inter / links.exchange, "intra_time": sent * copies.intra / links.intra,
        "inter_copies": copies.inter, "intra_copies": copies.intra,
    }  # fmt: skip


@equation
def _wire_terms(links: GroupLinks, launch: Seconds, wire: Seconds, fit: FamilyFit, calls: Count = 1.0) -> Terms:
    """Return the terms of messages that follow each other. Their time is zero in a group of one.

    t = where(links.size > 1, calls * (launch + wire_time / fit.network_efficiency), 0)
    fixed_time = where(links.size > 1, calls * (launch + links.latency), 0)
    """
    has_peers = links.size > 1
    return {
        "t": where(has_peers, calls * (launch + wire / fit.network_efficiency), 0.0),
        "fixed_time": where(has_peers, calls * (launch + links.latency), 0.0),
        "launch": launch, "wire_time": wire, "latency": links.latency,
    }  # fmt: skip


@equation
def host_transfer_terms(operator: HostTransfer, machine: Machine, cluster: Cluster, fit: FamilyFit) -> Terms:
    """Return the terms of a copy to the host or from it. Its time is zero without bytes.

    t = where(operator.size > 0, fixed + wire / fit.network_efficiency, 0)
    wire := size / min(bandwidth of the link, of the host's memory over devices of a node)
    """
    latency = host_link(cluster).latency
    fixed = machine.framework.launch * fit.launch_factor + (0.0 if latency is None else latency)
    wire = transfer_time(operator, cluster)
    has_bytes = operator.size > 0
    return {
        "t": where(has_bytes, fixed + wire / fit.network_efficiency, 0.0), "fixed_time": where(has_bytes, fixed, 0.0),
        "wire_time": wire,
    }  # fmt: skip


@equation
def host_update_terms(operator: HostUpdate, _: Machine, cluster: Cluster, fit: FamilyFit) -> Terms:
    """Return the terms of the host's work that only streams its memory.

    t = memory_time
    memory_time = stream / fit.hbm_efficiency      traffic over a device's share of the host's bandwidth
    """
    stream = stream_time(operator, cluster)
    return {"memory_time": stream / fit.hbm_efficiency}


@equation
def host_gemm_terms(operator: HostGemm, _: Machine, cluster: Cluster, fit: FamilyFit) -> Terms:
    """Return the terms of a GEMM of the host.

    t = max(arithmetic_time, memory_time)
    arithmetic_time = arithmetic / fit.compute_efficiency      FLOP over a device's share of the host's peak
    memory_time = stream / fit.hbm_efficiency                  traffic over its share of the bandwidth
    """
    arithmetic, stream = arithmetic_time(operator, cluster), stream_time(operator, cluster)
    return {"arithmetic_time": arithmetic / fit.compute_efficiency, "memory_time": stream / fit.hbm_efficiency}


@equation
def host_time_terms(operator: HostTime) -> Terms:
    """Return the terms of the host's program.

    t = operator.seconds
    """
    return {"t": operator.seconds, "host_time": operator.seconds}
