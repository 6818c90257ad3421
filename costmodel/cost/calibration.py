"""What measurements say about an operator family: efficiencies, how sure, and on what basis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from costmodel.cost.machine import Machine
from costmodel.cost.residual import Domain, Features, Residual
from costmodel.cost.time import Time
from costmodel.quantities import Array, Quantity, Seconds
from costmodel.workload.operators import AttentionCore, Elementwise, Operator

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


class Form(Protocol):
    """The physical form of a family's kernels: few parameters, each with a unit, that measurements determine."""

    def time(self, operator: Any, machine: Machine) -> Time:
        """Return the time of one kernel."""

    def features(self, operator: Any) -> Features:
        """Return where a kernel lies in the family's log-shape space [octaves]."""


@dataclass(frozen=True, slots=True, eq=False)
class FamilyFit:
    """One operator family on one device.

    compute, memory, network: achieved share of each resource's peak (one: the roofline); launch: fixed time over the
    framework's stated launch; spread: measured over predicted; basis: where the efficiencies come from. Where
    measurements determined a `form`, it stands for the roofline and those shares; `residual` corrects it near measured
    shapes, and `domain` says where they lie.
    """

    compute: Quantity = 1.0
    memory: Quantity = 1.0
    network: Quantity = 1.0
    launch: Quantity = 1.0
    spread: Spread = Spread()
    basis: str = "roofline"
    form: Form | None = None
    residual: Residual | None = None
    domain: Domain | None = None

    def bases(self, operator: Operator) -> npt.NDArray[np.str_]:
        """Return on what the time of an operator rests, size by size.

        A fit is `measured` within its domain's radius of a support point, `fitted` between the smallest and largest
        measured sizes, `extrapolated` outside.
        """
        if self.form is None or self.domain is None or self.basis != "fitted":
            return np.asarray(self.basis)
        features = self.form.features(operator)
        near = np.inf if self.residual is None else self.residual.distance(features)
        inside = np.where(np.asarray(near) <= self.domain.radius, "measured", "fitted")
        return np.where(self.domain.holds(features), inside, "extrapolated")

    def basis_at(self, operator: Operator) -> str:
        """Return on what the time of an operator of one size rests."""
        return str(self.bases(operator))

    def fitted_time(self, form: Form, operator: Operator, machine: Machine) -> Time:
        """Return the time that the form and the residual give: t = form(operator) * exp(residual(shape)).

        Kernels that share an operator's work, one after the other, each add the form's fixed time.
        """
        time = form.time(operator, machine)
        if self.residual is not None:
            time = time.scaled(self.residual.factor(form.features(operator)))
        calls = operator.calls if isinstance(operator, AttentionCore | Elementwise) else 1.0
        return time.after((calls - 1.0) * time.fixed)


ROOFLINE = FamilyFit()


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Fits by operator family, or by `family/variant` where kernels of one family are fitted apart.

    A family without one is priced at the roofline, with the roofline's own spread. notes: which fit stands in for which
    missing one, for `explain`.
    """

    name: str = "roofline"
    families: Mapping[str, FamilyFit] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def family(self, name: str) -> FamilyFit:
        """Return the fit of a family, the bare roofline where there is none."""
        return self.families.get(name, ROOFLINE)

    def fit(self, operator: Operator) -> FamilyFit:
        """Return the fit of an operator: that of its variant, else of its family, else the bare roofline."""
        own = self.families.get(f"{operator.family}/{operator.variant}")
        return self.family(operator.family) if own is None else own
