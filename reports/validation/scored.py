"""Published figures held against predictions twice, as the files say and without what was fitted to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from costmodel.errors import Problem
from costmodel.records import Record, ValueRecord
from costmodel.report.plots.validation import NUMBERS, compared_figure, finding
from costmodel.report.style import Plot, table
from costmodel.schema.case import AccuracyTargetFile, Case, ValueSelectionFile
from costmodel.schema.tree import to_python
from costmodel.study.published.accuracy import Errors, errors_of, is_unseen
from costmodel.study.published.provenance import IN_SAMPLE, UNSEEN
from costmodel.study.published.refits import left_out
from costmodel.study.published.reproduce import Comparison, reproduce


class ScoredValue(Record):
    """A published figure and two predictions: as the files say, and with the terms fitted without its publication."""

    case: Case
    stated: Comparison
    unseen: Comparison


class Judged(ValueRecord):
    """What was asked of some figures. stated, unseen: the two columns' values, null where they have none."""

    asked: AccuracyTargetFile
    figures: int
    stated: float | None
    unseen: float | None
    reached: bool


def figures_of(cases: Sequence[Case], search_path: Sequence[str] = ()) -> tuple[list[ScoredValue], list[Problem]]:
    """Return every compared figure of the cases, and the problems of those that cannot be predicted."""
    stated, problems = reproduce(cases, search_path)
    without = left_out(cases, search_path)
    unseen, _ = reproduce(cases, search_path, without.changes, without.refitted)
    by_id = {case.id: case for case in cases}
    again = {(one.id, one.metric): one for one in unseen}
    return [
        ScoredValue(by_id[one.id], one, again[one.id, one.metric]) for one in stated if (one.id, one.metric) in again
    ], problems


def chosen(figures: Iterable[ScoredValue], wanted: ValueSelectionFile) -> list[ScoredValue]:
    """Return the figures that meet every condition."""
    return [one for one in figures if _meets(one.stated, wanted)]


def _meets(one: Comparison, wanted: ValueSelectionFile) -> bool:
    def any_of(patterns: Sequence[str], text: str | None) -> bool:
        return not patterns or any(fnmatchcase(text or "", pattern) for pattern in patterns)

    return (
        any_of(wanted.classes, one.case_class)
        and any_of(wanted.publications, one.publication)
        and any_of(wanted.cases, one.id)
        and any_of(wanted.metrics, one.metric)
    )


def judge(figures: Sequence[ScoredValue], asked: AccuracyTargetFile) -> Judged:
    """Return what was asked of some figures besides what they show. The verdict is that of the unseen figures."""
    chosen_figures = [one for one in chosen(figures, asked.figures) if is_unseen(one.unseen)]
    before, without = (errors_of(column) for column in columns(chosen_figures))
    stated, unseen = (None if each is None else getattr(each, asked.statistic) for each in (before, without))
    bar = float(asked.bar)
    reached = unseen is not None and (unseen >= bar if asked.statistic == "inside" else unseen <= bar)
    return Judged(asked, 0 if without is None else without.figures, stated, unseen, reached)


def columns(figures: Sequence[ScoredValue]) -> tuple[list[Comparison], list[Comparison]]:
    """Return the figures as the files predict them, and as they are predicted without their publication."""
    return [one.stated for one in figures], [one.unseen for one in figures]


def settings(case: Case) -> dict[str, str]:
    """Return what a case is of: path in its scenario -> value as text, and the number of devices of its layout.

    Paths are without the words that all scenarios share, such as `parallel.`.
    """
    if case.kernel is not None:
        return dict(case.kernel)
    if case.scenario is None:
        return {"device": "" if case.device is None else str(to_python(case.device))}
    scenario: dict[str, Any] = to_python(case.scenario)
    if isinstance(scenario.get("model"), dict):
        scenario["model"] = scenario["model"].get("name", "")
    stated = {
        **_flat({key: value for key, value in scenario.items() if key != "set"}),
        **_flat(scenario.get("set", {})),
    }
    stated |= {path: str(value) for path, value in case.overrides.items()}
    stated = {_short(path): value for path, value in stated.items()}
    sizes = [int(stated.get(key, "1")) for key in ("tp", "pp", "dp", "cp") if stated.get(key, "1").isdigit()]
    return stated | ({"devices": str(int(np.prod(sizes)))} if "dp" in stated or "tp" in stated else {})


def _flat(tree: object, path: str = "") -> dict[str, str]:
    """Return the leaves of a tree as text by their paths."""
    if not isinstance(tree, dict):
        return {path: str(tree)}
    return {
        name: value for key, below in tree.items() for name, value in _flat(below, f"{path}.{key}".strip(".")).items()
    }


def _short(path: str) -> str:
    """Return a path without its scenario and without the words that tell nothing."""
    words = path.split(".")
    if words[0] == "scenarios" and len(words) > 2:
        words = words[2:]
    if words[0] in ("parallel", "optimizer", "framework") and len(words) > 1:
        words = words[1:]
    if words[0] == "model" and len(words) > 1:
        words = ["layers" if words[-1] == "repeat" else words[-1]]
    return ".".join(words)


# ---- Refitted predictions of a class against published values --------------------------------------------------------


def validation_plot(name: str, values: Sequence[ScoredValue]) -> Plot | None:
    """Return predictions without the publication against published values, both logarithmic; null for none."""
    scored = [
        value.unseen for value in values
        if value.unseen.error is not None and value.unseen.predicted and not _is_ratio(value)
    ]  # fmt: skip
    errors = errors_of(value.unseen for value in values if is_unseen(value.unseen))
    figure = compared_figure(finding(name, scored) if errors is None else told(name, errors), scored)
    return None if figure is None else Plot(figure, {"": _data(values)})


def told(name: str, errors: Errors) -> str:
    """Return how accurate predictions of a class are where nothing rests on the published value."""
    results = f"{errors.groups:,} independent results that it had not seen"
    return f"{name.capitalize()}: median error {errors.median:.1%} on {results}"


def _is_ratio(value: ScoredValue) -> bool:
    """Tell whether a value is a ratio of two runs, which is on no axis of its metric."""
    return any(check.check == "ratio" and check.metric == value.unseen.metric for check in value.case.expect)


def _data(values: Sequence[ScoredValue]) -> bytes:
    """Return every value of the class as CSV, in SI, with both columns of predictions, its state and its group."""
    left_out = (f"{name}_left_out" for name in NUMBERS[1:])
    headings = ("id", "publication", "metric", "unit", *NUMBERS, *left_out, "verdict", "state", "group", "interval")
    groups: dict[str | None, int] = {}
    rows = (
        (
            value.stated.id, value.stated.publication, value.stated.metric, value.stated.unit,
            *(getattr(value.stated, name) for name in NUMBERS),
            *(getattr(value.unseen, name) for name in NUMBERS[1:]), value.unseen.verdict, value.unseen.state,
            groups.setdefault(value.unseen.group, len(groups)), UNSEEN if value.unseen.interval_unseen else IN_SAMPLE,
        )
        for value in values
    )  # fmt: skip
    return table(headings, rows)
