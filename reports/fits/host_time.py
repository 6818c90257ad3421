"""Fits what the host adds to the steps of an engine to the published runs of that engine.

python -m reports.fits.host_time vllm-2024 trt-llm-2024

Prints the values; they are a person's to take over into the framework's file, with what they rest on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import least_squares

from costmodel.analytic.evaluation import evaluate
from costmodel.cost.calibration import Calibration
from costmodel.errors import CostModelError
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.schema.case import resolve_case
from costmodel.schema.references import Library
from costmodel.study.predictions import predict
from costmodel.study.reproduce import load_cases
from costmodel.workload.scenario import HostTimes, Scenario

STEP, SEQUENCE = 1e-3, 1e-4  # s: what the response to a term is measured with
SOFT = 0.1  # of log(predicted / published), from where on an error counts less than its square


def main(arguments: Sequence[str] | None = None) -> None:
    """Print, for each engine, its time per step and per sequence of a step, and the errors before and after."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.host_time", description=main.__doc__)
    parser.add_argument("frameworks", nargs="+", help="names of frameworks whose cases are fitted")
    for name in parser.parse_args(arguments).frameworks:
        rows = np.array(list(_rows(name)))
        if not len(rows):
            raise CostModelError(f"no published run of inference names the framework {name}")
        step, sequence = fit(rows)
        before, after = (np.abs(np.log(rows[:, 1:] @ [1.0, *x] / rows[:, 0])) for x in ((0.0, 0.0), (step, sequence)))
        sys.stdout.write(
            f"{name}: {len(rows)} runs, step {step * 1e3:.3g} ms, sequence {sequence * 1e6:.3g} us; "
            f"mean |log error| {before.mean():.3f} without, {after.mean():.3f} with\n"
        )


def fit(rows: Array) -> tuple[float, float]:
    """Return the seconds per step and per sequence with the least robust squares of log(predicted / published).

    rows: published time [s], predicted without host time [s], steps, and sequences of all steps: a time is linear in
    both terms, which are not negative.
    """
    published, base, steps, sequences = rows.T

    def gaps(x: Array) -> Array:
        gap: Array = np.log((base + x[0] * STEP * steps + x[1] * SEQUENCE * sequences) / published)
        return gap

    found = least_squares(gaps, [0.1, 0.1], bounds=(0.0, np.inf), loss="soft_l1", f_scale=SOFT).x
    return float(found[0] * STEP), float(found[1] * SEQUENCE)


def _rows(framework: str) -> Iterator[tuple[float, float, float, float]]:
    """Yield the rows of `fit`: of runs whose whole time is published."""
    library = Library()
    for case in load_cases([], classes=["inference"])[0]:
        if case.scenario is None or case.skip is not None or not case.source.verified:
            continue
        scenarios = resolve_case(case, library=library).scenarios.values()
        if all(scenario.framework.name != framework for scenario in scenarios):
            continue
        prediction = predict(case, library.roots, library)
        wanted = [one.value for one in case.expect if one.metric == "latency" and isinstance(one.value, float)]
        if prediction.workload is None or prediction.infeasible or not wanted:
            continue
        scenario, calibration = prediction.scenario, prediction.workload.calibration(prediction.scenario)
        none, step, sequence = (
            _latency(scenario, calibration, HostTimes(step=of_step, sequence=of_sequence))
            for of_step, of_sequence in ((0.0, 0.0), (STEP, 0.0), (0.0, SEQUENCE))
        )
        yield wanted[0], none, (step - none) / STEP, (sequence - none) / SEQUENCE


def _latency(scenario: Scenario, calibration: Calibration, host: HostTimes) -> float:
    """Return the time of a whole run with some times of the host."""
    changed = replace(scenario, framework=replace(scenario.framework, host=host))
    latency = evaluate(changed, calibration).metrics(None)["latency"]
    assert isinstance(latency, float), "one run that generates tokens has one time"
    return latency


if __name__ == "__main__":
    main()
