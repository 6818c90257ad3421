"""Two pools of engines at a rate, or in a closed loop: prompts in one, the KV cache to the other, which decodes.

[DistServe, Zhong et al., arXiv 2401.09670; Splitwise, Patel et al., arXiv 2311.18677]
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from costmodel.analytic.breakdown import BreakdownLines, add_pass, add_pipeline_wait
from costmodel.analytic.inference import PassModel, operators_of, pass_model_of, pass_times
from costmodel.analytic.metrics import invested, served_metrics, spent
from costmodel.analytic.operator_timing import TimedOperator, operator_timer
from costmodel.analytic.serving.cache_transfer import CacheTransfer
from costmodel.analytic.serving.continuous_batching import of_classes, without_effect
from costmodel.analytic.serving.engine_state import among, decode_steps, front_end, mean_keys, most_running
from costmodel.analytic.serving.nodes import NodePlace, batch_nodes, last_node, with_nodes
from costmodel.analytic.serving.open_loop import NEAR, OVER, VERDICTS, near_full
from costmodel.analytic.serving.solution import PromptPasses
from costmodel.analytic.serving.token_bill import CACHED, INPUT, OUTPUT, Load, Shares, token_bills
from costmodel.analytic.serving.waiting import busy_share
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation
from costmodel.cost.calibration import Calibration, other_of
from costmodel.cost.distinct_sizes import grid_shape
from costmodel.equations import equation
from costmodel.quantities import (
    Array,
    Count,
    Joules,
    PerSecond,
    Quantity,
    Seconds,
    Watts,
    floor,
    maximum,
    minimum,
    sum_of,
    where,
)
from costmodel.records import Record, replace
from costmodel.result import Entry, Metrics
from costmodel.workload.context import Context
from costmodel.workload.engine_memory import adapter_load, kv_pool
from costmodel.workload.memory import Ledger, most_loaded
from costmodel.workload.passes import Pass, computed_tokens, pass_work, prompt_context, prompt_passes, request_context
from costmodel.workload.plans import draft_passes, drafted_tokens
from costmodel.workload.pools import Pools
from costmodel.workload.scenario import Scenario

STABLE, BACKLOGGED, OVERLOADED = VERDICTS
HALVINGS = 30  # of the interval that holds the batch of a closed loop
FRONT, PREFILL_WAIT, JOINING, MEMORY = (
    "client and front end", "waiting for a pass", "waiting for a step", "waiting for memory",
)  # fmt: skip


class PoolTables(Record):
    """Both pools' passes at their nodes, and what goes between them.

    step: of decoding requests [s]; joules: of a device in a pass of a pool [J].
    """

    prompts: PromptPasses
    prompt_joules: Joules
    step: Seconds
    step_joules: Joules
    transfer: CacheTransfer


class PoolSolution(Record, kw_only=True):
    """Two pools under a load.

    rate: of requests [1/s]; highest: that both pools and their links sustain [1/s].
    batch: requests that decode in a pipeline set of a data-parallel group.
    prompts: of a pass.
    waits: of a request by cause [s]; own: of its pass [s]; moved: its cache [s]; step: of decoding [s].
    """

    rate: PerSecond
    highest: PerSecond
    batch: Count
    prompts: Count
    waits: dict[str, Seconds]
    own: Seconds
    moved: Seconds
    step: Seconds

    @property
    @equation
    def first(self) -> Seconds:
        """Return the time to first token.

        first = (waits.client_and_front_end + waits.waiting_for_a_pass + own + moved + waits.waiting_for_a_step
                 + waits.waiting_for_memory)
        """
        return sum_of([*self.waits.values(), self.own, self.moved])


def fuller_ledger(*parts: Scenario) -> Ledger:
    """Return the ledger of the engines whose devices have less room for what they need."""
    return most_loaded([
        replace(kv_pool(part, part.plan).ledger, capacity=part.cluster.device.device_memory.capacity)  # type: ignore[arg-type]
        for part in parts
    ])  # fmt: skip


class PoolsEvaluation(PhaseEvaluation[PoolTables]):
    """Serving from two pools of engines.

    With b requests on each of G pipeline sets of the decoding pool, of n steps each, Little's law gives the rate X and
    what is in flight [Operations Research 9(3), 1961]:

        X(b) = G*b / (n*step(b)),    in flight = G*b + X*ttft

    At a stated rate b follows from the first, in a closed loop from the second.
    """

    headline = "latency"

    def __init__(self, scenario: Scenario, plan: Pools, calibration: Calibration) -> None:
        self._scenario, self._plan = scenario, plan
        self._prefill, self._decode = plan.engines
        self._dimensions = len(grid_shape(scenario))
        self._timers = tuple(
            operator_timer(part, fits)
            for part, fits in ((plan.prefill, other_of(calibration)), (plan.decode, calibration))
        )
        self._caches = tuple(kv_pool(part, each) for part, each in zip(self._parts, plan.engines, strict=True))
        self.ledger: Ledger | None = fuller_ledger(plan.prefill, plan.decode)
        self._most = self._seats(1)
        self._sets = plan.decode.parallel.pp * plan.decode.parallel.dp * self._decode.replicas.count
        self._batches = self._nodes(1.0 / plan.decode.parallel.lockstep, self._most)
        self._prompts = self._nodes(1.0, self._most_prompts())
        self._models = (self._prompt_model(self._prompts)[0], self._decode_model(self._batches))
        self._steps = decode_steps(plan.output_tokens, self._decode.speculative)
        self._link = CacheTransfer.of(scenario, plan, calibration)

    @property
    def _parts(self) -> tuple[Scenario, Scenario]:
        return self._plan.prefill, self._plan.decode

    def _seats(self, pool: int) -> Count:
        """Return the requests that a pipeline set of a pool's group has memory and seats for, at least one."""
        part, plan, cache = self._parts[pool], self._plan.engines[pool], self._caches[pool]
        return maximum(most_running(part, plan, cache) / part.parallel.pp, 1.0)

    def _nodes(self, least: Count, most: Count) -> Array:
        """Return sizes from the least to the most, each the same factor above the one before."""
        return np.asarray(least * batch_nodes(maximum(most / least, 1.0), self._dimensions))

    @equation
    def _most_prompts(self) -> Count:
        """Return the prompts of a full pass of the ranks that step together.

        most = lockstep * min(max(floor(token_budget / computed), 1), seats)
        """
        budget, computed, lockstep = (
            self._prefill.scheduler.token_budget,
            self._computed,
            self._parts[0].parallel.lockstep,
        )
        fitting: Count = 1.0 if budget is None else maximum(floor(budget / computed), 1.0)
        return lockstep * minimum(fitting, self._seats(0))

    @property
    def _computed(self) -> Count:
        return computed_tokens(self._plan.input_tokens, self._prefill.prefix_hit_rate)

    def _prompt_model(self, prompts: Count, last: Count | None = None) -> tuple[PassModel, Count]:
        """Return a pass over prompts of the ranks that step together, and in how many parts it is computed.

        A rank has one where any has: the busiest one's attention bounds the pass, all of them share its experts.
        last: tokens of a prompt with those that are cached, null: all.
        """
        last = self._plan.input_tokens if last is None else last
        part, plan, budget = self._plan.prefill, self._prefill, self._prefill.scheduler.token_budget
        each = prompts / part.parallel.lockstep
        own = maximum(each, 1.0)
        passes = prompt_passes(own, self._computed, last, budget)
        context = prompt_context(part, passes.sequences / plan.micro_batches, passes.new_tokens, passes.kv_len)
        return self._model(0, among(context, each / own), "prefill"), passes.count

    def _decode_model(self, batch: Count) -> PassModel:
        """Return a decoding step of so many requests on each pipeline set of a group."""
        part, plan = self._plan.decode, self._decode
        own, keys = maximum(batch, 1.0), mean_keys(plan)
        drafts = drafted_tokens(plan.speculative)
        context = request_context(part, own / plan.micro_batches, keys - drafts, drafts)
        return self._model(1, among(context, batch / own), "decode")

    def _model(self, pool: int, context: Context, label: str) -> PassModel:
        part, plan, timer = self._parts[pool], self._plan.engines[pool], self._timers[pool]
        forward = Pass((context,), plan.micro_batches, draft_passes(plan.speculative), label)
        return pass_model_of(part, forward, pass_work(forward), timer)

    def _evaluate(self, perturbations: Perturbations) -> PoolTables:
        wider = None if perturbations is None else with_nodes(perturbations, self._dimensions)
        prompts, steps = (pass_times(model, wider) for model in self._models)
        count, parallel = self._prompt_model(self._prompts)[1], self._plan.prefill.parallel
        engines = parallel.dp / parallel.lockstep * self._prefill.replicas.count
        axis = -1 - self._dimensions
        passes = PromptPasses(engines, self._prompts, prompts.following(count), count * prompts.slowest, axis)
        step = steps.round(self._plan.decode.parallel.pp)
        return PoolTables(passes, count * prompts.joules, step, steps.joules, self._link.perturbed(perturbations))

    def solution(self, perturbations: Perturbations = None) -> PoolSolution:
        """Return both pools under the load. Unperturbed it is kept."""
        return self._kept if perturbations is None else self._solve(self.times(perturbations))

    @cached_property
    def _kept(self) -> PoolSolution:
        return self._solve(self.times())

    @equation
    def _solve(self, tables: PoolTables) -> PoolSolution:
        """Return both pools under the load.

        highest = min(prompts.highest_rate, sets * most / (steps * full_step), links)
        rate = min(plan.rate, highest)          at a rate
        rate = sets * batch / (steps * step)    in a closed loop, with the batch that all in flight bring
        """
        axis = -1 - self._dimensions
        served = self._sets * self._batches / (self._steps * tables.step)
        full = last_node(served, axis)
        highest = minimum(minimum(tables.prompts.highest_rate, full), tables.transfer.highest_rate)
        if self._plan.rate is not None:
            rate = minimum(self._plan.rate, highest)
            node = NodePlace.at(served, rate, axis)
            below = minimum(rate / node.read(served), 1.0)  # fewer than at the first node
            solved = self._at(tables, node.read(self._batches) * below, rate)
            endless = where(self._plan.rate < highest, 0.0, np.inf)
            waits = {**solved.waits, PREFILL_WAIT: solved.waits[PREFILL_WAIT] + endless}
            return replace(solved, highest=highest, waits=waits)
        return self._closed_loop(tables, highest)

    def _closed_loop(self, tables: PoolTables, highest: PerSecond) -> PoolSolution:
        """Return both pools with all in flight, by halving the interval of the batch. Others wait for memory."""
        assert self._plan.concurrency is not None
        wanted = self._plan.concurrency
        low: Quantity = 0.0 * wanted
        high: Quantity = minimum(self._most, wanted / self._sets)
        for _ in range(HALVINGS):
            batch = (low + high) / 2.0
            solved = self._loaded(tables, batch)
            more = self._sets * batch + solved.rate * solved.first < wanted
            low, high = where(more, batch, low), where(more, high, batch)
        solved = self._loaded(tables, (low + high) / 2.0)
        left = maximum(wanted - self._sets * solved.batch - solved.rate * solved.first, 0.0) / solved.rate
        full = solved.batch > self._most * (1.0 - 1e-6)
        return replace(solved, highest=highest, waits={**solved.waits, MEMORY: where(full, left, 0.0)})

    def _loaded(self, tables: PoolTables, batch: Count) -> PoolSolution:
        step = NodePlace.at(self._batches, batch, -1 - self._dimensions).read(tables.step)
        return self._at(tables, batch, self._sets * batch / (self._steps * step))

    @equation
    def _at(self, tables: PoolTables, batch: Count, rate: PerSecond) -> PoolSolution:
        """Return both pools with a decoding batch at a rate.

        waiting_for_a_step = busy * (0.5 + ahead) * step     of the running one, and of one that is scheduled already
        busy := share of caches that find the engine at work, of the others' requests alone in a closed loop
        """
        axis, prompts = -1 - self._dimensions, tables.prompts
        step = NodePlace.at(self._batches, batch, axis).read(tables.step)
        together, loop = prompts.together(rate), self._plan.concurrency
        others = 1.0 if loop is None else 1.0 - 1.0 / loop
        ahead = 1.0 if self._decode.scheduler.overlapped else 0.0
        waits = {
            FRONT: self._front_end(), PREFILL_WAIT: prompts.wait(rate, others),
            JOINING: busy_share(others * batch, 1.0) * (0.5 + ahead) * step, MEMORY: 0.0 * step,
        }  # fmt: skip
        return PoolSolution(
            rate=rate, highest=rate, batch=batch, prompts=together, waits=waits, step=step,
            own=prompts.read(prompts.latency, together), moved=tables.transfer.time(rate, together),
        )  # fmt: skip

    def _front_end(self) -> Seconds:
        """Return the time of client and front end, and until a request's adapter has come to either pool."""
        return front_end(self._plan.prefill, self._prefill) + adapter_load(self._plan.decode, self._decode)

    @equation
    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics of both pools. The slower one, or their links, bound the rate.

        later = steps * step
        kv_transfer_time = moved
        highest_stable_rate = highest
        prefill_load = rate / prompts.highest_rate
        concurrency = sets * batch                 that decode
        max_concurrency = sets * most
        """
        plan, solved, tables = self._plan, self.solution(perturbations), self.times(perturbations)
        rate, sets = solved.rate, self._sets
        own: Metrics = {
            "kv_transfer_time": solved.moved,
            "highest_stable_rate": solved.highest,
            "prefill_load": rate / tables.prompts.highest_rate,
            "concurrency": sets * solved.batch,
            "max_concurrency": sets * self._most,
            **self.spent_at(rate, solved, tables),
        }
        first, later = solved.first, self._steps * solved.step
        return served_metrics(self._scenario, rate, plan.devices, (first, later), 0.0, own)

    def spent_at(self, rate: PerSecond, solved: PoolSolution, tables: PoolTables) -> Metrics:
        """Return money and energy of both pools: of each what its devices draw for the passes of its requests."""
        prefill, decode = (
            {**spent(part.cluster.node, part.devices, rate * self._plan.output_tokens, work),
             **invested(part, part.devices)}
            for part, work in zip(self._parts, self._work(rate, solved, tables), strict=True)
        )  # fmt: skip
        both = {name: _both(prefill[name], decode[name]) for name in prefill}
        return {**both, **(invested(self._scenario, self._plan.devices) if self._plan.shared else {})}

    def _work(self, rate: PerSecond, solved: PoolSolution, tables: PoolTables) -> tuple[Watts, Watts]:
        """Return the power of what a device of either pool does for the passes of its requests."""
        axis = -1 - self._dimensions
        prompts, batches = (NodePlace.at(nodes, size, axis) for nodes, size in (
            (self._prompts, solved.prompts), (self._batches, solved.batch),
        ))  # fmt: skip
        per_prompt = prompts.read(tables.prompt_joules) / solved.prompts * self._plan.prefill.parallel.lockstep
        per_output = self._steps * batches.read(tables.step_joules) / solved.batch
        first, second = (
            rate * joules * part.parallel.tp * part.parallel.cp / part.devices
            for part, joules in zip(self._parts, (per_prompt, per_output), strict=True)
        )
        return first, second

    def details(self) -> Mapping[str, object]:
        """Return what each kind of tokens takes, and the mean times of each class of requests, where there are some."""
        solved, prompts = self.solution(), self.times().prompts
        busy = float(prompts.busy(solved.rate)), float(busy_share(solved.batch, 1.0))
        metrics = {name: float(value or 0.0) for name, value in self.metrics(None).items()}
        bill, finite = self.bill(float(solved.rate), busy), np.isfinite(metrics["ttft"])
        classes = () if self._plan.requests is None or not finite else self._plan.requests.classes
        return {**bill, **of_classes(self._scenario, classes, self._prompt_time, metrics)}

    @equation
    def _prompt_time(self, input_tokens: Count) -> Seconds:
        """Return what a prompt of its own length takes in the pass of the mean one, and its cache on the way.

        prompt_time = solved.own * computed / (together * mean) + sent * input_tokens
        sent = link.size / self._plan.input_tokens / (min(link.senders, link.receivers) * link.bandwidth)
        """
        solved, link, mean = self.solution(), self._link, self._computed
        computed = computed_tokens(input_tokens, self._prefill.prefix_hit_rate)
        together = maximum(solved.prompts / self._plan.prefill.parallel.lockstep, 1.0)
        sent = link.size / self._plan.input_tokens / (minimum(link.senders, link.receivers) * link.bandwidth)
        return solved.own * computed / (together * mean) + sent * input_tokens

    def bill(self, rate: float, busy: tuple[float, float]) -> dict[str, dict[str, dict[str, Any]]]:
        """Return energy, rent and electricity of input and cached tokens in one pool, of output tokens in the other.

            cached = 1 - pass of the same computed tokens that have none before them / pass

        rate: of requests [1/s]; busy: share of time in which the engines of either pool work.
        """
        solved, (whole, count) = self.solution(), self._prompt_model(self.solution().prompts)
        alone = self._prompt_model(solved.prompts, self._computed)[0]
        passes = [pass_times(model, None) for model in (alone, whole)]
        time, joules = (1.0 - min(float(own / all_), 1.0) if float(all_) else 0.0 for own, all_ in (
            [one.following(count) for one in passes],
            [one.joules for one in passes],
        ))  # fmt: skip
        hit, inputs = float(self._prefill.prefix_hit_rate), rate * float(self._plan.input_tokens)
        rates = {INPUT: inputs * (1.0 - hit), CACHED: inputs * hit, OUTPUT: rate * float(self._plan.output_tokens)}
        kinds: tuple[Shares, Shares] = (
            {INPUT: (1.0 - time, 1.0 - joules), CACHED: (time, joules)}, {OUTPUT: (1.0, 1.0)}
        )  # fmt: skip
        work = self._work(rate, solved, self.times())
        loads = (
            Load(devices=part.devices, rates=rates, busy=each, work=own)
            for part, each, own in zip(self._parts, busy, work, strict=True)
        )
        nodes = (part.cluster.node for part in self._parts)
        return token_bills(zip(nodes, loads, kinds, strict=True))

    def verdict(self) -> str:
        """Return whether both pools keep up with the rate, or whether requests of a closed loop wait for memory."""
        solved = self.solution()
        if self._plan.rate is not None:
            return OVERLOADED if bool(self._plan.rate >= solved.highest) else STABLE
        return BACKLOGGED if float(solved.waits[MEMORY]) > 0.0 else STABLE

    @cached_property
    def _exact(self) -> tuple[PassModel, PassModel]:
        """Return a pass of either pool, priced at a single point's sizes."""
        solved = self.solution()
        return self._prompt_model(solved.prompts)[0], self._decode_model(solved.batch)

    def operators(self) -> list[TimedOperator]:
        """Return the operators of a single point's passes: of prompts, the caches' message, of decoding."""
        prompts, decode = self._exact if not self._dimensions else self._models
        message = [] if self._link.message is None else [self._link.message]
        return [*prompts.operators(), *message, *operators_of((decode,))]

    def families(self) -> frozenset[str]:
        """Return the families of the operators."""
        message = [] if self._link.message is None else [self._link.message]
        return frozenset(timed.operator.family for timed in [*operators_of(self._models), *message])

    def breakdown(self) -> list[Entry]:
        """Return what a request's latency consists of. Passes at its sizes are scaled to the tables of the metrics."""
        solved, lines = self.solution(), BreakdownLines()
        sets = float(self._plan.decode.parallel.pp)
        prompts, decode = self._exact
        prefill, step = pass_times(prompts, None), pass_times(decode, None)
        add_pass(lines, prompts, prefill, float(solved.own) / float(prefill.latency))
        count = float(self._steps * solved.step) / float(step.round(sets))
        add_pass(lines, decode, step, count)
        add_pipeline_wait(lines, "decode: pipeline wait", step, sets, count)
        bounds = {PREFILL_WAIT: "compute", MEMORY: "capacity"}
        for cause, wait in (*solved.waits.items(), ("kv transfer", solved.moved)):
            if np.isfinite(wait):
                lines.add_wait(
                    cause, float(wait), "network" if cause == "kv transfer" else bounds.get(cause, "latency")
                )
        return lines.sorted()

    def beyond(self) -> str | None:
        """Return why requests have to be simulated one by one at a single point, null where the closed form holds."""
        left, rate = _left(self._plan), self._plan.rate
        load = 0.0 if rate is None else float(rate / self.solution().highest)
        if NEAR <= load < OVER:
            return near_full(load)
        return f"the closed form takes no notice of {', '.join(left)}" if left else None

    def notes(self) -> tuple[str, ...]:
        """Return which pool bounds the rate, how busy the other one is, and what of the requests is left out."""
        solved, tables = self.solution(), self.times()
        highest = {
            "prefill": float(tables.prompts.highest_rate), "links": float(tables.transfer.highest_rate),
            "decode": float(self._sets * self._most / (self._steps * last_node(tables.step, -1 - self._dimensions))),
        }  # fmt: skip
        least = min(highest, key=lambda name: highest[name])
        bounded = "their links bound" if least == "links" else f"the {least} pool bounds"
        rates = ", ".join(f"{name} {rate:.3g}" for name, rate in highest.items())
        load = float(solved.rate) / highest[least]
        notes = [f"load: {load:.0%} of the highest stable rate, which {bounded} (requests/s: {rates})"]
        if self.verdict() == OVERLOADED:
            notes.insert(
                0,
                f"overloaded: {float(self._plan.rate or 0.0):g} requests/s arrive, {highest[least]:.3g} can be served",
            )
        if self.verdict() == BACKLOGGED:
            most, users = float(self._sets * self._most), float(self._plan.concurrency or 0.0)
            notes.insert(0, f"only {most:g} of {users:g} requests fit into the decoding pool; the others wait")
        left = _left(self._plan)
        notes += without_effect(self._decode)
        return (*notes, *((f"closed form: without {', '.join(left)}",) if left else ()))


def _both(first: Quantity | None, second: Quantity | None) -> Quantity | None:
    return None if first is None or second is None else first + second


def _left(plan: Pools) -> tuple[str, ...]:
    """Return the keys of requests and router that the closed form takes no notice of."""
    keys = []
    if plan.requests is not None:
        lengths = (("input", plan.requests.input), ("output", plan.requests.output))
        keys += [f"the spread of `requests.{name}`" for name, own in lengths if own and own.distribution != "constant"]
        keys += [] if plan.requests.arrivals in ("poisson", "closed_loop") else ["`requests.arrivals`"]
        names = ("trace", "pairs", *(() if plan.rate is not None else ("count",)))  # users of a count start together
        keys += [f"`requests.{name}`" for name in names if getattr(plan.requests, name) is not None]
        keys += ["`requests.classes` one by one"] if len(plan.requests.classes) > 1 else []
    keys += [] if plan.router.routing == "round_robin" else ["`replicas.routing`"]
    return tuple(keys)
