"""What a calibration file states of its evidence."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.fitting.writing import median_ends


@pytest.mark.parametrize("rows", [8, 21, 49])
def test_the_median_of_few_errors_lies_between_its_ends_four_times_of_five(rows: int) -> None:
    draws = np.random.default_rng(rows).exponential(size=(3000, rows))
    ends = np.array([median_ends(errors) for errors in draws])
    held = np.mean((ends[:, 0] <= np.log(2.0)) & (np.log(2.0) <= ends[:, 1]))
    assert 0.78 < held < 0.93  # order statistics are few where rows are


def test_ends_come_together_as_rows_grow() -> None:
    few, many = (np.linspace(0.0, 0.1, rows) for rows in (9, 49))
    assert np.diff(median_ends(many))[0] < 0.6 * np.diff(median_ends(few))[0]
