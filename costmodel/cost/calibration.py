"""What measurements say about an operator family: efficiencies, how sure, and on what basis."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import mul
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from costmodel.cost.physical_bound import least_time
from costmodel.cost.residual import Domain, Features, Nearness, Residual
from costmodel.cost.spread import EXACT, EvenSpread, Spread, UnseenGroups, opened
from costmodel.cost.time import SHORTEST, Machine, Terms, Time
from costmodel.equations import equation
from costmodel.quantities import (
    Count,
    Mask,
    Quantity,
    Seconds,
    anywhere,
    exp,
    hypot,
    is_single,
    log,
    maximum,
    minimum,
    power,
    sum_of,
    where,
)
from costmodel.records import Record, field, replace
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    Elementwise,
    Gemm,
    Operator,
    clamp_sizes,
    is_alone,
    kernel_key,
)

ANCHORED = "anchored"  # of a whole run: by measured runs of the same site
BASES = ("measured", "fitted", "transferred", "extrapolated", "roofline")


class Form(Protocol):
    """The physical form of a family's kernels: few parameters, each with a unit, that measurements determine.

    SECTION: of docs/method.md, which explains it.
    AXES: of the family's log-shape space, with the length of the residual's bumps along each before cross-validation
        scales it [octaves].
    """

    SECTION: ClassVar[str]
    AXES: ClassVar[dict[str, float]]

    def time(self, operator: Any, machine: Machine) -> Time:
        """Return the time of one kernel."""

    def terms(self, operator: Any, machine: Machine) -> Terms:
        """Return the terms of one kernel of one size by name. Its equations state how they follow from one another."""

    def features(self, operator: Any) -> Features:
        """Return where a kernel lies in the family's log-shape space [octaves]."""

    def __hash__(self) -> int:
        """Return the hash of the object itself."""


LEAST_WEIGHT = 0.1  # of a fit in a mean of several
LATEST = 4  # features that are kept: those of an operator for each of a few joined fits; grids would fill the memory
NEW_GROUP = 0.25  # octaves: a group this near to a measured one along every axis that names it is as good as measured


class FamilyFit(Record, kw_only=True):
    """One operator family on one device.

    Either shares of the roofline's peaks:
        compute_efficiency, hbm_efficiency, network_efficiency: achieved share of each peak; one: the roofline.
        launch_factor: fixed time over the framework's launch.
    or what measurements determined in their place:
        form: of one kernel.
        residual: corrects it near measured shapes.
        domain: where these lie.
        nearness: how much narrower the spread is there.
    Of a backward kernel, over the forward one whose form it borrows:
        backward_rate: multiply-adds per second, over the forward kernel's.
        extra_keys_per_query: keys that each query costs besides those that it sees, in the forward kernel.
    spread: measured over predicted time.
    unseen: what groups of shapes that were not measured add to it.
    basis: where the numbers come from.
    source: the file that states them.
    error: expected inside the measured sizes, half of the 80 % interval of log(measured / predicted).
    others: fits of other devices, builds and libraries that say something of the same kernels. None: there is none.
    companions: fits of streams in the same rows, made together with this one, by `family/variant`.
    in_place: its kernels leave rows where they are.
    """

    compute_efficiency: Quantity = 1.0
    hbm_efficiency: Quantity = 1.0
    network_efficiency: Quantity = 1.0
    launch_factor: Quantity = 1.0
    form: Form | None = None
    residual: Residual | None = None
    domain: Domain | None = None
    nearness: Nearness | None = None
    backward_rate: Quantity = 1.0
    extra_keys_per_query: Count = 0.0
    spread: Spread = EXACT
    unseen: UnseenGroups | None = None
    basis: str = "roofline"
    source: str = ""
    error: float = 0.0
    others: OtherFits | None = None
    companions: Mapping[str, FamilyFit] = field(default_factory=dict)
    in_place: bool = False

    def at(self, operator: Operator) -> FamilyFit:
        """Return the fit at the shape of an operator: this one, or the mean of it and others where these say something.

            log t = sum_i w_i log t_i,   w = C^-1 1 / (1' C^-1 1),   C_ij = V_ij + [i = j] (b_i^2 - min_j b_j^2)

        V: covariance of the errors of the fits (`OtherFits`).
        b: what the distance of the shape from what each was made from adds to its error. What all share moves no
        weight. This is the best linear unbiased prediction of the kernel's log time [Cressie, Statistics for Spatial
        Data, 1993, section 3.2, ordinary kriging]. A fit of the very kernels answers alone inside what it was made
        from, and outside until the others together weigh more than it.
        """
        others = self.others
        if others is None or not anywhere(self.is_joined(operator)):
            return self
        parts = (self, *others.fits)
        squares = [part.beyond(operator) ** 2 for part in parts]
        least = functools.reduce(minimum, squares)
        excess = [square - least for square in squares]
        weights, variance = others.weights(excess, operator.tuned if isinstance(operator, Gemm) else 0.0)
        own = (weights[0] * self.error) ** 2 if others.is_own else 0.0
        return MeanFit.of(parts, weights, variance + own + least)

    def is_joined(self, operator: Operator) -> Mask:
        """Tell where others may have a part in the fit at the shape of an operator."""
        if self.others is None:
            return False
        return not self.others.is_own or self.beyond(operator) > 0.0

    def beyond(self, operator: Operator) -> Quantity:
        """Return what the distance of a shape from the measured sizes adds to the error."""
        if self.form is None or self.domain is None or self.unseen is None:
            return 0.0
        return self.unseen.at_distance(self.domain.beyond(_features(self.form, operator)))

    def widened(self, error: float) -> FamilyFit:
        """Return the fit with a further, independent error, its companions as well."""
        companions = {key: each.widened(error) for key, each in self.companions.items()}
        return replace(self, spread=self.spread.widened(error), companions=companions)

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the files that have a part in its times."""
        return (self.source,) if self.source else ()

    def bases(self, operator: Operator, time: Time | None = None) -> npt.NDArray[np.str_]:
        """Return on what the time of an operator rests, size by size. time: of it, where links are known.

        A fit is `measured` within its domain's radius of a support point, `fitted` between the smallest and largest
        measured sizes, `extrapolated` outside and where an exponent is past its measured range.
        """
        if self.form is None or self.domain is None or self.basis != "fitted":
            return np.asarray(self.basis)
        features = _features(self.form, operator)
        distance = np.inf if self.residual is None else self.residual.distance(features)
        within = np.where(np.asarray(distance) <= self.domain.radius, "measured", "fitted")
        holds = self.domain.holds(features) & (True if time is None else np.equal(time.beyond, 0.0))
        return np.where(holds, within, "extrapolated")

    def basis_at(self, operator: Operator, time: Time | None = None) -> str:
        """Return on what the time of an operator of one size rests."""
        return str(self.bases(operator, time).item())

    def ratio(self, time: Time, seconds: Seconds, low: Quantity, high: Quantity) -> Quantity:
        """Return measured over predicted time, as `Spread.ratio` does.

        time: of the operator.
        seconds: of one call.
        """
        half = self.added_half_width(time)
        if is_single(half) and half == 0.0:
            return self.spread.ratio(seconds, low, high)
        return opened(self.spread, seconds, (low, high), half)

    def added_half_width(self, time: Time) -> Quantity:
        """Return what an exponent past its measured range adds to half of the interval of a time [log]."""
        return time.beyond

    def width(self, operator: Operator) -> Quantity:
        """Return how wide the spread is at the shape of an operator, over what the family states."""
        if self.form is None or self.residual is None:
            return 1.0
        features = _features(self.form, operator)
        width = 1.0 if self.nearness is None else self.nearness.width(self.residual.distance(features))
        return width if self.residual.dispersion is None else width * self.residual.dispersion.width(features)

    def unseen_half_width(self, operator: Operator) -> Quantity:
        """Return what an unmeasured group of shapes adds to half of the interval at the shape of an operator [log].

        sqrt(inside^2 [no measured group is near] + at_distance(octaves outside the measured sizes)^2)
        """
        if self.form is None or self.domain is None or self.residual is None or self.unseen is None:
            return 0.0
        features = _features(self.form, operator)
        outside = self.unseen.at_distance(self.domain.beyond(features))
        if self.unseen.inside == 0.0:
            return outside
        is_new = self.residual.group_distance(features) > NEW_GROUP
        return hypot(where(is_new, self.unseen.inside, 0.0), outside)

    def correction(self, operator: Operator) -> Quantity:
        """Return exp(residual(shape)), by which the form's time is multiplied. One without a residual."""
        if self.form is None or self.residual is None:
            return 1.0
        return self.residual.factor(_features(self.form, operator))

    @equation
    def fitted_time(self, form: Form, operator: Operator, machine: Machine) -> Time:
        """Return the time that the form and the residual give.

            seconds = t * residual_factor * repeats                   t: of one call, by the form
            seconds = t * residual_factor + further
            further = (operator.calls - 1) * time.fixed               streams that share their bytes
            repeats = operator.calls * backward_factor / operator.relative_speed
            residual_factor := exp(residual(shape)), near measured shapes

        Calls that share an attention kernel take it each over its part of the keys, one after the other, of a backward
        kernel with `extra_keys_per_query`. Messages and GEMMs follow each other.
        """
        call = one_call(operator)
        one, residual_factor = form.time(self._with_extra_keys(call), machine), self.correction(call)
        t = one.seconds  # noqa: F841  its equation reads it
        time = one.scaled(residual_factor)
        if isinstance(operator, Elementwise):
            further = (operator.calls - 1.0) * time.fixed
            return time.after(further)
        repeats: Quantity = 1.0
        if isinstance(operator, AttentionKernel) and isinstance(call, AttentionKernel):
            backward_factor = operator.macs_per_pair / call.macs_per_pair / self.backward_rate
            repeats = operator.calls * backward_factor / operator.relative_speed
        elif isinstance(operator, Collective | Gemm):
            repeats = operator.calls
        return time.scaled(repeats)

    def call_terms(self, operator: Operator, machine: Machine) -> Terms:
        """Return the terms of one call by the form's equation."""
        assert self.form is not None
        return self.form.terms(self._with_extra_keys(one_call(operator)), machine)

    def _with_extra_keys(self, call: Operator) -> Operator:
        """Return the forward kernel that a backward one is timed by: each query sees `extra_keys_per_query` more."""
        extra = self.extra_keys_per_query
        if not isinstance(call, AttentionKernel) or (is_single(extra) and extra == 0.0):
            return call
        last = call.last_query_kv_len
        return replace(
            call,
            qk_pairs=call.qk_pairs + extra * call.q_len,
            kv_len=call.kv_len + extra,
            last_query_kv_len=None if last is None else last + extra,
        )


@functools.lru_cache(maxsize=LATEST)
def _features(form: Form, operator: Operator) -> Features:
    """Return the features of an operator's one call. Its fits ask several times each, one operator after the other."""
    return form.features(one_call(operator))


@functools.lru_cache(maxsize=LATEST)
def one_call(operator: Operator) -> Operator:
    """Return one of the calls that share an attention kernel, each over its part of the keys, or one call of a GEMM.

    Of a backward kernel it is the forward one, whose form it borrows. Without rows or sequences, where no kernel runs,
    it has the shape of one.
    """
    operator = clamp_sizes(operator)
    if not isinstance(operator, AttentionKernel):
        return operator.one if isinstance(operator, Gemm) else operator
    if not (is_single(operator.forward_macs_per_pair) and operator.forward_macs_per_pair == 0.0):
        operator = operator.forward
    if is_single(operator.calls) and operator.calls == 1.0:
        return operator
    calls, last = operator.calls, operator.last_query_kv_len
    return replace(
        operator,
        qk_pairs=operator.qk_pairs / calls,
        traffic=operator.traffic / calls,
        kv_len=operator.kv_len / calls,
        last_query_kv_len=None if last is None else last / calls,
        calls=1.0,
    )


class OtherFits(Record):
    """Fits that say something of the kernels that another one answers for.

    covariance: of the errors of the fit and of these, in this order, squares of half widths of 80 % intervals [log].
    tuned: the same at layers with tuned tiles, which other builds run as well. None: no other.
    is_own: the fit is of the very kernels. Its covariance is without its error inside what it was made from.
    is_lent: it is of another device, whose distance is a part of the covariance.
    """

    fits: tuple[FamilyFit, ...]
    covariance: tuple[tuple[float, ...], ...]
    tuned: tuple[tuple[float, ...], ...] | None = None
    is_own: bool = False
    is_lent: bool = False

    def weights(self, excess: Sequence[Quantity], tuned: Quantity = 0.0) -> tuple[list[Quantity], Quantity]:
        """Return what each fit weighs in the mean, and the variance of the mean.

            w = C^-1 1 / (1' C^-1 1),   w' = max(w - LEAST_WEIGHT, 0) / sum
            w'_0 = min(2 w'_0, 1) of a fit of the very kernels on the device, the others in proportion

        excess: what the shape adds to the variance of each.
        tuned: one at layers with tuned tiles, else zero.
        """
        rows: list[list[Quantity]] = [list(row) for row in self.covariance]
        if self.tuned is not None:
            pairs = zip(self.covariance, self.tuned, strict=True)
            rows = [[one + tuned * (other - one) for one, other in zip(*both, strict=True)] for both in pairs]
        for place, own in enumerate(excess):
            rows[place][place] = rows[place][place] + own
        best = _shares(_solved(rows, [1.0] * len(rows)))
        weights = _shares([maximum(weight - LEAST_WEIGHT, 0.0) for weight in best])
        if self.is_own and not self.is_lent:
            first, *rest = weights
            own = minimum(2.0 * first, 1.0)
            scale = (1.0 - own) / maximum(1.0 - first, LEAST_WEIGHT)
            weights = [own, *(weight * scale for weight in rest)]
        errors = [sum_of(map(mul, row, weights)) for row in rows]
        return weights, sum_of(map(mul, errors, weights))


def _solved(rows: Sequence[Sequence[Quantity]], right: Sequence[Quantity]) -> list[Quantity]:
    """Return x of A x = b at each point, by elimination. rows: of A, few, symmetric and positive definite."""
    if not rows:
        return []
    (pivot, *beside), *below = rows
    factors = [row[0] / pivot for row in below]
    smaller = [
        [each - factor * above for each, above in zip(row[1:], beside, strict=True)]
        for row, factor in zip(below, factors, strict=True)
    ]
    known = _solved(smaller, [b - factor * right[0] for b, factor in zip(right[1:], factors, strict=True)])
    return [(right[0] - sum_of(map(mul, beside, known))) / pivot, *known]


def _shares(parts: Sequence[Quantity]) -> list[Quantity]:
    """Return parts over their sum."""
    whole = sum_of(parts)
    return [part / whole for part in parts]


class MeanFit(FamilyFit, kw_only=True):
    """Several fits of the same kernels: the mean of the logarithms of their times. Bases are those of the first.

    parts: each has a form.
    weights: of the parts, their sum one.
    """

    parts: tuple[FamilyFit, ...]
    weights: tuple[Quantity, ...]

    @classmethod
    def of(cls, parts: Sequence[FamilyFit], weights: Sequence[Quantity], variance: Quantity) -> FamilyFit:
        """Return the mean of the parts that weigh anything: of one that part itself."""
        used = [(part, weight) for part, weight in zip(parts, weights, strict=True) if anywhere(weight > 0.0)]
        if len(used) == 1:
            return used[0][0]
        first = used[0][0]
        return cls(
            form=first.form, spread=EvenSpread(half=power(variance, 0.5)), error=first.error, basis=first.basis,
            source=first.source, parts=tuple(part for part, _ in used), weights=tuple(weight for _, weight in used),
        )  # fmt: skip

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the files of all parts, however little they weigh."""
        return tuple(dict.fromkeys(source for part in self.parts for source in part.sources))

    def bases(self, operator: Operator, time: Time | None = None) -> npt.NDArray[np.str_]:
        """Return on what the time of an operator rests, size by size."""
        return self.parts[0].bases(operator, time)

    def width(self, operator: Operator) -> Quantity:  # noqa: ARG002  the spread is that of the shape
        """Return how wide the spread is at the shape of an operator, over what the family states."""
        return 1.0

    def unseen_half_width(self, operator: Operator) -> Quantity:  # noqa: ARG002  a part of the spread
        """Return what an unmeasured group of shapes adds to half of the interval at the shape of an operator [log]."""
        return 0.0

    @equation
    def fitted_time(self, form: Form, operator: Operator, machine: Machine) -> Time:
        """Return the time of the first fit, as long as the weighted mean of the logarithms of all.

        seconds = first.seconds * mean_factor
        mean_factor = exp(mean)
        mean := sum over fits of weight * log(time / first.seconds), no time shorter than the device allows
        """
        times = [part.fitted_time(part.form or form, operator, machine) for part in self.parts]
        first, least = times[0], maximum(least_time(operator, machine), SHORTEST)
        own = maximum(first.seconds, SHORTEST)
        logs = [log(maximum(time.seconds, least) / own) for time in times]
        mean = sum_of(weight * each for weight, each in zip(self.weights, logs, strict=True))
        mean_factor = exp(mean)
        return first.scaled(mean_factor)

    def call_terms(self, operator: Operator, machine: Machine) -> Terms:
        """Return the terms of one call by the first fit of one size."""
        return self.parts[0].call_terms(operator, machine)


ROOFLINE = FamilyFit()


class Calibration(Record):
    """Fits by operator family, or by `family/variant` where kernels of one family are fitted separately.

    A family without one is timed by the roofline, with the roofline's own spread. notes: which fit substitutes for
    which missing one, of all that was asked so far; notes_of: those of a `family/variant`.
    """

    name: str = "roofline"
    families: Mapping[str, FamilyFit] = field(default_factory=dict)
    notes: Sequence[str] = ()
    notes_of: Callable[[str], Sequence[str]] | None = None

    def told(self, operators: Iterable[Operator]) -> tuple[str, ...]:
        """Return the notes of some operators, `FAMILY/VARIANT: TEXT`, those of one family with the same text as one.

        A calibration is kept for all runs of a device and framework. Each is stated what stands in for its own kernels,
        and for messages between several ranks.
        """
        notes: Iterable[str] = self.notes
        if self.notes_of is not None:
            keys = dict.fromkeys(kernel_key(one) for one in operators if not is_alone(one))
            notes = dict.fromkeys(note for key in keys for note in self.notes_of(key))
        variants: dict[tuple[str, str], list[str]] = {}
        for note in notes:
            key, _, text = note.partition(": ")
            family, _, variant = key.partition("/")
            variants.setdefault((family, text), []).append(variant)
        return tuple(
            f"{family}{'/' if any(names) else ''}{', '.join(sorted(filter(None, names)))}: {text}"
            for (family, text), names in variants.items()
        )

    def family(self, name: str) -> FamilyFit:
        """Return the fit of a family, the bare roofline where there is none."""
        return self.families.get(name, ROOFLINE)

    def fit(self, operator: Operator) -> FamilyFit:
        """Return the fit of an operator at its shape: of its variant, else of its family, else the bare roofline.

        Of a stream around products it is the one that was made together with that of the products, if any.
        """
        return self.at_any_shape(operator).at(operator)

    def is_joined(self, operator: Operator) -> Mask:
        """Tell where several fits may give the time of an operator together."""
        return self.at_any_shape(operator).is_joined(operator)

    def at_any_shape(self, operator: Operator) -> FamilyFit:
        """Return the fit of an operator without those that join it at its shape."""
        fit = self.companion(operator) or self.families.get(f"{operator.family}/{operator.variant}")
        return self.family(operator.family) if fit is None else fit

    def companion(self, operator: Operator) -> FamilyFit | None:
        """Return the fit of a stream around products that was made together with theirs, if any."""
        product = self._product(operator)
        return None if product is None else product.companions.get(f"{operator.family}/{operator.variant}")

    def as_run(self, operator: Operator) -> Operator:
        """Return an operator as the kernels run it that price it: streams of experts copy rows, or leave them."""
        if not isinstance(operator, Elementwise) or operator.in_place is None:
            return operator
        product = self._product(operator)
        return replace(operator, in_place=None) if product is None or not product.in_place else operator.in_place

    def _product(self, operator: Operator) -> FamilyFit | None:
        """Return the fit of the products that a stream belongs to."""
        if not isinstance(operator, Elementwise) or not operator.product:
            return None
        fit = self.families.get(operator.product)
        return self.family(operator.product.partition("/")[0]) if fit is None else fit


class PartCalibrations(Calibration):
    """The calibration of the main part of a scenario, and those of the other parts."""

    others: tuple[Calibration, ...] = (Calibration(),)

    @classmethod
    def of(cls, main: Calibration, *others: Calibration) -> PartCalibrations:
        """Return all."""
        return cls(main.name, main.families, main.notes, main.notes_of, others=others)


def other_of(calibration: Calibration, number: int = 0) -> Calibration:
    """Return the calibration of another part of a scenario, the same where all have one."""
    return calibration.others[number] if isinstance(calibration, PartCalibrations) else calibration
