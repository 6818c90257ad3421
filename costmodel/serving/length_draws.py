"""Lengths and times between requests, drawn at random."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.quantities import Array
from costmodel.workload.requests import Gaps, Lengths

Ints = npt.NDArray[np.int64]


def draw_lengths(lengths: Lengths, count: int, draw: np.random.Generator) -> Ints:
    """Return whole lengths, at least one token. Those outside `low` to `high` are moved to the nearer end.

    A lognormal length of mean m, deviation s: exp(N(mu, sigma)), sigma^2 = ln(1 + s^2/m^2), mu = ln(m) - sigma^2/2.
    """
    mean, deviation = float(lengths.mean), float(lengths.deviation)
    high = math.inf if lengths.high is None else float(lengths.high)
    if lengths.distribution == "values":
        weights = np.array(lengths.weights or np.ones(len(lengths.values)))
        return draw.choice(np.array(lengths.values), count, p=weights / weights.sum()).astype(np.int64)
    if lengths.distribution == "uniform":
        drawn: Any = draw.integers(int(lengths.low), int(high), count, endpoint=True).astype(np.float64)
    elif lengths.distribution == "exponential":
        drawn = draw.exponential(mean, count)
    elif lengths.distribution == "normal":
        drawn = draw.normal(mean, deviation, count)
    elif lengths.distribution == "lognormal":
        variance = math.log1p((deviation / mean) ** 2)
        drawn = draw.lognormal(math.log(mean) - variance / 2.0, math.sqrt(variance), count)
    else:
        drawn = np.full(count, mean)
    whole: Ints = np.clip(np.rint(drawn), max(float(lengths.low), 1.0), high).astype(np.int64)
    return whole


def draw_gaps(gaps: Gaps, count: int, draw: np.random.Generator) -> Array:
    """Return times between an answer and what follows it [s]."""
    mean, deviation = float(gaps.mean), float(gaps.deviation)
    if mean == 0.0 or gaps.distribution == "constant":
        return np.full(count, mean)
    if gaps.distribution == "exponential":
        return draw.exponential(mean, count)
    variance = np.log1p((deviation / mean) ** 2)
    return draw.lognormal(np.log(mean) - variance / 2.0, np.sqrt(variance), count)
