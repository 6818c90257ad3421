"""What `explain --op cost` shows: the rent of a scenario's system, for the time of a million or a trillion tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costmodel.errors import InfeasibleError, InputError
from costmodel.report.explain_inputs import Inputs
from costmodel.study.prices import quotes

if TYPE_CHECKING:
    from costmodel.api import Workload

COSTS = ("cost_per_million_tokens", "cost_per_trillion_tokens")
NAMES = ("cost", "cost_rate", *COSTS, *(name.replace("_", " ") for name in ("cost_rate", *COSTS)))
FILE = "costmodel/cost/money.py"
EQUATION = """\
cost_rate                = rent of a device * devices
cost_per_million_tokens  = cost_rate * time of a million tokens             a trillion in training"""


def cost_inputs(workload: Workload, scenario: str) -> tuple[Inputs, float, tuple[str, ...]]:
    """Return what costs are made of, the seconds in which the tokens come, and where the prices are from.

    Raises InputError where the scenario has no cost, InfeasibleError where it cannot run.
    """
    point = workload.points([scenario])[scenario]
    if point.reason is not None:
        raise InfeasibleError(point.reason)
    name = next((name for name in COSTS if point.metrics.get(name) is not None), None)
    rate = point.metrics.get("cost_rate")
    if name is None or rate is None or point.offer is None:
        why = next((point.reasons[each] for each in ("cost_rate", *COSTS) if each in point.reasons), None)
        hint = why or "explain a scenario of training, prefill, decode, generate or serving"
        raise InputError.single(f"scenario {scenario} has no cost", hint=hint, field="--op")
    cost = point.metrics[name] or 0.0
    rents = quotes([point.offer.document()], "rental")
    inputs: Inputs = {
        name.replace("_", " "): (cost, "money"),
        "cost rate": (rate, "money_rate"),
        "rent of a device": (rate / point.devices, "money_rate"),
        "devices": (float(point.devices), "count"),
    }
    return inputs, cost / rate if rate else 0.0, tuple(f"rental price: {one}" for one in rents)
