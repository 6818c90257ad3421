"""The event engine's answers: the closed form's operators and ledger, with the times of a simulation."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from costmodel.analytic.blocks import single
from costmodel.analytic.breakdown import summing_to
from costmodel.analytic.evaluation import Evaluation, PassEvaluation, evaluate
from costmodel.analytic.expert_load import routing_grid
from costmodel.analytic.grid import evaluate_point, evaluate_single, grid_point
from costmodel.analytic.inference import PassModel, PassTimes, StageModel
from costmodel.analytic.intervals import LINEAR
from costmodel.analytic.metrics import pass_metrics, schedule_times, training_metrics
from costmodel.analytic.operator_timing import TimedOperator, TimedWork
from costmodel.analytic.paces import Engines, paced
from costmodel.analytic.segments import Segment
from costmodel.analytic.serving.burst import BurstRollout, Rollout, RolloutTimes, rollout_of, scaled
from costmodel.analytic.stream_times import Perturbation, Perturbations, seconds_of
from costmodel.analytic.training.overlapped_comm import OverlappedComm
from costmodel.analytic.training.step_model import OptimizerStep, StageMessages, StepModel, last_pass
from costmodel.analytic.training.step_times import StepTimes
from costmodel.analytic.training_evaluation import TrainingEvaluation
from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError
from costmodel.event.engine import Timeline, run
from costmodel.event.goodput import simulate_goodput
from costmodel.event.graph import Conditions, Graph
from costmodel.event.passes import pass_graph, pass_times_of
from costmodel.event.replicas import Replicas
from costmodel.event.training import step_graph, step_times_of
from costmodel.network.link_loads import nominal_cluster
from costmodel.quantities import Count, Quantity
from costmodel.records import MutableRecord, asdict, field, fields, is_record, replace
from costmodel.result import BAD_LAYOUT, FITS, PHASES, Entry, Interval, Metrics, Point, Result, empty_grid
from costmodel.workload.plans import Decode, Prefill, Serving, Training
from costmodel.workload.pools import Pools
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.requests import RequestStream
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules.catalogue import folded_order, order
from costmodel.workload.schedules.schedule import steady_state
from costmodel.workload.validity import feasible_layout

MOST_PASSES = 200_000  # of all ranks: about a million tasks, less than a gigabyte
FEW_TASKS = 100_000  # in all simulations for intervals together: a second
STREAM_STALLS = "waits between streams"  # line of results: idle time of the compute stream
NOT_SIMULATED = "the event engine simulates training, prefill, decode, serving and rl; this is the closed form"

Requests: TypeAlias = "Callable[[Scenario, Serving | Pools, Calibration], Evaluation]"
Model = TypeVar("Model", StepModel, PassModel)
Times = TypeVar("Times", StepTimes, PassTimes)


class EventEngine(MutableRecord):
    """Evaluates scenarios by simulation and keeps their timelines, by name of the scenario.

    conditions: instead of those of scenarios
    full: symmetric ranks, stages and replicas are simulated one by one, as ranks are where something distinguishes them
    perturbed: intervals come from a simulation per operator family and side, not from the closed form's (null: where
        that is `FEW_TASKS`)
    requests: evaluates serving scenarios over time (null: in closed form).
    served: such evaluations by scenario.
    """

    conditions: Conditions | None = None
    full: bool = False
    perturbed: bool | None = None
    timelines: dict[str, Timeline] = field(default_factory=dict)
    requests: Requests | None = None
    served: dict[str, Evaluation] = field(default_factory=dict)

    def run(self, scenario: Scenario, graph: Graph) -> Timeline:
        """Return the timeline of a scenario's graph."""
        return run(graph, Conditions.of(scenario) if self.conditions is None else self.conditions)

    def _tells_ranks_apart(self, scenario: Scenario) -> bool:
        """Tell whether symmetric ranks may take different times."""
        own = self.conditions
        return scenario.simulation.ranks_differ or (own is not None and bool(own.jitter or own.slowdown_windows))

    def simulates_all(self, scenario: Scenario) -> bool:
        """Tell whether every rank is simulated by itself."""
        return self.full or scenario.simulation.contention or self._tells_ranks_apart(scenario)

    def perturbs(self, scenario: Scenario, perturbations: Mapping[str, Perturbation]) -> bool:
        """Tell whether a scenario is simulated anew for each position along the perturbations' axis."""
        tasks = len(self.timelines[scenario.name].graph.tasks)
        return tasks * _positions(perturbations) <= FEW_TASKS if self.perturbed is None else self.perturbed

    def replicas(self, scenario: Scenario) -> Replicas:
        """Return how many data-parallel replicas are simulated: all of them with `full`."""
        requested, of = scenario.simulation.replicas, round(float(scenario.parallel.dp))
        count = of if self.full else 1 if requested is None else requested
        differ = self._tells_ranks_apart(scenario) or requested is not None
        return Replicas(count, of, differ, f"scenarios.{scenario.name}.simulation")

    def evaluate(self, scenario: Scenario, calibration: Calibration) -> Evaluation:
        """Return the evaluation of a scenario, in closed form for phases that are not simulated.

        Raises DeadlockError where the simulation stops.
        """
        plan = scenario.plan
        if isinstance(plan, Training):
            return _SimulatedStep(scenario, plan, calibration, self)
        if scenario.anchor is not None:
            measured = replace(self, timelines={}, served={}).evaluate
            return paced(scenario, calibration, Engines(self.evaluate, measured, evaluate))
        if isinstance(plan, Prefill | Decode):
            return _SimulatedPass(scenario, plan, calibration, self)
        if isinstance(plan, Serving | Pools) and self.requests is not None:
            served = self.served[scenario.name] = self.requests(scenario, plan, calibration)
            return served
        if isinstance(plan, Reinforcement):
            from costmodel.analytic.reinforcement import ReinforcementEvaluation  # loads where there is such a step

            return ReinforcementEvaluation(
                scenario, plan, calibration, rollout=partial(rollout_of_requests, self.requests),
                train=lambda part, fits: self.evaluate(replace(part, name=scenario.name), fits),  # for its timeline
            )  # fmt: skip
        return evaluate(scenario, calibration)

    def point(self, scenario: Scenario, calibration: Calibration) -> Point:
        """Return a single scenario in full: of training with its goodput, with a note where it is the closed form's."""
        point = evaluate_point(scenario, calibration, self.evaluate)
        simulation, plan, step = scenario.simulation, scenario.plan, point.metrics[point.headline]
        if isinstance(plan, Reinforcement) or (isinstance(plan, Serving | Pools) and self.requests is not None):
            return point
        if not isinstance(plan, Training | Prefill | Decode):
            return replace(point, notes=(*point.notes, NOT_SIMULATED))
        if not isinstance(plan, Training) or simulation.checkpoints is None or step is None:
            return point
        goodput = simulate_goodput(step, scenario.devices, simulation.checkpoints, simulation.seed)
        return replace(point, goodput=asdict(goodput))


@contextmanager
def _without_collection() -> Iterator[None]:
    """Look for no reference cycles meanwhile: a graph of a step is a million objects, and none of them is garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class _Simulated(ABC, Generic[Model, Times]):
    """A simulated phase. Operators, families and ledger are those of its closed form."""

    def __init__(self, closed: Evaluation, model: Model, scenario: Scenario, engine: EventEngine) -> None:
        self._closed, self._scenario, self._engine = closed, scenario, engine
        self._model: Model = model
        self._times: Times
        self.ledger, self.headline, self.anchored = closed.ledger, closed.headline, closed.anchored
        with _without_collection():
            self._times, engine.timelines[scenario.name], self._notes = self._simulate(model)

    @abstractmethod
    def _simulate(self, model: Model) -> tuple[Times, Timeline, tuple[str, ...]]:
        """Return times, timeline and notes of a simulation."""

    @abstractmethod
    def _metrics(self, times: Times) -> Metrics:
        """Return the metrics that follow from the times of a simulation."""

    def metrics(self, perturbations: Perturbations) -> Metrics:
        if perturbations is None:
            return self._metrics(self._times)
        if not self._engine.perturbs(self._scenario, perturbations):
            return scaled_as_closed_form(
                self.metrics(None), self._closed.metrics(None), self._closed.metrics(perturbations)
            )
        models = (perturbed(self._model, perturbations, position) for position in range(_positions(perturbations)))
        return stacked([self._metrics(self._simulate(model)[0]) for model in models])

    def families(self) -> frozenset[str]:
        return self._closed.families()

    def operators(self) -> list[TimedOperator]:
        return self._closed.operators()

    def details(self) -> Mapping[str, object]:
        return {}

    def verdict(self) -> str | None:
        return self._closed.verdict()

    def percentiles(self) -> Mapping[str, Mapping[str, float]] | None:
        return self._closed.percentiles()

    def notes(self) -> tuple[str, ...]:
        """Return whether one replica represents all although all were requested."""
        return self._notes


class _SimulatedStep(_Simulated[StepModel, StepTimes]):
    """A training step, simulated."""

    def __init__(self, scenario: Scenario, plan: Training, calibration: Calibration, engine: EventEngine) -> None:
        self._plan = plan
        closed = TrainingEvaluation(_without_contention(scenario), plan, calibration)
        super().__init__(closed, closed.model, scenario, engine)

    def _simulate(self, model: StepModel) -> tuple[StepTimes, Timeline, tuple[str, ...]]:
        steady = steady_state(*model.pipeline.order)
        if not steady.repeats:
            return self._run(model, steady.shorter)
        _check_periodic(self._scenario, model.pipeline.order[-1])
        shorter, timeline, notes = self._run(model, steady.shorter)
        longer, _, _ = self._run(model, steady.longer)
        note = f"the timeline has the first {steady.shorter:,} micro-batches; after them each period repeats the last"
        return shorter.grown(longer, steady), timeline, (*notes, note)

    def _run(self, model: StepModel, micro_batches: int) -> tuple[StepTimes, Timeline, tuple[str, ...]]:
        scenario, engine = self._scenario, self._engine
        name, pp, virtual, _ = model.pipeline.order
        all_ranks = engine.simulates_all(scenario)  # none folded
        schedule = (order if all_ranks else folded_order)(name, pp, virtual, micro_batches)
        _check_size(scenario, sum(map(len, schedule.ranks)))
        last_passes = [last_pass(self._plan, schedule, rank) for rank in range(len(schedule.ranks))]
        replicas = engine.replicas(scenario)
        step = step_graph(scenario, model, schedule, last_passes, replicas)
        timeline = engine.run(scenario, step.graph)
        times = step_times_of(step, timeline)
        times = times if self.anchored is None else times.scaled(self.anchored.factor)
        return times, timeline, replicas.note(step.replicas)

    def _metrics(self, times: StepTimes) -> Metrics:
        return training_metrics(self._scenario, self._plan, self._model, times)

    def breakdown(self) -> list[Entry]:
        times = self._times
        return summing_to(float(times.step) - float(times.bubble), self._closed.breakdown(), STREAM_STALLS)

    def schedule(self, perturbations: Perturbations = None) -> Mapping[str, Quantity] | None:
        return schedule_times(self._times) if perturbations is None else self._closed.schedule(perturbations)


class _SimulatedPass(_Simulated[PassModel, PassTimes]):
    """A prefill or a decoding step, simulated."""

    def __init__(
        self, scenario: Scenario, plan: Prefill | Decode, calibration: Calibration, engine: EventEngine
    ) -> None:
        self._plan, self._pass = plan, PassEvaluation(_without_contention(scenario), plan, calibration)
        super().__init__(self._pass, self._pass.model, scenario, engine)

    def _simulate(self, model: PassModel) -> tuple[PassTimes, Timeline, tuple[str, ...]]:
        scenario, engine = self._scenario, self._engine
        replicas = engine.replicas(scenario)
        graph = pass_graph(scenario, model, replicas, full=engine.simulates_all(scenario))
        timeline = engine.run(scenario, graph.graph)
        return pass_times_of(model, graph, timeline).scaled(model.pace), timeline, replicas.note(graph.replicas)

    def _metrics(self, times: PassTimes) -> Metrics:
        assert self.ledger is not None, "a pass holds memory"
        return pass_metrics(self._scenario, self._plan, self.ledger, times)

    def breakdown(self) -> list[Entry]:
        entries, total = self._pass.breakdown_of(self._times)
        return summing_to(total, entries, STREAM_STALLS)

    def schedule(self, perturbations: Perturbations = None) -> Mapping[str, Quantity] | None:
        return self._closed.schedule(perturbations)


def _check_periodic(scenario: Scenario, micro_batches: int) -> None:
    """Raise InputError where a long step does not repeat itself: noise, and disturbances that begin or end."""
    simulation = scenario.simulation
    passing = any(slowdown.begin or slowdown.end is not None for slowdown in simulation.slowdowns)
    if simulation.jitter or simulation.draws_experts or passing:
        raise InputError.single(
            f"{micro_batches:,.0f} micro-batches with noise or passing slowdowns would be simulated one by one",
            hint="lower global_batch, or leave them out of `simulation`", field=f"scenarios.{scenario.name}.simulation",
        )  # fmt: skip


def _check_size(scenario: Scenario, passes: int) -> None:
    """Raise InputError where a simulation would take more time and memory than anyone has for it."""
    if passes > MOST_PASSES:
        raise InputError.single(
            f"{passes:,} passes would be simulated, {MOST_PASSES:,} at most",
            hint="use --engine analytic, or fewer stages or micro-batches",
            field=f"scenarios.{scenario.name}",
        )  # fmt: skip


def _positions(perturbations: Mapping[str, Perturbation]) -> int:
    """Return the length of the axis along which families are perturbed."""
    return max(np.size(perturbation.low) for perturbation in perturbations.values())


def _without_contention(scenario: Scenario) -> Scenario:
    """Return the scenario that messages are timed in: if contention is simulated, on a fabric without any."""
    return replace(scenario, cluster=nominal_cluster(scenario.cluster)) if scenario.simulation.contention else scenario


# ---- Answers of a step of reinforcement learning whose requests are simulated one by one -----------------------------

_Requests = Callable[[Scenario, Serving, Calibration], Evaluation]


class SimulatedRollout(BurstRollout):
    """Answers of engines to which all prompts come at once, with the closed form's uncertainty."""

    def __init__(
        self, scenario: Scenario, plan: Serving, calibration: Calibration, answers: Count, requests: _Requests
    ) -> None:  # fmt: skip
        super().__init__(scenario, plan, calibration, answers)
        stream = plan.requests or RequestStream()
        burst = replace(plan, rate=None, concurrency=None, requests=replace(stream, arrivals="burst", count=answers))
        served = requests(replace(scenario, plan=burst), burst, calibration)
        rate = served.metrics(None)["requests_per_second"]
        assert rate is not None
        self._whole = float(answers) / float(rate)
        totals = served.details()["requests"]
        assert isinstance(totals, dict)
        self._busy = self._whole * float(totals["busy_share"])

    def _evaluate(self, perturbations: Perturbations) -> RolloutTimes:
        closed, usual = super()._evaluate(perturbations), super()._evaluate(None)
        factor = closed.seconds / usual.seconds
        return replace(closed, seconds=self._whole * factor, busy=self._busy * factor)

    def breakdown(self) -> list[Entry]:
        """Return the operators of the closed form, which here sum to the simulated time."""
        listed = super().breakdown()
        return [scaled(each, self._whole / sum(one.time for one in listed)) for each in listed]


def rollout_of_requests(
    requests: _Requests | None, scenario: Scenario, calibration: Calibration, answers: Count
) -> Rollout:  # fmt: skip
    """Return what generates answers, request by request where engines have continuous batching."""
    if requests is None or not isinstance(scenario.plan, Serving):
        return rollout_of(scenario, calibration, answers)
    return SimulatedRollout(scenario, scenario.plan, calibration, answers, requests)


# ---- The event engine over a grid: one simulation per point ----------------------------------------------------------


def simulate_grid(scenario: Scenario, calibration: Calibration, shape: tuple[int, ...], engine: EventEngine) -> Result:
    """Return a scenario whose values vary over a grid of that shape. Each feasible point is simulated by itself."""
    _, names = PHASES[scenario.result_kind]
    layout = np.broadcast_to(feasible_layout(scenario), shape)
    reason = np.full(shape, BAD_LAYOUT, dtype=np.int8)
    metrics = {name: empty_grid(shape) for name in names}
    for index in _points(layout):
        point = evaluate_single(single(scenario, index), calibration, engine.evaluate)
        reason[index] = point.reason
        for name, value in point.metrics.items():
            metrics.setdefault(name, empty_grid(shape))[index] = np.nan if value is None else value
    fits = reason == FITS
    return Result(
        scenario.name,
        {name: None if fits.any() and np.isnan(grid[fits]).all() else grid for name, grid in metrics.items()},
        fits, reason, partial(_intervals, scenario, calibration, fits, engine),
        partial(grid_point, engine.point, scenario, calibration, shape),
        partial(routing_grid, scenario, shape, layout),
    )  # fmt: skip


def _points(mask: npt.NDArray[np.bool_]) -> list[tuple[int, ...]]:
    return [tuple(index) for index in np.argwhere(mask).tolist()]


def _intervals(
    scenario: Scenario, calibration: Calibration, fits: npt.NDArray[np.bool_], engine: EventEngine,
    names: Collection[str],
) -> dict[str, Interval]:  # fmt: skip
    lows, highs = ({name: empty_grid(fits.shape) for name in names} for _ in range(2))
    for index in _points(fits):
        spans = evaluate_single(single(scenario, index), calibration, engine.evaluate).intervals
        for name in names:
            pair = spans[name]
            if pair is not None:
                lows[name][index], highs[name][index] = pair
    return {name: (lows[name], highs[name]) for name in names}


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
