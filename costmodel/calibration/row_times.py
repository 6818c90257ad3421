"""The time of rows of a measurement table by fits that are chosen, with its interval."""

from __future__ import annotations

import numpy as np

from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.operator_time import likely_time, operator_time
from costmodel.cost.physical_bound import least_time
from costmodel.cost.spread import Spread
from costmodel.measurements.row_group import OperatorRows
from costmodel.quantities import Array, hypot
from costmodel.records import Record
from costmodel.workload.scenario import Framework


class Choice(Record):
    """The fits that answer for a row, and why these; across: how far other sources' times of such kernels differ.

    None where the row comes from the sources that the fit was made from.
    """

    calibration: Calibration
    why: str
    across: Spread | None = None


def variant_of(part: OperatorRows) -> str:
    """Return the variant of the operator that a row is named after."""
    return part.named.variant


def times_of(part: OperatorRows, choice: Choice, framework: Framework) -> tuple[Array, Array, Array]:
    """Return predicted times and their intervals [s].

    The errors of one family's kernels in a row are the same, those of different families independent, as is how far the
    row's source may differ from that of the fit.
    """
    machine = part.machine(framework)
    total, downs, ups, least = (np.zeros(part.rows.shape) for _ in range(4))
    by_family: dict[str, list[Array]] = {}
    for operator in part.operators:
        fit = choice.calibration.fit(operator)
        timed = operator_time(operator, machine, part.cluster, fit)
        time = np.broadcast_to(timed.seconds, part.rows.shape)
        middle = np.broadcast_to(likely_time(operator, machine, part.cluster, fit), part.rows.shape)
        spans = by_family.setdefault(operator.family, [np.zeros(part.rows.shape) for _ in range(2)])
        width, more = fit.width(operator), hypot(fit.unseen_half_width(operator), fit.added_half_width(timed))
        below = width * np.maximum(middle - time * _ratio(fit, time, 1.0, 0.0), 0.0)
        above = width * np.maximum(time * _ratio(fit, time, 0.0, 1.0) - middle, 0.0)
        spans[0] += np.hypot(below, -middle * np.expm1(-more))
        spans[1] += np.hypot(above, middle * np.expm1(more))
        total += middle
        least += least_time(operator, machine) if fit.form is not None else 0.0
    total = np.maximum(total - part.fused * framework.launch, framework.launch)
    for down, up in by_family.values():
        downs, ups = np.hypot(downs, down), np.hypot(ups, up)
    if choice.across is not None:  # the row's source is not the one of the fit
        downs = np.hypot(downs, total * (1.0 - np.asarray(choice.across.ratio(total, 1.0, 0.0))))
        ups = np.hypot(ups, total * (np.asarray(choice.across.ratio(total, 0.0, 1.0)) - 1.0))
    return total, np.maximum(total - downs, np.minimum(least, total)), total + ups


def _ratio(fit: FamilyFit, seconds: Array, low: float, high: float) -> Array:
    ratio: Array = np.asarray(fit.spread.ratio(seconds, low, high), dtype=np.float64)
    return ratio
