"""Distributions of requests' times: all of them, or how many fall into each bin of a logarithmic histogram.

A run of some million requests keeps every time, and its quantiles are those of the times. A longer one counts them in
bins, each 0.2 % wide, as DDSketch does [Masson, Rim, Lee, PVLDB 12(12), 2019]: a quantile is then within 0.1 % of the
one of all times, and the memory is the same for any number of them. Counts of several parts of a run add up.
"""

from __future__ import annotations

import math

import numpy as np

from costmodel.network.sharing import Flags
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.serving.availability import Fleet
from costmodel.serving.rows import Records
from costmodel.serving.state import Engines, Policy
from costmodel.serving.step_times import StepTimes

ERROR = 1e-3  # of a quantile from bins, relative
SHORTEST, LONGEST = 1e-7, 1e9  # [s] of the first and the last bin; shorter times count as 0
_WIDTH = math.log((1.0 + ERROR) / (1.0 - ERROR))  # of a bin, of a logarithm
_BINS = math.ceil(math.log(LONGEST / SHORTEST) / _WIDTH)


class Sample:
    """Every time."""

    def __init__(self) -> None:
        self._parts: list[Array] = []

    def add(self, values: Array) -> None:
        """Add some times [s]. Those that are NaN do not count."""
        self._parts.append(values[~np.isnan(values)])

    @property
    def _values(self) -> Array:
        if len(self._parts) != 1:
            self._parts = [np.concatenate([np.zeros(0), *self._parts])]
        return self._parts[0]

    @property
    def count(self) -> int:
        """Return the number of times."""
        return len(self._values)

    @property
    def mean(self) -> float:
        """Return the mean [s], NaN without any."""
        return float(self._values.mean()) if self.count else math.nan

    def quantile(self, share: float) -> float:
        """Return a quantile, linear between neighbouring times [s]."""
        return float(np.quantile(self._values, share))

    def share_above(self, limit: float) -> float:
        """Return the share of times that are longer than a limit."""
        return float(np.mean(self._values > limit))


class Histogram:
    """How many times fall into each bin. Their sum is exact."""

    def __init__(self) -> None:
        self._counts, self._sum = np.zeros(1 + _BINS, np.int64), 0.0

    def add(self, values: Array) -> None:
        """Add some times [s]. Those that are NaN do not count."""
        known = values[~np.isnan(values)]
        self._sum += float(known.sum())
        with np.errstate(divide="ignore"):
            logarithm = np.log(np.maximum(known, 0.0) / SHORTEST)
        bins = np.clip(np.ceil(logarithm / _WIDTH), 0, _BINS).astype(np.int64)
        self._counts += np.bincount(bins, minlength=1 + _BINS)

    @property
    def count(self) -> int:
        """Return the number of times."""
        return int(self._counts.sum())

    @property
    def mean(self) -> float:
        """Return the mean [s], NaN without any."""
        return self._sum / self.count if self.count else math.nan

    def quantile(self, share: float) -> float:
        """Return a quantile, linear between the middles of neighbouring times' bins [s]."""
        place, below = share * (self.count - 1), np.cumsum(self._counts)
        first, second = (
            int(np.searchsorted(below, rank, side="right")) for rank in (math.floor(place), math.ceil(place))
        )
        return _middle(first) + (place - math.floor(place)) * (_middle(second) - _middle(first))

    def share_above(self, limit: float) -> float:
        """Return the share of times whose bins are above that of a limit."""
        last = math.ceil(math.log(limit / SHORTEST) / _WIDTH) if limit > SHORTEST else 0
        return float(self._counts[last + 1 :].sum()) / self.count


def _middle(index: int) -> float:
    """Return the time of a bin from which both its ends are equally far, in relation to them [s]."""
    return 0.0 if index == 0 else SHORTEST * math.exp(index * _WIDTH) * (1.0 - ERROR)


class Served(Record, kw_only=True):
    """What became of the requests.

    requests: records of `Request`.
    engines: one row for each.
    front_end: what client and front end add to the first token of each request [s].
    fleet: who served when.
    has_priorities: requests have some.
    """

    requests: Records
    engines: Engines
    policy: Policy
    times: StepTimes
    front_end: Array
    fleet: Fleet
    has_priorities: bool = False

    @property
    def done(self) -> Served:
        """Return the requests that were served: all, but for those that were turned away."""
        return self.of(np.isfinite(self.requests["finish"])) if self.fleet.state["rejected"][0] else self

    def of(self, some: Flags) -> Served:
        """Return the same with some of the requests, whose times and counts metrics are of."""
        return replace(self, requests=self.requests[some], front_end=self.front_end[some])
