"""What measurements say about an operator family: efficiencies, how sure, and on what basis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from costmodel.quantities import Array, Quantity, Seconds

SHORTEST = 1e-12  # a time of zero (a group of one rank) has no logarithm
BASES = ("measured", "fitted", "transferred", "extrapolated", "roofline")


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """The 10 %, 50 % and 90 % points of measured over predicted time, by predicted time.

    times: knots of predicted time, ascending [s]; low, median, high: the points there. Between knots log measured is
    linear in log predicted time, beyond them the ratio is that of the nearest: what a model leaves out of a kernel's
    fixed time weighs most on short kernels.
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
        place = np.log(np.maximum(seconds, SHORTEST))
        median = self._ratio(place, self.median)
        return median + low * (self._ratio(place, self.low) - median) + high * (self._ratio(place, self.high) - median)

    def _ratio(self, place: Quantity, points: tuple[float, ...]) -> Array:
        """Return the ratio at a logarithm of predicted time.

        Straight lines between the knots' (log predicted, log measured); a measured time that falls below that of a
        shorter knot is raised to it, so that a longer prediction never means a shorter time.
        """
        knots = np.log(self.times)
        measured = np.maximum.accumulate(knots + np.log(points))
        return np.asarray(np.exp(np.interp(place, knots, measured - knots)))

    @property
    def is_exact(self) -> bool:
        """Tell whether the spread says nothing: predicted times are taken as true."""
        return {*self.low, *self.median, *self.high} == {1.0}


@dataclass(frozen=True, slots=True, eq=False)
class FamilyFit:
    """One operator family on one device.

    compute, memory, network: achieved share of each resource's peak (one: the roofline); launch: fixed time over the
    framework's stated launch; spread: measured over predicted; basis: where the efficiencies come from.
    """

    compute: Quantity = 1.0
    memory: Quantity = 1.0
    network: Quantity = 1.0
    launch: Quantity = 1.0
    spread: Spread = Spread()
    basis: str = "roofline"


ROOFLINE = FamilyFit()


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Fits by operator family. A family without one is priced at the roofline, with the roofline's own spread.

    notes: which fit stands in for which missing one, for `explain`.
    """

    name: str = "roofline"
    families: Mapping[str, FamilyFit] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def family(self, name: str) -> FamilyFit:
        """Return the fit of a family, the bare roofline where there is none."""
        return self.families.get(name, ROOFLINE)
