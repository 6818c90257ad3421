"""Refines the bumps of a residual: moves them to where they explain more, with lengths of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costmodel.cost.residual import Residual
from costmodel.fitting.regression import ROBUST, KernelShare
from costmodel.quantities import Array
from costmodel.records import Record, replace

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
        """Return the objective of some rows."""
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
        """Return what is minimised, and its gradient."""
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
