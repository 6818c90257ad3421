"""Serving at a rate of requests: the number in flight follows from it, and so do times of steps and of waiting."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from costmodel.analytic.breakdown import BreakdownLines, add_pass
from costmodel.analytic.gathering import Gathering
from costmodel.analytic.inference import PassModel, PassTimes, operators_of, pass_model_of, pass_times
from costmodel.analytic.lookahead import with_lookahead
from costmodel.analytic.metrics import invested, spent
from costmodel.analytic.operator_timing import TimedOperator, operator_timer
from costmodel.analytic.phase_evaluation import PhaseEvaluation
from costmodel.analytic.queueing import (
    Life,
    Spread,
    aligned_wait,
    busy_share,
    others_share,
    residual_step,
)
from costmodel.analytic.seats import SeatQueue
from costmodel.analytic.serving import (
    aligns,
    decode_steps,
    demand,
    engine_passes,
    front_end,
    left_to_requests,
    mean_keys,
    most_running,
    padded_ranks,
    steady_state,
)
from costmodel.analytic.steady_state import SteadyState
from costmodel.analytic.stream_times import Perturbation, Perturbations
from costmodel.cost.calibration import Calibration
from costmodel.cost.distinct_sizes import grid_shape
from costmodel.cost.power import Draw
from costmodel.quantities import Array, Count, Joules, Quantity, Seconds, floor, maximum, minimum, where
from costmodel.records import Record
from costmodel.result import Entry, Metrics
from costmodel.workload.engine_memory import kv_pool
from costmodel.workload.memory import Ledger
from costmodel.workload.passes import pass_work
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Scenario

_MANY = 1e6  # prompts in a step of an engine without a budget of tokens
HALVINGS = 30  # of an interval of rates
NODES = 16  # batches at which steps are priced; between them times are interpolated
NEAR, OVER = 0.75, 1.1  # chosen by the grid of method 12.4: of the highest stable rate, between them means are off
FEW_STEPS = 7.0  # chosen by the same grid: of decoding, with fewer of which it matters which step a request meets
VERDICTS = ("stable", "backlogged", "overloaded")
QUANTILES = {"p50": (0.5, 0.0), "p90": (0.9, 1.2815515655446004), "p99": (0.99, 2.3263478740408408)}
"""Name -> the quantile, and that of the standard normal distribution."""


class StepTable(Record):
    """Seconds of both kinds of steps at every node, the nodes along one axis before those of the grid.

    decode_only: of the rank itself; behind_ranks, full_behind: what it then waits for prompts of other ranks, which
        come at random, or at once where requests end since all ranks always have work.
    """

    with_prompts: Quantity
    decode_only: Quantity
    behind_ranks: Seconds
    full_behind: Seconds
    prompt_kernels: Quantity
    decode_kernels: Quantity
    prompt_joules: Joules
    decode_joules: Joules


class Solution(Record, kw_only=True):
    """An engine at a rate.

    running: requests in a step as one of them meets it, itself included.
    in_system: mean number that steps work on.
    state: the steps of such a request; with_prompts, decode_only: seconds of its steps; behind_ranks: of the latter,
        what waits for prompts of other ranks; kernels, joules: of the mean step
    capacity: highest rate [1/s].
    load: rate over that.
    waits: seconds of a request by cause, before its own steps.
    """

    running: Count
    in_system: Count
    state: SteadyState
    with_prompts: Seconds
    decode_only: Seconds
    behind_ranks: Seconds
    kernels: Seconds
    joules: Joules
    capacity: Quantity
    load: Quantity
    waits: Mapping[str, Seconds]
    spread: Spread

    @property
    def first(self) -> Seconds:
        """Return the time to first token."""
        total: Quantity = self.state.first_token_steps * self.with_prompts
        for wait in self.waits.values():
            total = total + wait
        return total

    @property
    def later(self) -> Seconds:
        """Return the time from the first token to the last."""
        return self.state.after_first(self.with_prompts, self.decode_only)


class OpenLoopEvaluation(PhaseEvaluation[StepTable]):
    """Continuous batching where requests arrive at a rate.

    In every pipeline set of every replica the number L of requests that steps work on follows from its rate and their
    time R [Little, Operations Research 9(3), 1961], which a request spends among L others where arrivals are random:

        L = rate * R(M),    M = max(L + c_a^2, 1)

    c_a^2: 1 of Poisson arrivals, which see time averages [PASTA, Wolff, 1982], 0 of even ones.
    """

    headline = "latency"

    def __init__(self, scenario: Scenario, plan: Serving, calibration: Calibration) -> None:
        self._scenario, self._plan, self._dimensions = scenario, plan, len(grid_shape(scenario))
        self._timer = operator_timer(scenario, calibration)
        self._ranks = padded_ranks(scenario)
        self._pool = kv_pool(scenario, plan)
        self.ledger: Ledger | None = self._pool.ledger
        sets = scenario.parallel.pp
        self._most = maximum(most_running(scenario, plan, self._pool) / sets, 1.0)
        self._nodes = _nodes(self._most, self._dimensions)
        self._states = steady_state(scenario, plan, self._nodes * sets)
        self._models = self._priced(self._states)

    def _priced(self, state: SteadyState) -> list[PassModel]:
        passes = engine_passes(self._scenario, self._plan, state)
        return [pass_model_of(self._scenario, step, pass_work(step), self._timer) for step in passes]

    def _evaluate(self, perturbations: Perturbations) -> StepTable:
        wider = None if perturbations is None else _with_nodes(perturbations, self._dimensions)
        sets = self._scenario.parallel.pp
        alone = pass_times(self._models[0], wider), pass_times(self._models[1], wider)
        prompts, decodes = with_lookahead(self._scenario, self._plan, self._states, self._ranks, alone)
        with_prompts, decode_only = prompts.round(sets), decodes.round(sets)
        full = self._states.behind_ranks(with_prompts, decode_only, self._ranks)
        return StepTable(
            with_prompts, decode_only, self._behind(with_prompts, decode_only), full,
            prompts.kernels, decodes.kernels, prompts.joules, decodes.joules,
        )  # fmt: skip

    def _behind(self, with_prompts: Quantity, decode_only: Quantity) -> Seconds:
        """Return what a step that only decodes waits for prompts of other ranks at every node.

        Their rate is the node's own, rate * R = M - c_a^2 with R the time of its requests, which the wait lengthens:
        rate * R grows with the rate, which is halved in on.
        """
        states, scv, steps = self._states, self._plan.arrival_scv, (with_prompts, decode_only)
        longer = maximum(with_prompts - decode_only, 0.0)
        if not np.any(np.asarray(self._ranks) > 1.0):
            return 0.0 * longer
        alone = states.first_token_steps * with_prompts + states.after_first(*steps)
        others = maximum(self._nodes - minimum(scv, 1.0), 0.0)
        low, high, wait = 0.0 * alone, others / alone, 0.0 * alone
        for _ in range(HALVINGS):
            rate = 0.5 * (low + high)
            wait = longer * others_share(rate, steps, states.first_token_steps, self._ranks, scv)
            above = rate * (alone + states.later_decode_only_steps * wait) > others
            low, high = where(above, low, rate), where(above, rate, high)
        return wait

    def solution(self, perturbations: Perturbations = None) -> Solution:
        """Return the engine at the rate, or with all seats taken where it cannot keep up. Unperturbed it is kept."""
        return self._kept if perturbations is None else self._solve(perturbations)

    @cached_property
    def _kept(self) -> Solution:
        return self._solve(None)

    def _solve(self, perturbations: Perturbations) -> Solution:
        plan, parallel, states = self._plan, self._scenario.parallel, self._states
        assert plan.rate is not None
        table, axis = self.times(perturbations), -1 - self._dimensions
        rate = plan.rate / (parallel.pp * parallel.dp * plan.replicas.serving(parallel.all_devices))
        first = states.first_token_steps * table.with_prompts
        served, served_full = (
            first + states.after_first(table.with_prompts, table.decode_only + behind)
            for behind in (table.behind_ranks, table.full_behind)
        )
        full = _last(served_full, axis)
        full_steps = table.with_prompts, table.decode_only + table.full_behind
        capacity = minimum(self._most / full, _last(states.throughput(*full_steps), axis))
        load = rate / capacity
        alone = minimum(plan.arrival_scv, 1.0)
        started = states.throughput(table.with_prompts, table.decode_only + table.behind_ranks)
        reached = minimum((self._nodes - alone) / served, started)
        place = _Place.at(reached, where(load < 1.0, rate, np.inf), axis)
        running = place.read(self._nodes)
        behind = where(load < 1.0, place.read(table.behind_ranks), _last(table.full_behind, axis))
        with_prompts, decode_only = place.read(table.with_prompts), place.read(table.decode_only) + behind
        state = steady_state(self._scenario, plan, running * parallel.pp)
        resident = state.first_token_steps * with_prompts + state.after_first(with_prompts, decode_only)
        in_system = minimum(rate * resident, self._most)
        share = state.prompt_steps / (state.prompt_steps + state.decode_only_steps)
        kernels = share * place.read(table.prompt_kernels) + (1.0 - share) * place.read(table.decode_kernels)
        joules = share * place.read(table.prompt_joules) + (1.0 - share) * place.read(table.decode_joules)
        service = where(load < 1.0, minimum(_last(served, axis), full), full)  # one rank is full, the others are not
        seats = SeatQueue(
            load=rate * service / self._most, seats=self._most, service=service, variability=plan.arrival_scv,
            taken=in_system / self._most, requests=self._requests,
        )  # fmt: skip
        gathering = self._gathering(state, minimum(rate, capacity), with_prompts, decode_only)
        life = Life(
            mean=state.after_first(with_prompts, decode_only), in_system=in_system, arrival_scv=plan.arrival_scv,
            slowing=minimum(place.slope(served, self._nodes) * in_system / resident, 1.0),
            prompts=gathering.rate * gathering.chunks * gathering.each,
        )  # fmt: skip
        waits, spread = self._waits((state, gathering, behind), seats, in_system, life)
        return Solution(
            running=running,
            in_system=in_system,
            state=state,
            with_prompts=with_prompts,
            decode_only=decode_only,
            behind_ranks=behind,
            kernels=kernels,
            joules=joules,
            capacity=capacity * parallel.pp * parallel.dp * plan.replicas.serving(parallel.all_devices),
            load=load,
            waits=waits,
            spread=spread,
        )

    @property
    def _requests(self) -> Count | None:
        """Return the requests of a run at each pipeline set of a replica, null where it has no end."""
        stream, parallel = self._plan.requests, self._scenario.parallel
        if stream is None or stream.count is None:
            return None
        return stream.count / (parallel.pp * parallel.dp * self._plan.replicas.serving(parallel.all_devices))

    def _gathering(self, state: SteadyState, rate: Quantity, with_prompts: Seconds, decode_only: Seconds) -> Gathering:
        """Return the prompts that wait for one another, with as many of them in a step as its tokens leave room for."""
        plan, most = self._plan, _MANY + 0.0 * state.active
        if plan.scheduler.token_budget is not None:
            computed = maximum(demand(plan).computed, 1.0)
            room = maximum(plan.scheduler.token_budget - state.co_batched, 1.0)
            most = maximum(room / computed, 1.0)
            most = maximum(floor(most) if plan.scheduler.whole_prompts else most, state.prompts)
        return Gathering(
            rate=rate, chunks=state.first_token_steps, most=most, with_prompts=with_prompts, decode_only=decode_only,
            base=decode_only if plan.scheduler.mixes else 0.0 * decode_only,
            mean=state.step(with_prompts, decode_only), prompts=state.prompts, arrival_scv=self._plan.arrival_scv,
        )  # fmt: skip

    def _waits(
        self, steps: tuple[SteadyState, Gathering, Seconds], queue: SeatQueue, in_system: Count, life: Life
    ) -> tuple[dict[str, Seconds], Spread]:
        """Return what a request waits for before its own steps, by cause, and what differs from request to request.

        busy * (E[T^2]/(2*E[T]) + (k - 1)/2 * T_decode)   rest of the running step and of those until the next look
        busy * [async] E[T]                          the step that is scheduled already
        seats, other prompts                         `SeatQueue`, `Gathering`
        request                                      client and front end
        """
        plan, (state, gathering, behind_ranks) = self._plan, steps
        with_prompts, decode_only, mean = gathering.with_prompts, gathering.decode_only, gathering.mean
        alone = decode_only - behind_ranks
        share = state.prompt_steps / (state.prompt_steps + state.decode_only_steps)
        share = share + (1.0 - share) * behind_ranks / maximum(with_prompts - alone, 1e-12)
        seats = queue.waiting
        busy = busy_share(in_system * self._ranks, plan.arrival_scv)
        seated = maximum(busy - seats, 0.0)
        unseen = 0.5 * (plan.scheduler.look_steps - 1.0) * decode_only
        rest = seated * (residual_step(with_prompts, alone, share) + gathering.longer + unseen)
        aligned: Quantity = 0.0 * mean
        if aligns(self._scenario, plan):
            ranks, most = self._scenario.parallel.lockstep, plan.scheduler.align_steps
            aligned = busy * aligned_wait(state.rate, ranks, most)[0] * decode_only
        queued = maximum(busy, seats) * mean if plan.scheduler.overlapped else 0.0 * mean
        request = front_end(self._scenario, plan)
        waits = {
            "client and front end": request,
            "rest of the running step": rest,
            "step scheduled already": queued,
            "waiting for a seat": queue.wait,
            "behind other prompts": gathering.behind(rest, seated) + seated * gathering.beside,
            "prompts that ranks align": aligned,
        }
        spread = Spread(
            fixed=request + aligned + seated * unseen, own=queued + state.first_token_steps * with_prompts,
            busy=minimum(busy / maximum(1.0 - seats, 1e-12), 1.0), gathering=gathering,
            ahead=plan.scheduler.overlapped, seats=queue, life=life,
        )  # fmt: skip
        return waits, spread

    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics at the rate. Where it is more than the engine can serve, of an engine that is full."""
        plan, parallel, found = self._plan, self._scenario.parallel, self.solution(perturbations)
        assert plan.rate is not None
        rate = minimum(plan.rate, found.capacity)
        tokens, devices = rate * plan.output_tokens, parallel.all_devices * plan.replicas.count
        busy = busy_share(found.in_system, plan.arrival_scv)
        step = found.state.step(found.with_prompts, found.decode_only)
        draw = Draw(busy * found.kernels / step, busy * found.joules / step)
        held = found.in_system * parallel.pp * self._pool.mean_blocks_of(mean_keys(plan))
        return {
            "ttft": found.first,
            "tpot": found.later / (plan.output_tokens - 1),
            "latency": found.first + found.later,
            "requests_per_second": rate,
            "highest_stable_rate": found.capacity,
            "input_tokens_per_second": rate * plan.input_tokens,
            "tokens_per_second": tokens,
            "tokens_per_second_per_device": tokens / devices,
            "tokens_per_second_per_user": (plan.output_tokens - 1) / found.later,
            "concurrency": found.in_system * parallel.pp,
            "max_concurrency": self._most * parallel.pp,
            "kv_blocks": self._pool.blocks,
            "kv_use": held / maximum(self._pool.blocks, 1.0),
            "prefix_hit_rate": plan.prefix_hit_rate,
            **spent(self._scenario.cluster.node, devices, tokens, draw),
            **invested(self._scenario, devices),
        }

    def verdict(self) -> str:
        """Return `overloaded` where the rate is more than the engine serves, `backlogged` where most requests wait."""
        found = self.solution()
        if found.load >= 1.0:
            return VERDICTS[2]
        return VERDICTS[1] if found.spread.seats.waiting > 0.5 else VERDICTS[0]

    def percentiles(self) -> dict[str, dict[str, float]]:
        """Return quantiles of the times of alike requests, none where the queue grows without end."""
        found, tokens = self.solution(), self._plan.output_tokens - 1
        if not np.isfinite(found.first):
            return {}
        life, deviation = float(found.later), found.spread.life.deviation()
        first, whole = found.spread.quantiles(np.array([share for share, _ in QUANTILES.values()]))
        later = {name: life + normal * deviation for name, (_, normal) in QUANTILES.items()}
        return {
            "ttft": dict(zip(QUANTILES, first.tolist(), strict=True)),
            "tpot": {name: value / float(tokens) for name, value in later.items()},
            "e2e": dict(zip(QUANTILES, whole.tolist(), strict=True)),
        }

    def steps_of_ranks(self) -> tuple[float, float, float, float]:
        """Return a request's steps that only decode, seconds of steps of either kind, and what of the latter waits."""
        found = self.solution()
        steps = found.state.later_decode_only_steps
        return float(steps), float(found.with_prompts), float(found.decode_only), float(found.behind_ranks)

    def families(self) -> frozenset[str]:
        """Return the families of the operators."""
        return frozenset(timed.operator.family for timed in operators_of(self._models))

    @cached_property
    def _exact(self) -> tuple[Solution, list[PassModel]]:
        """Return the solution of a single point, and both kinds of steps priced at its batch."""
        found = self.solution()
        return found, self._priced(found.state)

    def operators(self) -> list[TimedOperator]:
        """Return the operators of steps with prompts, then of those that only decode, at a single point's batch."""
        return operators_of(self._exact[1])

    def breakdown(self) -> list[Entry]:
        """Return what a request's latency consists of: operators of the steps of its life, and waiting.

        Operators are priced at the batch itself. Their sum is scaled to the table's, which the metrics rest on.
        """
        found, models = self._exact
        lines, sets, state = BreakdownLines(), float(self._scenario.parallel.pp), found.state
        counts = float(state.first_token_steps + state.later_prompt_steps), float(state.later_decode_only_steps)
        behind = float(found.behind_ranks)
        seconds = float(found.with_prompts), float(found.decode_only) - behind
        labels = [step.label for step in engine_passes(self._scenario, self._plan, state)]
        for name, model, count, step in zip(labels, models, counts, seconds, strict=True):
            times: PassTimes = pass_times(model, None)
            scaled = count * step / float(times.round(sets))
            add_pass(lines, model, times, scaled)
            lines.add_wait(
                f"{name}: pipeline wait", scaled * (float(times.round(sets)) - float(times.latency)), "latency"
            )
        lines.add_wait("prompts of other ranks", counts[1] * behind, "latency")
        bounds = {"waiting for a seat": "capacity", "behind other prompts": "compute"}
        for cause, wait in found.waits.items():
            if np.isfinite(wait):
                lines.add_wait(cause, float(wait), bounds.get(cause, "latency"))
        return lines.sorted()

    def beyond(self) -> str | None:
        """Return why requests have to be simulated one by one at a single point, null where the closed form holds.

        Against the request engine its means are within a sixth below `NEAR`, and up to half as long or twice as long
        from there on and for outputs of a few tokens (docs/method.md, 12.4). Far above the highest stable rate the
        engine is full, whatever the order of its requests.
        """
        load, endless = float(self.solution().load), self._requests is None
        if load >= NEAR and not (endless and load >= OVER):
            return f"the rate is {load:.0%} of the highest stable one, near which queues come and go"
        steps = float(decode_steps(self._plan.output_tokens, self._plan.speculative))
        if steps < FEW_STEPS and load < NEAR:
            return f"outputs are decoded in {steps:.3g} steps, few enough for which ones they are to matter"
        return None

    def notes(self) -> tuple[str, ...]:
        """Return the load, that the engine cannot keep up, or nearly so, and what of the requests is left out."""
        found, verdict, left = self.solution(), self.verdict(), left_to_requests(self._plan)
        load = f"{float(found.load):.0%} of the highest stable rate"
        beyond = self.beyond()
        if beyond is not None:
            left = (f"closed form: {beyond}; its times are off there, `--engine event` has them", *left)
        if verdict == VERDICTS[2]:
            arriving, served = float(self._plan.rate or 0.0), float(found.capacity)
            told = (
                f"overloaded: {arriving:g} requests/s arrive, {served:.3g} can be served; the queue only grows; "
                "rates, cost and energy are of what is served"
            )
            return (told, *left)
        if verdict == VERDICTS[1]:
            return (f"backlogged: at {load} most requests wait for a seat", *left)
        return (f"load: {load}", *left)


class _Place(Record):
    """Where between two nodes a value lies. index: of the upper node; weight: its share, 0 to 1; axis: of the nodes."""

    index: np.ndarray
    weight: Array
    axis: int

    @classmethod
    def at(cls, values: Quantity, target: Quantity, axis: int) -> _Place:
        """Return the place of a target among values that grow along an axis. At an end where it lies outside."""
        target = np.expand_dims(np.asarray(target), axis=axis) if np.ndim(target) >= -1 - axis else np.asarray(target)
        known, aim = np.broadcast_arrays(np.asarray(values), target)
        aim = aim.take([0], axis=axis)
        index = np.clip((known < aim).sum(axis=axis, keepdims=True), 1, known.shape[axis] - 1)
        low, high = (np.take_along_axis(known, place, axis=axis) for place in (index - 1, index))
        width = np.where(high > low, high - low, 1.0)
        return cls(index, np.clip((aim - low) / width, 0.0, 1.0), axis)

    def read(self, values: Quantity) -> Quantity:
        """Return the values of the place, interpolated between its nodes."""
        low, high = self._ends(values)
        return _reduced(low + self.weight * (high - low), self.axis)

    def slope(self, values: Quantity, nodes: Quantity) -> Quantity:
        """Return the change of the values per node unit."""
        (low, high), (left, right) = self._ends(values), self._ends(nodes)
        return _reduced((high - low) / np.where(right > left, right - left, 1.0), self.axis)

    def _ends(self, values: Quantity) -> tuple[Array, Array]:
        dimensions = self.index.ndim
        found = np.asarray(values, dtype=np.float64)
        shape = list(np.broadcast_shapes(found.shape, self.index.shape))
        shape[self.axis] = found.shape[self.axis]
        found = np.broadcast_to(found.reshape((1,) * (dimensions - found.ndim) + found.shape), shape)
        index = np.broadcast_to(
            self.index, [*shape[: self.axis], 1, *(shape[self.axis + 1 :] if self.axis < -1 else [])]
        )
        return np.take_along_axis(found, index - 1, axis=self.axis), np.take_along_axis(found, index, axis=self.axis)


def _reduced(values: Array, axis: int) -> Quantity:
    """Return values without the axis of the nodes, a float where nothing else varies."""
    found = values.squeeze(axis=axis)
    return float(found) if found.ndim == 0 else found


def _last(values: Quantity, axis: int) -> Quantity:
    """Return the values at the last node."""
    return _reduced(np.asarray(values).take([-1], axis=axis), axis)


def _nodes(most: Count, dimensions: int) -> Array:
    """Return batches from one to the most, each the same factor above the one before, along a leading axis."""
    steps = np.linspace(0.0, 1.0, NODES).reshape(-1, *(1,) * dimensions)
    return np.asarray(np.asarray(most, dtype=np.float64) ** steps)


def _with_nodes(perturbations: Mapping[str, Perturbation], dimensions: int) -> dict[str, Perturbation]:
    """Return perturbations with an axis of nodes between their own and those of the grid."""

    def widened(value: Quantity) -> Quantity:
        array = np.asarray(value)
        return array.reshape(array.shape[0], 1, *array.shape[1:]) if array.ndim > dimensions else value

    return {name: Perturbation(widened(each.low), widened(each.high)) for name, each in perturbations.items()}
