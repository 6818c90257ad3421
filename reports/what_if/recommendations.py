"""What the paper recommends, ranked by what each is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from costmodel.api import load
from costmodel.report.plots.bars import Bar
from costmodel.report.style import BLUE, GREEN, ORANGE
from costmodel.report.text import shortened
from costmodel.study.levers import hypothetical, levers_of, worths_of
from costmodel.study.what_if import Worth
from reports.what_if.asked import FLAGSHIP, Asked
from reports.what_if.bar_groups import Group, groups_plot

NAME = "insights_deepseek_v3"
LEVERS = f"what_ifs/{NAME}"
COLOURS = {"training": BLUE, "prefill": GREEN, "decode": ORANGE}
"""Scenario -> colour of its bars."""
WIDE, SHOWN = 42, 6  # characters of a line beside a bar; bars of a panel
LEAST = 5e-4  # of the metric: less is shown as nothing
WHAT = {"training": "shorter training step", "prefill": "shorter time to first token",
        "decode": "shorter time per output token"}  # fmt: skip


def of_recommendations() -> Asked:
    """Return what each recommendation of the paper saves in V3's scenarios."""
    levers, workload = levers_of(LEVERS), load(FLAGSHIP, scenarios=list(COLOURS))
    with hypothetical(workload, LEVERS):
        found = {scenario: worths_of(workload, scenario, levers) for scenario in COLOURS}
    return ranked(levers.title, found)


def ranked(title: str, found: Mapping[str, Sequence[Worth]]) -> Asked:
    """Return what changes of each scenario as it is save, a panel for each, the largest first."""
    says: list[str] = []
    groups, best = [], []
    for scenario, worths in found.items():
        own, others = (
            sorted(
                (one for one in worths if one.saved is not None and (one.base == "scenario") is mine),
                key=lambda one: -(one.saved or 0.0),
            )
            for mine in (True, False)
        )
        told = [one for one in own if abs(one.saved or 0.0) > LEAST]
        if told:
            term = told[0].term[:1].upper() + told[0].term[1:]
            best.append(f"{term}: saves most, {told[0].saved:.0%} of {scenario}")
            groups.append(Group(WHAT[scenario], "ratio", [_bar(one, COLOURS[scenario]) for one in told[:SHOWN]]))
        says += _lines(scenario, own, told, others)
    says.append(
        "Each alone, against the workload as it stands. The command prints ceilings and limits; what no change "
        "expresses is in [the list](../../docs/recommendations.md)."
    )
    note = "line: 80 % interval of the saving; errors that both sides share cancel"
    drawn = groups_plot(best[0], groups, note)
    return Asked(NAME, title, drawn, says, [f"costmodel what-if {FLAGSHIP} --levers {LEVERS}"])


def _bar(one: Worth, colour: str) -> Bar:
    low, high = (None, None) if one.ratio is None else (1.0 - one.ratio[1], 1.0 - one.ratio[0])
    return Bar(shortened(one.term, WIDE), "mfu", one.saved or 0.0, low, high, colour=colour)


def _lines(
    scenario: str, own: Sequence[Worth], told: Sequence[Worth], others: Sequence[Worth]
) -> Iterator[str]:  # fmt: skip
    """Yield what a panel leaves out: changes that save less or nothing, and those of another start."""
    for heading, some in (
        ("save less, or cost", told[SHOWN:]), ("no gain by this model", [one for one in own if one not in told]),
        ("against an assumed start of its own", others),
    ):  # fmt: skip
        if some:
            listed = "; ".join(f"{one.term} ({one.saved:+.1%})" for one in some)
            yield f"{scenario}, {heading}: {listed}."
