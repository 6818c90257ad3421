"""What may be said of accuracy: the errors of figures that no value on their own path rests on, by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from costmodel.quantities import Array
from costmodel.records import ValueRecord, asdict
from costmodel.schema.results import ReproducedValue
from costmodel.study.published.provenance import IN_SAMPLE, REFITTED, UNSEEN
from costmodel.study.published.reproduce import Comparison

CLASSES = ("training", "inference", "serving", "kernel", "communication", "memory", "counting", "topology")
HEADINGS = (
    "class", "figures", "independent", "publications", "median error", "mean error", "inside 80 % interval",
    "half-width / median error",
)  # fmt: skip
EXACT = 1e-9  # an interval narrower than this share of its value is none


class Errors(ValueRecord):
    """Errors of figures, relative to the published values; figures that follow from one another share one weight.

    groups: figures that do not follow from one another.
    publications: that they are from.
    mean, median, worst: of the absolute errors.
    bias: mean of the errors.
    intervals: figures whose prediction has an 80 % interval that rests on none of them.
    inside: share of these that it holds.
    half_width: median of half an interval over the prediction, relative to the median absolute error of the same
    figures. Null where no figure has an interval.
    """

    figures: int
    groups: int
    publications: int
    mean: float
    median: float
    worst: float
    bias: float
    intervals: int
    inside: float | None
    half_width: float | None


class Accuracy(ValueRecord):
    """The errors of one class. in_sample: figures of the class that count in none of them."""

    name: str
    errors: Errors
    in_sample: int

    def cells(self) -> tuple[str, ...]:
        """Return what `HEADINGS` name, as text."""
        errors = self.errors
        held = "no intervals" if errors.inside is None else f"{errors.inside:.0%} of {errors.intervals:,}"
        width = "" if errors.half_width is None else f"{errors.half_width:.1f}"
        return (
            self.name, f"{errors.figures:,}", f"{errors.groups:,}", f"{errors.publications}", f"{errors.median:.1%}",
            f"{errors.mean:.1%}", held, width,
        )  # fmt: skip

    def document(self) -> dict[str, Any]:
        """Return the class as the documented JSON object."""
        return {"class": self.name, **asdict(self.errors), "in_sample": self.in_sample}


def by_class(comparisons: Sequence[Comparison]) -> Iterator[Accuracy]:
    """Yield the accuracy of each class that has unseen or refitted figures."""
    for name in CLASSES:
        of = [one for one in comparisons if one.case_class == name and one.error is not None]
        errors = errors_of(one for one in of if is_unseen(one))
        if errors is not None:
            yield Accuracy(name, errors, sum(one.state == IN_SAMPLE for one in of))


def errors_of(comparisons: Iterable[Comparison]) -> Errors | None:
    """Return the errors of the figures that are scored, null where there is none."""
    scored = [one for one in comparisons if one.error is not None]
    if not scored:
        return None
    names = [one.group or str(at) for at, one in enumerate(scored)]
    sizes_of_groups = Counter(names)
    weights = np.array([1.0 / sizes_of_groups[name] for name in names])  # those of a group sum to one
    errors = np.array([one.error for one in scored], dtype=float)
    sizes = np.abs(errors)
    wide = np.array([has_interval(one) and one.interval_unseen for one in scored])
    held = [one for one, has in zip(scored, wide, strict=True) if has]
    ends = np.array([(one.published, one.predicted, one.low, one.high) for one in held], dtype=float).reshape(-1, 4)
    published, predicted, low, high = ends.T
    inside, of_held = (published >= low) & (published <= high), weights[wide]
    typical = weighted_median(sizes[wide], of_held) if held else 0.0
    half = weighted_median((high - low) / 2.0 / predicted, of_held) if held else 0.0
    return Errors(
        figures=len(scored), groups=len({one.group or id(one) for one in scored}),
        publications=len({one.publication for one in scored}),
        mean=float(np.average(sizes, weights=weights)), median=weighted_median(sizes, weights),
        worst=float(sizes.max()), bias=float(np.average(errors, weights=weights)),
        intervals=len(held), inside=float(np.average(inside, weights=of_held)) if held else None,
        half_width=half / typical if typical else None,
    )  # fmt: skip


def has_interval(one: Comparison | ReproducedValue) -> bool:
    """Tell whether a prediction has an interval of any width."""
    return one.low is not None and one.high is not None and one.high - one.low > EXACT * abs(one.high)


def weighted_median(values: Array, weights: Array) -> float:
    """Return the value at half of the weight, the mean of two where it lies between them."""
    order = np.argsort(values, kind="stable")
    ordered, reached = values[order], np.cumsum(weights[order])
    half = reached[-1] / 2.0
    first = int(np.searchsorted(reached, half * (1.0 - EXACT)))
    last = min(int(np.searchsorted(reached, half * (1.0 + EXACT), side="right")), len(ordered) - 1)
    return float((ordered[first] + ordered[last]) / 2.0)


def is_unseen(one: Comparison) -> bool:
    """Tell whether a figure says how accurate predictions are: nothing on its path rests on it, or was refitted."""
    return one.state in (UNSEEN, REFITTED)
