"""What single changes are worth, as a Markdown page: a row a change, a column a scenario."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from costmodel.schema.metrics import dimension_of
from costmodel.schema.what_if import WhatIf
from costmodel.units import render
from reports.page import line
from reports.waterfall import Waterfall

if TYPE_CHECKING:
    from reports.what_if.alternatives import ChangeEffect

SHOWN_DIGITS = 4
_NOTHING = "±0 %"


def markdown(what_if: WhatIf, found: Sequence[ChangeEffect], ladder: Waterfall | None) -> str:
    """Return the changes as a Markdown page: what they are worth, their ladder, and what no path expresses."""
    return "\n".join(_lines(what_if, found, ladder)) + "\n"


def _lines(what_if: WhatIf, found: Sequence[ChangeEffect], ladder: Waterfall | None) -> Iterator[str]:
    yield f"# {what_if.file.title}"
    yield ""
    messages = {one.term for one in what_if.file.alternatives if one.message is not None}
    yield from _changes([one for one in found if one.term not in messages])
    alone = [one for one in found if one.term in messages]
    if alone:
        yield from ("", "## Messages by themselves", "", "Flow by flow, with the cluster's links shared.", "")
        yield line("change", "message", "time", "limit", "source")
        yield line("---", "---", "---:", "---", "---")
        for one in alone:
            yield line(one.term, one.scenario, _cell(one), one.limit or "", one.cite or "")
    if ladder is not None:
        yield from ("", "## One after the other", "", "| change | total |", "|---|---:|")
        yield line(what_if.file.begin, _shown(what_if.file.metric, ladder.start))
        for term in ladder.terms:
            yield line(term.name, _shown(what_if.file.metric, term.after))
    others = [one for one in what_if.file.alternatives if not one.set]
    if others:
        yield from (
            "",
            "## What is no row above",
            "",
            "| recommendation | why, or which path | source |",
            "|---|---|---|",
        )
        for other in others:
            yield line(other.term, other.why or "", other.cite or "")


def _changes(found: Sequence[ChangeEffect]) -> Iterator[str]:
    """Yield the table of changes to scenarios, and the paths that state them."""
    columns = {one.scenario: one.metric for one in found}
    yield "Each change alone, against the workload as it stands, or against what its limit states."
    if any(one.ratio is not None for one in found):
        yield (
            "In parentheses the 80 % interval of the change: both sides have the same errors, so that only what the "
            "change touches is uncertain. `~`: it may be worth nothing."
        )
    yield ""
    yield line("change", *(f"{scenario}, `{metric}`" for scenario, metric in columns.items()), "limit", "source")
    yield line("---", *("---:" for _ in columns), "---", "---")
    terms = list(dict.fromkeys(one.term for one in found))
    for term in terms:
        rows = [one for one in found if one.term == term]
        cells = [" ".join(_cell(one) for one in rows if one.scenario == scenario) for scenario in columns]
        told = (
            " ".join(dict.fromkeys(filter(None, texts)))
            for texts in zip(*((one.limit, one.cite) for one in rows), strict=True)
        )
        yield line(term, *cells, *told)
    yield from ("", "## How each is stated", "")
    for term in terms:
        paths = dict.fromkeys(change for one in found if one.term == term for change in one.changes)
        both = dict.fromkeys(change for one in found if one.term == term for change in one.against)
        against = f", where both sides have {_listed(both)}" if both else ""
        yield f"- {term}: {_listed(paths)}{against}"


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(f"`{path}`" for path in paths)


def _cell(one: ChangeEffect) -> str:
    """Return what a change does to a metric: both values, the change in per cent and its interval."""
    told = [] if one.ratio is None or one.before == one.after else [_change(end) for end in one.ratio]
    ends = f" ({' to '.join(told)})" if set(told) - {_NOTHING} else ""
    unclear = "" if one.clear or one.before == one.after else "~ "
    sides = f"{_shown(one.metric, one.before)} → {_shown(one.metric, one.after)}"
    return f"{unclear}{sides}, {_change(one.after / one.before)}{ends}"


def _change(ratio: float) -> str:
    """Return a ratio as a change in per cent."""
    change = 100 * (ratio - 1)
    return _NOTHING if abs(change) < 0.05 else f"{change:+.1f} %"


def _shown(metric: str, value: float) -> str:
    return render(float(f"{value:.{SHOWN_DIGITS}g}"), dimension_of(metric) or "count")
