"""Incomplete gamma and beta functions of single numbers: SciPy's take longer to import than a point without them.

Equations: [Abramowitz and Stegun, Handbook of Mathematical Functions, 6.5 and 26.5]; continued fractions by Lentz's
method; densities of large counts by Loader's deviance, which has no difference of large numbers [Fast and Accurate
Computation of Binomial Probabilities, 2000]. Within 1e-12 of SciPy's up to counts of 1e5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

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
        steps = ((step * (shape - step), below + 2.0 * step) for step in count(1))
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
        for m in count(1):
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
    """Return k log(k/m) + m - k."""
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
