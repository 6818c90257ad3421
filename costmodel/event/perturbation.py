"""Priced passes and steps with families of operators moved within their spread, and metrics that are moved alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

from costmodel.analytic.inference import PassModel, StageModel
from costmodel.analytic.intervals import LINEAR
from costmodel.analytic.operator_timing import TimedOperator, TimedWork
from costmodel.analytic.overlapped_comm import OverlappedComm
from costmodel.analytic.segments import Segment
from costmodel.analytic.stream_times import Perturbation, seconds_of
from costmodel.analytic.training import OptimizerStep, StepModel
from costmodel.quantities import Quantity
from costmodel.result import Metrics

_HOLDERS = (StepModel, TimedWork, OptimizerStep, OverlappedComm, PassModel, StageModel, Segment)
_Whole = TypeVar("_Whole", StepModel, PassModel)


def perturbed(whole: _Whole, moves: Mapping[str, Perturbation], position: int) -> _Whole:
    """Return a step or a pass whose operators take the times of one position along the leading axis of the moves."""
    one = {
        family: Perturbation(float(np.ravel(move.low)[position]), float(np.ravel(move.high)[position]))
        for family, move in moves.items()
    }
    known: dict[int, TimedOperator] = {}

    def again(priced: TimedOperator) -> TimedOperator:
        if id(priced) not in known:
            seconds = priced.time.seconds
            ratio = seconds_of(priced, one) / seconds if np.all(np.asarray(seconds) > 0) else 1.0
            known[id(priced)] = replace(priced, time=priced.time.scaled(ratio))
        return known[id(priced)]

    found: _Whole = _mapped(whole, again)
    return found


def _mapped(value: Any, again: Callable[[TimedOperator], TimedOperator]) -> Any:
    """Return what holds priced operators with each replaced."""
    if isinstance(value, TimedOperator):
        return again(value)
    if isinstance(value, tuple) and value and not hasattr(value, "_fields"):
        return tuple(_mapped(each, again) for each in value)
    if isinstance(value, Mapping):
        return {name: _mapped(each, again) for name, each in value.items()}
    if is_dataclass(value) and isinstance(value, _HOLDERS):
        return replace(value, **{field.name: _mapped(getattr(value, field.name), again) for field in fields(value)})
    return value


def moved_alike(point: Metrics, closed: Metrics, closed_moved: Metrics) -> Metrics:
    """Return a simulation's metrics moved as far as the closed form's: by the same ratio, `LINEAR` ones by as much.

    Exact where both engines take the same time, as they do without jitter, contention and disturbances.
    """
    return {name: _alike(name, value, closed[name], closed_moved[name]) for name, value in point.items()}


def _alike(name: str, point: Quantity | None, closed: Quantity | None, there: Quantity | None) -> Quantity | None:
    if point is None or closed is None or there is None:
        return there
    if name in LINEAR:
        return there + (point - closed)
    return there * (point / closed) if np.all(np.asarray(closed) > 0) else there


def stacked(each: list[Metrics]) -> Metrics:
    """Return the metrics of several runs along a leading axis; null where one of them has none."""
    return {
        name: None if any(one[name] is None for one in each) else np.array([float(one[name] or 0.0) for one in each])
        for name in each[0]
    }
