"""Axes of a sweep: what `--vary` may say, and what it is told where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import costmodel
from costmodel.declared import Measure, Positive, Whole
from costmodel.errors import InputError
from costmodel.study.axes import MOST_VALUES, Axis, read_axis, read_requests

BANDWIDTH, COUNT = Measure("bandwidth"), Whole(1)
NVLINK, BATCH = "hardware.links.nvlink.bandwidth", "scenarios.decode.batch_per_device"


def axis(values: str, number: Measure | Positive | Whole = BANDWIDTH) -> Axis:
    return read_axis(read_requests((f"a.b={values}",))[0], number)


def test_a_list_keeps_its_order_and_every_value_has_its_unit() -> None:
    found = axis("400GB/s, 200 GB/s,{bidirectional: 100 GB/s}", Measure("bandwidth", two_way=True))
    assert found.plain() == [4e11, 2e11, 5e10]
    assert (found.path, found.dimension, found.unit, found.whole) == ("a.b", "bandwidth", "B/s", False)


def test_a_range_has_equal_steps_and_both_ends() -> None:
    assert axis("200GB/s..900GB/s:8").plain() == [2e11, 3e11, 4e11, 5e11, 6e11, 7e11, 8e11, 9e11]
    assert axis("900GB/s..200GB/s:2").plain() == [9e11, 2e11]


def test_a_logarithmic_range_has_equal_ratios_and_counts_stay_whole() -> None:
    found = axis("1..256:9:log", COUNT).plain()
    assert found == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert all(isinstance(value, int) for value in found)


def test_counts_that_round_to_the_same_number_stand_once() -> None:
    assert axis("1..4:50", COUNT).plain() == [1, 2, 3, 4]
    assert axis("1..8:8:log", COUNT).plain() == [1, 2, 3, 4, 6, 8]


def test_what_may_be_a_part_of_one_is_whole_between_whole_numbers_only() -> None:
    found = axis("1..100:5", Positive())
    assert found.plain() == [1, 26, 50, 75, 100]
    assert found.whole
    assert axis("0.125..0.5:4", Positive()).plain() == [0.125, 0.25, 0.375, 0.5]
    assert not axis("0.125,1", Positive()).whole


def test_values_and_ranges_may_be_mixed() -> None:
    assert axis("3,10..30:3,64", COUNT).plain() == [3, 10, 20, 30, 64]


def test_a_value_inside_a_range_is_as_short_as_a_person_would_write_it() -> None:
    assert axis("0us..5us:6", Measure("time", zero=True)).plain() == [0.0, 1e-6, 2e-6, 3e-6, 4e-6, 5e-6]


@given(low=st.floats(1e6, 1e12), span=st.floats(1.01, 1e4), count=st.integers(2, 60), log=st.booleans())
def test_a_range_runs_from_end_to_end_in_even_steps(low: float, span: float, count: int, log: bool) -> None:
    low = float(f"{low:.6g}")
    high = float(f"{low * span:.6g}")
    values = axis(f"{low!r} B/s..{high!r} B/s:{count}" + (":log" if log else "")).values
    assert (values[0], values[-1], len(values)) == (low, high, count)
    steps = np.diff(np.log(values) if log else values)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6, atol=1e-9 if log else 1e-9 * high)
    assert np.all(steps > 0)


@given(low=st.integers(1, 10_000), more=st.integers(1, 10_000), count=st.integers(2, 300), log=st.booleans())
def test_a_range_of_counts_holds_whole_numbers_once_each(low: int, more: int, count: int, log: bool) -> None:
    values = axis(f"{low}..{low + more}:{count}" + (":log" if log else ""), COUNT).plain()
    assert (values[0], values[-1]) == (low, low + more)
    assert values == sorted(set(values))
    assert all(isinstance(value, int) for value in values)
    assert len(values) <= min(count, more + 1)


@pytest.mark.parametrize(
    ("values", "number", "told"),
    [
        ("", BANDWIDTH, "has no values"),
        ("200GB/s,,400GB/s", BANDWIDTH, "has an empty value"),
        ("200GB/s,200 GB/s", BANDWIDTH, "holds 200 GB/s twice"),
        ("200Gb/s,400GB/s", BANDWIDTH, 'write "200 Gbit/s" or "25 GB/s"'),
        ("200..900GB/s:8", BANDWIDTH, "200 has no unit"),
        ("nan GB/s", BANDWIDTH, "is not a finite number"),
        (".nan", COUNT, "is not a finite number"),
        ("-1", COUNT, "too small"),
        ("1.5", COUNT, "not a whole number"),
        ("many", COUNT, "must be a whole number"),
        ("1..8", COUNT, "does not say how many values; write 1..8:8"),
        ("1..8:0", COUNT, "'0' is no number of values"),
        ("1..8:1", COUNT, "'1' is no number of values"),
        ("1..8:-3", COUNT, "'-3' is no number of values"),
        ("1..8:two", COUNT, "'two' is no number of values"),
        ("1..8:3:cubic", COUNT, "'cubic' is no spacing"),
        ("8..8:3", COUNT, "begins where it ends; write 8"),
        ("0..8:3:log", Whole(0), "has no logarithm"),
        ("1..", COUNT, "is no range; write LOW..HIGH:COUNT"),
        (f"1..9:{MOST_VALUES + 1}", COUNT, "100,000 are the most"),
        (f"1..9:{'9' * 5000}", COUNT, "is no number of values"),
        ("[1, 2", COUNT, "--vary a.b=[1, 2"),
    ],
)
def test_what_cannot_be_an_axis_is_told_with_place_and_fix(values: str, number: Measure | Whole, told: str) -> None:
    with pytest.raises(InputError) as caught:
        axis(values, number)
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"--vary a.b={values[:40]}")
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "nothing varies; add --vary"),
        (("hardware.processors",), "is not PATH=VALUES"),
        (("=1,2",), "is not PATH=VALUES"),
        (("a.b=1", "a.b=2"), "is varied twice"),
    ],
)
def test_arguments_that_are_no_axes_are_told(arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_requests(arguments)


@pytest.mark.parametrize(
    ("path", "dimension"),
    [
        (NVLINK, "bandwidth"),
        ("hardware.memory.hbm.capacity", "size"),
        ("hardware.clock", "frequency"),
        ("hardware.math.fp8.peak", "flop_rate"),
        ("hardware.node.nic.latency", "time"),
        ("hardware.network.latency.cross_leaf", "time"),
        ("hardware.price.rental", "money_rate"),
        ("scenarios.training.communication.expert_load", "ratio"),
        ("scenarios.training.framework.launch", "time"),
        ("model.layers.1.ffn.experts", "count"),
        ("model.layers.1.mixer.kv_lora", "count"),
        (BATCH, "count"),
    ],
)
def test_a_path_s_field_says_what_its_values_are(v3: costmodel.Workload, path: str, dimension: str) -> None:
    number = v3.resolved.number(path)
    assert (number.dimension if isinstance(number, Measure) else "count") == dimension


@pytest.mark.parametrize(
    "path",
    [
        "scenarios.training.schedule", "scenarios.training.precision", "scenarios.training.stages",
        "scenarios.training.optimizer.zero", "scenarios.decode.micro_batches", "hardware.node.intra",
        "hardware.math.fp8.accumulate", "model.layers.1.repeat", "model", "scenarios.training.parallel",
    ],
)  # fmt: skip
def test_structure_is_an_axis_of_names(v3: costmodel.Workload, path: str) -> None:
    request = read_requests((f"{path}=one, two",))[0]
    axis = read_axis(request, v3.resolved.number(path) if path != "model" else None)
    assert (axis.texts, axis.unit) == (("one", "two"), None)
    with pytest.raises(InputError, match="holds a value twice"):
        read_axis(read_requests((f"{path}=one,one",))[0], None)
