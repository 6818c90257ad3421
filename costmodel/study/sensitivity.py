"""How a metric follows every number of the hardware, and what a tenth more of each is worth.

    change     = metric with a tenth more (less) of the parameter / metric - 1, by evaluation; counts stay whole
    elasticity = d ln(metric) / d ln(parameter), from a step of 1 % up and one down (a tenth, for counts)

Processors and clocks carry the peaks with them, so they vary in an evaluation of their own. All others share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from costmodel.api import Workload
from costmodel.declared import SI, Whole, Wrong
from costmodel.errors import InfeasibleError, InputError, suggest
from costmodel.quantities import Array
from costmodel.records import Record, fields, replace
from costmodel.result import PHASES
from costmodel.schema.strict import NumberType

SCHEMA = "costmodel/sensitivity@1"
STEP = 0.01  # of a parameter, each way: small against its kinks, large against rounding
KINK = 0.25  # of a slope, by which the other one differs: what is smooth differs by a few times STEP
BETTER = 0.1  # how much better a part is whose worth is asked, and how much more or less of it a chip could have
_COST = {"cost_per_trillion_tokens": 1.0, "cost_per_million_tokens": 1e6}  # metric -> its unit in a trillion tokens
CARRY = ("processors", "clock.tensor_reference", "clock.max")  # peaks and rates per processor follow these
_LESS_IS_BETTER = (
    "latency",
    "oversubscription",
    "same_leaf",
    "cross_leaf",
    "idle",
    "rental",
    "purchase",
    "price",
)


class Sensitivity(Record):
    """One parameter: its value, how the metric changes with it, and what a tenth better saves.

    up, down: elasticity with the step up alone and down alone, which differ at a kink.
    low, high: the span of all three.
    better: the metric with the parameter a tenth better, and its 80 % interval.
    saved: dollars per trillion tokens, null where nothing has a price.
    more, less: change of the metric with a tenth more and less of the parameter, a share of it, null where it cannot
    run so.
    values: of the parameter less and more.
    tied: a part a tenth worse ranks it otherwise against a neighbour in the ranking.
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
    more: float | None = None
    less: float | None = None
    values: tuple[float, float] | None = None
    tied: bool = False

    @property
    def if_better(self) -> float | None:
        """Return the change with a part that is a tenth better, a share of the metric."""
        return self.less if _is_less_better(self.path) else self.more

    @property
    def if_worse(self) -> float | None:
        """Return the change with a part that is a tenth worse, a share of the metric."""
        return self.more if _is_less_better(self.path) else self.less

    @property
    def gain(self) -> float:
        """Return the size of the change with a better part, what parameters are ranked by."""
        return abs(self.if_better or 0.0)

    @property
    def loss(self) -> float:
        """Return the size of the change with a worse part."""
        return abs(self.if_worse or 0.0)

    @property
    def is_kinked(self) -> bool:
        """Tell whether a step up and a step down have different slopes, as where another resource binds."""
        if self.up is None or self.down is None:
            return False
        return abs(self.up - self.down) > KINK * max(abs(self.up), abs(self.down))

    def document(self) -> dict[str, Any]:
        """Return the row as JSON."""
        return {name: getattr(self, name) for name in fields(self)}


def sensitivities(workload: Workload, scenario: str, metric: str) -> list[Sensitivity]:
    """Return the hardware parameters of a scenario that move a metric, those first whose better part moves it most.

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
        [one for one in parameters if not one[0].endswith(CARRY)],
        [one for one in parameters if one[0].endswith(CARRY)],
    ):
        sensitivities += _evaluated(workload, scenario, metric, together)
    moving = [
        one for one in sensitivities
        if one.elasticity or one.up or one.down or one.low or one.high or one.gain or one.loss
    ]  # fmt: skip
    ranked = sorted(moving, key=lambda one: (-one.gain, -one.loss, one.path))
    meets = [False, *(after.loss > one.loss for one, after in pairwise(ranked)), False]
    return [replace(one, tied=before or behind) for one, (before, behind) in zip(ranked, pairwise(meets), strict=False)]


def _parameters(workload: Workload, scenario: str) -> Iterator[tuple[str, float, NumberType]]:
    resolved = workload.resolved
    for path, value in _leaves(resolved.document["scenarios"][scenario]["hardware"], "hardware"):
        if not isinstance(value, float) or not value > 0.0:
            continue
        full = f"scenarios.{scenario}.{path}"
        try:
            number = resolved.number(full)
        except InputError:
            continue
        if number is not None and not (isinstance(number, Whole) and (number.single or not path.endswith(CARRY))):
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
    """Return the sensitivities of parameters in one evaluation: a base point, and `_Steps` of each."""
    if not parameters:
        return []
    steps = [_steps(*parameter) for parameter in parameters]
    places = [slice(1 + at, 1 + at + len(_Steps._fields)) for at in range(0, sum(map(len, steps)), len(_Steps._fields))]
    columns = []
    for index, (_, value, _), own in zip(places, parameters, steps, strict=True):
        column = np.full(places[-1].stop, value)
        column[index] = own
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
    for rows, (path, value, _), own in zip(places, parameters, steps, strict=True):
        moved = _Steps(*values[rows].tolist())
        slopes = _slope(own, value, float(values[0]), moved)
        known = [slope for slope in slopes if np.isfinite(slope)]
        better = _finite(moved.better)
        low, high = (_Steps(*end[rows].tolist()).better for end in ends)
        saved = None if costs is None else float(costs[0]) - _Steps(*costs[rows].tolist()).better
        sensitivities.append(
            Sensitivity(
                path=path.removeprefix(f"scenarios.{scenario}."), value=value, elasticity=slopes[0],
                low=min(known, default=slopes[0]),
                high=max(known, default=slopes[0]), up=_finite(slopes[1]), down=_finite(slopes[2]), better=better,
                better_interval=None if better is None else (low, high),
                saved=None if saved is None else _finite(saved),
                more=_finite(_zero(moved.more / values[0] - 1.0)), less=_finite(_zero(moved.less / values[0] - 1.0)),
                values=(own.less, own.more),
            )
        )  # fmt: skip
    return [one for one in sensitivities if np.isfinite(one.elasticity)]


def _grid(values: Any, size: int) -> Array:
    return np.broadcast_to(np.asarray(values, dtype=np.float64), (size,))


class _Steps(NamedTuple):
    """A parameter a step up and a step down, a tenth better, a tenth more and a tenth less. Or the metric there."""

    up: float
    down: float
    better: float
    more: float
    less: float


def _steps(path: str, value: float, number: NumberType) -> _Steps:
    """Return the values of a parameter that are tried. As it is where its field allows no such value."""
    more, less = value * (1 + BETTER), value * (1 - BETTER)
    better = value / (1 + BETTER) if _is_less_better(path) else more
    wanted = (value * (1 + STEP), value * (1 - STEP), better, more, less)
    if isinstance(number, Whole):  # one of a few is no slope: by a wave of tiles more or none
        more, less = max(float(np.rint(more)), value + 1.0), min(float(np.rint(less)), value - 1.0)
        wanted = (more, less, less if _is_less_better(path) else more, more, less)
    return _Steps(*(each if _allowed(number, each) else value for each in wanted))


def _is_less_better(path: str) -> bool:
    """Tell whether a better part has less of a parameter."""
    return path.rpartition(".")[2] in _LESS_IS_BETTER


def _allowed(number: NumberType, value: float) -> bool:
    try:
        number.check(SI(value))
    except Wrong:
        return False
    return True


def _slope(steps: _Steps, value: float, base: float, moved: _Steps) -> tuple[float, float, float]:
    """Return the elasticity over both steps, up alone, and down alone. Of one step where the other cannot run."""
    with np.errstate(all="ignore"):
        up = np.log(moved.up / base) / np.log(steps.up / value)
        down = np.log(moved.down / base) / np.log(steps.down / value)
        both = np.log(moved.up / moved.down) / np.log(steps.up / steps.down)
    centre = both if np.isfinite(both) else (up if np.isfinite(up) else down)
    return _zero(centre), _zero(up), _zero(down)


def _zero(value: float) -> float:
    return 0.0 if abs(value) < 1e-9 else float(value)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
