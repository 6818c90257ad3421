"""One family of one implementation on one device: its form, its residual, and how well they predict unseen rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.calibration.batch import Mapped
from costmodel.calibration.forms import FORMS
from costmodel.calibration.regression import Estimate, Share, estimate, residual
from costmodel.calibration.timing import operator_time
from costmodel.cost.calibration import ROOFLINE, Calibration, FamilyFit, Form
from costmodel.cost.machine import Machine
from costmodel.cost.residual import Domain, Residual
from costmodel.hardware import Cluster
from costmodel.quantities import Array, Indices, Quantity
from costmodel.workload.operators import Operator
from costmodel.workload.scenario import Framework

FOLDS = 5
ROWS = 800  # that the form's few parameters are fitted to; the residual sees all
SCALES = (0.75, 1.0, 1.5)  # of the residual's lengths, of which cross-validation takes the best
RADIUS = 0.5  # lengths: a shape this near to a support point is as good as measured
SIBLING = 0.2  # what a row of a sibling weighs: it tells of the form, not of this device
SEED = 0

Groups = npt.NDArray[np.object_]  # of str: rows of one group are held out together


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Measured rows of one family.

    parts: rows that share their structure, with their operators; seconds, groups: of all rows in the order of the
    parts; key: `family/variant` that is fitted; known: fits of the other operators in a row; framework: of launches;
    siblings: rows of the same kernels elsewhere, which the form explains as well but which are never predicted.
    """

    key: str
    parts: tuple[Mapped, ...]
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

    def targets(self) -> Iterator[tuple[Mapped, list[Operator], list[Operator]]]:
        """Yield (rows, operators that are fitted, others) of each part."""
        for part in self.parts:
            own = [operator for operator in part.operators if self.is_target(operator)]
            yield part, own, [operator for operator in part.operators if not self.is_target(operator)]

    def is_target(self, operator: Operator) -> bool:
        """Tell whether an operator is one of those that are fitted."""
        return self.key in (operator.family, f"{operator.family}/{operator.variant}")

    def others(self) -> Array:
        """Return what the other operators of every row take [s], launches that are shared taken off."""
        seconds = []
        for part, _, others in self.targets():
            machine = part.machine(self.framework)
            total: Any = 0.0
            for operator in others:
                total = total + likely_time(operator, machine, part.cluster, self.known.fit(operator))
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


def likely_time(operator: Operator, machine: Machine, cluster: Cluster | None, fit: FamilyFit) -> Quantity:
    """Return the most likely time of an operator [s]: a bare roofline's times the median ratio measured to it."""
    seconds = operator_time(operator, machine, cluster, fit).seconds
    return seconds * fit.spread.ratio(seconds, 0.0, 0.0) if fit.basis == "roofline" else seconds


def _taken(part: Mapped, rows: Indices) -> Mapped:
    """Return some rows of a part."""
    count = len(part.rows)

    def cut(value: object) -> object:
        return value[rows] if isinstance(value, np.ndarray) and value.shape == (count,) else value

    def some(operator: Any) -> Operator:
        found: Operator = replace(
            operator, **{each.name: cut(getattr(operator, each.name)) for each in fields(operator)}
        )
        return found

    return replace(part, rows=part.rows[rows], operators=tuple(map(some, part.operators)))


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How a family is fitted: the name of its form, what of it is stated rather than fitted, and its further terms."""

    form: str
    choices: Mapping[str, Any] = field(default_factory=dict)
    terms: tuple[str, ...] = ()


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
class Fitted:
    """A family's fit and its evidence.

    errors: by model, `roofline`, `data` (a smooth function of the shape alone), `form`, `residual` (the form with it),
    in cross-validation over groups; predictions: of the last, by row, each from a fit without the row's group [s].
    """

    recipe: Recipe
    estimate: Estimate
    residual: Residual
    domain: Domain
    errors: Mapping[str, Errors]
    predictions: Array
    rows: int
    groups: int

    def fit(self) -> FamilyFit:
        """Return the fit as prices are made with it, its spread left to the file."""
        form = FORMS[self.recipe.form].build(self.estimate.values, self.recipe.choices)
        return FamilyFit(basis="fitted", form=form, residual=self.residual, domain=self.domain)


def fit_family(samples: Samples, recipe: Recipe) -> Fitted:
    """Return the fit of a family with its cross-validated errors."""
    folds = fold_numbers(samples.groups)
    predictions = {name: np.empty(len(samples)) for name in ("roofline", "data", "form", *map(str, SCALES))}
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        _predict_fold(samples.take(~held), samples.take(held), recipe, held, predictions)
    scores = {scale: Errors.of(predictions[str(scale)], samples.seconds).mean for scale in SCALES}
    best = min(SCALES, key=lambda scale: scores[scale])
    whole = _Trained.on(samples, recipe)
    features = np.concatenate(samples.features(whole.form, samples.repeats))
    return Fitted(
        recipe, whole.estimate, whole.residual(samples, best),
        Domain(features.min(axis=0), features.max(axis=0), RADIUS),
        {
            **{name: Errors.of(predictions[name], samples.seconds) for name in ("roofline", "data", "form")},
            "residual": Errors.of(predictions[str(best)], samples.seconds),
        },
        predictions[str(best)], len(samples), len(np.unique(samples.groups)),
    )  # fmt: skip


def fold_numbers(groups: Groups) -> Indices:
    """Return the fold of every row: whole groups together; single rows where groups are fewer than folds."""
    names = np.unique(groups)
    if len(names) < FOLDS:
        return np.random.default_rng(SEED).permutation(len(groups)) % FOLDS
    order = np.random.default_rng(SEED).permutation(len(names)) % FOLDS
    found: Indices = order[np.searchsorted(names, groups)]
    return found


def _predict_fold(
    seen: Samples, held: Samples, recipe: Recipe, mask: npt.NDArray[np.bool_], predictions: Mapping[str, Array]
) -> None:
    """Write what models of the rows seen say of the rows held out."""
    trained = _Trained.on(seen, recipe)
    predictions["form"][mask] = trained.predict(held, None)
    for scale in SCALES:
        predictions[str(scale)][mask] = trained.predict(held, trained.residual(seen, scale))
    roofline = _roofline(held)
    predictions["roofline"][mask] = roofline
    predictions["data"][mask] = _data_driven(seen, held, trained.form, recipe)


@dataclass(frozen=True, slots=True, eq=False)
class _Trained:
    """A form whose parameters are known."""

    recipe: Recipe
    estimate: Estimate
    form: Form

    @staticmethod
    def on(samples: Samples, recipe: Recipe) -> _Trained:
        """Return the form fitted to (a sample of) some rows."""
        kind = FORMS[recipe.form]
        sets = [_some(each) for each in (samples, *samples.siblings)]
        others = [each.others() for each in sets]

        def predict(values: Mapping[str, float]) -> Array:
            form = kind.build(values, recipe.choices)
            return np.concatenate(
                [rest + np.sum(each.form_times(form, each.repeats), axis=0) for each, rest in zip(sets, others, strict=True)]
            )

        weights = np.concatenate([np.full(len(each), SIBLING if place else 1.0) for place, each in enumerate(sets)])
        seconds = np.concatenate([each.seconds for each in sets])
        found = estimate(predict, seconds, kind.parameters(recipe.terms), weights)
        return _Trained(recipe, found, kind.build(found.values, recipe.choices))

    def residual(self, samples: Samples, scale: float) -> Residual:
        """Return the residual of some rows, its bumps `scale` times the form's lengths."""
        kind = FORMS[self.recipe.form]
        times = samples.form_times(self.form, samples.repeats)
        total = samples.others() + np.sum(times, axis=0)
        shares = [
            Share(features, part / total)
            for features, part in zip(samples.features(self.form, samples.repeats), times, strict=True)
        ]
        lengths = scale * np.array(kind.lengths)
        return residual(shares, np.log(samples.seconds / total), kind.axes, lengths)

    def predict(self, samples: Samples, correction: Residual | None) -> Array:
        """Return the time of every row [s]."""
        count = samples.repeats
        total = samples.others()
        for part, features in zip(
            samples.form_times(self.form, count), samples.features(self.form, count), strict=True
        ):
            factor = 1.0 if correction is None else np.asarray(correction.factor(list(features.T)))
            total = total + part * factor
        return total


def _some(samples: Samples) -> Samples:
    """Return as many of the rows as a form is fitted to."""
    if len(samples) <= ROWS:
        return samples
    chosen = np.zeros(len(samples), dtype=bool)
    chosen[np.random.default_rng(SEED).permutation(len(samples))[:ROWS]] = True
    return samples.take(chosen)


def _roofline(samples: Samples) -> Array:
    """Return the bare roofline's time of every row [s]."""
    seconds = []
    for part in samples.parts:
        machine = part.machine(samples.framework)
        total: Any = -part.fused * samples.framework.launch
        for operator in part.operators:
            total = total + operator_time(operator, machine, part.cluster, ROOFLINE).seconds
        seconds.append(np.broadcast_to(total, part.rows.shape))
    return np.concatenate(seconds)


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
    bumps = residual([Share(seen.features(form, 1)[0], ones)], misses, kind.axes, np.array(kind.lengths))
    factor = bumps.factor(list(held.features(form, 1)[0].T))
    predicted: Array = np.exp(plane(held) @ slopes) * factor
    return predicted
