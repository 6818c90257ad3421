"""The evidence of attention and MoE systems: published claims beside predictions, and every system on three devices.

python -m reports.systems --output reports/systems
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from costmodel.analytic.intervals import RATES, TIMES
from costmodel.api import load
from costmodel.errors import InputError
from costmodel.report.plotting import write_plots
from costmodel.report.style import styled
from costmodel.report.text import metric, setting
from costmodel.schema.metrics import dimension_of
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.reproduce import ASSUMED, IDENTITY, PASS, SKIP, Comparison, load_cases, reproduce
from reports.page import rendered, write_folder
from reports.systems.curves import FOLDER, Figure, figures

PAPERS = Path(__file__).with_name("papers.yaml")
CASES = ("systems", "systems_series")
DIGITS = 4
DEVICES = {"H800": "nodes/hgx-h800", "A100": "nodes/dgx-a100", "RTX 4090": "nodes/rtx-4090-x8"}


def publish(folder: Path) -> Iterator[Path]:
    """Write the figures and the page with the tables, and yield their paths."""
    cases, problems = load_cases(list(CASES))
    comparisons, more = reproduce(cases)
    sys.stderr.writelines(f"{problem}\n" for problem in (*problems, *more))
    with styled():
        shown = figures()
    yield from write_plots(((name, one.drawn) for name, one in shown.items()), folder)
    write_whole(folder / "README.md", [_page(comparisons, shown).encode()])
    yield folder / "README.md"


def _page(comparisons: Sequence[Comparison], drawn: Mapping[str, Figure]) -> str:
    compared = [one for one in comparisons if one.verdict != SKIP]
    claims, stated = scored(comparisons), [one.state for one in compared if not _is_check(one.id)]
    times = [one for one in claims if one.error is not None and group_of_time(one.metric)]
    return rendered(
        "systems/page", claims=_share(claims), times=_share(times), identity=stated.count(IDENTITY),
        assumed=stated.count(ASSUMED), checks=sum(_is_check(one.id) for one in compared), compared=compared,
        left_out=[one for one in comparisons if one.verdict == SKIP], shown=_shown, devices=list(DEVICES),
        systems=_systems(), figures=drawn, papers=yaml.safe_load(PAPERS.read_text()),
    )  # fmt: skip


def _systems() -> Iterator[tuple[str, ...]]:
    """Yield every scenario of every system: its headline and limit on each device, or why it does not run."""
    for name in Library().names(FOLDER):
        for scenario in load(f"{FOLDER}/{name}").scenarios:
            yield name, scenario, *(_cell(f"{FOLDER}/{name}", scenario, node) for node in DEVICES.values())


def _cell(reference: str, scenario: str, node: str) -> str:
    try:
        workload = load(reference, cluster=node, scenarios=[scenario])
    except InputError as error:
        return error.problems[0].message
    point = workload.points([scenario])[scenario]
    value = point.metrics[point.headline]
    if not point.fits or value is None:
        return "does not fit"
    largest = max(point.breakdown, key=lambda entry: entry.time)
    return f"{metric(point.headline, value)}, {largest.name} ({largest.bound})"


def _is_check(identity: str) -> bool:
    """Tell whether a case is a check of structure that no paper states: `-D` and a number in its id."""
    return any(part[:1] == "D" and part[1:].isdigit() for part in identity.split("-")[1:])


def scored(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the published figures that count: compared, no check of structure, no identity, no assumed setting."""
    compared = [one for one in comparisons if one.verdict != SKIP and not _is_check(one.id)]
    return [one for one in compared if one.state not in (IDENTITY, ASSUMED)]


def group_of_time(metric: str | None) -> bool:
    """Tell whether a metric is a time or a rate, not a count."""
    return metric is not None and (metric in TIMES | RATES or metric.startswith("breakdown."))


def _share(claims: Sequence[Comparison]) -> str:
    passed = sum(one.verdict == PASS for one in claims)
    return f"{passed} of {len(claims)} ({passed / len(claims):.0%})"


def _shown(one: Comparison, value: float | None) -> str:
    """Return a figure with its unit; ratios and counts have none."""
    if value is None:
        return "-"
    dimension = dimension_of(one.metric or "")
    plain = one.unit == "1" or dimension in (None, "count", "ratio")
    return f"{value:.4g}" if plain or dimension is None else setting(value, dimension, DIGITS)


if __name__ == "__main__":
    write_folder("systems", publish)
