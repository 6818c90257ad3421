"""Whose kernels make the intervals of given workloads wide: what a measurement sharpens the most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.intervals import RATES, TIMES, deviations

if TYPE_CHECKING:
    from costmodel.api import Workload


def half_widths_by_family(workloads: Sequence[Workload]) -> dict[str, float]:
    """Return half of the 80 % interval that each operator family alone gives the time of a scenario [log].

        h_f = max over scenarios and their times and rates of (down_f + up_f) / 2

    Of several scenarios the largest. A family that none of them runs is not there.
    """
    widths: dict[str, float] = {}
    for workload in workloads:
        for name in workload.scenarios:
            scenario = workload.scenario(name)
            evaluation = evaluate(scenario, workload.calibration(scenario))
            point = {each: value for each, value in evaluation.metrics(None).items() if each in TIMES | RATES}
            for family in evaluation.families():
                spans = deviations(point, [family], evaluation.metrics).values()
                half = max(((down + up) / 2.0 for _, down, up in spans), default=0.0)
                widths[family] = max(widths.get(family, 0.0), half)
    return widths
