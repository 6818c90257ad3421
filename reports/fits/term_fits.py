"""Numbers of frameworks, fitted to published figures of whole runs, and held against those that were left out."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RegularGridInterpolator

from costmodel.analytic.grid import evaluate_grid
from costmodel.analytic.intervals import RATES, TIMES
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.errors import CostModelError
from costmodel.quantities import Array
from costmodel.records import MutableRecord, Record, field, replace
from costmodel.result import PHASES
from costmodel.schema import SI
from costmodel.schema.case import Case, resolve_case
from costmodel.schema.fit_plan import TermFile
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.predictions import predict, proportional_metric
from costmodel.study.published.refits import FittedTerms, Refits, Terms, Values, moving, named, path_of

MOST = 40  # figures of a publication that a fit looks at, evenly chosen: one table shall not outweigh all others
NORMAL = 1.4826  # standard deviation of normal numbers over their median absolute deviation
FEWEST = 3  # publications of several figures from which a scatter between publications is estimated
STEP = 1e-3  # of a term's range, for derivatives
PULL = 0.02  # of a figure's log error at full range: what draws a term to no effect where figures do not determine it
SOFT = 0.1  # log error of a publication that counts as one standard deviation; beyond it errors count less than squared
NODES = 17  # of each term's range
DIGITS = 6


class PublishedValue(Record):
    """A published figure that terms can move.

    of: the terms, by position.
    gap: log(predicted / published) at the values of the files.
    metric: of the result, which moves as the published one does.
    """

    case: Case
    of: tuple[int, ...]
    gap: float
    metric: str

    @property
    def late(self) -> float:
        """Return the log of predicted over published time."""
        return -self.gap if self.metric in RATES else self.gap


def weigh(figures: Sequence[PublishedValue]) -> Array:
    """Return the weights of figures, by the errors that the files' values leave (`weights_of`)."""
    return weights_of([one.case.publication for one in figures], [one.late for one in figures])


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


def moved(case: Case, of: Sequence[int], terms: Terms, points: Array, library: Library) -> dict[str, Array]:
    """Return a case's metrics: first with the files' values, then with those of each column of `points`.

    of: the terms whose values the rows of `points` are. A value that the files leave out counts as zero.
    """
    resolved = resolve_case(case, library=library)
    paths = [path_of(case, terms[at]) for at in of]
    stated = np.array([[_number(resolved.value(path))] for path in paths])
    values = np.hstack([stated, points])
    changed = dict(case.overrides) | {path: SI(row) for path, row in zip(paths, values, strict=True)}
    (scenario,) = resolve_case(replace(case, overrides=changed), library=library).scenarios.values()
    calibration = load_calibration(scenario.cluster.device, scenario.framework, library.roots)
    metrics = evaluate_grid(scenario, calibration, (values.shape[1],)).metrics
    return {name: grid for name, grid in metrics.items() if isinstance(grid, np.ndarray)}


class Response(Record):
    """By how much the terms of a case move one of its metrics from where the files have it.

    nodes: values of each term in turn, ascending.
    times: over those of the files, at every combination of them, between which they are multilinear, as sums of parts
    are of which each term slows some.
    is_rate: the metric falls with them.
    """

    nodes: tuple[Array, ...]
    times: Array
    is_rate: bool

    def at(self, points: Array) -> Array:
        """Return the moves of the metric's log at the columns of `points`, whose rows are the terms' values."""
        ratio: Array = RegularGridInterpolator(self.nodes, self.times, bounds_error=False, fill_value=None)(points.T)
        return -np.log(ratio) if self.is_rate else np.log(ratio)


class Responses(MutableRecord, eq=False):
    """The responses of cases to the terms of a plan: each case is evaluated once, over a grid of all its terms."""

    terms: Terms
    library: Library
    _known: dict[tuple[str, tuple[int, ...]], dict[str, Response]] = field(default_factory=dict)

    def of(self, one: PublishedValue, of: tuple[int, ...]) -> Response:
        """Return the response of a figure to some of its terms. The others stay as the files have them."""
        key = one.case.id, of
        if key not in self._known:
            nodes = tuple(np.linspace(*self.terms[at].span, NODES) for at in of)
            points = np.array([each.ravel() for each in np.meshgrid(*nodes, indexing="ij")])
            grids = moved(one.case, of, self.terms, points, self.library)
            shape = tuple(map(len, nodes))
            self._known[key] = {
                name: Response(nodes, np.exp(sign * (grid_logs[1:] - grid_logs[0])).reshape(shape), sign < 0.0)
                for name, grid in grids.items()
                if name in TIMES | RATES
                for grid_logs, sign in ((logs(grid), -1.0 if name in RATES else 1.0),)
            }
        return self._known[key][one.metric]


def logs(metric: Array) -> Array:
    """Return the logs of a metric. Where a point does not fit, it has not moved."""
    with np.errstate(all="ignore"):
        return np.log(np.where(np.isnan(metric), metric[0], metric))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def figures_of(cases: Iterable[Case], terms: Terms, library: Library) -> list[PublishedValue]:
    """Return the figures that the terms are fitted to: read at their source, of their classes and publications.

    Of a publication with more than `MOST` such cases, as many are taken, evenly. What cannot be computed says nothing.
    """
    by_publication: dict[str, list[tuple[Case, list[int]]]] = {}
    for case in cases:
        wanted = [at for at, term in enumerate(terms) if _is_fitted_to(term, case)]
        if wanted:
            by_publication.setdefault(case.publication, []).append((case, wanted))
    figures: list[PublishedValue] = []
    for rows in by_publication.values():
        for case, wanted in (rows[at] for at in _evenly(len(rows))):
            of = tuple(at for at in moving(case, terms, library) if at in wanted)
            figures.extend(_figures(case, of, library) if of else ())
    return figures


def _is_fitted_to(term: TermFile, case: Case) -> bool:
    return case.publication in term.publications and case.case_class in term.classes and case.source.verified


def _evenly(count: int) -> list[int]:
    """Return at most `MOST` of the first `count` numbers, as evenly as they go."""
    return sorted({round(each) for each in np.linspace(0, count - 1, min(MOST, count)).tolist()})


def _figures(case: Case, of: tuple[int, ...], library: Library) -> list[PublishedValue]:
    published = []
    try:
        prediction = predict(case, library.roots, library)
        metrics = PHASES[prediction.scenario.result_kind][1]
        for expected in case.expect:
            metric = proportional_metric(expected.metric)
            if expected.check == "value" and metric in metrics and not prediction.infeasible:
                value = prediction.value(expected.metric, case.conventions).value
                if value and isinstance(expected.value, float):
                    published.append(PublishedValue(case, of, math.log(value / expected.value), metric))
    except CostModelError:
        return []
    return published


def fit_terms(
    figures: Sequence[PublishedValue], terms: Terms, library: Library, start: Values | None = None,
    responses: Responses | None = None,
) -> FittedTerms:  # fmt: skip
    """Return the values of the terms with the least robust squares of log(predicted / published).

    minimise over x in [0, 1]^k   sum of w * soft_l1(gap + log(m(low + x (high - low)) / m(files))) + soft_l1(held(x))

    w: those of `weigh`, by which a publication of many figures counts a little more. A term of fewer than two
    publications among the figures stays as it is. held: what a term's prior says, or else a slight pull to its lower
    bound, which is no effect. start: values to begin with. Null: those of the files. responses: of the figures, of fits
    before.
    """
    from scipy.optimize import least_squares

    known = Responses(terms, library) if responses is None else responses
    publications = {at: {one.case.publication for one in figures if at in one.of} for at in range(len(terms))}
    free = [at for at in range(len(terms)) if len(publications[at]) > 1]
    used = [replace(one, of=tuple(at for at in one.of if at in free)) for one in figures]
    used = [one for one in used if one.of]
    if not used:
        return FittedTerms((None,) * len(terms), 0, 0.0, 0.0)
    spans = np.array([term.span for term in terms])
    origin = np.array([_begin(used, terms, at, library, start) for at in free])
    lows, highs = spans[free].T
    weights = np.concatenate([weigh(used), np.ones(len(free))])

    @lru_cache(maxsize=4)
    def at_point(point: bytes) -> tuple[Array, Array]:
        return _errors(used, free, spans, np.frombuffer(point), known)

    def soft(squares: Array) -> Array:
        """Return soft_l1 with its two derivatives, weighed: 2 (sqrt(1 + z) - 1)."""
        root = np.sqrt(1.0 + squares)
        weighed: Array = weights * np.array([2.0 * (root - 1.0), 1.0 / root, -0.5 / root**3])
        return weighed

    solution: Any = least_squares(
        lambda units: np.concatenate([at_point(units.tobytes())[0], _held(terms, free, units)[0]]),
        np.clip((origin - lows) / (highs - lows), 0.0, 1.0),
        jac=lambda units: np.vstack([at_point(units.tobytes())[1], np.diag(_held(terms, free, units)[1])]),
        bounds=(0.0, 1.0), loss=soft, f_scale=SOFT, xtol=1e-3, ftol=1e-4, max_nfev=12,
    )  # fmt: skip
    after = float(np.mean(np.abs(at_point(np.asarray(solution.x).tobytes())[0])))
    by_term = dict(zip(free, (lows + solution.x * (highs - lows)).tolist(), strict=True))
    values = tuple(map(by_term.get, range(len(terms))))
    return FittedTerms(values, len(used), float(np.mean([abs(one.gap) for one in used])), after)


def _held(terms: Terms, free: Sequence[int], units: Array) -> tuple[Array, Array]:
    """Return what holds each free term beside figures, as a log error, and its derivative. units: a row for each term.

    prior: SOFT * log(value / prior) / log(factor). Else: PULL * x
    """
    residuals, slopes = PULL * units, np.full_like(units, PULL)
    for row, at in enumerate(free):
        known, (low, high) = terms[at].known, terms[at].span
        if known is not None:
            value = low + units[row] * (high - low)
            residuals[row] = SOFT * np.log(value / known[0]) / math.log(known[1])
            slopes[row] = SOFT * (high - low) / value / math.log(known[1])
    return residuals, slopes


def _begin(figures: Sequence[PublishedValue], terms: Terms, at: int, library: Library, start: Values | None) -> float:
    """Return the value that a term begins with: that of the framework's file unless `start` has one, inside its bounds.

    The middle of its bounds where the file has none.
    """
    begun = None if start is None else start[at]
    if begun is not None:
        return begun
    case = next(one.case for one in figures if at in one.of)
    value = resolve_case(case, library=library).value(path_of(case, terms[at]))
    low, high = terms[at].span
    return min(max(float(value), low), high) if isinstance(value, int | float) else (low + high) / 2.0


def _errors(
    figures: Sequence[PublishedValue], free: Sequence[int], spans: npt.NDArray[np.float64], units: Array,
    responses: Responses,
) -> tuple[Array, Array]:  # fmt: skip
    """Return log(predicted / published) of all figures at a point, and its derivatives by the free terms."""
    errors, slopes = np.empty(len(figures)), np.zeros((len(figures), len(free)))
    column_of = {at: column for column, at in enumerate(free)}
    for row, one in enumerate(figures):
        columns = [column_of[at] for at in one.of]
        steps = np.where(units[columns] + STEP <= 1.0, STEP, -STEP)
        shifted = np.repeat(units[columns][:, None], len(columns) + 1, axis=1)
        shifted[np.arange(len(columns)), np.arange(len(columns)) + 1] += steps
        lows, highs = spans[list(one.of)].T[..., None]
        logs = responses.of(one, one.of).at(lows + shifted * (highs - lows))
        errors[row] = one.gap + logs[0]
        slopes[row, columns] = (logs[1:] - logs[0]) / steps
    return errors, slopes


def refit(fitted_to: Iterable[Case], terms: Terms, library: Library) -> Refits:
    """Return the fit of the terms to all cases, and one without each publication that has a part in it."""
    figures = figures_of(fitted_to, terms, library)
    responses = Responses(terms, library)
    everything = fit_terms(figures, terms, library, responses=responses)
    names = {one.case.publication for one in figures} | {name for term in terms for name in term.publications}
    without = {}
    for name in sorted(names):
        rest = [one for one in figures if one.case.publication != name]
        fitted = (
            fit_terms(rest, terms, library, everything.values, responses) if len(rest) < len(figures) else everything
        )
        without[name] = without_data(fitted, terms, name)
    return Refits(everything, without)


def without_data(fitted: FittedTerms, terms: Terms, publication: str) -> FittedTerms:
    """Return a fit without a publication in which terms that it alone determines are as without any run.

    That is the value of its prior, else no effect, its lower bound.
    """
    values = [
        (term.span[0] if term.known is None else term.known[0])
        if value is None and publication in term.publications
        else value
        for term, value in zip(terms, fitted.values, strict=True)
    ]
    return replace(fitted, values=tuple(values))


def write_refits(path: Path, terms: Terms, refits: Refits) -> None:
    """Write fits as JSON next to the plan."""
    document = {
        "terms": named(terms), "everything": _written(refits.everything),
        "without": {name: _written(each) for name, each in sorted(refits.without.items())},
    }  # fmt: skip
    write_whole(path, [(json.dumps(document, indent=1) + "\n").encode()])


def _written(fitted: FittedTerms) -> dict[str, Any]:
    return {
        "values": [None if each is None else _rounded(each) for each in fitted.values],
        "figures": fitted.figures, "before": _rounded(fitted.before), "after": _rounded(fitted.after),
    }  # fmt: skip


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
