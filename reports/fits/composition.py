"""How measured times of whole published runs scatter about predicted ones: `hardware/calibrations/composition.yaml`.

python -m reports.fits.composition --output hardware/calibrations/composition.yaml
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from costmodel import units
from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.intervals import RATES, TIMES, deviations
from costmodel.errors import CostModelError
from costmodel.quantities import Array
from costmodel.schema.case import Case
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.study.predictions import going_with, predict
from costmodel.study.reproduce import load_cases
from costmodel.study.weights import weights_of

CLASSES = ("training", "inference", "serving")
OUTSIDE = 0.1  # of the weight of all rows, on each side of an interval


@dataclass(frozen=True, slots=True)
class Row:
    """A published time or rate of a whole run. All logs, of times.

    late: measured over predicted time; centre, down, up: what the kernels of the run move it by, and their interval.
    """

    case_class: str
    publication: str
    late: float
    centre: float
    down: float
    up: float


def rows_of(cases: Iterable[Case], library: Library) -> Iterator[Row]:
    """Yield a row for each value of a whole run that is scored; nothing for what cannot be computed."""
    for case in cases:
        if case.skip is None and case.scenario is not None and case.case_class in CLASSES:
            try:
                yield from _rows(case, library)
            except CostModelError:  # `reproduce` says so
                continue


def _rows(case: Case, library: Library) -> Iterator[Row]:
    prediction = predict(case, library.roots, library)
    if prediction.workload is None or prediction.infeasible or not case.expect:
        return
    scenario = prediction.scenario
    evaluation = evaluate(scenario, prediction.workload.calibration(scenario))
    kernels = deviations(evaluation.metrics(None), evaluation.families(), evaluation.metrics)
    for expected in case.expect:
        metric = going_with(expected.metric)
        value = prediction.value(expected.metric, case.conventions).value
        if expected.check == "value" and isinstance(expected.value, float) and value and metric in kernels:
            late, (centre, down, up) = math.log(expected.value / value), kernels[metric]
            if metric in TIMES:
                yield Row(str(case.case_class), case.publication, late, centre, down, up)
            elif metric in RATES:
                yield Row(str(case.case_class), case.publication, -late, -centre, up, down)


def spread(rows: Sequence[Row]) -> tuple[float, float, float]:
    """Return low, median and high of what whole runs add to the intervals of their kernels, as ratios, to three digits.

    m = weighted median of (late - centre); with x = late - centre - m

        high = exp(m + U):  the weight of rows with  x >  sqrt(up^2 + U^2)    is OUTSIDE
        low  = exp(m - D):                           x < -sqrt(down^2 + D^2)  is OUTSIDE
    """
    weights = weights_of([row.publication for row in rows], [-row.late for row in rows])
    late, down, up = (np.array([getattr(row, name) for row in rows]) for name in ("late", "down", "up"))
    beside = late - np.array([row.centre for row in rows])
    median = _point(beside, weights, 0.5)
    beyond = beside - median
    above = _point(_left(np.maximum(beyond, 0.0), up), weights, 1.0 - OUTSIDE)
    below = _point(_left(np.maximum(-beyond, 0.0), down), weights, 1.0 - OUTSIDE)
    low, middle, high = (float(f"{math.exp(each):.3g}") for each in (median - below, median, median + above))
    return low, middle, high


def _left(distances: Array, stated: Array) -> Array:
    """Return what has to be added to a stated deviation, in quadrature, to reach a distance."""
    left: Array = np.sqrt(np.maximum(distances**2 - stated**2, 0.0))
    return left


def _point(values: Array, weights: Array, share: float) -> float:
    """Return the value below which a share of the weight lies."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) - weights[order] / 2
    return float(np.interp(share * weights.sum(), reached, values[order]))


def render(rows: Iterable[Row]) -> str:
    """Return the text of the calibration file."""
    every = list(rows)
    lines = [
        "schema: costmodel/calibration@1",
        "name: composition",
        "device: null",
        "basis: fitted",
        "families:                                        # measured over predicted times of whole runs",
    ]
    for name in CLASSES:
        found = [row for row in every if row.case_class == name]
        if not found:
            continue
        low, median, high = spread(found)
        publications = len({row.publication for row in found})
        lines += [
            f"  composition_{name}:",
            f"    spread: [{{time: {units.render(1.0, 'time')}, low: {low:g}, median: {median:g}, high: {high:g}, "
            f"rows: {len(found)}}}]",
            f"    rows: {len(found)}",
            f'    note: "{len(found)} figures of {publications} publications"',
        ]
    lines += [
        "sources:",
        "  - fields: [families]",
        '    cite: "the published cases of the catalogue: workloads/published"',
        "    kind: derived",
        "    note: >-",
        "      What whole runs add to the intervals of their kernels, so that 80 % lie inside. Made by",
        "      `python -m reports.fits.composition --output hardware/calibrations/composition.yaml`.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare all published cases; write the calibration file."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.composition", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="calibration file to write")
    chosen = parser.parse_args(arguments)
    text = render(rows_of(load_cases([])[0], Library()))
    write_whole(chosen.output, [text.encode("utf-8")])
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
