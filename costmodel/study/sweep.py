"""What a sweep asks: the product of its axes for each scenario, and what is wanted of every point.

Numeric axes are arrays of one evaluation. Each combination of structural ones is a workload of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from costmodel.analytic.capital import price_facts
from costmodel.analytic.serving.continuous_batching import WAITING_RANKS, left_to_requests
from costmodel.analytic.serving.engine_state import ranks_wait
from costmodel.api import Vary, Workload
from costmodel.errors import InputError, LayoutError, Location
from costmodel.records import Record, asdict, replace
from costmodel.result import BAD_LAYOUT, INTERVAL, PHASES, REASONS
from costmodel.schema import SI
from costmodel.schema.metrics import unit_of
from costmodel.schema.overrides import absolute_text, is_of, locate
from costmodel.schema.strict import NumberType
from costmodel.study.axes import Axis, Request, is_structural, read_axis, read_requests
from costmodel.study.expressions import Expression, read_expression
from costmodel.study.prices import Quoted, quotes
from costmodel.version import __version__
from costmodel.workload.plans import Serving

SCHEMA = "costmodel/sweep@1"
MOST_POINTS = 100_000_000  # of one sweep; a day's work, and a table of 20 GB
MOST_STRUCTURES = 10_000  # combinations of structural values: each is a workload that is read and checked
RESERVED = ("scenario", "fits", "verdict", "reason", "meets", "devices")


class Wanted(Record):
    """What is asked of every point besides its metrics. derived: name -> formula; constraints: conditions that hold."""

    derived: Mapping[str, str]
    constraints: tuple[str, ...] = ()


NOTHING = Wanted({})


class Structure(Record):
    """One combination of structural values of a scenario: its workload, or the reason why there is none."""

    scenario: str
    choices: Mapping[str, str]
    workload: Workload | None
    reason: str = ""


class Sweep(Record, dict=True):
    """What is asked: axes, the scenarios that have them all, and why others are left out.

    Axes stand in the order of the table: structural ones first, the last one runs fastest.
    """

    workload: Workload
    axes: tuple[Axis, ...]
    scenarios: tuple[str, ...]
    left_out: Mapping[str, str]
    wanted: Wanted = NOTHING
    engine: str = "analytic"

    @cached_property
    def links(self) -> list[tuple[Axis, ...]]:
        """Return the axes by link: those that vary together make one dimension."""
        by_link: dict[int, list[Axis]] = {}
        for axis in self.axes:
            by_link.setdefault(axis.link, []).append(axis)
        return [tuple(axes) for axes in by_link.values()]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the values of each dimension of the table."""
        return tuple(len(axes[0].values) for axes in self.links)

    @cached_property
    def numeric(self) -> list[tuple[Axis, ...]]:
        """Return the dimensions of numbers alone, those of the array."""
        return [axes for axes in self.links if not any(axis.texts for axis in axes)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the grid of one structure, a dimension for each link of numeric axes."""
        return tuple(len(axes[0].values) for axes in self.numeric)

    @property
    def points(self) -> int:
        """Return the points of all scenarios."""
        return len(self.scenarios) * math.prod(self.lengths)

    @cached_property
    def structures(self) -> list[Structure]:
        """Return every combination of structural values of every scenario, in the order of the table.

        Raises InputError where no combination with one of the values can be.
        """
        dimensions = [axes for axes in self.links if any(axis.texts for axis in axes)]
        choices = [
            {axis.path: axis.plain()[at] for axis, at in pairs}
            for places in itertools.product(*(range(len(axes[0].values)) for axes in dimensions))
            for pairs in [[(axis, at) for axes, at in zip(dimensions, places, strict=True) for axis in axes]]
        ]
        if not dimensions:
            return [Structure(name, {}, self.workload) for name in self.scenarios]
        arrays = self._arrays()
        errors: dict[int, InputError] = {}
        workloads: list[Workload | None] = []
        for number, chosen in enumerate(choices):
            try:
                workloads.append(self.workload.changed({**arrays, **chosen}, self.scenarios))
            except InputError as error:
                errors[number] = error
                workloads.append(None)
        _check_choices(choices, errors)
        return [
            Structure(name, chosen, loaded, _reason(errors[number], name) if number in errors else "")
            for name in self.scenarios
            for number, (chosen, loaded) in enumerate(zip(choices, workloads, strict=True))
        ]

    def _arrays(self) -> dict[str, SI]:
        """Return the values of the numeric axes, each on its own dimension: what a layout is judged with."""
        dimensions = len(self.numeric)
        return {
            axis.path: SI(axis.values.reshape(*(-1 if other == at else 1 for other in range(dimensions))))
            for at, axes in enumerate(self.numeric)
            for axis in axes
        }

    def vary(self) -> Vary:
        """Return the numeric axes as an evaluation takes them."""
        return {
            tuple(axis.path for axis in axes): tuple(axis.values.tolist() for axis in axes) for axes in self.numeric
        }

    def phase(self, scenario: str) -> str:
        """Return the phase of a scenario."""
        return self.workload.scenario(scenario).plan.phase

    def answers(self, scenario: str) -> tuple[str, tuple[str, ...]]:
        """Return the headline metric and all metrics of a scenario."""
        return PHASES[self.workload.scenario(scenario).result_kind]

    @property
    def metrics(self) -> list[str]:
        """Return the metrics of all scenarios, each once."""
        return list(dict.fromkeys(name for each in self.scenarios for name in self.answers(each)[1]))

    @property
    def headlines(self) -> list[str]:
        """Return the headline metrics of all scenarios, each once: those whose intervals are kept."""
        return list(dict.fromkeys(self.answers(each)[0] for each in self.scenarios))

    @cached_property
    def derived(self) -> dict[str, Expression]:
        """Return the derived metrics, each from those before it. Raises InputError on what is no formula."""
        known = self._known
        formulas: dict[str, Expression] = {}
        for name, text in self.wanted.derived.items():
            location = Location(f"derived {name}")
            if not name.isidentifier() or name in (*known, *RESERVED):
                raise InputError.single(
                    "cannot be a derived metric's name", hint="write another, of letters, digits and _", field=name,
                    location=location,
                )  # fmt: skip
            formulas[name] = read_expression(text, [*known, *formulas], location)
        return formulas

    @cached_property
    def constraints(self) -> tuple[Expression, ...]:
        """Return the conditions. Raises InputError on what is none."""
        known = [*self._known, *self.derived]
        return tuple(
            read_expression(text, known, Location("constraint"), condition=True) for text in self.wanted.constraints
        )

    @property
    def _known(self) -> list[str]:
        return [*self.metrics, *(axis.path for axis in self.axes if not axis.texts), "devices", "fits"]

    def columns(self) -> dict[str, str | None]:
        """Return the columns of the table with their units, null for text."""
        metrics = {name: unit_of(name) for name in self.metrics}
        ends = {f"{name}_{end}": metrics[name] for name in self.headlines for end in INTERVAL}
        axes = {axis.path: axis.unit for axis in self.axes}
        derived = dict.fromkeys(self.derived, "1")
        meets: dict[str, str | None] = {"meets": None} if self.wanted.constraints else {}
        verdict = {"fits": None, **meets, "verdict": None, "reason": None}
        return {"scenario": None, **axes, **metrics, **ends, **derived, **verdict}

    def _notes(self, name: str) -> list[str]:
        """Return a scenario's notes, and what of its requests the closed form leaves out."""
        scenario = self.workload.scenario(name)
        if self.engine != "analytic" or not isinstance(scenario.plan, Serving):
            return list(scenario.notes)
        waiting = [f"closed form: {WAITING_RANKS}; `--engine event` has them"] if ranks_wait(scenario) else []
        return [*scenario.notes, *waiting, *left_to_requests(scenario.plan)]

    def document(self) -> dict[str, Any]:
        """Return what is asked as the documented JSON object: the same question gives the same document."""
        scenarios = {
            name: {"phase": self.phase(name), "headline": self.answers(name)[0], "notes": self._notes(name)}
            for name in self.scenarios
        }  # fmt: skip
        linked = {axis.link for axes in self.links if len(axes) > 1 for axis in axes}
        axes = [axis.document(linked=axis.link in linked) for axis in self.axes]
        wanted = {
            **({"derived": dict(self.wanted.derived)} if self.wanted.derived else {}),
            **({"constraints": list(self.wanted.constraints)} if self.wanted.constraints else {}),
        }
        return {
            "schema": SCHEMA, "version": __version__, "engine": self.engine, **self.workload.asked(), "axes": axes,
            "scenarios": scenarios, "left_out": dict(self.left_out), **wanted, "points": self.points,
            "columns": self.columns(), **({"prices": [asdict(one) for one in self.rents]} if self.rents else {}),
        }  # fmt: skip

    @cached_property
    def rents(self) -> list[Quoted]:
        """Return the distinct rents that costs rest on. Of devices whose rent is an axis, none."""
        hardware = {
            one.workload.scenario(one.scenario).cluster.device for one in self.structures if one.workload is not None
        }
        known = [
            each for each in hardware
            if not any(isinstance(one, np.ndarray) for one in (each.price.rental, each.price.purchase))
        ]  # fmt: skip
        facts = [{"device": each.name, "price": price_facts(each)} for each in known]
        return quotes(sorted(facts, key=lambda each: str(each["device"])), "rental")


def _reason(error: InputError, scenario: str) -> str:
    first = error.problems[0]
    if first.of_layout:
        return f"{REASONS[BAD_LAYOUT]}: {first.field.removeprefix(f'scenarios.{scenario}.')}: {first.message}"
    return str(replace(first, location=None))


def _check_choices(choices: Sequence[Mapping[str, str]], errors: Mapping[int, InputError]) -> None:
    """Raise InputError where every combination with some value of an axis is an error: it is no such value.

    A combination that only makes no layout is none: it is a row that cannot run.
    """
    for path in choices[0]:
        for value in dict.fromkeys(chosen[path] for chosen in choices):
            at = [number for number, chosen in enumerate(choices) if chosen[path] == value]
            wrong = [errors[number] for number in at if not isinstance(errors.get(number, None), LayoutError | None)]
            if len(wrong) == len(at):
                raise wrong[0]


def plan_sweep(
    workload: Workload, varied: Sequence[str], *, every: bool = False, wanted: Wanted = NOTHING,
    engine: str = "analytic",
) -> Sweep:  # fmt: skip
    """Return the sweep that `--vary` arguments ask for. engine: that evaluates its points, one of `ENGINES`.

    Scenarios without one of the paths are left out. With `every` they are an error. Raises InputError on bad arguments,
    a path that no scenario has, a path that is set as well, and on too many points.
    """
    requests = read_requests(varied)
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
    reasons = {name: f"{error.problems[0].field}: {error.problems[0].message}" for name, error in left_out.items()}
    requests = [_absolute(workload, scenarios, request, numbers[request.path]) for request in requests]
    sweep = Sweep(workload, _axes(requests, numbers), scenarios, reasons, wanted, engine)
    if sweep.points > MOST_POINTS:
        raise InputError.single(
            f"{' x '.join(map(str, sweep.lengths))} values of {len(scenarios)} scenario(s) are {sweep.points:,} "
            f"points, {MOST_POINTS:,} are the most",
            hint="write coarser ranges, name one --scenario, or sweep a part at a time", field="--vary",
        )  # fmt: skip
    structures = sweep.points // max(math.prod(sweep.shape), 1)
    if structures > MOST_STRUCTURES:
        raise InputError.single(
            f"the structural axes have {structures:,} combinations, {MOST_STRUCTURES:,} are the most",
            hint="name one --scenario, or sweep a part at a time", field="--vary",
        )  # fmt: skip
    _ = sweep.constraints, sweep.structures  # what is wrong with them is stated before the work
    return sweep


def _absolute(workload: Workload, scenarios: Sequence[str], request: Request, number: NumberType | None) -> Request:
    """Return a request with values instead of factors, `2x` or `+10%`, of what all scenarios have."""
    if number is None:
        return request

    is_hardware = request.path.startswith("hardware.")
    paths = [f"scenarios.{name}.{request.path}" for name in scenarios] if is_hardware else [request.path]

    def value() -> Any:
        own = set(map(workload.resolved.value, paths))
        if len(own) > 1:
            raise InputError.single(
                "differs among scenarios, so that a factor of it is several values", hint="name one --scenario",
                field=request.path, location=request.label,
            )  # fmt: skip
        return own.pop()

    return replace(request, values=absolute_text(request.values, number, value, (request.path, request.label)))


def _axes(requests: Sequence[Request], numbers: Mapping[str, NumberType | None]) -> tuple[Axis, ...]:
    """Return the axes in the order of the table: structural dimensions first."""
    axes: list[tuple[Axis, ...]] = []
    for _, group in itertools.groupby(requests, key=lambda request: request.link):
        together = list(group)
        read = tuple(read_axis(one, numbers[one.path], linked=len(together) > 1) for one in together)
        if len({len(axis.values) for axis in read}) > 1:
            counts = ", ".join(f"{axis.path} has {len(axis.values)}" for axis in read)
            raise InputError.single(
                f"vary together, but {counts} values", hint="write as many values for each", location=together[0].label
            )
        if any(is_structural(numbers[one.path]) for one in together) and not all(axis.texts for axis in read):
            read = tuple(axis if axis.texts else _as_text(axis, one) for axis, one in zip(read, together, strict=True))
        axes.append(read)
    ordered = sorted(axes, key=lambda group: not group[0].texts)
    return tuple(replace(axis, link=link) for link, group in enumerate(ordered) for axis in group)


def _as_text(axis: Axis, request: Request) -> Axis:
    """Return a numeric axis that varies together with a structural one: its values as they are set."""
    texts = tuple(str(value) for value in axis.plain()) if axis.unit == "1" else None
    if texts is None:
        texts = tuple(f"{value!r} {axis.unit}" for value in axis.plain())
    return replace(axis, values=np.arange(float(len(texts))), texts=texts, link=request.link)


def _number(workload: Workload, request: Request, scenario: str) -> NumberType | None:
    """Return what kind of number a scenario has at a path. Raises InputError where it has no such path."""
    path, head = request.path, f"scenarios.{scenario}."
    try:
        own = (scenario, *workload.scenario(scenario).part_names)
        if path.startswith("scenarios.") and not any(is_of(path.split(".")[1], each) for each in own):
            workload.resolved.value(path)  # a misspelt scenario is an error of its own
            raise InputError.single(f"is not a field of scenario {scenario}", hint="name its own, or leave it out")
        if path == "model":
            return None
        return workload.resolved.number(f"{head}{path}" if path.startswith("hardware.") else path)
    except InputError as error:
        problems = [replace(problem, field=path, location=request.label) for problem in error.problems]
        raise InputError(problems) from None


def _check_places(workload: Workload, requests: Sequence[Request], scenarios: Sequence[str]) -> None:
    """Raise InputError where two axes, or an axis and a change, mean the same field."""
    for scenario in scenarios:
        names = [*workload.resolved.scenarios, *workload.scenario(scenario).part_names]
        taken = {_place(path, names, scenario): f"--set {path}" for path in workload.asked()["changes"]}
        for request in requests:
            target = _place(request.path, names, scenario)
            if target in taken:
                raise InputError.single(
                    f"stands for the same field as {taken[target]}", hint="keep one of them", field=request.path,
                    location=request.label,
                )  # fmt: skip
            taken[target] = f"--vary {request.path}"


def _place(path: str, names: Sequence[str], scenario: str) -> tuple[str, ...]:
    target = locate(path, names).for_number()
    return ("" if target.is_in(scenario) else str(target.scenario), target.document, *target.path)
