"""A static batch: one prefill, then a step for every output token while the KV cache grows."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np

from costmodel.analytic.breakdown import BreakdownLines, add_pass
from costmodel.analytic.inference import (
    PassModel,
    PassTimes,
    inference_layout,
    operators_of,
    pass_model_of,
    pass_times,
)
from costmodel.analytic.metrics import invested, largest_batch, spent
from costmodel.analytic.operator_timing import TimedOperator, operator_timer
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation
from costmodel.cost.calibration import Calibration
from costmodel.equations import equation
from costmodel.quantities import Count, Joules, Quantity, Seconds, maximum, minimum, where
from costmodel.records import Record
from costmodel.result import Entry, Metrics
from costmodel.workload.counting import kv_breakpoints
from costmodel.workload.memory import CachedSequences, Ledger, inference_ledger
from costmodel.workload.operators import Operator
from costmodel.workload.passes import (
    Pass,
    PromptPasses,
    pass_work,
    pipeline_batches,
    prompt_context,
    prompt_passes,
    request_context,
)
from costmodel.workload.plans import Generate, draft_passes, drafted_tokens, tokens_per_step
from costmodel.workload.scenario import Scenario

LENGTHS = 4  # KV lengths at which a decoding step is evaluated, between attention windows


class GenerationTimes(Record):
    """Seconds of a static batch.

    first: until all of it has its first token.
    later: of one more token, on average.
    joules: of the work of one part of the batch in all passes, on all stages [J]
    """

    prefill: PassTimes
    decode: tuple[PassTimes, ...]
    first: Seconds
    later: Seconds
    joules: Joules


class GenerateEvaluation(PhaseEvaluation[GenerationTimes]):
    """A static batch."""

    headline = "latency"

    def __init__(self, scenario: Scenario, plan: Generate, calibration: Calibration) -> None:
        self._scenario, self._plan = scenario, plan
        self._sets = pipeline_batches(scenario, plan)
        self._passes = prompt_passes_of(scenario, plan).count
        self._steps: Count = (plan.output_tokens - 1) / tokens_per_step(plan.speculative)
        self.ledger: Ledger | None = generate_ledger(scenario, plan)
        timer = operator_timer(scenario, calibration)
        known: list[Operator] = []
        models: list[PassModel] = []
        lengths = kv_lengths(scenario, plan)
        self._weights = [weight for _, weight in lengths]
        decoding = (decode_pass(scenario, plan, keys) for keys, _ in lengths)
        for forward in (prefill_pass(scenario, plan), *decoding):
            work = pass_work(forward, known)
            known.extend(work.operators())
            models.append(pass_model_of(scenario, forward, work, timer))
        self._prefill, *self._decode = models

    @equation
    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics of the batch.

        ttft = times.first
        tpot = times.later
        latency = times.first + (plan.output_tokens - 1) * times.later
        tokens_per_second = plan.batch * plan.output_tokens / latency
        tokens_per_second_per_device = rate / devices
        tokens_per_second_per_user = 1 / times.later
        max_batch = most
        """
        plan, devices = self._plan, self._scenario.devices
        times = self.times(perturbations)
        latency = times.first + (plan.output_tokens - 1) * times.later
        rate = plan.batch * plan.output_tokens / latency
        work = self.joules(perturbations) / latency
        unit = self._scenario.parallel.dp * plan.micro_batches
        assert self.ledger is not None
        most = largest_batch(self._scenario, self.ledger, plan.batch, unit)
        return {
            "ttft": times.first,
            "tpot": times.later,
            "latency": latency,
            "tokens_per_second": rate,
            "tokens_per_second_per_device": rate / devices,
            "tokens_per_second_per_user": 1 / times.later,
            "max_batch": most,
            **spent(self._scenario.cluster.node, devices, rate, work),
            **invested(self._scenario, devices),
        }

    def joules(self, perturbations: Perturbations = None) -> Joules:
        """Return the energy of the work of a device, all parts of the batch together."""
        return self._sets / self._scenario.parallel.pp * self.times(perturbations).joules

    @equation
    def _evaluate(self, perturbations: Perturbations) -> GenerationTimes:
        """Return the times of the batch.

        first = all_sets
        later = sum(weights * steps) / tokens      steps at several lengths of the KV cache
        """
        prefill = pass_times(self._prefill, perturbations)
        decode = tuple(pass_times(model, perturbations) for model in self._decode)
        step: Quantity = 0.0
        weights, steps = self._weights, [times.round(self._sets) for times in decode]
        joules = self._passes * prefill.joules
        for weight, times, each in zip(weights, decode, steps, strict=True):
            step = step + weight * each
            joules = joules + self._steps * weight * times.joules
        all_sets, tokens = prefill.following(self._sets * self._passes), tokens_per_step(self._plan.speculative)
        return GenerationTimes(prefill, decode, all_sets, step / tokens, joules)

    def operators(self) -> list[TimedOperator]:
        """Return the operators of the prefill, then those of decoding, attention at every evaluated KV length."""
        return operators_of((self._prefill, *self._decode))

    @equation
    def breakdown(self) -> list[Entry]:
        """Return the operators of both parts. With the time that stages wait, they sum to the latency.

        prefill_pipeline_wait = (sets - 1) * passes * prefill.slowest
        decode_pipeline_wait = sum(waits)      of steps at several lengths of the KV cache
        """
        lines, times, sets = BreakdownLines(), self.times(), float(self._sets)
        steps = float(self._steps)
        passes, prefill = float(self._passes), times.prefill
        add_pass(lines, self._prefill, prefill, float(prefill.following(passes) / prefill.latency))
        waits = list[float]()
        for weight, model, step in zip(map(float, self._weights), self._decode, times.decode, strict=True):
            add_pass(lines, model, step, steps * weight)
            waits.append(steps * weight * (float(step.round(sets)) - float(step.latency)))
        prefill_pipeline_wait, decode_pipeline_wait = (sets - 1.0) * passes * float(prefill.slowest), sum(waits)
        lines.add_wait("prefill: pipeline wait", prefill_pipeline_wait, "latency")
        lines.add_wait("decode: pipeline wait", decode_pipeline_wait, "latency")
        return lines.sorted()


def prompt_passes_of(scenario: Scenario, plan: Generate) -> PromptPasses:
    """Return the passes over the prompts of one part of the batch, all micro-batches together."""
    prompts = _sequences(scenario, plan) * plan.micro_batches
    return prompt_passes(prompts, plan.input_tokens, plan.input_tokens, plan.chunk_tokens)


def prefill_pass(scenario: Scenario, plan: Generate, *, is_last: bool = False) -> Pass:
    """Return a pass over the prompts of one part of the batch: of its passes the mean one, or the last."""
    passes = prompt_passes_of(scenario, plan)
    kv_len = plan.input_tokens if is_last else passes.kv_len
    context = prompt_context(scenario, passes.sequences / plan.micro_batches, passes.new_tokens, kv_len)
    return Pass((context,), plan.micro_batches, draft_passes(plan.speculative), "prefill")


def decode_pass(scenario: Scenario, plan: Generate, keys: Count) -> Pass:
    """Return the step of one part of the batch when each request has `keys` tokens, the new one included."""
    context = request_context(scenario, _sequences(scenario, plan), keys, drafted_tokens(plan.speculative))
    return Pass((context,), plan.micro_batches, draft_passes(plan.speculative), "decode")


def _sequences(scenario: Scenario, plan: Generate) -> Count:
    """Return the sequences of one micro-batch, shared by a tp*cp group."""
    return plan.batch / (scenario.parallel.dp * pipeline_batches(scenario, plan) * plan.micro_batches)


def kv_lengths(scenario: Scenario, plan: Generate) -> list[tuple[Count, Quantity]]:
    """Return (KV length, weight) at which a decoding step is evaluated. The weights sum to one.

    The steps after the first token see input + 1 ... input + output - 1 tokens. Their mean is that of the integral over
    [input + 1/2, input + output - 1/2] as far as the step time is linear in between. Gauss-Legendre quadrature
    evaluates it, separately on either side of each attention window: exact for polynomials up to degree 2*n - 1, and
    close where a kernel changes its bound or starts to hide an all-to-all.
    """
    low, steps = plan.input_tokens + 0.5, plan.output_tokens - 1
    ends: list[Count] = [low]
    for window in kv_breakpoints(scenario.architecture):
        ends.append(maximum(ends[-1], minimum(window, low + steps)))
    ends.append(low + steps)
    lengths: list[tuple[Count, Quantity]] = []
    for begin, end in itertools.pairwise(ends):
        share = where(steps > 0, (end - begin) / maximum(steps, 1.0), 1.0 / (len(ends) - 1))
        lengths.extend(
            ((begin + end) / 2 + node * (end - begin) / 2, weight * share) for node, weight in quadrature(LENGTHS)
        )
    return lengths


@lru_cache(maxsize=8)
def quadrature(points: int) -> tuple[tuple[float, float], ...]:
    """Return (node in [-1, 1], weight) of Gauss-Legendre quadrature. The weights sum to one."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return tuple((float(node), float(weight) / 2) for node, weight in zip(nodes, weights, strict=True))


def generate_ledger(scenario: Scenario, plan: Generate) -> Ledger:
    """Return the ledger with the cache at its longest, input + output tokens, and the larger of both parts' buffers."""
    longest = plan.input_tokens + plan.output_tokens + drafted_tokens(plan.speculative)
    passes = [
        prefill_pass(scenario, plan, is_last=True),
        decode_pass(scenario, plan, plan.input_tokens + plan.output_tokens),
    ]
    cached = CachedSequences(plan.batch / scenario.parallel.dp, longest)
    return inference_ledger([(forward, pass_work(forward)) for forward in passes], inference_layout(scenario), cached)
