"""How far runs of a publication that nobody has seen lie from predictions, by class and by what these rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from costmodel.analytic.intervals import CONDITIONS
from costmodel.quantities import Array
from costmodel.records import Record, ValueRecord, field, replace
from costmodel.study.published.weights import scatter_ratio

COVERAGE = 0.8
NORMAL = 1.2816  # half an 80 % interval of normal numbers over their standard deviation
FREEDOM = 4.0  # degrees of freedom of the t-distribution of errors: tails of publications are heavier than normal ones
LOG_WIDTH = 0.35  # prior standard deviation of the log scale of a class about that of all classes
CONDITION = 0.25  # prior scale of what a condition adds to the log error of a run that rests on it alone
KERNELS = 0.5  # prior standard deviation of the log of the share of kernels' intervals that whole runs show, about one
BORROWED = 2.0  # publications of many figures as which all other classes count in the factor of a class
LEAST = 0.01  # of a scale: 1 %
START = 0.1
STARTS = ((START, 0.0), (0.02, -0.5))
"""Where searches begin: width of each condition, log of the kernels' share. At a width of zero the cost has no slope: a
search may end there though wider is likelier."""
RARE = ("unknown", "experts")
"""Conditions of a run as a whole that scale by themselves: their rows say nothing of runs without them."""
WHOLE = (*RARE, "served_experts", "drafted", "first_token", "untried")
"""Conditions that a run meets or does not."""
OF_CLASS = {"served_experts": "serving", "drafted": "serving", "first_token": "serving", "untried": "training"}
"""Conditions that only runs of one class meet."""


class RunError(ValueRecord):
    """One published time or rate of a whole run and its prediction. All logs, of times.

    late: measured over predicted time, less the centre that the medians of its kernels give.
    down, up: ends of the interval of its kernels.
    group: figures with the same one follow from one another.
    shares: by condition (`CONDITIONS`), the share of the run that meets it.
    architecture: of its device.
    is_seen: a person chose something on its path with it in sight, which makes its error a lower bound.
    """

    case_class: str
    publication: str
    group: str
    late: float
    down: float
    up: float
    shares: Mapping[str, float]
    architecture: str = ""
    is_seen: bool = False

    @property
    def kernels(self) -> float:
        """Return half of the interval of its kernels, on the side of the error."""
        return self.up if self.late > 0.0 else self.down

    @property
    def is_rare(self) -> bool:
        """Tell whether it meets a condition that scales by itself."""
        return any(self.shares.get(name, 0.0) > 0.0 for name in RARE)


class Scales(Record):
    """Half-widths of the 80 % interval [log]. classes: by class; conditions: by condition, of runs that rest on it.

    kernels: share of the interval of its kernels that a run shows.
    """

    classes: Mapping[str, float]
    conditions: Mapping[str, float]
    kernels: float = 1.0

    def half_width(self, row: RunError) -> float:
        """Return half of the interval of a run without that of its kernels.

        D^2 = D_class^2 + sum over conditions b of (share_b D_b)^2
        """
        more = sum((row.shares.get(name, 0.0) * value) ** 2 for name, value in self.conditions.items())
        return float(np.sqrt(self.classes[row.case_class] ** 2 + more))

    def of_kernels(self, row: RunError) -> float:
        """Return what a run shows of the interval of its kernels: a share, but all of it where nothing was measured.

        k' = (a + (1 - a) * share on rooflines) * k
        """
        return (self.kernels + (1.0 - self.kernels) * row.shares.get("roofline", 0.0)) * row.kernels

    def score(self, row: RunError) -> float:
        """Return what an error leaves besides the kernels' interval, in half-widths."""
        return float(np.sqrt(max(row.late**2 - self.of_kernels(row) ** 2, 0.0))) / self.half_width(row)

    def holds(self, row: RunError) -> bool:
        """Tell whether the interval of a run holds its error."""
        return abs(row.late) <= float(np.hypot(self.of_kernels(row), self.half_width(row)))


def weights(rows: Sequence[RunError]) -> Array:
    """Return a weight for each row: those of a publication of a class sum to its number of independent figures.

        sum = n (1 + r) / (n + r),   from 1, of one group of figures, to 1 + r, of very many

    n: groups of figures, which share a weight.
    r: scatter inside publications over that between them (`scatter_ratio`), so that 1 / (1 + r) is how similar two
    figures of one publication are. [Kish, Survey Sampling, 1965, section 5.4].
    """
    errors: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        errors.setdefault((row.case_class, row.publication), []).append(row.late)
    ratio = scatter_ratio([np.array(logs) for logs in errors.values() if len(logs) > 1])
    sizes = Counter((row.case_class, row.publication, row.group) for row in rows)
    groups = Counter((case_class, publication) for case_class, publication, _ in sizes)
    return np.array(
        [
            (1.0 + ratio) / (groups[row.case_class, row.publication] + ratio)
            / sizes[row.case_class, row.publication, row.group]
            for row in rows
        ]
    )  # fmt: skip


class Likelihood(Record):
    """Minus the log posterior of the scales under which rows have their errors, and its slope.

    x: log of the common scale. Of each class about it. Of each condition, as it is. Log of the kernels' share.
    """

    squares: Array  # of errors
    kernels: Array  # half of their intervals over NORMAL
    roofline: Array
    shares: Array  # squared, by condition
    of_class: Array  # rows by classes, 1 where a row is of a class
    weight: Array

    def bounds(self) -> list[tuple[float, float]]:
        """Return the bounds of x."""
        classes, conditions = self.of_class.shape[1], self.shares.shape[1]
        return [(np.log(LEAST), 1.0), *[(-2.0, 2.0)] * classes, *[(0.0, 2.0)] * conditions, (-3.0, 0.0)]

    def start(self, width: float = START, share: float = 0.0) -> Array:
        """Return where a search begins. width: of conditions; share: log of that of the kernels."""
        classes, conditions = self.of_class.shape[1], self.shares.shape[1]
        return np.concatenate([[np.log(START)], np.zeros(classes), np.full(conditions, width), [share]])

    def __call__(self, x: npt.NDArray[np.float64]) -> tuple[float, Array]:
        """Return the cost at a point, and its slope."""
        last = 1 + self.of_class.shape[1]
        of_classes, more, share = x[1:last], x[last:-1], float(np.exp(x[-1]))
        scale = self.of_class @ np.exp(2.0 * (x[0] + of_classes))
        shown = share + (1.0 - share) * self.roofline
        variance = (shown * self.kernels) ** 2 + scale + self.shares @ (more**2)
        z = self.squares / variance
        likely = -0.5 * (FREEDOM + 1.0) * np.log1p(z / FREEDOM) - 0.5 * np.log(variance) + _CONSTANT
        slope = self.weight * (0.5 * (FREEDOM + 1.0) * z / (FREEDOM + z) - 0.5) / variance
        by_class = self.of_class.T @ (2.0 * slope * scale)
        by_share = 2.0 * share * float((slope * shown * (1.0 - self.roofline) * self.kernels**2).sum())
        gained = np.concatenate([[by_class.sum()], by_class, 2.0 * more * (self.shares.T @ slope), [by_share]])
        widths = np.concatenate([np.full(len(of_classes), LOG_WIDTH), np.full(len(more), CONDITION), [KERNELS]])
        prior = np.concatenate([[0.0], x[1:] / widths**2])
        return 0.5 * float((x * prior).sum()) - float((self.weight * likely).sum()), prior - gained


_CONSTANT = float(gammaln((FREEDOM + 1.0) / 2.0) - gammaln(FREEDOM / 2.0))


def fit_scales(rows: Sequence[RunError]) -> Scales:
    """Return the scales under which the errors are likeliest, publications weighing by `weights`.

        maximise  sum_i w_i log t_4(late_i / sd_i) / sd_i  +  log prior,     sd_i^2 = (k'_i^2 + D_i^2) / NORMAL^2

    k': what a run shows of half of its kernels' interval on the side of the error (`Scales.of_kernels`). Priors: log
    D_class normal about a common value with LOG_WIDTH; D_condition half normal with CONDITION. The log of the kernels'
    share half normal with KERNELS. Classes borrow from one another what few publications do not say.
    """
    from scipy.optimize import minimize

    names = sorted({row.case_class for row in rows})
    used = [name for name in CONDITIONS if any(row.shares.get(name, 0.0) > 0.0 for row in rows)]
    cost = likelihood(rows, used)
    searches = (minimize(cost, cost.start(*at), jac=True, method="L-BFGS-B", bounds=cost.bounds()) for at in STARTS)
    logs = min(searches, key=lambda search: float(search.fun)).x
    last = 1 + len(names)
    classes = NORMAL * np.exp(logs[0] + logs[1:last])
    more = dict(zip(used, (NORMAL * logs[last:-1]).tolist(), strict=True))
    return Scales(dict(zip(names, classes.tolist(), strict=True)), more, float(np.exp(logs[-1])))


def likelihood(rows: Sequence[RunError], conditions: Sequence[str]) -> Likelihood:
    """Return what the rows say of scales. Classes in the order of their names."""
    names = sorted({row.case_class for row in rows})
    shares = [[row.shares.get(name, 0.0) for name in conditions] for row in rows]
    return Likelihood(
        squares=np.array([row.late**2 for row in rows]),
        kernels=np.array([row.kernels for row in rows]) / NORMAL,
        roofline=np.array([row.shares.get("roofline", 0.0) for row in rows]),
        shares=np.array(shares).reshape(len(rows), len(conditions)) ** 2,
        of_class=np.array([[float(row.case_class == name) for name in names] for row in rows]),
        weight=weights(rows),
    )


class _Scored(Record):
    """Rows with the scores that they have under scales of other publications; weight: of `weights`."""

    rows: Sequence[RunError] = field(default_factory=list)
    scores: Sequence[float] = field(default_factory=list)
    weight: Sequence[float] = field(default_factory=list)

    def factor(self, case_class: str | None, borrowed: float) -> float | None:
        """Return by what scales are multiplied: of the runs of a class, of rare ones for None. None without a score.

        borrowed: independent figures as which runs of other classes count.
        """
        is_rare = case_class is None
        same_kind = np.array([row.is_rare == is_rare for row in self.rows], dtype=bool)
        own = same_kind & np.array([is_rare or row.case_class == case_class for row in self.rows], dtype=bool)
        others = same_kind & ~own
        weight = np.where(own, self.weight, 0.0)
        if others.any():
            total = float(np.array(self.weight)[others].sum())
            weight = weight + np.where(others, self.weight, 0.0) * borrowed / total
        if not weight.any():
            return None
        return quantile(np.array(self.scores), weight, min(COVERAGE * (1.0 + 1.0 / float(weight.sum())), 1.0))


def scales_of(rows: Sequence[RunError]) -> Scales:
    """Return the scales of runs that nobody had seen, those of `WHOLE` conditions wider where all runs have them wider.

    Errors of figures that were in sight are what a choice left of them: they may widen an interval, never narrow it. A
    class has unseen publications enough. Few meet a condition.
    """
    unseen = conformal_scales(marked([row for row in rows if not row.is_seen]))
    if not any(row.is_seen for row in rows):
        return unseen
    every = conformal_scales(marked(rows))
    wider = {name: max(unseen.conditions.get(name, 0.0), every.conditions.get(name, 0.0)) for name in WHOLE}
    return replace(unseen, conditions={**unseen.conditions, **wider})


def conformal_scales(rows: Sequence[RunError]) -> Scales:
    """Return scales under which intervals hold the errors of publications that had no part in them.

    Each publication's scores are those about scales fitted without it:

        score_i = sqrt(max(late_i^2 - k'_i^2, 0)) / D_i
        q = the (1 + 1/N) * 80 % point of the scores, weighed by `weights`;   N: their sum, of independent figures

    (a condition that no other publication meets is as wide as all say), and scales are multiplied by q. Each class has
    a q, in which the others count as `BORROWED` publications of many figures. Conditions of `RARE` have one together.
    The level is that of split conformal prediction with N calibration points, for a figure of a further publication.
    Sources: Dunn, Wasserman, Ramdas, Distribution-free Prediction Sets for Two-layer Hierarchical Models, JASA 118,
    2023. Barber, Candes, Ramdas, Tibshirani, Predictive Inference with the Jackknife+, Annals of Statistics 49, 2021
    (scores of fits that leave out). Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005, section 4.5
    (a factor for each kind of run).
    """
    weight = weights(rows).tolist()
    whole = fit_scales(rows)
    scored = _scored(rows, weight, whole)
    of_many = max(
        sum(w for w, row in zip(weight, rows, strict=True) if (row.case_class, row.publication) == each)
        for each in {(row.case_class, row.publication) for row in rows}
    )
    by_class = {name: scored.factor(name, BORROWED * of_many) for name in whole.classes}
    known = {name: q for name, q in by_class.items() if q is not None}
    widest = max(known.values(), default=1.0)
    rare = scored.factor(None, 0.0)
    factors = {name: known.get(OF_CLASS.get(name, ""), widest) for name in whole.conditions}
    factors |= dict.fromkeys(RARE, widest if rare is None else rare)
    return Scales(
        {name: known.get(name, widest) * value for name, value in whole.classes.items()},
        {name: factors[name] * value for name, value in whole.conditions.items()},
        whole.kernels,
    )


def _scored(rows: Sequence[RunError], weight: Sequence[float], whole: Scales) -> _Scored:
    """Return the rows with their scores under scales without their publication. whole: those of all rows."""
    scored: list[tuple[RunError, float, float]] = []
    for name in sorted({row.publication for row in rows}):
        rest = [row for row in rows if row.publication != name]
        if not rest:
            continue
        fitted = with_classes(fit_scales(rest), rows)
        scales = replace(fitted, conditions={**whole.conditions, **fitted.conditions})
        scored += [(row, scales.score(row), w) for row, w in zip(rows, weight, strict=True) if row.publication == name]
    return _Scored([row for row, _, _ in scored], [score for _, score, _ in scored], [w for _, _, w in scored])


def marked(rows: Sequence[RunError]) -> list[RunError]:
    """Return the rows with the condition `untried`: a training step on an architecture of one publication alone."""
    return [replace(row, shares={**row.shares, "untried": float(_is_untried(row, rows))}) for row in rows]


def _is_untried(row: RunError, rows: Sequence[RunError]) -> bool:
    return row.case_class == "training" and row.architecture not in tried(rows)


def tried(rows: Iterable[RunError]) -> list[str]:
    """Return the architectures of devices of which several publications have training steps."""
    pairs = {(row.architecture, row.publication) for row in rows if row.case_class == "training"}
    counts = Counter(architecture for architecture, _ in pairs)
    return sorted(name for name, publications in counts.items() if publications > 1)


def with_classes(scales: Scales, rows: Iterable[RunError]) -> Scales:
    """Return scales that have every class of some rows. One that no publication is left of takes the widest."""
    widest = max(scales.classes.values(), default=START)
    return replace(scales, classes={row.case_class: widest for row in rows} | dict(scales.classes))


def quantile(values: Array, weight: Array, level: float) -> float:
    """Return the value up to which a share of the weight lies."""
    order = np.argsort(values)
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][min(int(np.searchsorted(reached, level)), len(values) - 1)])


def coverage(rows: Sequence[RunError], scales: Scales) -> float:
    """Return the share of the weight of errors that intervals of such scales hold."""
    return float(np.average([scales.holds(row) for row in rows], weights=weights(rows)))
