"""The terms of a fit plan fitted without each publication, kept next to the plan so that nobody fits them anew."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.spread import Spread
from costmodel.errors import InputError
from costmodel.records import Record
from costmodel.schema.references import display_path
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.term_sensitivity import Ends, Terms, Values

EIGHTY = 1.2816  # standard normal deviations from the median to either end of an 80 % interval
DIGITS = 6


class FittedTerms(Record):
    """Fitted values. before, after: mean absolute log error of the figures with the files' values and with these.

    ends: of the 80 % intervals of the values, null where a term is not fitted.
    """

    values: Values
    ends: Ends
    figures: int
    before: float
    after: float


class Refits(Record):
    """The fit of all terms, and those that leave one publication out, by its name."""

    everything: FittedTerms
    without: Mapping[str, FittedTerms]

    def of(self, publication: str) -> FittedTerms:
        """Return the fit that a publication has no part in."""
        return self.without.get(publication, self.everything)


def unfitted(terms: Terms, at: int) -> tuple[float, tuple[float, float]]:
    """Return the value of a term of which no run says anything, and the ends of its 80 % interval.

    That of its prior, within the factor that the prior states. Else no effect, its lower bound, up to the upper one.
    """
    known, (low, high) = terms[at].known, terms[at].span
    if known is None:
        return low, (low, high)
    value, factor = known
    spread = math.exp(EIGHTY * math.log(factor))
    return value, (max(low, value / spread), min(high, value * spread))


def without_data(fitted: FittedTerms, terms: Terms, publication: str) -> FittedTerms:
    """Return a fit without a publication in which terms that it alone determines are as without any run."""
    values, ends = list(fitted.values), list(fitted.ends)
    for at, term in enumerate(terms):
        if values[at] is None and publication in term.publications:
            values[at], ends[at] = unfitted(terms, at)
    return FittedTerms(tuple(values), tuple(ends), fitted.figures, fitted.before, fitted.after)


def write_refits(path: Path, terms: Terms, refits: Refits) -> None:
    """Write fits as JSON next to the plan."""
    document = {
        "terms": _named(terms), "everything": _written(refits.everything),
        "without": {name: _written(each) for name, each in sorted(refits.without.items())},
    }  # fmt: skip
    write_whole(path, [(json.dumps(document, indent=1) + "\n").encode()])


def is_current(path: Path, terms: Terms) -> bool:
    """Tell whether a file keeps fits of the very terms of a plan."""
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("terms") == _named(terms)


def read_refits(path: Path, terms: Terms) -> Refits:
    """Return the fits of a file. Raises InputError where they are of other terms than the plan's."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _stale(path, str(error)) from None
    if document["terms"] != _named(terms):
        raise _stale(path, "is of other terms than the plan next to it")
    return Refits(_read(document["everything"]), {name: _read(each) for name, each in document["without"].items()})


def read_scatter(path: Path) -> dict[str, dict[str, FamilyFit]]:
    """Return publication -> how whole runs scatter without it, by family. Half-widths of a file are in logs."""
    scatter: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: {
            family: FamilyFit(spread=Spread((1.0,), (math.exp(-width),), (1.0,), (math.exp(width),)))
            for family, width in widths.items()
        }
        for name, widths in scatter.items()
    }  # fmt: skip


def _stale(path: Path, what: str) -> InputError:
    hint = "make it with `python -m reports.fits.frameworks`, or remove `refits` from the plan"
    return InputError.single(f"{display_path(path)} {what}", hint=hint, field="refits")


def _named(terms: Terms) -> list[dict[str, Any]]:
    """Return what tells the terms of a plan from those of another one."""
    return [
        {"path": term.path, "bounds": list(term.span), "frameworks": term.frameworks, "publications": term.publications}
        for term in terms
    ]


def _written(fitted: FittedTerms) -> dict[str, Any]:
    return {
        "values": [None if each is None else _rounded(each) for each in fitted.values],
        "ends": [None if pair is None else [_rounded(end) for end in pair] for pair in fitted.ends],
        "figures": fitted.figures, "before": _rounded(fitted.before), "after": _rounded(fitted.after),
    }  # fmt: skip


def _read(document: Mapping[str, Any]) -> FittedTerms:
    ends: Sequence[Any] = document["ends"]
    return FittedTerms(
        tuple(document["values"]), tuple(None if pair is None else (pair[0], pair[1]) for pair in ends),
        document["figures"], document["before"], document["after"],
    )  # fmt: skip


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
