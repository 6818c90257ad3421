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
from costmodel.study.published.predictions import predict
from costmodel.study.published.reproduce import load_cases
from costmodel.workload.framework_parts import HostTimes
from costmodel.workload.scenario import Scenario

STEP = 1e-3  # s: what the response is measured with
SOFT = 0.1  # of log(predicted / published), from where on an error counts less than its square


def main(arguments: Sequence[str] | None = None) -> None:
    """Print, for each engine, its time per step, and the errors before and after."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.host_time", description=main.__doc__)
    parser.add_argument("frameworks", nargs="+", help="names of frameworks whose cases are fitted")
    for name in parser.parse_args(arguments).frameworks:
        rows = np.array(list(_rows(name)))
        if not len(rows):
            raise CostModelError(f"no published run of inference names the framework {name}")
        step = fit(rows)
        before, after = (np.abs(np.log(rows[:, 1:] @ [1.0, x] / rows[:, 0])) for x in (0.0, step))
        sys.stdout.write(
            f"{name}: {len(rows)} runs, step {step * 1e3:.3g} ms; mean |log error| {before.mean():.3f} without, "
            f"{after.mean():.3f} with\n"
        )


def fit(rows: Array) -> float:
    """Return the seconds per step with the least robust squares of log(predicted / published).

    rows: published time [s], predicted without host time [s], steps. A time is linear in the term, which is not
    negative.
    """
    published, base, steps = rows.T

    def gaps(x: Array) -> Array:
        gap: Array = np.log((base + x[0] * STEP * steps) / published)
        return gap

    return float(least_squares(gaps, [0.1], bounds=(0.0, np.inf), loss="soft_l1", f_scale=SOFT).x[0] * STEP)


def _rows(framework: str) -> Iterator[tuple[float, float, float]]:
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
        none, step = (_latency(scenario, calibration, HostTimes(step=seconds)) for seconds in (0.0, STEP))
        yield wanted[0], none, (step - none) / STEP


def _latency(scenario: Scenario, calibration: Calibration, host: HostTimes) -> float:
    """Return the time of a whole run with some times of the host."""
    changed = replace(scenario, framework=replace(scenario.framework, host=host))
    latency = evaluate(changed, calibration).metrics(None)["latency"]
    assert isinstance(latency, float), "one run that generates tokens has one time"
    return latency


if __name__ == "__main__":
    main()
