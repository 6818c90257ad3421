"""Continuous batching on one kind of engine: times of its two kinds of steps, combined by the steady state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from costmodel.analytic.breakdown import BreakdownLines, add_pass, add_pipeline_wait
from costmodel.analytic.inference import (
    PassModel,
    PassTimes,
    operators_of,
    pass_model_of,
    pass_times,
)
from costmodel.analytic.metrics import served_metrics
from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator, operator_timer
from costmodel.analytic.serving.engine_state import (
    admission,
    engine_passes,
    front_end,
    ranks_wait,
    starts_ahead,
    steady_state,
)
from costmodel.analytic.serving.sessions import of_sessions
from costmodel.analytic.serving.steady_state import SteadyState
from costmodel.analytic.serving.token_bill import Shares, load_of, token_bill, token_shares
from costmodel.analytic.serving.waiting import CLIENT, steps_meanwhile
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation
from costmodel.cost.calibration import Calibration
from costmodel.equations import equation
from costmodel.quantities import (
    Count,
    Joules,
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
from costmodel.workload.memory import Ledger
from costmodel.workload.passes import Pass, computed_tokens, pass_work
from costmodel.workload.plans import Serving
from costmodel.workload.requests import RequestClass
from costmodel.workload.scenario import Scenario

_ROUNDING = 1e-9  # of a whole number of prompts
WAITING_RANKS = "data-parallel ranks wait for each other's prompts"  # why requests are simulated one by one
StepTimes: TypeAlias = "tuple[PassTimes, ...]"  # of steps with prompts, and last of one that only decodes


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
        devices = self._scenario.parallel.all_devices * self._plan.replicas.count
        load = load_of(devices, metrics, 1.0, self.work())
        bill = token_bill(self._scenario.cluster.node, load, self.token_shares())
        own = partial(prompt_time, self._plan, self._state, self._both())
        return {**bill, **of_classes(self._scenario, self._plan.classes, own, metrics)}

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
def prompt_time(
    plan: Serving, state: SteadyState, steps: tuple[Seconds, Seconds], input_tokens: Count
) -> Seconds:  # fmt: skip
    """Return what a prompt of its own length takes in the steps of the mean one.

    prompt_time = longer * computed / (state.prompts * state.prompt_tokens) + base * max(computed / room, 1)
    longer = max(with_prompts - base, 0)
    room := tokens of a step beside those of requests that decode
    base := of a step without prompts, where these share steps with requests that decode
    """
    (with_prompts, decode_only), computed = steps, computed_tokens(input_tokens, plan.prefix_hit_rate)
    budget, base = plan.scheduler.token_budget, decode_only if plan.scheduler.mixes else 0.0
    longer, room = (
        maximum(with_prompts - base, 0.0),
        computed if budget is None else maximum(budget - state.co_batched, 1.0),
    )
    return longer * computed / (state.prompts * state.prompt_tokens) + base * maximum(computed / room, 1.0)


def of_classes(
    scenario: Scenario, classes: Sequence[RequestClass], own: Callable[[float], Seconds], mean: Mapping[str, float]
) -> dict[str, dict[str, dict[str, float | None]]]:  # fmt: skip
    """Return the mean times of the classes of requests at a single point, which share all steps and waits.

    ttft = mean.ttft + (own(input_tokens) - sum over classes of share * own(input_tokens)) * longer
    latency = ttft + mean.tpot * (output_tokens - 1)

    own: what a prompt of such a length takes; mean: metrics of all requests, which are the classes' mean by share.
    Nothing where there are none.
    """
    known: dict[str, dict[str, float | None]] = {}
    times = [float(own(float(each.input.average))) for each in classes if each.input is not None]
    usual = sum(float(each.share) * time for each, time in zip(classes, times, strict=True))
    for each, time in zip(classes, times, strict=True):
        assert each.input is not None, "a scenario completes its classes"
        assert each.output is not None, "a scenario completes its classes"
        output, ttft = float(each.output.average), mean["ttft"] + (time - usual) * float(scenario.pace.first)
        known[each.name] = {
            "share": float(each.share), "input_tokens": float(each.input.average), "output_tokens": output,
            "ttft": ttft, "tpot": mean["tpot"], "latency": ttft + mean["tpot"] * (output - 1.0), "attainment": None,
            "goodput": None,
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
    unmodelled += ["`replicas.others`"] if replicas.others else []
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
            f"adapters: {served.held} of {served.count} are in memory: {served.seats:.0f} requests run at a time, and "
            f"{served.missed:.0%} wait for a copy of theirs",
        )
    if plan.requests is None or plan.requests.priority is None or plan.scheduler.policy == "priority":
        return places
    return (
        *places,
        f"`requests.priority` has no effect: `scheduler.policy` is {plan.scheduler.policy}, not priority",
    )
