"""The cheapest servers of a model on each cluster that hold a load within its limits when they are played."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.intervals import NORMAL_90
from costmodel.planning.launch.deployment import checkpoint
from costmodel.planning.playing import Played, Player, fewest, playable
from costmodel.planning.request import PlanRequest
from costmodel.planning.sizing import NEVER, Engine, engines, limits, one_per_layout, with_replicas
from costmodel.planning.structures import ENGINES, HEAD, check_load, load_settings, structures, unplayed
from costmodel.records import MutableRecord, Record, field, replace
from costmodel.result import Point
from costmodel.schema.receipts import receipts
from costmodel.study.goals import OnProgress
from costmodel.units import render

MOST_PLAYED = 6  # engines of a cluster that are played
_ROUGH = 1.5  # times the best cost, from which on an engine is not played by what the rough closed form says of it
SHOWN = 3  # plans of a cluster, the best and its runners-up
_DEVIATIONS = (0.0, 0.75, 1.5, 3.0)  # standard deviations of step times at which requests are played
_HALVINGS = 6  # of the rate that is asked for, until the highest one that holds is known
_LEAST = 1e-9  # ratio of a time to its limit
_MILLION, _HOUR = 1e6, 3600.0


class Deployment(Record):
    """Replicas of an engine that hold, or the most that there may be where none do.

    spread: standard deviation of the logarithm of its times.
    fewer: what one replica fewer does, null where one is the least.
    """

    player: Player
    played: Played | None
    replicas: int
    fewer: Played | None
    point: Point
    spread: float
    probability: float | None
    why: str = ""

    @property
    def engine(self) -> Engine:
        """Return what it consists of."""
        return self.player.engine

    @property
    def devices(self) -> int:
        """Return the devices of all replicas."""
        return self.replicas * self.engine.devices

    @property
    def cost(self) -> float:
        """Return what it costs: rent [$/s], or devices where rent is unknown."""
        return self.replicas * self.engine.unit

    @property
    def rent(self) -> float | None:
        """Return its rent [$/s], null where the device has no price."""
        return None if self.engine.rent is None else self.replicas * self.engine.rent

    @property
    def holds(self) -> bool | None:
        """Tell whether it holds when it is played, null where its requests cannot be."""
        return None if self.played is None else self.played.holds


class Plans(MutableRecord, eq=False):
    """The answer. best: deployments, the cheapest first, of each cluster the best one and some that lost.

    reachable: where nothing holds, what would.
    """

    request: PlanRequest
    best: list[Deployment] = field(default_factory=list)
    lost: list[tuple[Engine, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    reachable: dict[str, Any] | None = None

    @property
    def holding(self) -> list[Deployment]:
        """Return the deployments that hold, or that cannot be played and hold in closed form."""
        return [one for one in self.best if one.holds is not False]


def plan_servers(request: PlanRequest, on_progress: OnProgress) -> Plans:
    """Return the cheapest deployments that hold a load on each cluster, in order of cost.

    Layouts in closed form, engine by engine, exclude those that means rule out. The most promising are played until
    none that is left can cost less than the best. Raises InputError where the request cannot be met by any cluster.
    """
    check_load(request)
    load_settings(request)
    plans, share, cut = Plans(request), 1.0 / len(request.clusters), unplayed(request)
    if cut is not None:
        plans.left_out.append(cut)
    for number, cluster in enumerate(request.clusters):
        of_cluster = _Race(request, cluster, plans)
        of_cluster.run(lambda done, at=number: on_progress((at + done) * share))  # type: ignore[misc]
    by_rent = all(one.rent is not None for one in plans.best)
    plans.best.sort(key=lambda one: (one.holds is False, one.cost if by_rent else one.devices, one.devices))
    if not plans.holding:
        plans.reachable = reachable(plans.best)
    return plans


class _Race(Record):
    """Plays the engines of one cluster."""

    request: PlanRequest
    cluster: str
    plans: Plans
    unfitted: dict[int, str | None] = field(default_factory=dict)

    def run(self, on_progress: OnProgress) -> None:
        """Add the best deployments of the cluster to the plans."""
        candidates = self._candidates()
        on_progress(0.3)
        kept: list[Deployment] = []
        played = 0
        for engine in candidates:
            cap = engine.most if not kept else min(engine.most, _fewer_than(kept[0].cost, engine.unit))
            hopeless = bool(kept) and engine.likely * engine.unit > _ROUGH * kept[0].cost
            if engine.least > cap or played >= MOST_PLAYED or hopeless:
                self._note(engine, kept, played)
                continue
            why = self._without_fits(engine)
            if why is not None:
                continue
            on_progress(0.3 + 0.7 * played / MOST_PLAYED)
            played += 1
            kept = self._tried(engine, cap, kept)
        if not kept and candidates:
            kept = self._nearest(candidates)
        holding = sorted((one for one in kept if one.holds is not False), key=lambda one: one.cost)
        chosen = (holding or sorted(kept, key=_beyond)[:1])[:SHOWN]
        self.plans.best += [*chosen[:1], *(replace(one, why=_dearer(one, chosen[0])) for one in chosen[1:])]

    def _candidates(self) -> list[Engine]:
        """Return the engines in the order of promise."""
        some: list[Engine] = []
        for structure in structures(self.request, self.cluster, self.plans.left_out):
            own = engines(structure, self.request)
            some += own
            within = [one for one in own if one.least <= one.most]
            if not within:
                why = "no layout keeps to the limits" if own else "no layout fits in memory"
                self.plans.left_out.append(f"{self.cluster}: {structure}: {why}")
        return one_per_layout(some)

    def _nearest(self, candidates: Sequence[Engine]) -> list[Deployment]:
        """Return the engine that is nearest to its limits, with the replicas from which on more of them hardly help."""
        for engine in sorted(candidates, key=lambda one: (one.beyond, one.unit)):
            player = Player(engine, self.request)
            if self._without_fits(engine) is None and playable(player) is None:
                spread = _spread(_point(engine, self.request, engine.likely))
                return self._failed(player, engine.likely, 1.0, spread, [])
        return []

    def _note(self, engine: Engine, kept: Sequence[Deployment], played: int) -> None:
        """Note an engine that was not played."""
        if len(self.plans.lost) < MOST_PLAYED and played < MOST_PLAYED and kept and engine.least < NEVER:
            cap = _fewer_than(kept[0].cost, engine.unit)
            bound = engine.least if engine.least > cap else engine.likely
            why = f"in closed form {bound} {_replicas(bound)}, no cheaper than the first plan"
            self.plans.lost.append((engine, why))

    def _without_fits(self, engine: Engine) -> str | None:
        """Return that an engine's kernels were not measured in a format, null where they were. It is then left out."""
        key = id(engine.structure)
        if key not in self.unfitted:
            point = _point(engine, self.request, engine.likely)
            known = sum(entry.time for entry in point.breakdown)
            roofline = sum(entry.by_basis.get("roofline", 0.0) for entry in point.breakdown)
            self.unfitted[key] = None
            if known and 2.0 * roofline > known:
                why = f"{self.cluster}: {engine.structure}: most of its kernels have no fit on this device"
                self.unfitted[key] = why
                self.plans.left_out.append(why)
        return self.unfitted[key]

    def _tried(self, engine: Engine, cap: int, kept: list[Deployment]) -> list[Deployment]:
        """Return the deployments that are kept once an engine was played, the best first."""
        player = Player(engine, self.request)
        obstacle = playable(player)
        if obstacle is not None:
            return self._unplayed(player, obstacle, cap, kept)
        slowdown, spread = 1.0, _spread(_point(engine, self.request, engine.likely))
        if self.request.confidence is not None:
            slowdown = float(np.exp(spread * NormalDist().inv_cdf(self.request.confidence)))
        count = fewest(lambda replicas: player.holds(replicas, slowdown), engine.likely, cap)
        if count is None:
            return self._failed(player, cap, slowdown, spread, kept)
        played = player.play(count)
        fewer = player.play(count - 1, slowdown) if count > 1 else None
        one = Deployment(
            player,
            played,
            count,
            fewer,
            _point(engine, self.request, count),
            spread,
            _probability(player, count, spread),
        )
        return [one, *kept]

    def _failed(
        self, player: Player, cap: int, slowdown: float, spread: float, kept: list[Deployment]
    ) -> list[Deployment]:  # fmt: skip
        """Note an engine that fails at as many replicas as would be cheaper. Keep it where nothing else holds."""
        nearest = player.play(cap, slowdown)
        if kept and kept[0].holds is not False:
            fails = "1 replica fails" if cap == 1 else f"{cap} replicas fail"
            self.plans.lost.append((player.engine, f"{fails}: {_failing(nearest, self.request)}"))
            return kept
        one = Deployment(player, nearest, cap, None, _point(player.engine, self.request, cap), spread, None)
        return [min([*kept, one], key=lambda each: _beyond(each)[0])]  # the first of equals promised most

    def _unplayed(self, player: Player, obstacle: str, cap: int, kept: list[Deployment]) -> list[Deployment]:
        """Keep an engine that cannot be played, at what the closed form says, where nothing else is there."""
        engine = player.engine
        if kept or engine.likely > cap:
            self.plans.lost.append((engine, f"it is not played: {obstacle}"))
            return kept
        point = _point(engine, self.request, engine.likely)
        line = f"{self.cluster}: {engine.structure} {engine} is closed form only: {obstacle}"
        self.plans.left_out.append(line)
        return [Deployment(player, None, engine.likely, None, point, _spread(point), None)]


def _point(engine: Engine, request: PlanRequest, replicas: int) -> Point:
    """Return the closed form of so many replicas in full, computed once."""
    if replicas not in engine.points:
        scenario = with_replicas(engine, request, replicas)
        engine.points[replicas] = evaluate_point(scenario, engine.structure.workload.calibration(scenario), evaluate)
    return engine.points[replicas]


def _spread(point: Point) -> float:
    """Return the standard deviation of the logarithm of an engine's times, from the upper end of its 80 % interval.

        sigma = ln(high / value) / 1.28

    Times of tokens after the first one, else of requests. Zero where no interval is known.
    """
    for name in ("tpot", "latency"):
        value, ends = point.metrics.get(name), point.intervals.get(name)
        if value and ends is not None and ends[1] > value:
            return float(np.log(ends[1] / value)) / NORMAL_90
    return 0.0


def _probability(player: Player, replicas: int, spread: float) -> float:
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


def _fewer_than(cost: float, unit: float) -> int:
    """Return the most replicas that cost less than a deployment."""
    return int(np.ceil(cost / unit * (1.0 - 1e-9))) - 1


def _beyond(one: Deployment) -> tuple[float, float]:
    """Return how far a deployment is beyond its limits, then its cost."""
    return (np.inf if one.played is None else one.played.ratio), one.cost


def _replicas(count: int) -> str:
    return "replica" if count == 1 else "replicas"


def _dearer(one: Deployment, best: Deployment) -> str:
    """Return why a deployment lost to the best one."""
    return f"costs {one.cost / best.cost - 1.0:.0%} more"


def _failing(played: Played, request: PlanRequest) -> str:
    """Return which limit a run broke, and by how much."""
    if not played.keeps_up:
        return "requests queue longer and longer"
    for name, limit in limits(request):
        value = played.times.get((name, limit.statistic))
        if name.upper() == played.binds and value is not None:
            return f"{limit.statistic} {name.upper()} {shown(value)} > {shown(limit.seconds)}"
    return "a request never starts" if played.binds == "memory" else "within its limits"


def shown(seconds: float) -> str:
    """Return a time with three digits."""
    return render(float(f"{seconds:.3g}"), "duration")


def reachable(some: Sequence[Deployment]) -> dict[str, Any] | None:
    """Return what the deployment that is nearest to its limits reaches, null where nothing fits at all."""
    played = [one for one in some if one.played is not None]
    if not played:
        return None
    nearest = min(played, key=_beyond)
    assert nearest.played is not None
    rate = highest_rate(nearest)
    times = {f"{name}_{statistic}": value for (name, statistic), value in nearest.played.times.items()}
    return {
        "cluster": nearest.engine.structure.cluster, "engine": str(nearest.engine.structure),
        "replicas": nearest.replicas, "devices": nearest.devices, "rate": rate, **times,
        "why": _failing(nearest.played, nearest.player.request),
    }  # fmt: skip


def highest_rate(one: Deployment) -> float | None:
    """Return the highest rate at which as many replicas hold when they are played [1/s], null where none is looked for.

    None is of a trace, whose bursts are its own, nor of users. Zero where the limits hold at no rate.
    """
    request = one.player.request
    if request.rate is None or request.trace is not None:
        return None
    if one.engine.beyond > 1.0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = 0.5 * (low + high)
        slower = Player(one.engine, replace(request, rate=request.rate * share), simulations=one.player.simulations)
        low, high = (share, high) if slower.holds(one.replicas) else (low, share)
    return request.rate * low


def why_not_less(one: Deployment) -> str:
    """Return what one replica fewer does."""
    if one.fewer is None:
        return "one replica is the least" if one.holds is not False else "more replicas do not help, or are not there"
    return f"{one.replicas - 1} {_replicas(one.replicas - 1)}: {_failing(one.fewer, one.player.request)}"


def command_of(one: Deployment) -> str:
    """Return the command that evaluates a deployment again, in closed form."""
    request, structure = one.player.request, one.engine.structure
    settings = {key: text for key, text in load_settings(request).items() if key != "concurrency"}
    settings |= {"framework": structure.framework}
    settings |= {} if structure.precision is None else {"precision": structure.precision}
    settings |= {path: f"{value:g}" for path, value in one.engine.at.items() if value}
    settings |= {"replicas.count": str(one.replicas)}
    plan = with_replicas(one.engine, request, one.replicas).plan
    users = getattr(plan, "concurrency", None)
    settings |= {} if users is None else {"concurrency": f"{users:g}"}
    words = ["costmodel", "simulate", str(request.model), "--cluster", structure.cluster, "--phase", "serving"]
    paths = {HEAD + key: text for key, text in settings.items()} | dict(structure.choices)
    for path, text in paths.items():
        words += ["--set", f"{path}={text}"]
    return shlex.join(words)


def document(plans: Plans) -> dict[str, Any]:
    """Return the answer by the keys of `costmodel plan --json`."""
    return {
        "request": plans.request.document(),
        "plans": [plan_document(one) for one in plans.best],
        "left_out": [*plans.left_out, *(f"{each.structure} {each}: {why}" for each, why in plans.lost)],
        "reachable": plans.reachable,
    }


def plan_document(one: Deployment) -> dict[str, Any]:
    """Return a deployment by its keys. Times in seconds, rent in $/h, energy in joules for a million tokens."""
    structure, played = one.engine.structure, one.played
    scheduler = with_replicas(one.engine, one.player.request, one.replicas).plan.scheduler  # type: ignore[union-attr]
    sequences = scheduler.max_num_seqs
    return {
        "cluster": structure.cluster, "devices": one.devices, "replicas": one.replicas,
        "engine": structure.framework, "framework": structure.scenario.framework.name, "precision": structure.format,
        "parallel": one.engine.degrees, "prefill": None, "decode": None,
        "scheduler": {
            "token_budget": int(np.max(scheduler.token_budget or 0)) or None,
            "max_num_seqs": None if sequences is None else int(np.max(sequences)),
        },
        "metrics": metrics(one), "intervals": intervals(one),
        "played": None if played is None else {
            "ttft_p99": played.times.get(("ttft", "p99")), "tpot_p99": played.times.get(("tpot", "p99")),
            "requests": played.requests, "seed": played.seed,
        },
        "holds": one.holds is not False, "probability": one.probability, "binds": binds(one),
        "cost_rate": None if one.rent is None else one.rent * _HOUR, "cost_per_million": costs(one),
        "energy_per_million": _times(one.point.metrics.get("energy_per_token"), _MILLION),
        "why_not_less": why_not_less(one), "command": command_of(one),
    }  # fmt: skip


def binds(one: Deployment) -> str:
    """Return what keeps a deployment from being smaller: the limit that one replica fewer breaks, else the nearest."""
    if one.fewer is not None:
        return one.fewer.binds
    return "memory" if one.played is None else one.played.binds


def metrics(one: Deployment) -> dict[str, float | None]:
    """Return the closed form's means, and what was played."""
    names = ("ttft", "tpot", "latency", "requests_per_second", "highest_stable_rate", "concurrency", "kv_use")
    values = {name: one.point.metrics.get(name) for name in names}
    times = {} if one.played is None else one.played.times
    return values | {f"{name}_{statistic}": value for (name, statistic), value in times.items()}


def intervals(one: Deployment) -> dict[str, list[float]]:
    """Return 80 % intervals, of what was played as wide as those of the engine's steps: value * exp(+-1.28 sigma)."""
    known = {name: list(ends) for name, ends in one.point.intervals.items() if ends is not None}
    wide = float(np.exp(NORMAL_90 * one.spread))
    times = {} if one.played is None else one.played.times
    return {name: known[name] for name in metrics(one) if name in known} | {
        f"{name}_{statistic}": [value / wide, value * wide] for (name, statistic), value in times.items()
    }


def costs(one: Deployment) -> dict[str, float | None]:
    """Return dollars for a million tokens, the whole rent over tokens of each kind: rent / rate * 10^6."""
    if one.rent is None:
        return dict.fromkeys(("input", "cached", "output", "all"))
    if one.played is not None:
        rates = one.played.rates
    else:
        rates = {
            "input": one.point.metrics.get("input_tokens_per_second") or 0.0, "cached": 0.0,
            "output": one.point.metrics.get("tokens_per_second") or 0.0,
        }  # fmt: skip
    whole = {**rates, "all": rates["input"] + rates["output"]}
    return {name: one.rent / rate * _MILLION if rate > 0.0 else None for name, rate in whole.items()}


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def receipt_line(one: Deployment) -> str:
    """Return the errors of published runs of the device, engine and kind of model."""
    structure = one.engine.structure
    device = structure.scenario.cluster.device.name
    kind = "experts" if structure.scenario.architecture.has_experts else "dense"
    models = "models with experts" if kind == "experts" else "dense models"
    on = f"{ENGINES[structure.framework]} on {device}, {models}"
    known = [
        f"{row.metric.upper() if row.metric != 'rate' else 'rate'} {row.median:.0%} (median of {row.runs}, {row.state})"
        for row in receipts(device, structure.framework, kind)
    ]
    return f"errors of published runs of {on}: {', '.join(known)}" if known else f"no published run of {on} is known"


def benchmark_line(one: Deployment) -> str:
    """Return the `vllm bench serve` command that would measure what a plan promises."""
    request, plan = one.player.request, one.engine.structure.plan
    rate = "" if request.users is not None or plan.rate is None else f" --request-rate {float(plan.rate):g}"
    users = "" if request.users is None else f" --max-concurrency {request.users}"
    model = checkpoint(str(request.model), request.search_path)
    lengths = f"--random-input-len {float(plan.input_tokens):g} --random-output-len {float(plan.output_tokens):g}"
    return (
        f"vllm bench serve --model {model} --dataset-name random {lengths}{rate}{users} "
        "--percentile-metrics ttft,tpot --metric-percentiles 99 --ignore-eos"
    )
