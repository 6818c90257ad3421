"""How little is known of kernels that nobody has measured, which decides what the harness times first."""

from __future__ import annotations

import pytest
from synthetic import stream_table

from costmodel.calibration.unmeasured_width import UNKNOWN, device_names, half_widths
from costmodel.fitting.calibrate import calibrate


@pytest.fixture
def fitted(world):
    """Return the root with the gated activations of the chip fitted."""
    calibrate([stream_table(world, "t.csv", rows=60)], "chip", world / "hardware/calibrations/chip/t.yaml", [world])
    return world


def test_widths_are_those_of_the_interval_where_a_fit_stands_behind_it(fitted):
    stream = {"op": "elementwise", "sub_op": "silu_and_mul", "device": "CHIP", "dtype_in": "bf16"}
    rows = [
        stream | {"m": "4096", "n": "2048"},
        {"op": "bmm", "device": "CHIP", "dtype_in": "bf16", "batch": "4", "m": "64", "n": "64", "k": "64"},
        {"op": "launch", "device": "CHIP", "dtype_in": "bf16"},
        stream | {"m": "4096", "n": "2048", "device": "NOBODY"},
    ]
    widths = half_widths(rows, [fitted])
    assert 0.0 < widths[0] < 0.2
    assert widths[1] >= UNKNOWN  # how others' products scatter about their roofline says little of these
    assert widths[2:].tolist() == [UNKNOWN, UNKNOWN]


def test_widths_count_by_what_their_families_make_of_a_workload(fitted):
    stream = {"op": "elementwise", "sub_op": "silu_and_mul", "device": "CHIP", "dtype_in": "bf16", "m": "64", "n": "64"}
    product = {"op": "gemm", "device": "CHIP", "dtype_in": "bf16", "m": "64", "n": "64", "k": "64"}
    rows = [stream, product, product | {"op": "bmm", "batch": "4"}]
    plain, counted = half_widths(rows, [fitted]), half_widths(rows, [fitted], {"elementwise": 0.05, "gemm": 0.2})
    assert counted.tolist() == [plain[0] / 4.0, plain[1], 0.0]


def test_nothing_has_no_widths(world):
    assert half_widths([], [world]).shape == (0,)


def test_a_device_is_found_by_its_product(world):
    names = device_names([world])
    assert (names("CHIP"), names("chip"), names("NVIDIA H100 80GB HBM3")) == ("chip", "chip", "h100-sxm")
    assert names("Some GPU") is None
