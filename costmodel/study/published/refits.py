"""Terms of whole runs as fitted without each publication, kept beside their plan, and what they change in cases.

`python -m reports.fits.frameworks` fits them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from costmodel.calibration.fit_files import COMPOSITION, read
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.spread import Spread
from costmodel.errors import InputError, Location
from costmodel.records import Record, replace
from costmodel.schema import SI
from costmodel.schema.case import Case, resolve_case
from costmodel.schema.fit_plan import FRAMEWORK, FitPlanFile, TermFile
from costmodel.schema.references import Library
from costmodel.study.published.reproduce import NOTHING_REFITTED, Refitted

PLAN = "end_to_end"

Terms: TypeAlias = Sequence[TermFile]
Values: TypeAlias = "tuple[float | None, ...]"  # of the terms in order; null: as the framework's file says


class FittedTerms(Record):
    """Fitted values. before, after: mean absolute log error of the figures with the files' values and with these."""

    values: Values
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


class Unseen(Record):
    """By the id of a case, what the terms change in it when they are fitted without its publication.

    refitted: what else is stated anew.
    """

    changes: Mapping[str, Mapping[str, object]]
    refitted: Refitted = NOTHING_REFITTED


def path_of(case: Case, term: TermFile) -> str:
    """Return the path of a term in the scenario of a case, as `--set` takes it."""
    return f"scenarios.{case.scenario_name}.{term.path}"


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


def changes(case: Case, terms: Terms, values: Values, library: Library) -> dict[str, object]:
    """Return what fitted values change in the scenario of a case, as `--set` takes it."""
    return {
        path_of(case, terms[at]): SI(value) for at in moving(case, terms, library) if (value := values[at]) is not None
    }


def read_terms(library: Library) -> Terms:
    """Return the terms of the plan of whole runs."""
    return read(library, "fit_plans", PLAN, FitPlanFile).terms


def left_out(cases: Sequence[Case], search_path: Sequence[str] = ()) -> Unseen:
    """Return what `leave_out` returns with the plan on the search path and the fits that are kept next to it.

    Raises InputError where the fits are of other terms.
    """
    library = Library(search_path)
    plan = read(library, "fit_plans", PLAN, FitPlanFile)
    if not plan.terms:
        return Unseen({})
    path = library.find(PLAN, "fit_plans")
    kept = None if plan.refits is None else read_refits(path.parent / plan.refits, plan.terms)
    if kept is None:
        hint = "fit them: python -m reports.fits.frameworks --output hardware"
        raise InputError.single("has no fits of its terms", hint=hint, field="refits", location=Location(str(path)))
    without = leave_out(cases, kept, plan.terms, library)
    if plan.run_refits is None or not (path.parent / plan.run_refits).is_file():
        return without
    fields = without.refitted.fields | {COMPOSITION}
    return replace(without, refitted=Refitted(fields, read_scatter(path.parent / plan.run_refits)))


def leave_out(cases: Sequence[Case], refits: Refits, terms: Terms, library: Library) -> Unseen:
    """Return what becomes of cases when terms are fitted without the publication of each."""
    changed = {case.id: changes(case, terms, refits.of(case.publication).values, library) for case in cases}
    changed = {name: each for name, each in changed.items() if each}
    return Unseen(changed, Refitted(frozenset(term.path.removeprefix(FRAMEWORK) for term in terms)))


def read_refits(path: Path, terms: Terms) -> Refits | None:
    """Return the fits of a file. Null where there is none, or one of other terms than the plan's.

    Raises InputError on a file that is damaged.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        is_of_plan = document.get("terms") == named(terms)
    except (OSError, ValueError, AttributeError) as error:
        hint = "remove it: terms are then fitted again"
        raise InputError.single(f"is damaged: {error}", hint=hint, location=Location(str(path))) from None
    if not is_of_plan:
        return None
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


def named(terms: Terms) -> list[dict[str, Any]]:
    """Return what tells the terms of a plan from those of another one."""
    return [
        {"path": term.path, "bounds": list(term.span), "frameworks": term.frameworks, "publications": term.publications}
        for term in terms
    ]


def _read(document: Mapping[str, Any]) -> FittedTerms:
    return FittedTerms(tuple(document["values"]), document["figures"], document["before"], document["after"])
