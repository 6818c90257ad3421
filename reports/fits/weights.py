"""How much each published figure counts among others: publications differ, and so do figures of one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from costmodel.quantities import Array

NORMAL = 1.4826  # standard deviation of normal numbers over their median absolute deviation
FEWEST = 3  # publications of several figures from which a scatter between publications is estimated
MOST = 40.0  # of a ratio of variances: beyond it publications do not differ, and figures count alike


def weights_of(publications: Sequence[str], errors: Sequence[float]) -> Array:
    """Return a weight for each figure, those of a publication of very many summing to one.

    publications: of the figures.
    errors: logs of predicted over published time.

        w = 1 / (n + r),     r = s^2 / t^2

    n: figures of the publication. s: standard deviation of log errors inside a publication.
    t: between publications, over those of several figures, whose mean of n has the variance t^2 + s^2/n:

        s^2 = mean of (NORMAL * median absolute deviation)^2,     t^2 = variance of medians - s^2 * mean(1/n)

    With fewer than `FEWEST` such publications, whose medians have no variance to speak of, or without scatter, r = 0
    and publications weigh the same; r is `MOST` at most, since fits look at that many figures of a publication. Source:
    DerSimonian and Laird, Controlled Clinical Trials 7, 1986, with robust estimates.
    """
    by_publication: defaultdict[str, list[float]] = defaultdict(list)
    for name, error in zip(publications, errors, strict=True):
        by_publication[name].append(error)
    ratio = scatter_ratio([np.array(logs) for logs in by_publication.values() if len(logs) > 1])
    return np.array([1.0 / (len(by_publication[name]) + ratio) for name in publications])


def scatter_ratio(several: Sequence[Array]) -> float:
    """Return the variance inside a publication over that between publications, as `weights_of` has it."""
    if len(several) < FEWEST:
        return 0.0
    medians = np.array([np.median(logs) for logs in several])
    deviations = [np.median(np.abs(logs - median)) for logs, median in zip(several, medians, strict=True)]
    inside = float(np.mean((NORMAL * np.array(deviations)) ** 2))
    between = float(np.var(medians, ddof=1)) - inside * float(np.mean([1.0 / len(logs) for logs in several]))
    return 0.0 if not inside else inside / max(between, inside / MOST)
