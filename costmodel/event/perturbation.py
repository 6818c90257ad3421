"""Steps and passes with perturbed operator times, and simulated metrics scaled as the closed form's change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from costmodel.analytic.inference import PassModel, StageModel
from costmodel.analytic.intervals import LINEAR
from costmodel.analytic.operator_timing import TimedOperator, TimedWork
from costmodel.analytic.segments import Segment
from costmodel.analytic.stream_times import Perturbation, seconds_of
from costmodel.analytic.training.overlapped_comm import OverlappedComm
from costmodel.analytic.training.step_model import OptimizerStep, StageMessages, StepModel
from costmodel.quantities import Quantity
from costmodel.records import fields, is_record, replace
from costmodel.result import Metrics

_HOLDERS = (StepModel, StageMessages, TimedWork, OptimizerStep, OverlappedComm, PassModel, StageModel, Segment)
_Model = TypeVar("_Model", StepModel, PassModel)


def perturbed(model: _Model, perturbations: Mapping[str, Perturbation], position: int) -> _Model:
    """Return a step or a pass with the operator times of one position along the perturbations' leading axis."""
    at_position = {
        family: Perturbation(float(np.ravel(each.low)[position]), float(np.ravel(each.high)[position]))
        for family, each in perturbations.items()
    }
    known: dict[int, TimedOperator] = {}

    def retimed(timed: TimedOperator) -> TimedOperator:
        if id(timed) not in known:
            seconds = timed.time.seconds
            ratio = seconds_of(timed, at_position) / seconds if np.all(np.asarray(seconds) > 0) else 1.0
            known[id(timed)] = replace(timed, time=timed.time.scaled(ratio))
        return known[id(timed)]

    result: _Model = _mapped(model, retimed)
    return result


def _mapped(value: Any, retimed: Callable[[TimedOperator], TimedOperator]) -> Any:
    """Return what holds timed operators with each replaced."""
    if isinstance(value, TimedOperator):
        return retimed(value)
    if isinstance(value, tuple) and value and not hasattr(value, "_fields"):
        return tuple(_mapped(item, retimed) for item in value)
    if isinstance(value, Mapping):
        return {name: _mapped(item, retimed) for name, item in value.items()}
    if is_record(value) and isinstance(value, _HOLDERS):
        return replace(value, **{name: _mapped(getattr(value, name), retimed) for name in fields(value)})
    return value


def scaled_as_closed_form(point: Metrics, closed: Metrics, closed_perturbed: Metrics) -> Metrics:
    """Return a simulation's metrics changed by the ratio of the closed form's, `LINEAR` ones by the difference.

    Exact where both engines take the same time, as they do without jitter, contention and slowdowns.
    """
    return {name: _scaled(name, value, closed[name], closed_perturbed[name]) for name, value in point.items()}


def _scaled(name: str, point: Quantity | None, closed: Quantity | None, perturbed: Quantity | None) -> Quantity | None:
    if point is None or closed is None or perturbed is None:
        return perturbed
    if name in LINEAR:
        return perturbed + (point - closed)
    return perturbed * (point / closed) if np.all(np.asarray(closed) > 0) else perturbed


def stacked(runs: Sequence[Metrics]) -> Metrics:
    """Return the metrics of several runs along a leading axis, null where one of them has none."""
    return {
        name: None if any(run[name] is None for run in runs) else np.array([float(run[name] or 0.0) for run in runs])
        for name in runs[0]
    }
