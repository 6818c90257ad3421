"""A step of reinforcement learning, of the parts that `generate`, `serving` and `training` scenarios are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

from costmodel.analytic.breakdown import BreakdownLines
from costmodel.analytic.intervals import RunScatter
from costmodel.analytic.metrics import invested
from costmodel.analytic.operator_timing import TimedOperator, operator_timer, uncertain_families
from costmodel.analytic.serving.burst import Rollout, RolloutTimes, rollout_of, scaled
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation, seconds_of
from costmodel.analytic.training.step_model import training_context
from costmodel.analytic.training.step_times import ForwardPasses, forward_model
from costmodel.analytic.training_evaluation import TrainingEvaluation
from costmodel.cost.calibration import Calibration, other_of
from costmodel.cost.money import rental_cost
from costmodel.cost.power import energy
from costmodel.equations import equation
from costmodel.quantities import Bytes, Count, Joules, Quantity, Seconds, maximum, sum_of, where
from costmodel.records import Record, fields, replace
from costmodel.result import Entry, Metrics
from costmodel.workload.adapters import Adapters
from costmodel.workload.context import Context
from costmodel.workload.host_offload import weight_bytes
from costmodel.workload.layers import model_work
from costmodel.workload.memory import Ledger, most_loaded
from costmodel.workload.operators import Collective, Elementwise, Group, HostTransfer, Operator
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.scenario import Scenario
from costmodel.workload.sharding import is_nothing

_SAME_LENGTH = 1.001  # mean lengths up to this ratio are the stated one: draws and cut tails move a mean by as much
Update: TypeAlias = "Callable[[Scenario, Calibration], TrainingStep]"
Scatter: TypeAlias = "Callable[[Scenario, Calibration], RunScatter | None]"
Rollouts: TypeAlias = "Callable[[Scenario, Calibration, Count], Rollout]"


class TrainingStep(Protocol):
    """An optimizer step, in closed form or simulated."""

    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics with families perturbed within their spread."""

    def operators(self) -> list[TimedOperator]:
        """Return every distinct operator."""

    def breakdown(self) -> list[Entry]:
        """Return the parts that the step and its bubble consist of [s]."""


class PartTimes(Record):
    """Seconds of the parts of a step.

    rollout: of the engines, which `wait` for the others' last answers on average.
    """

    rollout: Seconds
    wait: Seconds
    reward: Seconds
    log_probabilities: Seconds
    train: Seconds
    update: Seconds
    offload: Seconds
    engines: RolloutTimes


class ReinforcementEvaluation(PhaseEvaluation[PartTimes]):
    """A step of reinforcement learning."""

    headline = "step_time"

    def __init__(
        self, scenario: Scenario, plan: Reinforcement, calibration: Calibration, *,
        train: Update = lambda one, fits: TrainingEvaluation(one, one.plan, fits),  # type: ignore[arg-type]
        rollout: Rollouts = rollout_of,
    ) -> None:  # fmt: skip
        """Start with the parts in closed form, unless other engines are given for them."""
        engines = other_of(calibration)
        self._scenario, self._plan, self._calibrations = scenario, plan, (engines, calibration)
        self.rollout = rollout(plan.rollout, engines, plan.answers)
        self.step = TrainingEvaluation(plan.train, plan.training, calibration)
        self.train = train(plan.train, calibration)
        self._passes = dict(self._forward_passes(calibration))
        timer = operator_timer(replace(plan.train, cluster=scenario.cluster), calibration)
        self._update = timer.time_all(new_weights(plan))
        self._copies = timer.time_all(host_copies_of(plan, self.step.model.ledger))
        self._swap = timer.time_all(reference_swap(plan, self.step.model.ledger))
        self.ledger: Ledger | None = self._fullest()

    def _forward_passes(self, calibration: Calibration) -> Iterator[tuple[str, ForwardPasses]]:
        """Yield the passes that log probabilities take, by whose they are."""
        plan, train, training = self._plan, self._plan.train, self._plan.training
        batch = training.micro_batch if plan.log_probability_batch is None else plan.log_probability_batch
        for name in plan.log_probabilities:
            own, model = training, self.step.model
            if name == "reference" and training.adapters is not None:
                own = replace(training, adapters=Adapters(0.0, (), training.adapters.base_precision))
            if own is not training or batch is not training.micro_batch:
                model = forward_model(train, own, calibration, batch)
            yield name, ForwardPasses(train, model, batch, plan.answers)

    def _fullest(self) -> Ledger:
        """Return the ledger of a device while it generates or while it trains, whichever needs more.

        Engines of colocated devices sleep meanwhile, without weights or cache. Gradients that are on no device are made
        anew.
        """
        plan, training, engines = self._plan, self.step.model.ledger, self.rollout.ledger
        assert engines is not None, "engines hold memory"
        copy: Bytes = training.weights if plan.has_copy else 0.0
        on_device: Bytes = copy if plan.reference == "device" else 0.0
        trains = replace(
            training, weights=training.weights + on_device, host=training.host + copy - on_device
        )  # fmt: skip
        if plan.placement == "split":
            return most_loaded([engines, trains])
        weights, states = (where(plan.offload in offloads, 0.0, 1.0) for offloads in (("all",), ("all", "states")))
        generates = replace(
            engines,
            weights=engines.weights + weights * trains.weights,
            gradients=states * trains.gradients,
            optimizer=states * trains.optimizer,
            host=engines.host + trains.host + (1.0 - weights) * trains.weights + (1.0 - states) * trains.optimizer,
        )
        return most_loaded([generates, trains])

    @equation
    def _evaluate(self, perturbations: Perturbations) -> PartTimes:
        """Return the times of the parts.

        rollout = where(flows, engines.steady, engines.seconds)   `continuous`, or to the last answer
        log_probabilities = factor * sum(passes) + sum(swap)      of the policy and the reference
        train = optimizer_steps * step
        update = sum(moves)
        offload = sum(copies)
        """
        plan, engines = self._plan, self.rollout.times(perturbations)
        step, optimizer_steps = self.train.metrics(perturbations)["step_time"], plan.optimizer_steps
        assert step is not None
        factor = 1.0 if self.step.anchored is None else self.step.anchored.factor
        passes = [each.seconds(perturbations) for each in self._passes.values()]
        moves, copies, swap = (
            [seconds_of(each, perturbations) for each in some] for some in (self._update, self._copies, self._swap)
        )
        flows = (plan.staleness >= 1) & plan.continuous
        rollout = where(flows, engines.steady, engines.seconds)
        wait = where(flows, 0.0, engines.seconds - engines.busy)
        log_probabilities, train = factor * sum_of(passes) + sum_of(swap), optimizer_steps * step
        update, offload = sum_of(moves), sum_of(copies)
        return PartTimes(rollout, wait, plan.reward, log_probabilities, train, update, offload, engines)

    @equation
    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics of a step.

        step_time = where(plan.staleness >= 1, overlapped, in_turn)
        in_turn = generating + training + times.update + times.offload     one part after the other
        overlapped = max(generating, training) + times.update              of two pools, from staleness 1 on
        generating = times.rollout + times.reward
        training = times.log_probabilities + times.train
        samples_per_second = answers / step
        tokens_per_second = tokens / step
        tokens_per_second_per_device = tokens_per_second / devices
        cost_per_step = sum(rents)             of the devices that generate alone and of those that train
        cost_per_sample = cost_per_step / answers
        energy_per_sample = joules
        idle_share = 1 - working / (devices * step)
        working := device-seconds in which a device generates, trains, or moves weights
        rollout_time = times.rollout
        reward_time = times.reward
        log_probability_time = times.log_probabilities
        train_time = times.train
        update_time = times.update
        offload_time = times.offload
        """
        times, plan, devices = self.times(perturbations), self._plan, self._scenario.devices
        answers, tokens = plan.answers, plan.tokens
        generating, training = times.rollout + times.reward, times.log_probabilities + times.train
        in_turn = generating + training + times.update + times.offload
        overlapped = maximum(generating, training) + times.update
        step = where(plan.staleness >= 1, overlapped, in_turn)
        engines, trainers = plan.rollout.devices, plan.train.devices
        moving = (times.update + times.offload) * devices
        working = (times.rollout - times.wait) * engines + training * trainers + moving
        rents = [
            rental_cost(part.cluster.device, count, step)
            for part, count in ((plan.rollout, devices - trainers), (plan.train, trainers))
        ]
        cost_per_step = None if rents[0] is None or rents[1] is None else rents[0] + rents[1]
        joules = self._energy(times, step)
        return {
            "step_time": step,
            "rollout_time": times.rollout,
            "reward_time": times.reward,
            "log_probability_time": times.log_probabilities,
            "train_time": times.train,
            "update_time": times.update,
            "offload_time": times.offload,
            "samples_per_second": answers / step,
            "tokens_per_second": tokens / step,
            "tokens_per_second_per_device": tokens / step / devices,
            "idle_share": 1.0 - working / (devices * step),
            "cost_per_step": cost_per_step,
            "cost_per_sample": None if cost_per_step is None else cost_per_step / answers,
            "energy_per_sample": joules,
            **invested(self._scenario, devices),
        }

    def _energy(self, times: PartTimes, step: Seconds) -> Joules | None:
        """Return the energy of an answer: of a step's work, and of what boards take anyhow."""
        plan, devices = self._plan, self._scenario.devices
        model = self.step.model
        of_steps = plan.optimizer_steps * model.joules
        of_passes = sum_of(each.joules() for each in self._passes.values())
        busy = model.busy * (times.log_probabilities + times.train)
        joules = times.engines.joules * plan.rollout.devices + (of_steps + of_passes + busy) * plan.train.devices
        return energy(self._scenario.cluster.node, devices, step / plan.answers, joules / (devices * step))

    def operators(self) -> list[TimedOperator]:
        """Return the operators of the engines, of the training step, and what moves weights, each with its part."""
        train = self.train.operators()
        return [
            *_named("rollout", self.rollout.operators()),
            *_named("train", train),
            *_named("log probabilities", [timed for each in self._passes.values() for _, timed in each.operators()]),
            *_named("log probabilities", self._swap),
            *_named("update", self._update),
            *_named("offload", self._copies),
        ]

    def families(self) -> frozenset[str]:
        """Return the families of the parts whose times are uncertain."""
        return uncertain_families(self.operators())

    def scatter(self, of_part: Scatter) -> RunScatter | None:
        """Return how far steps lie from their prediction, of independent parts of which each has its share of the time.

            down^2 = sum over parts of (share * down of its phase)^2,    up likewise; means of all else

        of_part: returns that of a scenario and its calibration.
        """
        times, (engines, trains) = self.times(), self._calibrations
        known = [
            (of_part(self._plan.rollout, engines), times.rollout),
            (of_part(self._plan.train, trains), times.log_probabilities + times.train),
        ]
        whole = sum_of(seconds for _, seconds in known)
        shares = [(each, seconds / whole) for each, seconds in known if each is not None]
        if not shares:
            return None

        def combined(name: str) -> Quantity:
            parts = [(getattr(each, name), share) for each, share in shares]
            if name in ("down", "up"):
                return sum_of((share * value) ** 2 for value, share in parts) ** 0.5
            return sum_of(share * value for value, share in parts)

        return RunScatter(**{name: combined(name) for name in fields(RunScatter)})  # type: ignore[arg-type]

    def breakdown(self) -> list[Entry]:
        """Return the lines of each part, which sum to the step. Of two pools at work at once the shorter is hidden."""
        times, plan, parts = self.times(), self._plan, dict[str, list[Entry]]()
        is_async = bool(plan.staleness >= 1)
        lengths = {
            "rollout": times.rollout, "reward": times.reward, "log probabilities": times.log_probabilities,
            "train": times.train, "update": times.update, "offload": 0.0 if is_async else times.offload,
        }  # fmt: skip
        parts["rollout"] = self.rollout.breakdown()
        parts["train"] = [scaled(each, float(plan.optimizer_steps)) for each in self.train.breakdown()]
        parts["train"] += [
            Entry("bubble", float(plan.optimizer_steps * (self.train.metrics(None)["bubble_time"] or 0.0)))
        ]
        for name, timed in (("update", self._update), ("offload", self._copies)):
            lines = BreakdownLines()
            for each in timed:
                lines.add(each, 1.0)
            parts[name] = lines.sorted()
        lines = BreakdownLines()
        for passes in self._passes.values():
            for count, operator in passes.operators():
                lines.add(operator, float(count))
        for copy in self._swap:
            lines.add(copy, 1.0)
        parts["log probabilities"] = lines.sorted()
        parts["reward"] = [Entry("scoring", float(times.reward))]
        generating, training = times.rollout + times.reward, times.log_probabilities + times.train
        hidden = ("log probabilities", "train") if generating >= training else ("rollout", "reward")
        entries: list[Entry] = []
        for name, listed in parts.items():
            own = _summing_to(float(lengths[name]), listed)
            entries += [_part_line(name, each, is_hidden=is_async and name in hidden) for each in own]
        return sorted((each for each in entries if each.time or each.hidden), key=lambda each: -each.time)

    def notes(self) -> tuple[str, ...]:
        """Return what answers do not fit into the sequences that are trained."""
        plan = self._plan
        length = plan.engine_plan.input_tokens + plan.engine_plan.output_tokens
        if bool(length > plan.training.sequence * _SAME_LENGTH):
            return (
                f"prompt and answer have {float(length):,.0f} tokens on average, sequences of training "
                f"{float(plan.training.sequence):,.0f}: the update is of shorter ones",
            )
        return ()


def _named(part: str, operators: list[TimedOperator] | tuple[TimedOperator, ...]) -> Iterator[TimedOperator]:
    for timed in operators:
        operator = replace(timed.operator, name=f"{part}: {timed.operator.name}")
        yield replace(timed, operator=operator)


@equation
def _summing_to(total: Seconds, listed: list[Entry]) -> list[Entry]:
    """Return lines that sum to the time of a part: what is missing is a wait, what is too much is hidden.

    waits = total - whole            of what no kernel of the part takes
    """
    whole = sum(each.time for each in listed)
    waits = total - whole
    if abs(float(waits)) <= 1e-9 * whole:
        return listed
    if waits > 0:
        wait = Entry("waits", float(waits))
        wait.by_bound["latency"] = wait.by_basis[listed[0].basis if listed and listed[0].by_basis else "fitted"] = (
            wait.time
        )
        return [*listed, wait]
    share = float(total / whole)
    return [replace(each, time=each.time * share, hidden=each.hidden + each.time * (1 - share)) for each in listed]


def _part_line(part: str, entry: Entry, *, is_hidden: bool) -> Entry:
    """Return a line under the name of its part. One without operators is what the devices wait for."""
    if not entry.by_bound:
        entry.by_bound["latency"] = entry.by_basis["fitted"] = entry.time
    time, hidden = (0.0, entry.time + entry.hidden) if is_hidden else (entry.time, entry.hidden)
    return replace(entry, name=f"{part}: {entry.name}", time=time, hidden=hidden)


# ---- What moves between the parts of a step of reinforcement learning: new weights to the engines, states to the host.


def new_weights(plan: Reinforcement) -> list[Operator]:
    """Return what brings the trained weights from the ranks of training to those of the engines.

        gathered   W bytes over the ranks that have different ones: tp * pp, of experts ep * etp * pp, and those that
                   shard them under ZeRO-3; with `shards` W / (tp * pp of an engine)
        sent       W bytes from there to all engines, where these have devices of their own: a broadcast
        loaded     2 W / (tp * pp of an engine): each device reads and writes its part

    W: the weights that are trained, of adapters these alone.
    """
    context, parallel = training_context(plan.train, plan.training), plan.train.parallel
    engines = plan.rollout.parallel.tp * plan.rollout.parallel.pp
    part = 1.0 if plan.update.weights == "whole" else 1.0 / engines
    sharded = parallel.cp * parallel.dp if plan.training.zero == 3 else 1.0
    operators: list[Operator] = []
    whole: Bytes = 0.0
    for is_expert, size in _trained_bytes(context).items():
        if is_nothing(size):
            continue
        ranks: Count = parallel.tp * parallel.pp * sharded
        if is_expert:
            stage = parallel.tp * parallel.cp * parallel.dp
            ranks = parallel.pp * (stage if plan.training.zero == 3 else parallel.ep * parallel.etp)
        name = "expert weight gather" if is_expert else "weight gather"
        operators.append(Collective(name, "all_gather", size * part, Group(ranks)))
        whole = whole + size
    if plan.placement == "split":
        operators.append(Collective("weight broadcast", "broadcast", whole, Group(plan.devices)))
    operators.append(Elementwise("weight load", 2.0 * whole / engines, kind="copy"))
    return operators


def _trained_bytes(context: Context) -> dict[bool, Bytes]:
    """Return the bytes of the trained weights of a model that belong to routed experts (True), and of the rest."""
    work, kinds = model_work(context), context.architecture.kinds.values()
    counted = [(1.0, work.embedding), *zip(map(float, kinds), work.layers, strict=True), (1.0, work.head)]
    owned = [(count, item) for count, kind in counted for item in kind.parameters if item.trains]
    return {
        expert: sum_of(
            count * item.total * weight_bytes(context, item) for count, item in owned if item.expert == expert
        )
        for expert in (False, True)
    }


def host_copies_of(plan: Reinforcement, training: Ledger) -> list[Operator]:
    """Return the copies of a device of what its host keeps while it generates, to the host and back."""
    if plan.offload == "none":
        return []
    size = training.optimizer + (training.weights if plan.offload == "all" else 0.0)
    return _copies(plan, "states", size, size)


def reference_swap(plan: Reinforcement, training: Ledger) -> list[Operator]:
    """Return the copies of a reference that takes the place of the weights for its pass: these out and in, it in."""
    if not plan.has_copy or plan.reference == "device":
        return []
    return _copies(plan, "weights", training.weights, 2.0 * training.weights)


def _copies(plan: Reinforcement, what: str, out: Bytes, back: Bytes) -> list[Operator]:
    """Return copies of some bytes of each device to its host, and from there."""
    devices = plan.train.parallel.devices
    ways = (("to", out, "out"), ("from", back, "in"))
    return [HostTransfer(f"{what} {word} the host", size, way, devices) for word, size, way in ways]
