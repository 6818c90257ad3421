"""How far runs of a publication that nobody has seen lie from predictions, by class and by what these rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import gammaln

from costmodel.analytic.intervals import CONDITIONS
from costmodel.quantities import Array

COVERAGE = 0.8
NORMAL = 1.2816  # half an 80 % interval of normal numbers over their standard deviation
FREEDOM = 4.0  # degrees of freedom of the t-distribution of errors: tails of publications are heavier than normal ones
LOG_WIDTH = 0.35  # prior standard deviation of the log scale of a class about that of all classes
CONDITION = 0.25  # prior scale of what a condition adds to the log error of a run that rests on it alone
LEAST = 0.01  # of a scale: 1 %
START = 0.1


@dataclass(frozen=True, slots=True)
class RunError:
    """One published time or rate of a whole run beside its prediction. All logs, of times.

    late: measured over predicted time, less the centre that the medians of its kernels give.
    down, up: ends of the interval of its kernels.
    group: figures with the same one follow from one another.
    shares: by condition (`CONDITIONS`), the share of the run that meets it.
    """

    case_class: str
    publication: str
    group: str
    late: float
    down: float
    up: float
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """Half-widths of the 80 % interval [log]. classes: by class; conditions: by condition, of runs that rest on it."""

    classes: Mapping[str, float]
    conditions: Mapping[str, float]

    def half_width(self, row: RunError) -> float:
        """Return half of the interval of a run beside its kernels'.

        D^2 = D_class^2 + sum over conditions b of (share_b D_b)^2
        """
        more = sum((row.shares.get(name, 0.0) * value) ** 2 for name, value in self.conditions.items())
        return float(np.sqrt(self.classes[row.case_class] ** 2 + more))

    def scaled(self, factor: float) -> Scales:
        """Return all half-widths times a factor."""
        return Scales(
            {name: factor * value for name, value in self.classes.items()},
            {name: factor * value for name, value in self.conditions.items()},
        )


def weights(rows: Sequence[RunError]) -> Array:
    """Return a weight for each row: publications of a class weigh the same, and so do the groups of one."""
    sizes = Counter((row.case_class, row.publication, row.group) for row in rows)
    groups = Counter((case_class, publication) for case_class, publication, _ in sizes)
    return np.array(
        [
            1.0 / sizes[row.case_class, row.publication, row.group] / groups[row.case_class, row.publication]
            for row in rows
        ]
    )


def fit_scales(rows: Sequence[RunError]) -> Scales:
    """Return the scales under which the errors are likeliest, each publication with the same weight.

        maximise  sum_i w_i log t_4(late_i / sd_i) / sd_i  +  log prior,     sd_i^2 = kernels_i^2 + D_i^2 / NORMAL^2

    kernels: half of the kernels' interval on the side of the error. Priors: log D_class normal about a common value
    with LOG_WIDTH; D_condition half normal with CONDITION. Classes borrow from one another what few publications do not
    say.
    """
    names = sorted({row.case_class for row in rows})
    used = [name for name in CONDITIONS if any(row.shares.get(name, 0.0) > 0.0 for row in rows)]
    w = weights(rows)
    late = np.array([row.late for row in rows])
    kernels = np.array([row.up if row.late > 0.0 else row.down for row in rows]) / NORMAL
    place = np.array([names.index(row.case_class) for row in rows])
    shares = np.array([[row.shares.get(name, 0.0) for name in used] for row in rows]).reshape(len(rows), len(used))

    def cost(x: npt.NDArray[np.float64]) -> float:
        common, apart, more = x[0], x[1 : 1 + len(names)], x[1 + len(names) :]
        scale = np.exp(common + apart)[place]
        sd = np.sqrt(kernels**2 + scale**2 + (shares**2) @ (more**2))
        z = (late / sd) ** 2
        likely = -0.5 * (FREEDOM + 1.0) * np.log1p(z / FREEDOM) - np.log(sd)
        prior = 0.5 * float((apart**2).sum()) / LOG_WIDTH**2 + 0.5 * float((more**2).sum()) / CONDITION**2
        return prior - float((w * (likely + _CONSTANT)).sum())

    start = np.concatenate([[np.log(START)], np.zeros(len(names)), np.full(len(used), START)])
    bounds = [(np.log(LEAST), 1.0), *[(-2.0, 2.0)] * len(names), *[(0.0, 2.0)] * len(used)]
    found = minimize(cost, start, method="L-BFGS-B", bounds=bounds).x
    classes = NORMAL * np.exp(found[0] + found[1 : 1 + len(names)])
    more = dict(zip(used, (NORMAL * found[1 + len(names) :]).tolist(), strict=True))
    return Scales(dict(zip(names, classes.tolist(), strict=True)), more)


_CONSTANT = float(gammaln((FREEDOM + 1.0) / 2.0) - gammaln(FREEDOM / 2.0))


def conformal_scales(rows: Sequence[RunError]) -> Scales:
    """Return scales under which intervals hold the errors of publications that had no part in them.

    Each publication's scores are those about scales fitted without it:

        score_i = sqrt(max(late_i^2 - kernels_i^2, 0)) / D_i,   kernels_i: the interval's half on the error's side
        q = the (1 + 1/P) * 80 % point of the scores, each publication with the same weight

    and all scales are multiplied by q. P: publications, the unit that is exchangeable, not the figure; the factor is
    that of split conformal prediction with P calibration points. Sources: Dunn, Wasserman, Ramdas, Distribution-free
    Prediction Sets for Two-layer Hierarchical Models, JASA 118, 2023 (pooling of publications); Barber, Candes, Ramdas,
    Tibshirani, Predictive Inference with the Jackknife+, Annals of Statistics 49, 2021 (scores of fits that leave out).
    """
    publications = sorted({row.publication for row in rows})
    scores = np.zeros(len(rows))
    for name in publications:
        rest = [row for row in rows if row.publication != name]
        scales = with_classes(fit_scales(rest), rows)
        for at, row in enumerate(rows):
            if row.publication == name:
                kernels = row.up if row.late > 0.0 else row.down
                scores[at] = np.sqrt(max(row.late**2 - kernels**2, 0.0)) / scales.half_width(row)
    level = min(COVERAGE * (1.0 + 1.0 / len(publications)), 1.0)
    return fit_scales(rows).scaled(quantile(scores, weights(rows), level))


def with_classes(scales: Scales, rows: Iterable[RunError]) -> Scales:
    """Return scales that have every class of some rows; one that no publication is left of takes the widest."""
    widest = max(scales.classes.values(), default=START)
    return replace(scales, classes={row.case_class: widest for row in rows} | dict(scales.classes))


def quantile(values: Array, weight: Array, level: float) -> float:
    """Return the value up to which a share of the weight lies."""
    order = np.argsort(values)
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][min(int(np.searchsorted(reached, level)), len(values) - 1)])


def coverage(rows: Sequence[RunError], scales: Scales) -> float:
    """Return the share of the weight of errors that intervals of such scales hold."""
    inside = [abs(row.late) <= np.hypot(row.up if row.late > 0.0 else row.down, scales.half_width(row)) for row in rows]
    return float(np.average(inside, weights=weights(rows)))
