"""Element-wise functions on numbers and arrays."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.quantities import ceil, distinct_rows, divides, hypot, is_single, maximum, minimum, power, where

LEFT, RIGHT = np.array([[1.0], [5.0]]), np.array([2.0, 3.0, 4.0])


def test_extremes_of_numbers_are_plain_numbers() -> None:
    assert maximum(1.0, 3.0, 2.0) == 3.0
    assert minimum(2.0, 1.0, 3.0) == 1.0
    assert is_single(maximum(1.0, 2.0))


def test_extremes_broadcast_over_axes() -> None:
    np.testing.assert_array_equal(maximum(LEFT, RIGHT), [[2, 3, 4], [5, 5, 5]])
    np.testing.assert_array_equal(minimum(3.5, LEFT, RIGHT), [[1, 1, 1], [2, 3, 3.5]])


def test_extremes_keep_a_missing_value_missing() -> None:
    assert np.isnan(maximum(np.array([np.nan]), 1.0))[0]
    assert np.isnan(minimum(1.0, np.array([np.nan])))[0]


@pytest.mark.parametrize(("value", "expected"), [(2.0, 2.0), (2.1, 3.0), (0.0, 0.0)])
def test_ceil_of_a_number_equals_ceil_of_an_array(value: float, expected: float) -> None:
    assert ceil(value) == expected
    assert isinstance(ceil(value), float)
    assert list(np.asarray(ceil(np.array([value])))) == [expected]


def test_where_chooses_by_element_and_by_condition() -> None:
    assert where(True, 1.0, 2.0) == 1.0
    np.testing.assert_array_equal(where(LEFT > 2, RIGHT, 0.0), [[0, 0, 0], [2, 3, 4]])


def test_a_fraction_is_no_multiple() -> None:
    assert divides(4.0, 12.0)
    assert not divides(5.0, 12.0)
    np.testing.assert_array_equal(divides(np.array([3.0, 8.0]), 12.0), [True, False])


def test_distinct_rows_are_those_of_numpy_and_lead_back_to_each() -> None:
    """Also where columns follow from each other, are the same everywhere, or hold what is not a number."""
    draw = np.random.default_rng(3)
    rows, pairs = draw.integers(0, 7, 500).astype(float), draw.integers(0, 3, 500).astype(float)
    gaps = np.where(rows == 2, np.nan, rows)
    for columns in ([rows], [rows, 3 * rows + 1], [np.ones(500), pairs, rows], [gaps, pairs]):
        first, place = distinct_rows(columns)
        assert len(first) == len(set(zip(*(np.nan_to_num(column, nan=-1).tolist() for column in columns), strict=True)))
        for column in columns:
            np.testing.assert_array_equal(column[first][place], column)


@pytest.mark.parametrize("exponent", [0.25, 1.0, 4.0, 6.0, 2.7, 1 / 2.7])
def test_a_power_of_an_array_is_that_of_its_numbers(exponent: float) -> None:
    values = np.array([0.0, 1e-9, 0.3, 1.0, 7.0])
    assert np.asarray(power(values, exponent)).tolist() == pytest.approx([value**exponent for value in values.tolist()])


def test_a_hypotenuse_of_numbers_and_arrays() -> None:
    assert hypot(3.0, 4.0) == 5.0
    np.testing.assert_allclose(hypot(RIGHT, 1.5), [2.5, np.hypot(3.0, 1.5), np.hypot(4.0, 1.5)])


def test_distinct_rows_are_the_first_of_each_and_rows_number_them() -> None:
    same, other = np.ones(4), np.array([2.0, 1.0, 2.0, 3.0])
    for columns, first, rows in (((same,), [0], [0, 0, 0, 0]), ((same, other, other), [1, 0, 3], [1, 0, 1, 2])):
        found, inverse = distinct_rows(columns)
        np.testing.assert_array_equal(found, first)
        np.testing.assert_array_equal(inverse, rows)
