"""What single changes are worth: each against the workload as it stands, not one after the other.

python -m costmodel.study.alternatives insights_deepseek_v3 --output reports/what_if/insights_deepseek_v3.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from costmodel.api import load
from costmodel.errors import InfeasibleError
from costmodel.result import Point
from costmodel.schema.metrics import dimension_of
from costmodel.schema.what_if import Alternative, WhatIf, load_what_if
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.waterfall import Waterfall, waterfall
from costmodel.units import render

SHOWN_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Worth:
    """One change in one scenario: the metric without it and with it, and their 80 % intervals.

    clear: these do not overlap.
    """

    term: str
    scenario: str
    metric: str
    changes: tuple[str, ...]
    before: float
    after: float
    before_interval: tuple[float, float]
    after_interval: tuple[float, float]
    limit: str | None
    cite: str | None

    @property
    def clear(self) -> bool:
        """Tell whether the intervals of both sides are apart."""
        (low, high), (least, most) = self.before_interval, self.after_interval
        return high < least or most < low


def alternatives(what_if: WhatIf, search_path: tuple[str, ...] = ()) -> list[Worth]:
    """Return what each change of a what-if file is worth in each of its scenarios: two evaluations each.

    Raises InfeasibleError where one side cannot run.
    """
    return [
        _worth(what_if, one, scenario, search_path)
        for one in what_if.alternatives
        if one.changes
        for scenario in (one.file.scenarios or [what_if.file.scenario])
    ]


def _worth(what_if: WhatIf, one: Alternative, scenario: str, search_path: tuple[str, ...]) -> Worth:
    workload = what_if.file.workload
    without = _point(workload, scenario, one.against, search_path)
    with_it = _point(workload, scenario, {**one.against, **one.changes}, search_path)
    metric = what_if.file.metric if scenario == what_if.file.scenario else without.headline
    sides = [_value(point, metric, one, scenario) for point in (without, with_it)]
    changes = tuple(f"{path}={value}" for path, value in one.changes.items())
    (before, first), (after, second) = sides
    return Worth(
        one.file.term, scenario, metric, changes, before, after, first, second, one.file.limit, one.file.cite
    )  # fmt: skip


def _point(workload: str, scenario: str, changes: Mapping[str, object], search_path: tuple[str, ...]) -> Point:
    return load(workload, set=changes, search_path=search_path, scenarios=[scenario]).evaluate(scenario).point()


def _value(point: Point, metric: str, one: Alternative, scenario: str) -> tuple[float, tuple[float, float]]:
    value = point.metrics[metric]
    if value is None:
        raise InfeasibleError(f"{scenario} with {one.file.term}: {point.reason}")
    return value, point.intervals[metric] or (value, value)


def markdown(what_if: WhatIf, found: Sequence[Worth], ladder: Waterfall | None) -> str:
    """Return the changes as a Markdown page: what they are worth, their ladder, and what no path expresses."""
    return "\n".join(_lines(what_if, found, ladder)) + "\n"


def _lines(what_if: WhatIf, found: Sequence[Worth], ladder: Waterfall | None) -> Iterator[str]:
    yield f"# {what_if.file.title}"
    yield ""
    yield "Each change alone, against the workload as it stands. `~`: the 80 % intervals of both sides overlap."
    yield ""
    yield "| change | scenario | metric | without | with | ratio | | limit | source |"
    yield "|---|---|---|---:|---:|---:|---|---|---|"
    for one in found:
        yield (
            f"| {one.term} | {one.scenario} | `{one.metric}` | {_shown(one.metric, one.before)} | "
            f"{_shown(one.metric, one.after)} | {one.after / one.before:.3f} | {'' if one.clear else '~'} | "
            f"{one.limit or ''} | {one.cite or ''} |"
        )
    if ladder is not None:
        yield ""
        yield "## One after the other"
        yield ""
        yield "| change | total |"
        yield "|---|---:|"
        yield f"| {what_if.file.begin} | {_shown(what_if.file.metric, ladder.start)} |"
        for term in ladder.terms:
            yield f"| {term.name} | {_shown(what_if.file.metric, term.after)} |"
    others = [one.file for one in what_if.alternatives if not one.changes]
    if others:
        yield ""
        yield "## What is no row above"
        yield ""
        yield "| recommendation | why, or which path | source |"
        yield "|---|---|---|"
        for other in others:
            yield f"| {other.term} | {other.why} | {other.cite or ''} |"


def _shown(metric: str, value: float) -> str:
    return render(float(f"{value:.{SHOWN_DIGITS}g}"), dimension_of(metric) or "count")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the alternatives of a what-if file as a Markdown page, and print it."""
    parser = argparse.ArgumentParser(prog="python -m costmodel.study.alternatives", description=main.__doc__)
    parser.add_argument("name", help="what-if file, by name")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--path", action="append", default=[], help="folder to search first")
    chosen = parser.parse_args(arguments)
    search_path = tuple(chosen.path)
    what_if = load_what_if(chosen.name, search_path)
    ladder = waterfall(chosen.name, search_path) if what_if.file.steps else None
    page = markdown(what_if, alternatives(what_if, search_path), ladder)
    again = f"\nRegenerate: `python -m costmodel.study.alternatives {chosen.name} --output {chosen.output}`\n"
    make_folder(chosen.output.parent)
    write_whole(chosen.output, [(page + again).encode()])
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
