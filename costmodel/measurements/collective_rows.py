"""Measured communication as operators, and the cluster that each ran on."""

from __future__ import annotations

import numpy as np

from costmodel.hardware import Cluster, Host, Node
from costmodel.measurements.row_group import RowGroup, Unmapped
from costmodel.quantities import Count
from costmodel.records import replace
from costmodel.workload.operators import Collective, ExpertAllToAll, Group, Operator, expert_all_to_all_family

# Fabrics slower than any link of their devices. The notes next to the tables name A100 across two nodes (6-22 GB/s).
# A40 pairs move every size at 4 GB/s, where their bridge has 56 and their PCIe 32. Keys: how a table names the device;
# values: devices, and nodes, that still work well.
_SLOW_BEYOND = {"A100_SXM4_80GB": (8, 1), "A40": (1, 1)}
_GROUPS = 4.0  # deepseek-ai/DeepEP, tests/test_internode.py: min(nodes, 4) groups a token
_LOW_LATENCY_HEADER = 16.0  # the tables' schema: bytes in front of a low-latency FP8 copy


def collective(batch: RowGroup) -> list[Operator]:
    """Return a collective of the size that nccl-tests states, or a message between neighbours."""
    kind = batch.text("op")
    family = "send_recv" if kind == "send_recv" else "collective"
    return [Collective(kind, kind, batch.number("bytes"), Group(float(batch.number("world_size")[0])), family)]


def expert_all_to_all(batch: RowGroup) -> list[Operator]:
    """Return one direction of the expert all-to-all of `num_tokens` tokens a rank. `topk` is the same in all rows."""
    mode = batch.text("sub_op")
    if mode not in ("normal", "low_latency"):
        raise Unmapped(f"exchange mode {mode or 'without a name'} is unknown")
    hidden, experts = batch.number("hidden"), batch.number("num_experts")
    kind = batch.format("dtype_in")
    copy = hidden * kind.left
    if mode == "low_latency" and kind.unit == "fp8":
        copy = copy + _LOW_LATENCY_HEADER
    choices = int(batch.number("topk")[0])
    groups, chosen = _expert_groups(batch) if mode == "normal" else (1.0, 1)
    return [
        ExpertAllToAll(
            batch.text("op"), tokens=batch.number("num_tokens"), token_bytes=copy, top_k=choices, experts=experts,
            expert_groups=groups, group_top_k=chosen,
            group=Group(float(batch.number("world_size")[0])), mode=mode, expert_load=1.0,
            family=expert_all_to_all_family(batch.text("op"), mode),
        )
    ]  # fmt: skip


def _expert_groups(batch: RowGroup) -> tuple[float, int]:
    """Return the groups that experts stand in and how many of them a token uses, as DeepEP's test of normal kernels.

    Each node holds a group, and a token goes to at most `_GROUPS` of them.
    """
    ranks, local = float(batch.number("world_size")[0]), float(batch.number("gpus_per_node")[0])
    nodes = max(float(np.ceil(ranks / local)), 1.0)
    return (nodes, int(min(nodes, _GROUPS))) if not (batch.number("num_experts") % nodes).any() else (1.0, 1)


def comm_processors(batch: RowGroup) -> Count:
    """Return the processors that communication ran on, zero where a table does not say."""
    processors = np.nan_to_num(batch.rows.number("num_sms"))
    return processors if processors.any() else 0.0


def cluster(batch: RowGroup) -> Cluster:
    """Return what the ranks of a batch ran on. Raise Unmapped where no file describes it.

    world_size and gpus_per_node are the same in all rows. The smallest node of the device that holds the ranks of one,
    with a NIC where there are several, says how devices are joined. Without one a box of them is taken: joined by
    NVLink where the device has it (beyond two devices not where bridges join pairs only), else by PCIe over the host.
    """
    ranks, local = float(batch.number("world_size")[0]), float(batch.number("gpus_per_node")[0])
    alias, nodes = batch.text("device"), float(np.ceil(ranks / local))
    most_ranks, most_nodes = _SLOW_BEYOND.get(alias, (ranks, nodes))
    if ranks > most_ranks or nodes > most_nodes:
        raise Unmapped("the fabric was slower than any link of its devices")
    known = batch.catalogue.nodes(batch.device)
    fitting = [node for node in known if node.count >= local and (nodes <= 1 or node.nic is not None)]
    if nodes > 1 and not fitting:
        raise Unmapped(f"no node file says how nodes of {batch.device.name} are joined")
    node = fitting[0] if fitting else _box(batch, ranks, local)
    return Cluster(node.name, replace(node, count=local), nodes, None)


def _box(batch: RowGroup, ranks: float, local: float) -> Node:
    """Return a node of a device that no node file describes."""
    links = batch.device.links
    bridged = "pairwise_nvlink" in batch.says
    by_nvlink = "nvlink" in links and not (bridged and ranks > 2)
    if not by_nvlink and "pcie" not in links:
        raise Unmapped(f"nothing says how devices of {batch.device.name} are joined")
    link = links["nvlink" if by_nvlink else "pcie"]
    return Node(f"{batch.device.name} box", batch.device, local, link, by_nvlink, None, Host(None, None, None))
