"""Images and videos from noise: texts, steps of denoising and pixels, one network after the other."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.analytic.breakdown import BreakdownLines, add_pass
from costmodel.analytic.inference import PassModel, PassTimes, operators_of, pass_model_of, pass_times
from costmodel.analytic.metrics import invested, largest_batch
from costmodel.analytic.operator_timing import TimedOperator, operator_timer
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation, seconds_of, stream_times
from costmodel.cost.calibration import Calibration
from costmodel.cost.money import rental_cost
from costmodel.cost.power import energy
from costmodel.equations import equation
from costmodel.quantities import Bytes, Count, Joules, Quantity, Seconds, maximum, sum_of, where
from costmodel.records import Record, replace
from costmodel.result import Entry, Metrics
from costmodel.workload.diffusion import (
    DECODER,
    DENOISER,
    ENCODER,
    TEXT_ENCODER,
    Part,
    guidance_exchange,
    part_ledger,
    parts_of,
)
from costmodel.workload.memory import Ledger
from costmodel.workload.operators import HostTransfer
from costmodel.workload.plans import Diffusion
from costmodel.workload.scenario import Scenario


class DiffusionTimes(Record):
    """Seconds of a batch of images or videos.

    copies: of weights from the host, where a device holds one network at a time
    step: of the denoising network without the exchange of what it predicts, means over all steps
    joules: of the work of one device [J]
    """

    texts: Seconds
    encoder: Seconds
    step: Seconds
    exchange: Seconds
    decoder: Seconds
    copies: Seconds
    joules: Joules


class DiffusionEvaluation(PhaseEvaluation[DiffusionTimes]):
    """A batch of images or videos."""

    headline = "latency"

    def __init__(self, scenario: Scenario, plan: Diffusion, calibration: Calibration) -> None:
        self._scenario, self._plan = scenario, plan
        timer = operator_timer(scenario, calibration)
        self.parts = parts_of(scenario, plan)
        self.models = [pass_model_of(part.scenario, part.forward, part.work, timer) for part in self.parts]
        self.ledgers = [part_ledger(part) for part in self.parts]
        self.ledger: Ledger | None = whole_ledger(plan, self.ledgers)
        self._exchange = timer.time_operator(guidance_exchange(scenario, plan))
        self._copies = list(map(timer.time_operator, weight_copies(scenario, plan, self.parts, self.ledgers)))

    @property
    def computed(self) -> Quantity:
        """Return the share of the layers that a step computes: 1 - cached steps * cached layers."""
        return 1.0 - self._plan.cached_steps * self._plan.cached_layers

    def runs(self, part: Part) -> Count:
        """Return the passes of a network."""
        if part.name == ENCODER:
            return where(self._plan.encoded > 0, 1.0, 0.0)
        return self._plan.steps if part.name == DENOISER else part.passes

    @equation
    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics of the batch.

        latency = text_encoder_time + encoder_time + denoiser_time + decoder_time + times.copies
        text_encoder_time = times.texts
        encoder_time = times.encoder
        denoising_step_time = times.step + times.exchange
        denoiser_time = plan.steps * step
        decoder_time = times.decoder
        images_per_second = rate
        images_per_second_per_device = rate / devices
        max_batch = most
        cost_per_image = cost
        energy_per_image = joules
        """
        plan, scenario, times = self._plan, self._scenario, self.times(perturbations)
        step, devices, node = times.step + times.exchange, scenario.devices, scenario.cluster.node
        denoiser_time = plan.steps * step
        latency = times.texts + times.encoder + denoiser_time + times.decoder + times.copies
        rate = plan.batch / latency
        assert self.ledger is not None
        most = largest_batch(scenario, self.ledger, plan.batch, scenario.parallel.dp / plan.guidance_parallel)
        cost = rental_cost(node.device, devices, 1 / rate)
        joules = energy(node, devices, 1 / rate, times.joules / latency)
        return {
            "latency": latency,
            "text_encoder_time": times.texts,
            "encoder_time": times.encoder,
            "denoising_step_time": step,
            "denoiser_time": denoiser_time,
            "decoder_time": times.decoder,
            "images_per_second": rate,
            "images_per_second_per_device": rate / devices,
            "max_batch": most,
            "cost_per_image": cost,
            "energy_per_image": joules,
            **invested(scenario, devices),
        }

    @equation
    def _evaluate(self, perturbations: Perturbations) -> DiffusionTimes:
        """Return the times of the batch, each network's passes one after the other.

        step = denoising.latency
        exchange := message by which ranks that share the passes of a step get each other's predictions
        copies = sum(each_copy)
        """
        spent: dict[str, Seconds] = dict.fromkeys((TEXT_ENCODER, ENCODER, DECODER), 0.0)
        step: Seconds = 0.0
        joules: Joules = 0.0
        for part, model in zip(self.parts, self.models, strict=True):
            times = self._times(part, model, perturbations)
            joules = joules + self.runs(part) * times.joules
            if part.name == DENOISER:
                denoising = times
                step = denoising.latency
            else:
                spent[part.name] = spent[part.name] + self.runs(part) * times.latency
        exchange = seconds_of(self._exchange, perturbations)
        each_copy = [seconds_of(copy, perturbations) for copy in self._copies]
        copies = sum_of(each_copy)
        return DiffusionTimes(spent[TEXT_ENCODER], spent[ENCODER], step, exchange, spent[DECODER], copies, joules)

    def _times(self, part: Part, model: PassModel, perturbations: Perturbations) -> PassTimes:
        """Return the times of a pass of a network, of denoising the mean over all steps."""
        times = pass_times(model, perturbations)
        return mean_step(model, times, self.computed, perturbations) if part.name == DENOISER else times

    def operators(self) -> list[TimedOperator]:
        """Return the operators of all networks, exchanges of predictions, and copies of weights."""
        return [*operators_of(self.models), self._exchange, *self._copies]

    def breakdown(self) -> list[Entry]:
        """Return the operators of all networks, which sum to the latency."""
        lines = BreakdownLines()
        for part, model in zip(self.parts, self.models, strict=True):
            own = with_cached_layers(model, float(self.computed)) if part.name == DENOISER else model
            add_pass(lines, own, self._times(part, model, None), float(self.runs(part)))
        lines.add(self._exchange, float(self._plan.steps))
        for copy in self._copies:
            lines.add(copy, 1.0)
        return lines.sorted()

    def details(self) -> Mapping[str, object]:
        """Return the weights and the activations of each network [B], and its passes."""
        parts: dict[str, dict[str, float]] = {}
        for part, ledger in zip(self.parts, self.ledgers, strict=True):
            own = parts.setdefault(part.name, {"passes": float(self.runs(part)), "weights": 0.0, "activations": 0.0})
            own["weights"] += float(ledger.weights)
            own["activations"] = max(own["activations"], float(ledger.activations))
        return {"parts": parts}


@equation
def mean_step(
    model: PassModel, times: PassTimes, computed: Quantity, perturbations: Perturbations
) -> PassTimes:  # fmt: skip
    """Return the times of a denoising step of which a share of the layers is computed, and others are known.

        latency = ends + computed * (times.latency - ends)

    ends: what is before the first layer and behind the last one, which every step computes. Energy, busy time and waits
    shrink as the latency does.
    """
    ends = sum_of(
        stream_times(segment.operators, perturbations).total
        for layer in (model.segments[0], model.segments[-1])
        for segment in layer
    )
    latency = ends + computed * (times.latency - ends)
    share = latency / times.latency
    return replace(
        times, latency=latency, slowest=latency, busy=share * times.busy, kernels=share * times.kernels,
        contention=share * times.contention, joules=share * times.joules, host=share * times.host,
    )  # fmt: skip


def with_cached_layers(model: PassModel, computed: float) -> PassModel:
    """Return a pass whose layers run that often on average, and what is around them once."""
    stages = tuple(
        replace(
            stage, repeats=(stage.repeats[0], *(computed * each for each in stage.repeats[1:-1]), stage.repeats[-1])
        )
        for stage in model.stages
    )
    return replace(model, stages=stages)


def weight_copies(scenario: Scenario, plan: Diffusion, parts: list[Part], ledgers: list[Ledger]) -> list[HostTransfer]:
    """Return the copies of weights to the device where it holds one network at a time."""
    if plan.resident == "all":
        return []
    named = zip(parts, ledgers, strict=True)
    return [HostTransfer(f"{part.name}: weights", own.weights, "in", scenario.devices) for part, own in named]


@equation
def whole_ledger(plan: Diffusion, ledgers: list[Ledger]) -> Ledger:
    """Return the ledger of networks that run one after the other: all weights, and what the largest pass works on.

    weights = sum(ledgers.weights)                 or the largest, where the others wait in the host's memory
    activations = largest(ledgers.activations)
    communication = largest(ledgers.communication)
    """
    every: Bytes = sum_of(each.weights for each in ledgers)
    has_one = plan.resident == "one"
    weights = maximum(0.0, *(each.weights for each in ledgers)) if has_one else every
    activations = maximum(0.0, *(each.activations for each in ledgers))
    communication = maximum(0.0, *(each.communication for each in ledgers))
    host = sum_of(each.host for each in ledgers) + (every if has_one else 0.0)
    return Ledger(
        weights=weights, activations=activations, communication=communication, reserve=ledgers[0].reserve, host=host
    )


def diffusion_ledger(scenario: Scenario, plan: Diffusion) -> Ledger:
    """Return what a device would hold, without timing anything."""
    return whole_ledger(plan, [part_ledger(part) for part in parts_of(scenario, plan)])
