"""What measurements say about an operator family: efficiencies, how sure, and on what basis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from costmodel.cost.machine import Machine
from costmodel.cost.residual import Domain, Features, Nearness, Residual
from costmodel.cost.time import Time
from costmodel.quantities import Array, Count, Quantity, Seconds, is_single, maximum
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise, Operator, clamp_sizes

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
    """The physical form of a family's kernels: few parameters, each with a unit, that measurements determine.

    FORMULA: its equation in one line, for `explain`.
    """

    FORMULA: ClassVar[str]

    def time(self, operator: Any, machine: Machine) -> Time:
        """Return the time of one kernel."""

    def features(self, operator: Any) -> Features:
        """Return where a kernel lies in the family's log-shape space [octaves]."""


@dataclass(frozen=True, slots=True, eq=False)
class FamilyFit:
    """One operator family on one device.

    compute, memory, network: achieved share of each resource's peak (one: the roofline); launch: fixed time over the
    framework's stated launch; spread: measured over predicted; basis: where the efficiencies come from. Where
    measurements determined a `form`, it stands for the roofline and those shares (but `compute` is the share of the
    forward kernel's rate that a backward core reaches, and `query` the keys that each of its queries costs beside those
    that it sees); `residual` corrects it near measured shapes, `domain` says where they lie, and `nearness` how much
    narrower the spread is there. source: the file that states it.
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
    nearness: Nearness | None = None
    source: str = ""
    extra_keys_per_query: Count = 0.0

    def bases(self, operator: Operator) -> npt.NDArray[np.str_]:
        """Return on what the time of an operator rests, size by size.

        A fit is `measured` within its domain's radius of a support point, `fitted` between the smallest and largest
        measured sizes, `extrapolated` outside.
        """
        if self.form is None or self.domain is None or self.basis != "fitted":
            return np.asarray(self.basis)
        features = self.form.features(_one_call(operator))
        near = np.inf if self.residual is None else self.residual.distance(features)
        inside = np.where(np.asarray(near) <= self.domain.radius, "measured", "fitted")
        return np.where(self.domain.holds(features), inside, "extrapolated")

    def basis_at(self, operator: Operator) -> str:
        """Return on what the time of an operator of one size rests."""
        return str(self.bases(operator))

    def width(self, operator: Operator) -> Quantity:
        """Return how wide the spread is at the shape of an operator, over what the family states."""
        if self.form is None or self.residual is None:
            return 1.0
        features = self.form.features(_one_call(operator))
        width = 1.0 if self.nearness is None else self.nearness.width(self.residual.distance(features))
        return width if self.residual.scatter is None else width * self.residual.scatter.width(features)

    def correction(self, operator: Operator) -> Quantity:
        """Return exp(residual(shape)), by which the form's time is multiplied; one without a residual."""
        if self.form is None or self.residual is None:
            return 1.0
        return self.residual.factor(self.form.features(_one_call(operator)))

    def fitted_time(self, form: Form, operator: Operator, machine: Machine) -> Time:
        """Return the time that the form and the residual give: t = form(operator) * exp(residual(shape)).

        Calls that share a core take it each over its part of the keys, one after the other: as many times the time of
        one. A backward core takes as much longer than its forward one as it has more products, at a share of its rate:
        compute / (1 + query / keys that a query sees in the mean). Messages follow each other. Streams that share their
        bytes each add the form's fixed time.
        """
        one = _one_call(operator)
        time = form.time(one, machine).scaled(self.correction(one))
        if isinstance(operator, AttentionKernel) and isinstance(one, AttentionKernel):
            longer = operator.macs_per_pair / one.macs_per_pair / self.compute * self._beside_pairs(operator)
            return time.scaled(operator.calls * longer / operator.relative_speed)
        if isinstance(operator, Collective):
            return time.scaled(operator.calls)
        if isinstance(operator, Elementwise):
            return time.after((operator.calls - 1.0) * time.fixed)
        return time

    def _beside_pairs(self, core: AttentionKernel) -> Quantity:
        """Return by how much what a call does once a query makes a backward core longer: 1 + query / (pairs / rows)."""
        if is_single(self.extra_keys_per_query) and self.extra_keys_per_query == 0.0:
            return 1.0
        return 1.0 + self.extra_keys_per_query * core.calls * core.q_len / maximum(core.qk_pairs, 1.0)


def _one_call(operator: Operator) -> Operator:
    """Return one of the calls that share a core, each over its part of the keys; any other operator as it is.

    Of a backward core it is the forward one, whose form it borrows. Without rows or sequences, where no kernel runs, it
    has the shape of one.
    """
    operator = clamp_sizes(operator)
    if not isinstance(operator, AttentionKernel):
        return operator
    if not (is_single(operator.forward_macs_per_pair) and operator.forward_macs_per_pair == 0.0):
        operator = operator.forward
    if is_single(operator.calls) and operator.calls == 1.0:
        return operator
    calls = operator.calls
    return replace(
        operator,
        qk_pairs=operator.qk_pairs / calls,
        traffic=operator.traffic / calls,
        kv_len=operator.kv_len / calls,
        calls=1.0,
    )


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
