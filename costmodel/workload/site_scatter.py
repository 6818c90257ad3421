"""How errors of predicted runs go together, and what measured runs of a site say of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from costmodel.declared import Ratio, RatioOrZero, ShareOrZero
from costmodel.quantities import Array, Quantity
from costmodel.records import Record


class Separation(Record):
    """The separation of two runs.

    sizes: sum of squared logs of the ratios of their sizes.
    kinds: 1 where number formats of GEMMs or recomputation differ, else 0.
    same: 1 for one and the same run, else 0.
    passes: 1 where one time is of passes with prompts and the other of decoding, else 0.
    """

    sizes: Quantity
    kinds: Quantity
    same: Quantity
    passes: Quantity = 0.0


class SiteScatter(Record, kw_only=True):
    """How alike errors of runs are, shares of the variance of log(measured / predicted time). The rest is own."""

    site: Annotated[ShareOrZero, "share that all runs of one framework on one cluster have in common"]
    alike: Annotated[ShareOrZero, "share that runs have in common the more, the more alike they are"]
    repeat: Annotated[Ratio, "standard deviation of log time between repetitions of one run"]
    length: Annotated[Ratio, "distance in size at which runs are hardly alike, in factors of e"]
    kinds: Annotated[
        RatioOrZero,
        "distance between runs of other number formats or recomputation, or of servers whose requests come "
        "by themselves and where others end, in lengths",
    ]
    passes: Annotated[RatioOrZero, "likewise between passes with prompts and those of decoding"] = 0.0

    @property
    def own(self) -> Quantity:
        """Return the share of the variance that a run has in common with none but itself."""
        return 1.0 - self.site - self.alike

    def correlation(self, separation: Separation) -> Array:
        """Return the correlation of r between runs.

        c = site + alike * exp(-(sizes/length^2 + kinds^2 [other kinds] + passes^2 [other passes])/2) + own [the same]
        """
        same = np.asarray(separation.same) * (1.0 - separation.passes)
        return self.site + self.alike * self.similarity(separation) + self.own * same

    def similarity(self, separation: Separation) -> Array:
        """Return what of an effect of their site runs have in common, one of near ones."""
        distance = separation.sizes / self.length**2 + self.kinds**2 * separation.kinds
        return np.asarray(np.exp(-0.5 * np.asarray(distance + self.passes**2 * separation.passes)))

    def posterior(
        self, residuals: Sequence[float], deviations: Sequence[float], among: Array, between: Sequence[Array]
    ) -> tuple[Array, Array]:
        """Return the mean of r over its deviation of other runs, given measured ones, and the share of it that is left.

            mean / s = g K^-1 r,     left = sqrt(1 - g K^-1 g'),     K = s_i s_j c_ij + repeat^2 [i = j],   g = s_i c_i

        residuals: r of the measured runs.
        deviations: s, of each without measured ones.
        among: c, their correlations.
        between: c of each with the other runs, arrays of one shape. A Gaussian process whose variance is that of each
        run, with a prior mean of zero [Rasmussen, Williams, Gaussian Processes for Machine Learning, 2006, chapter 2].
        """
        spread = np.array(deviations)
        inverse = np.linalg.inv(np.outer(spread, spread) * among + self.repeat**2 * np.eye(len(spread)))
        gains = [scale * one for scale, one in zip(spread, between, strict=True)]
        weights = inverse @ np.array(residuals)
        mean = sum(weight * gain for weight, gain in zip(weights, gains, strict=True))
        explained = sum(
            inverse[row, column] * one * other for row, one in enumerate(gains) for column, other in enumerate(gains)
        )
        return np.asarray(mean), np.sqrt(np.maximum(1.0 - np.asarray(explained), 0.0))
