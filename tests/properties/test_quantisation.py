"""Fewer bits are never slower and never take more memory; a product takes at least what its bytes take."""

from __future__ import annotations

import numpy as np
import pytest
from builders import MACHINE
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import few, rates, served

from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.grid import evaluate_grid, evaluate_single
from costmodel.cost.calibration import ROOFLINE, Calibration
from costmodel.cost.kernels import gemm_time
from costmodel.quantities import Array, Quantity
from costmodel.records import replace
from costmodel.workload.dtypes import GroupScaling
from costmodel.workload.operators import Gemm
from costmodel.workload.scenario import Precision, Scenario

BITS = np.array([16.0, 8.5, 8.0, 6.0, 4.5, 4.0, 2.5])


def headline(of: Scenario) -> float:
    value = next(iter(evaluate_single(of, Calibration()).metrics.values()))
    assert isinstance(value, float)
    return value


def held(of: Scenario) -> float:
    ledger = ledger_of(of)
    assert ledger is not None
    return float(ledger.total)


@few
@given(of=served())
def test_fewer_bits_a_weight_are_never_slower_and_never_larger(of: Scenario) -> None:
    narrow = replace(of.precision, weights="int4", weight_bits=BITS)
    result = evaluate_grid(replace(of, precision=narrow), Calibration(), BITS.shape)
    times = np.asarray(next(iter(result.metrics.values())))
    assert np.all(np.diff(times) <= 1e-12 * times[:-1])
    ledger = ledger_of(replace(of, precision=narrow))
    assert ledger is not None
    assert np.all(np.diff(np.broadcast_to(ledger.total, BITS.shape)) <= 0)


@few
@given(of=served())
def test_expanding_weights_in_the_tiles_of_plain_products_is_never_slower(of: Scenario) -> None:
    same = replace(of, framework=replace(of.framework, weight_only_tiles=()))
    plain = replace(same, precision=replace(of.precision, weights=of.precision.linear, weight_scaling=GroupScaling()))
    four = replace(same, precision=replace(of.precision, weights="int4", weight_scaling=GroupScaling()))
    assert headline(four) <= headline(plain) * (1 + 1e-12)


@few
@given(of=served(), formats=st.sampled_from([("bf16", "fp8"), ("fp8", "int4"), ("bf16", "int8")]))
def test_a_narrower_cache_is_never_slower_and_never_larger(of: Scenario, formats: tuple[str, str]) -> None:
    scaling = replace(of.precision.kv_scaling, group=64.0)
    wide, narrow = (replace(of, precision=replace(of.precision, kv_cache=each, kv_scaling=scaling)) for each in formats)
    assert headline(narrow) <= headline(wide) * (1 + 1e-12)
    assert held(narrow) <= held(wide)


@given(
    m=st.integers(1, 4096), n=st.integers(64, 30_000), k=st.integers(64, 20_000), bits=rates(2, 16),
    groups=st.integers(1, 8),
)  # fmt: skip
def test_a_product_takes_at_least_its_bytes_over_the_bandwidth(
    m: int, n: int, k: int, bits: float, groups: int
) -> None:
    gemm = Gemm(
        "product",
        m=float(m),
        n=float(n),
        k=float(k),
        dtype="bf16",
        a_bytes=2.0,
        b_bytes=bits / 8,
        out_bytes=2.0,
        groups=float(groups),
        family="gemm_weight_only",
    )
    time = gemm_time(gemm, MACHINE, ROOFLINE)
    assert time.seconds >= gemm.groups * n * k * bits / 8 / 2e12
    assert time.seconds >= gemm.traffic / MACHINE.hbm_bandwidth
    assert time.seconds >= gemm.flop / MACHINE.device.peak("bf16")


def varied(precision: Precision, field: str, value: Quantity) -> Precision:
    """Return formats with the bits of a weight, or the elements that share a scale, set."""
    if field == "weight_bits":
        return replace(precision, weight_bits=value)
    if field == "weight_group":
        return replace(precision, weight_scaling=replace(precision.weight_scaling, group=value))
    return replace(precision, kv_scaling=replace(precision.kv_scaling, group=value))


@given(field=st.sampled_from(["weight_bits", "weight_group", "kv_group"]), of=served())
@settings(max_examples=settings().max_examples // 2)
def test_a_grid_of_formats_is_its_points(field: str, of: Scenario) -> None:
    values: Array = np.array([3.0, 4.5, 8.0] if field == "weight_bits" else [32.0, 64.0, 128.0])
    base: Precision = replace(of.precision, weights="int4", kv_cache="int8")
    grid = replace(of, precision=varied(base, field, values))
    together = evaluate_grid(grid, Calibration(), values.shape)
    spans = together.intervals
    for at, value in enumerate(values):
        alone = evaluate_single(replace(of, precision=varied(base, field, float(value))), Calibration())
        limits = alone.intervals
        for name, metric in alone.metrics.items():
            found = together.metrics[name]
            if metric is None or found is None:
                continue
            assert np.asarray(found)[at] == pytest.approx(metric, rel=1e-9)
            pair, wanted = spans[name], limits[name]
            assert pair is not None
            assert wanted is not None
            assert [float(np.asarray(end)[at]) for end in pair] == pytest.approx(wanted, rel=1e-9)
