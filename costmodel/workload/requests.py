"""Requests over time: how they arrive, how long they are, what they share, and which engines serve them."""

from __future__ import annotations

import numpy as np

from costmodel.quantities import Count, Quantity, Seconds
from costmodel.records import Record


class Lengths(Record, kw_only=True):
    """Lengths of prompts or outputs, whole tokens from `low` to `high`.

    distribution: `constant`, `uniform` from low to high, `exponential`, `normal`, `lognormal`, or `values`.
    deviation: standard deviation.
    values, weights: lengths that are drawn, and how often (empty: all as often).
    """

    distribution: str = "constant"
    mean: Count = 1.0
    deviation: Count = 0.0
    low: Count = 1.0
    high: Count | None = None
    values: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def average(self) -> Count:
        """Return the mean length in tokens, those outside `low` to `high` not moved."""
        if self.distribution == "values":
            return float(np.average(self.values, weights=self.weights or None))
        if self.distribution == "uniform":
            assert self.high is not None, "the file has been checked"
            return (self.low + self.high) / 2.0
        return self.mean


class SharedPrefix(Record, kw_only=True):
    """Prompts begin with one of `groups` texts of `tokens` tokens. How often each: r^-exponent of its rank."""

    groups: Count
    tokens: Count
    exponent: Quantity = 0.0


class Sessions(Record, kw_only=True):
    """Requests come in conversations of `turns`, each after the answer to the last and a pause of mean `think_time`.

    A prompt holds all earlier prompts and answers of its conversation.
    """

    turns: Count
    think_time: Seconds = 0.0


class Priorities(Record, kw_only=True):
    """Priorities of drawn requests, the least first.

    values: that are drawn.
    weights: how often each is, empty: all as often.
    """

    values: tuple[int, ...]
    weights: tuple[float, ...] = ()


class RequestStream(Record, kw_only=True):
    """The requests that a deployment serves.

    trace: path of a file that lists them, null: they are drawn.
    format: of the file.
    speed: factor on its rate.
    arrivals: `poisson`, `gamma` with gaps of coefficient of variation `cv`, `even`, `burst` (all at once), or
        `closed_loop` (each request that ends calls the next).
    rate: of the whole deployment [1/s], null: of the scenario.
    count: requests.
    input, output: lengths, null: the scenario's; pairs: path of a file from which both are drawn together; tokenizer:
        file that counts its texts, null: it has lengths.
    """

    trace: str | None = None
    format: str | None = None
    speed: Quantity = 1.0
    arrivals: str = "poisson"
    rate: Quantity | None = None
    cv: Quantity = 1.0
    count: Count | None = None
    input: Lengths | None = None
    output: Lengths | None = None
    pairs: str | None = None
    tokenizer: str | None = None
    prefix: SharedPrefix | None = None
    sessions: Sessions | None = None
    priority: Priorities | None = None


class Failure(Record, kw_only=True):
    """An engine fails. replica: its number from 0; at: when, since the first arrival; lasts: until it is back [s]."""

    replica: Count
    at: Seconds
    lasts: Seconds


class Breakdowns(Record, kw_only=True):
    """Engines fail at random. device_mtbf: mean time between failures of one device; repair: until the engine is
    back [s].
    """

    device_mtbf: Seconds
    repair: Seconds

    def up_share(self, devices: Count) -> Quantity:
        """Return the share of time in which an engine of so many devices serves: MTBF / (MTBF + repair)."""
        between = self.device_mtbf / devices
        return between / (between + self.repair)


class Autoscale(Record, kw_only=True):
    """Engines are started and given back: every `interval` there should be one for each `target` requests.

    least, most: engines.
    start_up: until a new one serves [s].
    """

    most: Count
    target: Quantity
    least: Count = 1.0
    interval: Seconds = 10.0
    start_up: Seconds = 60.0


class Transfer(Record, kw_only=True):
    """How the cache of a prompt gets to the engine that decodes. bandwidth: of one engine [B/s]; latency: [s]."""

    bandwidth: Quantity
    latency: Seconds = 0.0


class Replicas(Record, kw_only=True):
    """Equal engines behind a router.

    routing: `round_robin`, `random`, `least_loaded` (fewest requests), `power_of_two` (the less loaded of two drawn) or
        `prefix` (the longest cached prefix, unless that engine has many more requests than the least loaded one).
    signal_delay: the router learns loads and caches at this interval [s]. 0: always.
    max_waiting: an engine with so many waiting requests rejects others, null: none; failures: of engines, stated;
        breakdowns: at random, null: none; autoscale: null: `count` engines serve all the time.
    prefill: of all engines so many compute prompts only, and the others decode; transfer: of the prompts' caches, null:
        over the NICs of the engine's devices.
    """

    count: Count = 1.0
    routing: str = "round_robin"
    signal_delay: Seconds = 0.0
    max_waiting: Count | None = None
    failures: tuple[Failure, ...] = ()
    breakdowns: Breakdowns | None = None
    autoscale: Autoscale | None = None
    prefill: Count = 0.0
    transfer: Transfer | None = None

    def serving(self, devices: Count) -> Quantity:
        """Return the engines that serve on average, those of `devices` each that broke down not counted."""
        return self.count if self.breakdowns is None else self.count * self.breakdowns.up_share(devices)


class Slo(Record, kw_only=True):
    """What a request may take at most to count as good [s]. Null: anything."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None
    e2e: Seconds | None = None
