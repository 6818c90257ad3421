"""Numbers of frameworks, fitted to published figures of whole runs, and held against those that were left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.calibration.fit_files import COMPOSITION, read
from costmodel.errors import CostModelError, InputError
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.result import PHASES
from costmodel.schema import SI
from costmodel.schema.case import Case, resolve_case
from costmodel.schema.fit_plan import FRAMEWORK, FitPlanFile, TermFile
from costmodel.schema.references import Library
from costmodel.study.published.predictions import predict, proportional_metric
from costmodel.study.published.refits import FittedTerms, Refits, is_current, read_refits, read_scatter, without_data
from costmodel.study.published.reproduce import NOTHING_REFITTED, Refitted, Widening, load_cases
from costmodel.study.published.term_intervals import SOFT, ends_of
from costmodel.study.published.term_sensitivity import PublishedValue, Responses, Terms, Values, moves, path_of, weigh

PLAN = "end_to_end"
MOST = 40  # figures of a publication that a fit looks at, evenly chosen: one table shall not outweigh all others
STEP = 1e-3  # of a term's range, for derivatives
PULL = 0.02  # of a figure's log error at full range: what draws a term to no effect where figures do not determine it


def read_terms(library: Library, plan: str = PLAN) -> Terms:
    """Return the terms of a fit plan."""
    return read(library, "fit_plans", plan, FitPlanFile).terms


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


def moving(case: Case, terms: Terms, library: Library) -> tuple[int, ...]:
    """Return the terms, by position, of the framework of a case, none where its scenario is wrong."""
    if not terms or case.skip is not None or case.scenario is None:
        return ()
    try:
        scenarios = resolve_case(case, library=library).scenarios
    except InputError:
        return ()
    names = {scenario.framework.name for scenario in scenarios.values()}
    return tuple(at for at, term in enumerate(terms) if names & set(term.frameworks))


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
        nothing = (None,) * len(terms)
        return FittedTerms(nothing, nothing, 0, 0.0, 0.0)
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
    ends = ends_of(used, terms, free, solution.x, lambda units: _held(terms, free, units)[0], known)
    after = float(np.mean(np.abs(at_point(np.asarray(solution.x).tobytes())[0])))
    by_term = dict(zip(free, zip((lows + solution.x * (highs - lows)).tolist(), ends, strict=True), strict=True))
    values, reached = zip(*(by_term.get(at, (None, None)) for at in range(len(terms))), strict=True)
    return FittedTerms(values, reached, len(used), float(np.mean([abs(one.gap) for one in used])), after)


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


def changes(case: Case, terms: Terms, values: Values, library: Library) -> dict[str, object]:
    """Return what fitted values change in the scenario of a case, as `--set` takes it."""
    return {
        path_of(case, terms[at]): SI(value) for at in moving(case, terms, library) if (value := values[at]) is not None
    }


class Unseen(Record):
    """By the id of a case: what the terms change in it when they are fitted without its publication, and by how much
    their uncertainty moves the log of each of its metrics, down and up. refitted: what else is stated anew."""

    changes: Mapping[str, Mapping[str, object]]
    widening: Widening
    refitted: Refitted = NOTHING_REFITTED


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


def leave_out(cases: Sequence[Case], refits: Refits, terms: Terms, library: Library) -> Unseen:
    """Return what becomes of cases when terms are fitted without the publication of each."""
    changed, widening = {}, {}
    for case in cases:
        of = moving(case, terms, library)
        if of:
            fitted = refits.of(case.publication)
            changed[case.id] = changes(case, terms, fitted.values, library)
            widening[case.id] = moves(case, of, terms, fitted.values, fitted.ends, library)
    fields = frozenset(term.path.removeprefix(FRAMEWORK) for term in terms)
    return Unseen(changed, widening, Refitted(fields))


def left_out(cases: Sequence[Case], search_path: Sequence[str] = ()) -> Unseen:
    """Return what `leave_out` returns with the plan on the search path, fitted to all cases there.

    Fits of the plan's terms that are kept next to it are taken. Without such, the terms are fitted now.
    """
    library = Library(search_path)
    plan = read(library, "fit_plans", PLAN, FitPlanFile)
    if not plan.terms:
        return Unseen({}, {})
    folder = library.find(PLAN, "fit_plans").parent
    if plan.refits is None or not is_current(folder / plan.refits, plan.terms):
        return leave_out(cases, refit(load_cases([], search_path)[0], plan.terms, library), plan.terms, library)
    without = leave_out(cases, read_refits(folder / plan.refits, plan.terms), plan.terms, library)
    if plan.run_refits is None or not (folder / plan.run_refits).is_file():
        return without
    refitted = Refitted(without.refitted.fields | {COMPOSITION}, read_scatter(folder / plan.run_refits))
    return replace(without, widening={}, refitted=refitted)  # the scatter holds what refitted terms miss as well
