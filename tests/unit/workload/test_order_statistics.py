"""Expected extremes of counts: limits that are known exactly, and draws with a fixed seed."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.quantities import Array
from costmodel.workload.order_statistics import (
    expected_maximum,
    expected_surplus,
    expected_tiles,
    normal_maximum,
    normal_maximum_std,
)


def column(*values: float) -> Array:
    return np.array(values, dtype=np.float64)[:, None]


def maximum(mean: float, variance: float, places: int) -> float:
    return float(expected_maximum(column(mean), column(variance), np.array([float(places)]))[0])


def test_one_place_has_everything() -> None:
    assert maximum(17.0, 5.0, 1) == 17.0


@pytest.mark.parametrize("throws", [2, 3, 6, 40])
def test_two_places_share_binomially(throws: int) -> None:
    """max(X, n - X) with X binomial, all outcomes counted."""
    exact = sum(comb(throws, heads) * max(heads, throws - heads) for heads in range(throws + 1)) / 2**throws
    assert maximum(throws / 2, throws / 4, 2) == pytest.approx(exact, rel=0.05 if throws < 4 else 0.01)


@pytest.mark.parametrize(("places", "throws"), [(3, 3), (3, 6), (4, 4), (4, 6)])
def test_few_throws_over_few_places_are_near_all_outcomes_counted(places: int, throws: int) -> None:
    outcomes = [np.bincount(each, minlength=places).max() for each in product(range(places), repeat=throws)]
    variance = throws / places * (1 - 1 / places)
    assert maximum(throws / places, variance, places) == pytest.approx(float(np.mean(outcomes)), rel=0.03)


@pytest.mark.parametrize("places", [2, 8, 100])
def test_many_throws_are_normal(places: int) -> None:
    normal = np.random.default_rng(1).normal(size=(40_000, places))
    spread = (normal.max(axis=1) - normal.mean(axis=1)).mean() * (places / (places - 1)) ** 0.5
    mean = 1e8
    assert (maximum(mean, mean, places) - mean) / mean**0.5 == pytest.approx(spread, rel=0.01)


def test_a_place_that_is_never_the_fullest_changes_nothing() -> None:
    alike = np.array([1.0, 1.0])
    both = expected_maximum(column(1000.0, 10.0), column(900.0, 10.0), alike)
    assert both[0] == pytest.approx(1000.0, rel=1e-3)


def test_alike_places_may_stand_together_or_apart() -> None:
    together = expected_maximum(column(50.0), column(40.0), np.array([6.0]))
    apart = expected_maximum(column(*[50.0] * 6), column(*[40.0] * 6), np.ones(6))
    assert together == pytest.approx(apart, rel=1e-4)


@given(mean=st.floats(5.0, 1e6), ratio=st.floats(0.2, 1.5), places=st.integers(2, 300), more=st.floats(1.1, 10.0))
def test_the_fullest_is_above_the_mean_and_relatively_less_so_with_more_throws(
    mean: float, ratio: float, places: int, more: float
) -> None:
    few, many = maximum(mean, ratio * mean, places), maximum(more * mean, ratio * more * mean, places)
    assert few >= mean * (1 - 1e-6)
    assert many / (more * mean) <= few / mean * (1 + 1e-3)


# ---- tiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1.0, 63.0, 64.0, 65.0, 8192.0])
def test_equal_groups_need_whole_tiles(rows: float) -> None:
    assert expected_tiles(rows, 0.0, 64) == np.ceil(rows / 64)
    assert expected_tiles(np.array([rows]), np.array([0.0]), 64)[0] == np.ceil(rows / 64)


@pytest.mark.parametrize("height", [16.0, 64.0, 128.0])
@pytest.mark.parametrize("mean", [3.0, 20.0, 64.0, 100.0, 128.0, 500.0, 4096.0])
def test_counts_by_chance_fill_as_many_tiles_as_in_draws(mean: float, height: float) -> None:
    draws = np.random.default_rng(2).poisson(mean, 200_000)
    hit = draws[draws > 0]
    found = expected_tiles(float(hit.mean()), float(hit.std()), height)
    assert found == pytest.approx(np.ceil(hit / height).mean(), rel=0.03)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
@pytest.mark.parametrize("rows", [1e3, 1e4, 1e5])
def test_experts_of_different_popularity_fill_nearly_as_many_tiles(rows: float, exponent: float) -> None:
    shares = np.arange(1.0, 17) ** -exponent
    counts = rows * shares / shares.sum()
    found = 16 * expected_tiles(float(counts.mean()), float(counts.std()), 64)
    assert found == pytest.approx(np.ceil(counts / 64).sum(), rel=0.12)


@given(mean=st.floats(1.0, 1e5), deviation=st.floats(0.0, 1e5), height=st.sampled_from([16.0, 64.0, 256.0]))
def test_rows_fit_their_tiles_and_no_group_has_more_than_one_unfilled(
    mean: float, deviation: float, height: float
) -> None:
    found = expected_tiles(mean, deviation, height)
    assert max(1.0, mean / height) - 1e-9 <= found <= mean / height + 1 + 1e-9


def test_an_axis_of_rows_equals_single_ones() -> None:
    means, deviations = np.array([2.0, 70.0, 900.0])[:, None], np.array([0.0, 5.0, 80.0])
    together = np.asarray(expected_tiles(means, deviations, 64))
    for index in np.ndindex(3, 3):
        alone = expected_tiles(float(means[index[0], 0]), float(deviations[index[1]]), 64)
        assert together[index] == pytest.approx(alone)


# ---- what a limit cuts off ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trials", "chance", "limit"), [(10, 0.3, 2), (10, 0.3, 5), (64, 0.25, 16), (200, 0.02, 5)])
def test_the_surplus_is_the_sum_over_all_outcomes(trials: int, chance: float, limit: int) -> None:
    exact = sum(
        (count - limit) * comb(trials, count) * chance**count * (1 - chance) ** (trials - count)
        for count in range(limit + 1, trials + 1)
    )
    found = expected_surplus(np.array([float(trials)]), np.array([[chance]]), np.array([float(limit)]))
    assert found[0, 0] == pytest.approx(exact)


@pytest.mark.parametrize("limit", [10.0, 12.0])
def test_a_limit_that_cannot_be_passed_cuts_nothing(limit: float) -> None:
    assert expected_surplus(np.array([10.0]), np.array([[0.9]]), np.array([limit]))[0, 0] == 0


def test_a_certain_choice_has_all_trials() -> None:
    assert expected_surplus(np.array([10.0]), np.array([[1.0]]), np.array([4.0]))[0, 0] == pytest.approx(6)


@pytest.mark.parametrize("places", [2, 8, 64, 256])
def test_the_largest_of_standard_normals_is_that_of_draws(places: int) -> None:
    drawn = np.random.default_rng(3).normal(size=(20_000, places)).max(axis=1).mean()
    assert normal_maximum(float(places)) == pytest.approx(drawn, rel=0.06)
    assert normal_maximum(1.0) == 0


@given(mean=st.floats(0.2, 1e5), share=st.floats(3e-3, 20.0), height=st.floats(1.0, 512.0))
def test_tiles_of_one_count_are_as_scipys_gamma_function_has_them(mean: float, share: float, height: float) -> None:
    """A single count goes by a series of its own, an array by SciPy."""
    single = expected_tiles(mean, share * mean, height)
    assert isinstance(single, float)
    assert single == pytest.approx(float(expected_tiles(mean, np.array([share * mean]), height)[0]), rel=1e-12)


@given(mean=st.floats(1e-3, 1e4), variance=st.floats(1e-3, 30.0), places=st.integers(2, 64))
def test_the_maximum_at_one_point_is_that_among_several(mean: float, variance: float, places: int) -> None:
    """One point begins with a series of its own, several with SciPy's incomplete beta function."""
    several = expected_maximum(np.full((1, 2), mean), np.full((1, 2), variance * mean), np.array([float(places)]))
    assert maximum(mean, variance * mean, places) == pytest.approx(several[0], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("places", [1, 4, 64])
def test_the_deviation_of_a_maximum_is_that_of_draws(places: int) -> None:
    drawn = np.random.default_rng(5).normal(size=(20_000, places)).max(axis=1).std()
    assert normal_maximum_std(float(places)) == pytest.approx(drawn, rel=0.06)
