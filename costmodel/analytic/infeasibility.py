"""The rule that the layout of each point of a grid breaks, with the numbers of that point."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from costmodel.analytic.blocks import single
from costmodel.result import BAD_LAYOUT, REASONS
from costmodel.workload.scenario import Scenario
from costmodel.workload.split_rules import Rule
from costmodel.workload.validity import rules

MAX_TEXTS = 500  # texts for one rule: each takes a quarter of a millisecond


@np.errstate(divide="ignore", invalid="ignore", over="ignore")  # points that break an earlier rule
def infeasibilities(scenario: Scenario, shape: tuple[int, ...]) -> npt.NDArray[np.str_]:
    """Return, for each point of a grid, the first rule that its layout breaks, nothing where it breaks none.

    Beyond `MAX_TEXTS` combinations of the values that a rule uses, its text is without them.
    """
    texts = np.full(shape, "", dtype=object)
    for rule in rules(scenario):
        broken = np.broadcast_to(~np.asarray(rule.holds, dtype=bool), shape) & (texts == "")
        if broken.any():
            texts[broken] = _texts(scenario, rule, broken)
    return texts.astype(np.str_)


def _texts(scenario: Scenario, rule: Rule, broken: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_]:
    """Return the texts of the points that break a rule and none before it: equal where the rule's values are."""
    holds = np.asarray(rule.holds)
    combinations = np.broadcast_to(np.arange(holds.size).reshape(holds.shape), broken.shape)[broken]
    distinct, first, which = np.unique(combinations, return_index=True, return_inverse=True)
    points = np.argwhere(broken)[first[:MAX_TEXTS]]
    texts = [
        infeasibility(next(rule for rule in rules(single(scenario, tuple(point))) if not rule.holds))
        for point in points
    ]
    texts += [infeasibility(rule)] * (len(distinct) - len(texts))
    return np.array(texts, dtype=object)[which]


def infeasibility(rule: Rule) -> str:
    """Return why a layout that breaks a rule is infeasible."""
    return f"{REASONS[BAD_LAYOUT]}: {rule.field}: {rule.message}"
