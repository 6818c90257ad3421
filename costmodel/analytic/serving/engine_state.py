"""The steps of an engine in the steady state: what they hold, and how many requests are admitted."""

from __future__ import annotations

import numpy as np

from costmodel.analytic.inference import (
    inference_layout,
)
from costmodel.analytic.serving.steady_state import Arrival, Demand, SteadyState, budgeted, separate
from costmodel.errors import InputError
from costmodel.quantities import (
    Count,
    Mask,
    Quantity,
    Seconds,
    floor,
    maximum,
    minimum,
    where,
)
from costmodel.records import Record, replace
from costmodel.workload.context import Context
from costmodel.workload.engine_memory import KvPool, adapter_load, kv_pool
from costmodel.workload.memory import CachedSequences, Ledger, host_batch_limit, inference_ledger, with_expert_pool
from costmodel.workload.passes import Pass, computed_tokens, pass_work, prompt_context, request_context
from costmodel.workload.plans import Serving, Speculative, draft_passes, drafted_tokens, tokens_per_step
from costmodel.workload.scenario import Scenario


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
    arrival = Arrival(waits, unseen, looks, random, ranks, filled)
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
    return np.inf if plan.seats is None else plan.seats


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
