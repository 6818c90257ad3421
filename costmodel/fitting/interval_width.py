"""How wide intervals are: by predicted time, by the distance to measured shapes, and by the shape itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from costmodel.cost.calibration import Spread
from costmodel.cost.residual import Dispersion, Nearness, Residual
from costmodel.fitting.regression import cluster_centres, gaussians
from costmodel.quantities import Array, Indices

INTERVAL = 0.8  # share of the rows that an interval holds
APART = 1.05  # ratio of distances below which groups of shapes are no farther than single ones
SUPPORTS = 32  # at most, of a scatter
LONGER = (0.5, 1.0, 2.0, 4.0)  # lengths of a scatter over those of the residual, among which cross-validation chooses
RIDGES = (0.3, 1.0, 10.0)  # of its weights, likewise
LEAST = 1e-3  # of a predicted time: no half of an interval is narrower, as measured times have three digits
FARTHEST = 5.0  # misses count as this many times what they are expected to be, at most
ROUNDS = 30  # of the search for a scatter's weights, at most
ENOUGH = 1e-4  # a step after which it ends


POINTS = (10.0, 50.0, 90.0)  # per cent of the rows
EDGES = (0.0, 1e-5, 1e-4, 1e-3, np.inf)  # of predicted time [s]: short kernels miss more of their fixed time
FEWEST = 30  # rows behind a point; fewer join the next shorter group of rows


def spread(values: Array) -> tuple[float, float, float]:
    """Return the 10 %, 50 % and 90 % points, to three digits."""
    low, median, high = (float(f"{point:.3g}") for point in np.percentile(values, POINTS))
    return low, median, high


def groups(predicted_seconds: Array) -> list[Indices]:
    """Return the rows of each group by predicted time; a group of fewer than `FEWEST` joins the one before it."""
    found: list[Indices] = []
    for shortest, longest in itertools.pairwise(EDGES):
        rows = np.flatnonzero((predicted_seconds >= shortest) & (predicted_seconds < longest))
        if found and min(len(found[-1]), len(rows)) < FEWEST:
            found[-1] = np.concatenate([found[-1], rows])
        else:
            found.append(rows)
    return [rows for rows in found if len(rows)]


@dataclass(frozen=True, slots=True)
class Knot:
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


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutPredictions:
    """Predictions of rows that a fit had not seen [s], and how far the nearest support was [lengths]."""

    seconds: Array
    distances: Array


@dataclass(frozen=True, slots=True, eq=False)
class HalfWidths:
    """What an interval reaches below and above a predicted time, as shares of it, where all shapes are alike."""

    below: Array
    above: Array

    @staticmethod
    def of(predicted: Array, ratio: Array) -> HalfWidths:
        """Return those of rows by the spread that their own misses have. ratio: measured over predicted."""
        ordered = sorted(spread_knots(predicted, ratio), key=lambda knot: knot.time)
        columns = [tuple(getattr(knot, name) for knot in ordered) for name in ("time", "low", "median", "high")]
        stated = Spread(*columns)
        low, high = (np.asarray(stated.ratio(predicted, *side)) for side in ((1.0, 0.0), (0.0, 1.0)))
        return HalfWidths(np.maximum(1.0 - low, LEAST), np.maximum(high - 1.0, LEAST))

    def misses(self, ratio: Array) -> Array:
        """Return how far measured times are off, in halves of the interval on their side."""
        found: Array = np.where(ratio < 1.0, (1.0 - ratio) / self.below, (ratio - 1.0) / self.above)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Widths:
    """How wide a family's intervals are. of_rows: at the rows, each from a scatter that had not seen its group."""

    nearness: Nearness | None
    scatter: Dispersion | None
    of_rows: Array


def interval_widths(
    near: HeldOutPredictions, far: HeldOutPredictions, seconds: Array, shapes: Shapes, folds: Indices
) -> Widths:
    """Return how the width of intervals depends on place and shape.

    near, far: the rows where single shapes and where whole groups were held out; seconds: measured; folds: of groups.
    The scatter is scaled so that the intervals about the rows of unseen groups hold `INTERVAL` of them.
    """
    nearness = nearness_of(near, far, seconds)
    place = np.ones(len(seconds)) if nearness is None else np.asarray(nearness.width(far.distances))
    ratio = seconds / far.seconds
    misses = HalfWidths.of(far.seconds, ratio).misses(ratio) / place
    scatter, unseen = _scatter(misses, shapes, folds)
    return Widths(nearness, scatter, place * unseen)


def nearness_of(near: HeldOutPredictions, far: HeldOutPredictions, seconds: Array) -> Nearness | None:
    """Return how the spread depends on the distance to a support; None where groups are no farther than shapes."""
    places = [float(np.median(each.distances)) for each in (near, far)]
    reach = [float(np.quantile(np.abs(np.log(each.seconds / seconds)), INTERVAL)) for each in (near, far)]
    if not (places[1] > places[0] * APART and 0.0 < reach[0] < reach[1]):
        return None
    return Nearness(places[0], places[1], reach[0] / reach[1])


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """Where rows lie: axes of the family, features of every row, shape (rows, axes), and the residual's lengths."""

    axes: tuple[str, ...]
    features: Array
    lengths: Array

    def take(self, mask: Array) -> Shapes:
        """Return the rows where a mask holds."""
        return Shapes(self.axes, self.features[mask], self.lengths)


def _scatter(misses: Array, shapes: Shapes, folds: Indices) -> tuple[Dispersion, Array]:
    """Return the scatter of misses by shape, and its width at every row from a fit that had not seen the row's fold.

    Of some lengths and ridges those under which unseen misses are likeliest; one width for all shapes is among them.
    """
    tried = [((longer, ridge), np.empty(len(misses))) for longer in LONGER for ridge in RIDGES]
    tried.append(((1.0, np.inf), np.empty(len(misses))))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        seen, unseen = shapes.take(~held), shapes.take(held)
        for longer in LONGER:
            basis = _Basis.of(seen, longer)
            for (length, ridge), width in tried:
                if length == longer:
                    width[held] = basis.scatter(misses[~held], ridge).width(list(unseen.features.T))
    (longer, ridge), width = min(tried, key=lambda one: _unlikeliness(misses, one[1]))
    scale = float(np.quantile(misses / width, INTERVAL))
    found = _Basis.of(shapes, longer).scatter(misses, ridge)
    return Dispersion(found.bumps, found.level * scale), width * scale


def _unlikeliness(misses: Array, width: Array) -> float:
    """Return minus the mean log likelihood of misses whose absolute values are exponential with these means."""
    return float(np.mean(misses / width + np.log(width)))


@dataclass(frozen=True, slots=True, eq=False)
class _Basis:
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

    def scatter(self, misses: Array, ridge: float) -> Dispersion:
        """Return the scatter under which the absolute misses of the rows are likeliest.

        They are exponential, of mean level * exp(sum of bumps): a generalised linear model with a logarithmic link, by
        Fisher's scoring, where the heights have a normal prior. A miss counts as `FARTHEST` times its mean at most.
        ridge: weight of the prior; infinite: no bumps.
        """
        level = np.log(max(float(misses.mean()), LEAST))
        if not np.isfinite(ridge):
            none = Residual(self.axes, self.lengths, np.zeros((0, len(self.lengths))), np.zeros(0))
            return Dispersion(none, float(np.exp(level)))
        prior = np.zeros((self.matrix.shape[1],) * 2)
        prior[:-1, :-1] = ridge * (gaussians(self.supports, self.supports) + 1e-6 * np.eye(len(self.supports)))
        weights = np.append(np.zeros(len(self.supports)), level)
        inverse = np.linalg.inv(self.matrix.T @ self.matrix + prior)
        for _ in range(ROUNDS):
            excess = np.minimum(misses * np.exp(-self.matrix @ weights), FARTHEST) - 1.0
            step = inverse @ (self.matrix.T @ excess - prior @ weights)
            weights = weights + step
            if float(np.abs(step).max()) < ENOUGH:
                break
        return Dispersion(
            Residual(self.axes, self.lengths, self.supports * self.lengths, weights[:-1]), float(np.exp(weights[-1]))
        )
