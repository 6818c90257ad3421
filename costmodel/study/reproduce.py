"""Published figures beside predictions, with error, tolerance and verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from costmodel.analytic.metrics import sixteen_bit_peak
from costmodel.api import Workload, architecture_facts
from costmodel.errors import CostModelError, InputError
from costmodel.result import Point
from costmodel.schema.case import Case, Expectation, load_case_file, resolve_case
from costmodel.schema.references import Library, near

FOLDER = "published"
UNITS = {
    "duration": "s",
    "time": "s",
    "size": "B",
    "bandwidth": "B/s",
    "flop": "FLOP",
    "flop_rate": "FLOP/s",
    "energy": "J",
    "money": "$",
    "ratio": "1",
    "count": "1",
}
PASS, FAIL, SKIP, INFEASIBLE = "pass", "fail", "skip", "infeasible"

Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One published figure beside ours, in SI. error: relative, (predicted - published) / published."""

    id: str
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

    def document(self) -> dict[str, Any]:
        """Return the comparison as the documented JSON object."""
        fields = asdict(self)
        reason = fields.pop("reason")
        fields = {"class" if key == "case_class" else key: value for key, value in fields.items()}
        return fields if reason is None else {**fields, "reason": reason}


@dataclass(frozen=True, slots=True)
class Summary:
    """How the figures of one class fare. error: mean absolute; bias: mean; both relative, over scored figures."""

    case_class: str
    scored: int
    passed: int
    error: float
    bias: float


def load_cases(names: Sequence[str], search_path: Sequence[str] = ()) -> list[Case]:
    """Return the cases of files, of names under `workloads/published`, or with given ids; all of them by default.

    A case that others are compared with comes along. Raises InputError on an unknown name.
    """
    library = Library(search_path)
    files = [name for name in names if Path(name).is_file()]
    wanted = [name for name in names if name not in files]
    if files and not wanted:
        return [case for name in files for case in load_case_file(name, search_path)]
    shipped = {name: library.find(name, FOLDER) for name in library.names(FOLDER)}
    cases = {name: load_case_file(path, search_path) for name, path in shipped.items()}
    everything = [case for found in cases.values() for case in found]
    if not names:
        return everything
    chosen = [case for name in files for case in load_case_file(name, search_path)]
    for name in wanted:
        found = cases.get(name.removeprefix(f"{FOLDER}/")) or [case for case in everything if case.id == name]
        if not found:
            known = [*cases, *(case.id for case in everything)]
            raise InputError.single(f"no case or case file `{name}`", hint=near(name, known))
        chosen.extend(found)
    return chosen


def reproduce(cases: Iterable[Case], search_path: Sequence[str] = ()) -> tuple[list[Comparison], list[CostModelError]]:
    """Return every published figure compared, and the errors of cases that could not be resolved."""
    cases = list(cases)
    points: dict[str, _Predicted] = {}
    errors: list[CostModelError] = []
    comparisons: list[Comparison] = []
    for case in cases:
        if case.skip is None:
            try:
                points[case.id] = _predict(case, search_path)
            except CostModelError as error:
                errors.append(error)
    for case in cases:
        if case.skip is not None:
            comparisons.append(_uncompared(case, None, SKIP, case.skip))
        elif case.id in points:
            comparisons.extend(_compare(case, expected, points) for expected in case.expect)
    return comparisons, errors


@dataclass(frozen=True, slots=True)
class _Predicted:
    """What a case predicts: facts of its model and, where it has a scenario, one point and what conventions need."""

    facts: Mapping[str, Any]
    point: Point | None
    workload: Workload | None

    def value(self, metric: str, conventions: Mapping[str, str]) -> tuple[float | None, Interval]:
        """Return (value, interval) of a metric under the case's conventions; raise InputError if nothing gives it."""
        section, _, name = metric.partition(".")
        if metric in self.facts or section == "model":
            return float(self.facts[name or metric]), None
        if self.point is None:
            raise InputError.single(f"metric `{metric}` needs a scenario", field="expect.metric")
        if section == "memory" and name:
            memory = self.point.memory or {}
            return math.fsum(memory[part] for part in name.split("+")), None
        if section == "schedule" and name:
            return (self.point.schedule or {}).get(name), None
        if metric in self.point.metrics:
            return self.point.metrics[metric], self.point.intervals[metric]
        return self._converted(metric, conventions)

    def _converted(self, metric: str, conventions: Mapping[str, str]) -> tuple[float | None, Interval]:
        """Return FLOP rates and utilisations as publications define them.

        rate a device = FLOP of a token * tokens / (step * devices); the token's FLOP are the model's (`flop: model`) or
        what is executed (`flop: hardware`), with causal or full attention.
        """
        assert self.point is not None
        assert self.workload is not None
        rates = self.point.metrics.get("tokens_per_second_per_device")
        if metric not in ("hfu", "flop_rate_per_device") or rates is None:
            raise InputError.single(f"no prediction has a metric `{metric}`", field="expect.metric")
        peak = float(sixteen_bit_peak(self.workload.scenario(self.workload.scenarios[0]).cluster.device))
        hardware = metric == "hfu" or conventions.get("flop") == "hardware"
        used = self.point.metrics["mfu_noncausal" if conventions.get("attention") == "full" else "mfu"]
        executed = self.point.metrics["flop_per_token"]
        assert used is not None
        assert executed is not None
        rate = executed * rates if hardware else used * peak
        return (rate / peak if metric == "hfu" else rate), None


def _predict(case: Case, search_path: Sequence[str]) -> _Predicted:
    resolved = resolve_case(case, search_path)
    facts = architecture_facts(resolved.architecture)
    if not resolved.scenarios:
        return _Predicted(facts, None, None)
    workload = Workload(resolved, case.id, {}, None, tuple(search_path))
    (point,) = workload.points().values()
    return _Predicted(facts, point, workload)


def _compare(case: Case, expected: Expectation, points: Mapping[str, _Predicted]) -> Comparison:
    """Return one figure compared as its check says."""
    predicted = points[case.id]
    if predicted.point is not None and not predicted.point.fits and not expected.metric.startswith("memory."):
        return _uncompared(case, expected, INFEASIBLE, predicted.point.reason)
    value, interval = predicted.value(expected.metric, case.conventions)
    published: float | None
    if expected.check in ("ratio", "ordering"):
        baseline = points.get(expected.baseline or "")
        other = None if baseline is None else baseline.value(expected.metric, case.conventions)[0]
        if value is None or not other:
            return _uncompared(case, expected, INFEASIBLE, f"baseline {expected.baseline} gives no {expected.metric}")
        value, interval = value / other, None
        published = 1.0 if expected.check == "ordering" else float(_number(expected.value))
    else:
        published = None if isinstance(expected.value, tuple) else expected.value
    if value is None:
        return _uncompared(case, expected, INFEASIBLE, "no prediction")
    error = (value - published) / published if published else None
    return Comparison(
        case.id,
        case.case_class,
        expected.metric,
        UNITS.get(expected.dimension, expected.dimension),
        published,
        value,
        value if interval is None else interval[0],
        value if interval is None else interval[1],
        error,
        PASS if _holds(expected, value, error) else FAIL,
        case.source.cite,
    )


def _holds(expected: Expectation, value: float, error: float | None) -> bool:
    """Tell whether a prediction meets a published figure as the case's check asks."""
    tolerance = expected.tolerance or 0.0
    if expected.check == "range":
        assert isinstance(expected.value, tuple)
        return expected.value[0] * (1 - tolerance) <= value <= expected.value[1] * (1 + tolerance)
    if expected.check == "lower":
        return value >= _number(expected.value) * (1 - tolerance)
    if expected.check == "upper":
        return value <= _number(expected.value) * (1 + tolerance)
    if expected.check == "ordering":
        return value < 1.0
    return error is not None and abs(error) <= tolerance


def _number(value: float | tuple[float, float] | None) -> float:
    assert isinstance(value, float | int)
    return float(value)


def _uncompared(case: Case, expected: Expectation | None, verdict: str, reason: str | None) -> Comparison:
    published = None if expected is None or isinstance(expected.value, tuple) else expected.value
    unit = None if expected is None else UNITS.get(expected.dimension, expected.dimension)
    metric = None if expected is None else expected.metric
    return Comparison(
        case.id, case.case_class, metric, unit, published, None, None, None, None, verdict, case.source.cite, reason
    )


def summarise(comparisons: Iterable[Comparison]) -> list[Summary]:
    """Return a summary for each class of figures that were scored."""
    by_class: dict[str, list[Comparison]] = {}
    for one in comparisons:
        if one.error is not None:
            by_class.setdefault(one.case_class or "other", []).append(one)
    return [
        Summary(
            name,
            len(found),
            sum(one.verdict == PASS for one in found),
            math.fsum(abs(one.error or 0.0) for one in found) / len(found),
            math.fsum(one.error or 0.0 for one in found) / len(found),
        )
        for name, found in sorted(by_class.items())
    ]
