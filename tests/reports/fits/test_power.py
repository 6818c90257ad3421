"""Energies of boards from rows of power: what was put in comes out, and what one row says of the others."""

from __future__ import annotations

import numpy as np
import pytest

from reports.fits.power import Features, Fit, limit_over_sizes

TERMS = np.array([120.0, 0.9e-12, 100e-12])
SHARES = [[0.5, 1e12, 2e12], [1.0, 50e12, 1e12], [0.9, 300e12, 0.5e12], [0.2, 2e12, 0.1e12]]
ROWS = [Features(80.0, np.array(each), 80.0 + float(np.array(each) @ TERMS)) for each in SHARES]


def test_energies_of_exact_rows_are_found_and_their_errors_are_none() -> None:
    fit = Fit.of(ROWS)
    assert fit.terms == pytest.approx(TERMS)
    assert fit.deviations == pytest.approx(np.zeros(3), abs=1e-6)
    assert all(fit.error(row) == pytest.approx(0.0, abs=1e-9) for row in ROWS)


def test_a_known_energy_of_bytes_is_taken_and_has_no_error_of_its_own() -> None:
    fit = Fit.of(ROWS, memory=100e-12)
    assert fit.terms == pytest.approx(TERMS)
    assert np.isnan(fit.deviations[2])


def test_scattered_rows_have_standard_errors_of_their_scatter() -> None:
    """Least squares by hand: the residuals' variance with 40 rows less three terms, times the inverse of X'X."""
    generator = np.random.default_rng(0)
    shares = generator.uniform(0.2, 1.0, (40, 3)) * np.array([1.0, 400e12, 3e12])
    rows = []
    for each in shares:
        watts = float(80.0 + each @ TERMS) * (1.0 + 0.05 * generator.standard_normal())
        rows.append(Features(80.0, each, watts))
    fit = Fit.of(rows)
    columns = np.array([row.shares / row.watts for row in rows]) * TERMS
    left = np.array([1.0 - row.idle / row.watts for row in rows])
    expected, residual, *_ = np.linalg.lstsq(columns, left, rcond=None)
    errors = np.sqrt(residual[0] / 37 * np.diag(np.linalg.inv(columns.T @ columns)))
    assert fit.terms / TERMS == pytest.approx(expected)
    assert fit.deviations / TERMS == pytest.approx(errors)


def test_shares_of_a_limit_are_of_busy_time_peak_and_bandwidth() -> None:
    """H100: 700 W over one, over 989.4 TFLOP/s and over 3.35 TB/s."""
    assert limit_over_sizes("h100-sxm") == pytest.approx([700.0, 700.0 / 989.4e12, 700.0 / 3.35e12], rel=1e-3)
