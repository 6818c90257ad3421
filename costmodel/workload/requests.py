"""Requests over time: how they arrive, how long they are, what they share, and which engines serve them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np

from costmodel.declared import (
    Bandwidth,
    Duration,
    EventRate,
    Exponent,
    Latency,
    Measure,
    Moment,
    Nullable,
    Number,
    NumberOrZero,
    PositiveNumber,
    RatioOrZero,
    Share,
    Weight,
    Whole,
)
from costmodel.quantities import Count, Quantity, maximum
from costmodel.records import Record

TraceFormat: TypeAlias = Literal[
    "requests", "azure", "mooncake", "burstgpt", "servegen", "bench", "weka", "dynamo", "agentic", "openai"
]


Tokens: TypeAlias = Annotated[Quantity, Whole(1, high=10**8)]
Million: TypeAlias = Annotated[Quantity, Whole(1, high=10**6)]
Drawn: TypeAlias = Annotated[Quantity, Whole(1, high=10**7)]  # requests: two minutes of the processor, compiled
Interval: TypeAlias = Annotated[Quantity, Measure("duration", low=0.1, zero=True)]


class Lengths(Record, kw_only=True):
    """Lengths in tokens. A number alone is short for `{mean: NUMBER}`."""

    distribution: Annotated[
        Literal["constant", "uniform", "exponential", "normal", "lognormal", "values"],
        "of lengths; `uniform` from `low` to `high`, `values` from a list",
    ] = "constant"
    mean: Annotated[PositiveNumber, Nullable(), "mean; not for `uniform` and `values`"] = 1.0
    deviation: Annotated[RatioOrZero, Nullable(), "standard deviation in tokens"] = 0.0
    low: Annotated[Tokens, "least length"] = 1.0
    high: Annotated[Tokens | None, "largest length; null: any"] = None
    values: tuple[float, ...] = ()
    weights: Annotated[tuple[Weight, ...], "how often each is drawn; empty: all as often"] = ()

    def share_above(self, tokens: float) -> float:
        """Return the share of lengths above `tokens`, those outside `low` to `high` moved to the nearer end.

        Of lengths in whole tokens, as if they were not. A lognormal length of mean m and deviation s is
        exp(N(mu, sigma)) with sigma^2 = ln(1 + s^2/m^2) and mu = ln(m) - sigma^2/2.
        """
        mean, deviation = float(self.mean), float(self.deviation)
        if self.high is not None and tokens >= float(self.high):
            return 0.0
        if tokens < max(float(self.low), 1.0):
            return 1.0
        if self.distribution == "values":
            weights = np.array(self.weights or np.ones(len(self.values)))
            return float(weights[np.array(self.values) > tokens].sum() / weights.sum())
        if self.distribution == "uniform":
            assert self.high is not None, "the file has been checked"
            return (float(self.high) - tokens) / (float(self.high) - float(self.low))
        if self.distribution == "exponential":
            return math.exp(-tokens / mean)
        if self.distribution == "constant" or deviation == 0.0:
            return float(mean > tokens)
        if self.distribution == "normal":
            return 0.5 * math.erfc((tokens - mean) / (deviation * math.sqrt(2.0)))
        variance = math.log1p((deviation / mean) ** 2)
        middle = math.log(mean) - variance / 2.0
        return 0.5 * math.erfc((math.log(tokens) - middle) / math.sqrt(2.0 * variance))

    @property
    def average(self) -> Count:
        """Return the mean length in tokens, those outside `low` to `high` not moved."""
        if self.distribution == "values":
            return float(np.average(self.values, weights=self.weights or None))
        if self.distribution == "uniform":
            assert self.high is not None, "the file has been checked"
            return (self.low + self.high) / 2.0
        return self.mean

    @property
    def variance(self) -> Quantity:
        """Return the variance of the lengths, those outside `low` to `high` not moved."""
        if self.distribution == "values":
            squares = [(value - float(self.average)) ** 2 for value in self.values]
            return float(np.average(squares, weights=self.weights or None))
        if self.distribution == "uniform":
            assert self.high is not None, "the file has been checked"
            return ((self.high - self.low + 1.0) ** 2 - 1.0) / 12.0
        spread = {"constant": 0.0, "exponential": self.mean}.get(self.distribution, self.deviation)
        return spread * spread

    @property
    def pairs(self) -> Quantity:
        """Return the mean of n (n - 1) / 2 over the lengths n."""
        mean = self.average_count
        return (self.variance + mean * mean - mean) / 2.0

    @property
    def average_count(self) -> Quantity:
        """Return the mean of whole numbers, at least one each."""
        return maximum(self.average, 1.0)


class SharedPrefix(Record, kw_only=True):
    """Beginnings that prompts share."""

    groups: Annotated[Million, "different beginnings"] = 1.0
    tokens: Annotated[Tokens, "tokens of each, which prompts have in addition to `input`, before it"]
    exponent: Annotated[Exponent, "of Zipf's law of how often each is used; 0: all as often"] = 0.0


class Gaps(Record, kw_only=True):
    """Times between an answer and the next request of a session. A time alone is short for `{mean: TIME}`."""

    distribution: Annotated[Literal["exponential", "constant", "lognormal"], "of the times"] = "exponential"
    mean: Annotated[Moment, "mean time"] = 0.0
    deviation: Annotated[Moment, "standard deviation; `lognormal` only"] = 0.0


class SubAgents(Record, kw_only=True):
    """Agents that a session starts after some of its answers. Its next request waits for the last of them to end."""

    share: Annotated[Share, "of a session's answers, the last one not counted, after which agents start"]
    count: Annotated[Lengths, "agents that start together"] = Lengths()
    context: Annotated[
        Literal["fork", "new"], "what an agent's first prompt begins with: all of the session so far, or the `prefix`"
    ] = "new"
    turns: Annotated[Lengths, "requests of an agent"] = Lengths()
    input: Annotated[Lengths | None, "new tokens of each of its prompts; null: as the session's"] = None
    output: Annotated[Lengths | None, "tokens of each of its answers; null: as the session's"] = None


class Sessions(Record, kw_only=True):
    """Conversations and agents: a prompt holds all earlier prompts and answers, and `input` is what is new in it."""

    turns: Annotated[Lengths, "requests of a session, without those of its sub-agents"]
    think_time: Annotated[Gaps, "from an answer to the next request: a user who thinks, or a tool"] = Gaps()
    first: Annotated[Lengths | None, "new tokens of the first prompt; null: as of the others"] = None
    rate: Annotated[EventRate | None, "sessions that begin, of the whole deployment; null: `rate` of requests"] = None
    agents: Annotated[SubAgents | None, "sub-agents; null: none"] = None

    @property
    def later(self) -> Quantity:
        """Return the mean number of requests of a session after its first one."""
        return self.turns.average_count - 1.0

    @property
    def size(self) -> Quantity:
        """Return the mean requests of a session: T + (T - 1) x share x agents x requests of an agent."""
        agents = self.agents
        own = self.turns.average_count
        if agents is None:
            return own
        return own + self.later * agents.share * agents.count.average_count * agents.turns.average_count


class SessionMeans(Record, kw_only=True):
    """Means of sessions, for closed forms.

    requests: of a session, those of its agents with it.
    prompt, output: tokens of a request.
    cached: of its prompt, where the cache loses nothing of a session that goes on.
    shared: tokens with which all prompts begin, once in the cache.
    context, final: tokens of a session on the mean of its requests, and at its end.
    steps: requests that follow each other in a session, those of agents with it.
    gap: between them [s].
    """

    requests: Quantity
    prompt: Quantity
    output: Quantity
    cached: Quantity
    shared: Quantity
    context: Quantity
    final: Quantity
    steps: Quantity
    gap: Quantity


class Priorities(Record, kw_only=True):
    """Priorities of drawn requests, for `scheduler: {policy: priority}`."""

    values: tuple[int, ...]
    weights: Annotated[tuple[Weight, ...], "how often each is drawn; empty: all as often"] = ()


class Slo(Record, kw_only=True):
    """What a good request takes at most."""

    ttft: Annotated[Moment | None, "time to first token"] = None
    tpot: Annotated[Moment | None, "mean time per token after the first"] = None
    e2e: Annotated[Moment | None, "time to last token"] = None


class RequestClass(Record, kw_only=True):
    """Requests of one kind among those that are drawn."""

    name: Annotated[str, "of the class"]
    share: Annotated[Share, "of all requests; the shares of all classes add up to 1"]
    input: Annotated[Lengths | None, "prompts; null: as of all requests"] = None
    output: Annotated[Lengths | None, "outputs; null: as of all requests"] = None
    slo: Annotated[Slo | None, "service-level objective of these requests; null: the scenario's"] = None


class RequestStream(Record, kw_only=True):
    """The requests: a trace, or drawn at random."""

    trace: Annotated[str | None, "file of requests, relative to this file; null: drawn"] = None
    format: Annotated[TraceFormat | None, "of the trace; null: by its columns"] = None
    speed: Annotated[PositiveNumber, "factor on the trace's rate"] = 1.0
    shuffle: Annotated[
        Annotated[int, Whole(0, single=True)] | None,
        "seed with which a trace's requests, or sessions, are dealt out anew among its arrivals; null: as they came",
    ] = None
    arrivals: Annotated[Literal["poisson", "gamma", "even", "closed_loop", "burst"], "how drawn requests arrive"] = (
        "poisson"
    )
    ramp: Annotated[Moment, "over which the users of a closed loop start evenly; 0: in step, as benchmarks do"] = 0.0
    rate: Annotated[EventRate | None, "of the whole deployment; null: the scenario's `rate`"] = None
    cv: Annotated[PositiveNumber, "coefficient of variation of gaps; gamma only"] = 1.0
    count: Annotated[Drawn | None, "requests; null: 10,000, or all of the trace"] = None
    input: Annotated[Lengths | None, "prompts; null: all of `input_tokens`"] = None
    output: Annotated[Lengths | None, "outputs; null: all of `output_tokens`"] = None
    pairs: Annotated[str | None, "file whose `input_tokens` and `output_tokens` are drawn together"] = None
    tokenizer: Annotated[
        str | None, "tokenizer.json that counts the texts of `pairs`, a ShareGPT file; null: lengths"
    ] = None
    prefix: Annotated[SharedPrefix | None, "beginnings that prompts share; null: none"] = None
    sessions: Annotated[Sessions | None, "conversations; null: every request by itself"] = None
    priority: Annotated[Priorities | None, "priorities of drawn requests; null: none"] = None
    classes: Annotated[
        tuple[RequestClass, ...], "kinds of drawn requests, each with its own lengths and objective"
    ] = ()


class Failure(Record, kw_only=True):
    """A failure of an engine: its requests start again on others."""

    replica: Annotated[NumberOrZero, "engine that fails, from 0 on"]
    at: Annotated[Moment, "when, since the first arrival"]
    lasts: Annotated[Duration, "until it serves again"]


class Breakdowns(Record, kw_only=True):
    """Failures of engines at random, each engine's with exponential gaps. Its requests start again on others."""

    device_mtbf: Annotated[Duration, "mean time between failures of one device; an engine fails with any"]
    repair: Annotated[Duration, "until the engine serves again"]

    def up_share(self, devices: Count) -> Quantity:
        """Return the share of time in which an engine of so many devices serves: MTBF / (MTBF + repair)."""
        between = self.device_mtbf / devices
        return between / (between + self.repair)


class Autoscale(Record, kw_only=True):
    """Engines that are started and given back as requests come and go."""

    most: Annotated[Million, "engines at most"]
    least: Annotated[Million, "engines at least, and at first"] = 1.0
    target: Annotated[PositiveNumber, "requests for each engine"]
    interval: Annotated[Interval, "between two decisions"] = 10.0
    start_up: Annotated[Moment, "until a new engine serves; it is paid for meanwhile"] = 60.0


class Transfer(Record, kw_only=True):
    """How a prompt's cache gets to the engine that decodes."""

    bandwidth: Annotated[Bandwidth, "of one engine's link, which sends one cache after the other"]
    latency: Annotated[Latency, "of one cache"] = 0.0


class Replicas(Record, kw_only=True):
    """Engines behind a router: equal ones, and others that share their requests.

    others: scenarios of phase `serving` whose `replicas.count` are as many engines of another layout or cluster.
    weights: of each of these in the router's eyes, over that of an engine of `count`.
    least_loaded: the engine of the fewest requests.
    power_of_two: the less loaded of two that are drawn.
    prefix: of the longest cached prefix, unless it has many more requests than the least loaded one.
    """

    count: Annotated[Million, "engines, each of the scenario's layout"] = 1.0
    routing: Annotated[
        Literal["round_robin", "random", "least_loaded", "power_of_two", "prefix"],
        "how the router chooses the engine of a request",
    ] = "round_robin"
    signal_delay: Annotated[Moment, "interval at which the router learns loads; 0: always"] = 0.0
    max_waiting: Annotated[
        Number | None, "waiting requests of an engine from which on others are turned away; null: never"
    ] = None
    failures: Annotated[tuple[Failure, ...], "engines that fail for a while"] = ()
    breakdowns: Annotated[Breakdowns | None, "failures at random; null: none"] = None
    autoscale: Annotated[Autoscale | None, "instead of `count` engines all the time"] = None
    prefill: Annotated[NumberOrZero, "of the engines, those that only compute prompts; the others decode"] = 0.0
    transfer: Annotated[
        Transfer | None, "of prompts' caches between them; null: over the NICs of the engine's devices"
    ] = None
    others: tuple[Any, ...] = ()
    weights: tuple[float, ...] = ()

    def serving(self, devices: Count) -> Quantity:
        """Return the engines that serve on average, those of `devices` each that broke down not counted."""
        return self.count if self.breakdowns is None else self.count * self.breakdowns.up_share(devices)
