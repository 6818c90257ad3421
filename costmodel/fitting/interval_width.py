"""How wide intervals are: by predicted time, by the distance to measured shapes, and by the shape itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from costmodel.cost.residual import Dispersion, Nearness, Residual
from costmodel.cost.spread import Spread
from costmodel.fitting.regression import cluster_centres, gaussians
from costmodel.quantities import Array, Indices
from costmodel.records import Record, ValueRecord

INTERVAL = 0.8  # share of the rows that an interval holds
APART = 1.05  # ratio of distances below which groups of shapes are no farther than single ones
SUPPORTS = 32  # at most, of a dispersion
LONGER = (0.5, 1.0, 2.0, 4.0)  # its lengths over the residual's, among which cross-validation chooses
RIDGES = (0.3, 1.0, 10.0)  # of its weights, likewise
LEAST = 1e-3  # of a predicted time: no half of an interval is narrower, as measured times have three digits
FARTHEST = 5.0  # errors count as this many times what they are expected to be, at most
ROUNDS = 30  # of the search for a dispersion's weights, at most
ENOUGH = 1e-4  # a step after which it ends
POINTS = (10.0, 50.0, 90.0)  # per cent of the rows
EDGES = (0.0, 1e-5, 1e-4, 1e-3, np.inf)  # of predicted time [s]: short kernels err by more of their fixed time
FEWEST = 30  # rows behind a point; fewer join the next shorter group of rows


def spread(values: Array) -> tuple[float, float, float]:
    """Return the 10 %, 50 % and 90 % points, to three digits."""
    low, median, high = (float(f"{point:.3g}") for point in np.percentile(values, POINTS))
    return low, median, high


def groups(predicted_seconds: Array) -> list[Indices]:
    """Return the rows of each group by predicted time. A group of fewer than `FEWEST` joins the one before it."""
    rows_of_group: list[Indices] = []
    for shortest, longest in itertools.pairwise(EDGES):
        rows = np.flatnonzero((predicted_seconds >= shortest) & (predicted_seconds < longest))
        if rows_of_group and min(len(rows_of_group[-1]), len(rows)) < FEWEST:
            rows_of_group[-1] = np.concatenate([rows_of_group[-1], rows])
        else:
            rows_of_group.append(rows)
    return [rows for rows in rows_of_group if len(rows)]


class Knot(ValueRecord):
    """The 10 %, 50 % and 90 % points of measured over predicted time of some rows, at their median time [s]."""

    time: float
    low: float
    median: float
    high: float
    rows: int

    @staticmethod
    def of(predicted: Array, ratio: Array) -> Knot:
        """Return the points of some rows."""
        return Knot(float(f"{np.median(predicted):.3g}"), *spread(ratio), len(ratio))


def spread_knots(predicted: Array, ratio: Array) -> Iterator[Knot]:
    """Yield the spread of measured over predicted times, by predicted time."""
    for rows in groups(predicted):
        yield Knot.of(predicted[rows], ratio[rows])


class HeldOutPredictions(Record):
    """Predictions of rows that a fit had not seen [s], and how far the nearest support was [lengths]."""

    seconds: Array
    distances: Array


class HalfWidths(Record):
    """What an interval spans below and above a predicted time, as shares of it, where all shapes are equal."""

    below: Array
    above: Array

    @staticmethod
    def of(predicted: Array, ratio: Array) -> HalfWidths:
        """Return those of rows by the spread that their own errors have. ratio: measured over predicted."""
        ordered = sorted(spread_knots(predicted, ratio), key=lambda knot: knot.time)
        columns = [tuple(getattr(knot, name) for knot in ordered) for name in ("time", "low", "median", "high")]
        stated = Spread(*columns)
        low, high = (np.asarray(stated.ratio(predicted, *side)) for side in ((1.0, 0.0), (0.0, 1.0)))
        return HalfWidths(np.maximum(1.0 - low, LEAST), np.maximum(high - 1.0, LEAST))

    def errors(self, ratio: Array) -> Array:
        """Return the errors of measured times, in halves of the interval on their side."""
        errors: Array = np.where(ratio < 1.0, (1.0 - ratio) / self.below, (ratio - 1.0) / self.above)
        return errors


class Widths(Record):
    """How wide a family's intervals are. of_rows: at the rows, each from a dispersion that had not seen its group."""

    nearness: Nearness | None
    dispersion: Dispersion | None
    of_rows: Array


def interval_widths(
    near: HeldOutPredictions, far: HeldOutPredictions, seconds: Array, shapes: Shapes, folds: Indices
) -> Widths:
    """Return how the width of intervals depends on the distance to measured shapes, and on the shape.

    near, far: the rows where single shapes and where whole groups were held out.
    seconds: measured.
    folds: of groups. The dispersion is scaled so that the intervals about the rows of held-out groups hold `INTERVAL`
    of them.
    """
    nearness = nearness_of(near, far, seconds)
    by_distance = np.ones(len(seconds)) if nearness is None else np.asarray(nearness.width(far.distances))
    ratio = seconds / far.seconds
    errors = HalfWidths.of(far.seconds, ratio).errors(ratio) / by_distance
    dispersion, held_out = _dispersion(errors, shapes, folds)
    return Widths(nearness, dispersion, by_distance * held_out)


def nearness_of(near: HeldOutPredictions, far: HeldOutPredictions, seconds: Array) -> Nearness | None:
    """Return how the spread depends on the distance to a support. None where groups are no farther than shapes."""
    distances = [float(np.median(each.distances)) for each in (near, far)]
    widths = [float(np.quantile(np.abs(np.log(each.seconds / seconds)), INTERVAL)) for each in (near, far)]
    if not (distances[1] > distances[0] * APART and 0.0 < widths[0] < widths[1]):
        return None
    return Nearness(distances[0], distances[1], widths[0] / widths[1])


class Shapes(Record):
    """Where rows lie: axes of the family, features of every row, shape (rows, axes), and the residual's lengths."""

    axes: tuple[str, ...]
    features: Array
    lengths: Array

    def take(self, mask: Array) -> Shapes:
        """Return the rows where a mask holds."""
        return Shapes(self.axes, self.features[mask], self.lengths)


def _dispersion(errors: Array, shapes: Shapes, folds: Indices) -> tuple[Dispersion, Array]:
    """Return the dispersion of errors by shape, and its width at every row from a fit that had not seen the row's fold.

    Of some lengths and ridges those under which held-out errors are likeliest. One width for all shapes is among them.
    """
    tried = [((longer, ridge), np.empty(len(errors))) for longer in LONGER for ridge in RIDGES]
    tried.append(((1.0, np.inf), np.empty(len(errors))))
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        seen, unseen = shapes.take(~held_out), shapes.take(held_out)
        for longer in LONGER:
            basis = _Basis.of(seen, longer)
            for (length, ridge), width in tried:
                if length == longer:
                    width[held_out] = basis.dispersion(errors[~held_out], ridge).width(list(unseen.features.T))
    (longer, ridge), width = min(tried, key=lambda pair: _unlikeliness(errors, pair[1]))
    scale = float(np.quantile(errors / width, INTERVAL))
    whole = _Basis.of(shapes, longer).dispersion(errors, ridge)
    return Dispersion(whole.bumps, whole.level * scale), width * scale


def _unlikeliness(errors: Array, width: Array) -> float:
    """Return minus the mean log likelihood of errors whose absolute values are exponential with these means."""
    return float(np.mean(errors / width + np.log(width)))


class _Basis(Record):
    """Bumps about the centres of clusters of shapes; matrix: of every row, and a column of ones."""

    axes: tuple[str, ...]
    lengths: Array
    supports: Array  # in lengths
    matrix: Array

    @staticmethod
    def of(shapes: Shapes, longer: float) -> _Basis:
        """Return the bumps for some shapes, whose lengths are `longer` times those of the residual."""
        lengths = shapes.lengths * longer
        points = shapes.features / lengths
        supports = cluster_centres(points, SUPPORTS)
        matrix = np.concatenate([gaussians(points, supports), np.ones((len(points), 1))], axis=1)
        return _Basis(shapes.axes, lengths, supports, matrix)

    def dispersion(self, errors: Array, ridge: float) -> Dispersion:
        """Return the dispersion under which the absolute errors of the rows are likeliest.

        They are exponential, of mean level * exp(sum of bumps): a generalised linear model with a logarithmic link, by
        Fisher's scoring, where the heights have a normal prior. An error counts as `FARTHEST` times its mean at most.
        ridge: weight of the prior. Infinite: no bumps.
        """
        level = np.log(max(float(errors.mean()), LEAST))
        if not np.isfinite(ridge):
            none = Residual(self.axes, self.lengths, np.zeros((0, len(self.lengths))), np.zeros(0))
            return Dispersion(none, float(np.exp(level)))
        prior = np.zeros((self.matrix.shape[1],) * 2)
        prior[:-1, :-1] = ridge * (gaussians(self.supports, self.supports) + 1e-6 * np.eye(len(self.supports)))
        weights = np.append(np.zeros(len(self.supports)), level)
        inverse = np.linalg.inv(self.matrix.T @ self.matrix + prior)
        for _ in range(ROUNDS):
            excess = np.minimum(errors * np.exp(-self.matrix @ weights), FARTHEST) - 1.0
            step = inverse @ (self.matrix.T @ excess - prior @ weights)
            weights = weights + step
            if float(np.abs(step).max()) < ENOUGH:
                break
        return Dispersion(
            Residual(self.axes, self.lengths, self.supports * self.lengths, weights[:-1]), float(np.exp(weights[-1]))
        )
