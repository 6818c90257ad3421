"""Fits a form's parameters to measured times, and the smooth residual on top of them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.cost.parameter import Parameter
from costmodel.cost.residual import Residual
from costmodel.quantities import Array
from costmodel.records import Record, replace

SUPPORTS = 64  # at most, of a residual
CANDIDATES = 256  # clusters of shapes, of whose centres a thorough residual takes those that explain most
ROBUST = 0.05  # relative error beyond which a row weighs less: what the same kernel repeats within
RIDGE = 0.03  # of the residual's weights, against the rows' unit weights
ROUNDS = 4  # of reweighting
STARTS = 3
FIRST = 12  # evaluations of each start
APART = 0.7  # standard deviation of the logarithms of starts
EVALUATIONS = 40
PRIOR = 0.01  # of a misfit of one: a factor of e between a parameter and where its search starts costs as a row 1 % off
STEP = 1e-3  # of a finite difference: forms have steps (whole waves), which a smaller one would not see across


class Estimate(Record):
    """Parameters by name, and the relative standard error of each, NaN where the rows do not determine it."""

    values: Mapping[str, float]
    errors: Mapping[str, float]


def estimate(
    predict: Callable[[Mapping[str, float]], Array],
    seconds: Array,
    bounds: Mapping[str, Parameter],
    weights: Array | float = 1.0,
) -> Estimate:
    """Return the parameters that make predicted times nearest to measured ones.

    Minimises sum rho((weight * (log predicted - log measured))^2) with rho that of a soft absolute value beyond
    `ROBUST`, over the logarithms of the parameters, plus (PRIOR * log(parameter / start))^2 of each: what no row
    determines stays where it starts. Of several starts that which a few steps bring nearest goes on: forms have
    valleys. predict: parameters -> predicted seconds of every row; seconds: measured.
    """
    from scipy.optimize import least_squares

    names = list(bounds)
    target = np.log(seconds)

    def misfit(point: Array) -> Array:
        times = predict(dict(zip(names, np.exp(point).tolist(), strict=True)))
        return np.concatenate([weights * (np.log(times) - target), PRIOR * (point - start)])

    low, start, high = (np.log([getattr(bounds[name], side) for name in names]) for side in ("low", "start", "high"))

    def search(point: Array, evaluations: int) -> Any:
        return least_squares(
            misfit, point, bounds=(low, high), loss="soft_l1", f_scale=ROBUST, diff_step=STEP, max_nfev=evaluations
        )

    offsets = np.random.default_rng(0).normal(0.0, APART, size=(STARTS - 1, len(start)))
    starts = [start, *np.clip(start + offsets, low + STEP, high - STEP)]
    tried = [search(point, FIRST) for point in starts]
    best = search(min(tried, key=lambda each: float(each.cost)).x, EVALUATIONS)
    rows = slice(len(target))  # what the prior says is no evidence
    return Estimate(
        dict(zip(names, np.exp(best.x).tolist(), strict=True)),
        dict(zip(names, _standard_errors(best.jac[rows], best.fun[rows], best.active_mask), strict=True)),
    )


def _standard_errors(jacobian: Array, log_errors: Array, active: npt.NDArray[np.int_]) -> list[float]:
    """Return the standard errors of logarithmic parameters, NaN for those at a bound or without effect."""
    free = (active == 0) & (np.abs(jacobian).max(axis=0) > 0)
    errors = np.full(len(active), np.nan)
    rows, parameters = len(log_errors), int(free.sum())
    if rows > parameters > 0:
        information = jacobian[:, free].T @ jacobian[:, free]
        variance = float(log_errors @ log_errors) / (rows - parameters)
        errors[free] = np.sqrt(np.maximum(np.diag(np.linalg.pinv(information)), 0.0) * variance)
    return errors.tolist()


class KernelShare(Record):
    """How a row's time depends on one kernel in it: its features and its share of the row's predicted time."""

    features: Array  # (rows, axes)
    share: Array  # (rows,)


def residual(
    shares: Sequence[KernelShare],
    log_errors: Array,
    axes: tuple[str, ...],
    lengths: Array,
    ridge: float = RIDGE,
    candidates: int = SUPPORTS,
) -> Residual:
    """Return the residual that explains log(measured / predicted) of rows.

    A row of several kernels moves by the sum of their corrections, each times its share of the time. Support points are
    the centres of clusters of the measured shapes. Of more `candidates` than supports, those that explain most. Ridge
    regression, reweighted against outliers.

    log_errors: (rows,).
    ridge: weight of the bumps' heights against that of a row.
    """
    points = np.concatenate([share.features for share in shares]) / lengths
    centres = cluster_centres(points, candidates)
    rows = [share.share[:, None] * gaussians(share.features / lengths, centres) for share in shares]
    matrix: Array = functools.reduce(np.add, rows)
    prior = ridge * gaussians(centres, centres) + 1e-6 * np.eye(len(centres))
    if len(centres) > SUPPORTS:
        _, weights = _ridge(matrix, log_errors, prior)
        chosen = _most_telling(matrix, log_errors, prior, weights)
        centres, matrix, prior = centres[chosen], matrix[:, chosen], prior[np.ix_(chosen, chosen)]
    solution, _ = _ridge(matrix, log_errors, prior)
    return Residual(axes, lengths, centres * lengths, solution)


def _ridge(matrix: Array, log_errors: Array, prior: Array) -> tuple[Array, Array]:
    weights: Array = np.ones(len(log_errors))
    solution: Array = np.zeros(len(prior))
    for _ in range(ROUNDS):
        weighted = matrix * weights[:, None]
        solution = np.asarray(np.linalg.solve(weighted.T @ matrix + prior, weighted.T @ log_errors), dtype=np.float64)
        weights = 1.0 / np.sqrt(1.0 + ((log_errors - matrix @ solution) / ROBUST) ** 2)
    return solution, weights


def _most_telling(matrix: Array, log_errors: Array, prior: Array, weights: Array) -> npt.NDArray[np.intp]:
    """Return the `SUPPORTS` bumps that explain most together, chosen one after another.

    Each is the one by which the ridge regression's objective falls most, given those chosen before: orthogonal least
    squares (Chen, Cowan, Grant, IEEE Transactions on Neural Networks 2(2), 1991), by the columns of a Cholesky factor.
    """
    weighted = matrix * weights[:, None]
    normal, explained = weighted.T @ matrix + prior, weighted.T @ log_errors
    remaining = np.diag(normal).copy()  # of each bump, what those chosen before do not span
    enough = 1e-9 * remaining
    columns = np.zeros((SUPPORTS, len(remaining)))
    chosen: list[int] = []
    for i in range(SUPPORTS):
        gain = np.where(remaining > enough, explained**2 / np.maximum(remaining, enough), 0.0)
        gain[chosen] = 0.0
        best = int(np.argmax(gain))
        if gain[best] <= 0.0:
            break
        root = np.sqrt(remaining[best])
        columns[i] = (normal[best] - columns[:i, best] @ columns[:i]) / root
        explained = explained - explained[best] / root * columns[i]
        remaining = remaining - columns[i] ** 2
        chosen.append(best)
    return np.array(sorted(chosen), dtype=np.intp)


def gaussians(points: Array, centres: Array) -> Array:
    """Return exp(-distance^2 / 2) of every point to every centre, both in lengths."""
    squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)[None] - 2.0 * points @ centres.T
    bumps: Array = np.exp(-0.5 * np.maximum(squares, 0.0))
    return bumps


def cluster_centres(points: Array, count: int) -> Array:
    """Return at most `count` centres of clusters. The same points give the same centres."""
    from scipy.cluster.vq import kmeans2

    distinct = np.unique(points, axis=0)
    if len(distinct) <= count:
        return distinct
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")  # it keeps its centre, a point
        centres, _ = kmeans2(distinct, _seeds(distinct, count), minit="matrix")
    return np.unique(centres, axis=0)


def _seeds(points: Array, count: int) -> Array:
    """Return the points that clusters start from: each far from those chosen before.

    A point is drawn with a chance that goes with its squared distance to the nearest one chosen (k-means++: Arthur,
    Vassilvitskii, Symposium on Discrete Algorithms 2007). These are the draws of scipy's `minit="++"`, which measures
    all distances anew for each.
    """
    from scipy.spatial.distance import cdist

    draws = np.random.RandomState(0)
    chosen = [int(draws.randint(0, len(points)))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, cdist(points[chosen[-1:]], points, metric="sqeuclidean")[0])
        reached = np.cumsum(nearest / nearest.sum())
        chosen.append(int(np.searchsorted(reached, draws.uniform())))
    return points[chosen]


# ---- Refines the bumps of a residual: moves them to where they explain more, with lengths of their own ---------------

STEPS = 400  # of the descent, at most
TIE = 0.003  # how strongly a bump is held to its position and lengths, against a row's misfit
FURTHEST = 4.0  # by what a bump's own lengths differ from those that all start with, at most


def refine_bumps(start: Residual, shares: Sequence[KernelShare], log_errors: Array, ridge: float) -> Residual:
    """Return a residual whose bumps have left their places for those where they explain more.

    Minimises over places c, own lengths l and heights w of all bumps

        sum over rows of rho(error - r) + ridge/2 * |w|^2 + TIE/2 * (|(c - c_0)/l_0|^2 + |log(l/l_0)|^2)
        rho(e) = ROBUST^2 * (sqrt(1 + (e/ROBUST)^2) - 1)

    from c_0, l_0 and w_0 of `start`, by L-BFGS with bounds on l (Byrd, Lu, Nocedal, Zhu, SIAM Journal on Scientific
    Computing 16(5), 1995). rho is half the square of a small error and goes with the size of a large one, as the
    mean does by which fits are judged. ridge: weight of the bumps' heights against that of a row.
    """
    from scipy.optimize import minimize

    if not len(start.weights):
        return start
    descent = _Descent.of(start, shares, log_errors, ridge)
    count, places = len(start.weights), start.centres.size
    free = np.concatenate([np.zeros(2 * places), start.weights])
    farthest = np.log(FURTHEST)
    limits = [(None, None)] * places + [(-farthest, farthest)] * places + [(None, None)] * count
    solution = minimize(
        descent.objective, free, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": STEPS, "maxcor": 20}
    )
    offsets, longer, weights = descent.parted(solution.x)
    return replace(
        start,
        centres=start.centres + offsets * start.lengths,
        weights=weights,
        bump_lengths=start.lengths * np.exp(longer),
    )


class _Descent(Record):
    """The objective of `refine_bumps` and its gradient.

    All shapes and places are in lengths from the middle of the places. A squared distance is a product of matrices,
    |(x - c)/l|^2 = x^2 . l^-2 - 2*x . (c*l^-2) + 1 * |c/l|^2, and so are the sums over rows that its gradient needs.
    """

    powers: Array  # (kernels, 2 * axes + 1): squares of the shapes, the shapes, and ones
    shares: Array  # (kernels,): of a row's time
    log_errors: Array  # (rows,)
    places: Array  # (supports, axes), where they start
    ridge: float

    @staticmethod
    def of(start: Residual, shares: Sequence[KernelShare], log_errors: Array, ridge: float) -> _Descent:
        middle = start.centres.mean(axis=0)
        shapes = (np.concatenate([share.features for share in shares]) - middle) / start.lengths
        powers = np.concatenate([shapes**2, shapes, np.ones((len(shapes), 1))], axis=1)
        parts = np.concatenate([share.share for share in shares])
        return _Descent(powers, parts, log_errors, (start.centres - middle) / start.lengths, ridge)

    def parted(self, free: Array) -> tuple[Array, Array, Array]:
        """Return offsets of the places, logarithms of the own lengths, and heights."""
        offsets, longer = free[: 2 * self.places.size].reshape(2, *self.places.shape)
        return offsets, longer, free[2 * self.places.size :]

    def objective(self, free: Array) -> tuple[float, Array]:
        offsets, longer, weights = self.parted(free)
        places, sharp = self.places + offsets, np.exp(-2.0 * longer)
        level = -0.5 * (places**2 * sharp).sum(axis=1, keepdims=True)
        bumps = self.powers @ np.concatenate([-0.5 * sharp, places * sharp, level], axis=1).T
        np.exp(bumps, out=bumps)
        misfit = self.log_errors - self._of_rows(bumps @ weights)
        stretched = np.sqrt(1.0 + (misfit / ROBUST) ** 2)
        loss = ROBUST**2 * float((stretched - 1.0).sum())
        prior = TIE * float((offsets**2).sum() + (longer**2).sum()) + self.ridge * float(weights @ weights)
        bumps *= -self._of_kernels(misfit / stretched)[:, None]
        sums = (self.powers.T @ bumps).T
        twice, once, none = np.split(weights[:, None] * sums, [places.shape[1], 2 * places.shape[1]], axis=1)
        slopes = (once - places * none) * sharp + TIE * offsets
        curves = (twice - 2.0 * places * once + places**2 * none) * sharp + TIE * longer
        heights = sums[:, -1] + self.ridge * weights
        return loss + 0.5 * prior, np.concatenate([slopes.ravel(), curves.ravel(), heights])

    def _of_rows(self, values: Array) -> Array:
        """Return the sum over a row's kernels, each with its share."""
        sums: Array = (values * self.shares).reshape(-1, len(self.log_errors)).sum(axis=0)
        return sums

    def _of_kernels(self, values: Array) -> Array:
        """Return what a value of a row says of each of its kernels."""
        shared: Array = (values * self.shares.reshape(-1, len(self.log_errors))).ravel()
        return shared
