"""The facade: load a workload, evaluate its scenarios at a point or over a grid."""

from __future__ import annotations

import warnings
from collections import ChainMap
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from costmodel.analytic.evaluation import Evaluation
from costmodel.analytic.evaluation import evaluate as closed_form
from costmodel.analytic.grid import Engine, evaluate_grid, evaluate_point, evaluate_single
from costmodel.calibration.compiled_fits import load_calibration
from costmodel.cost.calibration import Calibration, FamilyFit, PartCalibrations
from costmodel.errors import ImplausibleInput, InputError, Location
from costmodel.quantities import Array
from costmodel.records import Record, field, replace
from costmodel.result import SCHEMA, Point, Result
from costmodel.schema import SI, ResolvedWorkload
from costmodel.schema.catalogue import DocumentsOfFiles
from costmodel.schema.inputs import Answers, recorded
from costmodel.schema.model_names import is_model
from costmodel.schema.references import Library
from costmodel.schema.tree import Tree
from costmodel.version import __version__
from costmodel.workload.counting import COUNTING_LENGTH, architecture_facts
from costmodel.workload.plans import Serving, Training
from costmodel.workload.pools import Pools
from costmodel.workload.scenario import Scenario

if TYPE_CHECKING:
    from costmodel.analytic.model_start import ModelStart
    from costmodel.event.evaluation import EventEngine, Requests

Vary: TypeAlias = "Mapping[str | tuple[str, ...], Any]"

ENGINES = ("analytic", "event")


class Workload(Record):
    """A workload with everything that its files and changes say. `scenarios` are its names in order.

    start: where it was made of a model, what was assumed.
    """

    resolved: ResolvedWorkload
    _source: str | Path | Tree
    _changes: Mapping[str, object]
    _cluster: str | tuple[str, ...] | None
    _library: Library
    _calibrations: dict[Hashable, Calibration] = field(default_factory=dict)
    start: ModelStart | None = None

    def __repr__(self) -> str:
        return f"Workload({self.name!r}, scenarios={self.scenarios!r})"

    @property
    def name(self) -> str:
        """Return the workload's name."""
        return self.resolved.name

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Return the names of the scenarios."""
        return tuple(self.resolved.scenarios)

    @property
    def roots(self) -> tuple[Path, ...]:
        """Return the folders whose files the workload may rest on, in the order in which they are searched."""
        return self._library.roots

    def asked(self) -> dict[str, Any]:
        """Return what was asked for, as text: the workload, the cluster that stands in or all of them, the changes."""
        changes = {path: str(value) for path, value in self._changes.items()}
        cluster = list(self._cluster) if isinstance(self._cluster, tuple) else self._cluster
        return {"workload": self.name, "cluster": cluster, "changes": changes}

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what was assumed of a model, and what the files say that is ignored, for people."""
        return (*(self.start.lines if self.start is not None else ()), *self.resolved.notes)

    def evaluate(self, scenario: str, vary: Vary | None = None, engine: str = "analytic") -> Result:
        """Return one scenario, over the grid that `vary` spans.

        vary: path of the resolved document -> values, SI numbers or strings with units. Each entry is one axis, in key
        order. A tuple of paths with a tuple of value lists is one linked axis. Without it the grid is one point.
        engine: `analytic`, or `event`, which simulates point after point.
        Raises InputError on an unknown scenario, path, unit or engine.
        """
        _check_engine(engine)
        chosen = self.scenario(scenario)
        if not vary:
            simulated = [event_engine().evaluate] if engine == "event" else []
            return evaluate_single(chosen, self.calibration(chosen), *simulated)
        varied, shape = self.varied(scenario, vary)
        if engine == "event":
            from costmodel.event.evaluation import simulate_grid  # SimPy loads when it is used

            return simulate_grid(varied, self.calibration(varied), shape, event_engine())
        return evaluate_grid(varied, self.calibration(varied), shape)

    def varied(self, scenario: str, vary: Vary) -> tuple[Scenario, tuple[int, ...]]:
        """Return one scenario whose values vary over a grid, as `evaluate` takes it, and the shape of the grid."""
        axes = [self._axis(scenario, paths, values) for paths, values in vary.items()]
        shape = tuple(len(next(iter(axis.values()))) for axis in axes)
        changes = dict(self._changes)
        for number, axis in enumerate(axes):
            own_shape = tuple(-1 if other == number else 1 for other in range(len(axes)))
            changes |= {path: SI(values.reshape(own_shape)) for path, values in axis.items()}
        return self._resolve(changes, [scenario]).scenarios[scenario], shape

    def _resolve(self, changes: Mapping[str, object], scenarios: Iterable[str]) -> ResolvedWorkload:
        cluster = self._cluster if self.start is None else None
        return _with_lengths(_resolve(self._source, changes, cluster, self._library, scenarios))

    def changed(self, changes: Mapping[str, object], scenarios: Iterable[str] | None = None) -> Workload:
        """Return some scenarios (default: all) with more fields changed. Takes and raises what `load` does."""
        together = {**self._changes, **_in_si({**changes, **self._multiplied(changes)})}
        resolved = self._resolve(together, self._named(scenarios))
        _warn(resolved)
        return replace(self, resolved=resolved, _changes=together, _calibrations={})

    def _multiplied(self, changes: Mapping[str, object]) -> dict[str, float]:
        """Return the values of factors, `2x` or `+10%`, of what was changed before; others are of the files' values."""
        again = {path: value for path, value in changes.items() if path in self._changes and isinstance(value, str)}
        if not again:
            return {}
        from costmodel.schema.overrides import factor_of  # loads every kind of file

        factors = {path: factor_of(value) for path, value in again.items()}
        return {
            path: float(self.resolved.value(path)) * factor for path, factor in factors.items() if factor is not None
        }

    def simulate(
        self,
        scenarios: Iterable[str] | None = None,
        engine: str | None = None,
        simulation: EventEngine | None = None,
        requests: Requests | None = None,
    ) -> dict[str, Any]:
        """Return the result document of some scenarios (default: all) at their own values.

        engine, simulation, requests: as of `points`. Without an engine the document's is `event` where requests of any
        scenario were simulated, since only these answer it.
        """
        scenarios = self._named(scenarios)
        points = self.points(scenarios, engine, simulation, requests)
        engine = engine or engine_of(points)
        random = [each.simulation.seed for each in map(self.scenario, scenarios) if _is_random(each)]
        assumed = [] if self.start is None else list(self.start.lines)  # a workload says all itself
        notes = {"assumptions": assumed, "warnings": [str(problem) for problem in self.resolved.warnings]}
        return {
            "schema": SCHEMA, "version": __version__, "seed": random[0] if random and engine == "event" else None,
            "engine": engine, "workload": self.name, "model": self.model(),
            **{name: lines for name, lines in notes.items() if lines},
            "scenarios": {name: point.document() for name, point in points.items()},
        }  # fmt: skip

    def _named(self, scenarios: Iterable[str] | None) -> tuple[str, ...]:
        return self.scenarios if scenarios is None else several(scenarios)

    def points(
        self,
        scenarios: Iterable[str] | None = None,
        engine: str | None = "analytic",
        simulation: EventEngine | None = None,
        requests: Requests | None = None,
    ) -> dict[str, Point]:
        """Return some scenarios (default: all) in full.

        engine: null: each scenario's that answers it.
        simulation: the event engine to use, which then holds their timelines (null: one of its own).
        requests: what simulates requests where no engine is asked for.
        """
        if engine is not None:
            _check_engine(engine)
        chosen = [self.scenario(name) for name in self._named(scenarios)]
        if engine != "event":
            answer = _answer(chosen, engine, requests)
            return {each.name: evaluate_point(each, self.calibration(each), answer) for each in chosen}
        used = event_engine() if simulation is None else simulation
        return {each.name: used.point(each, self.calibration(each)) for each in chosen}

    def model(self) -> dict[str, Any]:
        """Return what can be counted of the model. FLOP a token at the training scenario's length."""
        plans = [each.plan for each in self.resolved.scenarios.values()]
        lengths = [plan.sequence for plan in plans if isinstance(plan, Training)]
        return architecture_facts(self.resolved.architecture, float(np.max(lengths[0])) if lengths else COUNTING_LENGTH)

    def calibration(self, scenario: Scenario) -> Calibration:
        """Return the calibration of the scenario's device and framework."""
        if scenario.parts:
            return PartCalibrations.of(*map(self.calibration, scenario.parts))
        if scenario.unlike:
            return PartCalibrations.of(*map(self.calibration, (scenario.alone, *scenario.unlike)))
        key = _calibration_key(scenario)
        if key not in self._calibrations:
            self._calibrations[key] = load_calibration(
                scenario.cluster.device, scenario.framework, self._library.search_path
            )
        return self._calibrations[key]

    def with_families(self, families: Mapping[str, FamilyFit]) -> Workload:
        """Return the same with some fits instead of those of the files."""
        known = {
            _calibration_key(each): replace(own, families=ChainMap(dict(families), own.families))  # type: ignore[arg-type]
            for each in self._single_parts()
            for own in (self.calibration(each),)
        }
        return replace(self, _calibrations=known)

    def _single_parts(self) -> Iterator[Scenario]:
        for each in self.resolved.scenarios.values():
            yield from each.parts or (each.alone, *each.unlike)

    def scenario(self, name: str) -> Scenario:
        """Return one scenario as the engines take it. Raises InputError on an unknown name."""
        if name not in self.resolved.scenarios:
            raise InputError.single(f"no scenario `{name}`", hint=f"write one of {', '.join(self.scenarios)}")
        return self.resolved.scenarios[name]

    def _axis(self, scenario: str, paths: str | tuple[str, ...], values: Any) -> dict[str, Array]:
        """Return the SI values of each path of one axis."""
        if isinstance(paths, str):
            paths, values = (paths,), (values,)
        if any(not isinstance(each, Iterable) or isinstance(each, str) for each in values):
            raise InputError.single("an axis is a list of values", field=", ".join(paths), hint="write [value, …]")
        axis = {path: self._numbers(scenario, path, each) for path, each in zip(paths, values, strict=True)}
        if len({len(each) for each in axis.values()}) != 1 or not len(next(iter(axis.values()))):
            raise InputError.single(
                "an axis needs at least one value, a linked one as many for each path", field=", ".join(paths)
            )
        return axis

    def _numbers(self, scenario: str, path: str, values: Iterable[Any]) -> Array:
        """Return values as SI numbers. Strings are read as `--set` reads them."""
        if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
            return values.astype(np.float64)
        values = list(values)
        if not any(isinstance(value, str) for value in values):
            return _as_numbers(path, values)
        full = f"scenarios.{scenario}.{path}" if path.startswith("hardware.") else path
        number = self.resolved.number(full)
        if number is None:
            raise _no_axis(path)
        from costmodel.schema.overrides import absolute_text
        from costmodel.schema.strict import read_number

        label = Location(f"vary {path}")
        own = partial(self.resolved.value, full)
        return _as_numbers(
            path,
            [
                read_number(number, absolute_text(each, number, own, (path, label)), label, path)
                if isinstance(each, str) else each
                for each in values
            ],
        )  # fmt: skip


def _is_random(scenario: Scenario) -> bool:
    """Tell whether the event engine draws anything of a scenario at random."""
    simulation, plan = scenario.simulation, scenario.plan
    if scenario.parts:
        return any(map(_is_random, scenario.parts))
    return bool(simulation.jitter or simulation.checkpoints) or isinstance(plan, Serving)


def _calibration_key(scenario: Scenario) -> Hashable:
    device, kernels = scenario.cluster.device, scenario.framework.implementations
    return device.name, device.path, tuple(sorted(kernels.items()))


def engine_of(points: Mapping[str, Point]) -> str:
    """Return the engine that answered where none was asked for: `event` if any scenario's requests were simulated."""
    return "event" if any("engine" in point.details for point in points.values()) else "analytic"


def _answer(scenarios: Iterable[Scenario], engine: str | None, requests: Requests | None) -> Engine:
    """Return what evaluates scenarios in closed form, or where no engine is asked for by what answers each.

    requests: simulates those of servers.
    """
    if not any(isinstance(each.plan, Serving | Pools) for each in scenarios):
        return closed_form
    from costmodel.serving.choice import answering, with_tails  # loads when it is used

    if engine == "analytic":
        return with_tails
    return partial(answering, requests=request_engine() if requests is None else requests)


def event_engine(*, full: bool = False, requests: Requests | None = None) -> EventEngine:
    """Return an event engine.

    full: it simulates ranks and stages that are equal one by one.
    requests: simulates those of serving scenarios.
    """
    from costmodel.event.evaluation import EventEngine  # SimPy loads when it is used

    return EventEngine(full=full, requests=request_engine() if requests is None else requests)


def request_engine(
    *, checkpoint: Path | None = None, workers: int = 1, executor: Executor | None = None,
    on_progress: Callable[[float], None] | None = None, keeps: bool = False,
) -> Requests:  # fmt: skip
    """Return what simulates the requests of a serving scenario.

    checkpoint: file that keeps the state of a simulation.
    workers: threads for replicas that serve independently of each other, or tasks of `executor`, if any.
    on_progress: receives the share of its runs that are done.
    keeps: every request of a long run, for a table of them.
    """
    options = {"checkpoint": checkpoint, "workers": workers, "executor": executor, "keeps": keeps}
    return partial(_requests, {**options, "on_progress": on_progress})


def _requests(
    options: Mapping[str, Any], scenario: Scenario, plan: Serving | Pools, calibration: Calibration
) -> Evaluation:
    from costmodel.serving.evaluation import Options, RequestEvaluation  # loads when it is used

    if isinstance(plan, Pools):
        from costmodel.serving.two_pools import PoolsPlayed  # loads when it is used

        return PoolsPlayed(scenario, plan, calibration, Options(**options))
    return RequestEvaluation(scenario, plan, calibration, Options(**options))


def _as_numbers(path: str, values: list[Any]) -> Array:
    """Return the values of an axis as an array. Raises InputError where they are not numbers."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise _no_axis(path) from None


def several(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return some names, of which one may stand alone."""
    return (names,) if isinstance(names, str) else tuple(names)


def _no_axis(path: str) -> InputError:
    return InputError.single(
        "an axis varies numbers; this one changes the structure",
        field=path,
        hint="load the workload once for each value, with `set`",
    )


def load(
    path: str | Path | Tree,
    set: Mapping[str, object] | None = None,  # noqa: A002  the name that the command line uses
    *,
    cluster: str | Sequence[str] | None = None,
    search_path: Sequence[str | Path] = (),
    scenarios: Iterable[str] | None = None,
    phases: str | Sequence[str] = (),
) -> Workload:
    """Return the workload of a file, of a name under `workloads/`, of a document, or the smallest one of a model.

    Takes, raises and warns as `costmodel.load` does (`costmodel/facade.py`).
    """
    changes, search_path = _in_si(_expanded(set or {})), tuple(search_path)
    clusters, phases = several(cluster or ()), several(phases)
    scenarios = None if scenarios is None else several(scenarios)
    asked = clusters if len(clusters) > 1 else next(iter(clusters), None)
    files = None
    if not (changes or phases or isinstance(path, Tree)):
        files = DocumentsOfFiles(path, asked, search_path, scenarios)
    kept = None if files is None else files.recall()
    if kept is not None:
        return Workload(_with_lengths(kept), path, changes, asked, Library(search_path))
    rests_on: Answers = {}
    library = Library(search_path)
    with recorded(rests_on):
        start = None if isinstance(path, Tree) else _start(str(path), clusters, phases, search_path, changes)
        if start is not None:
            _check_phases(scenarios or (), start.phases)
        source, cluster = (path, asked) if start is None else (start.tree, None)
        resolved = _resolve(source, changes, cluster, library, scenarios)
    if files is not None and start is None:
        files.keep(resolved, rests_on)
    _warn(resolved)
    return Workload(_with_lengths(resolved), source, changes, asked, library, start=start)


def _resolve(
    source: str | Path | Tree, changes: Mapping[str, object], cluster: str | tuple[str, ...] | None,
    library: Library, scenarios: Iterable[str] | None,
) -> ResolvedWorkload:  # fmt: skip
    from costmodel.schema.resolve import resolve  # YAML and pydantic load where files are read

    return resolve(source, overrides=changes, cluster=cluster, library=library, scenarios=scenarios)


def _start(
    argument: str, clusters: Sequence[str], phases: Sequence[str], search_path: tuple[str | Path, ...],
    changes: Mapping[str, object],
) -> ModelStart | None:  # fmt: skip
    """Return the smallest workload where a model is asked for, null for a workload."""
    if not is_model(argument, search_path):
        if phases:
            Library(search_path).find_workload(argument)
            raise InputError.single(
                f"{argument} is a workload, whose scenarios have phases of their own", field="--phase",
                hint="name scenarios with --scenario, or a model",
            )  # fmt: skip
        return None
    if not clusters:
        raise InputError.single(
            f"{argument} is a model, which runs on a cluster", field="--cluster",
            hint="add --cluster nodes/dgx-h100, or another one (`costmodel hardware list`)",
        )  # fmt: skip
    from costmodel.analytic.model_start import start_workload  # loads every kind of file

    return start_workload(argument, clusters, phases, search_path, changes)


def _check_phases(scenarios: Iterable[str], phases: Sequence[str]) -> None:
    """Raise InputError on a scenario of a model that is a phase which was not asked for."""
    from costmodel.analytic.model_start import PHASES
    from costmodel.schema.overrides import ON

    for phase in (name.partition(ON)[0] for name in scenarios):
        if phase in PHASES and phase not in phases:
            raise InputError.single(
                f"{phase} is a phase of the model that was not asked for", field="--scenario",
                hint=f"add --phase {phase}",
            )  # fmt: skip


def _expanded(changes: Mapping[str, object]) -> dict[str, object]:
    """Return changes with a mapping of a whole scenario as one change of each of its keys."""
    leaves: dict[str, object] = {}
    for path, value in changes.items():
        if path.startswith("scenarios.") and path.count(".") == 1:
            from costmodel.schema.overrides import expanded  # YAML loads where files are read

            leaves |= expanded(path, value)
        else:
            leaves[path] = value
    return leaves


def _in_si(changes: Mapping[str, object]) -> dict[str, object]:
    """Return changes whose numbers are known to be in SI."""
    return {
        name: SI(value) if isinstance(value, float | int | np.ndarray) and not isinstance(value, bool) else value
        for name, value in changes.items()
    }


def _warn(resolved: ResolvedWorkload) -> None:
    for problem in resolved.warnings:
        warnings.warn(str(problem), ImplausibleInput, stacklevel=3)


def _with_lengths(resolved: ResolvedWorkload) -> ResolvedWorkload:
    """Return a workload whose scenarios have the lengths and the rate of their files of requests."""
    plans = [each.plan for each in resolved.scenarios.values()]
    if not any(isinstance(plan, Serving) and plan.requests is not None for plan in plans):
        return resolved
    from costmodel.serving.lengths import with_lengths

    return replace(resolved, scenarios={name: with_lengths(each) for name, each in resolved.scenarios.items()})


def _check_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise InputError.single(f"unknown engine `{engine}`", hint=f"write one of {', '.join(ENGINES)}")
