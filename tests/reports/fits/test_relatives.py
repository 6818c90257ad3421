"""The factors by which rows of a device move a relative's fit."""

from __future__ import annotations

import numpy as np
import pytest

from reports.fits.relatives import PRIOR, factors, half_width


def rows(count: int, logs: tuple[float, float, float], noise: float) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    shares = draws.dirichlet([0.3, 0.3, 0.3], count)
    return shares, shares @ np.array(logs) + draws.normal(0.0, noise, count)


def test_the_factors_that_made_the_rows_are_recovered_and_wild_rows_hardly_move_them() -> None:
    shares, logs = rows(400, (0.05, -0.15, 0.0), 0.02)
    found = factors(shares, logs)
    assert found == pytest.approx([0.05, -0.15, 0.0], abs=0.03)
    logs[::20] += 3.0
    assert factors(shares, logs) == pytest.approx(found, abs=0.08)


def test_what_no_row_shows_stays_as_the_relative_has_it() -> None:
    shares = np.tile([1.0, 0.0, 0.0], (50, 1))
    found = factors(shares, np.full(50, 0.1))
    assert found[0] == pytest.approx(0.1 / (1.0 + 0.1**2 / 10.0 / PRIOR**2), rel=0.05)
    assert found[1:].tolist() == [0.0, 0.0]


def test_the_half_width_is_that_of_rows_left_out() -> None:
    shares, logs = rows(500, (0.1, 0.1, -0.1), 0.05)
    assert half_width(shares, logs) == pytest.approx(1.2816 * 0.05, rel=0.2)
