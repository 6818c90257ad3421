"""The least time of a kernel by hand: its work at the highest clock, the bytes that no cache can hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import DEVICE, MACHINE

from costmodel.cost.physical_bound import floor_factor, least_time
from costmodel.workload.operators import Elementwise, Gemm

GEMM = Gemm("product", m=4096.0, n=4096.0, k=8192.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)


def test_a_product_takes_its_flop_over_the_peak() -> None:
    """2 * 4096 * 4096 * 8192 FLOP at 10,000 a cycle, 1 GHz and 100 processors: 275 us; its weights 34 us."""
    assert least_time(GEMM, MACHINE) == pytest.approx(2 * 4096 * 4096 * 8192 / 1e15)


def test_a_boosting_clock_and_half_the_processors_count() -> None:
    boosted = replace(MACHINE, device=replace(DEVICE, clock_max=2e9), processors=50.0)
    assert least_time(GEMM, boosted) == pytest.approx(2 * 4096 * 4096 * 8192 / 1e15)


def test_a_thin_product_takes_its_weights_over_the_bandwidth() -> None:
    thin = replace(GEMM, m=1.0)
    assert least_time(thin, MACHINE) == pytest.approx(4096 * 8192 * 2 / 2e12)


def test_what_l2_may_hold_needs_no_memory() -> None:
    """Of 250 MB that an element-wise kernel moves, 50 MB of L2 may be there before."""
    assert least_time(Elementwise("sum", 250e6), MACHINE) == pytest.approx(200e6 / 2e12)
    assert least_time(Elementwise("sum", 40e6), MACHINE) == 0.0


def test_a_time_below_the_least_is_raised_to_it() -> None:
    assert floor_factor(1.0, 3.0) == 3.0
    assert floor_factor(3.0, 1.0) == 1.0
