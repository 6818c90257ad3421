"""What a calibration file states of its evidence."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.fitting.interval_width import HalfWidths
from costmodel.fitting.writing import _intervals, _median_ends, median_ends
from costmodel.records import Record


class Fitted(Record):
    """What of a fit decides its intervals."""

    predictions: np.ndarray
    widths: np.ndarray


@pytest.mark.parametrize("rows", [8, 21, 49])
def test_the_median_of_few_errors_lies_between_its_ends_four_times_of_five(rows: int) -> None:
    draws = np.random.default_rng(rows).exponential(size=(3000, rows))
    ends = np.array([median_ends(errors) for errors in draws])
    held = np.mean((ends[:, 0] <= np.log(2.0)) & (np.log(2.0) <= ends[:, 1]))
    assert 0.78 < held < 0.93  # order statistics are few where rows are


def test_ends_come_together_as_rows_grow() -> None:
    few, many = (np.linspace(0.0, 0.1, rows) for rows in (9, 49))
    assert np.diff(median_ends(many))[0] < 0.6 * np.diff(median_ends(few))[0]


def test_half_an_interval_is_the_mean_of_its_sides_times_the_width_of_a_row() -> None:
    ratio = np.exp(np.random.default_rng(1).normal(0.05, 0.2, 200))
    predicted = np.full(200, 1e-5)
    sides = HalfWidths.of(predicted, ratio)
    assert not np.allclose(sides.below, sides.above)
    widths = np.full(200, 2.0)
    inside, half = _intervals(Fitted(predicted, widths), ratio)  # type: ignore[arg-type]
    assert half == pytest.approx(float(np.median(sides.below + sides.above)))
    within = (1.0 - ratio <= 2.0 * sides.below) & (ratio - 1.0 <= 2.0 * sides.above)
    assert inside == pytest.approx(float(within.mean()))


def test_few_rows_state_the_ends_of_the_median_of_what_the_prediction_misses() -> None:
    """A ratio of measured to predicted time of 1.25 is a prediction 20 % too short."""
    assert _median_ends(np.full(9, 1.25)) == "median_low: 20 %, median_high: 20 %, "
    assert _median_ends(np.full(500, 1.25)) == ""
