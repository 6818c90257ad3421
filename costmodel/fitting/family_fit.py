"""One family of one implementation on one device: its form, its residual, and how well they predict held-out rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from costmodel.cost.calibration import ROOFLINE, FamilyFit, Form
from costmodel.cost.form_registry import FORMS
from costmodel.cost.operator_time import operator_time
from costmodel.cost.parameter import Constant, build, declarations, parameters
from costmodel.cost.residual import Domain, Nearness, Residual
from costmodel.cost.time import Machine
from costmodel.fitting.growth import FittedRows, growing
from costmodel.fitting.interval_width import HeldOutPredictions, Shapes, interval_widths
from costmodel.fitting.regression import (
    CANDIDATES,
    RIDGE,
    SUPPORTS,
    Estimate,
    KernelShare,
    estimate,
    refine_bumps,
    residual,
)
from costmodel.fitting.samples import Groups, RowMask, Samples
from costmodel.measurements.row_group import OperatorRows
from costmodel.quantities import Array, Indices, Seconds
from costmodel.records import Record, field, replace
from costmodel.workload.scenario import Framework

FOLDS = 5
ROWS = 800  # that the form's few parameters are fitted to; the residual sees all
SCALES = (0.7, 1.4, 2.0)  # of the residual's lengths, among which cross-validation chooses
THOROUGH = (0.7, 1.0, 1.4)  # of the best lengths, once more with supports chosen among many candidates
RIDGES = (0.3, 3.0, 30.0)  # of the residual's weights, likewise: the last leaves hardly any residual
REFINED_RIDGES = (0.1, 1.0)  # of the weights of refined bumps, likewise
SHORTER = (0.7, 0.5)  # of the best lengths, from which refined bumps may start as well
GAIN = 0.01  # of the error: what a length of its own has to win
NEAR = 1.0  # octaves: a shape this near to a support point is as good as measured
SIBLING = 0.1  # what a row of a sibling weighs: it tells of the form, not of this device
SEED = 0
COMPANION = "elementwise"  # the form of kernels that are fitted jointly with a family
_COMPANION = "companion "  # before the names of their parameters


class Recipe(Record):
    """How a family is fitted: the name of its form, what of it is stated rather than fitted, and its further terms.

    companion: `family/variant` of streams in the same rows that nothing else measures, which are fitted with it.
    """

    form: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    terms: tuple[str, ...] = ()
    companion: str = ""

    @property
    def kind(self) -> type[Form]:
        """Return the form's class."""
        return FORMS[self.form]

    @property
    def axes(self) -> tuple[str, ...]:
        """Return the axes of the form's shape space."""
        return tuple(self.kind.AXES)

    @property
    def lengths(self) -> Array:
        """Return the lengths of bumps along the axes before they are scaled [octaves]."""
        return np.array(list(self.kind.AXES.values()))

    def within(self, samples: Samples) -> Recipe:
        """Return the recipe with the ranges of the rows, up to which the form's exponents act, among its constants."""
        ranges = {
            name: math.ceil(max(float(np.max(value)) for value in samples.links(known.kind.variable)))
            for name, known in declarations(self.kind).items()
            if isinstance(known.kind, Constant) and known.kind.variable
        }
        return replace(self, constants={**ranges, **self.constants})

    def build(self, values: Mapping[str, float]) -> Form:
        """Return the form with these parameters."""
        return build(self.kind, {**values, **self.constants})


class Errors(Record):
    """Predicted over measured time of held-out rows. bias: median of predicted over measured, less one."""

    mean: float
    median: float
    bias: float

    @staticmethod
    def of(predicted: Array, seconds: Array) -> Errors:
        """Return the errors of some predictions."""
        ratio = predicted / seconds
        errors = np.abs(ratio - 1.0)
        return Errors(float(errors.mean()), float(np.median(errors)), float(np.median(ratio)) - 1.0)


class CompanionFit(Record):
    """The form of streams that run in the rows of a family and that nothing else measures."""

    key: str
    estimate: Estimate

    @property
    def form(self) -> Form:
        """Return the form."""
        return build(FORMS[COMPANION], self.estimate.values)

    def fits(self) -> dict[str, FamilyFit]:
        """Return the fit by its `family/variant`."""
        return {self.key: FamilyFit(basis="fitted", form=self.form)}


class FamilyFitResult(Record):
    """A family's fit and its evidence.

    errors: by model in cross-validation over groups: `roofline`, `shape_only` (a smooth function of the shape alone),
        `form`, `residual` (the form with it); and `near`, the last where single shapes were held out.
    predictions: of `residual`, by row, each from a fit without the row's group [s].
    widths: of the spread at these predictions.
    nearness: how the spread depends on the distance to a support.
    companion: the form of other kernels in the same rows.
    """

    recipe: Recipe
    estimate: Estimate
    residual: Residual
    domain: Domain
    errors: Mapping[str, Errors]
    predictions: Array
    widths: Array
    rows: int
    groups: int
    nearness: Nearness | None = None
    companion: CompanionFit | None = None

    def fit(self) -> FamilyFit:
        """Return the fit as times are made with it, its spread left to the file."""
        return FamilyFit(
            basis="fitted", form=self.recipe.build(self.estimate.values), residual=self.residual, domain=self.domain,
            nearness=self.nearness,
        )  # fmt: skip


def fit_family(samples: Samples, recipe: Recipe) -> FamilyFitResult:
    """Return the fit of a family with its cross-validated errors."""
    recipe = recipe.within(samples)
    fold_of_row = fold_numbers(samples.groups)
    predictions = {name: np.empty(len(samples)) for name in ("roofline", "shape_only", "form")}
    folds = []
    for number in range(int(fold_of_row.max()) + 1):
        held_out = fold_of_row == number
        folds.append(_Fold.of(samples.take(~held_out), samples.take(held_out), recipe, held_out))
        folds[-1].write(predictions)
    machine = _machine(samples)
    bumps = _best_bumps(folds, recipe.lengths, samples.seconds)
    far = _held_out(folds, bumps, samples, machine)
    whole = _FormFit.on(samples, recipe)
    rows = whole.rows(samples)
    near = _without_shapes(rows, bumps)
    widths = interval_widths(
        near, far, samples.seconds, Shapes(rows.axes, rows.features[0], bumps.lengths), fold_of_row
    )  # fmt: skip
    errors = {name: Errors.of(predicted, samples.seconds) for name, predicted in predictions.items()}
    errors |= {name: Errors.of(fitted.seconds, samples.seconds) for name, fitted in (("residual", far), ("near", near))}
    residual = _growing(samples.key, whole.form, rows, bumps, machine)
    return FamilyFitResult(
        recipe=recipe, estimate=whole.estimate, residual=replace(residual, dispersion=widths.dispersion),
        domain=rows.domain(bumps),
        errors=errors, predictions=far.seconds, widths=widths.of_rows, rows=len(samples),
        groups=len(np.unique(samples.groups)), nearness=widths.nearness, companion=whole.companion,
    )  # fmt: skip


class GroupErrors(Record):
    """Of rows of groups that a fit did not see.

    log_errors: logs of measured over predicted time.
    beyond: how far outside the seen shapes they lie [octaves].
    """

    log_errors: Array
    beyond: Array


def predict_groups(seen: Samples, others: Samples, recipe: Recipe) -> GroupErrors:
    """Return the errors of rows of other groups than those that a form and its residual are fitted to.

    The residual has the recipe's lengths: what few groups say of better ones is little.
    """
    fit = _FormFit.on(seen, recipe)
    rows, unseen = fit.rows(seen), fit.rows(others)
    predicted = unseen.predict(rows.residual(_Bumps(recipe.lengths)))
    domain = Domain(rows.features[0].min(axis=0), rows.features[0].max(axis=0), NEAR)
    return GroupErrors(np.log(others.seconds / predicted), np.asarray(domain.beyond(list(unseen.features[0].T))))


class _Bumps(Record):
    """How a residual is made.

    lengths: of its bumps, along each axis.
    ridge: on their heights.
    candidates: clusters of shapes, of whose centres those are taken that explain most.
    is_refined: bumps leave their places, and take lengths of their own.
    """

    lengths: Array
    ridge: float = RIDGE
    candidates: int = SUPPORTS
    is_refined: bool = False


def _without_shapes(rows: _FormRows, bumps: _Bumps) -> HeldOutPredictions:
    """Return the prediction of every row with a residual of the rows of other shapes. The form has seen them all."""
    _, shapes = np.unique(np.concatenate(rows.features, axis=1), axis=0, return_inverse=True)
    folds = np.random.default_rng(SEED).permutation(int(shapes.max()) + 1)[shapes] % FOLDS
    predictions = HeldOutPredictions(np.empty(len(rows.seconds)), np.empty(len(rows.seconds)))
    for number in range(int(folds.max()) + 1):
        held_out = folds == number
        rows.take(~held_out).write(bumps, rows.take(held_out), held_out, predictions)
    return predictions


def _machine(samples: Samples) -> Machine:
    """Return the whole device that a family was measured on, its L2 cold."""
    device = samples.parts[0].device
    return Machine(device, samples.framework, device.processors)


def _growing(key: str, form: Form, rows: _FormRows, bumps: _Bumps, machine: Machine) -> Residual:
    """Return the residual of some rows under which times grow along sizes."""
    residual = rows.residual(bumps)
    fit = FamilyFit(form=form, residual=residual, domain=rows.domain(bumps))
    fitted = FittedRows(rows.features, rows.times, rows.other_times, rows.seconds)
    return growing(key, fit, machine, fitted, bumps.ridge) or residual


def _held_out(folds: Sequence[_Fold], bumps: _Bumps, samples: Samples, machine: Machine) -> HeldOutPredictions:
    """Return the prediction of every row from the rows of other groups."""
    predictions = HeldOutPredictions(np.empty(len(samples)), np.empty(len(samples)))
    for fold in folds:
        correction = _growing(samples.key, fold.form, fold.seen, bumps, machine)
        fold.held_out.read(correction, fold.mask, predictions)
    return predictions


def _best_bumps(folds: Sequence[_Fold], start: Array, seconds: Array) -> _Bumps:
    """Return the bumps whose residual predicts held-out rows best.

    All lengths are scaled together first, then each axis by itself, in its turn. What helps by less than `GAIN` is
    left, so that the choice follows the rows and not their noise. The ridge comes first: it says how far the residual
    is to be believed at all. The search takes the centres of clusters as supports. From there bumps are refined, at
    ridges of their own and then from shorter lengths, where that helps by more than `GAIN`. Else, for the best lengths
    and their neighbours, those supports are chosen that explain most.
    """

    def score(bumps: _Bumps) -> float:
        predictions = HeldOutPredictions(np.empty(len(seconds)), np.empty(len(seconds)))
        for fold in folds:
            fold.seen.write(bumps, fold.held_out, fold.mask, predictions)
        return Errors.of(predictions.seconds, seconds).mean

    best = _Bumps(start)
    best_score = score(best)

    def better(tried: Sequence[_Bumps], gain: float) -> None:
        nonlocal best, best_score
        for bumps in tried:
            other = score(bumps)
            if other < (1.0 - gain) * best_score:
                best, best_score = bumps, other

    better([replace(best, ridge=ridge) for ridge in RIDGES], 0.0)
    better([replace(best, lengths=scale * start) for scale in SCALES], 0.0)
    for axis in range(len(start)):
        along = np.arange(len(start)) == axis
        better([replace(best, lengths=np.where(along, scale**2, 1.0) * best.lengths) for scale in SCALES], GAIN)
    clustered = best
    better([replace(clustered, ridge=ridge, is_refined=True) for ridge in REFINED_RIDGES], GAIN)
    if best.is_refined:
        better([replace(best, lengths=scale * clustered.lengths) for scale in SHORTER], 0.0)
    else:
        scaled = (scale * clustered.lengths for scale in THOROUGH)
        better([replace(clustered, lengths=lengths, candidates=CANDIDATES) for lengths in scaled], 0.0)
    return best


def fold_numbers(groups: Groups) -> Indices:
    """Return the fold of every row: whole groups together. Single rows where groups are fewer than folds."""
    names = np.unique(groups)
    if len(names) < FOLDS:
        return np.random.default_rng(SEED).permutation(len(groups)) % FOLDS
    order = np.random.default_rng(SEED).permutation(len(names)) % FOLDS
    folds: Indices = order[np.searchsorted(names, groups)]
    return folds


class _FormRows(Record):
    """Rows as a form sees them: their features, the times of their operators, and of the others [s]."""

    axes: tuple[str, ...]
    features: list[Array]
    times: list[Array]
    other_times: Array
    seconds: Array

    def residual(self, bumps: _Bumps) -> Residual:
        total = self.other_times + np.sum(self.times, axis=0)
        shares = [KernelShare(features, time / total) for features, time in zip(self.features, self.times, strict=True)]
        log_errors = np.log(self.seconds / total)
        clustered = residual(shares, log_errors, self.axes, bumps.lengths, bumps.ridge, bumps.candidates)
        return refine_bumps(clustered, shares, log_errors, bumps.ridge) if bumps.is_refined else clustered

    def write(self, bumps: _Bumps, held_out: _FormRows, mask: RowMask, predictions: HeldOutPredictions) -> None:
        """Write what the residual of these rows says of others, and how far they are. mask: where those are."""
        held_out.read(self.residual(bumps), mask, predictions)

    def read(self, correction: Residual, mask: RowMask, predictions: HeldOutPredictions) -> None:
        """Write what a residual says of these rows, and how far they are. mask: where they are."""
        predictions.seconds[mask] = self.predict(correction)
        predictions.distances[mask] = self.distances(correction)

    def domain(self, bumps: _Bumps) -> Domain:
        features = np.concatenate(self.features)
        radius = NEAR / float(np.exp(np.log(bumps.lengths).mean()))
        return Domain(features.min(axis=0), features.max(axis=0), radius)

    def take(self, mask: RowMask) -> _FormRows:
        features, times = [each[mask] for each in self.features], [time[mask] for time in self.times]
        return _FormRows(self.axes, features, times, self.other_times[mask], self.seconds[mask])

    def distances(self, correction: Residual) -> Array:
        return np.asarray(correction.distance(list(self.features[0].T)))

    def predict(self, correction: Residual | None) -> Array:
        total = self.other_times
        for time, features in zip(self.times, self.features, strict=True):
            factor = 1.0 if correction is None else np.asarray(correction.factor(list(features.T)))
            total = total + time * factor
        return total


class _Fold(Record):
    """A form fitted to the rows seen, and the rows held out with what models without a residual say of them [s].

    mask: where the rows held out are.
    """

    form: Form
    seen: _FormRows
    held_out: _FormRows
    shape_only: Array
    roofline: Array
    mask: RowMask

    @staticmethod
    def of(seen: Samples, held_out: Samples, recipe: Recipe, mask: RowMask) -> _Fold:
        fit = _FormFit.on(seen, recipe)
        shape_only = _shape_only(seen, held_out, fit.form, recipe)
        return _Fold(fit.form, fit.rows(seen), fit.rows(held_out), shape_only, _roofline(held_out), mask)

    def write(self, predictions: Mapping[str, Array]) -> None:
        """Write what the models without a residual say of the rows held out."""
        predictions["form"][self.mask] = self.held_out.predict(None)
        predictions["roofline"][self.mask] = self.roofline
        predictions["shape_only"][self.mask] = self.shape_only


class _FormFit(Record):
    """A form whose parameters are known."""

    recipe: Recipe
    estimate: Estimate
    form: Form
    companion: CompanionFit | None = None

    @staticmethod
    def on(samples: Samples, recipe: Recipe) -> _FormFit:
        sets = [_sampled(rows) for rows in (samples, *samples.siblings)]
        other_times = [rows.other_times() for rows in sets]
        companion = parameters(FORMS[COMPANION]) if samples.has(recipe.companion) else {}
        bounds = parameters(recipe.kind, recipe.terms) | {_COMPANION + name: each for name, each in companion.items()}

        def predict(values: Mapping[str, float]) -> Array:
            own, others = _parted(values)
            form, rests = recipe.build(own), other_times
            if others:
                fits = CompanionFit(recipe.companion, Estimate(others, others)).fits()
                rests = [rows.other_times(fits) for rows in sets]
            pairs = zip(sets, rests, strict=True)
            return np.concatenate([rest + np.sum(rows.form_times(form, rows.repeats), axis=0) for rows, rest in pairs])

        weights = np.concatenate([np.full(len(rows), SIBLING if i else 1.0) for i, rows in enumerate(sets)])
        seconds = np.concatenate([rows.seconds for rows in sets])
        fitted = estimate(predict, seconds, bounds, weights)
        own, others = (Estimate(*pair) for pair in zip(_parted(fitted.values), _parted(fitted.errors), strict=True))
        joint = CompanionFit(recipe.companion, others) if companion else None
        return _FormFit(recipe, own, recipe.build(own.values), joint)

    def rows(self, samples: Samples) -> _FormRows:
        form, count = self.form, samples.repeats
        other_times = samples.other_times(None if self.companion is None else self.companion.fits())
        features, times = samples.features(form, count), samples.form_times(form, count)
        return _FormRows(self.recipe.axes, features, times, other_times, samples.seconds)


def _parted(values: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Return what is said of a form's parameters, and of those of its companion."""
    own = {name: value for name, value in values.items() if not name.startswith(_COMPANION)}
    return own, {name.removeprefix(_COMPANION): values[name] for name in values if name not in own}


def _sampled(samples: Samples) -> Samples:
    if len(samples) <= ROWS:
        return samples
    taken = np.zeros(len(samples), dtype=bool)
    taken[np.random.default_rng(SEED).permutation(len(samples))[:ROWS]] = True
    return samples.take(taken)


def _roofline(samples: Samples) -> Array:
    times = [np.broadcast_to(roofline_time(part, samples.framework), part.rows.shape) for part in samples.parts]
    return np.concatenate(times)


def _shape_only(seen: Samples, held_out: Samples, form: Form, recipe: Recipe) -> Array:
    """Return what a smooth function of the shape alone says: a plane in log-shape space and bumps on it."""

    def plane(samples: Samples) -> Array:
        features = samples.features(form, 1)[0]
        return np.concatenate([features, np.ones((len(features), 1))], axis=1)

    target = np.log(seen.seconds)
    slopes, *_ = np.linalg.lstsq(plane(seen), target, rcond=None)
    log_errors = target - plane(seen) @ slopes
    shares = [KernelShare(seen.features(form, 1)[0], np.ones(len(seen)))]
    factor = residual(shares, log_errors, recipe.axes, recipe.lengths).factor(list(held_out.features(form, 1)[0].T))
    predicted: Array = np.exp(plane(held_out) @ slopes) * factor
    return predicted


def roofline_time(rows: OperatorRows, framework: Framework) -> Seconds:
    """Return the roofline time of some rows [s]: the sum over their operators, one launch a kernel."""
    seconds: Seconds = -rows.fused * framework.launch
    for operator in rows.operators:
        seconds = seconds + operator_time(operator, rows.machine(framework), rows.cluster, ROOFLINE).seconds
    return seconds
