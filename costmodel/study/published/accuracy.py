"""What may be said of accuracy: the errors of figures that no value on their own path rests on, by class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from costmodel.records import ValueRecord, asdict
from costmodel.study.published.provenance import IN_SAMPLE
from costmodel.study.published.reproduce import Comparison
from costmodel.study.published.validating import Errors, errors_of, is_unseen

CLASSES = ("training", "inference", "serving", "kernel", "communication", "memory", "counting", "topology")
HEADINGS = (
    "class", "figures", "independent", "publications", "median error", "mean error", "inside 80 % interval",
    "half-width / median error",
)  # fmt: skip


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
