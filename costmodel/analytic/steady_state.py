"""The steady state of continuous batching, as counts of steps: nothing here knows how long a step takes.

A fixed number of requests is in flight: one that ends is replaced at once, and they are spread evenly over their lives.
Then every step starts and ends as many requests as any other; what is left is conservation of tokens and requests.
Iteration-level scheduling: Orca [Yu et al., OSDI 2022]; prompts in steps of their own, before decoding goes on: vLLM
[Kwon et al., arXiv 2309.06180]; prompts cut into chunks that steps of decoding carry: Sarathi-Serve [Agrawal et al.,
arXiv 2403.02310].
"""

from __future__ import annotations

from dataclasses import dataclass

from costmodel.quantities import Count, Quantity, Seconds, maximum, minimum


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What one request asks. computed: tokens of its prompt that no cache holds; steps: of decoding, at least one."""

    computed: Count
    steps: Count


@dataclass(frozen=True, slots=True, eq=False)
class SteadyState:
    """An engine's steps of two kinds: those that carry prompts, and those that only decode.

    rate: requests that start, and end, in a period; carrying, plain: steps of each kind in a period.
    active: requests that steps work on, all of which a plain step decodes; waiting: the others in flight; prompts: in a
    step that carries, each with `rows` computed tokens; beside: requests that it decodes.
    first: carrying steps until a request has its first token; later_carrying, later_plain: steps that it sees then.
    """

    rate: Quantity
    carrying: Quantity
    plain: Quantity
    active: Count
    waiting: Count
    prompts: Count
    rows: Count
    beside: Count
    first: Count
    later_carrying: Count
    later_plain: Count

    def period(self, carrying: Seconds, plain: Seconds) -> Seconds:
        """Return the time in which `rate` requests end. carrying, plain: seconds of a step of each kind."""
        return self.carrying * carrying + self.plain * plain

    def throughput(self, carrying: Seconds, plain: Seconds) -> Quantity:
        """Return the requests that end in a second."""
        return self.rate / self.period(carrying, plain)

    def until_first(self, carrying: Seconds, plain: Seconds) -> Seconds:
        """Return the time to first token: waiting requests over their rate [Little, 1961], then the request's steps."""
        return self.waiting / self.throughput(carrying, plain) + self.first * carrying

    def after_first(self, carrying: Seconds, plain: Seconds) -> Seconds:
        """Return the time from the first to the last token."""
        return self.later_carrying * carrying + self.later_plain * plain


def chunked(concurrency: Count, demand: Demand, chunk: Count) -> SteadyState:
    """Return the steady state where each step decodes, and carries up to `chunk` tokens of prompts if there are any.

    With N requests in flight, c computed tokens a prompt, n decoding steps a request and chunks of C tokens:

        r = max(c/C, 1)                       steps a prompt takes
        x = min(N/(r + n), C/c)               requests a step: all in flight are served, or all chunks are full
        t = min(C, c*max(x, 1))               tokens a chunk carries
        f = x*c/t                             share of steps that carry one: prompt tokens are conserved
        q = x*r/f                             prompts in such a step, each with t/q rows
        A = x*(r + n)                         requests that steps work on; N - A wait
        A - q, A                              requests that a carrying and a plain step decode; their mean is x*n
        f*(A - q)/x, (1 - f)*A/x              steps of either kind that a request sees from first to last token
    """
    computed, steps = demand.computed, demand.steps
    residence = maximum(computed / chunk, 1.0)
    rate = minimum(concurrency / (residence + steps), chunk / computed)
    carried = minimum(chunk, computed * maximum(rate, 1.0))
    # Rounding may leave the share just above one, and those at work just above those in flight.
    share = minimum(rate * computed / carried, 1.0)
    prompts = rate * residence / share
    active = minimum(rate * (residence + steps), concurrency)
    beside = maximum(active - prompts, 0.0)
    return SteadyState(
        rate=rate,
        carrying=share,
        plain=1.0 - share,
        active=active,
        waiting=maximum(concurrency - active, 0.0),
        prompts=prompts,
        rows=carried / prompts,
        beside=beside,
        first=residence,
        later_carrying=share * beside / rate,
        later_plain=(1.0 - share) * active / rate,
    )


def separate(concurrency: Count, demand: Demand) -> SteadyState:
    """Return the steady state where a prompt that comes runs at once in a step of its own, and decoding stands still.

    Of N requests that need n decoding steps each, x = N/n end in a decoding step. Their successors are prefilled in one
    step, so there are min(x, 1) such steps a decoding step, each with max(x, 1) whole prompts. A request sees its own
    prefill, n decoding steps, and between them the prefills of others: min(n, N) - 1.
    """
    steps = demand.steps
    rate = concurrency / steps
    return SteadyState(
        rate=rate,
        carrying=minimum(rate, 1.0),
        plain=1.0,
        active=concurrency,
        waiting=0.0,
        prompts=maximum(rate, 1.0),
        rows=demand.computed,
        beside=0.0,
        first=1.0,
        later_carrying=maximum(minimum(steps, concurrency) - 1.0, 0.0),
        later_plain=steps,
    )
