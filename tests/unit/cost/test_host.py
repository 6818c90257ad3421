"""Copies between a device and its host, and what the host streams through its own memory."""

from __future__ import annotations

import numpy as np
import pytest
from builders import CLUSTER, DEVICE, FRAMEWORK, MACHINE, with_device

from costmodel.cost.calibration import ROOFLINE, FamilyFit
from costmodel.cost.operator_time import operator_time
from costmodel.errors import InfeasibleError
from costmodel.hardware import Cluster, Host
from costmodel.quantities import Quantity
from costmodel.records import replace
from costmodel.workload.operators import HostTransfer, HostUpdate, Operator


def hosted(bandwidth: Quantity | None) -> Cluster:
    """Return a cluster whose nodes of eight have a host of that memory bandwidth; its links give 25 GB/s."""
    return replace(CLUSTER, node=replace(CLUSTER.node, host=Host(1e12, bandwidth, 2.0)))


def seconds(operator: Operator, cluster: Cluster, fit: FamilyFit = ROOFLINE) -> Quantity:
    return operator_time(operator, MACHINE, cluster, fit).seconds


def test_a_copy_takes_its_bytes_over_the_link_a_launch_and_the_link_s_latency() -> None:
    copied = seconds(HostTransfer("copy", 25e6, "out", 8.0), hosted(400e9))
    assert copied == pytest.approx(1e-3 + 2e-6 + FRAMEWORK.launch)
    slow = seconds(HostTransfer("copy", 25e6, "out", 8.0), hosted(400e9), FamilyFit(network_efficiency=0.5))
    assert slow == pytest.approx(2e-3 + 2e-6 + FRAMEWORK.launch)


def test_devices_of_a_node_share_their_host_s_memory() -> None:
    """Eight devices at 100 GB/s of host memory have 12.5 GB/s each, four have 25, and a lone one has its link."""
    times = [seconds(HostTransfer("copy", 25e9, "in", devices), hosted(100e9)) for devices in (1.0, 4.0, 8.0, 64.0)]
    assert times == pytest.approx([1, 1, 2, 2], rel=1e-4)
    updates = [seconds(HostUpdate("update", 25e9, devices), hosted(100e9)) for devices in (1.0, 4.0, 8.0, 64.0)]
    assert updates == pytest.approx([0.25, 1, 2, 2])


def test_nothing_copied_takes_no_time() -> None:
    times = seconds(HostTransfer("copy", np.array([0.0, 25e9]), "in", 1.0), hosted(400e9))
    assert np.asarray(times) == pytest.approx([0, 1], rel=1e-4)


def test_a_host_bandwidth_that_nobody_states_bounds_no_copy_but_forbids_an_update() -> None:
    assert seconds(HostTransfer("copy", 25e9, "in", 8.0), hosted(None)) == pytest.approx(1, rel=1e-4)
    with pytest.raises(InfeasibleError, match="does not state its host's memory bandwidth"):
        seconds(HostUpdate("update", 1.0, 8.0), hosted(None))


def test_a_device_without_a_link_to_its_host_copies_nothing() -> None:
    lone = with_device(CLUSTER, replace(DEVICE, links={"nvlink": DEVICE.links["nvlink"]}))
    with pytest.raises(InfeasibleError, match="no link 'pcie'"):
        seconds(HostTransfer("copy", 1.0, "in", 8.0), lone)
