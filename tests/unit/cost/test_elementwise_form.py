"""Element-wise kernels from a fitted form: launch, one row's own time, and the stream of all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import FRAMEWORK

from costmodel.cost.elementwise import ElementwiseForm, SerialRows
from costmodel.cost.time import Machine
from costmodel.records import replace
from costmodel.schema.files import load_device
from costmodel.workload.operators import Elementwise

DEVICE = load_device("h800-sxm")
MACHINE = Machine(DEVICE, FRAMEWORK, DEVICE.processors)
CLOCK = DEVICE.math["fp32"].clock
BANDWIDTH = DEVICE.device_memory.bandwidth or 0.0
FORM = ElementwiseForm(
    launch=2e-6, hbm_efficiency=0.8, l2_efficiency=1.6, l2_share=0.5, cta_load_rate=6.0, row_cycles=500.0
)


def seconds(traffic: Any, rows: Any, form: ElementwiseForm = FORM) -> Any:
    return form.time(Elementwise("norm", traffic, rows=rows), MACHINE).seconds


def test_one_long_row_takes_its_block_as_long_as_it_loads() -> None:
    assert seconds(3e5, 1.0) == pytest.approx(2e-6 + 3e5 / 6.0 / CLOCK, rel=1e-3)


def test_many_rows_stream_and_each_costs_its_processor_something() -> None:
    traffic, rows, kept = 1e10, 1e6, 0.5 * 50 * 2**20
    streamed = (kept / 1.6 + (traffic - kept) / 0.8) / BANDWIDTH
    assert seconds(traffic, rows) == pytest.approx(2e-6 + streamed + rows * 500.0 / 132 / CLOCK, rel=1e-6)


def test_a_kernel_that_does_not_state_its_rows_only_streams() -> None:
    assert seconds(1e6, 0.0) == pytest.approx(2e-6 + 1e6 / (1.6 * BANDWIDTH), rel=1e-9)


def test_an_array_takes_what_each_takes() -> None:
    traffic, rows = np.array([1e4, 1e6, 1e9]), np.array([0.0, 1.0, 4096.0])
    each = [seconds(float(one), float(count)) for one, count in zip(traffic, rows, strict=True)]
    assert seconds(traffic, rows) == pytest.approx(each, rel=1e-12)


def test_better_memory_and_more_processors_are_never_slower() -> None:
    norm = Elementwise("norm", 1e8, rows=1e4)
    before = FORM.time(norm, MACHINE).seconds
    faster = replace(DEVICE, memory=(*DEVICE.memory[:-1], replace(DEVICE.memory[-1], bandwidth=2 * BANDWIDTH)))
    assert FORM.time(norm, replace(MACHINE, device=faster)).seconds < before
    assert FORM.time(norm, replace(MACHINE, processors=264)).seconds < before


def test_a_few_rows_are_looked_up_one_after_the_other() -> None:
    form = replace(FORM, serial_rows=SerialRows(serial_row=6e-7))
    few, more = np.array([1.0, 8.0, 16.0]), np.array([17.0, 4096.0])
    assert seconds(few * 8192, few, form) - seconds(few * 8192, few) == pytest.approx(6e-7 * few, rel=1e-6)
    assert seconds(more * 8192, more, form) == pytest.approx(seconds(more * 8192, more), rel=1e-12)
    assert seconds(1e6, 0.0, form) == seconds(1e6, 0.0)


@pytest.mark.parametrize(
    ("traffic", "rows", "expected"),
    [(2.0**20, 0.0, (0.0, 20.0)), (2.0**20, 16.0, (4.0, 16.0)), (0.0, 1.0, (0.0, 0.0))],
)
def test_a_shape_is_its_rows_and_the_bytes_of_one_and_all_is_one_row_where_none_are_stated(
    traffic: float, rows: float, expected: tuple[float, float]
) -> None:
    assert FORM.features(Elementwise("norm", traffic, rows=rows)) == expected
