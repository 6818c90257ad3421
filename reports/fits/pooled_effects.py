"""What kernels of a family share over devices: launch and shares of the peaks, pooled over groups of rows.

A group is one implementation on one device. Its parameters theta_g = log(launch, compute share, memory share) are
fitted to its rows alone, with what they leave open, C_g. Over groups theta_g = mu + delta_g, delta_g of variance S:

    mu = (sum_g W_g)^-1 sum_g W_g theta_g,    W_g = (C_g + S)^-1,    S by moments, diagonal

Two-stage meta-analysis: DerSimonian, Laird, Controlled Clinical Trials 7(3), 1986.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import least_squares

from costmodel.cost.expected_roofline import OVERLAP_P, share_on_die
from costmodel.cost.terms import p_norm
from costmodel.quantities import Array
from costmodel.records import Record

SCATTER = 0.18  # of rows about a group's form: chosen, not measured; it weighs rows against the spread of groups
START = np.log([4e-6, 0.6, 0.75])
LOOSE = np.array([1.5, 0.5, 0.4])  # chosen: so wide that rows decide wherever they say anything
BETWEEN = np.array([0.35, 0.22, 0.15])  # least deviations between groups, where few groups tell too little
ROUNDS = 5


class GroupRows(Record):
    """Rows of one implementation on one device.

    chip, hbm: bare times of the pooled kernels of every row, shape (kernels, rows) [s].
    other: what other kernels of the row take.
    seconds: measured. rate: FLOP of a processor in a cycle over those that the die has.
    """

    device: str
    architecture: str
    implementation: str
    chip: Array
    hbm: Array
    other: Array
    seconds: Array
    rate: float = 1.0

    def predict(self, theta: Array) -> Array:
        """Return the time of every row with the parameters [s]."""
        launch, compute, memory = np.exp(theta)
        busy = p_norm(OVERLAP_P, self.chip / share_on_die(compute, self.rate), self.hbm / memory)
        present = (self.chip + self.hbm) > 0.0
        total: Array = self.other + (np.where(present, launch, 0.0) + busy).sum(axis=0)
        return total

    def errors(self, theta: Array) -> Array:
        """Return log(measured / predicted) of every row."""
        log_errors: Array = np.log(self.seconds / self.predict(theta))
        return log_errors


class GroupEffect(Record):
    """A group's parameters and what its rows leave open of them."""

    rows: GroupRows
    theta: Array
    covariance: Array


def group_effect(rows: GroupRows) -> GroupEffect:
    """Return the parameters of a group by its rows alone."""
    weight = 1.0 / (SCATTER * np.sqrt(max(len(rows.seconds) / 30.0, 1.0)))  # rows of a group are no independent draws

    def misfit(theta: Array) -> Array:
        return np.concatenate([weight * rows.errors(theta), (theta - START) / LOOSE])

    solution = least_squares(misfit, START, loss="soft_l1")
    jacobian = np.asarray(solution.jac)
    return GroupEffect(rows, np.asarray(solution.x), np.linalg.inv(jacobian.T @ jacobian))


def pooled_effect(groups: Sequence[GroupEffect]) -> Array:
    """Return what groups share, each with the weight that its rows and the deviation between groups leave it."""
    between = BETWEEN**2
    thetas = np.array([each.theta for each in groups])
    mean: Array = thetas.mean(axis=0)
    for _ in range(ROUNDS):
        weights = [np.linalg.inv(each.covariance + np.diag(between)) for each in groups]
        total = np.linalg.inv(np.sum(weights, axis=0))
        mean = total @ np.sum([weight @ theta for weight, theta in zip(weights, thetas, strict=True)], axis=0)
        own = np.array([np.diag(each.covariance) for each in groups])
        between = np.maximum(((thetas - mean) ** 2 - own).mean(axis=0), BETWEEN**2)
    return mean
