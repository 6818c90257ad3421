"""Which rule of a layout each point of a grid breaks, said with the numbers of that point."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from costmodel.analytic.blocks import single
from costmodel.result import BAD_LAYOUT, REASONS
from costmodel.workload.rule import Rule
from costmodel.workload.scenario import Scenario
from costmodel.workload.validity import rules

MOST_TOLD = 500  # points of one rule that are told apart: each takes a quarter of a millisecond


@np.errstate(divide="ignore", invalid="ignore", over="ignore")  # points that break an earlier rule
def infeasibilities(scenario: Scenario, shape: tuple[int, ...]) -> npt.NDArray[np.str_]:
    """Return, for each point of a grid, the first rule that its layout breaks, nothing where it breaks none.

    Beyond `MOST_TOLD` combinations of the values that a rule looks at, the rule is told without them.
    """
    told = np.full(shape, "", dtype=object)
    for rule in rules(scenario):
        broken = np.broadcast_to(~np.asarray(rule.holds, dtype=bool), shape) & (told == "")
        if broken.any():
            told[broken] = _told(scenario, rule, broken)
    return told.astype(np.str_)


def _told(scenario: Scenario, rule: Rule, broken: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_]:
    """Return what is told of the points that break a rule and none before it: alike where the rule's values are."""
    holds = np.asarray(rule.holds)
    combinations = np.broadcast_to(np.arange(holds.size).reshape(holds.shape), broken.shape)[broken]
    distinct, first, which = np.unique(combinations, return_index=True, return_inverse=True)
    points = np.argwhere(broken)[first[:MOST_TOLD]]
    texts = [
        infeasibility(next(one for one in rules(single(scenario, tuple(point))) if not one.holds)) for point in points
    ]
    texts += [infeasibility(rule)] * (len(distinct) - len(texts))
    return np.array(texts, dtype=object)[which]


def infeasibility(rule: Rule) -> str:
    """Return what is told of a layout that breaks a rule."""
    return f"{REASONS[BAD_LAYOUT]}: {rule.field}: {rule.message}"
