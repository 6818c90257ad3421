"""Better hardware is never slower, in any phase, at a point and on an axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from builders import spreads, with_device, with_level
from hypothesis import given
from hypothesis import strategies as st
from strategies import few, scenarios

from costmodel.analytic.grid import evaluate_grid, evaluate_point, evaluate_single
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Cluster, Device, Link
from costmodel.quantities import Quantity
from costmodel.records import replace
from costmodel.workload.scenario import Scenario

FACTORS = np.array([1.0, 1.001, 1.1, 1.3, 2.0, 7.0, 100.0])


def of_device(change: Callable[[Device, Quantity], Device]) -> Callable[[Cluster, Quantity], Cluster]:
    return lambda cluster, factor: with_device(cluster, change(cluster.device, factor))


def _level(name: str) -> Callable[[Device, Quantity], Device]:
    def change(device: Device, factor: Quantity) -> Device:
        level = device.level(name)
        assert level is not None
        return device if level.bandwidth is None else with_level(device, name, level.bandwidth * factor)

    return change


def _peak(dtype: str) -> Callable[[Device, Quantity], Device]:
    def change(device: Device, factor: Quantity) -> Device:
        unit = device.math[dtype]
        return replace(device, math={**device.math, dtype: replace(unit, flop_per_cycle=unit.flop_per_cycle * factor)})

    return change


def _processors(device: Device, factor: Quantity) -> Device:
    return replace(device, processors=device.processors * factor)


def _clock(device: Device, factor: Quantity) -> Device:
    math = {name: replace(unit, clock=unit.clock * factor) for name, unit in device.math.items()}
    return replace(device, clock=device.clock * factor, clock_max=device.clock_max * factor, math=math)


def _link(device: Device, factor: Quantity) -> Device:
    link = device.links["nvlink"]
    return _with_link(device, Link("nvlink", link.bandwidth * factor, link.latency))


def _quick_link(device: Device, factor: Quantity) -> Device:
    link = device.links["nvlink"]
    return _with_link(device, Link("nvlink", link.bandwidth, None if link.latency is None else link.latency / factor))


def _host_link(device: Device, factor: Quantity) -> Device:
    link = device.links["pcie"]
    return _with_link(device, Link("pcie", link.bandwidth * factor, link.latency))


def _with_link(device: Device, link: Link) -> Device:
    return replace(device, links={**device.links, link.name: link})


def _host_memory(cluster: Cluster, factor: Quantity) -> Cluster:
    host = cluster.node.host
    assert host.bandwidth is not None
    return replace(cluster, node=replace(cluster.node, host=replace(host, bandwidth=host.bandwidth * factor)))


def _nic_bandwidth(cluster: Cluster, factor: Quantity) -> Cluster:
    nic = cluster.node.nic
    assert nic is not None
    return replace(cluster, node=replace(cluster.node, nic=replace(nic, bandwidth=nic.bandwidth * factor)))


def _nics(cluster: Cluster, factor: Quantity) -> Cluster:
    nic = cluster.node.nic
    assert nic is not None
    return replace(cluster, node=replace(cluster.node, nic=replace(nic, per_device=nic.per_device * factor)))


def _ports(cluster: Cluster, factor: Quantity) -> Cluster:
    network = cluster.network
    if network is None or network.bandwidth is None:
        return cluster
    return replace(cluster, network=replace(network, bandwidth=network.bandwidth * factor))


BETTER: dict[str, Callable[[Cluster, Quantity], Cluster]] = {
    "L2 bandwidth": of_device(_level("l2")),
    "memory bandwidth": of_device(_level("hbm")),
    "bf16 peak": of_device(_peak("bf16")),
    "fp8 peak": of_device(_peak("fp8")),
    "CUDA-core peak": of_device(_peak("fp32")),
    "processors": of_device(_processors),
    "clock": of_device(_clock),
    "link bandwidth": of_device(_link),
    "link latency": of_device(_quick_link),
    "host link": of_device(_host_link),
    "host memory": _host_memory,
    "NIC bandwidth": _nic_bandwidth,
    "NICs": _nics,
    "port bandwidth": _ports,
}


def headline(of: Scenario) -> float:
    value = next(iter(evaluate_single(of, Calibration()).metrics.values()))
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize("what", list(BETTER))
@few
@given(of=scenarios(), at=st.integers(1, len(FACTORS) - 1))
def test_better_hardware_is_never_slower(what: str, of: Scenario, at: int) -> None:
    """Along an axis; and a point by itself is that of the axis."""
    result = evaluate_grid(replace(of, cluster=BETTER[what](of.cluster, FACTORS)), Calibration(), FACTORS.shape)
    times = np.asarray(next(iter(result.metrics.values())))
    assert np.all(np.diff(times) <= 1e-12 * times[:-1])
    better = replace(of, cluster=BETTER[what](of.cluster, float(FACTORS[at])))
    assert headline(better) == pytest.approx(times[at], rel=1e-9)


@few
@given(of=scenarios())
def test_all_better_together_is_faster(of: Scenario) -> None:
    cluster = of.cluster
    for change in BETTER.values():
        cluster = change(cluster, 2.0)
    assert headline(replace(of, cluster=cluster)) < headline(of)


@few
@given(of=scenarios(), factor=st.sampled_from([1.1, 3.0]))
def test_the_high_end_of_an_interval_falls_with_more_bandwidth(of: Scenario, factor: float) -> None:
    """At one spread for all times the high end of an interval falls with more bandwidth, as the point does."""
    better = replace(of, cluster=BETTER["memory bandwidth"](of.cluster, factor))
    highs = []
    for each in (of, better):
        point = evaluate_point(each, spreads(0.9, 1.2, 2.0))
        pair = point.intervals[point.headline]
        assert pair is not None
        highs.append(pair[1])
    assert highs[1] <= highs[0] * (1 + 1e-3)
