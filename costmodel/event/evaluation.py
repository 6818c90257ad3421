"""The event engine's answers: the closed form's operators and ledger, with the times of a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from costmodel.analytic.breakdown import Lines, add_pass
from costmodel.analytic.evaluation import Evaluation, PassEvaluation, TrainingEvaluation, evaluate
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.inference import PassModel, PassTimes
from costmodel.analytic.metrics import decode_metrics, prefill_metrics, schedule_times, training_metrics
from costmodel.analytic.no_schedule import Unscheduled
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.stream_times import Perturbation, Perturbations
from costmodel.analytic.training import StepModel, StepTimes, last_pass
from costmodel.cost.calibration import Calibration
from costmodel.event.conditions import Conditions
from costmodel.event.engine import Timeline, run
from costmodel.event.goodput import simulate_goodput
from costmodel.event.graph import Graph
from costmodel.event.passes import pass_graph, pass_times_of
from costmodel.event.perturbation import moved_alike, perturbed, stacked
from costmodel.event.replicas import Replicas
from costmodel.event.training import step_graph, times_of
from costmodel.network.nominal import nominal_cluster
from costmodel.quantities import Quantity
from costmodel.result import Entry, Metrics, Point
from costmodel.workload.plans import Decode, Prefill, Training, tokens_per_step
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules import Schedule, order

FEW_TASKS = 100_000  # in all simulations for intervals together: a second
STREAMS_WAIT = "waits between streams"
NOT_SIMULATED = "the event engine simulates training, prefill and decode; this is the closed form"


@dataclass(slots=True)
class EventEngine:
    """Evaluates scenarios by simulation and keeps their timelines, by name of the scenario.

    conditions: instead of those that scenarios ask for; full: ranks, stages and replicas that are alike are simulated
    one by one, as ranks are where something tells them apart; perturbed: intervals come from a simulation for each
    family of operators and side, not from how far these move the closed form (null: where that is `FEW_TASKS`).
    """

    conditions: Conditions | None = None
    full: bool = False
    perturbed: bool | None = None
    timelines: dict[str, Timeline] = field(default_factory=dict)

    def run(self, scenario: Scenario, graph: Graph) -> Timeline:
        """Return the timeline of a scenario's graph."""
        return run(graph, Conditions.of(scenario) if self.conditions is None else self.conditions)

    def simulates_all(self, scenario: Scenario) -> bool:
        """Tell whether every rank is simulated by itself."""
        disturbed = self.conditions is not None and bool(self.conditions.jitter or self.conditions.slowdown_windows)
        return self.full or disturbed or scenario.simulation.contention or scenario.simulation.ranks_differ

    def perturbs(self, scenario: Scenario, moves: Mapping[str, Perturbation]) -> bool:
        """Tell whether a scenario is simulated anew for each position along the axis of the moves."""
        tasks = len(self.timelines[scenario.name].graph.tasks)
        return tasks * _positions(moves) <= FEW_TASKS if self.perturbed is None else self.perturbed

    def replicas(self, scenario: Scenario) -> Replicas:
        """Return how many data-parallel replicas are simulated: all of them with `full`."""
        asked, of = scenario.simulation, round(float(scenario.parallel.dp))
        disturbed = self.conditions is not None and bool(self.conditions.jitter or self.conditions.slowdown_windows)
        count = of if self.full else 1 if asked.replicas is None else asked.replicas
        apart = disturbed or asked.ranks_differ or asked.replicas is not None
        return Replicas(count, of, apart, f"scenarios.{scenario.name}.simulation")

    def evaluate(self, scenario: Scenario, calibration: Calibration) -> Evaluation:
        """Return the evaluation of a scenario; phases without streams of their own are those of the closed form.

        Raises StuckError where the simulation comes to a stop.
        """
        plan = scenario.plan
        if isinstance(plan, Training):
            return _Step(scenario, plan, calibration, self)
        if isinstance(plan, Prefill | Decode):
            return _Pass(scenario, plan, calibration, self)
        return evaluate(scenario, calibration)

    def point(self, scenario: Scenario, calibration: Calibration) -> Point:
        """Return a single scenario in full; a note tells where it is the closed form's."""
        found = evaluate_point(scenario, calibration, self.evaluate)
        if isinstance(scenario.plan, Training):
            return self._with_goodput(scenario, found)
        if isinstance(scenario.plan, Prefill | Decode):
            return found
        return replace(found, notes=(*found.notes, NOT_SIMULATED))

    def _with_goodput(self, scenario: Scenario, found: Point) -> Point:
        """Return a training scenario's point with the goodput of a long run, where checkpoints are stated."""
        asked, step = scenario.simulation, found.metrics[found.headline]
        if asked.checkpoints is None or step is None:
            return found
        told = simulate_goodput(step, scenario.devices, asked.checkpoints, asked.seed)
        return replace(found, goodput=told.document())


class _Step:
    """A training step, simulated."""

    headline = "step_time"

    def __init__(self, scenario: Scenario, plan: Training, calibration: Calibration, engine: EventEngine) -> None:
        self._scenario, self._plan, self._engine = scenario, plan, engine
        self._closed = TrainingEvaluation(_unmet(scenario), plan, calibration)
        self.ledger = self._closed.ledger
        self._times, engine.timelines[scenario.name], self._notes = self._simulated(self._closed.priced)

    def _simulated(self, priced: StepModel) -> tuple[StepTimes, Timeline, tuple[str, ...]]:
        scenario, engine = self._scenario, self._engine
        schedule = _whole(priced.schedule, scenario) if engine.simulates_all(scenario) else priced.schedule
        last_passes = [last_pass(self._plan, schedule, rank) for rank in range(len(schedule.ranks))]
        replicas = engine.replicas(scenario)
        made = step_graph(scenario, priced, schedule, last_passes, replicas)
        timeline = engine.run(scenario, made.graph)
        return times_of(made, timeline), timeline, _alike(replicas, made.replicas)

    def metrics(self, moves: Perturbations) -> Metrics:
        """Return the metrics of the step; moved ones as far as the closed form's, or by simulations of their own."""
        priced = self._closed.priced
        if moves is None:
            return training_metrics(self._scenario, self._plan, priced, self._times)
        if not self._engine.perturbs(self._scenario, moves):
            return moved_alike(self.metrics(None), self._closed.metrics(None), self._closed.metrics(moves))
        steps = (perturbed(priced, moves, position) for position in range(_positions(moves)))
        return stacked([training_metrics(self._scenario, self._plan, step, self._simulated(step)[0]) for step in steps])

    def families(self) -> frozenset[str]:
        """Return the families of the step's operators whose times are uncertain."""
        return self._closed.families()

    def operators(self) -> list[TimedOperator]:
        """Return the operators of the step."""
        return self._closed.operators()

    def breakdown(self) -> list[Entry]:
        """Return the operators of the step; with the bubble they sum to the step."""
        return _summing(self._closed.breakdown(), float(self._times.step) - float(self._times.bubble))

    def schedule(self, moves: Perturbations = None) -> Mapping[str, Quantity] | None:
        """Return the step's parts."""
        return self._closed.schedule(moves) if moves is not None else schedule_times(self._times)

    def notes(self) -> tuple[str, ...]:
        """Return whether one replica stands for all though all were asked for."""
        return self._notes


class _Pass(Unscheduled):
    """A prefill or a decoding step, simulated."""

    def __init__(
        self, scenario: Scenario, plan: Prefill | Decode, calibration: Calibration, engine: EventEngine
    ) -> None:
        self._scenario, self._plan, self._engine = scenario, plan, engine
        self._closed = PassEvaluation(_unmet(scenario), plan, calibration)
        self.ledger, self.headline = self._closed.ledger, self._closed.headline
        self._times, engine.timelines[scenario.name], self._notes = self._simulated(self._closed.priced)

    def _simulated(self, priced: PassModel) -> tuple[PassTimes, Timeline, tuple[str, ...]]:
        scenario, engine = self._scenario, self._engine
        replicas = engine.replicas(scenario)
        made = pass_graph(scenario, priced, replicas, full=engine.simulates_all(scenario))
        timeline = engine.run(scenario, made.graph)
        return pass_times_of(priced, made, timeline), timeline, _alike(replicas, made.replicas)

    def metrics(self, moves: Perturbations) -> Metrics:
        """Return the metrics of the pass; moved ones as far as the closed form's, or by simulations of their own."""
        if moves is None:
            return self._of(self._times)
        if not self._engine.perturbs(self._scenario, moves):
            return moved_alike(self.metrics(None), self._closed.metrics(None), self._closed.metrics(moves))
        passes = (perturbed(self._closed.priced, moves, position) for position in range(_positions(moves)))
        return stacked([self._of(self._simulated(each)[0]) for each in passes])

    def _of(self, times: PassTimes) -> Metrics:
        if isinstance(self._plan, Prefill):
            return prefill_metrics(self._scenario, self._plan, times)
        assert self.ledger is not None, "a pass holds memory"
        return decode_metrics(self._scenario, self._plan, self.ledger, times)

    def families(self) -> frozenset[str]:
        """Return the families of the pass's operators whose times are uncertain."""
        return self._closed.families()

    def operators(self) -> list[TimedOperator]:
        """Return the operators of all kinds of layers."""
        return self._closed.operators()

    def notes(self) -> tuple[str, ...]:
        """Return whether one replica stands for all though all were asked for."""
        return self._notes

    def breakdown(self) -> list[Entry]:
        """Return the operators of the pass, which sum to the headline."""
        lines, times = Lines(), self._times
        if isinstance(self._plan, Prefill):
            steps = float(self._plan.steps)
            add_pass(lines, self._closed.priced, times, steps)
            return _summing(lines.sorted(), steps * float(times.latency))
        step = float(times.round(self._scenario.parallel.pp))
        tokens = float(tokens_per_step(self._plan.speculative))
        add_pass(lines, self._closed.priced, times, 1.0 / tokens)
        lines.add_wait("pipeline wait", (step - float(times.latency)) / tokens, "latency")
        return _summing(lines.sorted(), step / tokens)


def _positions(moves: Mapping[str, Perturbation]) -> int:
    """Return the length of the axis along which families are moved."""
    return max(np.size(move.low) for move in moves.values())


def _alike(asked: Replicas, simulated: int) -> tuple[str, ...]:
    if simulated == asked.count:
        return ()
    return (f"all {asked.count:,} data-parallel replicas are alike, and too many to be simulated: one stands for all",)


def _unmet(scenario: Scenario) -> Scenario:
    """Return what times of messages are taken from: with contention, a fabric on which nothing meets."""
    return replace(scenario, cluster=nominal_cluster(scenario.cluster)) if scenario.simulation.contention else scenario


def _whole(folded: Schedule, scenario: Scenario) -> Schedule:
    """Return the schedule with all its ranks."""
    parallel = scenario.parallel
    return order(folded.name, int(parallel.pp), int(parallel.virtual), folded.micro_batches)


def _summing(entries: list[Entry], total: float) -> list[Entry]:
    """Return entries that sum to `total`: what streams wait for is a line, what they hide beyond it leaves all."""
    known = sum(entry.time for entry in entries)
    if abs(total - known) <= 1e-9 * total:  # the order in which floats were added
        return entries
    if total > known:
        return [*entries, _waiting(entries, total - known)]
    for entry in entries:
        hidden = entry.time * (1.0 - total / known)
        entry.time, entry.hidden = entry.time - hidden, entry.hidden + hidden
    return entries


def _waiting(entries: list[Entry], seconds: float) -> Entry:
    """Return the line of what streams wait for; it rests on what the longest line rests on."""
    line = Entry(STREAMS_WAIT, seconds)
    line.by_bound["latency"], line.by_basis[entries[0].basis] = seconds, seconds
    return line
