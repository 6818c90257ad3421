"""Published figures beside predictions, with error, tolerance and verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np

from costmodel.analytic.anchors import separation, told
from costmodel.analytic.intervals import RATES, TIMES
from costmodel.cost.calibration import FamilyFit
from costmodel.errors import CostModelError, InputError, Problem, suggest
from costmodel.records import Record, ValueRecord, asdict, field, replace
from costmodel.schema import SI
from costmodel.schema.case import Case, CaseClass, Expectation, readable_cases
from costmodel.schema.references import Library
from costmodel.schema.tree import to_python
from costmodel.study.published.predictions import Prediction, Value, predict, proportional_metric
from costmodel.study.published.provenance import Dependence, State, dependences, state_of
from costmodel.units import base_unit

FOLDER = "published"
PASS, FAIL, SKIP, INFEASIBLE = "pass", "fail", "skip", "infeasible"
IDENTITY, ASSUMED, ANCHORED = "identity", "assumed", "anchored"  # states of figures that are compared, but not scored


class Refitted(Record):
    """What was fitted again without each publication.

    fields: of frameworks, and `composition` for the scatter of whole runs, as `provenance.state_of` takes them.
    runs: publication -> that scatter without it, by family, none for what the files say.
    """

    fields: frozenset[str] = frozenset()
    runs: Mapping[str, Mapping[str, FamilyFit]] = field(default_factory=dict)


NOTHING_REFITTED = Refitted()


class Comparison(ValueRecord):
    """One published figure beside ours, in SI.

    error: relative, (predicted - published) / published; null for checks of a side or an order, for identities and
        for settings that nobody published: no error scores these.
    terms: what was changed in the scenario for the comparison: path -> value, null for nothing.
    state: `unseen`, `refitted` or `in-sample`, `identity` or `assumed`, null where nothing is compared.
    because: what rests on the figure.
    interval_unseen: the ends of the interval do not rest on the figure's source either.
    group: figures with the same one follow from one another.
    """

    id: str
    publication: str
    case_class: str | None
    metric: str | None
    unit: str | None
    published: float | None
    predicted: float | None
    low: float | None
    high: float | None
    error: float | None
    verdict: str
    source: str
    reason: str | None = None
    terms: Mapping[str, object] | None = None
    state: str | None = None
    because: tuple[str, ...] = ()
    interval_unseen: bool = True
    group: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the comparison as the documented JSON object."""
        fields = {"class" if key == "case_class" else key: value for key, value in asdict(self).items()}
        fields |= {"because": list(self.because) or None}
        optional = ("reason", "terms", "because", "state", "group")
        return {key: value for key, value in fields.items() if value is not None or key not in optional}


class Summary(ValueRecord):
    """How the figures of one class or publication fare, all relative, over scored figures.

    error, median: of the absolute errors, mean and median.
    bias: mean of the errors.
    """

    name: str
    scored: int
    passed: int
    error: float
    median: float
    bias: float


def load_cases(
    names: Sequence[str], search_path: Sequence[str] = (), classes: Sequence[str] = ()
) -> tuple[list[Case], list[Problem]]:
    """Return the cases of files, of names under `workloads/published`, or with given ids. All of them by default.

    classes: those to keep, none: all. A case that one of these is compared with comes along, with nothing to expect.
    Cases that cannot be read come back as problems. Raises InputError on an unknown name or class.
    """
    known = get_args(CaseClass)
    for wanted in classes:
        if wanted not in known:
            raise InputError.single(
                f"no class of cases is named {wanted!r}", hint=suggest(wanted, known), field="--class"
            )
    loaded, everything, problems = _load(names, search_path)
    kept = [case for case in loaded if not classes or case.case_class in classes]
    others = {expected.baseline for case in kept for expected in case.expect} - {case.id for case in kept}
    baselines = {case.id: replace(case, expect=()) for case in everything if case.id in others}
    return [*kept, *baselines.values()], problems


def _load(names: Sequence[str], search_path: Sequence[str]) -> tuple[list[Case], list[Case], list[Problem]]:
    """Return the cases that are named, every case that was read, and the problems of those that are named."""
    paths = [name for name in names if Path(name).exists()]
    wanted = [name for name in names if name not in paths]
    chosen, problems = _read(paths, search_path)
    if names and not wanted:
        return chosen, chosen, problems
    library = Library(search_path)
    shipped = {name: _read([library.find(name, FOLDER)], search_path) for name in library.names(FOLDER)}
    everything = [case for cases, _ in shipped.values() for case in cases]
    for name in wanted or shipped:
        whole = shipped.get(name.removeprefix(f"{FOLDER}/"))
        named = whole[0] if whole else [case for case in everything if case.id == name]
        if whole:
            problems.extend(whole[1])
        elif not named:
            known = [*shipped, *(case.id for case in everything)]
            raise InputError.single(f"no case or case file {name!r}", hint=suggest(name, known))
        chosen.extend(named)
    return chosen, [*everything, *chosen], problems


def _read(paths: Iterable[str | Path], search_path: Sequence[str]) -> tuple[list[Case], list[Problem]]:
    read = [readable_cases(path, search_path) for path in paths]
    return [case for cases, _ in read for case in cases], [problem for _, errors in read for problem in errors]


def reproduce(
    cases: Iterable[Case],
    search_path: Sequence[str] = (),
    changes: Mapping[str, Mapping[str, object]] | None = None,
    refitted: Refitted = NOTHING_REFITTED,
    *,
    on_progress: Callable[[float], None] = lambda _: None,
) -> tuple[list[Comparison], list[Problem]]:
    """Return every published figure compared, and the problems of cases that predict nothing.

    A problem of one case does not stop the others. Scenarios that several cases share are evaluated once.
    changes: id of a case -> what changes in its scenario besides what the case says: path -> value, as `--set`
    refitted: what else is stated anew without the publication of each case. on_progress: receives how many are done.
    """
    changed = changes or {}
    cases = [replace(case, overrides={**case.overrides, **changed.get(case.id, {})}) for case in cases]
    problems: list[Problem] = []
    predictions, rest = _predicted(cases, search_path, refitted, problems, on_progress)
    comparisons: list[Comparison] = []
    for case in cases:
        if case.skip is not None:
            comparisons.append(_uncompared(case, None, SKIP, case.skip))
        for expected in case.expect if case.id in predictions else ():
            with _noting(problems, case):
                comparison = _compare(case, expected, predictions)
                anchor = _own_anchor(predictions[case.id])
                if comparison.verdict in (PASS, FAIL) and (case.identity or case.assumed or anchor):
                    comparisons.append(_unscored(comparison, case, anchor))
                    continue
                state = state_of(case, expected.metric, rest.get(case.id, ()), refitted.fields)
                comparisons.append(_stated(comparison, case, state, changed.get(case.id, {})))
    return comparisons, problems


def _predicted(
    cases: Sequence[Case], search_path: Sequence[str], refitted: Refitted, problems: list[Problem],
    on_progress: Callable[[float], None],
) -> tuple[dict[str, Prediction], dict[str, tuple[Dependence, ...]]]:  # fmt: skip
    """Return the predictions of cases, and what they rest on, by id. Problems of those that have none are added."""
    library = Library(search_path)
    predictions: dict[str, Prediction] = {}
    shared: dict[str, Prediction] = {}
    rest: dict[str, tuple[Dependence, ...]] = {}
    for number, case in enumerate(cases):
        on_progress(number)
        if case.skip is not None:
            continue
        stated = [None if tree is None else to_python(tree) for tree in (case.scenario, case.device)]
        key = repr((stated, case.kernel, {path: str(value) for path, value in case.overrides.items()}))
        with _noting(problems, case):
            runs = refitted.runs.get(case.publication)
            key = key if runs is None else f"{case.publication} {key}"
            shared[key] = shared.get(key) or predict(case, search_path, library, runs)
            predictions[case.id] = shared[key]
            rest[case.id] = dependences(case, shared[key], library)
    return predictions, rest


def _stated(comparison: Comparison, case: Case, state: State, changed: Mapping[str, object]) -> Comparison:
    is_compared = comparison.verdict in (PASS, FAIL)
    terms = {path: value.value if isinstance(value, SI) else value for path, value in changed.items()}
    return replace(
        comparison, terms=terms or None, state=state.name if is_compared else None,
        because=state.because if is_compared else (), interval_unseen=state.is_interval_unseen,
        group=group_of(case, comparison.metric or ""),
    )  # fmt: skip


def group_of(case: Case, metric: str) -> str:
    """Return the group of a figure: times, rates and utilisations of one scenario follow from one another.

    Others count by themselves unless the case names its group.
    """
    if case.group is not None:
        return case.group
    if case.scenario is None or proportional_metric(metric) not in TIMES | RATES:
        return f"{case.id} {metric}"
    overrides = {path: str(value) for path, value in case.overrides.items()}
    kind = metric if metric in ("ttft", "tpot") else "run"
    return f"{case.publication} {kind} {to_python(case.scenario)!r} {overrides!r}"


@contextmanager
def _noting(problems: list[Problem], case: Case) -> Iterator[None]:
    """Turn the error of one case into problems, at the case where they have no place of their own."""
    try:
        yield
    except CostModelError as error:
        causes = error.problems if isinstance(error, InputError) else (Problem(None, "", str(error)),)
        for problem in causes:
            named = problem.field if case.id in problem.field else f"{case.id}: {problem.field}".rstrip(": ")
            problems.append(replace(problem, location=problem.location or case.location, field=named))


def _compare(case: Case, expected: Expectation, predictions: Mapping[str, Prediction]) -> Comparison:
    own = predictions[case.id]
    reason: str | None = None
    if own.infeasible is not None and not expected.metric.startswith(("memory.", "host_memory.", "model.", "routing.")):
        if own.remedied is None:
            return _uncompared(case, expected, INFEASIBLE, own.infeasible)
        reason = f"with `{own.remedy}`, the fastest unstated setting with which it fits: as stated it {own.infeasible}"
        own = own.remedied
    predicted = own.value(expected.metric, case.conventions)
    if expected.check in ("ratio", "ordering"):
        predicted = _relative(predicted, case, expected, predictions)
    if predicted.value is None:
        return _uncompared(case, expected, INFEASIBLE, f"nothing to compare: no {expected.metric}")
    published = 1.0 if expected.check == "ordering" else _single(expected)
    scored = expected.check in ("value", "ratio") and published
    error = (predicted.value - published) / published if scored and published else None
    return Comparison(
        id=case.id, publication=case.publication, case_class=case.case_class, metric=expected.metric,
        unit=_unit(expected), published=published, predicted=predicted.value, low=predicted.low, high=predicted.high,
        error=error, verdict=PASS if _holds(expected, predicted.value, error) else FAIL, source=case.source.cite,
        reason=reason,
    )  # fmt: skip


def _unscored(comparison: Comparison, case: Case, anchor: str | None) -> Comparison:
    """Return the comparison of an identity, of a case with assumed settings, or of a run that anchors its own
    prediction: shown and judged, never scored.
    """
    reasons = {IDENTITY: case.identity, ASSUMED: case.assumed, ANCHORED: anchor}
    state, reason = next((state, reason) for state, reason in reasons.items() if reason)
    return replace(comparison, error=None, state=state, reason=reason)


def _own_anchor(prediction: Prediction) -> str | None:
    """Return which measured value of the very run a prediction rests on, null where none is."""
    scenario = None if prediction.workload is None else prediction.scenario
    if scenario is None or scenario.anchor is None:
        return None
    own = [step for step in scenario.anchor.steps if np.all(separation(step.scenario, scenario).same == 1.0)]
    return f"rests on the measured {told(own[0])}" if own else None


def _relative(predicted: Value, case: Case, expected: Expectation, predictions: Mapping[str, Prediction]) -> Value:
    """Return a prediction over that of the baseline. Errors of the two are not independent, so without an interval."""
    if expected.baseline is None or expected.baseline not in predictions:
        hint = suggest(str(expected.baseline), list(predictions))
        raise InputError.single(f"no baseline case {expected.baseline!r} is compared here", hint=hint)
    metric = expected.baseline_metric or expected.metric
    other = predictions[expected.baseline].value(metric, case.conventions).value
    return Value(None if predicted.value is None or not other else predicted.value / other, None, None)


def _holds(expected: Expectation, value: float, error: float | None) -> bool:
    """Tell whether a prediction meets a published figure as the case's check asks."""
    tolerance, stated = expected.tolerance or 0.0, expected.value
    if expected.check == "ordering":
        return value < 1.0
    if expected.check in ("value", "ratio"):
        return abs(error) <= tolerance if error is not None else value == stated
    low, high = stated if isinstance(stated, tuple) else (stated or 0.0, stated or 0.0)
    above = value >= low - tolerance * abs(low)
    below = value <= high + tolerance * abs(high)
    return (above or expected.check == "upper") and (below or expected.check == "lower")


def _single(expected: Expectation) -> float | None:
    return None if isinstance(expected.value, tuple) else expected.value


def _unit(expected: Expectation) -> str:
    return "1" if expected.check in ("ratio", "ordering") else base_unit(expected.dimension)


def _uncompared(case: Case, expected: Expectation | None, verdict: str, reason: str | None) -> Comparison:
    published = None if expected is None else _single(expected)
    unit = None if expected is None else _unit(expected)
    metric = None if expected is None else expected.metric
    return Comparison(
        id=case.id, publication=case.publication, case_class=case.case_class, metric=metric, unit=unit,
        published=published, predicted=None, low=None, high=None, error=None, verdict=verdict,
        source=case.source.cite, reason=reason,
    )  # fmt: skip


def summarise(comparisons: Iterable[Comparison]) -> list[Summary]:
    """Return a summary for each class of figures that were scored."""
    return _summaries((one.case_class or "other", one) for one in comparisons)


def summarise_publications(comparisons: Iterable[Comparison]) -> list[Summary]:
    """Return a summary for each class of each publication, named `CLASS PUBLICATION`."""
    return _summaries((f"{one.case_class or 'other'} {one.publication}", one) for one in comparisons)


def _summaries(named: Iterable[tuple[str, Comparison]]) -> list[Summary]:
    groups: dict[str, list[tuple[float, Comparison]]] = {}
    for name, one in named:
        if one.error is not None:
            groups.setdefault(name, []).append((one.error, one))
    return [_summary(name, group) for name, group in sorted(groups.items())]


def _summary(name: str, group: Sequence[tuple[float, Comparison]]) -> Summary:
    sizes, passed = [abs(error) for error, _ in group], sum(one.verdict == PASS for _, one in group)
    bias = math.fsum(error for error, _ in group) / len(group)
    return Summary(name, len(group), passed, math.fsum(sizes) / len(group), median(sizes), bias)
