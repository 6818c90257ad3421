"""What the paper recommends, ranked by what each is worth."""

from __future__ import annotations

from textwrap import wrap

from costmodel.report.plots.bars import Bar
from costmodel.report.style import BLUE, GREEN, GREY, ORANGE
from reports.what_if.alternatives import ChangeEffect
from reports.what_if.asked import Asked
from reports.what_if.bar_groups import Group, groups_plot

COLOURS = {"training": BLUE, "prefill": GREEN, "decode": ORANGE}
WIDE, AXIS = 42, 34  # characters of a line beside a bar, and of one below the bars
LEAST = 5e-4  # of the metric: less is shown as nothing


def of_recommendations(found: list[ChangeEffect], name: str) -> Asked:
    """Return what each recommendation of a what-if file saves, a panel for each scenario, the largest first."""
    groups, says = [], []
    for scenario in dict.fromkeys(one.scenario for one in found):
        own = sorted((one for one in found if one.scenario == scenario), key=lambda one: one.after / one.before)
        bars = [
            Bar("\n".join(wrap(one.term, WIDE)), "mfu", 1.0 - one.after / one.before,
                note="" if one.clear else "~",
                colour=COLOURS.get(scenario, GREY))
            for one in own
            if 1.0 - one.after / one.before > LEAST
        ]  # fmt: skip
        if bars:
            metric = own[0].metric.replace("_", " ")
            groups.append(Group("\n".join(wrap(f"{scenario}: less {metric}", AXIS)), "ratio", bars))
        nothing = [one.term for one in own if 1.0 - one.after / one.before <= LEAST]
        if nothing:
            says.append(f"{scenario}: no gain by this model from {'; '.join(nothing)}.")
    says.append(
        "Each alone, against the workload as it stands; `~`: the change's 80 % interval holds no change. Limits, "
        "sources and "
        f"what no row expresses: [{name}]({name}.md)."
    )
    drawn = groups_plot(groups)
    command = f"python -m reports.what_if.alternatives {name} --output {name}.md"
    return Asked(name, "", drawn, says, [command])
