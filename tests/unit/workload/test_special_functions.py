"""Incomplete functions: those of SciPy, on both sides of the mean and far from it."""

from __future__ import annotations

import pytest
from scipy.special import betainc, gammaincc
from scipy.stats import binom

from costmodel.workload.order_statistics import beta_below, binomial_density, gamma_above

DEVIATIONS = [-8.0, -3.0, -0.1, 0.0, 0.1, 1.0, 6.0, 30.0]


@pytest.mark.parametrize("shape", [0.01, 0.7, 3.0, 9.9, 10.0, 32.0, 1300.0, 1e5])
@pytest.mark.parametrize("deviations", DEVIATIONS)
def test_gamma_above(shape: float, deviations: float) -> None:
    size = max(shape + deviations * shape**0.5, 1e-3)
    assert gamma_above(shape, size) == pytest.approx(float(gammaincc(shape, size)), abs=1e-12)


@pytest.mark.parametrize("first", [0.02, 1.0, 7.5, 300.0, 3e4])
@pytest.mark.parametrize("second", [0.3, 2.0, 80.0, 5e4])
@pytest.mark.parametrize("deviations", DEVIATIONS)
def test_beta_below(first: float, second: float, deviations: float) -> None:
    mean = first / (first + second)
    share = mean + deviations * (mean * (1.0 - mean) / (first + second + 1.0)) ** 0.5
    share = min(max(share, 2.0**-20), 1.0 - 2.0**-20)
    assert beta_below(first, second, share, 1.0 - share) == pytest.approx(
        float(betainc(first, second, share)), abs=1e-12
    )


@pytest.mark.parametrize(("trials", "chance"), [(1, 0.3), (20, 0.5), (300, 0.01), (50_000, 0.25)])
def test_binomial_density(trials: int, chance: float) -> None:
    for successes in {0, 1, trials // 4, trials // 2, trials}:
        known = float(binom.pmf(successes, trials, chance))
        assert binomial_density(successes, trials, chance, 1.0 - chance) == pytest.approx(known, rel=1e-10, abs=1e-15)
