"""Whose kernels make the intervals of workloads wide."""

from __future__ import annotations

import math

import pytest

import costmodel
from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.intervals import deviations
from costmodel.study.time_sensitivity import half_widths_by_family


def test_the_families_of_a_pass_together_make_the_interval_that_its_kernels_have() -> None:
    workload = costmodel.load("llama2_70b_a100", scenarios=["prefill"])
    halves = half_widths_by_family([workload])
    scenario = workload.scenario("prefill")
    evaluation = evaluate(scenario, workload.calibration(scenario))
    _, down, up = deviations(evaluation.metrics(None), evaluation.families(), evaluation.metrics)["ttft"]
    assert set(halves) == set(evaluation.families())
    assert math.hypot(*halves.values()) == pytest.approx((down + up) / 2.0, rel=0.1)
    assert max(halves, key=lambda name: halves[name]) == "gemm"


def test_of_several_workloads_a_family_has_the_largest() -> None:
    one, other = (costmodel.load("deepseek_v3", scenarios=[name]) for name in ("prefill", "decode"))
    both, parts = half_widths_by_family([one, other]), [half_widths_by_family([each]) for each in (one, other)]
    assert both == {name: max(part.get(name, 0.0) for part in parts) for name in both}
    assert half_widths_by_family([]) == {}
