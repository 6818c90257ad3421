"""Rent, purchase and energy: by hand, at their limits, and null with a reason where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
from builders import CLUSTER, DEVICE, MOE_MODEL, NODE, ONE_NODE, PREFILL, STEP, scenario, with_device

import costmodel
from costmodel.analytic.capital import capital, facts, missing
from costmodel.analytic.grid import evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.cost.money import host_cost, purchase_cost, rental_cost
from costmodel.hardware import Cluster, FabricPrice, Host, Power, Price
from costmodel.records import replace
from costmodel.workload.scenario import Parallelism

IDLE = replace(DEVICE, power=Power(500.0, 100.0, busy=400.0, memory=1e-40))
PRICED = replace(DEVICE, price=Price(2.0 / 3600, 20_000.0))


def priced_cluster() -> Cluster:
    """Return 64 nodes of eight with every price: 20,000 $ a device, 8,000 $ a node, a two-level tree."""
    node = replace(NODE, device=PRICED, host=Host(None, None, None, price=8_000.0))
    network = replace(CLUSTER.network, topology="ft2", price=FabricPrice(1_000.0, 10.0, 5.0))
    return replace(CLUSTER, node=node, network=network)


def test_rent_and_purchase_by_hand() -> None:
    assert rental_cost(DEVICE, 8.0, 3600.0) == pytest.approx(16.0)
    assert purchase_cost(PRICED, 8.0) == 160_000.0
    assert host_cost(priced_cluster().node, 4.0) == 4_000.0


def test_what_no_source_states_has_no_cost() -> None:
    unknown = replace(DEVICE, power=Power(None), price=Price(None, None))
    assert rental_cost(unknown, 8.0, 1.0) is None
    assert purchase_cost(unknown, 8.0) is None
    assert host_cost(NODE, 8.0) is None


def test_capital_is_devices_hosts_and_the_share_of_the_fabric() -> None:
    found = capital(priced_cluster(), 16.0)
    # 64-port switches: 2,048 endpoints, 96 switches, 2,048 links; 16 endpoints are used
    fabric = (96 * 1_000.0 + 2_048 * 10.0 + 2_048 * 5.0) * 16 / 2_048
    assert (found.devices, found.hosts, found.network) == (320_000.0, 16_000.0, pytest.approx(fabric))
    assert found.total == pytest.approx(336_000.0 + fabric)


def test_a_single_node_pays_for_no_fabric() -> None:
    assert capital(replace(ONE_NODE, node=priced_cluster().node), 8.0).total == pytest.approx(168_000.0)


def test_capital_over_a_grid_equals_its_points() -> None:
    devices = np.array([8.0, 64.0, 512.0])
    grid = np.asarray(capital(priced_cluster(), devices).total)
    assert grid == pytest.approx([capital(priced_cluster(), each).total for each in devices.tolist()])


def test_every_missing_price_is_named_with_the_field_that_states_it() -> None:
    unknown = replace(DEVICE, power=Power(None), price=Price(None, None))
    why = missing(scenario(cluster=with_device(CLUSTER, unknown)))
    assert "hardware.price.rental" in why["cost_per_million_tokens"]
    assert "hardware.power.tdp" in why["energy_per_token"]
    for field in ("price.purchase", "node.host.price", "network.topology", "network.price"):
        assert f"hardware.{field}" in why["capital_cost"]
    assert missing(scenario(cluster=priced_cluster())) == {}


def test_a_fabric_with_too_few_ports_is_told_with_the_numbers() -> None:
    whole = priced_cluster()
    small = replace(whole, network=replace(whole.network, radix=4.0))
    parallel = Parallelism(dp=64.0)
    assert "8 ports, 64 are needed" in missing(scenario(cluster=small, parallel=parallel))["capital_cost"]
    assert facts(small)["cost"]["network"] is None


def test_facts_of_a_cluster_count_its_fabric_and_add_up() -> None:
    found = facts(priced_cluster())
    parts = {"endpoints": 2_048, "switches": 96, "links": 2_048, "diameter": 2, "cut": 1_024}
    assert found["fabric"] == parts | {"used": 512}
    cost = found["cost"]
    assert cost["total"] == pytest.approx(cost["devices"] + cost["hosts"] + cost["network"])
    assert cost["lacks"] == []


ROOFLINE = Calibration("none", {})


def test_every_null_metric_has_a_reason_and_no_other() -> None:
    for plan in (STEP, PREFILL):
        document = evaluate_point(scenario(plan, MOE_MODEL), ROOFLINE).document()
        null = {name for name, value in document["metrics"].items() if value is None}
        assert null == {"capital_cost"} == set(document["reasons"])


def test_what_cannot_run_says_why_for_every_metric() -> None:
    lone = replace(CLUSTER, node=replace(NODE, nic=None))
    found = evaluate_point(scenario(PREFILL, cluster=lone, parallel=Parallelism(tp=16.0)), ROOFLINE).document()
    assert set(found["reasons"]) == set(found["metrics"])
    assert all("no NIC" in reason and "hardware.node.nic" in reason for reason in found["reasons"].values())


def test_energy_of_a_step_counts_the_time_in_which_no_kernel_runs_at_idle_power() -> None:
    parallel = Parallelism(pp=4.0, dp=1.0)
    busy, lazy = (
        evaluate_point(scenario(STEP, cluster=with_device(CLUSTER, device), parallel=parallel), ROOFLINE).metrics
        for device in (DEVICE, IDLE)
    )
    waiting = busy["bubble_time"] + busy["exposed_communication_time"]
    share = 1 - waiting / busy["step_time"]
    assert 0 < share < 1
    assert lazy["energy_per_token"] / busy["energy_per_token"] == pytest.approx((100 + share * 400) / 500)
    assert lazy["energy_per_trillion_tokens"] == pytest.approx(1e12 * lazy["energy_per_token"])


def test_energy_of_the_flagship_lies_between_idle_and_limit(v3: costmodel.Workload) -> None:
    for name in ("training", "prefill", "decode"):
        metrics = v3.evaluate(name).metrics
        power = v3.resolved.scenarios[name].cluster.device.power
        if name == "training":
            seconds = metrics["step_time"] * 2048 / (15_360 * 4_096)
        else:
            seconds = 1 / metrics["tokens_per_second_per_device"]
        assert power.idle * seconds < metrics["energy_per_token"] < power.tdp * seconds
