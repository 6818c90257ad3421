"""A sweep: the product of numeric axes, evaluated as one grid for each scenario, kept as one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from costmodel import __version__
from costmodel.api import Workload
from costmodel.errors import InputError
from costmodel.quantities import Array
from costmodel.result import FITS, PHASES, REASONS, Result
from costmodel.schema.fields import NumberType
from costmodel.schema.metrics import unit_of
from costmodel.schema.overrides import locate
from costmodel.study.axes import MOST_POINTS, Axis, Request, read_axis, read_requests

SCHEMA = "costmodel/sweep@1"
INTERVAL = ("low", "high")

Told: TypeAlias = "Callable[[float], None]"  # called with the share of the work that is done


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """What is asked: axes, the scenarios that have them all, and why others are left out."""

    workload: Workload
    axes: tuple[Axis, ...]
    scenarios: tuple[str, ...]
    left_out: Mapping[str, str]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the grid of one scenario, a dimension for each axis."""
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def points(self) -> int:
        """Return the points of all scenarios."""
        return len(self.scenarios) * math.prod(self.shape)

    def phase(self, scenario: str) -> str:
        """Return the phase of a scenario."""
        return self.workload.scenario(scenario).plan.phase

    @property
    def metrics(self) -> list[str]:
        """Return the metrics of all scenarios, each once."""
        return list(dict.fromkeys(name for each in self.scenarios for name in PHASES[self.phase(each)][1]))

    @property
    def headlines(self) -> list[str]:
        """Return the headline metrics of all scenarios, each once: those whose intervals are kept."""
        return list(dict.fromkeys(PHASES[self.phase(each)][0] for each in self.scenarios))

    def columns(self) -> dict[str, str | None]:
        """Return the columns of the table with their units, null for text."""
        metrics = {name: unit_of(name) for name in self.metrics}
        ends = {f"{name}_{end}": metrics[name] for name in self.headlines for end in INTERVAL}
        axes = {axis.path: axis.unit for axis in self.axes}
        return {"scenario": None, **axes, **metrics, **ends, "fits": None, "reason": None}

    def document(self) -> dict[str, Any]:
        """Return what is asked as the documented JSON object: the same question gives the same document."""
        scenarios = {
            name: {
                "phase": self.phase(name), "headline": PHASES[self.phase(name)][0],
                "notes": list(self.workload.scenario(name).notes),
            }
            for name in self.scenarios
        }  # fmt: skip
        axes = [
            {"path": axis.path, "dimension": axis.dimension, "unit": axis.unit, "values": axis.plain()}
            for axis in self.axes
        ]
        return {
            "schema": SCHEMA, "version": __version__, "engine": "analytic", **self.workload.asked(), "axes": axes,
            "scenarios": scenarios, "left_out": dict(self.left_out), "points": self.points, "columns": self.columns(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Swept:
    """One scenario's grid. low, high: ends of the 80 % interval of its headline metric; all in the sweep's shape."""

    scenario: str
    headline: str
    result: Result
    low: Array
    high: Array

    @property
    def times(self) -> Array:
        """Return the headline metric, NaN where a point cannot run."""
        return np.asarray(self.result.metrics[self.headline], dtype=np.float64)


def plan_sweep(workload: Workload, varied: Sequence[str], *, every: bool = False) -> Sweep:
    """Return the sweep that `--vary` arguments ask for.

    Scenarios without one of the paths are left out; with `every` they are an error. Raises InputError on bad arguments,
    a path that no scenario has, a path that is set as well, and on too many points.
    """
    requests = read_requests(tuple(varied))
    numbers: dict[str, NumberType | None] = {}
    missing: dict[str, InputError] = {}
    left_out: dict[str, InputError] = {}
    for scenario in workload.scenarios:
        for request in requests:
            try:
                numbers[request.path] = _number(workload, request, scenario)
            except InputError as error:
                missing.setdefault(request.path, error)
                left_out.setdefault(scenario, error)
    for request in requests:
        if request.path not in numbers:
            raise missing[request.path]
    scenarios = tuple(name for name in workload.scenarios if name not in left_out)
    if left_out and every:
        raise next(iter(left_out.values()))
    if not scenarios:
        raise InputError.single("no scenario has all of these paths", hint="sweep them one by one", field="--vary")
    _check_places(workload, requests, scenarios)
    axes = tuple(read_axis(request, numbers[request.path]) for request in requests)
    reasons = {name: f"{error.problems[0].field}: {error.problems[0].message}" for name, error in left_out.items()}
    sweep = Sweep(workload, axes, scenarios, reasons)
    if sweep.points > MOST_POINTS:
        raise InputError.single(
            f"{' x '.join(map(str, sweep.shape))} values of {len(scenarios)} scenario(s) are {sweep.points:,} points, "
            f"{MOST_POINTS:,} are the most",
            hint="write coarser ranges, name one --scenario, or sweep a part at a time", field="--vary",
        )  # fmt: skip
    return sweep


def _number(workload: Workload, request: Request, scenario: str) -> NumberType | None:
    """Return what kind of number a scenario has at a path; raise InputError where it has no such path."""
    path, head = request.path, f"scenarios.{scenario}."
    try:
        if path.startswith("scenarios.") and not path.startswith(head):
            workload.resolved.value(path)  # a misspelt scenario is told as such
            raise InputError.single(f"is not a field of scenario {scenario}", hint="name its own, or leave it out")
        return workload.resolved.number(f"{head}{path}" if path.startswith("hardware.") else path)
    except InputError as error:
        problems = [replace(problem, field=path, location=request.label) for problem in error.problems]
        raise InputError(problems) from None


def _check_places(workload: Workload, requests: Sequence[Request], scenarios: Sequence[str]) -> None:
    """Raise InputError where two axes, or an axis and a change, mean the same field."""
    names = list(workload.resolved.scenarios)
    for scenario in scenarios:
        taken = {_place(path, names, scenario): f"--set {path}" for path in workload.asked()["changes"]}
        for request in requests:
            place = _place(request.path, names, scenario)
            if place in taken:
                raise InputError.single(
                    f"stands for the same field as {taken[place]}", hint="keep one of them", field=request.path,
                    location=request.label,
                )  # fmt: skip
            taken[place] = f"--vary {request.path}"


def _place(path: str, names: Sequence[str], scenario: str) -> tuple[str, tuple[str, ...]] | None:
    """Return what a path changes in a scenario, null where it changes another."""
    place = locate(path, names).of_number()
    return (place.target, place.path) if place.scenario in (None, scenario) else None


def run_sweep(sweep: Sweep, told: Told) -> list[Swept]:
    """Return the grid of every scenario: metrics, masks, and the interval of the headline metric."""
    vary: dict[str | tuple[str, ...], Array] = {axis.path: axis.values for axis in sweep.axes}
    done: list[Swept] = []
    for name in sweep.scenarios:
        result = sweep.workload.evaluate(name, vary=vary)
        told((len(done) + 0.5) / len(sweep.scenarios))
        headline = PHASES[sweep.phase(name)][0]
        low, high = (np.broadcast_to(end, sweep.shape) for end in result.intervals[headline] or (np.nan, np.nan))
        done.append(Swept(name, headline, result, low, high))
        told(len(done) / len(sweep.scenarios))
    return done


def summaries(sweep: Sweep, swept: Sequence[Swept]) -> dict[str, dict[str, Any]]:
    """Return for each scenario how many points run, why others do not, and its shortest and longest time with place."""
    return {one.scenario: _summary(sweep, one) for one in swept}


def _summary(sweep: Sweep, one: Swept) -> dict[str, Any]:
    codes = np.asarray(one.result.reason).reshape(-1)
    counts = {REASONS[code]: int((codes == code).sum()) for code in range(len(REASONS)) if code != FITS}
    fit = int((codes == FITS).sum())
    ends = {"best": np.nanargmin, "worst": np.nanargmax}
    return {
        "headline": one.headline, "points": codes.size, "fit": fit,
        "infeasible": {reason: count for reason, count in counts.items() if count},
        **{name: _at(sweep, one, int(choose(one.times))) if fit else None for name, choose in ends.items()},
    }  # fmt: skip


def _at(sweep: Sweep, one: Swept, position: int) -> dict[str, Any]:
    """Return a point: its place on the axes, the headline metric there and its interval."""
    index = np.unravel_index(position, sweep.shape)
    return {
        "at": {axis.path: axis.plain()[place] for axis, place in zip(sweep.axes, index, strict=True)},
        "value": float(one.times[index]), "low": float(one.low[index]), "high": float(one.high[index]),
    }  # fmt: skip
