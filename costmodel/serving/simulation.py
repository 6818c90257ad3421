"""A serving scenario as a simulation: its requests, engines and step times, and what became of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from copy import copy
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.cost.calibration import Calibration, other_of
from costmodel.errors import InfeasibleError, InputError, Notice
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.serving.apart import serve_by_processes, serve_by_threads
from costmodel.serving.bounds import check_requests, check_run
from costmodel.serving.checkpoint import identity, is_over, restore, save
from costmodel.serving.compiled import compiled, has_numba, is_kept
from costmodel.serving.deployment import (
    Dice,
    Kind,
    PromptPool,
    Sharers,
    engine_count,
    is_dealt_out,
    kinds_of,
    lockstep_of,
    new_service,
)
from costmodel.serving.distributions import Histogram, Served
from costmodel.serving.draw import RequestDraw, comes_in_parts, in_order_of_arrival
from costmodel.serving.first_run import run_as_python, try_python
from costmodel.serving.fleet import run_apart, run_together
from costmodel.serving.prices import Tables
from costmodel.serving.routing import Service
from costmodel.serving.state import (
    FCFS,
    LEVELS,
    LONGEST_PREFIX,
    OUTPUT,
    PRIORITY,
    PROMPT,
    Calls,
    Policy,
    Requests,
    new_records,
)  # fmt: skip
from costmodel.serving.step_times import Sizes, StepPricer, StepTimes, make_tables
from costmodel.serving.summary import Outcome, Tally
from costmodel.serving.trace_requests import read_trace
from costmodel.serving.windows import next_window, under_way
from costmodel.workload.engine_memory import adapter_load, kv_pool, memory_of
from costmodel.workload.plans import Serving, drafted_tokens, tokens_per_step
from costmodel.workload.pools import Pools
from costmodel.workload.requests import Replicas, RequestStream, Slo
from costmodel.workload.scenario import Scenario

FEW_EVENTS = 250_000  # with which Python alone is done in less time than compilation takes
LOADING_EVENTS = 50_000  # with which it is done in less time than reading what was compiled before takes
CHUNK_EVENTS = 8  # a chunk of a prompt, or a run of its blocks, takes Python as long as so many output tokens
PARTS, GROWTH, EVERY = 64, 1.05, 10.0  # of the time of arrivals; between parts; seconds between checkpoints
SHORT = 0.5  # seconds: a part that takes less is followed by one of twice its length
FEW_PLACES = 256  # that an engine keeps though fewer requests come: its highest stable rate needs them
WINDOW, MOST_KEPT = 2**19, 2**21  # requests that are drawn at once in a run of more than are kept
PER_PLACE = 8  # requests of a saturated replica for each that it runs at a time
ORDERS = {"fcfs": FCFS, "priority": PRIORITY, "lpm": LONGEST_PREFIX}
IN_ONE_PROCESS = Notice("engines whose requests depend on each other's run in this process, not by the workers")
UNLIMITED_SEQUENCES = 1024  # where neither scenario nor framework limits a step: the largest of their defaults


class Simulation:
    """One serving scenario, ready to run.

    workers: threads for replicas that serve independently of each other, or tasks of the executor, if any.
    compiles: a long run is compiled by numba, which may take seconds the first time, and runs the same.
    keeps: every request of a long run, too. Else `requests` are the first ones, and `streamed` runs all of them.
    plan: of one pool, or of two, of which `scenario` and `plan` become those of the engines that decode.

    Raises InputError where the scenario cannot be simulated, and where a request is longer than an engine's cache.
    """

    def __init__(
        self, scenario: Scenario, plan: Serving | Pools, calibration: Calibration, workers: int = 1, *,
        compiles: bool = True, keeps: bool = False,
    ) -> None:  # fmt: skip
        problem = unsupported(scenario, plan)
        if problem is not None:
            raise problem
        self.workers, self.compiles, self.keeps, self._calibration = workers, compiles, keeps, calibration
        self.executor: Executor | None = None
        self._take(scenario, plan)
        self.pricer = StepPricer(self.scenario, self.plan, calibration)
        self._other_pricers = [
            StepPricer(each.scenario, each.plan, other_of(calibration, number))
            for number, each in enumerate(self._others)
        ]
        self._time_steps()

    def _take(self, scenario: Scenario, plan: Serving | Pools) -> None:
        self._prompts: PromptPool | None = None
        if isinstance(plan, Pools):
            self._prompts = PromptPool.of(scenario, plan, self._calibration)
            scenario, plan = decoding_part(scenario, plan)
        self.scenario, self.plan = scenario, plan
        self._others: list[PromptPool | Sharers] = [Sharers(each, each.plan) for each in plan.replicas.others]
        self._others += [] if self._prompts is None else [self._prompts]
        self.stream = stream_of(scenario, plan)
        check_requests(scenario, plan, self.stream, MOST_KEPT)
        self.streams = not self.keeps and comes_in_parts(self.stream) and self._draw().left > MOST_KEPT
        self.requests = in_order_of_arrival(self._requests())
        self.extent = Extent.of(self._parts() if self.streams else [self.requests])
        self.policy = policy_of(scenario, plan, self.requests, self.extent.longest)
        _check_lengths(scenario, self.policy, self.extent)
        check_run(scenario, plan, self.requests, self.policy, self.extent.sizes, self.extent.count)
        self._other_policies = [self._of_others(each) for each in self._others]
        for each, own in zip(self._others, self._other_policies, strict=True):
            _check_lengths(each.scenario, own, self.extent)

    def _of_others(self, pool: PromptPool | Sharers) -> Policy:
        """Return how engines of another kind schedule.

        A step of those that compute prompts only has room for no more than are in its budget.
        """
        own = policy_of(pool.scenario, pool.plan, self.requests, self.extent.longest)
        if isinstance(pool, Sharers):
            return own
        shortest = 1 if len(self.requests.paths.runs) else int(self.requests.length[:, PROMPT].min())
        return own._replace(reserve=False, max_seqs=min(own.max_seqs, own.budget // shortest + 2))

    def _time_steps(self) -> None:
        """Time steps of all sizes that the requests may have."""
        sizes = Sizes(self.policy.max_seqs, self.policy.budget, self.extent.longest)
        self.times = StepTimes(make_tables(self.pricer, sizes), sizes, self.pricer.drafts)
        self._other_times = []
        for policy, pricer in zip(self._other_policies, self._other_pricers, strict=True):
            sizes = Sizes(policy.max_seqs, policy.budget, self.extent.longest)
            self._other_times.append(StepTimes(make_tables(pricer, sizes), sizes, pricer.drafts))

    def of(self, scenario: Scenario, plan: Serving | Pools) -> Simulation:
        """Return a simulation of the same engines with another load or number of replicas.

        Steps are timed again only where requests are longer than those before, or more of them may run.
        """
        other = copy(self)
        other._take(scenario, plan)
        known_times = [self.times, *self._other_times]
        pairs = zip((each.sizes for each in known_times), (other.policy, *other._other_policies), strict=True)
        for known, policy in pairs:
            if policy.max_seqs > known.sequences or policy.budget > known.tokens or other.extent.longest > known.keys:
                other._time_steps()
                break
        return other

    def _draw(self) -> RequestDraw:
        block, seed = int(memory_of(self.scenario, self.plan).block), self.scenario.simulation.seed  # of both pools
        return RequestDraw(self.plan, self.stream, block, seed, self._groups)

    @property
    def _groups(self) -> int:
        """Return the engines, each of which has `concurrency` users in a closed loop. Two pools have them together."""
        return 1 if self._prompts is not None else engine_count(self.scenario, self.plan)

    def _requests(self) -> Requests:
        """Return all requests, or the first ones of a run that is streamed.

        In a closed loop users start evenly over the ramp. The next request of one reaches the engine as long after an
        end as client and front end take.
        """
        loops = self.stream.arrivals == "closed_loop"
        if self.stream.trace is not None:
            block = int(memory_of(self.scenario, self.plan).block)
            lanes = int(self.plan.concurrency or 0) * self._groups if loops else 0
            requests = read_trace(self.stream, block, lanes)
        else:
            draw = self._draw()
            requests = draw.draw(WINDOW if self.streams else draw.left)
        if not loops:
            return requests
        starts = np.flatnonzero(np.isfinite(requests.arrival))
        requests.arrival[starts] += float(self.stream.ramp) * np.arange(len(starts)) / max(len(starts), 1)
        between = np.repeat(self._front_end(requests.length[:, PROMPT]), np.diff(requests.calls.first))
        return requests._replace(calls=requests.calls._replace(delay=requests.calls.delay + between))

    def _parts(self) -> Iterator[Requests]:
        draw = self._draw()
        while draw.left:
            yield draw.draw(WINDOW)

    @property
    def is_long(self) -> bool:
        """Tell whether a run of `requests` is so long that compiling it saves time."""
        return self.compiles and self._events > FEW_EVENTS

    @property
    def _events(self) -> int:
        """Return about how many events of Python a run has."""
        length, runs = self.requests.length, len(self.requests.paths.runs)
        chunks = -(-length[:, PROMPT] // self.policy.budget)
        return int(length[:, OUTPUT].sum()) + CHUNK_EVENTS * (int(chunks.sum()) + runs)

    def run(
        self, slowdown: float = 1.0, policy: Policy | None = None, checkpoint: Path | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Served:  # fmt: skip
        """Return what becomes of the requests.

        slowdown: factor on all step times.
        policy: instead of the scenario's.
        checkpoint: file that keeps the state, from which a simulation that was stopped goes on.
        on_progress: receives the share of the requests of a long run that are over.

        Raises InfeasibleError where a request can never start.
        """
        policy = self.policy if policy is None else policy
        tables = slower(self.times.tables, slowdown)
        service = new_service(self.scenario, self.plan, self.requests, policy, tables, others=self._kinds(slowdown))
        if checkpoint is None and (on_progress is None or not self.is_long or self.executor is not None):
            return self._served(service, self._serve(service, self.plan, np.inf))
        return self._served(service, self._in_parts(service, checkpoint, on_progress))

    def streamed(self, slo: Slo) -> Outcome:
        """Return what becomes of all requests, of which only those under way are kept.

        Raises InfeasibleError where a request can never start.
        """
        others = 0 if self._prompts is None else self._prompts.engines
        tally = Tally(slo, Histogram, self.plan.classes, kinds_of(self.plan))
        dice, parts = Dice(self.scenario, self.plan, others), self._parts()
        first = next(parts)
        service = new_service(
            self.scenario, self.plan, first, self.policy, self.times.tables, self.extent.sizes, self._kinds()
        )
        dice.give(service.requests)
        dealt, served = is_dealt_out(self.scenario, self.plan, service), len(first.arrival)
        while True:
            left = self.extent.count - served
            until = float(service.requests["arrival"][-1]) if left else np.inf
            stuck = self._serve(service, self.plan, until)
            stays, run = under_way(service), self._served(service, stuck)
            tally.add(run.of(~stays))
            if not left:
                return Outcome.of(run, tally)
            more = next(parts)
            served += len(more.arrival)
            records = new_records(more)
            dice.give(records)
            service = next_window(service, stays, records, more.paths, dealt=dealt)

    def _kinds(self, slowdown: float = 1.0) -> list[Kind]:
        return [
            (each, policy, slower(times.tables, slowdown))
            for each, policy, times in zip(self._others, self._other_policies, self._other_times, strict=True)
        ]

    def _in_parts(self, service: Service, path: Path | None, on_progress: Callable[[float], None] | None) -> int:
        """Run a deployment part by part, and write its state after parts. Return an engine that is stuck, -1: none."""
        mark = "" if path is None else identity(service)
        if path is not None and path.exists():
            restore(path, service, mark)
        arrival = service.requests["arrival"]
        part = max(float(np.max(arrival[np.isfinite(arrival)])), 1.0) / PARTS
        until, stuck, saved = float(np.nanmin(np.append(service.engines.state["moment"], part))), -1, monotonic()
        while stuck < 0 and not is_over(service):
            until += part
            begin = monotonic()
            stuck = self._serve(service, self.plan, until)
            part *= GROWTH if monotonic() - begin > SHORT else 2.0
            if on_progress is not None:
                on_progress(float(np.mean(~np.isnan(service.requests["finish"]))))
            if path is not None and (monotonic() - saved > EVERY or is_over(service)):
                save(path, service, mark)
                saved = monotonic()
        return stuck

    def _served(self, service: Service, stuck: int) -> Served:
        """Return what became of a deployment's requests. Raises InfeasibleError where one can never start."""
        if stuck >= 0:
            raise InfeasibleError(f"engine {stuck} has a request that never starts, or no engine is up")
        assert not service.engines.state["outside"].any(), "no step is larger than the policy allows"
        return Served(
            requests=service.requests, engines=service.engines, policy=service.policies[0],
            times=replace(self.times, tables=service.tables[0]), front_end=self._front_end(service.requests["prompt"]),
            fleet=service.fleet, has_priorities=len(self.requests.priority) > 0,
        )  # fmt: skip

    def _front_end(self, prompts: Any) -> Array:
        """Return what client and front end add to the first token of requests with such prompts [s]."""
        parts: list[Simulation | PromptPool] = [self] if self._prompts is None else [self, self._prompts]
        load, engine = (
            sum(float(adapter_load(each.scenario, each.plan)) for each in parts),
            self.scenario.framework.engine,
        )
        own = np.zeros(len(prompts)) if engine is None else np.asarray(engine.front_end(prompts.astype(np.float64)))
        return own + load if load else own

    def saturated(self, least: int, seats: int) -> Served:
        """Return what becomes of requests that come to one replica at once: all of them, again and again.

        The first, one for each seat, have as much of their output left as requests in the midst of their lives, a
        random share: else requests alike would start and end together, and so would prompts of ranks in lockstep.

        least: so many, and no fewer than several for each place.
        seats: requests of an engine that run at a time.
        """
        groups = int(self.scenario.parallel.dp)
        count = max(least, PER_PLACE * self.policy.max_seqs * groups)
        chosen = np.arange(count) % len(self.requests.arrival)
        length, first = self.requests.length[chosen], min(seats * groups, count)
        left = np.random.default_rng([self.scenario.simulation.seed, 6]).random(first)
        length[:first, OUTPUT] = np.ceil(length[:first, OUTPUT] * (1.0 - left))
        priority, paths = self.requests.priority, self.requests.paths.of(chosen)
        paths.blocks[len(self.requests.arrival) :] = 0  # only the first have a prefix
        requests = Requests(
            np.zeros(count), length, Calls.none(count), paths, priority[chosen] if len(priority) else priority
        )
        plan = replace(self.plan, replicas=Replicas())
        service = new_service(self.scenario, plan, requests, self.policy, self.times.tables)
        return self._served(service, self._serve(service, plan, np.inf))

    def _serve(self, service: Service, plan: Serving, until: float) -> int:
        """Run a deployment up to a moment. Return an engine that is stuck, -1: none."""
        together = not is_dealt_out(self.scenario, plan, service)
        loop = run_together if together else run_apart
        kept = has_numba() and self.compiles and self._events > LOADING_EVENTS and is_kept(loop)
        if self.executor is not None and together:
            warnings.warn(IN_ONE_PROCESS, stacklevel=2)
        elif self.executor is not None and len(service.engines.state) > 1:
            compiles = kept or (self.is_long and has_numba())
            return serve_by_processes(self.executor, self.workers, service, until, compiles=compiles)
        if not kept and (not self.is_long or not has_numba()):
            return run_as_python(loop, service, until, slow=self.is_long)
        if not kept:
            stuck = try_python(loop, service, until)
            if stuck is not None:
                return stuck
        run = compiled(loop)
        return int(run(service, until)) if together else serve_by_threads(run, service, until, self.workers)


def slower(tables: Tables, factor: float) -> Tables:
    """Return tables with every time multiplied by `factor`."""
    if factor == 1.0:
        return tables
    return tables._replace(
        by_rows=tables.by_rows * factor, by_sequences=tables.by_sequences * factor, decode=tables.decode * factor,
        prompt=tables.prompt * factor, mixed=tables.mixed * factor, prompt_floor=tables.prompt_floor * factor,
        pool=tables.pool * factor, shared=tables.shared * factor,
    )  # fmt: skip


def stream_of(scenario: Scenario, plan: Serving | Pools) -> RequestStream:
    """Return the requests of a scenario: as stated, else Poisson at its rate, else a closed loop of its concurrency."""
    stream, field = plan.requests, f"scenarios.{scenario.name}.requests"
    loops = plan.concurrency is not None
    if stream is None:
        stream = RequestStream(arrivals="poisson" if plan.rate is not None else "closed_loop")
    if stream.arrivals == "closed_loop" and not loops:
        raise InputError.single("a closed loop needs `concurrency`", field=field, hint="write `concurrency: 64`")
    open_loop = stream.trace is None and stream.arrivals not in ("closed_loop", "burst")
    if open_loop and stream.rate is None and plan.rate is None:
        hint = "write `rate: 8 /s`" + (", or `arrivals: closed_loop`" if loops else "")
        raise InputError.single(f"{stream.arrivals} arrivals need a rate", field=field, hint=hint)
    return stream


class Extent(Record):
    """Sizes of all requests of a run. longest: tokens of the longest one; which: its number; sizes: of runs."""

    count: int
    longest: int
    which: int
    sizes: npt.NDArray[np.int32]

    @classmethod
    def of(cls, parts: Iterable[Requests]) -> Extent:
        """Return the sizes of requests that come in parts."""
        count = longest = which = 0
        sizes = np.zeros(0, np.int32)
        for part in parts:
            tokens = part.length.sum(axis=1)
            worst = int(np.argmax(tokens))
            if tokens[worst] > longest:
                longest, which = int(tokens[worst]), count + worst
            count += len(tokens)
            short, long = sorted((sizes, part.paths.sizes), key=len)
            sizes = np.append(np.maximum(short, long[: len(short)]), long[len(short) :])
        return cls(count, longest, which, sizes)


def policy_of(scenario: Scenario, plan: Serving, requests: Requests, longest: int) -> Policy:
    """Return how the engines schedule. Without `max_num_seqs`, a step has as many requests as its budget has tokens.

    longest: tokens of the longest request.
    """
    scheduler, drafts = plan.scheduler, int(drafted_tokens(plan.speculative))
    most = len(requests.arrival)
    places = UNLIMITED_SEQUENCES if plan.seats is None else int(plan.seats)
    mixed = scheduler.mixes
    budget = longest if scheduler.token_budget is None else int(scheduler.token_budget)
    if mixed and scheduler.max_num_seqs is None:
        places = max(min(places, budget // (1 + drafts)), 1)
    if mixed and budget < places * (1 + drafts):
        raise InputError.single(
            f"{places} requests need {places * (1 + drafts)} tokens of a step, which has {budget}",
            field=f"scenarios.{scenario.name}.scheduler.token_budget",
            hint=f"write at least {places * (1 + drafts)}, or fewer `max_num_seqs`",
        )
    pool = kv_pool(scenario, plan)
    return Policy(
        max_seqs=min(places, max(most, FEW_PLACES)), budget=budget, block=int(memory_of(scenario, plan).block),
        blocks=int(pool.blocks), overlapped=scheduler.overlapped, mixed=mixed, caching=True,
        reserve=scheduler.preemption == "none",
        drafts=drafts, tokens_per_step=float(tokens_per_step(plan.speculative)), jump=True,
        order=_order(scenario, plan, requests), look_steps=int(scheduler.look_steps),
        whole_prompts=scheduler.whole_prompts, align_steps=int(scheduler.align_steps),
        **_behind(scenario, plan, float(pool.block_bytes)),
    )  # fmt: skip


def _order(scenario: Scenario, plan: Serving, requests: Requests) -> int:
    """Return the order of waiting requests. Raises InputError where it goes by priorities and there are none."""
    if plan.scheduler.policy == "priority" and not len(requests.priority):
        raise InputError.single(
            "the policy `priority` needs priorities of the requests", field=f"scenarios.{scenario.name}.requests",
            hint="write `priority: {values: [0, 1], weights: [0.1, 0.9]}` there, or a column `priority` in the trace",
        )  # fmt: skip
    return ORDERS[plan.scheduler.policy]


def _behind(scenario: Scenario, plan: Serving, block: float) -> dict[str, Any]:
    """Return what lies behind an engine's cache, as fields of its policy. block: of one device [B].

    Caches of preempted requests go to a device's share of its host's memory over the link between them.
    """
    tiers = [tier for tier in memory_of(scenario, plan).tiers if tier.capacity >= block]
    lacking = LEVELS - len(tiers)
    fields: dict[str, Any] = {
        "tier_blocks": (*(int(tier.capacity // block) for tier in tiers), *[0] * lacking),
        "tier_time": (*(block / float(tier.bandwidth) for tier in tiers), *[0.0] * lacking),
    }
    if plan.scheduler.preemption != "swap":
        return fields
    node = scenario.cluster.node
    if node.host.memory is None:
        raise InputError.single(
            f"the host memory of {node.name} is not known", field="hardware.node.host.memory",
            hint="write `--set hardware.node.host.memory=\"1 TB\"`, or `preemption: recompute`",
        )  # fmt: skip
    bandwidth = float(node.device.links[node.host.link].bandwidth)
    return {**fields, "swap_time": block / bandwidth, "host_blocks": int(node.host.memory / node.count // block)}


def decoding_part(scenario: Scenario, plan: Pools) -> tuple[Scenario, Serving]:
    """Return the scenario and the plan of the engines of two pools that decode, under the load of both."""
    own = replace(
        plan.engines[1], rate=plan.rate, concurrency=plan.concurrency, requests=plan.requests, slo=plan.slo,
        replicas=replace(plan.router, count=plan.engines[1].replicas.count),
        prefix_hit_rate=plan.engines[0].prefix_hit_rate,
    )  # fmt: skip
    return replace(plan.decode, name=scenario.name, plan=own, simulation=scenario.simulation), own


def unsupported(scenario: Scenario, plan: Serving | Pools) -> InputError | None:
    """Return what of a scenario is of a kind that requests are not simulated for, null where they are."""
    if isinstance(plan, Pools):
        prompts, decode = (unsupported(part, own) for part, own in zip(plan.parts[::-1], plan.engines, strict=True))
        return prompts or decode
    parallel, field, others = scenario.parallel, f"scenarios.{scenario.name}", plan.replicas.others
    blocks = {float(memory_of(each, each.plan).block) for each in (scenario.alone, *others)}
    together = bool(others) and any(lockstep_of(each) > 1 for each in (scenario, *others))
    problems = (
        (together, "replicas.others", "unlike engines that share experts", "write layouts without `dp` or `ep`"),
        (len(blocks) > 1, "replicas.others", "engines with blocks of several sizes", "write one `memory.block`"),
        (parallel.pp > 1, "parallel.pp", "pipeline stages", "write `pp: 1` and a larger `tp`"),
        (plan.replicas.autoscale is not None and lockstep_of(scenario) > 1, "replicas.autoscale", "an autoscaler of "
         "engines that share experts", "write `replicas: {count: 2}`"),
        (scenario.offload.is_used, "offload", "offloaded tensors", "remove `offload`"),
    )  # fmt: skip
    for holds, key, what, hint in problems:
        if holds:
            message = f"the request engine does not simulate {what}"
            return InputError.single(
                message, field=f"{field}.{key}", hint=hint if others else f"{hint}, or use the closed form"
            )
    return next(filter(None, (unsupported(each, each.plan) for each in others)), None)


def _check_lengths(scenario: Scenario, policy: Policy, extent: Extent) -> None:
    """Raise InputError where a request alone needs more blocks than an engine has."""
    blocks = -(-extent.longest // policy.block)
    if blocks > policy.blocks:
        capacity = policy.blocks * policy.block
        raise InputError.single(
            f"request {extent.which + 1} of {extent.longest:,} tokens does not fit in the KV cache of {capacity:,} "
            "tokens",
            field=f"scenarios.{scenario.name}.requests",
            hint=f"at least {blocks} blocks of {policy.block} tokens are needed",
        )
