"""Expected extremes of random counts: the most loaded rank, whole tiles, the surplus above a limit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from costmodel.quantities import Array, Count, Mask, Quantity, ceil, is_single, maximum

STANDARD = NormalDist()
POINTS = 48  # of a sum over possible maxima; a finer one moves no result by more than 1e-5
STEPS = 8  # row tiles of a GEMM that are summed one by one
_LEAST = 1e-3  # of |1 - variance/mean|: nearer to one the count is as good as Poisson
_FEW = 8 * POINTS  # counts of many points that are, each of which costs a twentieth of a distribution
_MOST = 10**5  # counts of one point whose probabilities are added up one by one


def expected_maximum(mean: Array, variance: Array, multiplicity: Array) -> Array:
    """Return the expected largest of some counts whose sum is fixed.

        E[max] = sum over x >= 0 of 1 - prod over ranks of F(x)

    F is the binomial distribution with the mean and the variance of the rank, the negative binomial one where the
    variance exceeds the mean. Because the sum is fixed, ranks are negatively correlated: with variances R/(R-1) times
    as large, independent ranks have the same expected maximum in the normal limit, where it is exact.

    mean, variance: [kinds of ranks, points].
    multiplicity: ranks of each kind [kinds]. Of many possible values POINTS are evaluated (midpoint rule).
    """
    ranks = multiplicity.sum()
    if ranks == 1:
        return np.asarray(mean[0], dtype=np.float64)
    spread = np.sqrt(variance * ranks / (ranks - 1))
    low = np.maximum(np.floor((mean - np.where(ranks == multiplicity[:, None], 2.0, 4.0) * spread).max(axis=0)), 0.0)
    high = np.ceil((mean + 8 * spread).max(axis=0)) + 10
    stride = np.maximum(np.ceil((high - low) / POINTS), 1.0)
    values = low + np.arange(POINTS)[:, None] * stride + (stride - 1) / 2
    below = np.zeros_like(values)
    for center, deviation, count in zip(mean, spread, multiplicity, strict=True):
        near = center + 8 * deviation + 10 > low  # elsewhere the rank is never the most loaded
        if near.any():
            own = _distribution(values[:, near], center[near], deviation[near] ** 2)
            below[:, near] += count * np.log(np.maximum(own, 1e-300))
    return np.asarray(low + stride * (1.0 - np.exp(below)).sum(axis=0), dtype=np.float64)


def _distribution(values: Array, mean: Array, variance: Array) -> Array:
    """Return the probability that a count of that mean and variance is at most each of `values`.

    [values, points], whole steps apart. Of one point without SciPy, which takes longer to import than the point.
    """
    if mean.size == 1 and values[-1, 0] - values[0, 0] <= _MOST:
        return _single_distribution(values[:, 0], mean.item(), variance.item())[:, None]
    from scipy.special import betainc

    with np.errstate(divide="ignore", invalid="ignore"):
        success = 1 - variance / mean  # of one binomial trial; zero for Poisson, negative for negative binomial
        success = np.where(np.abs(success) < _LEAST, np.copysign(_LEAST, success), success)
        trials = mean / success

        def at_most(counts: Array, at: Mask) -> Array:
            failures = np.where(success[at] > 0, np.maximum(trials[at] - counts, 1e-12), -trials[at])
            share = np.where(success[at] > 0, 1 - success[at], 1 / (1 - success[at]))
            return np.asarray(betainc(failures, counts + 1, share))

        below, steps = np.empty_like(values), values[-1] - values[0]
        for low, high in ((-1, POINTS), (POINTS, _FEW)):
            at = (low < steps) & (steps <= high) & (success < 1)
            if at.any():
                first = values[0, at]
                known = at_most(first, at)
                density = known - np.where(first > 0, at_most(np.where(first > 0, first - 1, 0.0), at), 0.0)
                below[:, at] = _added_up(values[:, at], known, density, trials[at], success[at])
        at = (steps > _FEW) | ~(success < 1)
        below[:, at] = at_most(values[:, at], at)
    certain = (mean <= 0) | ((success > 0) & (values >= trials - 1e-9))
    return np.where(certain, 1.0, below)


def _added_up(values: Array, at_most: Quantity, density: Quantity, trials: Quantity, success: Quantity) -> Array:
    """Return the same: to that of the first value the probabilities of single counts are added.

    P(X = v+1) = P(X = v) (n - v) p / ((v + 1) (1 - p)),   r = -n of the negative binomial distribution
    """
    counts = values[0] + np.arange(round(np.max(values[-1] - values[0])))[:, None]
    ratios = np.maximum((trials - counts) * (success / (1 - success)), 0.0) / (counts + 1)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(density * np.cumprod(ratios, axis=0), axis=0)])
    return np.asarray(at_most + np.take_along_axis(sums, np.rint(values - values[0]).astype(np.intp), axis=0))


def _single_distribution(values: Array, mean: float, variance: float) -> Array:
    """Return the same of one point."""
    success = 1.0 - variance / mean if mean > 0.0 else 1.0
    success = math.copysign(_LEAST, success) if abs(success) < _LEAST else success
    trials, first = mean / success, values[0].item()
    if mean <= 0.0 or (success > 0.0 and first >= trials - 1e-9):
        return np.ones(len(values))
    if success >= 1.0:  # every trial succeeds
        return np.where(values >= trials - 1e-9, 1.0, 0.0)
    if success > 0.0:
        at_most = beta_below(trials - first, first + 1.0, 1.0 - success, success)
        density = binomial_density(first, trials, success, 1.0 - success)
    else:
        share, rest = 1.0 / (1.0 - success), -success / (1.0 - success)
        at_most = beta_below(-trials, first + 1.0, share, rest)
        density = trials / (trials - first) * binomial_density(-trials, first - trials, share, rest)
    known = _added_up(values[:, None], at_most, density, trials, success)[:, 0]
    return np.where((success > 0.0) & (values >= trials - 1e-9), 1.0, known)


def _normal_quantile(probability: Quantity) -> Quantity:
    """Return Phi^-1 of probabilities, few of which differ. Without SciPy, whose import takes longer than all else."""
    if not isinstance(probability, np.ndarray):
        return STANDARD.inv_cdf(probability)
    distinct, member = np.unique(probability, return_inverse=True)
    quantiles = np.array([STANDARD.inv_cdf(value) for value in distinct.tolist()])
    return quantiles[member].reshape(np.shape(probability))


def normal_maximum(count: Count) -> Quantity:
    """Return the expected largest of `count` standard normal numbers, zero of one. Within 5 % of the exact value.

    Phi^-1((n - 3/8) / (n + 1/4))    [Blom, Statistical Estimates and Transformed Beta-Variables, 1958]
    """
    return maximum(_normal_quantile((count - 0.375) / (count + 0.25)), 0.0)


def normal_maximum_std(count: Count) -> Quantity:
    """Return the standard deviation of the largest of `count` standard normal numbers, from its quartiles.

        (Phi^-1(0.75^(1/n)) - Phi^-1(0.25^(1/n))) / 1.349

    exact for one, within 6 % beyond.
    """
    high, low = (_normal_quantile(quartile ** (1.0 / count)) for quartile in (0.75, 0.25))
    return (high - low) / 1.349


def expected_tiles(mean: Count, deviation: Count, height: Quantity) -> Quantity:
    """Return the expected tiles of `height` rows that cover a random number of rows, at least one.

        E[ceil(X/h)] = 1 + sum over i >= 1 of P(X > i*h)

    X is gamma-distributed with that mean and standard deviation: close to normal for random counts, and long-tailed
    where experts differ in popularity. Without a deviation it is ceil(mean/h). Steps beyond the first STEPS, or beyond
    those about the mean where the deviation is less than h/2, are integrated (midpoint rule).
    """
    if is_single(deviation) and deviation == 0:
        return ceil(mean / height)
    exact = np.asarray(deviation) == 0
    spread = np.maximum(deviation, 1e-3 * mean)
    shape, scale = (mean / spread) ** 2, spread**2 / mean
    wide = spread > height / 2
    first = np.where(wide, 0.0, np.floor(np.maximum(mean / height - STEPS / 2, 0.0)))
    tiles = 1.0 + first
    for step in range(1, STEPS + 1):
        tiles = tiles + _gamma_above(shape, ((first + step) * height + 0.5) / scale)
    rest = (STEPS + 0.5) * height
    beyond = mean * _gamma_above(shape + 1, rest / scale) - rest * _gamma_above(shape, rest / scale)
    tiles = tiles + np.where(wide, np.maximum(beyond, 0.0) / height, 0.0)
    tiles = np.where(exact, np.ceil(mean / height), np.clip(tiles, np.maximum(mean / height, 1.0), 1 + mean / height))
    return float(tiles) if tiles.ndim == 0 else tiles


def _gamma_above(shape: Quantity, size: Quantity) -> Quantity:
    if np.ndim(shape) == np.ndim(size) == 0:
        return gamma_above(float(shape), float(size))
    from scipy.special import gammaincc

    return np.asarray(gammaincc(shape, size))


def expected_surplus(trials: Quantity, probability: Array, limit: Quantity) -> Array:
    """Return the expected surplus of binomial counts above `limit`.

        E[(X - c)+] = n*p * P(B(n-1, p) >= c) - c * P(B(n, p) >= c+1)

    trials: n, limit: c, whole and above zero, of the shape of a point.
    probability: p, with one more axis in front.
    """
    from scipy.special import betainc

    n, c = np.asarray(trials, dtype=np.float64), np.asarray(limit, dtype=np.float64)
    inside = np.maximum(n - c, 1e-12)
    reached = betainc(c, inside, probability)
    passed = np.where(n - c > 1e-9, betainc(c + 1, inside, probability), 0.0)
    return np.where(n - c > 1e-9, np.maximum(n * probability * reached - c * passed, 0.0), 0.0)


# ---- Incomplete gamma and beta functions of single numbers: SciPy's take longer to import than a point without them.
#
# Equations: [Abramowitz and Stegun, Handbook of Mathematical Functions, 6.5 and 26.5]; continued fractions by Lentz's
# method; densities of large counts by Loader's deviance, which has no difference of large numbers [Fast and Accurate
# Computation of Binomial Probabilities, 2000]. Within 1e-12 of SciPy's up to counts of 1e5.

_STIRLING = 10.0  # from which on five terms of the series of log Gamma are exact to 1e-15
_NEGLIGIBLE = 1e-17  # compared with one
_PRECISION = 1e-15


def gamma_above(shape: float, size: float) -> float:
    """Return the probability that a gamma-distributed number of that shape and of scale one is above a size.

    Q(a, x) = 1 - D (1 + x/(a+1) + x^2/((a+1)(a+2)) + ...),   D = x^a e^-x / Gamma(a+1)

    above the mean a D / (x+1-a - 1(1-a)/(x+3-a - 2(2-a)/(x+5-a - ...)))
    """
    if size <= 0.0:
        return 1.0
    density = math.exp(-_deviance(shape, size) - _stirling_rest(shape)) / math.sqrt(2.0 * math.pi * shape)
    if size >= shape + 1.0:
        below = size + 1.0 - shape
        steps = ((step * (shape - step), below + 2.0 * step) for step in itertools.count(1))
        return shape * density / _continued_fraction(below, steps)
    term = total = 1.0
    step = shape
    while term > _NEGLIGIBLE * total:
        step += 1.0
        term *= size / step
        total += term
    return 1.0 - density * total


def beta_below(a: float, b: float, share: float, rest: float) -> float:
    """Return the probability that a beta-distributed number of those parameters is below a share. rest: 1 - share.

    I_x(a, b) = x^a (1-x)^b / (a B(a, b)) / (1 + d_1/(1 + d_2/(1 + ...))),   above the mean 1 - I_(1-x)(b, a)
    d_(2m) = m (b-m) x / ((a+2m-1)(a+2m)),   d_(2m+1) = -(a+m)(a+b+m) x / ((a+2m)(a+2m+1))
    """
    if share > (a + 1.0) / (a + b + 2.0):
        return 1.0 - beta_below(b, a, rest, share)
    if share <= 0.0:
        return 0.0
    total = a + b
    scale = b / total * binomial_density(a, total, share, rest)

    def steps() -> Iterator[tuple[float, float]]:
        for m in itertools.count(1):
            yield -(a + m - 1.0) * (total + m - 1.0) * share / ((a + 2.0 * m - 2.0) * (a + 2.0 * m - 1.0)), 1.0
            yield m * (b - m) * share / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)), 1.0

    return scale / _continued_fraction(1.0, steps())


def binomial_density(successes: float, trials: float, chance: float, rest: float) -> float:
    """Return Gamma(n+1) / (Gamma(k+1) Gamma(n-k+1)) p^k q^(n-k), for real n, k. rest: q = 1 - p."""
    failures = trials - successes
    if successes <= 0.0:
        return math.exp(trials * math.log(rest))
    if failures <= 0.0:
        return math.exp(trials * math.log(chance))
    deviance = _deviance(successes, trials * chance) + _deviance(failures, trials * rest)
    rests = _stirling_rest(trials) - _stirling_rest(successes) - _stirling_rest(failures)
    return math.exp(rests - deviance) * math.sqrt(trials / (2.0 * math.pi * successes * failures))


def _deviance(number: float, mean: float) -> float:
    excess = (mean - number) / number
    if abs(excess) > 0.1:
        return mean - number - number * math.log(mean / number)
    half = excess / (2.0 + excess)  # log(1+u) = 2 (h + h^3/3 + h^5/5 + ...),   h = u/(2+u)
    odd = sum(half ** (2 * n) / (2 * n + 1) for n in range(1, 7))
    return number * half * (excess - 2.0 * odd)


def _stirling_rest(number: float) -> float:
    """Return log Gamma(n+1) - (n + 1/2) log n + n - log(2 pi)/2."""
    if number < _STIRLING:
        return math.lgamma(number + 1.0) - (number + 0.5) * math.log(number) + number - 0.5 * math.log(2.0 * math.pi)
    square = number * number
    return (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - 1 / 1188 / square) / square) / square) / square) / number


def _continued_fraction(first: float, steps: Iterator[tuple[float, float]]) -> float:
    """Return b_0 + a_1/(b_1 + a_2/(b_2 + ...)). first: b_0, above zero; steps: (a_i, b_i) in turn."""
    value = upper = first
    lower = 0.0
    for numerator, denominator in steps:
        lower = 1.0 / (denominator + numerator * lower)
        upper = denominator + numerator / upper
        change = lower * upper
        value *= change
        if abs(change - 1.0) < _PRECISION:
            return value
    raise AssertionError("steps never end")
