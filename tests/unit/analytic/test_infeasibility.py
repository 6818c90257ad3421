"""Why a layout of a grid cannot be: the rule that `simulate` would name, with the numbers of the point."""

from __future__ import annotations

import numpy as np
import pytest
from builders import DECODE, DENSE_MODEL, MOE_MODEL, ONE_NODE, STEP, scenario

from costmodel.analytic import blocks as module
from costmodel.analytic.blocks import infeasibilities, single, take
from costmodel.result import reason_kind
from costmodel.workload.scenario import Parallelism, Scenario
from costmodel.workload.validity import feasible_layout, rules

TP = np.array([1.0, 2.0, 3.0, 8.0, 16.0]).reshape(5, 1, 1)
DP = np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
EP = np.array([1.0, 4.0]).reshape(1, 1, 2)
SHAPE = (5, 3, 2)
GRIDS: dict[str, Scenario] = {
    "step": scenario(STEP, MOE_MODEL, Parallelism(tp=TP, dp=DP, ep=EP)),
    "decode": scenario(DECODE, MOE_MODEL, Parallelism(tp=TP, dp=DP, ep=EP)),
    "small cluster": scenario(STEP, DENSE_MODEL, Parallelism(tp=TP, dp=DP, ep=EP), cluster=ONE_NODE),
}


@pytest.mark.parametrize("name", list(GRIDS))
def test_each_point_names_the_rule_that_it_breaks_alone_with_its_numbers(name: str) -> None:
    of = GRIDS[name]
    told, holds = infeasibilities(of, SHAPE), np.broadcast_to(feasible_layout(of), SHAPE)
    assert not holds.all()
    for index in np.ndindex(SHAPE):
        broken = [rule for rule in rules(single(of, index)) if not rule.holds]
        assert holds[index] == (told[index] == "") == (not broken)
        if broken:
            assert told[index] == f"no such layout: {broken[0].field}: {broken[0].message}"
            assert reason_kind(told[index]) == "no such layout"


def test_rules_that_too_many_points_break_are_told_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEXTS", 1)
    of = scenario(DECODE, DENSE_MODEL, Parallelism(tp=np.array([3.0, 5.0, 7.0])))
    first, *others = infeasibilities(of, (3,)).tolist()
    assert "parallel.tp: 3 does not divide the attention heads" in first
    assert set(others) == {first.replace(": 3 does", ": one of its values does")}


def test_positions_in_another_order_are_taken_in_it() -> None:
    """All of them too: a search of servers takes its layouts by their devices."""
    values, turned = np.array([3.0, 1.0, 2.0]), np.array([1, 2, 0])
    assert take(values, (turned,), (3,)).tolist() == [1.0, 2.0, 3.0]
