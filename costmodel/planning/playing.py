"""Plays a deployment request by request until the fewest replicas that hold are known, and one fewer that fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from costmodel.analytic.intervals import NORMAL_90
from costmodel.cost.calibration import Calibration
from costmodel.errors import InfeasibleError, InputError, Notice
from costmodel.planning.request import USUAL, Limit, PlanRequest
from costmodel.planning.sizing import Engine, limits, with_replicas
from costmodel.records import Record, field, replace
from costmodel.result import Point
from costmodel.serving.bounds import slowest_alone
from costmodel.serving.compiled import has_numba
from costmodel.serving.distributions import Histogram, Sample
from costmodel.serving.draw import COUNT
from costmodel.serving.simulation import Simulation, stream_of, unsupported
from costmodel.serving.summary import Tally, verdict
from costmodel.units import render
from costmodel.workload.plans import Serving
from costmodel.workload.pools import Pools
from costmodel.workload.requests import RequestClass
from costmodel.workload.scenario import Scenario

LEAST = {True: COUNT, False: 1000}  # requests that are drawn: as many as `simulate` does where they are compiled
_LIVES = {True: 30.0, False: 4.0}  # of a request in which others come
_OF_USERS = {True: 200.0, False: 4.0}  # answers of each user: those with which all begin are below the slowest 1 %
TOO_MANY = "more engines than are simulated at once"
_MOST_OF_ALL = 1e6  # requests
STATISTICS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_DEVIATIONS = (0.0, 0.5 * NORMAL_90, NORMAL_90, 3.0)  # standard deviations of step times at which requests are played
REALISATIONS = {True: 5, False: 3}  # of what is drawn, or of a trace, in which a size holds, compiled or not
_TIMES = {"ttft": "ttft", "tpot": "tpot", "latency": "e2e"}  # as they are named -> fields of `RequestTimes`
_LEAP = 4  # times as many more replicas, where more hardly helped
_LEAST = 1e-9  # ratio of a time to its limit


class Played(Record):
    """What became of the requests of a deployment.

    times: (name, statistic) -> seconds, of the limits, every mean and every 99th percentile.
    limits: by the names of times, `CLASS ttft` of what a class of requests asks for itself.
    ratio: the largest of times over their limits, below 1 where all hold; binds: which.
    rates: tokens of prompts, of those cached, and of answers a second in all replicas; per_second: their requests.
    """

    replicas: int
    seed: int
    requests: int
    times: dict[tuple[str, str], float]
    ratio: float
    binds: str
    keeps_up: bool
    rates: dict[str, float]
    per_second: float = 0.0
    limits: Mapping[str, Limit] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Tell whether requests keep to all limits, and the queue does not grow."""
        return self.keeps_up and self.ratio <= 1.0


class Player(Record):
    """Plays one engine at numbers of replicas, each run as `costmodel simulate --engine event` does it.

    seed: of what is drawn; a trace's lengths are dealt out with it among its arrivals, but for seed 0.
    known: what was played, by replicas and factor on step times.
    """

    engine: Engine
    request: PlanRequest
    seed: int = 0
    known: dict[tuple[int, float], Played] = field(default_factory=dict)
    simulations: list[Simulation] = field(default_factory=list)

    @property
    def realisations(self) -> list[Player]:
        """Return players of other realisations: none where nothing is drawn, as of users of equal requests."""
        is_drawn = self.request.users is None or self.request.trace is not None
        seeds = range(REALISATIONS[has_numba()]) if is_drawn else ()
        return [replace(self, seed=seed, known={}) for seed in seeds if seed != self.seed]

    def holds_in(self, others: Sequence[Player], replicas: int, slowdown: float) -> Player:
        """Return the first of this and other realisations in which so many replicas fail, this one where all hold."""
        return next((one for one in (self, *others) if not one.holds(replicas, slowdown)), self)

    @property
    def obstacle(self) -> str | None:
        """Return why the requests of this engine cannot be played, null where they can."""
        scenario = self.scenario(1)
        problem = unsupported(scenario, load_of(scenario))
        return None if problem is None else problem.problems[0].message

    def holds(self, replicas: int, slowdown: float = 1.0) -> bool:
        """Tell whether so many replicas hold."""
        return self.play(replicas, slowdown).holds

    def play(self, replicas: int, slowdown: float = 1.0) -> Played:
        """Return what becomes of the requests. slowdown: factor on step times."""
        at = replicas, slowdown
        if at not in self.known:
            self.known[at] = self._play(replicas, slowdown)
        return self.known[at]

    def may_help(self, fewer: int, more: int, slowdown: float) -> bool:
        """Tell whether first tokens may keep to their limit with still more replicas than those that were played."""
        return may_mend(self.request, self.play(fewer, slowdown), self.play(more, slowdown), fewer, more)

    @property
    def too_late(self) -> str | None:
        """Return that no number of replicas keeps the limit on first tokens, once one was played, null where it may."""
        limit, simulation = self.request.ttft, self.simulations[0]
        if limit is None or limit.statistic not in STATISTICS or simulation.streams:
            return None
        share, pace = 1.0 - STATISTICS[limit.statistic], float(np.max(self.engine.scenario.pace.first))
        least = pace * slowest_alone(simulation.requests, simulation.policy, simulation.times, share)
        if least <= limit.seconds:
            return None
        alone = render(float(f"{least:.3g}"), "duration")
        return f"a prompt of the slowest {share:.0%} takes {alone} by itself, on any number of replicas"

    def scenario(self, replicas: int) -> Scenario:
        """Return the scenario of so many replicas."""
        return with_replicas(self.engine, self.request, replicas)

    def _play(self, replicas: int, slowdown: float) -> Played:
        scenario = self.scenario(replicas)
        plan = load_of(scenario)
        stream = replace(stream_of(scenario, plan), ramp=ramp_of(self.engine, self.request))
        if self.request.trace is None:
            stream = replace(stream, count=drawn(self.engine, self.request))
        elif self.seed:
            stream = replace(stream, shuffle=self.seed)
        plan = replace(plan, requests=stream)
        seeded = replace(scenario, plan=plan, simulation=replace(scenario.simulation, seed=self.seed))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?!compiling)", Notice)  # how a run is done is no news, unless it waits
            try:
                served = self._simulation(seeded, plan).run(slowdown).done
            except InfeasibleError:
                return Played(replicas, self.seed, 0, {}, float("inf"), "memory", keeps_up=False, rates={})
            except InputError:
                if replicas <= self.engine.likely:
                    raise
                return Played(replicas, self.seed, 0, {}, float("inf"), TOO_MANY, keeps_up=False, rates={})
        tally = Tally.of(served, plan.slo, stream.classes)
        offered = self.request.rate or tally.arrival_rate
        return self._judged(replicas, tally, stream.classes, None if self.request.users else offered)

    def _simulation(self, scenario: Scenario, plan: Serving | Pools) -> Simulation:
        """Return the simulation of some requests, whose steps are timed once for all of them."""
        if self.simulations:
            return self.simulations[0].of(scenario, plan)
        self.simulations.append(Simulation(scenario, plan, self.calibration))
        return self.simulations[0]

    @property
    def calibration(self) -> Calibration:
        """Return the fits of its devices."""
        return self.engine.structure.workload.calibration(self.engine.scenario)

    def _judged(
        self, replicas: int, tally: Tally, classes: Sequence[RequestClass], offered: float | None
    ) -> Played:  # fmt: skip
        """Return what a run says.

        offered: requests that come [1/s], null in a closed loop: those that keep up are served at this rate, whatever
        the ends of a run of few take besides.
        """
        pace = {"ttft": float(np.max(self.engine.scenario.pace.first))}
        usual = ((name, of, tally, each) for name, of in _TIMES.items() for each in ("mean", "p99"))
        asked = {name: (of, own, limit) for name, of, own, limit in _limited(self.request, tally, classes)}
        own_ones = ((name, of, own, limit.statistic) for name, (of, own, limit) in asked.items())
        times = {
            (name, each): pace.get(of, 1.0) * _statistic(own.times[of], each)
            for name, of, own, each in (*usual, *own_ones) if own.times[of].count
        }  # fmt: skip
        ratio, binds = 0.0, "capacity"
        for name, (_, _, limit) in asked.items():
            beyond = times.get((name, limit.statistic), 0.0) / limit.seconds
            if beyond > ratio:
                ratio, binds = beyond, name.upper()
        state = "stable" if offered is None else verdict(tally)  # users wait for their answers: no queue grows
        keeps_up = state == "stable" or (state == "backlogged" and self.request.ttft is not None)
        per_second = tally.served / max(tally.duration, 1e-9)
        per_second = per_second if offered is None or not keeps_up else offered
        rates = {
            name: per_second * tally.sums[f"{name}_tokens"] / max(tally.served, 1)
            for name in ("input", "cached", "output")
        }
        binds = binds if keeps_up else "capacity"
        held = {name: limit for name, (_, _, limit) in asked.items()}
        return Played(replicas, self.seed, tally.served, times, ratio, binds, keeps_up, rates, per_second, held)


def _limited(
    request: PlanRequest, tally: Tally, classes: Sequence[RequestClass]
) -> Iterator[tuple[str, str, Tally, Limit]]:  # fmt: skip
    """Yield what is limited: a name, its field of `RequestTimes`, of which requests, the limit.

    Those of all requests together, and what each class asks for itself, at the statistic of the limit of all, else p99.
    """
    for name, limit in limits(request):
        yield name, name, tally, limit
    for each in classes:
        for of in _TIMES.values() if each.slo is not None else ():
            seconds, of_all = getattr(each.slo, of), getattr(request, of, None)
            if seconds is not None:
                own = Limit(float(seconds), USUAL if of_all is None else of_all.statistic)
                yield f"{each.name} {of}", of, tally.classes[each.name], own


def _statistic(sample: Sample | Histogram, name: str) -> float:
    return sample.mean if name == "mean" else float(sample.quantile(STATISTICS[name]))


class PoolsPlayer(Player, kw_only=True):
    """Plays two pools, of which `engine` and numbers of replicas are those that decode.

    both: their scenario, with any numbers of engines; instances: those that compute prompts; fits: of both.
    """

    both: Scenario
    instances: int
    fits: Calibration

    def scenario(self, replicas: int) -> Scenario:
        """Return the scenario of so many engines that decode."""
        plan = self.both.plan
        assert isinstance(plan, Pools)
        parts = [
            replace(part, plan=replace(own, replicas=replace(own.replicas, count=float(number))))
            for part, own, number in zip(plan.parts[::-1], plan.engines, (self.instances, replicas), strict=True)
        ]
        return replace(self.both, plan=replace(plan, prefill=parts[0], decode=parts[1]))

    @property
    def calibration(self) -> Calibration:
        """Return the fits of the devices of both pools."""
        return self.fits


def may_mend(request: PlanRequest, before: Played, after: Played, fewer: int, more: int) -> bool:
    """Tell whether first tokens may keep to their limit with still more engines than the more of two numbers.

    t(infinity) >= t(more) - (t(fewer) - t(more)) * fewer / (more - fewer)

    t: time to the first token, of which what others cause, its queue, falls as 1 / engines where it is long. Times of
    tokens do not: batches stay full until there are enough.
    """
    limit = request.ttft
    if limit is None or not after.keeps_up:
        return True
    was, now = (one.times.get(("ttft", limit.statistic), 0.0) for one in (before, after))
    return now - max(was - now, 0.0) * fewer / (more - fewer) <= limit.seconds


def load_of(scenario: Scenario) -> Serving | Pools:
    """Return the plan of a scenario of servers."""
    assert isinstance(scenario.plan, Serving | Pools)
    return scenario.plan


def probability(player: Player, replicas: int, spread: float) -> float:
    """Return the probability that the limits hold, of step times that are exp(sigma z) as long, z normal.

    P = Phi(z*),    z*: the largest z at which the requests hold when they are played

    Between two that are played the logarithm of the ratio of times to limits is linear.
    """
    before = np.log(max(player.play(replicas).ratio, _LEAST))
    if spread == 0.0 or not player.holds(replicas):
        return float(player.holds(replicas))
    for low, high in pairwise(_DEVIATIONS):
        slower = player.play(replicas, float(np.exp(spread * high)))
        after = np.log(max(slower.ratio, _LEAST)) if slower.keeps_up else np.inf
        if after > 0.0:
            share = -before / (after - before) if np.isfinite(after) else 0.5
            return NormalDist().cdf(low + share * (high - low))
        before = after
    return NormalDist().cdf(_DEVIATIONS[-1])


def spread_of(point: Point) -> float:
    """Return the standard deviation of the logarithm of times of steps, from the upper end of their 80 % interval.

        sigma = ln(high / value) / 1.28

    Zero where no interval is known.
    """
    value, ends = point.metrics.get("tpot"), point.intervals.get("tpot")
    return float(np.log(ends[1] / value)) / NORMAL_90 if value and ends is not None else 0.0


def drawn(engine: Engine, request: PlanRequest) -> int:
    """Return how many requests are drawn for an engine, the same for each number of its replicas.

    n = max(least, lives * rate * latency)      or 200 for each user

    rate * latency: requests in flight [Little, Operations Research 9(3), 1961], in closed form at the likely replicas.
    """
    compiles = has_numba()
    latency = engine.in_full(request, engine.likely).metrics.get("latency") or 0.0
    open_loop = _LIVES[compiles] * (request.rate or 0.0) * (latency if np.isfinite(latency) else 0.0)
    return int(min(max(LEAST[compiles], open_loop, _OF_USERS[compiles] * (request.users or 0)), _MOST_OF_ALL))


def ramp_of(engine: Engine, request: PlanRequest) -> float:
    """Return the time over which users start: that of an answer in closed form at the likely replicas [s].

    Those who start in step would wait for each other once more than they ever do again.
    """
    latency = engine.in_full(request, engine.likely).metrics.get("latency") if request.users else None
    return float(f"{latency:.3g}") if latency and np.isfinite(latency) else 0.0


def fewest(
    holds: Callable[[int], bool], first: int, most: int, may_help: Callable[[int, int], bool] = lambda *_: True
) -> int | None:  # fmt: skip
    """Return the least number that holds, where more than one that holds do as well, null where `most` does not.

    first: where to begin: steps double from there, then halve. may_help: tells of one that fails and the second after
    it whether more may hold. Where it says no the next step is a long one, and where it does so again the last.
    """
    count = min(max(first, 1), most)
    step = max(count // 8, 1)
    if holds(count):
        high, low = count, max(count - step, 0)
        while low > 0 and holds(low):
            high, step = low, 2 * step
            low = max(low - step, 0)
    else:
        before, low, high, leaps = None, count, min(count + step, most), 0
        while high > low and not holds(high):
            leaps += before is not None and not may_help(before, high)
            if leaps > 1:
                return None
            before, low, step = low, high, _LEAP * high if leaps else 2 * step
            high = min(high + step, most)
        if high == low:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def playable(player: Player) -> str | None:
    """Return why an engine cannot be played: what the request engine lacks, or a request too long for its cache."""
    if player.obstacle is not None:
        return player.obstacle
    try:
        player.play(player.engine.likely)
    except InputError as error:
        return error.problems[0].message
    return None
