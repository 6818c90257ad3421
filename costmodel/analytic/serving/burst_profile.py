"""How a burst of requests goes through an engine: requests in its steps, from the first one to the longest's last."""

from __future__ import annotations

import math

import numpy as np

from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.workload.requests import Lengths

CELLS = 128  # of the longest answer
GROUPS = 8  # of steps: each has half of the requests of the one before
SATURATED = 6.0  # requests per seat that are followed one wave after the other; more are at the steady state
RARE = 0.01  # expected requests above what counts as the longest answer of a distribution without an end
_TINY = 1e-300


class BurstProfile(Record):
    """Decoding steps of a burst, in groups of similar numbers of requests, an array along the groups each.

    steps: in which any engine still has requests, of the engine whose requests end last.
    own: in which an engine on average has some.
    requests: of such a step, those that are there.
    generated: tokens that each of them has on average.
    """

    steps: Array
    own: Array
    requests: Array
    generated: Array

    @property
    def tokens(self) -> float:
        """Return the tokens that an engine decodes."""
        return float((self.own * self.requests).sum())


def burst_profile(lengths: Lengths, requests: float, seats: float, engines: float) -> BurstProfile:
    """Return the steps of an engine to which `requests` come at once, of `engines` alike, each with `seats`.

    One that ends is followed by the next that waits. In expectation, with S(t) the share of answers of which more than
    t tokens are decoded, and s(t) the requests that start at t, in tokens of each request since the beginning:

        B(t) = sum over t' of s(t') S(t - t')              requests there; s(t) = min(seats - B(t), those that wait)
        P(t) = 1 - exp(sum over t' of s(t') ln(1 - S(t - t')))      any is; of all engines, with as many such sums
        B(t) / P(t)                                        requests of a step, where there is any

    The first token comes from the prompt. [renewal of seats: Cox, Renewal Theory, 1962, section 3]
    """
    seats = min(seats, requests)
    longest = _longest(lengths, requests * engines)
    count = int(min(CELLS, math.ceil(longest)))
    if count == 0:
        nothing = np.zeros(GROUPS)
        return BurstProfile(nothing, nothing, np.ones(GROUPS), nothing)
    width = longest / count
    middle = (np.arange(count) + 0.5) * width
    share = np.array([lengths.share_above(1.0 + each) for each in middle])
    waves = min(requests / seats, SATURATED)
    starts = _starts(share, waves)
    there = np.convolve(starts, share)[: len(starts)]
    aged = np.convolve(starts, share * middle)[: len(starts)]
    none = np.convolve(starts, np.log(np.maximum(1.0 - share, _TINY)))[: len(starts)]
    any_own, any_of_all = (1.0 - np.exp(seats * number * none) for number in (1.0, engines))
    steady = max(requests / seats - SATURATED, 0.0) * share.sum() * width  # steps of a full engine beyond these waves
    whole = np.append(there, 1.0)
    steps, own = (np.append(width * each, steady) for each in (any_of_all, any_own))
    group = np.clip(np.floor(-np.log2(np.maximum(whole, _TINY)) + 1e-9), 0, GROUPS - 1).astype(np.intp)
    conditional = seats * np.append(there / np.maximum(any_own, _TINY), 1.0)
    age = np.append(aged / np.maximum(there, _TINY), (share * middle).sum() / max(share.sum(), _TINY))

    def mean(values: Array) -> Array:
        total = np.bincount(group, own, GROUPS)
        summed = np.bincount(group, own * values, GROUPS)
        return np.where(total > 0, summed / np.where(total > 0, total, 1.0), 1.0)

    summed_steps, summed_own = (np.bincount(group, each, GROUPS).astype(np.float64) for each in (steps, own))
    return BurstProfile(summed_steps, summed_own, np.maximum(mean(conditional), 1.0), mean(age))


def _longest(lengths: Lengths, requests: float) -> float:
    """Return the decoded tokens of the longest of some answers: a bound, or what few of them are expected to exceed."""
    if lengths.distribution == "constant":
        return max(float(lengths.mean) - 1.0, 0.0)
    if lengths.distribution == "values":
        return max(max(lengths.values) - 1.0, 0.0)
    if lengths.high is not None:
        return max(float(lengths.high) - 1.0, 0.0)
    low, high = 1.0, 2.0
    while lengths.share_above(high) * requests > RARE:
        low, high = high, 2.0 * high
    for _ in range(20):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if lengths.share_above(middle) * requests > RARE else (low, middle)
    return max(high - 1.0, 0.0)


def _starts(share: Array, waves: float) -> Array:
    """Return the requests per seat that start in each cell until `waves` have, and the cells in which these end."""
    starts, waiting, count = [min(1.0, waves)], waves - min(1.0, waves), len(share)
    recent = np.zeros(count)  # what started in each of the last cells, the newest first
    recent[0] = starts[0]
    while waiting > 1e-12:
        recent[1:] = recent[:-1]
        recent[0] = 0.0
        new = min(max(1.0 - float(recent @ share), 0.0), waiting)
        recent[0], waiting = new, waiting - new
        starts.append(new)
    return np.array([*starts, *np.zeros(count - 1)])
