"""Expected extremes of counts that come about by chance: the fullest place, whole tiles, what a limit cuts off."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from costmodel.quantities import Array, Count, Quantity, ceil, is_single, maximum

STANDARD = NormalDist()
POINTS = 48  # of a sum over possible maxima; a finer one moves no result by more than 1e-5
STEPS = 8  # of a product's row tiles that are summed one by one
_LEAST = 1e-3  # of |1 - variance/mean|: nearer to one the count is as good as Poisson


def expected_maximum(mean: Array, variance: Array, multiplicity: Array) -> Array:
    """Return the expected largest of some counts whose sum is fixed.

        E[max] = sum over x >= 0 of 1 - prod over places of F(x)

    F is the binomial distribution with the mean and the variance of the place, the negative binomial one where the
    variance exceeds the mean. That the sum is fixed makes places exclude each other: with variances taken R/(R-1) times
    as large, independent places have the same expected maximum in the normal limit, where it is exact.

    mean, variance: [kinds of places, points]; alike: places of each kind [kinds]. Where there are many possible
    values, POINTS of them stand for all (the midpoint rule).
    """
    places = multiplicity.sum()
    if places == 1:
        return np.asarray(mean[0], dtype=np.float64)
    spread = np.sqrt(variance * places / (places - 1))
    low = np.maximum(np.floor((mean - np.where(places == multiplicity[:, None], 2.0, 4.0) * spread).max(axis=0)), 0.0)
    high = np.ceil((mean + 8 * spread).max(axis=0)) + 10
    stride = np.maximum(np.ceil((high - low) / POINTS), 1.0)
    values = low + np.arange(POINTS)[:, None] * stride + (stride - 1) / 2
    below = np.zeros_like(values)
    for each, deviation, count in zip(mean, spread, multiplicity, strict=True):
        if np.any(each + 8 * deviation + 10 > low):  # elsewhere the place is never the fullest
            below += count * np.log(np.maximum(_distribution(values, each, deviation**2), 1e-300))
    return np.asarray(low + stride * (1.0 - np.exp(below)).sum(axis=0), dtype=np.float64)


def _distribution(values: Array, mean: Array, variance: Array) -> Array:
    """Return the chance that a count of that mean and variance is at most each of `values`."""
    from scipy.special import betainc

    with np.errstate(divide="ignore", invalid="ignore"):
        short = 1 - variance / mean  # of being Poisson: the chance of a trial of the binomial distribution
        short = np.where(np.abs(short) < _LEAST, np.copysign(_LEAST, short), short)
        trials = mean / short
        left = np.where(short > 0, np.maximum(trials - values, 1e-12), -trials)
        chance = np.where(short > 0, 1 - short, 1 / (1 - short))
        found = betainc(left, values + 1, chance)
    certain = (mean <= 0) | ((short > 0) & (values >= trials - 1e-9))
    return np.where(certain, 1.0, found)


def _normal_quantile(chance: Quantity) -> Quantity:
    """Return Phi^-1 of some chances, few of which differ; without SciPy, which takes longer to import than all else."""
    if not isinstance(chance, np.ndarray):
        return STANDARD.inv_cdf(chance)
    chances, which = np.unique(chance, return_inverse=True)
    found = np.array([STANDARD.inv_cdf(each) for each in chances.tolist()])
    return found[which].reshape(np.shape(chance))


def normal_maximum(places: Count) -> Quantity:
    """Return the expected largest of that many standard normal numbers, zero of one.

        Phi^-1((n - 3/8) / (n + 1/4))    [Blom, Statistical Estimates and Transformed Beta-Variables, 1958]

    within 5 % of the exact value; alike in shape to `places`.
    """
    return maximum(_normal_quantile((places - 0.375) / (places + 0.25)), 0.0)


def normal_maximum_std(places: Count) -> Quantity:
    """Return the standard deviation of the largest of that many standard normal numbers, from its quartiles.

        (Phi^-1(0.75^(1/n)) - Phi^-1(0.25^(1/n))) / 1.349

    exact for one, within 6 % beyond.
    """
    high, low = (_normal_quantile(chance ** (1.0 / places)) for chance in (0.75, 0.25))
    return (high - low) / 1.349


def expected_tiles(mean: Count, deviation: Count, height: Quantity) -> Quantity:
    """Return the expected number of tiles of `height` rows that hold a count of at least one row.

        E[ceil(X/h)] = 1 + sum over i >= 1 of P(X > i*h)

    X is gamma-distributed with that mean and standard deviation: close to normal for counts by chance, and long-tailed
    where experts differ in popularity. Without a deviation it is ceil(mean/h). Steps beyond the first STEPS, or beyond
    those about the mean where the deviation is less than h/2, are taken together (the midpoint rule).
    """
    if is_single(deviation) and deviation == 0:
        return ceil(mean / height)
    from scipy.special import gammaincc

    exact = np.asarray(deviation) == 0
    spread = np.maximum(deviation, 1e-3 * mean)
    shape, scale = (mean / spread) ** 2, spread**2 / mean
    wide = spread > height / 2
    first = np.where(wide, 0.0, np.floor(np.maximum(mean / height - STEPS / 2, 0.0)))
    tiles = 1.0 + first
    for step in range(1, STEPS + 1):
        tiles = tiles + gammaincc(shape, ((first + step) * height + 0.5) / scale)
    rest = (STEPS + 0.5) * height
    beyond = mean * gammaincc(shape + 1, rest / scale) - rest * gammaincc(shape, rest / scale)
    tiles = tiles + np.where(wide, np.maximum(beyond, 0.0) / height, 0.0)
    found = np.where(exact, np.ceil(mean / height), np.clip(tiles, np.maximum(mean / height, 1.0), 1 + mean / height))
    return float(found) if found.ndim == 0 else found


def expected_surplus(trials: Quantity, chance: Array, limit: Quantity) -> Array:
    """Return the expected part above `limit` of binomial counts.

        E[(X - c)+] = n*p * P(B(n-1, p) >= c) - c * P(B(n, p) >= c+1)

    trials: n, limit: c, whole and above zero, of the shape of a point; chance: p, with one more axis in front.
    """
    from scipy.special import betainc

    n, c = np.asarray(trials, dtype=np.float64), np.asarray(limit, dtype=np.float64)
    inside = np.maximum(n - c, 1e-12)
    reached = betainc(c, inside, chance)
    passed = np.where(n - c > 1e-9, betainc(c + 1, inside, chance), 0.0)
    return np.where(n - c > 1e-9, np.maximum(n * chance * reached - c * passed, 0.0), 0.0)
