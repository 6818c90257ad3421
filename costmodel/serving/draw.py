"""Requests drawn at random: arrivals, lengths, shared beginnings, conversations."""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.quantities import Array
from costmodel.serving.sharegpt import read_pairs
from costmodel.serving.state import NEXT, NOBODY, PROMPT, Requests
from costmodel.serving.traces import read_rows
from costmodel.workload.plans import Serving
from costmodel.workload.requests import Lengths, Priorities, RequestStream, Sessions, SharedPrefix

COUNT = 10_000  # requests where none are stated

Ints = npt.NDArray[np.int64]


def comes_in_parts(stream: RequestStream) -> bool:
    """Tell whether requests can be drawn some at a time: none of them depends on others, or on another's end."""
    return stream.trace is None and stream.sessions is None and stream.arrivals not in ("closed_loop", "burst")


class RequestDraw:
    """Requests drawn with a seed. The same seed gives the same requests, whatever the engines, all at once or in parts.

    block: tokens of a block of the prefix cache.
    groups: data-parallel replicas, each of which has `concurrency` requests in flight in a closed loop.
    left: requests that are not drawn yet.
    """

    def __init__(self, plan: Serving, stream: RequestStream, block: int, seed: int, groups: int = 1) -> None:
        self._plan, self._stream, self._block, self._groups = plan, stream, block, groups
        # One generator each, so that a change of one leaves the draws of the others.
        parts = (np.random.default_rng([seed, part]) for part in (0, 1, 2, 3, 5))
        self._times, self._prompts, self._outputs, self._prefixes, self._priorities = parts
        self.left = int(COUNT if stream.count is None else stream.count)
        self._pairs = None if stream.pairs is None else file_lengths(Path(stream.pairs), stream.tokenizer)
        self._drawn, self._last = 0, 0.0

    def draw(self, count: int) -> Requests:
        """Return the next `count` requests, fewer where fewer are left."""
        plan, stream, block = self._plan, self._stream, self._block
        count = min(count, self.left)
        prompt, output = self._lengths(count)
        arrival = self._arrivals(count)
        called = NEXT if stream.arrivals == "closed_loop" else NOBODY
        calls, pause = np.broadcast_to(called, count), np.broadcast_to(0.0, count)
        first_id, ids = np.broadcast_to(0, count + 1), np.zeros(0, np.int32)
        if stream.prefix is not None:
            prompt, first_id, ids = share_beginnings(prompt, stream.prefix, block, self._prefixes)
        elif stream.sessions is None and float(plan.prefix_hit_rate) > 0:
            first_id, ids = repeated_share(prompt, float(plan.prefix_hit_rate), block)
        priority = draw_priorities(stream.priority, count, self._priorities)
        requests = Requests(arrival, np.stack([prompt, output], axis=1), calls, pause, first_id, ids, priority)
        self.left, self._drawn = self.left - count, self._drawn + count
        if stream.sessions is None:
            return requests
        shared = 0 if stream.prefix is None else int(stream.prefix.tokens)
        return chain_turns(requests, stream.sessions, block, self._times, shared)

    def _lengths(self, count: int) -> tuple[Ints, Ints]:
        """Return the prompts and outputs of the next requests."""
        plan, stream = self._plan, self._stream
        if self._pairs is not None:
            chosen = self._prompts.integers(0, len(self._pairs[0]), count)
            return self._pairs[0][chosen], self._pairs[1][chosen]
        prompt = draw_lengths(stream.input or Lengths(mean=plan.input_tokens), count, self._prompts)
        return prompt, draw_lengths(stream.output or Lengths(mean=plan.output_tokens), count, self._outputs)

    def _arrivals(self, count: int) -> Array:
        """Return the arrivals of the next requests, ascending [s].

        Gaps are exponential, of a gamma distribution with shape 1/cv^2, equal, or none.

        In a closed loop its users, `concurrency` for each of `groups`, arrive at the start. The others are called.
        """
        plan, stream, times = self._plan, self._stream, self._times
        if stream.arrivals == "burst":
            return np.zeros(count)
        if stream.arrivals == "closed_loop":
            assert plan.concurrency is not None, "the caller has checked it"
            users = min(int(plan.concurrency) * self._groups, count)
            return np.concatenate([np.zeros(users), np.full(count - users, np.inf)])
        rate = stream.rate if stream.rate is not None else plan.rate
        assert rate is not None, "the caller has checked the rate"
        gap = 1.0 / float(rate)
        if stream.arrivals == "even":
            return gap * np.arange(self._drawn, self._drawn + count, dtype=np.float64)
        shape = 1.0 / float(stream.cv) ** 2 if stream.arrivals == "gamma" else 1.0
        gaps = times.gamma(shape, gap / shape, count) if stream.arrivals == "gamma" else times.exponential(gap, count)
        gaps[:1] += self._last
        arrivals: Array = np.cumsum(gaps)
        self._last = float(arrivals[-1])
        return arrivals


def file_lengths(path: Path, tokenizer: str | None) -> tuple[Ints, Ints]:
    """Return the lengths of a file's prompts and outputs."""
    if tokenizer is not None:
        return read_pairs(path, Path(tokenizer))
    prompt, output = array("q"), array("q")
    for row in read_rows(path):
        prompt.append(row.prompt)
        output.append(row.output)
    return np.asarray(prompt), np.asarray(output)


def draw_lengths(lengths: Lengths, count: int, draw: np.random.Generator) -> Ints:
    """Return whole lengths, at least one token. Those outside `low` to `high` are moved to the nearer end.

    A lognormal length of mean m, deviation s: exp(N(mu, sigma)), sigma^2 = ln(1 + s^2/m^2), mu = ln(m) - sigma^2/2.
    """
    mean, deviation = float(lengths.mean), float(lengths.deviation)
    high = math.inf if lengths.high is None else float(lengths.high)
    if lengths.distribution == "values":
        weights = np.array(lengths.weights or np.ones(len(lengths.values)))
        return draw.choice(np.array(lengths.values), count, p=weights / weights.sum()).astype(np.int64)
    if lengths.distribution == "uniform":
        drawn: Any = draw.integers(int(lengths.low), int(high), count, endpoint=True).astype(np.float64)
    elif lengths.distribution == "exponential":
        drawn = draw.exponential(mean, count)
    elif lengths.distribution == "normal":
        drawn = draw.normal(mean, deviation, count)
    elif lengths.distribution == "lognormal":
        variance = math.log1p((deviation / mean) ** 2)
        drawn = draw.lognormal(math.log(mean) - variance / 2.0, math.sqrt(variance), count)
    else:
        drawn = np.full(count, mean)
    whole: Ints = np.clip(np.rint(drawn), max(float(lengths.low), 1.0), high).astype(np.int64)
    return whole


def draw_priorities(priorities: Priorities | None, count: int, draw: np.random.Generator) -> npt.NDArray[np.int32]:
    """Return a priority of each request, none where they have none."""
    if priorities is None:
        return np.zeros(0, np.int32)
    weights = np.array(priorities.weights or np.ones(len(priorities.values)))
    return draw.choice(np.array(priorities.values, np.int32), count, p=weights / weights.sum())


def share_beginnings(
    prompt: Ints, prefix: SharedPrefix, block: int, draw: np.random.Generator
) -> tuple[Ints, Ints, npt.NDArray[np.int32]]:
    """Return prompts with their shared beginning in front, and their blocks: those of the whole beginning."""
    groups, shared = int(prefix.groups), int(prefix.tokens) // block
    popularity = np.arange(1.0, groups + 1) ** -float(prefix.exponent)
    group = draw.choice(groups, len(prompt), p=popularity / popularity.sum())
    ids = (group[:, None] * shared + np.arange(shared)).reshape(-1)
    first_id = np.arange(len(prompt) + 1, dtype=np.int64) * shared
    return prompt + int(prefix.tokens), first_id, ids.astype(np.int32)


def repeated_share(prompt: Ints, share: float, block: int) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Return blocks of which a `share` of every prompt is one text that all prompts begin with."""
    shared = np.floor(share * prompt / block).astype(np.int64)
    first_id = np.concatenate([[0], np.cumsum(shared)])
    ids = np.arange(first_id[-1]) - np.repeat(first_id[:-1], shared)
    return first_id, ids.astype(np.int32)


def chain_turns(requests: Requests, sessions: Sessions, block: int, draw: np.random.Generator, shared: int) -> Requests:
    """Return the requests as conversations: request i*turns + j is turn j of conversation i.

    A drawn prompt is what the user adds: before it stand the earlier prompts and answers, and at the start of the
    conversation the `shared` tokens of its first request's beginning. Conversations begin as the requests would have
    arrived, at `turns` times the interval: the rate of requests stays. In a closed loop each user begins one, and
    the next one when it is over.
    """
    turns, count = int(sessions.turns), len(requests.arrival)
    turn = np.arange(count) % turns
    first = np.arange(count) - turn
    length = requests.length.copy()
    length[turn > 0, PROMPT] -= shared
    added = length.sum(axis=1)
    before = np.cumsum(added) - added
    length[:, PROMPT] += before - before[first]
    users = int(np.isfinite(requests.arrival).sum()) if requests.calls[0] == NEXT else 0
    arrival = np.where(turn == 0, requests.arrival[first // turns if users else first], np.inf)
    following = np.arange(count) + 1
    following[turn == turns - 1] += turns * (users - 1) if users else count
    calls = np.where(following < count, following, NOBODY)
    pause = draw.exponential(float(sessions.think_time), count) if float(sessions.think_time) > 0 else np.zeros(count)
    first_id, ids = _session_blocks(requests, length.sum(axis=1) // block, first // turns)
    return Requests(arrival, length, calls, pause, first_id, ids, requests.priority)


def _session_blocks(requests: Requests, blocks: Ints, session: Ints) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Return the blocks of each turn, answer included: those of its conversation from the first on.

    These are the shared beginning of the conversation's first request, then its own.
    """
    most = np.zeros(int(session[-1]) + 1, np.int64)
    np.maximum.at(most, session, blocks)
    own = np.cumsum(most) - most + (requests.ids.max() + 1 if len(requests.ids) else 0)
    first_id = np.concatenate([[0], np.cumsum(blocks)])
    position = np.arange(first_id[-1]) - np.repeat(first_id[:-1], blocks)
    ids: Any = position + np.repeat(own[session], blocks)
    opening = np.searchsorted(session, session)  # the first request of each one's conversation
    known = position < requests.first_id[1]  # blocks of a beginning, as many in every request
    ids[known] = requests.ids[(position + np.repeat(requests.first_id[opening], blocks))[known]]
    return first_id, ids.astype(np.int32)


def in_order_of_arrival(requests: Requests) -> Requests:
    """Return the requests sorted by arrival, called ones last in their order, each with its own blocks."""
    order = np.argsort(requests.arrival, kind="stable")
    if np.array_equal(order, np.arange(len(order))):
        return requests
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    calls = requests.calls[order]
    number = np.diff(requests.first_id)[order]
    first_id = np.concatenate([[0], np.cumsum(number)])
    source = np.repeat(requests.first_id[:-1][order] - first_id[:-1], number) + np.arange(first_id[-1])
    return Requests(
        requests.arrival[order],
        requests.length[order],
        np.where(calls >= 0, position[np.maximum(calls, 0)], calls),
        requests.pause[order],
        first_id,
        requests.ids[source],
        requests.priority[order] if len(requests.priority) else requests.priority,
    )
