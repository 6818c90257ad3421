"""A published figure taken apart: a chain of evaluations that differ by one change each."""

from __future__ import annotations

from costmodel.api import load
from costmodel.errors import InfeasibleError
from costmodel.records import ValueRecord
from costmodel.schema.metrics import dimension_of
from costmodel.schema.what_if import WhatIf, load_what_if
from costmodel.units import render


class Term(ValueRecord):
    """One step of the chain: the metric before and after it."""

    name: str
    change: str
    before: float
    after: float
    cite: str | None


class Waterfall(ValueRecord):
    """All terms, and what is left between the last evaluation and the published figure.

    own: how many of the terms lead to the workload's own prediction.
    """

    what_if: WhatIf
    start: float
    terms: tuple[Term, ...]
    own: int

    @property
    def unexplained(self) -> float | None:
        """Return the published figure less the last evaluation."""
        published = self.what_if.published
        return None if published is None else published - self.terms[-1].after


def waterfall(name: str, search_path: tuple[str, ...] = ()) -> Waterfall:
    """Return the terms of a what-if file. Each is the difference of two evaluations, one change apart."""
    what_if = load_what_if(name, search_path)
    changes = dict(what_if.file.start)
    start = before = _evaluate(what_if, changes, search_path)
    terms: list[Term] = []
    own = 0
    for step in what_if.file.steps:
        if step.value is None:
            shown = f"{step.path}={changes.pop(step.path)}"
            change = f"without `{shown}`"
        else:
            changes[step.path] = step.value
            change = f"with `{step.path}={step.value}`"
        after = _evaluate(what_if, changes, search_path)
        terms.append(Term(step.term, change, before, after, step.cite))
        before = after
        if not changes:
            own = len(terms)
    return Waterfall(what_if, start, tuple(terms), own)


def _evaluate(what_if: WhatIf, changes: dict[str, object], search_path: tuple[str, ...]) -> float:
    file = what_if.file
    point = load(file.workload, set=changes, search_path=search_path).evaluate(file.scenario).point()
    value = point.metrics[file.metric]
    if value is None:
        raise InfeasibleError(f"{file.scenario} with {changes}: {point.reason}")
    return value


def markdown(result: Waterfall) -> str:
    """Return the waterfall as a Markdown page."""
    file, published = result.what_if.file, result.what_if.published
    dimension = dimension_of(file.metric) or "count"

    def shown(value: float) -> str:
        return f"{value:.3f} s" if dimension == "duration" else render(value, dimension)

    first = f"`{file.scenario}` of `{file.workload}` with all changes of `start` in the what-if file"
    lines = [
        f"# {file.title}",
        "",
        f"`{file.metric}`. Each term is the difference of two evaluations, one `--set` apart; the terms add up.",
        "",
        "| term | change | difference | total | source |",
        "|---|---|---:|---:|---|",
        f"| {file.begin} | {first} | | {shown(result.start)} | |",
    ]
    for number, term in enumerate(result.terms, start=1):
        moved = term.after - term.before
        difference = f"{moved:+.3f} s" if dimension == "duration" else shown(moved)
        cite = term.cite or "the workload's own value"
        lines.append(f"| {term.name} | {term.change} | {difference} | {shown(term.after)} | {cite} |")
        if number == result.own:
            lines.append(f"| **prediction** | the workload as it stands | | **{shown(term.after)}** | |")
    if file.published is not None and published is not None and result.unexplained is not None:
        lines.append(f"| *unexplained* | no model computes it | {result.unexplained:+.3f} s | {shown(published)} | |")
        lines.append(f"| **published** | | | **{shown(published)}** | {file.published.cite} |")
    return "\n".join(lines) + "\n"
