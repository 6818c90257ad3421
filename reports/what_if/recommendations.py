"""What the paper recommends, ranked by what each is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

from costmodel.api import load
from costmodel.report.plots.bars import Bar
from costmodel.report.style import BLUE, GREEN, ORANGE
from costmodel.study.levers import hypothetical, levers_of, worths_of
from costmodel.study.what_if import Worth
from reports.what_if.asked import FLAGSHIP, Asked
from reports.what_if.bar_groups import Group, groups_plot

NAME = "insights_deepseek_v3"
LEVERS = f"what_ifs/{NAME}"
COLOURS = {"training": BLUE, "prefill": GREEN, "decode": ORANGE}
"""Scenario -> colour of its bars."""
WIDE, AXIS = 42, 34  # characters of a line beside a bar, and of one below the bars
LEAST = 5e-4  # of the metric: less is shown as nothing


def of_recommendations() -> Asked:
    """Return what each recommendation of the paper saves in V3's scenarios."""
    levers, workload = levers_of(LEVERS), load(FLAGSHIP, scenarios=list(COLOURS))
    with hypothetical(workload, LEVERS):
        found = {scenario: worths_of(workload, scenario, levers) for scenario in COLOURS}
    return ranked(levers.title, found)


def ranked(title: str, found: Mapping[str, Sequence[Worth]]) -> Asked:
    """Return what changes save, a panel for each scenario, the largest first."""
    groups, says = [], []
    for scenario, worths in found.items():
        saved = sorted(((one.saved, one) for one in worths if one.saved is not None), key=lambda pair: -pair[0])
        bars = [
            Bar("\n".join(wrap(one.term, WIDE)), "mfu", share, note="~" if _may_be_nothing(one) else "",
                colour=COLOURS[scenario])
            for share, one in saved
            if share > LEAST
        ]  # fmt: skip
        if bars:
            metric = worths[0].metric.replace("_", " ")
            groups.append(Group("\n".join(wrap(f"{scenario}: less {metric}", AXIS)), "ratio", bars))
        nothing = [one.term for share, one in saved if share <= LEAST]
        if nothing:
            says.append(f"{scenario}: no gain by this model from {'; '.join(nothing)}.")
    says.append(
        "Each alone, against the workload as it stands; `~`: the change's 80 % interval holds no change. The command "
        "prints intervals and limits; what no change expresses is in [the list](../../docs/recommendations.md)."
    )
    return Asked(NAME, title, groups_plot(groups), says, [f"costmodel what-if {FLAGSHIP} --levers {LEVERS}"])


def _may_be_nothing(one: Worth) -> bool:
    """Tell whether the interval of a change holds none."""
    return one.ratio is not None and one.ratio[0] <= 1.0 <= one.ratio[1]
