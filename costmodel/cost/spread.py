"""How far measured times lie from predicted ones: by predicted time, and by the distance from what was measured."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from costmodel.cost.time import SHORTEST
from costmodel.quantities import Array, Quantity, Seconds, hypot
from costmodel.records import Record, ValueRecord, replace


class Spread(Record):
    """The 10 %, 50 % and 90 % points of measured over predicted time, by predicted time.

    times: knots of predicted time, ascending [s].
    low, median, high: the points there. Between knots log measured is linear in log predicted time, beyond them the
    ratio is that of the nearest: what a model leaves out of a kernel's fixed time weighs most on short kernels.
    """

    times: tuple[float, ...] = (1.0,)
    low: tuple[float, ...] = (1.0,)
    median: tuple[float, ...] = (1.0,)
    high: tuple[float, ...] = (1.0,)

    def ratio(self, seconds: Seconds, low: Quantity, high: Quantity) -> Quantity:
        """Return measured over predicted time of kernels predicted at `seconds`.

            median(t) + low * (low(t) - median(t)) + high * (high(t) - median(t))

        low, high: 1 where the family is taken at its low or high point, else 0.
        """
        log_time = np.log(np.maximum(seconds, SHORTEST))
        median = self._ratio(log_time, self.median)
        low_side, high_side = self._ratio(log_time, self.low) - median, self._ratio(log_time, self.high) - median
        return median + low * low_side + high * high_side

    def _ratio(self, log_time: Quantity, points: tuple[float, ...]) -> Quantity:
        """Return the ratio at a logarithm of predicted time.

        Straight lines between the knots' (log predicted, log measured). A measured time that falls below that of a
        shorter knot is raised to it, so that a longer prediction never means a shorter time.
        """
        if len(points) == 1:
            return points[0]
        return np.asarray(np.exp(np.interp(log_time, *_lines(self.times, points))))

    def widened(self, error: float) -> Spread:
        """Return the spread with a further, independent error. error: half of its 80 % interval, a logarithm."""

        def wide(points: tuple[float, ...], sign: float) -> tuple[float, ...]:
            pairs = zip(points, self.median, strict=True)
            return tuple(
                middle * math.exp(sign * math.hypot(math.log(point / middle), error)) for point, middle in pairs
            )

        return replace(self, low=wide(self.low, -1.0), high=wide(self.high, 1.0))

    @property
    def is_exact(self) -> bool:
        """Tell whether predicted times are taken as true."""
        return {*self.low, *self.median, *self.high} == {1.0}


EXACT = Spread()


class EvenSpread(Spread, kw_only=True):
    """A spread as wide at every predicted time. half: of its 80 % interval, by shape [log]."""

    half: Quantity

    def ratio(self, seconds: Seconds, low: Quantity, high: Quantity) -> Quantity:  # noqa: ARG002  at any time
        """Return measured over predicted time of kernels."""
        return 1.0 + low * np.expm1(-self.half) + high * np.expm1(self.half)

    def widened(self, error: float) -> Spread:
        """Return the spread with a further, independent error."""
        return replace(self, half=hypot(self.half, error))

    @property
    def is_exact(self) -> bool:
        """Tell whether predicted times are taken as true."""
        return not np.any(self.half)


class UnseenGroups(ValueRecord):
    """Half-widths of the 80 % interval of kernels whose group of shapes no fit saw [log].

    inside: of a family of few groups, whose own cross-validation held out single shapes, zero where it held out groups.
    beyond: for each octave outside the measured sizes.
    """

    inside: float
    beyond: float

    def at_distance(self, octaves: Quantity) -> Quantity:
        """Return what a distance outside the measured sizes adds."""
        return self.beyond * octaves


def opened(spread: Spread, seconds: Seconds, ends: tuple[Quantity, Quantity], half: Quantity) -> Quantity:
    """Return measured over predicted time by a spread with a further, independent error that differs by shape.

    ends: low, high of `Spread.ratio`.
    half: of the further error's 80 % interval [log].
    """
    median, low, high = (spread.ratio(seconds, *end) for end in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)))
    below, above = (np.hypot(np.log(point / median), half) for point in (low, high))
    return median * (1.0 + ends[0] * np.expm1(-below) + ends[1] * np.expm1(above))


@lru_cache(maxsize=4096)
def _lines(times: tuple[float, ...], points: tuple[float, ...]) -> tuple[Array, Array]:
    """Return the logarithms of predicted times at some knots, and of the ratios there."""
    knots = np.log(times)
    return knots, np.maximum.accumulate(knots + np.log(points)) - knots
