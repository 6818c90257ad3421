"""Quantity strings: what is read, what is refused with which fix, and that rendering is undone by parsing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.declared import MOST, SI, Measure, Positive, Whole, Wrong
from costmodel.errors import InputError
from costmodel.units import DIMENSIONS, parse, render, slip, whole


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("3.35 TB/s", "bandwidth", 3.35e12),
        ("400 Gbit/s", "bandwidth", 50e9),
        ("80 GiB", "size", 80 * 2**30),
        ("80 GB", "size", 80e9),
        ("989.4 TFLOP/s", "flop_rate", 989.4e12),
        ("250 GFLOP", "flop", 250e9),
        ("1.3 us", "time", 1.3e-6),
        ("1.3 µs", "time", 1.3e-6),
        ("1.3 μs", "time", 1.3e-6),
        ("2 h", "duration", 7200.0),
        ("2 d", "duration", 172800.0),
        ("10000000 /d", "rate", 1e7 / 86400),
        ("86400 /day", "rate", 1.0),
        ("1830 MHz", "frequency", 1.83e9),
        ("700 W", "power", 700.0),
        ("2 kWh", "energy", 7.2e6),
        ("1599 $", "money", 1599.0),
        ("3.6 $/h", "money_rate", 1e-3),
        ("4 %", "ratio", 0.04),
        ("0.5", "ratio", 0.5),
        ("1.5e3 GB/s", "bandwidth", 1.5e12),
        ("80GiB", "size", 80 * 2**30),
    ],
)
def test_a_quantity_is_read_in_si(text: str, dimension: str, value: float) -> None:
    assert parse(text, dimension) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "dimension", "fixes"),
    [
        ("400 Gb/s", "bandwidth", ["400 Gbit/s", "50 GB/s"]),
        ("400 Gbps", "bandwidth", ["400 Gbit/s", "50 GB/s"]),
        ("50 GBps", "bandwidth", ["50 GB/s"]),
        ("80 gb", "size", ["80 GB", "80 GiB"]),
        ("80 KB", "size", ["80 kB", "80 KiB"]),
        ("989 TFLOPS", "flop_rate", ["989 TFLOP/s"]),
        ("3 S", "time", ["3 s"]),
        ("3", "size", ["3 GiB"]),
        ("1,000 GB", "size", ["1000 GB"]),
        ("2 mhz", "frequency", ["2 MHz"]),
    ],
)
def test_a_misspelt_unit_is_refused_with_the_spelling_that_was_meant(
    text: str, dimension: str, fixes: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, dimension)
    hint = caught.value.problems[0].hint
    assert all(f'"{fix}"' in hint for fix in fixes)


@pytest.mark.parametrize("unit", ["min", "h", "day"])
def test_long_times_fit_durations_only(unit: str) -> None:
    assert parse(f"10 {unit}", "duration") > 0
    with pytest.raises(InputError, match="only s, ms, us, ns and ps fit here"):
        parse(f"10 {unit}", "time")


@pytest.mark.parametrize("text", ["nan s", "inf s", ".inf", "-infinity s", "1e400 s"])
def test_what_is_not_finite_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text, "time")


@pytest.mark.parametrize("text", ["", "fast", "s", "10 GB", "5 m", "0x10 s", "1 2 s", "10 s extra"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text, "time")


def test_a_unit_of_another_dimension_is_named() -> None:
    with pytest.raises(InputError, match="that is a size; write bandwidth as"):
        parse("10 GB", "bandwidth")


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (80 * 2**30, "size", "80 GiB"),
        (70272, "size", "70.272 kB"),
        (50e9, "bandwidth", "50 GB/s"),
        (1e9, "bandwidth", "1 GB/s"),
        (1.3e-6, "time", "1.3 us"),
        (1e-6, "time", "1 us"),
        (0.0, "time", "0 s"),
        (2 / 3600, "money_rate", "2 $/h"),
        (0.04, "ratio", "4 %"),
        (15360, "count", "15360"),
    ],
)
def test_a_value_is_rendered_for_people(value: float, dimension: str, text: str) -> None:
    assert render(value, dimension) == text


@given(st.sampled_from(DIMENSIONS), st.floats(-1e30, 1e30, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-30))
def test_parsing_undoes_rendering(dimension: str, value: float) -> None:
    assert math.isclose(parse(render(value, dimension), dimension), value, rel_tol=1e-12, abs_tol=0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nothing_is_rendered_that_could_not_be_read_again(value: float) -> None:
    with pytest.raises(ValueError, match="no finite quantity"):
        render(value, "time")


@given(
    st.decimals(min_value=-9999, max_value=9999, allow_nan=False, places=6),
    st.sampled_from([("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)]),
)
def test_a_decimal_prefix_is_the_power_of_ten_that_the_number_is_read_with(number, prefixed):
    prefix, power = prefixed
    assert parse(f"{number:f} {prefix}B", "size") == float(f"{number:f}e{power}")


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(60.0, "minutes for seconds"), (1 / 61.0, "minutes for seconds"), (8.2, "bits for bytes"),
     (21.0, ""), (2e3 / 1.9, "a wrong prefix"), (1e-6, "a wrong prefix"), (2.0, ""), (1 / 3.0, ""), (2.4e4, "")],
)  # fmt: skip
def test_a_slip_of_units_is_told_by_its_factor_and_nothing_else(ratio: float, words: str) -> None:
    assert slip(ratio) == (f" ({words}?)" if words else "")


@pytest.mark.parametrize(
    ("value", "zero", "example"),
    [
        (5.0, False, "5 us"), (0.5, False, "0.5 us"), (1e-3, False, "0.001 us"), (1e5, False, "100000 s"),
        (0.0, True, "0 us"), (0.0, False, "10 us"), (-5.0, True, "10 us"), (math.inf, False, "10 us"),
        (math.nan, False, "10 us"),
    ],
)  # fmt: skip
def test_a_number_without_a_unit_is_told_with_one_that_it_can_have(value: float, zero: bool, example: str) -> None:
    with pytest.raises(Wrong) as told:
        Measure("time", unit="us", zero=zero).check(value)
    assert told.value.hint == f'write "{example}"'


def test_a_number_above_zero_has_the_same_bound_on_both_sides() -> None:
    ends = (1.0 / MOST, MOST)
    assert tuple(Positive().check(end) for end in ends) == ends
    for beyond in (0.6 / MOST, 1.9 * MOST):
        with pytest.raises(Wrong, match="implausible"):
            Positive().check(beyond)
    assert [Measure("time").check(f"{end} s") for end in (1e-30, 1e30)] == [1e-30, 1e30]
    for beyond in (0.6e-30, 1.9e30):
        with pytest.raises(Wrong, match="implausible"):
            Measure("time").check(f"{beyond} s")


def test_a_whole_number_is_plain_digits_and_not_too_many() -> None:
    assert [whole(text) for text in ("0", "8", "007", "9" * 18)] == [0, 8, 7, 10**18 - 1]
    assert [whole(text) for text in ("", "-1", "+1", "1.0", "\u00b2", "\uff11", "9" * 5000)] == [None] * 7


@pytest.mark.parametrize(
    ("value", "hint"),
    [(8.5, "write 8"), (2.5, "write 2"), (1, "at least 2"), (99, "at most 64"), ([8.0, 9.5], "write 8")],
)
def test_a_count_that_is_none_is_told_with_the_nearest_one_that_may_be(value: object, hint: str) -> None:
    with pytest.raises(Wrong) as caught:
        Whole(2, 64).check(np.array(value) if isinstance(value, list) else value)
    assert hint in caught.value.hint
    assert Whole(2, 64).check(2) == 2
    assert Whole(2, 64).check(64) == 64


def test_a_quantity_is_described_by_an_example_of_its_unit() -> None:
    assert Measure("bandwidth").describe() == "bandwidth, as `10 GB/s`"
    assert Measure("duration").describe() == "time, as `10 s`"


@pytest.mark.parametrize(
    ("value", "told"),
    [([], "with at least one"), (["1"], "of numbers"), ([True], "of numbers"), ([1.0, np.nan], "is not finite")],
)
def test_an_array_holds_at_least_one_number_and_finite_ones(value: list[object], told: str) -> None:
    with pytest.raises(Wrong, match=told):
        Positive().check(SI(np.array(value)))
