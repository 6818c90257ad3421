"""Serving at a rate of requests: the number in flight follows from it, and so do times of steps and of waiting.

Means only: percentiles, ends of runs and ranks that align are the request engine's.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cached_property, partial

import numpy as np

from costmodel.analytic.breakdown import BreakdownLines
from costmodel.analytic.inference import operators_of
from costmodel.analytic.metrics import served_metrics
from costmodel.analytic.operator_timing import TimedOperator, operator_timer
from costmodel.analytic.serving.continuous_batching import (
    WAITING_RANKS,
    EngineSteps,
    left_to_requests,
    of_classes,
    prompt_time,
)
from costmodel.analytic.serving.engine_state import (
    decode_steps,
    demand,
    front_end,
    mean_keys,
    most_running,
    ranks_wait,
    shared_blocks,
    steady_state,
)
from costmodel.analytic.serving.nodes import NodePlace, batch_nodes, last_node, with_nodes
from costmodel.analytic.serving.sessions import of_sessions
from costmodel.analytic.serving.solution import PromptSteps, Solution, Steps, StepTable
from costmodel.analytic.serving.token_bill import load_of, token_bill, token_shares
from costmodel.analytic.serving.waiting import (
    CLIENT,
    PROMPTS,
    REST,
    SCHEDULED,
    SEAT,
    TINY,
    WAITS,
    busy_share,
    equivalent_load,
    upper_tail,
    waiting_share,
)
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation
from costmodel.cost.calibration import Calibration
from costmodel.cost.distinct_sizes import grid_shape
from costmodel.equations import equation
from costmodel.quantities import Count, Joules, Quantity, Seconds, floor, maximum, minimum, sum_of, where
from costmodel.records import replace
from costmodel.result import Entry, Metrics
from costmodel.workload.engine_memory import kv_pool
from costmodel.workload.memory import Ledger
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Scenario

_MANY = 1e6  # prompts in a step of an engine without a budget of tokens
NEAR, OVER = 0.75, 1.1  # chosen by the grid of method 12.4: of the highest stable rate, between them means err
NEAR_ALONE = 0.5  # chosen by the same grid: where prompts have steps of their own, during which more of them come
FEW_STEPS = 7.0  # chosen by the same grid: of decoding, with fewer of which it matters which step a request meets
VERDICTS = ("stable", "backlogged", "overloaded")
QUANTILES = {"p50": 0.0, "p90": 1.2815515655446004, "p99": 2.3263478740408408}
"""Name -> that quantile of the standard normal distribution."""


@equation
def _seat_queue(most: Count, rate: Quantity, capacity: Quantity) -> dict[str, Quantity]:
    """Return what the wait for one of the seats follows from.

    service = most / capacity
    load = rate / capacity
    """
    return {"service": most / capacity, "load": rate / capacity, "servers": most}


@equation
def _prompt_queue(
    steps: Steps, prompts: PromptSteps, rate: Quantity, offered: Quantity, seated: Quantity
) -> dict[str, Quantity]:  # fmt: skip
    """Return what the wait behind the prompts of others follows from, of requests that have a seat.

    service = steps.state.first_token_steps * prompts.full
    load = min(rate * service / prompts.most, offered)
    """
    service = steps.state.first_token_steps * prompts.full
    load = minimum(rate * service / prompts.most, offered)
    share_waiting = minimum(waiting_share(load, prompts.most), seated)
    return {"service": service, "load": load, "servers": prompts.most, "share_waiting": share_waiting}


def near_full(load: float) -> str:
    """Return why requests are simulated near the highest stable rate. load: share of it."""
    return f"the rate is {load:.0%} of the highest stable one, near which queues come and go"


class OpenLoopEvaluation(PhaseEvaluation[StepTable]):
    """Continuous batching where requests arrive at a rate.

    In every pipeline set of every replica the number L of requests that steps work on follows from its rate and their
    time R [Little, Operations Research 9(3), 1961], which a request spends among L others where arrivals are random:

        L = rate * R(M),    M = max(L + c_a^2, 1)

    c_a^2: 1 of Poisson arrivals, which see time averages [PASTA, Wolff, 1982], 0 of even ones. Engines that get them in
    turn see every n-th, whose gaps vary less: c_a^2/n.
    """

    headline = "latency"

    def __init__(self, scenario: Scenario, plan: Serving, calibration: Calibration) -> None:
        self._scenario, self._plan, self._calibration = scenario, plan, calibration
        self._dimensions = len(grid_shape(scenario))
        dealt = scenario.parallel.dp * plan.replicas.count if plan.replicas.routing == "round_robin" else 1.0
        self._arrival_scv = plan.arrival_scv / dealt
        self._timer = operator_timer(scenario, calibration)
        self._pool = kv_pool(scenario, plan)
        self.ledger: Ledger | None = self._pool.ledger
        sets = scenario.parallel.pp
        self._most = maximum(most_running(scenario, plan, self._pool) / sets, 1.0)
        self._nodes = batch_nodes(self._most, self._dimensions)
        self._states = steady_state(scenario, plan, self._nodes * sets)
        self._priced = EngineSteps.of(scenario, plan, self._states, self._timer)

    def at_rate(self, rate: Quantity) -> OpenLoopEvaluation:
        """Return the same engines at another rate, their steps timed once."""
        other = copy(self)
        other._plan = replace(self._plan, rate=rate, concurrency=None)
        other._scenario = replace(self._scenario, plan=other._plan)
        other.__dict__.pop("_kept", None)
        return other

    def _evaluate(self, perturbations: Perturbations) -> StepTable:
        wider = None if perturbations is None else with_nodes(perturbations, self._dimensions)
        times = self._priced.times(wider)
        return StepTable(*self._priced.rounds(times, self._scenario.parallel.pp), *self._priced.joules(times))

    def solution(self, perturbations: Perturbations = None) -> Solution:
        """Return the engine at the rate, or with all seats taken where it cannot keep up. Unperturbed it is kept."""
        return self._kept if perturbations is None else self._solve(perturbations)

    @cached_property
    def _kept(self) -> Solution:
        return self._solve(None)

    @property
    def _engines(self) -> Count:
        """Return the pipeline sets of all replicas, each of which gets an equal share of the requests."""
        parallel = self._scenario.parallel
        return parallel.pp * parallel.dp * self._plan.replicas.serving(parallel.all_devices)

    @equation
    def _solve(self, perturbations: Perturbations) -> Solution:
        """Return the engine at the rate.

        load = rate / served
        capacity = served * engines
        served = min(most / full_residence, full_throughput)      an engine with all seats taken
        in_system = min(rate * (steps.own + steps.later), most)   Little's law
        """
        assert self._plan.rate is not None
        table, states, axis = self.times(perturbations), self._states, -1 - self._dimensions
        rate, random = self._plan.rate / self._engines, minimum(self._arrival_scv, 1.0)
        kinds = table.with_prompts, table.decode_only
        residence, throughput = (
            states.first_token_steps * table.with_prompts + states.after_first(*kinds), states.throughput(*kinds),
        )  # fmt: skip
        most, engines = self._most, self._engines
        full_residence, full_throughput = last_node(residence, axis), last_node(throughput, axis)
        served = minimum(most / full_residence, full_throughput)
        load = rate / served
        reached = minimum((self._nodes - random) / residence, throughput)
        steps = self._steps_at(table, NodePlace.at(reached, where(load < 1.0, rate, np.inf), axis))
        in_system = minimum(rate * (steps.own + steps.later), most)
        prompts = self._prompt_steps(steps, minimum(rate, served))
        terms = self._terms(steps, prompts, in_system, served)
        return Solution(
            steps=steps, prompts=prompts, in_system=in_system, capacity=served * engines, load=load,
            terms=terms, waits={name: WAITS[name](**each) for name, each in terms.items()},
        )  # fmt: skip

    def _steps_at(self, table: StepTable, position: NodePlace) -> Steps:
        """Return the steps at a position between the nodes."""
        running = position.read(self._nodes)
        state = steady_state(self._scenario, self._plan, running * self._scenario.parallel.pp)
        share = state.prompt_steps / (state.prompt_steps + state.decode_only_steps)

        def mean(with_prompts: Quantity, decode_only: Quantity) -> Quantity:
            return share * position.read(with_prompts) + (1.0 - share) * position.read(decode_only)

        return Steps(
            running=running, state=state,
            with_prompts=position.read(table.with_prompts), decode_only=position.read(table.decode_only),
            joules=mean(table.prompt_joules, table.decode_joules),
        )  # fmt: skip

    def _prompt_steps(self, steps: Steps, rate: Quantity) -> PromptSteps:
        """Return the prompts that share steps, with as many in one as its tokens leave room for."""
        plan, state = self._plan, steps.state
        most: Count = _MANY + 0.0 * state.active
        if plan.scheduler.token_budget is not None:
            computed = maximum(demand(plan).computed, 1.0)
            most = maximum(maximum(plan.scheduler.token_budget - state.co_batched, 1.0) / computed, 1.0)
            most = maximum(floor(most) if plan.scheduler.whole_prompts else most, state.prompts)
        base = steps.decode_only if plan.scheduler.mixes else 0.0
        each = maximum(steps.with_prompts - base, 0.0) / state.prompts
        started = minimum(rate * state.first_token_steps * steps.mean, most)
        share = state.prompt_steps / (state.prompt_steps + state.decode_only_steps)
        square = share * steps.with_prompts**2 + (1.0 - share) * steps.decode_only**2
        return PromptSteps(started=started, most=most, each=each, full=base + each * most, square=square)

    @equation
    def _terms(
        self, steps: Steps, prompts: PromptSteps, in_system: Count, capacity: Quantity
    ) -> dict[str, dict[str, Quantity]]:
        """Return the terms of what a request waits for before its own steps, by cause.

        seated = max(busy - share_waiting, 0)             share that finds the engine at work and a seat free
        offered = rate / capacity
        taken = in_system / most
        """
        plan, scv, most = self._plan, self._arrival_scv, self._most
        assert plan.rate is not None
        rate = plan.rate / self._engines
        offered, busy = rate / capacity, busy_share(in_system, scv)
        share_waiting = waiting_share(equivalent_load(offered, in_system / most), most)
        seated = maximum(busy - share_waiting, 0.0)
        scheduled = maximum(busy, share_waiting) if plan.scheduler.overlapped else 0.0 * busy
        return {
            CLIENT: {"front_end_time": front_end(self._scenario, plan)},
            REST: {
                "seated": seated, "square": prompts.square, "mean": steps.mean,
                "unseen": 0.5 * (plan.scheduler.look_steps - 1.0) * steps.decode_only,
            },
            SCHEDULED: {"busy": scheduled, "mean": steps.mean},
            SEAT: {"share_waiting": share_waiting, "variability": scv, **_seat_queue(most, rate, capacity)},
            PROMPTS: {"variability": scv, **_prompt_queue(steps, prompts, rate, offered, seated)},
        }  # fmt: skip

    def percentiles(self) -> Mapping[str, Mapping[str, float]]:
        """Return about the quantiles of the times of requests at a single point, none where the queue only grows [s].

        Rough: two moments of each part, as if they were independent, and the quantile of a gamma or normal distribution
        with the sums. The number in flight has the variance 2/3*L, averaged over a life [M/G/infinity]. Prompts that
        come in a life are Poisson's. The request engine knows them.
        """
        if self.solution().load >= 1.0:
            return {}
        quantiles: dict[str, dict[str, float]] = {"ttft": {}, "tpot": {}, "e2e": {}}
        for name, normal in QUANTILES.items():
            for time, value in self.tails(normal).items():
                quantiles[time][name] = float(value)
        return quantiles

    def tails(self, normal: float) -> dict[str, Quantity]:
        """Return the rough quantiles of `percentiles` at every point [s]. normal: that of the normal distribution."""
        solution, tokens = self.solution(), self._plan.output_tokens - 1
        steps, variance = solution.steps, self._variance(solution)
        random = sum_of(solution.waits[name] for name in (REST, SCHEDULED, SEAT, PROMPTS))
        first = solution.first - random + upper_tail(random, variance, normal)
        later = self._life(solution, normal)
        return {
            "ttft": first, "tpot": later / tokens, "e2e": maximum(first + steps.later, solution.first + later)
        }  # fmt: skip

    def _life(self, solution: Solution, normal: float) -> Seconds:
        """Return the time after the first token where so many deviations more requests, and prompts, come meanwhile."""
        steps, random = solution.steps, minimum(self._arrival_scv, 1.0)
        more = normal * (2.0 / 3.0 * random * solution.in_system) ** 0.5
        position = NodePlace.at(self._nodes, steps.running + more, -1 - self._dimensions)
        crowded = self._steps_at(self.times(), position)
        delays = normal * steps.state.later_prompt_steps**0.5
        return crowded.later + delays * (crowded.with_prompts - crowded.decode_only)

    def _variance(self, solution: Solution) -> Quantity:
        """Return the variance of the time to first token: of the step that runs, of those after it, of queues [s^2].

        E[T^3]/(3*E[T]) - E[R]^2,   E[T^2] - E[T]^2,   x*b^2,   W^2*(2/P - 1) of exponential waits
        """
        steps, prompts, terms = solution.steps, solution.prompts, solution.terms
        share = steps.state.prompt_steps / (steps.state.prompt_steps + steps.state.decode_only_steps)
        cube = share * steps.with_prompts**3 + (1.0 - share) * steps.decode_only**3
        rest = solution.waits[REST]
        variance = terms[REST]["seated"] * cube / (3.0 * steps.mean) - rest * rest
        scheduled = maximum(prompts.square - steps.mean * steps.mean, 0.0) * terms[SCHEDULED]["busy"]
        variance = maximum(variance, 0.0) + scheduled + prompts.started * prompts.each * prompts.each
        for name in (SEAT, PROMPTS):
            variance = variance + solution.waits[name] ** 2 * (2.0 / maximum(terms[name]["share_waiting"], TINY) - 1.0)
        return variance

    @equation
    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics at the rate. Where it is more than the engine can serve, of an engine that is full.

        rate = min(plan.rate, solution.capacity)
        highest_stable_rate = solution.capacity
        concurrency = solution.in_system * parallel.pp
        max_concurrency = most * parallel.pp
        kv_blocks = pool.blocks                           what memory leaves for the KV cache
        kv_use = held / max(pool.blocks, 1)
        held = shared + solution.in_system * parallel.pp * (blocks_of_one - shared)
        prefix_hit_rate = plan.prefix_hit_rate            cached tokens are not computed (`computed_tokens`)
        """
        plan, parallel, solution = self._plan, self._scenario.parallel, self.solution(perturbations)
        assert plan.rate is not None
        rate = minimum(plan.rate, solution.capacity)
        devices = parallel.all_devices * plan.replicas.count
        busy, steps = busy_share(solution.in_system, self._arrival_scv), solution.steps
        work = busy * steps.joules / steps.mean
        pool, most = self._pool, self._most
        blocks_of_one = pool.mean_blocks_of(mean_keys(plan))
        shared = shared_blocks(plan, pool)
        held = shared + solution.in_system * parallel.pp * (blocks_of_one - shared)
        own: Metrics = {
            "highest_stable_rate": solution.capacity,
            "concurrency": solution.in_system * parallel.pp,
            "max_concurrency": most * parallel.pp,
            "kv_blocks": pool.blocks,
            "kv_use": held / maximum(pool.blocks, 1.0),
            "prefix_hit_rate": plan.prefix_hit_rate,
        }
        return served_metrics(self._scenario, rate, devices, (solution.first, steps.later), work, own)

    def details(self) -> Mapping[str, object]:
        """Return what each kind of tokens takes, and the mean times of each class of requests, where there are some.

        Of requests whose queue only grows no times.
        """
        steps, metrics = self.solution().steps, self.metrics(None)
        mean = {name: float(value or 0.0) for name, value in metrics.items()}
        busy = float(busy_share(self.solution().in_system, self._arrival_scv))
        devices = self._scenario.parallel.all_devices * self._plan.replicas.count
        load = load_of(devices, mean, busy, busy * steps.joules / steps.mean)
        shares = token_shares(self._plan, steps.state, self._steps_of)
        bill = token_bill(self._scenario.cluster.node, load, shares)
        if self.solution().load >= 1.0:
            return bill
        own = partial(prompt_time, self._plan, steps.state, (steps.with_prompts, steps.decode_only))
        return {**bill, **of_classes(self._scenario, self._plan.classes, own, mean)}

    def _steps_of(self, plan: Serving) -> tuple[tuple[Seconds, Seconds], tuple[Joules, Joules]]:
        state = self.solution().steps.state
        return EngineSteps.of(self._scenario, plan, state, self._timer).both(self._scenario)

    def verdict(self) -> str:
        """Return `overloaded` where the rate is more than the engine serves, `backlogged` where most requests wait."""
        solution = self.solution()
        if solution.load >= 1.0:
            return VERDICTS[2]
        return VERDICTS[1] if solution.terms[SEAT]["share_waiting"] > 0.5 else VERDICTS[0]

    def families(self) -> frozenset[str]:
        """Return the families of the operators."""
        return frozenset(timed.operator.family for timed in operators_of(self._priced.models))

    @cached_property
    def _exact(self) -> tuple[Solution, EngineSteps]:
        """Return the solution of a single point, and both kinds of steps priced at its batch."""
        solution = self.solution()
        return solution, EngineSteps.of(self._scenario, self._plan, solution.steps.state, self._timer)

    def operators(self) -> list[TimedOperator]:
        """Return the operators of steps with prompts, then of those that only decode, at a single point's batch."""
        return operators_of(self._exact[1].models)

    def breakdown(self) -> list[Entry]:
        """Return what a request's latency consists of: operators of the steps of its life, and waiting.

        Operators are priced at the batch itself. Their sum is scaled to the table's, which the metrics rest on.
        """
        solution, priced = self._exact
        lines, sets, state = BreakdownLines(), float(self._scenario.parallel.pp), solution.steps.state
        times, steps = priced.times(None), solution.steps
        with_prompts, decode_only = priced.rounds(times, sets)
        prompt_steps = float(state.first_token_steps + state.later_prompt_steps) * steps.with_prompts / with_prompts
        later = float(state.later_decode_only_steps) * steps.decode_only / decode_only
        priced.add_to(lines, times, (float(prompt_steps), float(later)), sets)
        bounds = {SEAT: "capacity", PROMPTS: "compute"}
        for cause, wait in solution.waits.items():
            if np.isfinite(wait):
                lines.add_wait(cause, float(wait), bounds.get(cause, "latency"))
        return lines.sorted()

    def beyond(self) -> str | None:
        """Return why requests have to be simulated one by one at a single point, null where the closed form holds.

        Against the request engine its means are within a sixth below that load, and up to half as long or twice as long
        from there on and for outputs of a few tokens (docs/method.md, 12.4). Far above the highest stable rate the
        engine is full, whatever the order of its requests. Ranks that wait for each other's prompts are not in it.
        """
        stream = self._plan.requests
        load, endless = float(self.solution().load), stream is None or stream.count is None
        near = NEAR if self._plan.scheduler.mixes else NEAR_ALONE
        if load >= near and not (endless and load >= OVER):
            alone = f"at {load:.0%} of the highest stable rate prompts come while others have steps of their own"
            return near_full(load) if load >= NEAR else alone
        steps = float(decode_steps(self._plan.output_tokens, self._plan.speculative))
        if steps < FEW_STEPS and load < near:
            return f"outputs are decoded in {steps:.3g} steps, few enough for which ones they are to matter"
        return WAITING_RANKS if load < near and ranks_wait(self._scenario) else None

    def notes(self) -> tuple[str, ...]:
        """Return the load, that the engine cannot keep up, or nearly so, and what of the requests is left out."""
        solution, verdict, left = self.solution(), self.verdict(), left_to_requests(self._plan)
        left = (*of_sessions(self._scenario, self._plan, self.metrics(None)), *left)
        load = f"{float(solution.load):.0%} of the highest stable rate"
        beyond = self.beyond()
        if beyond is not None:
            left = (f"closed form: {beyond}; its times are off there, `--engine event` has them", *left)
        if verdict == VERDICTS[2]:
            arriving, served = float(self._plan.rate or 0.0), float(solution.capacity)
            overload = (
                f"overloaded: {arriving:g} requests/s arrive, {served:.3g} can be served; the queue only grows; "
                "rates, cost and energy are of what is served"
            )
            return (overload, *left)
        if verdict == VERDICTS[1]:
            return (f"backlogged: at {load} most requests wait for a seat", *left)
        return (f"load: {load}", *left)
