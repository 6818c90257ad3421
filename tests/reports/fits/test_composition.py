"""What whole runs add to the intervals of their kernels: together they hold 80 %, and nothing is counted twice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reports.fits.composition import Row, render, spread


def rows(late, kernels: float = 0.0, centre: float = 0.0) -> list[Row]:
    return [Row("training", "paper", float(each) + centre, centre, kernels, kernels) for each in late]


LATE = np.random.default_rng(7).normal(0.03, 0.1, 2000)


def test_exact_kernels_leave_all_scatter_to_whole_runs() -> None:
    low, median, high = (math.log(each) for each in spread(rows(LATE)))
    assert [low, median, high] == pytest.approx(np.quantile(LATE, [0.1, 0.5, 0.9]), abs=5e-3)


@pytest.mark.parametrize("kernels", [0.0, 0.05, 0.1])
def test_both_together_hold_four_fifths(kernels: float) -> None:
    low, median, high = (math.log(each) for each in spread(rows(LATE, kernels)))
    down, up = math.hypot(kernels, median - low), math.hypot(kernels, high - median)
    assert np.mean(median - down > LATE) == pytest.approx(0.1, abs=0.015)
    assert np.mean(median + up < LATE) == pytest.approx(0.1, abs=0.015)


def test_kernels_that_state_all_scatter_leave_none() -> None:
    low, median, high = spread(rows(LATE, 1.0))
    assert low == median == high


def test_what_kernels_move_their_centre_by_is_not_moved_twice() -> None:
    assert spread(rows(LATE, centre=0.5)) == spread(rows(LATE))


def test_a_file_has_one_point_a_class_and_its_count() -> None:
    text = render([*rows(LATE[:50]), Row("serving", "other", 0.1, 0.0, 0.0, 0.0)])
    assert "composition_training" in text
    assert "50 figures of 1 publications" in text
    assert "composition_serving" in text
    assert "composition_inference" not in text
