"""What measurements say about an operator family: efficiencies, how sure, and on what basis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from costmodel.cost.likeness import Likeness
from costmodel.cost.machine import Machine
from costmodel.cost.physical_bound import least_time
from costmodel.cost.residual import Domain, Features, Nearness, Residual
from costmodel.cost.spread import EXACT, Agreement, Spread, SpreadByShape, UnseenGroups, opened
from costmodel.cost.terms import SHORTEST, Terms
from costmodel.cost.time import Time
from costmodel.equations import equation
from costmodel.quantities import (
    Count,
    Indices,
    Mask,
    Quantity,
    Seconds,
    exp,
    hypot,
    is_single,
    log,
    maximum,
    place_of_largest,
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


LEAST_ERROR = 1e-3  # half width: nothing is known better than this
TIME_PARTS = ("seconds", "compute", "memory", "network", "fixed", "apart", "beyond")
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
    step: the part of it that the step from another device costs, which all fits of that `relation` share.
    competitors: gives other fits that may answer for the same kernels, none where this one answers at any shape.
    agreement: how the error of joined fits follows from the distance between they. None: the leading fit's is taken.
    transfer_error: the part of it that steps to another die, build or library cost, zero for a fit of the very kernels.
    likeness: in what this device equals the one of its die that lends the fit. None: in nothing, in all, or none does.
    alike: what of the squares of both is dropped for layers with tuned tiles, which another build runs as well.
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
    step: float = 0.0
    relation: str = ""
    competitors: Callable[[], Sequence[FamilyFit]] | None = None
    agreement: Agreement | None = None
    transfer_error: float = 0.0
    likeness: Likeness | None = None
    alike: float = 0.0
    companions: Mapping[str, FamilyFit] = field(default_factory=dict)
    in_place: bool = False

    def at(self, operator: Operator) -> FamilyFit:
        """Return the fit at the shape of an operator: this one, joined by its competitors as far as they count.

            log t = sum_i w_i * log t_i / sum_i w_i
            w_0   = v_0,   w_i = far * v_i,   far = (beyond^2 + transfer_error^2) / (beyond^2 + error^2)
            v_i   = 1/d_i * (1 - k_i + k_i / (1 + step^2 sum_j k_j/d_j)),   d_i = error_i^2 - (k_i * step)^2
            k_0   = share of the roofline in which the lending device differs,   k_i = 1;   j: fits of the same relation

        error_i: expected at the shape.
        step: its part that fits of one relation share.
        beyond: what the distance adds to this fit's own. Of such errors the mean with weights v has the least of all
        (generalised least squares: row sums of the inverse covariance). `far` is the share of this fit's squared error
        that is not its own: it lets competitors in as the shape leaves what was measured, or the fit its device. That
        of the least error leads, of a competitor over sqrt(far).
        """
        joined = self.is_joined(operator)
        if self.competitors is None or not (joined.any() if isinstance(joined, np.ndarray) else joined):
            return self
        beyond = self._beyond(operator)
        parts = (self, *self.competitors())
        less, own = self._alike(operator), self._equal(operator)
        far = (beyond * beyond + self.transfer_error**2 - less) / (beyond * beyond + self.error**2 - less - own)
        admitted = (1.0, *(far,) * (len(parts) - 1))
        errors = [maximum(part.expected_error(operator), LEAST_ERROR) for part in parts]
        weights = [
            share * weight
            for share, weight in zip(admitted, _least_error_weights(parts, errors, operator), strict=True)
        ]
        total = sum_of(weights)
        precisions = [share / (error * error) for share, error in zip(admitted, errors, strict=True)]
        fit = JoinedFit.of(parts, tuple(weight / total for weight in weights), place_of_largest(precisions))
        return fit if self.agreement is None else fit.agreeing(self.agreement, is_lent=self.transfer_error > 0.0)

    def is_joined(self, operator: Operator) -> Mask:
        """Tell where competitors have a part in the fit at the shape of an operator."""
        if self.competitors is None:
            return False
        return self.transfer_error > 0.0 or self._beyond(operator) > 0.0

    def expected_error(self, operator: Operator) -> Quantity:
        """Return the expected error at a shape: sqrt(error^2 - alike - equal + unseen_half_width^2)."""
        left = self.error**2 - self._alike(operator) - self._equal(operator)
        return hypot(left**0.5, self.unseen_half_width(operator))

    def stepped(self, operator: Operator) -> Quantity:
        """Return the share of `step` that a kernel meets: the part of it in which the fit's device differs."""
        return 1.0 if self.likeness is None else self.likeness.differing(operator)

    def _equal(self, operator: Operator) -> Quantity:
        """Return what of the squared error is dropped where what bounds a kernel is equal on the fit's device."""
        return 0.0 if self.likeness is None else self.step**2 * (1.0 - self.stepped(operator) ** 2)

    def _alike(self, operator: Operator) -> Quantity:
        """Return what of the squared error is dropped at a layer."""
        return self.alike * operator.tuned if self.alike > 0.0 and isinstance(operator, Gemm) else 0.0

    def _beyond(self, operator: Operator) -> Quantity:
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
        """Return measured over predicted time, as `Spread.ratio` does, its ends as distant as joined fits are apart.

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
            backward_factor = self._products_ratio(operator, call)
            repeats = operator.calls * backward_factor / operator.relative_speed
        elif isinstance(operator, Collective | Gemm):
            repeats = operator.calls
        return time.scaled(repeats)

    def call_terms(self, operator: Operator, machine: Machine) -> Terms:
        """Return the terms of one call by the form's equation."""
        assert self.form is not None
        return self.form.terms(self._with_extra_keys(one_call(operator)), machine)

    def _products_ratio(self, operator: AttentionKernel, call: AttentionKernel) -> Quantity:
        """Return how much longer a backward kernel takes for its more products, one of a forward kernel."""
        return operator.macs_per_pair / call.macs_per_pair / self.backward_rate

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


@lru_cache(maxsize=LATEST)
def _features(form: Form, operator: Operator) -> Features:
    """Return the features of an operator's one call. Its fits ask several times each, one operator after the other."""
    return form.features(one_call(operator))


@lru_cache(maxsize=LATEST)
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


def _least_error_weights(
    parts: Sequence[FamilyFit], errors: Sequence[Quantity], operator: Operator
) -> list[Quantity]:  # fmt: skip
    """Return the weights v of `FamilyFit.at` of some fits. errors: expected at the shape, of each."""
    steps = [(part.relation, part.step, part.stepped(operator)) for part in parts]
    own = [
        1.0 / maximum(error * error - (met * step) ** 2, LEAST_ERROR**2)
        for error, (_, step, met) in zip(errors, steps, strict=True)
    ]
    shared = {
        (relation, step): sum_of(
            met * each for each, (other, size, met) in zip(own, steps, strict=True) if (other, size) == (relation, step)
        )
        for relation, step, _ in steps
    }
    return [
        (1.0 - met) * each + met * each / (1.0 + step**2 * shared[relation, step])
        for each, (relation, step, met) in zip(own, steps, strict=True)
    ]


class JoinedFit(FamilyFit, kw_only=True):
    """Several fits of the same kernels, joined shape by shape. Interval, bases and terms are those of the leading one,
    the interval narrower where all agree and wider where they do not (`Agreement`).

    parts: each has a form.
    weights: of the parts, their sum one.
    leading: the position of the part of the least expected error, by shape. One number where that is the same for all.
    claimed: the share of its interval that the leading one keeps.
    """

    parts: tuple[FamilyFit, ...]
    weights: tuple[Quantity, ...]
    leading: Indices | int
    claimed: float = 1.0

    @classmethod
    def of(cls, parts: Sequence[FamilyFit], weights: tuple[Quantity, ...], leading: Indices | int) -> JoinedFit:
        """Return the fits joined."""
        places = [leading] if isinstance(leading, int) else np.unique(leading).tolist()
        led = [parts[index] for index in places]
        spread = led[0].spread
        if len(led) > 1:
            spread = SpreadByShape(parts=tuple(part.spread for part in parts), which=leading)
        bases = {part.basis for part in led}
        return cls(
            form=led[0].form, spread=spread, error=led[0].error,
            basis=bases.pop() if len(bases) == 1 else "transferred",
            source=", ".join(dict.fromkeys(part.source for part in led)), parts=tuple(parts), weights=weights,
            leading=leading if len(led) > 1 else places[0],
        )  # fmt: skip

    def agreeing(self, agreement: Agreement, *, is_lent: bool) -> JoinedFit:
        """Return the fits with an interval that follows their agreement.

        A fit that only the distance from its own rows lets competitors in keeps its interval, besides what they add.
        """
        if not is_lent:
            return replace(self, agreement=agreement)
        claimed = agreement.claimed
        return replace(self, spread=self.spread.narrowed(claimed), claimed=claimed, agreement=agreement)

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the files of all parts, however little they weigh."""
        return tuple(dict.fromkeys(source for part in self.parts for source in part.sources))

    def bases(self, operator: Operator, time: Time | None = None) -> npt.NDArray[np.str_]:
        """Return on what the time of an operator rests, size by size."""
        return np.asarray(self._led(lambda part: part.bases(operator, time)))

    def width(self, operator: Operator) -> Quantity:
        """Return how wide the spread is at the shape of an operator, over what the family states."""
        width: Quantity = self._led(lambda part: part.width(operator))
        return width

    def unseen_half_width(self, operator: Operator) -> Quantity:
        """Return what an unmeasured group of shapes adds to half of the interval at the shape of an operator [log]."""
        half: Quantity = self._led(lambda part: part.unseen_half_width(operator))
        return self.claimed * half

    def added_half_width(self, time: Time) -> Quantity:
        """Return the same, and what fits that are apart add [log]."""
        return time.beyond if self.agreement is None else hypot(time.beyond, self.agreement.apart * time.apart)

    @equation
    def fitted_time(self, form: Form, operator: Operator, machine: Machine) -> Time:
        """Return the time of the leading fit, as long as the weighted mean of the logarithms of all.

            seconds = led.seconds * joined_factor
            joined_factor = exp(mean)
            mean := sum over fits of weight * log(time / led.seconds), no time shorter than the device allows

        apart^2 = sum_i w_i (log(t_i / led) - mean)^2
        """
        times = [part.fitted_time(part.form or form, operator, machine) for part in self.parts]
        led = Time(*(self._chosen([getattr(time, name) for time in times]) for name in TIME_PARTS))
        least = maximum(least_time(operator, machine), SHORTEST)
        own = maximum(led.seconds, SHORTEST)
        logs = [log(maximum(time.seconds, least) / own) for time in times]
        mean = sum_of(weight * each for weight, each in zip(self.weights, logs, strict=True))
        spread = sum_of(weight * (each - mean) ** 2 for weight, each in zip(self.weights, logs, strict=True))
        joined_factor = exp(mean)
        return replace(led.scaled(joined_factor), apart=power(spread, 0.5))

    def call_terms(self, operator: Operator, machine: Machine) -> Terms:
        """Return the terms of one call by the leading fit of one size."""
        assert isinstance(self.leading, int), "an operator of one size"
        return self.parts[self.leading].call_terms(operator, machine)

    def _led(self, of: Callable[[FamilyFit], Any]) -> Any:
        return self._chosen([of(part) for part in self.parts])

    def _chosen(self, values: Sequence[Any]) -> Any:
        return values[self.leading] if isinstance(self.leading, int) else np.choose(self.leading, values)


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

        A calibration is kept for all runs of a device and framework. Each is stated what stands in for its own kernels.
        """
        notes: Iterable[str] = self.notes
        if self.notes_of is not None:
            keys = dict.fromkeys("/".join(filter(None, (each.family, each.variant))) for each in operators)
            notes = dict.fromkeys(note for key in keys for note in self.notes_of(key))
        variants: dict[tuple[str, str], list[str]] = {}
        for note in notes:
            key, _, text = note.partition(": ")
            family, _, variant = key.partition("/")
            variants.setdefault((family, text), []).append(variant)
        return tuple(
            f"{family}{'/' if any(names) else ''}{', '.join(filter(None, names))}: {text}"
            for (family, text), names in variants.items()
        )

    def family(self, name: str) -> FamilyFit:
        """Return the fit of a family, the bare roofline where there is none."""
        return self.families.get(name, ROOFLINE)

    def fit(self, operator: Operator) -> FamilyFit:
        """Return the fit of an operator at its shape: of its variant, else of its family, else the bare roofline.

        Of a stream around products it is the one that was made together with that of the products, if any.
        """
        return self._at_any_shape(operator).at(operator)

    def is_joined(self, operator: Operator) -> Mask:
        """Tell where several fits give the time of an operator together."""
        return self._at_any_shape(operator).is_joined(operator)

    def _at_any_shape(self, operator: Operator) -> FamilyFit:
        """Return the fit of an operator before competitors join it."""
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
