"""The paper's closed-form bound of expert-parallel decoding."""

from __future__ import annotations

import pytest
from builders import spreads

import costmodel
from costmodel.analytic.grid import evaluate_point


def metrics(workload: costmodel.Workload) -> dict[str, float]:
    found = workload.evaluate("decode_ep_bound").metrics
    return {name: float(value) for name, value in found.items() if value is not None}


def test_v3_on_400g_infiniband_is_bound_as_published(v3: costmodel.Workload) -> None:
    found = metrics(v3)
    assert found["all_to_all_time"] == pytest.approx(120.96e-6, rel=1e-12)
    assert found["layer_time"] == pytest.approx(241.92e-6, rel=1e-12)
    assert found["tpot"] == pytest.approx(14.757e-3, abs=5e-7)
    assert found["tokens_per_second_per_user"] == pytest.approx(67.76, abs=0.005)


def test_on_gb200_nvl72_nvlink_binds() -> None:
    rack = costmodel.load("deepseek_v3", cluster="nodes/gb200-nvl72", scenarios=["decode_ep_bound"])
    found = metrics(rack)
    assert found["all_to_all_time"] == pytest.approx(6.72e-6, rel=1e-12)
    assert found["tpot"] == pytest.approx(0.81984e-3, rel=1e-12)


def test_the_bound_is_exact_and_has_no_ledger(v3: costmodel.Workload) -> None:
    point = v3.evaluate("decode_ep_bound").point()
    assert point.memory is None
    assert point.fits
    assert point.bound == "network"
    assert all(pair == (point.metrics[name], point.metrics[name]) for name, pair in point.intervals.items())
    assert [entry.time for entry in point.breakdown] == [point.metrics["tpot"]]


def test_the_bound_halves_with_twice_the_bandwidth(v3: costmodel.Workload) -> None:
    doubled = costmodel.load(
        "deepseek_v3", set={"hardware.node.nic.bandwidth": "800 Gbit/s"}, scenarios=["decode_ep_bound"]
    )
    assert metrics(doubled)["tpot"] == pytest.approx(metrics(v3)["tpot"] / 2)


def test_a_bound_does_not_depend_on_the_calibration(v3: costmodel.Workload) -> None:
    chosen = v3.scenario("decode_ep_bound")
    assert (
        evaluate_point(chosen, spreads(0.1, 2.0, 9.0)).metrics == evaluate_point(chosen, spreads(1.0, 1.0, 1.0)).metrics
    )
