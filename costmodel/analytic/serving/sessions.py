"""Sessions at their means: the request that stands for all of them, and what of it the cache has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from costmodel.equations import equation
from costmodel.quantities import Array, Count, Quantity, Seconds, floor, maximum
from costmodel.records import Record, replace
from costmodel.result import Metrics
from costmodel.workload.engine_memory import memory_of
from costmodel.workload.plans import Serving
from costmodel.workload.requests import Lengths, SessionMeans, Sessions, SubAgents
from costmodel.workload.scenario import Scenario

Flags = npt.NDArray[np.bool_]
LONG_GAPS = np.log(100.0)  # mean gaps that one of a hundred is longer than, where they are exponential
ROUNDS, CLOSE = 100, 1e-10  # of halving the interval of a rate


@equation
def session_means(plan: Serving, sessions: Sessions, shared: Count, block: Count) -> SessionMeans:
    """Return the means of sessions whose requests follow each other.

    Of T turns, the prompt of turn j is what is shared, all new tokens up to it, and all answers before it:

        own = turns * (shared + first) + (new + output) * pairs     sum of a session's prompts
        pairs = sessions.turns.pairs                                mean of T (T - 1) / 2
        own_cached = own - (shared + first) - (turns - 1) * (new + lost) + opening
        opening = floor(shared / block) * block
        prompt = (own + agents * agent.prompts) / requests
        cached = (own_cached + agents * agent.cached) / requests
        lost := an answer's last token, which is never computed, and what is left of its last block
    """
    turns, new, output = sessions.turns.average_count, plan.input_tokens, plan.output_tokens
    first = new if sessions.first is None else sessions.first.average
    pairs, opening, requests = sessions.turns.pairs, floor(shared / block) * block, sessions.size
    own = turns * (shared + first) + (new + output) * pairs
    ends = (
        _ends(sessions.turns, np.array([shared + first + output]), new + output) if _is_alike(plan, sessions) else None
    )
    lost = _lost(ends, block)
    own_cached = own - (shared + first) - (turns - 1.0) * (new + lost) + opening
    agents: Quantity = 0.0
    agent, steps = AgentMeans(0.0, 0.0, 0.0), turns
    if sessions.agents is not None:
        starts = (turns - 1.0) * sessions.agents.share
        agents = starts * sessions.agents.count.average_count
        at = shared + first + output + (new + output) * (pairs - (turns - 1.0)) / maximum(turns - 1.0, 1.0)
        agent = agent_means(plan, sessions.agents, (shared, at, lost), block, ends)
        steps = turns + starts * sessions.agents.turns.average_count
    prompt = (own + agents * agent.prompts) / requests
    cached = (own_cached + agents * agent.cached) / requests
    outputs = (turns * output + agents * agent.outputs) / requests
    return SessionMeans(
        requests=requests, prompt=prompt, output=outputs, cached=cached, shared=shared, context=own / turns + output,
        final=shared + first - new + turns * (new + output), steps=steps, gap=sessions.think_time.mean,
    )  # fmt: skip


class AgentMeans(Record):
    """Sums over the requests of an agent: tokens of prompts, of these cached ones, and of outputs."""

    prompts: Quantity
    cached: Quantity
    outputs: Quantity


@equation
def agent_means(
    plan: Serving, agent: SubAgents, context: tuple[Count, Quantity, Quantity], block: Count, ends: Array | None
) -> AgentMeans:
    """Return the means of an agent that begins with what is shared, or with its session so far.

        prompts = turns * (begin + new) + (new + output) * pairs
        cached = prompts - (begin + new) - (turns - 1) * (new + lost) + opening

    context: what is shared, the session after the answer that starts it, and what the cache lacks of that
    ends: where answers of a session end, null where its requests differ
    """
    shared, at, lacks = context
    turns, pairs = agent.turns.average_count, agent.turns.pairs
    new = plan.input_tokens if agent.input is None else agent.input.average
    output = plan.output_tokens if agent.output is None else agent.output.average
    forks = agent.context == "fork"
    begin, opening = (at, at - lacks) if forks else (shared, floor(shared / block) * block)
    own = None
    if ends is not None and _are_alike(agent.turns, agent.input, agent.output):
        own = _ends(agent.turns, (ends if forks else np.array([float(shared)])) + float(new + output), new + output)
    lost = _lost(own, block)
    prompts = turns * (begin + new) + (new + output) * pairs
    cached = prompts - (begin + new) - (turns - 1.0) * (new + lost) + opening
    return AgentMeans(prompts, cached, turns * output)


def _are_alike(*lengths: Lengths | None) -> bool:
    return all(each is None or (each.distribution == "constant" and np.ndim(each.mean) == 0) for each in lengths)


def _is_alike(plan: Serving, sessions: Sessions) -> bool:
    stream = plan.requests
    drawn = () if stream is None else (stream.input, stream.output)
    single = np.ndim(plan.input_tokens) == 0 and np.ndim(plan.output_tokens) == 0
    return single and _are_alike(sessions.turns, sessions.first, *drawn) and (stream is None or stream.pairs is None)


def _ends(turns: Lengths, first: Array, growth: Quantity) -> Array:
    """Return where all answers but the last of each chain end: `first` are those of first turns [tokens]."""
    number = round(float(turns.average_count))
    ends: Array = (first[:, None] + np.arange(number - 1) * growth).reshape(-1)
    return ends


def _lost(ends: Array | None, block: Count) -> Quantity:
    """Return what of a prompt and its answer is in no full block: its last token, and what is left over on average."""
    if ends is None or not len(ends) or np.ndim(block):
        return 1.0 + (block - 1.0) / 2.0
    return float(1.0 + np.mean((ends - 1.0) % block))


def at_means(scenario: Scenario, plan: Serving) -> Serving:
    """Return a plan whose sessions are taken at their means, itself without sessions.

    Its `concurrency` is still that of sessions.
    """
    stream = plan.requests
    if stream is None or stream.sessions is None or plan.means is not None:
        return plan
    shared = 0.0 if stream.prefix is None else stream.prefix.tokens
    means = session_means(plan, stream.sessions, shared, memory_of(scenario, plan).block)
    return replace(
        plan, input_tokens=means.prompt, output_tokens=maximum(means.output, 2.0),
        prefix_hit_rate=means.cached / means.prompt, means=means,
    )  # fmt: skip


def session_time(means: SessionMeans, latency: Seconds) -> Seconds:
    """Return how long a session lasts [s]. latency: of one of its requests [s]."""
    return means.steps * latency + (means.steps - 1.0) * means.gap


def busy_sessions(plan: Serving) -> Quantity | None:
    """Return the requests of a plan at means that are under way without gaps: of a session, requests / steps."""
    if plan.means is None or plan.concurrency is None:
        return plan.concurrency
    return plan.concurrency * plan.means.requests / plan.means.steps


def rate_of_sessions(
    means: SessionMeans, sessions: Count, most: Quantity, latency: Callable[[Quantity], Seconds]
) -> Quantity:
    """Return the rate at which a number of sessions send requests, each replaced when it ends [1/s].

    sessions = rate / means.requests * session_time(means, latency(rate))      [Little, Operations Research 9(3), 1961]

    The more they send the longer a request takes, so that one rate fits. Their gaps let requests come at random, as
    those of an open loop do.

    most: that engines serve [1/s]; latency: of a request at a rate [s], not finite where the queue only grows
    """

    def is_less(rate: Quantity) -> Flags:
        time = session_time(means, latency(rate))
        less: Flags = np.isfinite(time) & (rate / means.requests * time < sessions)
        return less

    return _halved(np.minimum(most, sessions * means.requests / ((means.steps - 1.0) * means.gap)), is_less)


def under_way(means: SessionMeans, sessions: Count, latency: Callable[[Quantity], Seconds]) -> Quantity:
    """Return the requests that a number of sessions have under way: as `rate_of_sessions`, of a closed loop of these.

    latency: of a request with so many under way [s]
    """

    def is_less(requests: Quantity) -> Flags:
        time = latency(requests)
        less: Flags = np.asarray(requests * session_time(means, time) < sessions * means.requests * time)
        return less

    return _halved(sessions * means.requests / means.steps, is_less)


def _halved(high: Quantity, is_less: Callable[[Quantity], Flags]) -> Quantity:
    """Return where from 0 to `high` what is less than wanted becomes more."""
    low = 0.0 * high
    for _ in range(ROUNDS):
        middle = (low + high) / 2.0
        less = is_less(middle)
        low, high = np.where(less, middle, low), np.where(less, high, middle)
        if np.all(high - low <= CLOSE * high):
            break
    return low if np.ndim(low) else float(low)


def of_sessions(scenario: Scenario, plan: Serving, metrics: Metrics) -> tuple[str, ...]:
    """Return what a closed form of sessions rests on, and where the cache is too small for it, none without sessions.

    It has what was used last: of sessions that go on, and of those that end while a long gap of others lasts.
    """
    means, rate, latency, blocks = (
        plan.means,
        *(metrics[name] for name in ("requests_per_second", "latency", "kv_blocks")),
    )
    if means is None or rate is None or latency is None or blocks is None or not np.isfinite(latency):
        return ()
    engines = float(scenario.parallel.dp * plan.replicas.serving(scenario.parallel.all_devices))
    tokens = float(blocks) * float(memory_of(scenario, plan).block)
    shared, begun = float(means.shared), float(rate) / engines / float(means.requests)
    live, ended = begun * float(session_time(means, latency)), begun * LONG_GAPS * float(means.gap)
    needed = shared + live * (float(means.context) - shared) + ended * (float(means.final) - shared)
    known = (
        f"sessions at their means: {float(means.prompt):,.0f} tokens a prompt, of which {float(means.cached):,.0f} are "
        f"cached, and {float(means.output):,.0f} an answer; an engine has {live:.3g} sessions"
    )
    if needed <= tokens:
        return (known,)
    lost = f"which want {needed:,.0f} tokens of a cache of {tokens:,.0f}: what falls out of it is computed again"
    return (f"{known}, {lost}, which `--engine event` has",)
