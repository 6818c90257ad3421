"""Twice the sequences are twice the work of every operator, and a world whose clocks run faster is the same, sooner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from builders import (
    CLUSTER,
    DECODE,
    DENSE_MODEL,
    FRAMEWORK,
    GENERATE,
    MOE_MODEL,
    PREFILL,
    SERVING,
    STEP,
    context,
    scenario,
)  # fmt: skip

from costmodel.analytic.grid import evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Quantity
from costmodel.records import Record, fields, replace
from costmodel.schema.files import list_names, load_model
from costmodel.workload.architecture import Architecture
from costmodel.workload.layers import model_work
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise
from costmodel.workload.plans import Sharding, Training
from costmodel.workload.scenario import Parallelism, Plan

MODELS = [name for name in list_names("models") if load_model(name).denoiser is None]
RATES = {"clock", "clock_max", "bandwidth", "rental", "tdp", "idle", "interconnect", "switches"}
TIMES = {"latency", "latency_same_leaf", "latency_cross_leaf", "reconfiguration", "launch"}
LAYOUT = Parallelism(tp=2.0, pp=2.0, dp=2.0)


def sizes(name: str, phase: str, sequences: float) -> dict[str, float]:
    """Return FLOP and bytes of the operators of every layer, sizes of its messages and of what it keeps."""
    new = 1.0 if phase == "decode" else 256.0
    split = Parallelism(tp=1.0)
    work = model_work(context(load_model(name), split, phase=phase, sequences=sequences, new_tokens=new, kv_len=256.0))
    found: dict[str, Quantity] = {}
    for number, layer in enumerate(work.layers):
        for at, each in enumerate(layer.operators):
            place = f"{number} {at} {each.name}"
            found[f"{place} flop"] = getattr(each, "flop", 0.0)
            if isinstance(each, Elementwise | AttentionKernel):
                found[f"{place} traffic"] = each.traffic
            elif isinstance(each, Collective):
                found[f"{place} size"] = each.size
        found |= {f"{number} {at} {each.name} kept": each.size for at, each in enumerate(layer.saved)}
        found[f"{number} working"] = layer.working_bytes
    return {place: float(np.sum(each)) for place, each in found.items()}


@pytest.mark.parametrize("phase", ["prefill", "decode", "training"])
def test_twice_the_sequences_are_twice_the_work_of_every_operator(phase: str) -> None:
    for name in MODELS:
        once, twice = (sizes(name, phase, sequences) for sequences in (8.0, 16.0))
        assert twice == pytest.approx({place: 2.0 * size for place, size in once.items()}), name


def scaled(value: Any, factors: Mapping[str, float]) -> Any:
    """Return hardware or a framework with fields of some names, wherever they stand, larger by a factor."""
    if isinstance(value, Record):
        own = {name: getattr(value, name) for name in fields(value)}
        return replace(value, **{
            name: each * factors[name] if isinstance(each, float) and name in factors else scaled(each, factors)
            for name, each in own.items()
        })  # fmt: skip
    if isinstance(value, Mapping):
        return {key: scaled(each, factors) for key, each in value.items()}
    return tuple(scaled(each, factors) for each in value) if isinstance(value, tuple) else value


def sooner(value: Any, factor: float) -> Any:
    """Return hardware or a framework in a world whose clocks all run faster: rates grow, and times shrink."""
    return scaled(value, dict.fromkeys(RATES, factor) | dict.fromkeys(TIMES, 1.0 / factor))


def power(metric: str) -> float:
    """Return the power of the factor by which a metric grows in a faster world."""
    if metric.endswith("_time") or metric in ("ttft", "tpot", "latency", "device_hours_per_trillion_tokens"):
        return -1.0
    return 1.0 if "tokens_per_" in metric or "requests_per_" in metric or metric.endswith("_rate") else 0.0


PLANS = [
    STEP, replace(STEP, zero=3, sharding=Sharding(overlap=True)), replace(STEP, recompute=frozenset({"layer"})),
    PREFILL, DECODE, GENERATE, SERVING, replace(SERVING, concurrency=None, rate=20.0),
]  # fmt: skip


@pytest.mark.parametrize("architecture", [DENSE_MODEL, MOE_MODEL], ids=["dense", "experts"])
@pytest.mark.parametrize("plan", PLANS, ids=range(len(PLANS)))
def test_in_a_faster_world_every_time_is_shorter_by_the_same_factor(plan: Plan, architecture: Architecture) -> None:
    layout = replace(LAYOUT, pp=1.0) if isinstance(plan, Training) and plan.zero == 3 else LAYOUT
    rate = getattr(plan, "rate", None)
    own, fast = (
        evaluate_point(
            scenario(
                plan if rate is None else replace(plan, rate=rate * by), architecture, layout,
                cluster=sooner(CLUSTER, by), framework=sooner(FRAMEWORK, by),
            ),
            Calibration(),
        )
        for by in (1.0, 4.0)
    )  # fmt: skip
    assert own.fits
    for name, value in own.metrics.items():
        if value is not None:
            assert fast.metrics[name] == pytest.approx(value * 4.0 ** power(name)), name
    assert [each.time for each in fast.breakdown] == pytest.approx([each.time / 4.0 for each in own.breakdown])
    assert fast.memory == own.memory
    totals = {each.bound: 0.0 for each in own.breakdown}
    for each in own.breakdown:
        totals[each.bound] += each.time
    assert totals[own.bound] == max(totals.values())


@pytest.mark.parametrize(("field", "metric"), [("rental", "cost_"), ("tdp", "energy_")])
def test_costs_go_with_the_rent_and_energies_with_the_power_and_nothing_else_does(field: str, metric: str) -> None:
    for plan in PLANS:
        layout = replace(LAYOUT, pp=1.0) if isinstance(plan, Training) and plan.zero == 3 else LAYOUT
        one, three = (
            evaluate_point(scenario(plan, MOE_MODEL, layout, cluster=scaled(CLUSTER, {field: by})), Calibration())
            for by in (1.0, 3.0)
        )
        for name, value in one.metrics.items():
            if value is not None:
                assert three.metrics[name] == pytest.approx(value * (3.0 if name.startswith(metric) else 1.0)), name
