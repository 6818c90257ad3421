"""Continuous batching on one kind of engine: times of its two kinds of steps, put together by the steady state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from costmodel.analytic.breakdown import Lines, add_pass
from costmodel.analytic.inference import (
    PassTimes,
    draft_passes,
    inference_layout,
    operators_of,
    pass_model_of,
    pass_times,
)
from costmodel.analytic.metrics import invested, spent
from costmodel.analytic.no_schedule import Unscheduled
from costmodel.analytic.operator_timing import TimedOperator, operator_timer
from costmodel.analytic.steady_state import Demand, SteadyState, chunked, separate
from costmodel.analytic.stream_times import Perturbations
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Count, maximum, minimum, where
from costmodel.result import Entry, Metrics
from costmodel.workload.memory import CachedSequences, Ledger, host_batch_limit, inference_ledger
from costmodel.workload.passes import Pass, computed_tokens, pass_work, prompt_context, request_context
from costmodel.workload.plans import Serving, Speculative, drafted_tokens, tokens_per_step
from costmodel.workload.scenario import Scenario


@dataclass(frozen=True, slots=True, eq=False)
class Admission:
    """Requests of one replica that steps can work on.

    most: whose KV cache memory has room for; admitted: of those in flight, what memory leaves of them; running: those
    that steps work on, fewer where chunks of prompts are full; ledger: with these.
    """

    most: Count
    admitted: Count
    running: Count
    ledger: Ledger


class ServingEvaluation(Unscheduled):
    """Continuous batching in steady state."""

    headline = "latency"

    def __init__(self, scenario: Scenario, plan: Serving, calibration: Calibration) -> None:
        self._scenario, self._plan = scenario, plan
        self._admission = admission(scenario, plan)
        self.ledger: Ledger | None = self._admission.ledger
        self._state = steady_state(scenario, plan, self._admission.admitted)
        carrying, plain = engine_passes(scenario, plan, self._state)
        pricing = operator_timer(scenario, calibration)
        self._carrying = pass_model_of(scenario, carrying, pass_work(carrying), pricing)
        self._plain = pass_model_of(scenario, plain, pass_work(plain), pricing)
        self._labels = carrying.label, plain.label

    def metrics(self, moves: Perturbations) -> Metrics:
        """Return the metrics of the steady state.

        Every pipeline stage's set of requests is an engine of its own; a step takes a round of the pipeline.
        """
        plan, parallel, state = self._plan, self._scenario.parallel, self._state
        times = self._step_times(moves)
        carrying, plain = (each.round(parallel.pp) for each in times)
        computing = state.period(*(each.kernels for each in times)) / state.period(carrying, plain)
        first = state.until_first(carrying, plain) + self._shut_out / state.throughput(carrying, plain)
        later = state.after_first(carrying, plain)
        rate = state.throughput(carrying, plain) * parallel.pp * parallel.dp
        tokens = rate * plan.output_tokens
        return {
            "ttft": first,
            "tpot": later / (plan.output_tokens - 1),
            "latency": first + later,
            "requests_per_second": rate,
            "input_tokens_per_second": rate * plan.input_tokens,
            "tokens_per_second": tokens,
            "tokens_per_second_per_device": tokens / parallel.devices,
            "tokens_per_second_per_user": (plan.output_tokens - 1) / later,
            "concurrency": self._admission.running,
            "max_concurrency": self._admission.most,
            **spent(self._scenario.cluster.device, parallel.devices, tokens, computing),
            **invested(self._scenario, parallel.devices),
        }

    @property
    def _shut_out(self) -> Count:
        """Return the requests of one pipeline set that wait because memory has no room for them."""
        return (self._plan.concurrency - self._admission.admitted) / self._scenario.parallel.pp

    def _step_times(self, moves: Perturbations) -> tuple[PassTimes, PassTimes]:
        return self._times if moves is None else (pass_times(self._carrying, moves), pass_times(self._plain, moves))

    @cached_property
    def _times(self) -> tuple[PassTimes, PassTimes]:
        return pass_times(self._carrying, None), pass_times(self._plain, None)

    def families(self) -> frozenset[str]:
        """Return the families of both kinds of steps."""
        return frozenset(item.operator.family for item in self.operators())

    def operators(self) -> list[TimedOperator]:
        """Return the operators of steps that carry prompts, then of those that do not."""
        return operators_of((self._carrying, self._plain))

    def breakdown(self) -> list[Entry]:
        """Return what a request's latency consists of: operators of all the steps that it sees, and waiting."""
        lines, state, sets = Lines(), self._state, float(self._scenario.parallel.pp)
        seen = float(state.first + state.later_carrying), float(state.later_plain)
        steps = [each.round(sets) for each in self._times]
        for name, priced, times, count in zip(
            self._labels, (self._carrying, self._plain), self._times, seen, strict=True
        ):
            add_pass(lines, priced, times, count)
            lines.add_wait(
                f"{name}: pipeline wait", count * (float(times.round(sets)) - float(times.latency)), "latency"
            )
        rate = float(state.throughput(*steps))
        lines.add_wait("waiting for memory", float(self._shut_out) / rate, "capacity")
        lines.add_wait("waiting for a chunk", float(state.waiting) / rate, "compute")
        return lines.sorted()

    def notes(self) -> tuple[str, ...]:
        """Return that memory cuts the concurrency, where it does."""
        asked, admitted = float(self._plan.concurrency), float(self._admission.admitted)
        if admitted >= asked:
            return ()
        return (f"{admitted:g} of {asked:g} requests find room for their KV cache; the others wait",)


def demand(plan: Serving) -> Demand:
    """Return what a request asks of an engine: the first token comes from its prompt, the others from decoding."""
    return Demand(
        computed_tokens(plan.input_tokens, plan.prefix_hit_rate), decode_steps(plan.output_tokens, plan.speculative)
    )


def decode_steps(output_tokens: Count, speculative: Speculative | None) -> Count:
    """Return the decoding steps of a request: (output - 1) / (tokens a step), at least one."""
    return maximum((output_tokens - 1) / tokens_per_step(speculative), 1.0)


def steady_state(scenario: Scenario, plan: Serving, concurrency: Count) -> SteadyState:
    """Return the steady state of one pipeline set with its share of a replica's `concurrency` requests."""
    share = concurrency / scenario.parallel.pp
    if plan.chunk_tokens is None:
        return separate(share, demand(plan))
    return chunked(share, demand(plan), plan.chunk_tokens)


def engine_passes(scenario: Scenario, plan: Serving, state: SteadyState) -> tuple[Pass, Pass]:
    """Return the step that carries prompts, and the one that only decodes.

    The rows of a prompt are those of its chunk in the middle: earlier chunks have fewer keys, later ones more.
    """
    split, drafts = plan.micro_batches, drafted_tokens(plan.speculative)
    keys = plan.input_tokens + plan.output_tokens / 2
    middle = plan.input_tokens - (demand(plan).computed - state.rows) / 2
    carried = prompt_context(scenario, state.prompts / split, state.rows, middle)
    passes = draft_passes(plan.speculative)
    plain = Pass((request_context(scenario, state.active / split, keys, drafts),), split, passes, "decode")
    if plan.chunk_tokens is None:
        return Pass((carried,), split, passes, "prefill"), plain
    return Pass((request_context(scenario, state.beside / split, keys, drafts), carried), split, passes, "mixed"), plain


def admission(scenario: Scenario, plan: Serving) -> Admission:
    """Return how many requests memory has room for, each with its mean context, in whole micro-batches.

        room = (capacity - weights - reserve) / (KV cache of a request)
        most = (capacity - all but the cache, with min(A, room) requests) / (KV cache of a request),   rounded down

    both at most what the host has memory for, where it keeps a share of the cache;

    with A the requests that steps would work on if memory did not matter: only those have a KV cache. What they work on
    grows with their number, so those that are admitted do fit.
    """
    sets, unit = scenario.parallel.pp, plan.micro_batches * scenario.parallel.pp
    capacity = scenario.cluster.device.device_memory.capacity
    state = steady_state(scenario, plan, plan.concurrency)
    wanted = state.active * sets
    full = _ledger(scenario, plan, state, wanted)
    each = full.kv_cache / wanted
    hosted = host_batch_limit(full, scenario.cluster.node, scenario.parallel.devices, wanted, unit)
    room = minimum((capacity - full.weights - full.reserve) / each, hosted)
    bounded = _ledger(scenario, plan, state, maximum(minimum(wanted, room), unit))
    free = capacity - (bounded.total - bounded.kv_cache)
    most = maximum(minimum(free // (each * unit) * unit, hosted), 0.0)
    running = minimum(wanted, maximum(most, unit))
    return Admission(
        most,
        where(wanted > most, running, plan.concurrency),
        running,
        _ledger(scenario, plan, state, running),
    )


def _ledger(scenario: Scenario, plan: Serving, state: SteadyState, held: Count) -> Ledger:
    """Return the ledger with `held` requests of a replica, as if all of them were decoding.

    state: that of all requests that were asked for, whose chunks are the fullest; prompts that run alone are as many as
    the held requests bring.
    """
    share = held / scenario.parallel.pp
    state = steady_state(scenario, plan, held) if plan.chunk_tokens is None else state
    passes = engine_passes(scenario, plan, replace(state, beside=share, active=share))
    keys = plan.input_tokens + plan.output_tokens / 2 + drafted_tokens(plan.speculative)
    return inference_ledger(
        [(one, pass_work(one)) for one in passes], inference_layout(scenario), CachedSequences(held, keys)
    )


def serving_ledger(scenario: Scenario, plan: Serving) -> Ledger:
    """Return the ledger with the requests that memory has room for."""
    return admission(scenario, plan).ledger
