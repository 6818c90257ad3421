"""How a metric follows every number of the hardware, and what a tenth more of each is worth.

    elasticity = d ln(metric) / d ln(parameter), from a step of 1 % up and one down (of one, for counts)

Processors and clocks carry the peaks with them, so they vary in an evaluation of their own; all others share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic_core import PydanticCustomError

from costmodel.api import Workload
from costmodel.errors import InfeasibleError, InputError
from costmodel.quantities import Array
from costmodel.result import PHASES
from costmodel.schema.fields import NumberType
from costmodel.schema.quantity import SI, Whole
from costmodel.schema.references import suggest

SCHEMA = "costmodel/sensitivity@1"
STEP = 0.01  # of a parameter, each way: small against its kinks, large against rounding
BETTER = 0.1  # how much better a part is whose worth is asked
_COST = {"cost_per_trillion_tokens": 1.0, "cost_per_million_tokens": 1e6}  # metric -> its unit in a trillion tokens
_PACE = ("processors", "clock.tensor_reference", "clock.max")  # peaks and rates per processor follow these
_LESS_IS_BETTER = (
    "latency",
    "oversubscription",
    "same_leaf",
    "cross_leaf",
    "tdp",
    "idle",
    "rental",
    "purchase",
    "price",
)


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """One parameter: its value, the elasticity of the metric with its span, and what a tenth better saves.

    up, down: with the step up alone and down alone, which differ at a kink; low, high: the span of all three; better:
    the metric with the parameter a tenth better, and its 80 % interval; saved: dollars per trillion tokens, null where
    nothing has a price; tied: its span meets that of a neighbour in the ranking.
    """

    path: str
    value: float
    elasticity: float
    low: float
    high: float
    up: float | None
    down: float | None
    better: float | None
    better_interval: tuple[float, float] | None
    saved: float | None
    tied: bool = False

    def document(self) -> dict[str, Any]:
        """Return the row as JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def sensitivities(workload: Workload, scenario: str, metric: str) -> list[Sensitivity]:
    """Return the hardware parameters of a scenario that move a metric, the strongest first.

    Raises InputError on a metric that the scenario does not have, InfeasibleError where it cannot run.
    """
    _, names = PHASES[workload.scenario(scenario).result_kind]
    if metric not in names:
        raise InputError.single(f"scenario {scenario} has no metric {metric!r}", hint=suggest(metric, names))
    point = workload.evaluate(scenario)
    base = point.metrics[metric]
    if base is None:
        reason = point.point().reasons.get(metric) or "it cannot run"
        raise InfeasibleError(f"{metric} of {scenario} is not known: {reason}")
    parameters = list(_parameters(workload, scenario))
    sensitivities: list[Sensitivity] = []
    for together in (
        [one for one in parameters if not one[0].endswith(_PACE)],
        [one for one in parameters if one[0].endswith(_PACE)],
    ):
        sensitivities += _evaluated(workload, scenario, metric, together)
    moving = [one for one in sensitivities if one.elasticity or one.up or one.down or one.low or one.high]
    ranked = sorted(moving, key=lambda one: (-abs(one.elasticity), one.path))
    meets = [False, *(_meet(one, after) for one, after in pairwise(ranked)), False]
    return [replace(one, tied=before or behind) for one, (before, behind) in zip(ranked, pairwise(meets), strict=False)]


def _parameters(workload: Workload, scenario: str) -> Iterator[tuple[str, float, NumberType]]:
    """Yield (path, value, kind) of every positive number of a scenario's hardware."""
    resolved = workload.resolved
    for path, value in _leaves(resolved.document["scenarios"][scenario]["hardware"], "hardware"):
        if not isinstance(value, float) or not value > 0.0:
            continue
        full = f"scenarios.{scenario}.{path}"
        try:
            number = resolved.number(full)
        except InputError:
            continue
        if number is not None and not (isinstance(number, Whole) and (number.single or not path.endswith(_PACE))):
            yield full, value, number


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}")
    elif isinstance(tree, list):
        for at, item in enumerate(tree):
            yield from _leaves(item, f"{path}.{item.get('name', at) if isinstance(item, dict) else at}")
    else:
        yield path, tree


def _evaluated(
    workload: Workload, scenario: str, metric: str, parameters: Sequence[tuple[str, float, NumberType]]
) -> list[Sensitivity]:
    """Return the sensitivities of parameters in one evaluation: a base point, and three more for each."""
    if not parameters:
        return []
    steps = [_steps(*parameter) for parameter in parameters]
    columns = []
    for at, ((_, value, _), own) in enumerate(zip(parameters, steps, strict=True)):
        column = np.full(1 + 3 * len(parameters), value)
        column[1 + 3 * at : 4 + 3 * at] = own
        columns.append(column)
    result = workload.evaluate(scenario, vary={tuple(path for path, _, _ in parameters): tuple(columns)})
    size = len(columns[0])
    values, costs = _grid(result.metrics[metric], size), None
    for name, scale in _COST.items():
        if result.metrics.get(name) is not None:
            costs = scale * _grid(result.metrics[name], size)
    interval = result.interval(metric)
    ends = (values, values) if interval is None else tuple(_grid(end, size) for end in interval)
    sensitivities = []
    for at, ((path, value, _), own) in enumerate(zip(parameters, steps, strict=True)):
        rows = slice(1 + 3 * at, 4 + 3 * at)
        slopes = _slope(own, value, values[0], values[rows])
        known = [slope for slope in slopes if np.isfinite(slope)]
        better = _finite(float(values[rows][2]))
        low, high = (float(end[rows][2]) for end in ends)
        saved = None if costs is None else float(costs[0] - costs[rows][2])
        sensitivities.append(
            Sensitivity(
                path=path.removeprefix(f"scenarios.{scenario}."), value=value, elasticity=slopes[0],
                low=min(known, default=slopes[0]),
                high=max(known, default=slopes[0]), up=_finite(slopes[1]), down=_finite(slopes[2]), better=better,
                better_interval=None if better is None else (low, high),
                saved=None if saved is None else _finite(saved),
            )
        )  # fmt: skip
    return [one for one in sensitivities if np.isfinite(one.elasticity)]


def _grid(values: Any, size: int) -> Array:
    return np.broadcast_to(np.asarray(values, dtype=np.float64), (size,))


def _steps(path: str, value: float, number: NumberType) -> tuple[float, float, float]:
    """Return a parameter a step up, a step down, and a tenth better; as it is where its field allows no such value."""
    less = path.rpartition(".")[2] in _LESS_IS_BETTER
    better = value / (1 + BETTER) if less else value * (1 + BETTER)
    wanted = (
        (value + 1.0, value - 1.0, float(np.rint(better)))
        if isinstance(number, Whole)
        else (value * (1 + STEP), value * (1 - STEP), better)
    )
    up, down, tenth = (each if _allowed(number, each) else value for each in wanted)
    return up, down, tenth


def _allowed(number: NumberType, value: float) -> bool:
    try:
        number.check(SI(value))
    except PydanticCustomError:
        return False
    return True


def _slope(steps: tuple[float, float, float], value: float, base: float, moved: Array) -> tuple[float, float, float]:
    """Return the elasticity over both steps, up alone, and down alone; of one step where the other cannot run."""
    with np.errstate(all="ignore"):
        up = np.log(moved[0] / base) / np.log(steps[0] / value)
        down = np.log(moved[1] / base) / np.log(steps[1] / value)
        both = np.log(moved[0] / moved[1]) / np.log(steps[0] / steps[1])
    centre = both if np.isfinite(both) else (up if np.isfinite(up) else down)
    return _zero(centre), _zero(up), _zero(down)


def _zero(value: float) -> float:
    """Return an elasticity without what rounding leaves of none."""
    return 0.0 if abs(value) < 1e-9 else float(value)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _meet(one: Sensitivity, after: Sensitivity) -> bool:
    """Tell whether the spans of magnitudes of a row and of the one below it meet."""
    return min(abs(one.low), abs(one.high)) <= max(abs(after.low), abs(after.high))
