"""What adapters and preference training ask of a model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodel.quantities import is_single
from costmodel.workload.counting import has_linear_layer
from costmodel.workload.plans import Training
from costmodel.workload.rule import Rule, shown
from costmodel.workload.scenario import Scenario


def adapter_rules(scenario: Scenario, plan: Training) -> Iterator[Rule]:
    """Yield what adapters ask: layers that the model has, a rank below its width; and the reference of preferences."""
    if plan.reference == "base":
        has_base = plan.adapters is not None
        yield Rule(
            "preference.reference", has_base, "without adapters no base is kept", "write `reference: copy` or `none`"
        )
    if plan.adapters is None:
        return
    architecture, rank = scenario.architecture, plan.adapters.rank
    for target in plan.adapters.targets:
        yield Rule(
            "adapters.targets", has_linear_layer(architecture, target),
            f"{architecture.name} has no linear layer {target!r}",
            "write layers such as q, v, o, gate, up, down, or leave `targets` out for all linear layers",
        )  # fmt: skip
    yield Rule(
        "adapters.rank",
        np.less_equal(rank, architecture.hidden),
        f"a rank of {shown(rank)} is above the model's width",
        f"write at most {shown(architecture.hidden)}",
    )
    if not is_single(rank):
        yield Rule("adapters.rank", np.greater(rank, 0), "a sweep has ranks of at least 1", "ask for 0 by itself")
