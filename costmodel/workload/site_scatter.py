"""How measured steps of training runs scatter about predicted ones, and what measured steps of a site say of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from costmodel.quantities import Array, Quantity

FREEDOM = 4.0  # degrees of freedom: sites differ far more than most of them say


@dataclass(frozen=True, slots=True, eq=False)
class Apart:
    """How far apart runs are.

    sizes: sum of squared logs of the ratios of their sizes; kinds: 1 where number formats of GEMMs or recomputation
    differ, else 0; same: 1 for one and the same run, else 0.
    """

    sizes: Quantity
    kinds: Quantity
    same: Quantity


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SiteScatter:
    """Scales of r = log(measured / predicted step time), whose distribution is Student's t with `FREEDOM` [-].

    site: what all runs of one framework on one cluster share.
    alike: what runs share the more, the more alike they are.
    own: what a run shares with none but itself.
    repeat: between repetitions of one run.
    length: distance in size at which runs are hardly alike, in factors of e.
    kinds: distance between runs of other number formats or recomputation, in lengths.
    """

    site: float
    alike: float
    own: float
    repeat: float
    length: float
    kinds: float

    def covariance(self, apart: Apart) -> Array:
        """Return the covariance of r between runs, as a scale.

        cov = site^2 + alike^2 * exp(-(sizes / length^2 + kinds^2 [other kinds]) / 2) + own^2 [the same run]
        """
        distance = apart.sizes / self.length**2 + self.kinds**2 * apart.kinds
        alike: Array = np.exp(-0.5 * np.asarray(distance))
        return self.site**2 + self.alike**2 * alike + self.own**2 * np.asarray(apart.same)

    @property
    def variance(self) -> float:
        """Return the variance of r of a run without any measured one."""
        return self.site**2 + self.alike**2 + self.own**2 + self.repeat**2

    def posterior(self, residuals: Sequence[float], among: Array, between: Sequence[Array]) -> tuple[Array, Array]:
        """Return mean and deviation of r of other runs, given measured ones.

            mean = k K^-1 residuals,     scale^2 = spread * (cov(x, x) + repeat^2 - k K^-1 k')

        residuals: r of the measured runs; among: K, their covariances without repetition; between: k, the covariance of
        each with the other runs, arrays of one shape; spread: see `spread_of`. The deviation is that of a normal
        distribution with the same 80 % interval. Source: Shah, Wilson, Ghahramani, Student-t Processes as Alternatives
        to Gaussian Processes, AISTATS 2014, lemma 3; a prior mean of zero.
        """
        noisy = among + self.repeat**2 * np.eye(len(residuals))
        weights = np.linalg.solve(noisy, np.array(residuals))
        inverse = np.linalg.inv(noisy)
        mean = sum(weight * one for weight, one in zip(weights, between, strict=True))
        explained = sum(
            inverse[row, column] * one * other
            for row, one in enumerate(between)
            for column, other in enumerate(between)
        )
        widened = np.sqrt(spread_of(float(weights @ np.array(residuals)), len(residuals)))
        return np.asarray(mean), widened * np.sqrt(np.maximum(self.variance - explained, self.repeat**2))


def spread_of(surprise: float, measured: int) -> float:
    """Return what the variance of other runs is multiplied by, for a normal interval of the same 80 %.

        spread = (nu + r K^-1 r) / (nu + n) * (t_90(nu + n) / z_90)^2

    surprise: r K^-1 r of the measured runs, which is n where they are as far off as sites are.
    """
    from scipy.special import ndtri, stdtrit

    freedom = FREEDOM + measured
    return float((FREEDOM + surprise) / freedom * (stdtrit(freedom, 0.9) / ndtri(0.9)) ** 2)
