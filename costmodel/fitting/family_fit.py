"""One family of one implementation on one device: its form, its residual, and how well they predict unseen rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.cost.calibration import ROOFLINE, Calibration, FamilyFit, Form
from costmodel.cost.form_registry import FORMS
from costmodel.cost.operator_time import likely_time, operator_time
from costmodel.cost.residual import Domain, Nearness, Residual
from costmodel.fitting.bump_refinement import refine_bumps
from costmodel.fitting.interval_width import HeldOutPredictions, Shapes, interval_widths
from costmodel.fitting.regression import CANDIDATES, RIDGE, SUPPORTS, Estimate, KernelShare, estimate, residual
from costmodel.measurements.row_group import OperatorRows
from costmodel.quantities import Array, Indices, Seconds
from costmodel.workload.operators import Operator
from costmodel.workload.scenario import Framework

FOLDS = 5
ROWS = 800  # that the form's few parameters are fitted to; the residual sees all
SCALES = (0.7, 1.4, 2.0)  # of the residual's lengths, among which cross-validation chooses
THOROUGH = (0.7, 1.0, 1.4)  # of the lengths found, once more with supports chosen among many candidates
RIDGES = (0.3, 3.0, 30.0)  # of the residual's weights, likewise: the last leaves hardly any residual
MOVING = (0.1, 1.0)  # of the weights of bumps that move, likewise
SHORTER = (0.7, 0.5)  # of the lengths found, from which bumps that move may start as well
GAIN = 0.01  # of the error: what a length of its own has to win
NEAR = 1.0  # octaves: a shape this near to a support point is as good as measured
SIBLING = 0.1  # what a row of a sibling weighs: it tells of the form, not of this device
SEED = 0
STREAM = "stream"  # the form of kernels beside those that are fitted
_BESIDE = "beside "

Groups = npt.NDArray[np.object_]  # of str: rows of one group are held out together


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Measured rows of one family.

    parts: rows that share their structure, with their operators; seconds, groups: of all rows in the order of the
    parts; key: `family/variant` that is fitted; known: fits of the other operators in a row; framework: of launches;
    siblings: rows of the same kernels elsewhere, which the form explains as well but which are never predicted.
    """

    key: str
    parts: tuple[OperatorRows, ...]
    seconds: Array
    groups: Groups
    known: Calibration
    framework: Framework
    siblings: tuple[Samples, ...] = ()

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, mask: npt.NDArray[np.bool_]) -> Samples:
        """Return the rows where a mask holds."""
        parts, first = [], 0
        for part in self.parts:
            inside = mask[first : first + len(part.rows)]
            first += len(part.rows)
            if inside.any():
                parts.append(_taken(part, np.flatnonzero(inside)))
        return replace(self, parts=tuple(parts), seconds=self.seconds[mask], groups=self.groups[mask])

    def targets(self) -> Iterator[tuple[OperatorRows, list[Operator], list[Operator]]]:
        """Yield (rows, operators that are fitted, others) of each part."""
        for part in self.parts:
            own = [operator for operator in part.operators if self.is_target(operator)]
            yield part, own, [operator for operator in part.operators if not self.is_target(operator)]

    def is_target(self, operator: Operator) -> bool:
        """Tell whether an operator is one of those that are fitted."""
        return self.key in (operator.family, f"{operator.family}/{operator.variant}")

    def has(self, key: str) -> bool:
        """Tell whether rows have an operator of a `family/variant`."""
        operators = (operator for part in self.parts for operator in part.operators)
        return any(f"{operator.family}/{operator.variant}" == key for operator in operators)

    def others(self, beside: Mapping[str, FamilyFit] | None = None) -> Array:
        """Return what the other operators of every row take [s]. beside: fits that stand before those known."""
        given = {} if beside is None else beside
        seconds = []
        for part, _, others in self.targets():
            machine = part.machine(self.framework)
            total: Any = 0.0
            for operator in others:
                fit = given.get(f"{operator.family}/{operator.variant}", self.known.fit(operator))
                total = total + likely_time(operator, machine, part.cluster, fit)
            seconds.append(np.broadcast_to(total, part.rows.shape))
        return np.concatenate(seconds)

    def form_times(self, form: Form, count: int) -> list[Array]:
        """Return the times of the first, second … fitted operator of every row [s]; zero where a row has fewer."""
        columns: list[list[Array]] = [[] for _ in range(count)]
        for part, own, _ in self.targets():
            machine = part.machine(self.framework)
            for place in range(count):
                seconds = form.time(own[place], machine).seconds if place < len(own) else 0.0
                columns[place].append(np.broadcast_to(seconds, part.rows.shape))
        return [np.concatenate(column) for column in columns]

    def features(self, form: Form, count: int) -> list[Array]:
        """Return the features of the first, second … fitted operator of every row, shape (rows, axes)."""
        columns: list[list[Array]] = [[] for _ in range(count)]
        for part, own, _ in self.targets():
            for place in range(count):
                features = form.features(own[min(place, len(own) - 1)])
                shape = (len(features), len(part.rows))
                columns[place].append(np.stack([np.broadcast_to(value, shape[1:]) for value in features], axis=1))
        return [np.concatenate(column) for column in columns]

    @property
    def repeats(self) -> int:
        """Return how many operators of a row are fitted, at most."""
        return max(len(own) for _, own, _ in self.targets())


def _taken(part: OperatorRows, rows: Indices) -> OperatorRows:
    """Return some rows of a part."""
    count = len(part.rows)

    def cut(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(some, value))
        return value[rows] if isinstance(value, np.ndarray) and value.shape == (count,) else value

    def some(operator: Any) -> Any:
        return replace(operator, **{each.name: cut(getattr(operator, each.name)) for each in fields(operator)})

    return replace(
        part,
        rows=part.rows[rows],
        operators=tuple(map(some, part.operators)),
        comm_processors=cut(part.comm_processors),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How a family is fitted: the name of its form, what of it is stated rather than fitted, and its further terms.

    beside: `family/variant` of streams in the same rows that nothing else measures, which are fitted with it.
    """

    form: str
    choices: Mapping[str, Any] = field(default_factory=dict)
    terms: tuple[str, ...] = ()
    beside: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Predicted over measured time of rows that the fit had not seen."""

    mean: float
    median: float
    bias: float  # median of predicted over measured, less one

    @staticmethod
    def of(predicted: Array, seconds: Array) -> Errors:
        """Return the errors of some predictions."""
        ratio = predicted / seconds
        misses = np.abs(ratio - 1.0)
        return Errors(float(misses.mean()), float(np.median(misses)), float(np.median(ratio)) - 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class CompanionFit:
    """The form of streams that run in the rows of a family and that nothing else measures."""

    key: str
    estimate: Estimate

    @property
    def form(self) -> Form:
        """Return the form."""
        return FORMS[STREAM].build(self.estimate.values, {})

    def fits(self) -> dict[str, FamilyFit]:
        """Return the fit by its `family/variant`."""
        return {self.key: FamilyFit(basis="fitted", form=self.form)}


@dataclass(frozen=True, slots=True, eq=False)
class FamilyFitResult:
    """A family's fit and its evidence.

    errors: by model, `roofline`, `data` (a smooth function of the shape alone), `form`, `residual` (the form with it),
    in cross-validation over groups, and `near`, the last where single shapes were held out; predictions: of `residual`,
    by row, each from a fit without the row's group [s]; widths: of the spread at these predictions; nearness: how it
    depends on the distance to a support; beside: the form of other kernels in the same rows.
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
        """Return the fit as prices are made with it, its spread left to the file."""
        form = FORMS[self.recipe.form].build(self.estimate.values, self.recipe.choices)
        return FamilyFit(
            basis="fitted", form=form, residual=self.residual, domain=self.domain, nearness=self.nearness
        )  # fmt: skip


def fit_family(samples: Samples, recipe: Recipe) -> FamilyFitResult:
    """Return the fit of a family with its cross-validated errors."""
    folds = fold_numbers(samples.groups)
    predictions = {name: np.empty(len(samples)) for name in ("roofline", "data", "form")}
    trials = []
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        trials.append(_Fold.of(samples.take(~held), samples.take(held), recipe, held))
        trials[-1].write(predictions)
    bumps, far = _best_bumps(trials, np.array(FORMS[recipe.form].lengths), samples.seconds)
    whole = _FormFit.on(samples, recipe)
    stage = whole.stage(samples)
    features = np.concatenate(stage.features)
    near = _without_shapes(stage, bumps)
    shapes = Shapes(stage.axes, stage.features[0], bumps.lengths)
    found = interval_widths(near, far, samples.seconds, shapes, folds)
    return FamilyFitResult(
        recipe=recipe, estimate=whole.estimate, residual=replace(stage.residual(bumps), scatter=found.scatter),
        domain=Domain(features.min(axis=0), features.max(axis=0), NEAR / float(np.exp(np.log(bumps.lengths).mean()))),
        errors={
            **{name: Errors.of(predictions[name], samples.seconds) for name in ("roofline", "data", "form")},
            "residual": Errors.of(far.seconds, samples.seconds), "near": Errors.of(near.seconds, samples.seconds),
        },
        predictions=far.seconds, widths=found.of_rows, rows=len(samples), groups=len(np.unique(samples.groups)),
        nearness=found.nearness, companion=whole.beside,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Bumps:
    """How a residual is made: the lengths of its bumps, the ridge on their heights, and where they stand.

    candidates: clusters of shapes, of whose centres those are taken that explain most; moving: whether bumps leave
    their places, and take lengths of their own.
    """

    lengths: Array
    ridge: float = RIDGE
    candidates: int = SUPPORTS
    moving: bool = False


def _without_shapes(stage: _Stage, bumps: _Bumps) -> HeldOutPredictions:
    """Return the prediction of every row with a residual of the rows of other shapes; the form has seen them all."""
    _, shapes = np.unique(np.concatenate(stage.features, axis=1), axis=0, return_inverse=True)
    folds = np.random.default_rng(SEED).permutation(int(shapes.max()) + 1)[shapes] % FOLDS
    found = HeldOutPredictions(np.empty(len(stage.seconds)), np.empty(len(stage.seconds)))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        stage.take(~held).write(bumps, stage.take(held), held, found)
    return found


def _best_bumps(trials: Sequence[_Fold], start: Array, seconds: Array) -> tuple[_Bumps, HeldOutPredictions]:
    """Return the bumps whose residual predicts unseen rows best, and those predictions.

    All lengths are scaled together first, then each axis by itself, in its turn; what helps by less than `GAIN` is
    left, so that the choice follows the rows and not their noise. The ridge comes first: it says how far the residual
    is to be believed at all. The search takes the centres of clusters as supports. From there bumps move, at ridges of
    their own and then from shorter lengths, where that helps by more than `GAIN`; else, for the lengths found and their
    neighbours, those supports are chosen that explain most.
    """

    def score(bumps: _Bumps) -> tuple[float, HeldOutPredictions]:
        found = HeldOutPredictions(np.empty(len(seconds)), np.empty(len(seconds)))
        for trial in trials:
            trial.seen.write(bumps, trial.held, trial.mask, found)
        return Errors.of(found.seconds, seconds).mean, found

    best = _Bumps(start)
    found = score(best)

    def better(tried: Sequence[_Bumps], gain: float) -> None:
        nonlocal best, found
        for bumps in tried:
            other = score(bumps)
            if other[0] < (1.0 - gain) * found[0]:
                best, found = bumps, other

    better([replace(best, ridge=ridge) for ridge in RIDGES], 0.0)
    better([replace(best, lengths=scale * start) for scale in SCALES], 0.0)
    for axis in range(len(start)):
        along = np.arange(len(start)) == axis
        better([replace(best, lengths=np.where(along, scale**2, 1.0) * best.lengths) for scale in SCALES], GAIN)
    plain = best
    better([replace(plain, ridge=ridge, moving=True) for ridge in MOVING], GAIN)
    if best.moving:
        better([replace(best, lengths=scale * plain.lengths) for scale in SHORTER], 0.0)
    else:
        better([replace(plain, lengths=scale * plain.lengths, candidates=CANDIDATES) for scale in THOROUGH], 0.0)
    return best, found[1]


def fold_numbers(groups: Groups) -> Indices:
    """Return the fold of every row: whole groups together; single rows where groups are fewer than folds."""
    names = np.unique(groups)
    if len(names) < FOLDS:
        return np.random.default_rng(SEED).permutation(len(groups)) % FOLDS
    order = np.random.default_rng(SEED).permutation(len(names)) % FOLDS
    found: Indices = order[np.searchsorted(names, groups)]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """Rows as a form sees them: their features, the times of their operators, and of the others [s]."""

    axes: tuple[str, ...]
    features: list[Array]
    times: list[Array]
    others: Array
    seconds: Array

    def residual(self, bumps: _Bumps) -> Residual:
        """Return the residual of the rows."""
        total = self.others + np.sum(self.times, axis=0)
        shares = [KernelShare(features, part / total) for features, part in zip(self.features, self.times, strict=True)]
        misses = np.log(self.seconds / total)
        found = residual(shares, misses, self.axes, bumps.lengths, bumps.ridge, bumps.candidates)
        return refine_bumps(found, shares, misses, bumps.ridge) if bumps.moving else found

    def write(self, bumps: _Bumps, held: _Stage, mask: npt.NDArray[np.bool_], found: HeldOutPredictions) -> None:
        """Write what the residual of these rows says of others, and how far they are. mask: where those are."""
        correction = self.residual(bumps)
        found.seconds[mask], found.distances[mask] = held.predict(correction), held.distances(correction)

    def take(self, mask: npt.NDArray[np.bool_]) -> _Stage:
        """Return the rows where a mask holds."""
        features, times = [each[mask] for each in self.features], [each[mask] for each in self.times]
        return _Stage(self.axes, features, times, self.others[mask], self.seconds[mask])

    def distances(self, correction: Residual) -> Array:
        """Return how far the nearest support is from every row [lengths]."""
        return np.asarray(correction.distance(list(self.features[0].T)))

    def predict(self, correction: Residual | None) -> Array:
        """Return the time of every row [s]."""
        total = self.others
        for part, features in zip(self.times, self.features, strict=True):
            factor = 1.0 if correction is None else np.asarray(correction.factor(list(features.T)))
            total = total + part * factor
        return total


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """One fold: a form fitted to the rows seen, and the rows held out; mask: where those are."""

    seen: _Stage
    held: _Stage
    data: Array
    roofline: Array
    mask: npt.NDArray[np.bool_]

    @staticmethod
    def of(seen: Samples, held: Samples, recipe: Recipe, mask: npt.NDArray[np.bool_]) -> _Fold:
        """Return the trial of a fold."""
        trained = _FormFit.on(seen, recipe)
        data = _data_driven(seen, held, trained.form, recipe)
        return _Fold(trained.stage(seen), trained.stage(held), data, _roofline(held), mask)

    def write(self, predictions: Mapping[str, Array]) -> None:
        """Write what the models without a residual say of the rows held out."""
        predictions["form"][self.mask] = self.held.predict(None)
        predictions["roofline"][self.mask] = self.roofline
        predictions["data"][self.mask] = self.data


@dataclass(frozen=True, slots=True, eq=False)
class _FormFit:
    """A form whose parameters are known."""

    recipe: Recipe
    estimate: Estimate
    form: Form
    beside: CompanionFit | None = None

    @staticmethod
    def on(samples: Samples, recipe: Recipe) -> _FormFit:
        """Return the form fitted to (a sample of) some rows."""
        kind = FORMS[recipe.form]
        sets = [_some(each) for each in (samples, *samples.siblings)]
        others = [each.others() for each in sets]
        streams = FORMS[STREAM].bounds if samples.has(recipe.beside) else {}
        bounds = kind.parameters(recipe.terms) | {_BESIDE + name: each for name, each in streams.items()}

        def predict(values: Mapping[str, float]) -> Array:
            own, other = _parted(values)
            form = kind.build(own, recipe.choices)
            rests = others
            if other:
                given = CompanionFit(recipe.beside, Estimate(other, other)).fits()
                rests = [each.others(given) for each in sets]
            parts = zip(sets, rests, strict=True)
            return np.concatenate([rest + np.sum(each.form_times(form, each.repeats), axis=0) for each, rest in parts])

        weights = np.concatenate([np.full(len(each), SIBLING if place else 1.0) for place, each in enumerate(sets)])
        seconds = np.concatenate([each.seconds for each in sets])
        found = estimate(predict, seconds, bounds, weights)
        own, other = (Estimate(*each) for each in zip(_parted(found.values), _parted(found.errors), strict=True))
        beside = CompanionFit(recipe.beside, other) if streams else None
        return _FormFit(recipe, own, kind.build(own.values, recipe.choices), beside)

    def stage(self, samples: Samples) -> _Stage:
        """Return some rows as the form sees them."""
        kind, count = FORMS[self.recipe.form], samples.repeats
        others = samples.others(None if self.beside is None else self.beside.fits())
        return _Stage(
            kind.axes, samples.features(self.form, count), samples.form_times(self.form, count), others,
            samples.seconds,
        )  # fmt: skip


def _parted(values: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Return what is said of a form's parameters, and of those of the streams beside it."""
    own = {name: value for name, value in values.items() if not name.startswith(_BESIDE)}
    return own, {name.removeprefix(_BESIDE): values[name] for name in values if name not in own}


def _some(samples: Samples) -> Samples:
    """Return as many of the rows as a form is fitted to."""
    if len(samples) <= ROWS:
        return samples
    chosen = np.zeros(len(samples), dtype=bool)
    chosen[np.random.default_rng(SEED).permutation(len(samples))[:ROWS]] = True
    return samples.take(chosen)


def _roofline(samples: Samples) -> Array:
    """Return the bare roofline's time of every row [s]."""
    times = [np.broadcast_to(roofline_time(part, samples.framework), part.rows.shape) for part in samples.parts]
    return np.concatenate(times)


def _data_driven(seen: Samples, held: Samples, form: Form, recipe: Recipe) -> Array:
    """Return what a smooth function of the shape alone says: a plane in log-shape space and bumps on it."""
    kind = FORMS[recipe.form]

    def plane(samples: Samples) -> Array:
        features = samples.features(form, 1)[0]
        return np.concatenate([features, np.ones((len(features), 1))], axis=1)

    target = np.log(seen.seconds)
    slopes, *_ = np.linalg.lstsq(plane(seen), target, rcond=None)
    misses = target - plane(seen) @ slopes
    ones = np.ones(len(seen))
    bumps = residual([KernelShare(seen.features(form, 1)[0], ones)], misses, kind.axes, np.array(kind.lengths))
    factor = bumps.factor(list(held.features(form, 1)[0].T))
    predicted: Array = np.exp(plane(held) @ slopes) * factor
    return predicted


def roofline_time(mapped: OperatorRows, framework: Framework) -> Seconds:
    """Return the roofline time of some rows [s]: the sum over their operators, one launch a kernel."""
    seconds: Seconds = -mapped.fused * framework.launch
    for operator in mapped.operators:
        seconds = seconds + operator_time(operator, mapped.machine(framework), mapped.cluster, ROOFLINE).seconds
    return seconds
