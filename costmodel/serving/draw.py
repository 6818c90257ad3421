"""Requests drawn at random: arrivals, lengths, shared beginnings, conversations."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import numpy.typing as npt

from costmodel.quantities import Array
from costmodel.serving.sessions import Ints, calls_of, draw_gaps, draw_lengths, draw_turns, paths_of, prompts
from costmodel.serving.sharegpt import read_pairs
from costmodel.serving.state import NEXT, Calls, Paths, Requests
from costmodel.serving.traces import read_rows
from costmodel.workload.plans import Serving
from costmodel.workload.requests import Lengths, Priorities, RequestStream, Sessions, SharedPrefix

COUNT = 10_000  # requests where none are stated


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
        parts = (np.random.default_rng([seed, part]) for part in (0, 1, 2, 3, 5, 7))
        self._times, self._prompts, self._outputs, self._prefixes, self._priorities, self._kinds = parts
        others = range(1, len(stream.classes))  # the first one has the draws of all requests
        self._of_classes = [(self._prompts, self._outputs)]
        new = np.random.default_rng
        self._of_classes += [(new([seed, 8, each, 0]), new([seed, 8, each, 1])) for each in others]
        self.left = int(COUNT if stream.count is None else stream.count)
        self._pairs = None if stream.pairs is None else file_lengths(Path(stream.pairs), stream.tokenizer)
        self._drawn, self._last = 0, 0.0

    def draw(self, count: int) -> Requests:
        """Return the next `count` requests, fewer where fewer are left."""
        plan, stream, block = self._plan, self._stream, self._block
        count = min(count, self.left)
        if stream.sessions is not None:
            return self._sessions(stream.sessions, count)
        kind = self._kinds.choice(
            max(len(stream.classes), 1), count, p=[float(each.share) for each in stream.classes] or None
        )
        prompt, output = self._lengths(count)
        for number, each in enumerate(stream.classes):
            own = kind == number
            assert each.input is not None, "a scenario completes its classes"
            assert each.output is not None, "a scenario completes its classes"
            prompts, outputs = self._of_classes[number]
            prompt[own] = draw_lengths(each.input, int(own.sum()), prompts)
            output[own] = draw_lengths(each.output, int(own.sum()), outputs)
        arrival = self._arrivals(count)
        calls, paths = Calls.none(count), Paths.none(count)
        if stream.arrivals == "closed_loop":
            calls = Calls.of(count, np.arange(count), np.full(count, NEXT), np.zeros(count))
        if stream.prefix is not None:
            prompt, paths = share_beginnings(prompt, stream.prefix, block, self._prefixes)
        elif float(plan.prefix_hit_rate) > 0:
            paths = repeated_share(prompt, float(plan.prefix_hit_rate), block)
        priority = draw_priorities(stream.priority, count, self._priorities)
        self.left, self._drawn = self.left - count, self._drawn + count
        return Requests(arrival, np.stack([prompt, output], axis=1), calls, paths, priority, kind=kind)

    def _sessions(self, sessions: Sessions, count: int) -> Requests:
        """Return the requests of sessions, each session's one after the other.

        Sessions begin as arrivals say, as many as bring the rate of requests. In a closed loop as many as it has users
        are under way, each of which that ends is replaced by the next one.
        """
        stream, block, agents = self._stream, self._block, sessions.agents
        turns = draw_turns(sessions, count, self._times)
        new, output = self._lengths(count)
        own, first = turns.is_own, turns.turn == 0
        if sessions.first is not None:
            new[own & first] = draw_lengths(sessions.first, int((own & first).sum()), self._prompts)
        if agents is not None and agents.input is not None:
            new[~own] = draw_lengths(agents.input, int((~own).sum()), self._prompts)
        if agents is not None and agents.output is not None:
            output[~own] = draw_lengths(agents.output, int((~own).sum()), self._outputs)
        forks = agents is not None and agents.context == "fork"
        shared, groups = (0, 1) if stream.prefix is None else (int(stream.prefix.tokens), int(stream.prefix.groups))
        number = int(turns.session[-1]) + 1
        group = np.zeros(number, np.int64) if stream.prefix is None else draw_groups(
            stream.prefix, number, self._prefixes
        )  # fmt: skip
        prompt = prompts(turns, new, output, shared, forks=forks)
        arrival = np.full(count, np.inf)
        arrival[own & first] = self._arrivals(number, sessions)
        gaps = draw_gaps(sessions.think_time, count, self._times)
        calls = calls_of(turns, gaps, recycled=stream.arrivals == "closed_loop")
        paths = paths_of(turns, (prompt + output) // block, shared // block, group, groups, forks=forks)
        priority = draw_priorities(stream.priority, number, self._priorities)
        self.left = 0
        return Requests(
            arrival, np.stack([prompt, output], axis=1), calls, paths, priority[turns.session] if len(priority) else
            priority,
        )  # fmt: skip

    def _lengths(self, count: int) -> tuple[Ints, Ints]:
        plan, stream = self._plan, self._stream
        if self._pairs is not None:
            chosen = self._prompts.integers(0, len(self._pairs[0]), count)
            return self._pairs[0][chosen], self._pairs[1][chosen]
        if stream.classes:  # which have their own
            return np.zeros(count, np.int64), np.zeros(count, np.int64)
        prompt = draw_lengths(stream.input or Lengths(mean=plan.input_tokens), count, self._prompts)
        return prompt, draw_lengths(stream.output or Lengths(mean=plan.output_tokens), count, self._outputs)

    def _arrivals(self, count: int, sessions: Sessions | None = None) -> Array:
        """Return the arrivals of the next requests or sessions, ascending [s].

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
        gap = (1.0 if sessions is None else float(sessions.size)) / float(rate)
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


def draw_priorities(priorities: Priorities | None, count: int, draw: np.random.Generator) -> npt.NDArray[np.int32]:
    """Return a priority of each request, none where they have none."""
    if priorities is None:
        return np.zeros(0, np.int32)
    weights = np.array(priorities.weights or np.ones(len(priorities.values)))
    return draw.choice(np.array(priorities.values, np.int32), count, p=weights / weights.sum())


def share_beginnings(prompt: Ints, prefix: SharedPrefix, block: int, draw: np.random.Generator) -> tuple[Ints, Paths]:
    """Return prompts with their shared beginning in front, and their paths: the whole beginning is a run."""
    count, groups, shared = len(prompt), int(prefix.groups), int(prefix.tokens) // block
    group = draw_groups(prefix, count, draw).astype(np.int32)
    paths = Paths(np.arange(count + 1), group, np.full(count, shared, np.int32), np.full(groups, shared, np.int32))
    return prompt + int(prefix.tokens), paths


def draw_groups(prefix: SharedPrefix, count: int, draw: np.random.Generator) -> Ints:
    """Return which beginning each has: of `groups`, the k-th as often as k^-exponent says."""
    groups = int(prefix.groups)
    popularity = np.arange(1.0, groups + 1) ** -float(prefix.exponent)
    chosen: Ints = draw.choice(groups, count, p=popularity / popularity.sum())
    return chosen


def repeated_share(prompt: Ints, share: float, block: int) -> Paths:
    """Return paths of which a `share` of every prompt is one text that all prompts begin with: one run."""
    shared, count = np.floor(share * prompt / block).astype(np.int32), len(prompt)
    return Paths(np.arange(count + 1), np.zeros(count, np.int32), shared, shared.max(keepdims=True, initial=0))


def in_order_of_arrival(requests: Requests) -> Requests:
    """Return the requests sorted by arrival. Those that others call come last, in their order."""
    order = np.lexsort((requests.calls.callers > 0, requests.arrival))
    if np.array_equal(order, np.arange(len(order))):
        return requests
    return Requests(
        requests.arrival[order], requests.length[order], requests.calls.renamed(order), requests.paths.of(order),
        requests.priority[order] if len(requests.priority) else requests.priority,
        np.broadcast_to(requests.earliest, len(order))[order], np.broadcast_to(requests.kind, len(order))[order],
    )  # fmt: skip
