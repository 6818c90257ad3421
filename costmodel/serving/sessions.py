"""Sessions drawn at random: requests that follow each other, share what came before, and start sub-agents.

Requests are rows in order: a session's turns, each with the turns of the agents that it starts behind it. Every row but
the first of a session is called by those before it, when the last of these has ended and a gap is over.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from costmodel.quantities import Array
from costmodel.serving.state import NEXT, Calls, Paths
from costmodel.workload.requests import Gaps, Lengths, Sessions


class Turns(NamedTuple):
    """The requests of sessions. A chain is a session's own requests, or those of one of its agents.

    session: of each row.
    chain: of each row; those of sessions come first, numbered as these.
    turn: of each row in its chain.
    starter: of each chain the row after whose answer it starts, -1: none
    """

    session: Ints
    chain: Ints
    turn: Ints
    starter: Ints

    @property
    def is_own(self) -> npt.NDArray[np.bool_]:
        """Tell of each row whether it is a session's own."""
        own: npt.NDArray[np.bool_] = self.starter[self.chain] < 0
        return own

    @property
    def last(self) -> npt.NDArray[np.bool_]:
        """Tell of each row whether it is the last one of its chain that the run has."""
        ends = np.zeros(len(self.starter), np.int64)
        np.maximum.at(ends, self.chain, self.turn)
        last: npt.NDArray[np.bool_] = self.turn == ends[self.chain]
        return last


def draw_turns(sessions: Sessions, count: int, draw: np.random.Generator) -> Turns:
    """Return the turns of sessions and agents, `count` rows in all. The last session is cut off there."""
    number = np.zeros(0, np.int64)
    while number.sum() < count:
        number = np.concatenate([number, np.minimum(draw_lengths(sessions.turns, count, draw), count)])
        number = number[: int(np.searchsorted(np.cumsum(number), count)) + 1]
    session, turn = np.repeat(np.arange(len(number)), number), _counted(number)
    row, starts = np.arange(len(session)), np.zeros(0, np.int64)
    own_number = starts
    if sessions.agents is not None:
        agents = sessions.agents
        begins = (draw.random(len(row)) < float(agents.share)) & (turn < number[session] - 1)
        starts = np.repeat(row[begins], _up_to(count, draw_lengths(agents.count, int(begins.sum()), draw)))
        own_number = _up_to(count, draw_lengths(agents.turns, len(starts), draw))
    agent = np.repeat(np.arange(len(starts)), own_number)
    of_agents = starts[agent]
    chain = np.concatenate([session, len(number) + agent])
    order = np.lexsort((np.concatenate([turn, _counted(own_number)]), chain, np.concatenate([row, of_agents])))[:count]
    position = np.full(len(chain), -1)
    position[order] = np.arange(len(order))
    return Turns(
        np.concatenate([session, session[of_agents]])[order], chain[order],
        np.concatenate([turn, _counted(own_number)])[order],
        np.concatenate([np.full(len(number), -1), position[starts]]),
    )  # fmt: skip


def _up_to(count: int, number: Ints) -> Ints:
    """Return numbers as far as their sum is less than `count`, and 0 behind: those rows are cut off."""
    return np.where(np.cumsum(number) - number < count, np.minimum(number, count), 0)


def _counted(number: Ints) -> Ints:
    """Return 0, 1, … up to each number less one, one after the other."""
    return np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)


def prompts(turns: Turns, new: Ints, output: Ints, shared: int, *, forks: bool) -> Ints:
    """Return the prompts of each row: what is new in them, with all that came before.

    p_j = p_(j-1) + o_(j-1) + u_j, from the `shared` prompt on, or for agents that fork from p + o of what starts them
    """
    order = np.argsort(turns.chain, kind="stable")  # rows of a chain one after the other
    grown = np.cumsum((new + output)[order])
    begins = turns.turn[order] == 0
    before = np.empty(len(order), np.int64)
    before[order] = (
        grown
        - (new + output)[order]
        - np.repeat((grown - (new + output)[order])[begins], np.diff(np.append(np.flatnonzero(begins), len(order))))
    )
    prompt: Ints = shared + before + new
    starter = turns.starter[turns.chain]
    if forks:
        forked = starter >= 0
        prompt[forked] += (prompt + output)[starter[forked]] - shared
    return prompt


def calls_of(turns: Turns, gaps: Array, *, recycled: bool) -> Calls:
    """Return who calls whom: each row the next one of its chain, or the agents that it starts, whose last rows call it.

    recycled: the last row of a session calls the next session.
    """
    count, last, row = len(turns.chain), turns.last, np.arange(len(turns.chain))
    following = np.full(count, -1)
    order = np.argsort(turns.chain, kind="stable")
    following[order[:-1]] = np.where(last[order[:-1]], -1, order[1:])
    first = turns.turn == 0
    starter = turns.starter[turns.chain]
    starting = np.zeros(count, bool)
    starting[starter[first & (starter >= 0)]] = True
    # The session's next request, where this row is the last one of an agent.
    back = np.where(last & (starter >= 0), following[starter], -1)
    started = row[first & (starter >= 0)]
    simple = row[(following >= 0) & ~starting]
    returns = row[back >= 0]
    caller = [starter[started], simple, returns]
    called = [started, following[simple], back[returns]]
    delay = [np.zeros(len(started)), gaps[simple], gaps[returns]]
    if recycled:
        ends = row[last & turns.is_own]
        caller, called, delay = [*caller, ends], [*called, np.full(len(ends), NEXT)], [*delay, np.zeros(len(ends))]
    return Calls.of(count, np.concatenate(caller), np.concatenate(called), np.concatenate(delay))


def paths_of(turns: Turns, end: Ints, shared: int, group: Ints, groups: int, *, forks: bool) -> Paths:
    """Return the runs of each row: the shared prompt of its session's group, then those of its chain up to its answer.

    A session's own run is cut where agents fork from it.

    end: full blocks of each row's prompt and answer; shared: those of a shared prompt
    """
    count, chains = len(end), len(turns.starter)
    cuts = np.zeros(count, bool)  # rows at whose end a run of the session ends
    starter = turns.starter[turns.chain]
    if forks:
        cuts[starter[starter >= 0]] = True
    # Runs of a session: one up to each cut, and one for what follows the last one.
    parts = np.zeros(chains, np.int64)
    np.add.at(parts, turns.chain[cuts], 1)
    begin = groups + np.cumsum(parts + 1) - (parts + 1)  # of each chain's runs
    order = np.argsort(turns.chain, kind="stable")
    within = np.empty(count, np.int64)
    before = np.cumsum(cuts[order]) - cuts[order]
    opens = turns.turn[order] == 0
    within[order] = before - np.repeat(before[opens], np.diff(np.append(np.flatnonzero(opens), count)))
    own = begin[turns.chain] + within  # the last run of each row's path
    sizes = np.zeros(groups + int((parts + 1).sum()), np.int64)
    sizes[:groups] = shared
    ends = np.zeros(len(sizes), np.int64)  # blocks from the root to the end of each run
    np.maximum.at(ends, own, end)
    start = np.full(len(sizes), shared)
    start[own] = np.where(within > 0, ends[own - 1], start[own])
    if forks:
        forked = starter >= 0
        start[own[forked]] = end[starter[forked]]
    sizes[groups:] = np.maximum(ends - start, 0)[groups:]
    first, runs = _joined(turns, group, begin, within, forks=forks)
    return Paths(first, runs.astype(np.int32), end.astype(np.int32), sizes.astype(np.int32))


def _joined(turns: Turns, group: Ints, begin: Ints, within: Ints, *, forks: bool) -> tuple[Ints, Ints]:
    """Return the runs of rows: the shared one, those of the session up to a fork, and those of the chain.

    begin: first run of each chain; within: of the chain's runs those before each row's last one.
    """
    starter = turns.starter[turns.chain]
    forked = (starter >= 0) & forks
    origin = np.where(forked, starter, 0)
    inherited = np.where(forked, within[origin] + 1, 0)
    number = 1 + inherited + within + 1
    first = np.concatenate([[0], np.cumsum(number)])
    ordinal = _counted(number)
    of = np.repeat(np.arange(len(number)), number)
    runs = np.where(
        ordinal == 0, group[turns.session][of],
        np.where(
            ordinal <= inherited[of], begin[turns.chain[origin]][of] + ordinal - 1,
            begin[turns.chain][of] + ordinal - 1 - inherited[of],
        ),
    )  # fmt: skip
    return first, runs


Ints = npt.NDArray[np.int64]


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


def draw_gaps(gaps: Gaps, count: int, draw: np.random.Generator) -> Array:
    """Return times between an answer and what follows it [s]."""
    mean, deviation = float(gaps.mean), float(gaps.deviation)
    if mean == 0.0 or gaps.distribution == "constant":
        return np.full(count, mean)
    if gaps.distribution == "exponential":
        return draw.exponential(mean, count)
    variance = np.log1p((deviation / mean) ** 2)
    return draw.lognormal(np.log(mean) - variance / 2.0, np.sqrt(variance), count)
