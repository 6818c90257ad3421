"""Whether an objective of times may be meant as it is written: next to what is predicted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from costmodel.records import asdict
from costmodel.units import render
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Scenario

METRICS = {"ttft": "ttft", "tpot": "tpot", "e2e": "latency"}  # key of an objective -> mean that it limits
TIGHT, LOOSE, PREFIX = 20.0, 300.0, 1e3  # so many times below and above what is predicted; from ms to s


def notes_of_slo(scenario: Scenario, metrics: Mapping[str, float | None]) -> Iterator[str]:
    """Yield which limits no request can keep or every request keeps by far, with what was probably meant."""
    plan = scenario.plan
    slo = plan.slo if isinstance(plan, Serving) else None
    for key, limit in asdict(slo).items() if slo is not None else ():
        value = metrics.get(METRICS[key])
        if not limit or not value or not math.isfinite(value):
            continue
        said = f"slo.{key} of {_shown(limit)} is {limit / value:.2g} times the predicted {_shown(value)}"
        if limit * TIGHT < value:
            yield f"{said}: no request keeps it; did you mean {_shown(limit * PREFIX)}?"
        elif limit > LOOSE * value:
            yield f"{said}: it limits nothing; did you mean {_shown(limit / PREFIX)}?"


def _shown(time: float) -> str:
    return render(float(f"{time:.3g}"), "duration")
