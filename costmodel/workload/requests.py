"""Requests over time: how they arrive, how long they are, what they share, and which engines serve them."""

from __future__ import annotations

from dataclasses import dataclass

from costmodel.quantities import Count, Quantity, Seconds


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lengths:
    """Lengths of prompts or outputs, whole tokens from `low` to `high`.

    distribution: `constant`, `uniform` from low to high, `exponential`, `normal`, `lognormal`, or `values`.
    deviation: standard deviation; values, weights: lengths that are drawn, and how often (empty: all as often).
    """

    distribution: str = "constant"
    mean: Count = 1.0
    deviation: Count = 0.0
    low: Count = 1.0
    high: Count | None = None
    values: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SharedPrefix:
    """Prompts begin with one of `groups` texts of `tokens` tokens; how often each: r^-exponent of its rank."""

    groups: Count
    tokens: Count
    exponent: Quantity = 0.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sessions:
    """Requests come in conversations of `turns`, each after the answer to the last and a pause of mean `think_time`.

    A prompt holds all earlier prompts and answers of its conversation.
    """

    turns: Count
    think_time: Seconds = 0.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RequestStream:
    """The requests that a deployment serves.

    trace: path of a file that lists them, null: they are drawn; format: of the file; speed: factor on its rate.
    arrivals: `poisson`, `gamma` with gaps of coefficient of variation `cv`, `even`, `burst` (all at once), or
        `closed_loop` (each request that ends calls the next).
    rate: of the whole deployment [1/s], null: of the scenario; count: requests.
    input, output: lengths, null: the scenario's; pairs: path of a file from which both are drawn together.
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
    prefix: SharedPrefix | None = None
    sessions: Sessions | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Replicas:
    """Equal engines behind a router.

    routing: `round_robin`, `random`, `least_loaded` (fewest requests), `power_of_two` (the less loaded of two drawn) or
        `prefix` (the longest cached prefix, unless that engine has many more requests than the least loaded one).
    signal_delay: the router learns loads and caches at this interval [s]; 0: always.
    """

    count: Count = 1.0
    routing: str = "round_robin"
    signal_delay: Seconds = 0.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Slo:
    """What a request may take at most to count as good [s]; null: anything."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None
    e2e: Seconds | None = None
