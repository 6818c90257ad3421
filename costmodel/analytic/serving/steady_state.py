"""The steady state of continuous batching, as counts of steps: step times play no part here.

A fixed number of requests is in flight: one that ends is replaced at once, each in any step of its life by chance, or
spread evenly. Steps start and end as many requests on the mean, and tokens and requests are conserved. Iteration-level
scheduling: Orca [Yu et al., OSDI 2022]. Prompts in steps of their own, before decoding continues: vLLM [Kwon et al.,
arXiv 2309.06180]. Chunks of prompts in steps of decoding: Sarathi-Serve [Agrawal et al., arXiv 2403.02310].
"""

from __future__ import annotations

from math import inf

from costmodel.equations import equation
from costmodel.quantities import Count, Quantity, Seconds, floor, maximum, minimum, where
from costmodel.records import Record

_ROUNDING = 1e-9  # of prompts that fill a step to the last token, and of a request that starts alone
_CHUNK_ITERATIONS = 4  # each shrinks the error by the share of a step that decoding takes, times that of a chunk


class Demand(Record):
    """The work of one request. computed: uncached tokens of its prompt; steps: of decoding, at least one."""

    computed: Count
    steps: Count


class Arrival(Record):
    """How an engine takes requests.

    steps: from one's arrival to the step that takes it, or to the next look for new ones.
    unseen: of those that only decode, until that look.
    looks: steps between two looks, whose requests start together.
    random: 1 where requests start at random, 0 where they are spread evenly over steps.
    ranks: that step together, each with prompts when it has some.
    filled: requests of another rank, over those of this one.
    """

    steps: Count = 0.0
    unseen: Count = 0.0
    looks: Count = 1.0
    random: Quantity = 0.0
    ranks: Count = 1.0
    filled: Quantity = 1.0

    def together(self, starts: Quantity, requests: Count) -> Count:
        """Return how many requests start together where any does, of x that start between two looks on average.

        Evenly max(x, 1). Each of N requests at random: x / (1 - (1 - x/N)^N), with the limits 1 for a single request
        and x / (1 - e^-x) for many.
        """
        evenly = maximum(starts, 1.0)
        some = (1.0 + _ROUNDING) * (1.0 - maximum(1.0 - starts / requests, 0.0) ** requests)
        return evenly + self.random * (maximum(starts / some, evenly) - evenly)


AT_ONCE = Arrival()


class SteadyState(Record, kw_only=True):
    """An engine's steps of two kinds: those with prompts, and those that only decode.

    rate: requests that start, and end, per period
    prompt_steps, decode_only_steps: per period
    active: requests that steps process, all of which a decode-only step decodes.
    waiting: the others in flight.
    prompts: in a step with prompts, each with `prompt_tokens` computed tokens
    co_batched: requests that a step with prompts decodes
    arrival_steps, unseen_steps: from a request's arrival to the step that takes it, and those of them that only decode
    first_token_steps: steps with prompts until a request has its first token
    later_prompt_steps, later_decode_only_steps: steps from then to its last token
    peers: prompts of the mean rank that steps together with this one, over those of this one
    """

    rate: Quantity
    prompt_steps: Quantity
    decode_only_steps: Quantity
    active: Count
    waiting: Count
    prompts: Count
    prompt_tokens: Count
    co_batched: Count
    arrival_steps: Count
    unseen_steps: Count
    first_token_steps: Count
    later_prompt_steps: Count
    later_decode_only_steps: Count
    peers: Quantity = 1.0

    @equation
    def period(self, with_prompts: Seconds, decode_only: Seconds) -> Seconds:
        """Return the time in which `rate` requests end. with_prompts, decode_only: of a step of each kind [s].

        period = prompt_steps * with_prompts + decode_only_steps * decode_only
        """
        return self.prompt_steps * with_prompts + self.decode_only_steps * decode_only

    @equation
    def throughput(self, with_prompts: Seconds, decode_only: Seconds) -> Quantity:
        """Return the requests that end per second.

        throughput = rate / period
        """
        period = self.period(with_prompts, decode_only)
        return self.rate / period

    @equation
    def until_first(self, with_prompts: Seconds, decode_only: Seconds) -> Seconds:
        """Return the time to first token: waiting requests over their rate [Little, 1961], then the request's steps.

        until_first = waited + arriving + first_token_steps * with_prompts
        arriving = arrival_steps * step + unseen_steps * decode_only
        waited = waiting / throughput
        """
        throughput, step = self.throughput(with_prompts, decode_only), self.step(with_prompts, decode_only)
        arriving = self.arrival_steps * step + self.unseen_steps * decode_only
        waited = self.waiting / throughput
        return waited + arriving + self.first_token_steps * with_prompts

    @equation
    def step(self, with_prompts: Seconds, decode_only: Seconds) -> Seconds:
        """Return the mean time of a step.

        step = period / (prompt_steps + decode_only_steps)
        mean = period / (prompt_steps + decode_only_steps)
        """
        period = self.period(with_prompts, decode_only)
        return period / (self.prompt_steps + self.decode_only_steps)

    @equation
    def after_first(self, with_prompts: Seconds, decode_only: Seconds) -> Seconds:
        """Return the time from the first to the last token.

        later = later_prompt_steps * with_prompts + later_decode_only_steps * decode_only
        """
        return self.later_prompt_steps * with_prompts + self.later_decode_only_steps * decode_only


def budgeted(
    concurrency: Count,
    demand: Demand,
    budget: Count,
    decode_tokens: Count = 1.0,
    arrival: Arrival = AT_ONCE,
    *,
    whole: bool = False,
) -> SteadyState:
    """Return the steady state where prompts share a step's `budget` of tokens with the requests that decode.

    These come first [vLLM, Scheduler.schedule], each with `decode_tokens` tokens. A prompt's chunk is what they leave:

        x = min(N/(w + r + n), B/(c + n*d))   requests per step: all in flight are served, or all steps are full
        C = B - x*n*d                         tokens of a chunk; r = max(c/C, 1)
          = c*floor(C/c) where C >= c         of `whole` prompts, which are not cut where one fits

    with the names of `chunked`, and d tokens of a decoding request. C and r depend on each other through x: iterated
    from r = 1, which converges at once where steps are not full or a prompt fits into one chunk.
    """
    computed, steps = demand.computed, demand.steps
    most = budget / (computed + steps * decode_tokens)
    residence: Quantity = 1.0
    chunk = budget
    for _ in range(_CHUNK_ITERATIONS):
        rate = minimum(concurrency / (arrival.steps + arrival.unseen + residence + steps), most)
        chunk = maximum(budget - rate * steps * decode_tokens, rate * computed)
        if whole:
            chunk = where(chunk >= computed, computed * floor(chunk / computed + _ROUNDING), chunk)
        residence = maximum(computed / chunk, 1.0)
    return chunked(concurrency, demand, chunk, arrival)


def chunked(concurrency: Count, demand: Demand, chunk: Count, arrival: Arrival = AT_ONCE) -> SteadyState:
    """Return the steady state where each step decodes, with up to `chunk` tokens of prompts if there are any.

    With N requests in flight, c computed tokens per prompt, n decoding steps per request, w steps between a request's
    arrival and the step that takes it (`Arrival`, all kinds), k between two looks for requests, and chunks of C tokens:

        r = max(c/C, 1)                       steps that a prompt takes
        x = min(N/(w + r + n), C/c)           requests per step: all in flight are served, or all chunks are full
        t = min(C, c*g)                       tokens of a chunk, g of k*x (`Arrival.together`)
        f = x*c/t                             share of steps with a chunk: prompt tokens are conserved
        q = x*r/f                             prompts in such a step, each with t/q tokens
        A = x*(r + n)                         active requests; x*w arrive, the others wait
        A - q, A                              requests decoded by a step with and without a chunk; their mean is x*n
        f*(A - q)/x, (1 - f)*A/x              steps of either kind from a request's first to its last token

    Of R ranks that step together 1 - (1 - f)^R of the steps have a chunk: those in which any of them has one.
    """
    computed, steps = demand.computed, demand.steps
    residence = maximum(computed / chunk, 1.0)
    rate = minimum(concurrency / (arrival.steps + arrival.unseen + residence + steps), chunk / computed)
    tokens = minimum(chunk, computed * arrival.together(rate * arrival.looks, concurrency))
    # Rounding may leave the share just above one, and the active requests just above those in flight.
    own = minimum(rate * computed / tokens, 1.0)
    share = 1.0 - (1.0 - own) * (1.0 - arrival.filled * own) ** (arrival.ranks - 1.0)
    prompts = rate * residence / own
    active = minimum(rate * (residence + steps), concurrency)
    co_batched = maximum(active - prompts, 0.0)
    return SteadyState(
        rate=rate,
        prompt_steps=share,
        decode_only_steps=1.0 - share,
        active=active,
        waiting=maximum(concurrency - active - rate * (arrival.steps + arrival.unseen), 0.0),
        prompts=prompts,
        prompt_tokens=tokens / prompts,
        co_batched=co_batched,
        arrival_steps=arrival.steps,
        unseen_steps=arrival.unseen,
        first_token_steps=residence,
        later_prompt_steps=maximum(share * active / rate - residence, 0.0),
        later_decode_only_steps=(1.0 - share) * active / rate,
        peers=own / share * (1.0 + (arrival.ranks - 1.0) * arrival.filled) / arrival.ranks,
    )


def separate(
    concurrency: Count, demand: Demand, budget: Count | None = None, arrival: Arrival = AT_ONCE
) -> SteadyState:
    """Return the steady state where new prompts run in steps of their own, before decoding goes on.

    Of N requests that need n decoding steps each, x = N/n end in a decoding step. Successors of those that end in the k
    steps between two looks for requests are prefilled in one step where they fit into its budget of B tokens, null: any
    number of whole prompts fits:

        r = max(c/B, 1)                       steps that a prompt takes
        q = min(g, max(B/c, 1))               prompts in such a step, each with c/r tokens; g of k*x
        p = x*r/q                             such steps per decoding step: prompt tokens are conserved

    A request takes part in its own prefill and n decoding steps, and waits for the prefills of others between them: p*n
    less its own r. One that arrives waits w steps of either kind, after u that only decode until the engine looks:
    x = N/(n + u + w/(1 + p)), iterated from p = 0.
    """
    computed, steps = demand.computed, demand.steps
    residence: Quantity = 1.0 if budget is None else maximum(computed / budget, 1.0)
    most: Count = inf if budget is None else maximum(budget / computed, 1.0)
    prompt_steps: Quantity = 0.0
    for _ in range(_CHUNK_ITERATIONS):
        rate = concurrency / (steps + arrival.unseen + arrival.steps / (1.0 + prompt_steps))
        prompts = minimum(arrival.together(rate * arrival.looks, concurrency), most)
        prompt_steps = rate * residence / prompts
    return SteadyState(
        rate=rate,
        prompt_steps=prompt_steps,
        decode_only_steps=1.0,
        active=rate * steps,
        waiting=0.0,
        prompts=prompts,
        prompt_tokens=computed / residence,
        co_batched=0.0,
        arrival_steps=where(
            arrival.steps > 0, (concurrency / rate - steps - arrival.unseen) * (1.0 + prompt_steps), 0.0
        ),
        unseen_steps=arrival.unseen,
        first_token_steps=residence,
        later_prompt_steps=maximum(steps * prompt_steps - residence, 0.0),
        later_decode_only_steps=steps,
    )
