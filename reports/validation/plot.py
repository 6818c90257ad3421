"""Refitted predictions of a class against published values."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.report.plots.plot import Plot, table
from costmodel.report.plots.validation import NUMBERS, compared_figure, finding
from costmodel.study.published.accuracy import Errors, errors_of, is_unseen
from costmodel.study.published.provenance import IN_SAMPLE, UNSEEN
from reports.validation.scored import ScoredValue


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
    return f"{name}: median error {errors.median:.1%} on {errors.groups:,} independent results that it had not seen"


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
