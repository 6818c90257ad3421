"""A burst: requests that all come at once, until the last of them ends. Of engines of a rollout, in closed form."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Protocol

import numpy as np

from costmodel.analytic.breakdown import BreakdownLines, add_pass, add_pipeline_wait
from costmodel.analytic.inference import PassModel, operators_of, pass_model_of, pass_times
from costmodel.analytic.operator_timing import TimedOperator, operator_timer
from costmodel.analytic.serving.engine_state import demand, most_running
from costmodel.analytic.serving.generation import GenerateEvaluation
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation
from costmodel.cost.calibration import Calibration
from costmodel.equations import equation
from costmodel.quantities import Array, Count, Joules, Seconds, maximum, minimum, sum_of
from costmodel.records import Record, fields
from costmodel.result import Entry
from costmodel.workload.engine_memory import kv_pool
from costmodel.workload.memory import Ledger
from costmodel.workload.passes import Pass, pass_work, prompt_context, prompt_passes, request_context
from costmodel.workload.plans import Generate, Serving, draft_passes, drafted_tokens, tokens_per_step
from costmodel.workload.reinforcement import output_lengths
from costmodel.workload.requests import Lengths
from costmodel.workload.scenario import Scenario


class RolloutTimes(Record):
    """Seconds until the last of all answers ends, those of an engine with answers, the mean, and in a steady state.

    joules: of the work of a device meanwhile [J].
    """

    seconds: Seconds
    busy: Seconds
    steady: Seconds
    joules: Joules


class Rollout(Protocol):
    """What generates the answers of a step of reinforcement learning."""

    ledger: Ledger | None

    def times(self, perturbations: Perturbations = None) -> RolloutTimes:
        """Return the times with families perturbed within their spread."""

    def operators(self) -> list[TimedOperator]:
        """Return every distinct operator."""

    def breakdown(self) -> list[Entry]:
        """Return the parts that the seconds of a single point sum over [s]."""


class StaticRollout(PhaseEvaluation[RolloutTimes]):
    """Answers of one length, from static batches one after the other."""

    def __init__(self, scenario: Scenario, plan: Generate, calibration: Calibration, answers: Count) -> None:
        self._batches = answers / plan.batch
        self._batch = GenerateEvaluation(scenario, plan, calibration)
        self.ledger: Ledger | None = self._batch.ledger

    @equation
    def _evaluate(self, perturbations: Perturbations) -> RolloutTimes:
        """Return the times of all batches.

        rollout = batches * latency
        """
        batches, latency = self._batches, self._batch.metrics(perturbations)["latency"]
        assert latency is not None
        rollout = batches * latency
        return RolloutTimes(rollout, rollout, rollout, batches * self._batch.joules(perturbations))

    def operators(self) -> list[TimedOperator]:
        """Return the operators of a batch."""
        return self._batch.operators()

    def breakdown(self) -> list[Entry]:
        """Return the operators of all batches."""
        return [scaled(entry, float(self._batches)) for entry in self._batch.breakdown()]


class BurstRollout(PhaseEvaluation[RolloutTimes]):
    """Answers of any lengths, from engines with continuous batching to which all prompts come at once."""

    def __init__(self, scenario: Scenario, plan: Serving, calibration: Calibration, answers: Count) -> None:
        self._scenario, self._plan, self._calibration = scenario, plan, calibration
        pool = kv_pool(scenario, plan)
        self.ledger: Ledger | None = pool.ledger
        self._engines = scenario.parallel.dp * plan.replicas.count
        self._requests = answers / self._engines
        unit = scenario.parallel.pp * plan.micro_batches
        self._seats = minimum(maximum(most_running(scenario, plan, pool), unit), self._requests)
        self._profile = profile_of(output_lengths(plan), self._requests, self._seats, self._engines)
        timer = operator_timer(scenario, calibration)
        self._prompts = prompt_passes(
            self._requests, demand(plan).computed, plan.input_tokens, plan.scheduler.token_budget
        )  # fmt: skip
        self._groups = [number for number in range(GROUPS) if np.any(self._profile.steps[number] > 0)] or [0]
        passes = [self._prompt_pass(), *(self._decode_pass(number) for number in self._groups)]
        self._models: list[PassModel] = [pass_model_of(scenario, each, pass_work(each), timer) for each in passes]

    def _prompt_pass(self) -> Pass:
        prompts, plan = self._prompts, self._plan
        context = prompt_context(
            self._scenario, prompts.sequences / plan.micro_batches, prompts.new_tokens, prompts.kv_len
        )  # fmt: skip
        return Pass((context,), plan.micro_batches, draft_passes(plan.speculative), "prefill")

    def _decode_pass(self, group: int) -> Pass:
        """Return a step that decodes, of one pipeline set of a group's requests."""
        plan, requests = self._plan, self._profile.requests[group] / self._scenario.parallel.pp
        keys = plan.input_tokens + self._profile.generated[group] + 1.0
        sequences = requests / plan.micro_batches
        context = request_context(self._scenario, sequences, keys, drafted_tokens(plan.speculative))
        return Pass((context,), plan.micro_batches, draft_passes(plan.speculative), "decode")

    @equation
    def _evaluate(self, perturbations: Perturbations) -> RolloutTimes:
        """Return the times of a burst. Steps of similar numbers of requests are one group (`burst_profile`).

        rollout = prefill + sum(counts * steps) / tokens          until the last answer of all engines
        busy = prefill + sum(own * steps) / tokens                of an engine, the mean
        prefill := all prompts of an engine, in passes one after the other
        counts := steps that decode in each group, of the engine whose answers end last
        """
        times = [pass_times(model, perturbations) for model in self._models]
        tokens, sets = tokens_per_step(self._plan.speculative), self._scenario.parallel.pp
        counts, own = ([getattr(self._profile, name)[each] for each in self._groups] for name in ("steps", "own"))
        steps = [each.round(sets) for each in times[1:]]
        prefill = times[0].following(self._prompts.count)
        rollout = prefill + sum_of(count * step for count, step in zip(counts, steps, strict=True)) / tokens
        busy = prefill + sum_of(count * step for count, step in zip(own, steps, strict=True)) / tokens
        joules = self._prompts.count * times[0].joules + sum_of(
            count * each.joules * sets / tokens for count, each in zip(own, times[1:], strict=True)
        )
        return RolloutTimes(rollout, busy, self._steady(prefill, steps[0], tokens), joules)

    def _steady(self, prefill: Seconds, step: Seconds, tokens: Count) -> Seconds:
        """Return the time of as many tokens where every seat is always taken, at the fullest steps' time."""
        requests: list[Count] = [self._profile.requests[each] for each in self._groups]
        decoded = sum_of(self._profile.own[each] * count for each, count in zip(self._groups, requests, strict=True))
        return prefill + decoded / requests[0] * step / tokens

    def operators(self) -> list[TimedOperator]:
        """Return the operators of prompts, then of steps with ever fewer requests."""
        return operators_of(self._models)

    def breakdown(self) -> list[Entry]:
        """Return the operators of the engine whose answers end last. With pipeline waits they sum to the rollout."""
        lines, sets = BreakdownLines(), float(self._scenario.parallel.pp)
        prefill, *steps = [pass_times(model, None) for model in self._models]
        tokens = float(tokens_per_step(self._plan.speculative))
        add_pass(lines, self._models[0], prefill, float(prefill.following(self._prompts.count) / prefill.latency))
        for group, model, step in zip(self._groups, self._models[1:], steps, strict=True):
            count = float(self._profile.steps[group]) / tokens
            add_pass(lines, model, step, count)
            add_pipeline_wait(lines, "decode: pipeline wait", step, sets, count)
        return lines.sorted()


def profile_of(lengths: Lengths, requests: Count, seats: Count, engines: Count) -> BurstProfile:
    """Return the profile of a burst, its arrays by group and then over the grid: each point is worked out by itself."""
    varied = {
        name: value for name in ("mean", "deviation", "low", "high") if (value := getattr(lengths, name)) is not None
    }
    columns = np.broadcast_arrays(requests, seats, engines, *varied.values())
    points = np.stack([np.reshape(each, -1) for each in columns], axis=1)
    distinct, member = np.unique(points, axis=0, return_inverse=True)
    profiles = []
    for first, second, third, *sizes in distinct.tolist():
        own = Lengths(
            distribution=lengths.distribution, values=lengths.values, weights=lengths.weights,
            **dict(zip(varied, sizes, strict=True)),
        )  # fmt: skip
        profiles.append(burst_profile(own, first, max(second, 1e-9), third))

    def gathered(name: str) -> Array:
        whole = np.stack([getattr(each, name) for each in profiles], axis=1)
        return whole[:, member.reshape(-1)].reshape(GROUPS, *columns[0].shape)

    return BurstProfile(**{name: gathered(name) for name in fields(BurstProfile)})


def scaled(entry: Entry, factor: float) -> Entry:
    """Return a line of so many times the work."""
    longer = entry.scaled(factor)
    longer.count, longer.flop = entry.count * factor, entry.flop * factor
    longer.traffic = None if entry.traffic is None else entry.traffic * factor
    longer.by_dtype = defaultdict(float, {name: flop * factor for name, flop in entry.by_dtype.items()})
    return longer


def rollout_of(scenario: Scenario, calibration: Calibration, answers: Count) -> Rollout:
    """Return what generates the answers of a step, in closed form."""
    plan = scenario.plan
    if isinstance(plan, Generate):
        return StaticRollout(scenario, plan, calibration, answers)
    assert isinstance(plan, Serving), "the file was checked"
    return BurstRollout(scenario, plan, calibration, answers)


# ---- How a burst of requests goes through an engine: requests in its steps, from the first one to the longest's last.

CELLS = 128  # of the longest answer
GROUPS = 8  # of steps: each has half of the requests of the one before
SATURATED = 6.0  # requests per seat that are followed one wave after the other; more are at the steady state
RARE = 0.01  # expected requests above what counts as the longest answer of a distribution without an end
_TINY = 1e-300


class BurstProfile(Record):
    """Decoding steps of a burst, in groups of similar numbers of requests, an array along the groups each.

    steps: in which any engine still has requests, of the engine whose requests end last.
    own: in which an engine on average has some.
    requests: of such a step, those that are there.
    generated: tokens that each of them has on average.
    """

    steps: Array
    own: Array
    requests: Array
    generated: Array

    @property
    def tokens(self) -> float:
        """Return the tokens that an engine decodes."""
        return float((self.own * self.requests).sum())


def burst_profile(lengths: Lengths, requests: float, seats: float, engines: float) -> BurstProfile:
    """Return the steps of an engine to which `requests` come at once, of `engines` alike, each with `seats`.

    One that ends is followed by the next that waits. In expectation, with S(t) the share of answers of which more than
    t tokens are decoded, and s(t) the requests that start at t, in tokens of each request since the beginning:

        B(t) = sum over t' of s(t') S(t - t')              requests there; s(t) = min(seats - B(t), those that wait)
        P(t) = 1 - exp(sum over t' of s(t') ln(1 - S(t - t')))      any is; of all engines, with as many such sums
        B(t) / P(t)                                        requests of a step, where there is any

    The first token comes from the prompt. [renewal of seats: Cox, Renewal Theory, 1962, section 3]
    """
    seats = min(seats, requests)
    longest = _longest(lengths, requests * engines)
    count = int(min(CELLS, math.ceil(longest)))
    if count == 0:
        nothing = np.zeros(GROUPS)
        return BurstProfile(nothing, nothing, np.ones(GROUPS), nothing)
    width = longest / count
    middle = (np.arange(count) + 0.5) * width
    share = np.array([lengths.share_above(1.0 + each) for each in middle])
    waves = min(requests / seats, SATURATED)
    starts = _starts(share, waves)
    there = np.convolve(starts, share)[: len(starts)]
    aged = np.convolve(starts, share * middle)[: len(starts)]
    none = np.convolve(starts, np.log(np.maximum(1.0 - share, _TINY)))[: len(starts)]
    any_own, any_of_all = (1.0 - np.exp(seats * number * none) for number in (1.0, engines))
    steady = max(requests / seats - SATURATED, 0.0) * share.sum() * width  # steps of a full engine beyond these waves
    whole = np.append(there, 1.0)
    steps, own = (np.append(width * each, steady) for each in (any_of_all, any_own))
    group = np.clip(np.floor(-np.log2(np.maximum(whole, _TINY)) + 1e-9), 0, GROUPS - 1).astype(np.intp)
    conditional = seats * np.append(there / np.maximum(any_own, _TINY), 1.0)
    age = np.append(aged / np.maximum(there, _TINY), (share * middle).sum() / max(share.sum(), _TINY))

    def mean(values: Array) -> Array:
        total = np.bincount(group, own, GROUPS)
        summed = np.bincount(group, own * values, GROUPS)
        return np.where(total > 0, summed / np.where(total > 0, total, 1.0), 1.0)

    summed_steps, summed_own = (np.bincount(group, each, GROUPS).astype(np.float64) for each in (steps, own))
    return BurstProfile(summed_steps, summed_own, np.maximum(mean(conditional), 1.0), mean(age))


def _longest(lengths: Lengths, requests: float) -> float:
    """Return the decoded tokens of the longest of some answers: a bound, or what few of them are expected to exceed."""
    if lengths.distribution == "constant":
        return max(float(lengths.mean) - 1.0, 0.0)
    if lengths.distribution == "values":
        return max(max(lengths.values) - 1.0, 0.0)
    if lengths.high is not None:
        return max(float(lengths.high) - 1.0, 0.0)
    low, high = 1.0, 2.0
    while lengths.share_above(high) * requests > RARE:
        low, high = high, 2.0 * high
    for _ in range(20):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if lengths.share_above(middle) * requests > RARE else (low, middle)
    return max(high - 1.0, 0.0)


def _starts(share: Array, waves: float) -> Array:
    """Return the requests per seat that start in each cell until `waves` have, and the cells in which these end."""
    starts, waiting, count = [min(1.0, waves)], waves - min(1.0, waves), len(share)
    recent = np.zeros(count)  # what started in each of the last cells, the newest first
    recent[0] = starts[0]
    while waiting > 1e-12:
        recent[1:] = recent[:-1]
        recent[0] = 0.0
        new = min(max(1.0 - float(recent @ share), 0.0), waiting)
        recent[0], waiting = new, waiting - new
        starts.append(new)
    return np.array([*starts, *np.zeros(count - 1)])
