"""Continuous batching on one kind of engine: times of its two kinds of steps, combined by the steady state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from costmodel.analytic.breakdown import BreakdownLines, add_pass, add_pipeline_wait
from costmodel.analytic.inference import (
    PassModel,
    PassTimes,
    draft_passes,
    inference_layout,
    operators_of,
    pass_model_of,
    pass_times,
)
from costmodel.analytic.metrics import served_metrics
from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator, operator_timer
from costmodel.analytic.serving.sessions import of_sessions
from costmodel.analytic.serving.steady_state import Arrival, Demand, SteadyState, budgeted, separate
from costmodel.analytic.serving.token_bill import Shares, load_of, token_bill, token_shares
from costmodel.analytic.serving.waiting import CLIENT, steps_meanwhile
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation
from costmodel.cost.calibration import Calibration
from costmodel.equations import equation
from costmodel.errors import InputError
from costmodel.quantities import (
    Count,
    Joules,
    Mask,
    Quantity,
    Seconds,
    Watts,
    anywhere,
    floor,
    maximum,
    minimum,
    sum_of,
    where,
)
from costmodel.records import Record, replace
from costmodel.result import Entry, Metrics
from costmodel.workload.context import Context
from costmodel.workload.engine_memory import KvPool, adapter_load, kv_pool
from costmodel.workload.memory import CachedSequences, Ledger, host_batch_limit, inference_ledger, with_expert_pool
from costmodel.workload.passes import Pass, computed_tokens, pass_work, prompt_context, request_context
from costmodel.workload.plans import Serving, Speculative, drafted_tokens, tokens_per_step
from costmodel.workload.scenario import Scenario

_ROUNDING = 1e-9  # of a whole number of prompts
WAITING_RANKS = "data-parallel ranks wait for each other's prompts"  # why requests are simulated one by one
StepTimes: TypeAlias = "tuple[PassTimes, ...]"  # of steps with prompts, and last of one that only decodes


class Admission(Record):
    """Requests of one replica.

    most: those whose KV cache fits in memory
    admitted: of those in flight, those that memory admits
    running: those that steps process, fewer where chunks of prompts are full
    ledger: with the running requests, or with all blocks of an engine
    blocks: of the engine's KV cache, and the share of them that running requests hold, null for no engine in particular
    """

    most: Count
    admitted: Count
    running: Count
    ledger: Ledger
    blocks: Count | None = None
    used: Quantity | None = None


class EngineSteps(Record):
    """Steps of an engine: with whole numbers of prompts, of which `shares` have the mean number, and last without.

    A kernel takes whole tiles of rows: one prompt and a thousandth would fill one more of them in every step.
    head: share of a decoding step by which the host starts kernels of one with prompts ahead of the device.
    """

    head: Quantity
    shares: Sequence[Quantity]
    passes: Sequence[Pass]
    models: Sequence[PassModel]

    @classmethod
    def of(cls, scenario: Scenario, plan: Serving, state: SteadyState, timer: OperatorTimer) -> EngineSteps:
        """Return the steps of a steady state, priced."""
        full = state.prompt_steps >= 1.0  # chunks that fill each step are cut to fit, and need be no whole prompts
        whole = where(full, state.prompts, floor(state.prompts * (1.0 + _ROUNDING)))
        more = maximum(state.prompts - whole, 0.0)
        numbers = [(1.0 - more, whole), (more, whole + 1.0)] if anywhere(more) else [(1.0, whole)]
        mean = state.peers * state.prompts
        both = [engine_passes(scenario, plan, replace(state, prompts=n, peers=mean / n)) for _, n in numbers]
        passes = [*(prompts for prompts, _ in both), both[0][1]]
        models = [pass_model_of(scenario, step, pass_work(step), timer) for step in passes]
        others = minimum(maximum(state.active - 1.0, 0.0), 1.0)
        head = others * state.decode_only_steps / (state.prompt_steps + state.decode_only_steps)
        return cls(where(starts_ahead(scenario, plan), head, 0.0), [share for share, _ in numbers], passes, models)

    def times(self, perturbations: Perturbations) -> StepTimes:
        """Return the times of each of them."""
        *prompts, decode_only = (pass_times(model, perturbations) for model in self.models)
        return (*(each.started_ahead(self.head * decode_only.latency) for each in prompts), decode_only)

    def mean(self, each: Sequence[Quantity]) -> tuple[Quantity, Quantity]:
        """Return what the mean step with prompts has, and one without. each: of every one of them."""
        *prompts, decode_only = each
        return sum_of(share * one for share, one in zip(self.shares, prompts, strict=True)), decode_only

    def rounds(self, times: StepTimes, sets: Count) -> tuple[Seconds, Seconds]:
        """Return the times of steps with prompts and of those that only decode, of so many pipeline sets."""
        return self.mean([step.round(sets) for step in times])

    def joules(self, times: StepTimes) -> tuple[Joules, Joules]:
        """Return the energy of the work of both kinds of steps."""
        return self.mean([step.joules for step in times])

    def both(self, scenario: Scenario) -> tuple[tuple[Seconds, Seconds], tuple[Joules, Joules]]:
        """Return the times of both kinds of steps, and the energy of their work."""
        times = self.times(None)
        return self.rounds(times, scenario.parallel.pp), self.joules(times)

    def add_to(self, lines: BreakdownLines, times: StepTimes, counts: tuple[float, float], sets: float) -> None:
        """Add so many steps with prompts, and so many that only decode, to a breakdown."""
        numbers = [*(float(share) * counts[0] for share in self.shares), counts[1]]
        for step, model, one, number in zip(self.passes, self.models, times, numbers, strict=True):
            if number > 0.0:
                add_pass(lines, model, one, number)
                add_pipeline_wait(lines, f"{step.label}: pipeline wait", one, sets, number)


class ServingEvaluation(PhaseEvaluation[StepTimes]):
    """Continuous batching in steady state."""

    headline = "latency"

    def __init__(self, scenario: Scenario, plan: Serving, calibration: Calibration) -> None:
        self._scenario, self._plan, self._calibration = scenario, plan, calibration
        self._admission = admission(scenario, plan)
        self.ledger: Ledger | None = self._admission.ledger
        self._state = steady_state(scenario, plan, self._admission.admitted)
        self._timer = operator_timer(scenario, calibration)
        self._steps = EngineSteps.of(scenario, plan, self._state, self._timer)

    @equation
    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics of the steady state.

        Every pipeline stage's set of requests is an engine of its own. A step takes a round of the pipeline. A request
        that follows another one's end waits for the step that has begun then, or for the one under way when client and
        front end are done (`_idle`).

            first = until_first + unadmitted + idle
            unadmitted = not_admitted / throughput          memory holds the others' caches
            rate = throughput / (1 + idle * throughput / (plan.concurrency / parallel.pp)) * engines
            concurrency = admission.running
            max_concurrency = admission.most
            kv_blocks = admission.blocks                    what memory leaves for the KV cache
            kv_use = admission.used
            prefix_hit_rate = plan.prefix_hit_rate          cached tokens are not computed (`computed_tokens`)
        """
        plan, parallel, state = self._plan, self._scenario.parallel, self._state
        assert plan.concurrency is not None
        with_prompts, decode_only = self._both(perturbations)
        throughput, admission = state.throughput(with_prompts, decode_only), self._admission
        unadmitted, idle = self._not_admitted / throughput, self._idle(with_prompts, decode_only)
        until_first = state.until_first(with_prompts, decode_only)
        first, later = until_first + unadmitted + idle, state.after_first(with_prompts, decode_only)
        engines = parallel.pp * parallel.dp * plan.replicas.serving(parallel.all_devices)
        rate = throughput / (1.0 + idle * throughput / (plan.concurrency / parallel.pp)) * engines
        devices = parallel.all_devices * plan.replicas.count
        own: Metrics = {
            "highest_stable_rate": None,
            "concurrency": admission.running,
            "max_concurrency": admission.most,
            "kv_blocks": admission.blocks,
            "kv_use": admission.used,
            "prefix_hit_rate": plan.prefix_hit_rate,
        }
        return served_metrics(self._scenario, rate, devices, (first, later), self.work(perturbations), own)

    def work(self, perturbations: Perturbations = None) -> Watts:
        """Return the power of the work of a device in the steady state."""
        state, joules = self._state, self._steps.joules(self.times(perturbations))
        return state.period(*joules) / state.period(*self._both(perturbations))

    def _both(self, perturbations: Perturbations = None) -> tuple[Seconds, Seconds]:
        """Return the times of steps with prompts and of those that only decode."""
        return self._steps.rounds(self.times(perturbations), self._scenario.parallel.pp)

    @equation
    def _idle(self, with_prompts: Seconds, decode_only: Seconds) -> Seconds:
        """Return how much longer than the step that has begun client and front end let a request wait [s].

        client_and_front_end = others * meanwhile * step + (1 - others) * work
        idle = others * meanwhile * step + (1 - others) * work
        work = max(request - waiting, 0)
        others = min(state.arrival_steps, 1)            none of a single request
        """
        state, request = self._state, front_end(self._scenario, self._plan)
        waiting = (state.waiting + self._not_admitted) / state.throughput(with_prompts, decode_only)
        others, work = minimum(state.arrival_steps, 1.0), maximum(request - waiting, 0.0)
        share = state.prompt_steps / (state.prompt_steps + state.decode_only_steps)
        meanwhile = steps_meanwhile(work, share, with_prompts, decode_only)
        step = state.step(with_prompts, decode_only)
        return others * meanwhile * step + (1.0 - others) * work

    @property
    def _not_admitted(self) -> Count:
        """Return the requests of one pipeline set that wait for memory."""
        assert self._plan.concurrency is not None
        return (self._plan.concurrency - self._admission.admitted) / self._scenario.parallel.pp

    def _evaluate(self, perturbations: Perturbations) -> StepTimes:
        return self._steps.times(perturbations)

    def operators(self) -> list[TimedOperator]:
        """Return the operators of steps with prompts, then of those that only decode."""
        return operators_of(self._steps.models)

    @equation
    def breakdown(self) -> list[Entry]:
        """Return what a request's latency consists of: operators of all the steps of its life, and waiting.

        waiting_for_memory = not_admitted / throughput
        waiting_for_a_chunk = state.waiting / throughput
        steps_under_way = state.arrival_steps * step + state.unseen_steps * decode_only
        """
        lines, state, sets = BreakdownLines(), self._state, float(self._scenario.parallel.pp)
        counts = float(state.first_token_steps + state.later_prompt_steps), float(state.later_decode_only_steps)
        self._steps.add_to(lines, self.times(), counts, sets)
        with_prompts, decode_only = self._both()
        throughput, not_admitted = float(state.throughput(with_prompts, decode_only)), float(self._not_admitted)
        waiting_for_memory, waiting_for_a_chunk = not_admitted / throughput, float(state.waiting) / throughput
        step = state.step(with_prompts, decode_only)
        steps_under_way = float(state.arrival_steps * step + state.unseen_steps * decode_only)
        lines.add_wait("waiting for memory", waiting_for_memory, "capacity")
        lines.add_wait("waiting for a chunk", waiting_for_a_chunk, "compute")
        lines.add_wait("steps under way", steps_under_way, "latency")
        lines.add_wait(CLIENT, float(self._idle(with_prompts, decode_only)), "latency")
        return lines.sorted()

    def details(self) -> Mapping[str, object]:
        """Return what each kind of tokens takes, and the mean times of each class of requests, where there are some."""
        metrics = {name: float(value or 0.0) for name, value in self.metrics(None).items()}
        token = prompt_token_time(self._plan, self._state, *self._both())
        devices = self._scenario.parallel.all_devices * self._plan.replicas.count
        load = load_of(devices, metrics, 1.0, self.work())
        bill = token_bill(self._scenario.cluster.node, load, self.token_shares())
        return {**bill, **of_classes(self._scenario, self._plan, token, metrics)}

    def token_shares(self) -> Shares:
        """Return the shares of input, cached and output tokens in time and joules of the steps."""
        return token_shares(self._plan, self._state, self._steps_of)

    def with_cached(self, share: float) -> ServingEvaluation:
        """Return the same engine with such a share of its prompts in the cache."""
        if share == self._plan.prefix_hit_rate:
            return self
        plan = replace(self._plan, prefix_hit_rate=min(share, 1.0 - 1.0 / float(self._plan.input_tokens)))
        return ServingEvaluation(replace(self._scenario, plan=plan), plan, self._calibration)

    def _steps_of(self, plan: Serving) -> tuple[tuple[Seconds, Seconds], tuple[Joules, Joules]]:
        return EngineSteps.of(self._scenario, plan, self._state, self._timer).both(self._scenario)

    def verdict(self) -> str:
        """Return `backlogged` where requests of the closed loop wait for a seat or for memory, else `stable`."""
        waiting = self._state.waiting + self._not_admitted
        return "backlogged" if float(waiting) > 1e-9 * float(self._state.active) else "stable"

    def beyond(self) -> str | None:
        """Return why requests have to be simulated one by one at a single point, null where the closed form holds."""
        if ranks_wait(self._scenario):
            return WAITING_RANKS
        stream = self._plan.requests
        return None if stream is None or stream.count is None else "all users' first prompts come at once"

    def notes(self) -> tuple[str, ...]:
        """Return that memory limits the concurrency, where it does, and what of the requests the closed form leaves."""
        assert self._plan.concurrency is not None
        requested, admitted, beyond = float(self._plan.concurrency), float(self._admission.admitted), self.beyond()
        left = () if beyond is None else (f"closed form: {beyond}; `--engine event` has them",)
        left = (*left, *of_sessions(self._scenario, self._plan, self.metrics(None)), *left_to_requests(self._plan))
        if admitted >= requested:
            return left
        return (f"only {admitted:g} of {requested:g} requests fit into the KV cache; the others wait", *left)


@equation
def prompt_token_time(plan: Serving, state: SteadyState, with_prompts: Seconds, decode_only: Seconds) -> Seconds:
    """Return by how much one computed token of a prompt makes its steps longer.

    prompt_token_time = longer / (state.prompts * state.prompt_tokens)
    longer = max(with_prompts - base, 0)
    base := of a step without prompts, where these share steps with requests that decode
    """
    base = decode_only if plan.scheduler.mixes else 0.0
    longer = maximum(with_prompts - base, 0.0)
    return longer / (state.prompts * state.prompt_tokens)


def of_classes(
    scenario: Scenario, plan: Serving, token: Seconds, mean: Mapping[str, float]
) -> dict[str, dict[str, dict[str, float | None]]]:  # fmt: skip
    """Return the mean times of the classes of requests at a single point, which share all steps and waits.

    ttft = mean.ttft + token * (computed - mean.computed) * longer
    latency = ttft + mean.tpot * (output_tokens - 1)

    token: what a computed token of a prompt takes; mean: metrics of the mean request. Nothing where there are none.
    """
    known, longer = {}, float(scenario.pace.first)
    for each in plan.classes:
        assert each.input is not None, "a scenario completes its classes"
        assert each.output is not None, "a scenario completes its classes"
        prompt, output = float(each.input.average), float(each.output.average)
        more = computed_tokens(prompt, plan.prefix_hit_rate) - demand(plan).computed
        ttft = mean["ttft"] + float(token * more) * longer
        known[each.name] = {
            "share": float(each.share), "input_tokens": prompt, "output_tokens": output, "ttft": ttft,
            "tpot": mean["tpot"], "latency": ttft + mean["tpot"] * (output - 1.0), "attainment": None, "goodput": None,
        }  # fmt: skip
    return {"classes": known} if known else {}


def only_requests(plan: Serving) -> tuple[str, ...]:
    """Return the keys of a scenario that the closed form leaves out: it is of equal requests on equal engines."""
    stream, replicas, unmodelled = plan.requests, plan.replicas, []
    if stream is not None:
        lengths = (("input", stream.input), ("output", stream.output))
        spread = [name for name, each in lengths if each is not None and each.distribution != "constant"]
        files = [name for name in ("trace", "pairs") if getattr(stream, name) is not None]
        unmodelled += [f"the spread of `requests.{name}`, taken at the mean" for name in spread]
        unmodelled += [f"the lengths of `requests.{name}` one by one, taken at the scenario's mean" for name in files]
        own = [each.distribution for one in plan.classes for each in (one.input, one.output) if each is not None]
        if len(plan.classes) > 1 or (set(own) - {"constant"} and not spread):
            unmodelled.append("`requests.classes` one by one, whose steps are those of their mean")
        unmodelled += ["`requests.prefix`"] if stream.prefix is not None and stream.sessions is None else []
        unmodelled += ["`requests.sessions` one by one, taken at their means"] if stream.sessions is not None else []
        if stream.arrivals not in ("poisson", "closed_loop"):
            unmodelled.append(f"`requests.arrivals: {stream.arrivals}`")
    if plan.scheduler.policy != "fcfs":
        unmodelled.append("`scheduler.policy`")
    if plan.scheduler.preemption == "swap":
        unmodelled.append("`scheduler.preemption: swap`")
    if plan.memory is not None and plan.memory.tiers:
        unmodelled.append("`memory.tiers`")
    parts = {"prefill": replicas.prefill, "autoscale": replicas.autoscale, "failures": replicas.failures}
    unmodelled += [f"`replicas.{name}`" for name, each in parts.items() if each]
    if replicas.breakdowns is not None:
        unmodelled.append("the outages of `replicas.breakdowns`, taken as their mean share of the time")
    unmodelled += ["`replicas.max_waiting`"] if replicas.max_waiting is not None else []
    unmodelled += ["`replicas.routing`"] if replicas.routing != "round_robin" and replicas.count > 1 else []
    return tuple(unmodelled)


def left_to_requests(plan: Serving) -> tuple[str, ...]:
    """Return what a scenario says of its requests and engines that the closed form leaves out, as a note."""
    unmodelled = only_requests(plan)
    left = (f"closed form: without {', '.join(unmodelled)}; `--engine event` has them",) if unmodelled else ()
    return (*left, *without_effect(plan))


def without_effect(plan: Serving) -> tuple[str, ...]:
    """Return what a scenario says of its requests that its scheduler does not look at, as notes."""
    served = plan.adapters
    places: tuple[str, ...] = ()
    if served is not None and served.are_any and served.held < served.count:
        places = (
            f"adapters: no more than {served.held} of {served.count} run at a time, and {served.missed:.0%} of the "
            "requests wait for a copy of theirs; what requests wait until others end is not counted",
        )
    if plan.requests is None or plan.requests.priority is None or plan.scheduler.policy == "priority":
        return places
    return (
        *places,
        f"`requests.priority` has no effect: `scheduler.policy` is {plan.scheduler.policy}, not priority",
    )


def demand(plan: Serving) -> Demand:
    """Return the work of a request: its first token comes from the prompt, the others from decoding."""
    computed = computed_tokens(plan.input_tokens, plan.prefix_hit_rate)
    return Demand(computed, decode_steps(plan.output_tokens, plan.speculative))


def decode_steps(output_tokens: Count, speculative: Speculative | None) -> Count:
    """Return the decoding steps of a request: (output - 1) / tokens per step, at least one."""
    return maximum((output_tokens - 1) / tokens_per_step(speculative), 1.0)


def steady_state(scenario: Scenario, plan: Serving, concurrency: Count) -> SteadyState:
    """Return the steady state of one pipeline set with its share of a replica's `concurrency` requests.

    An engine that looks for new requests every k steps meets one after any of 1 to k: it waits (k - 1)/2 more.
    """
    share, looks = concurrency / scenario.parallel.pp, plan.scheduler.look_steps
    waits = 0.0 if plan.rate is not None else arrival_steps(scenario, plan, share)
    random = minimum(plan.arrival_scv, 1.0)
    unseen = 0.5 * (looks - 1.0) * minimum(waits, 1.0)
    ranks = where(plan.scheduler.align_steps > 0.0, 1.0, scenario.parallel.lockstep)
    filled = 1.0 if plan.rate is None else 1.0 - random / maximum(share, 1.0)  # at a rate one is not counted itself
    return _steady_state(plan, share, Arrival(waits, unseen, looks, random, ranks, filled))


def _steady_state(plan: Serving, share: Count, arrival: Arrival) -> SteadyState:
    """Return the steady state of `share` requests in flight that an engine takes as `arrival` says."""
    budget = plan.scheduler.token_budget
    if budget is None or not plan.scheduler.mixed:
        return separate(share, demand(plan), budget, arrival)
    decode_tokens, whole = 1.0 + drafted_tokens(plan.speculative), plan.scheduler.whole_prompts
    return budgeted(share, demand(plan), budget, decode_tokens, arrival, whole=whole)


def arrival_steps(scenario: Scenario, plan: Serving, requests: Count) -> Count:
    """Return the steps between a request's arrival and the one that takes it, of an engine with a closed loop.

    A request follows one that ended with a step, when the next step has begun: it waits for that one, and where steps
    are scheduled while others run, for the one after it. Alone it finds the engine idle.
    """
    if scenario.framework.engine is None:
        return 0.0
    return minimum(maximum(requests - 1.0, 0.0), 1.0) * (2.0 if plan.scheduler.overlapped else 1.0)


def ranks_wait(scenario: Scenario) -> bool:
    """Tell whether ranks share experts and step together: the closed form has their steps on the mean, without the rank
    that has most prompts, bursts of users that started together, and waits of prompts for each other."""
    return bool(np.any(scenario.parallel.lockstep > 1.0))


def starts_ahead(scenario: Scenario, plan: Serving) -> Mask:
    """Return where the host starts kernels of a step with prompts while the one before runs.

    One loop of the host launches step i and then waits for step i - 1 [TensorRT-LLM documentation, Overlap Scheduler].
    Not where a time of a `layer` bounds the step: it was fitted to whole runs, so that what was hidden is not in it.
    """
    eager, pp = scenario.eager_prompts, np.asarray(scenario.parallel.pp)
    return np.asarray(plan.scheduler.overlapped & (pp == 1) & (np.asarray(eager.operator) > 0) & (eager.layer == 0.0))


def front_end(scenario: Scenario, plan: Serving) -> Seconds:
    """Return the time that client and front end add to a request's first token, and that its adapter takes to come."""
    engine, load = scenario.framework.engine, adapter_load(scenario, plan)
    return load if engine is None else engine.front_end(plan.input_tokens) + load


def engine_passes(scenario: Scenario, plan: Serving, state: SteadyState) -> tuple[Pass, Pass]:
    """Return the step with prompts, and the one that only decodes.

    The tokens of a prompt are those of its chunk in the middle: earlier chunks have fewer keys, later ones more.
    """
    split, drafts = plan.micro_batches, drafted_tokens(plan.speculative)
    keys = plan.input_tokens + plan.output_tokens / 2
    middle = plan.input_tokens - (demand(plan).computed - state.prompt_tokens) / 2
    chunk = among(prompt_context(scenario, state.prompts / split, state.prompt_tokens, middle), state.peers)
    passes = draft_passes(plan.speculative)
    decode_only = Pass((request_context(scenario, state.active / split, keys, drafts),), split, passes, "decode")
    if not plan.scheduler.mixes:
        return Pass((chunk,), split, passes, "prefill"), decode_only
    co_batched = request_context(scenario, state.co_batched / split, keys, drafts)
    return Pass((co_batched, chunk), split, passes, "mixed"), decode_only


def among(context: Context, share: Quantity) -> Context:
    """Return the busiest rank of those that share experts. share: of its tokens that the mean rank has."""
    return context if context.framework.padded_ranks else replace(context, peers=share)


def admission(scenario: Scenario, plan: Serving) -> Admission:
    """Return how many requests fit in memory, each with its mean context, in whole micro-batches.

        room = (capacity - weights - reserve) / (KV cache per request)
        most = (capacity - all but the cache, with min(A, room) requests) / (KV cache per request),   rounded down

    both at most what fits in the host's memory, where it keeps a share of the cache. A: the requests that steps would
    process with unlimited memory, which alone have a KV cache. What steps process grows with their number, so those
    that are admitted do fit. An engine whose memory is known admits by blocks instead, and none more than its scheduler
    has seats.
    """
    if plan.concurrency is None:
        raise InputError.single(
            "the closed form needs `rate` or `concurrency`", field=f"scenarios.{scenario.name}",
            hint="write `rate: 8 /s`, or simulate the requests with `--engine event`",
        )  # fmt: skip
    if plan.memory is not None:
        return _engine_admission(scenario, plan)
    sets, unit = scenario.parallel.pp, plan.micro_batches * scenario.parallel.pp
    capacity = scenario.cluster.device.device_memory.capacity
    state = steady_state(scenario, plan, plan.concurrency)
    wanted = state.active * sets
    full = _ledger(scenario, plan, state, wanted)
    per_request = full.kv_cache / wanted
    hosted = host_batch_limit(full, scenario.cluster.node, scenario.parallel.devices, wanted, unit)
    room = minimum((capacity - full.weights - full.reserve) / per_request, hosted)
    bounded = _ledger(scenario, plan, state, maximum(minimum(wanted, room), unit))
    free = capacity - (bounded.total - bounded.kv_cache)
    most = maximum(minimum(free // (per_request * unit) * unit, hosted, _seats(plan)), 0.0)
    running = minimum(wanted, maximum(most, unit))
    admitted = where(wanted > most, running, plan.concurrency)
    ledger = _ledger(scenario, plan, state, running)
    if scenario.parallel.expert_pool is not None:
        step = engine_passes(scenario, plan, state)[1]
        ledger = with_expert_pool(ledger, step, pass_work(step), capacity)
    return Admission(most, admitted, running, ledger)


def _engine_admission(scenario: Scenario, plan: Serving) -> Admission:
    """Return how many requests an engine admits by the blocks of its KV cache and by its seats."""
    sets, unit = scenario.parallel.pp, plan.micro_batches * scenario.parallel.pp
    assert plan.concurrency is not None
    pool, keys = kv_pool(scenario, plan), mean_keys(plan)
    wanted = steady_state(scenario, plan, plan.concurrency).active * sets
    most = most_running(scenario, plan, pool)
    running = minimum(wanted, maximum(most, unit))
    admitted = where(wanted > most, running, plan.concurrency)
    shared = shared_blocks(plan, pool)
    used = (shared + running * (pool.mean_blocks_of(keys) - shared)) / maximum(pool.blocks, 1.0)
    return Admission(most, admitted, running, pool.ledger, pool.blocks, used)


def most_running(scenario: Scenario, plan: Serving, pool: KvPool) -> Count:
    """Return the requests that an engine runs at most, in whole micro-batches.

    most = min((blocks - shared) / blocks of a request, max_num_seqs, what fits in the host's memory)

    with the blocks of its mean context, or where nothing is preempted of its last token, without those that all share.
    """
    unit, keys = plan.micro_batches * scenario.parallel.pp, mean_keys(plan)
    held_blocks = pool.mean_blocks_of(keys)
    if plan.scheduler.preemption == "none":
        held_blocks = pool.blocks_of(plan.input_tokens + plan.output_tokens + drafted_tokens(plan.speculative))
    hosted: Count = np.inf
    if scenario.offload.is_used:
        held = inference_ledger([pool.profiled], pool.layout, CachedSequences(unit, keys))
        hosted = host_batch_limit(held, scenario.cluster.node, scenario.parallel.devices, unit, unit)
    shared = shared_blocks(plan, pool)
    most = minimum((pool.blocks - shared) / (held_blocks - shared), _seats(plan), hosted)
    return maximum(floor(most / unit) * unit, 0.0)


def shared_blocks(plan: Serving, pool: KvPool) -> Count:
    """Return the full blocks with which all prompts of sessions begin, once in the cache."""
    return 0.0 if plan.means is None else floor(plan.means.shared / pool.tokens)


def full_state(scenario: Scenario, plan: Serving) -> SteadyState:
    """Return the steps of an engine all of whose seats are taken."""
    most = most_running(scenario, plan, kv_pool(scenario, plan))
    return steady_state(scenario, plan, maximum(most, plan.micro_batches * scenario.parallel.pp))


def _seats(plan: Serving) -> Count:
    """Return the requests that the scheduler runs at most."""
    return np.inf if plan.scheduler.max_num_seqs is None else plan.scheduler.max_num_seqs


def mean_keys(plan: Serving) -> Count:
    """Return the mean context over a request's life, with the tokens that are drafted: input + output/2 + drafts."""
    return plan.input_tokens + plan.output_tokens / 2 + drafted_tokens(plan.speculative)


def _ledger(scenario: Scenario, plan: Serving, state: SteadyState, running: Count) -> Ledger:
    """Return the ledger with `running` requests of a replica, as if all of them were decoding.

    state: of all requested ones, whose chunks are the fullest. Prompts in steps of their own are as many as the running
    requests bring.
    """
    share = running / scenario.parallel.pp
    state = state if plan.scheduler.mixes else steady_state(scenario, plan, running)
    passes = engine_passes(scenario, plan, replace(state, co_batched=share, active=share))
    cached = CachedSequences(running, mean_keys(plan))
    return inference_ledger([(step, pass_work(step)) for step in passes], inference_layout(scenario), cached)
