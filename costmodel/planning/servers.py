"""The cheapest servers of a model on each cluster that hold a load within its limits when they are played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.grid import evaluate_point
from costmodel.planning.deployments import Deployment, Plans, costs, failing, in_order, replicas_word, slowed
from costmodel.planning.playing import Played, Player, fewest, playable, spread_of
from costmodel.planning.pools import pooled
from costmodel.planning.request import Limit, PlanRequest
from costmodel.planning.sizing import (
    FLAT,
    NEVER,
    Engine,
    at_budgets,
    engines,
    is_limited,
    lacking,
    limits,
    means_hold,
    one_per_layout,
    sizes_of,
    weights_of,
)
from costmodel.planning.structures import Structure, check_load, drafted, is_unfitted, structures, unplayed
from costmodel.records import Record, field, replace
from costmodel.schema.files import load_node
from costmodel.schema.references import Library
from costmodel.serving.simulation import Simulation
from costmodel.study.goals import OnProgress, open_ended
from costmodel.workload.plans import Serving

MOST_PLAYED = 6  # engines of a cluster that are played
_ROUGH = 1.5  # times the best cost, from which on an engine is not played by what the rough closed form says of it
SHOWN = 3  # plans of a cluster, the best and its runners-up
_DRAFTED = 2  # engines and formats of a cluster, those that promise most, that are tried with drafts
_STEP = 1.25  # between rates until one holds and one does not
_HALVINGS = 4  # of the way between two rates a quarter apart, until the highest one that holds is known
_BUYING = 3  # engines whose highest rates are looked for, those that promise most
_FAINT = 1e-3  # of the rate that is asked for, below which none is looked for
_HOUR = 3600.0


def plan_servers(request: PlanRequest, on_progress: OnProgress) -> Plans:
    """Return the cheapest deployments that hold a load on each cluster, in order of cost.

    Layouts in closed form, engine by engine, exclude those that means rule out. The most promising are played until
    none that is left can cost less than the best. Raises InputError where the request cannot be met by any cluster.
    """
    check_load(request)
    plans, share, cut = Plans(request), 1.0 / (1.0 + len(request.clusters)), unplayed(request)
    if cut is not None:
        plans.left_out.append(cut)
    for number, cluster in enumerate(request.clusters):
        _Race(request, cluster, plans, open_ended(on_progress, number * share, share)).run()
    if plans.best:
        order = in_order(plans.best)
        first = min((one for one in plans.best if one.played is not None), key=order, default=plans.best[0])
        two = pooled(request, plans.engines, first, plans.left_out, open_ended(on_progress, 1.0 - share, 0.5 * share))
        plans.best += [] if two is None else [replace(two, why="" if two.cost < first.cost else _dearer(two, first))]
    elif not plans.engines:
        plans.left_out += _offers(request)
    order = in_order(plans.best)
    plans.best.sort(key=lambda one: order(one)[:2])  # equals of a cluster are in order of their limits
    if all(one.holds is False for one in plans.best):
        plans.reachable = reachable(plans, lambda done: on_progress(1.0 - share * (1.0 - done)))
    on_progress(1.0)
    return plans


def _offers(request: PlanRequest) -> list[str]:
    """Return the cheapest shipped nodes whose memory holds the model's weights, none where none does in the budget."""
    least = (weights_of(each)[0] for each in structures(request, request.clusters[0], []))
    weights = min(least, default=np.inf)  # no engine may run there
    able = []
    for name in Library(request.search_path).names("nodes"):
        node = load_node(name, request.search_path)
        device_rent = request.rental(node.device)
        rent = None if device_rent is None else device_rent * float(node.count)
        holds = weights < float(node.device.device_memory.capacity) * float(node.count)
        if holds and rent is not None and (request.budget is None or rent <= request.budget):
            able.append((rent, f"nodes/{name} ({rent * _HOUR:.4g} $/h)"))
    named = ", ".join(text for _, text in sorted(able)[:SHOWN])
    return [f"the cheapest nodes that hold its weights in the narrowest format: {named}"] if named else []


class _Race(Record):
    """Plays the engines of one cluster. sizes: devices of an engine that were looked at."""

    request: PlanRequest
    cluster: str
    plans: Plans
    on_step: Callable[[], None]
    drafting: dict[int, Structure | None] = field(default_factory=dict)
    unfitted: dict[int, str | None] = field(default_factory=dict)
    tried: list[Engine] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def run(self) -> None:
        every = list(structures(self.request, self.cluster, self.plans.left_out))
        kept: list[Deployment] = []
        candidates: list[Engine] = []
        node = 0.0
        if every:
            of = every[0].scenario.cluster.node
            node = (self.request.rental(of.device) or 0.0) * int(of.count)
        if self.request.budget is not None and node > self.request.budget:
            rents = f"{node * _HOUR:.4g} $/h, over the budget of {self.request.budget * _HOUR:.4g} $/h"
            self.plans.left_out.append(f"{self.cluster}: one node is {rents}")
            self.plans.over_budget.append(self.cluster)
            return
        for sizes in sizes_of(every[0]) if every else ():
            if kept and kept[0].holds and kept[0].nodes * kept[0].engine.node < min(sizes):
                break  # no engine of so many nodes costs less
            new = self._candidates(every, sizes)
            candidates += new
            kept = self._raced(new, kept)
        if every and not candidates:
            candidates = self._candidates(every, list(self.sizes), pipelines=True)
            kept = self._raced(candidates, kept)
        self._say_what_is_not_there(every)
        if not kept and candidates:
            kept = self._nearest(candidates)
        kept = self._preferred(candidates, kept)
        holding = sorted((one for one in kept if one.holds is not False), key=_by_rent)
        chosen = (holding or sorted(kept, key=_beyond)[:1])[:SHOWN]
        self.plans.best += [*chosen[:1], *(replace(one, why=_dearer(one, chosen[0])) for one in chosen[1:])]

    def _raced(self, candidates: Sequence[Engine], kept: list[Deployment]) -> list[Deployment]:
        """Return the deployments that are kept once the engines were played that may cost less, the best first."""
        for engine in candidates:
            played = sum(one.key < engine.key for one in self.tried)
            best = kept[0] if kept and kept[0].holds else None
            cap = engine.most if best is None else engine.within(best.nodes - 1)
            hopeless = best is not None and engine.nodes(engine.likely) > _ROUGH * best.nodes
            if engine.least > cap or played >= MOST_PLAYED or hopeless:
                self._note(engine, kept, played)
            elif self._without_fits(engine) is None:
                kept = self._play(engine, cap, kept)
            self.on_step()
        return kept

    def _candidates(
        self, every: Sequence[Structure], sizes: Sequence[int], *, pipelines: bool = False
    ) -> list[Engine]:  # fmt: skip
        """Return the engines on some numbers of devices, one of each layout, in the order of promise.

        Drafts are tried of the structures that promise most, other budgets of tokens of those that may be played.
        """

        def evaluated(structure: Structure) -> list[Engine]:
            self.on_step()
            return engines(structure, self.request, sizes, pipelines=pipelines)

        self.sizes.extend(sizes)
        some = [evaluated(each) for each in (*every, *filter(None, self.drafting.values()))]
        promising = sorted((own for own in some[: len(every)] if own), key=lambda own: min(one.key for one in own))
        for structure in (own[0].structure for own in promising[:_DRAFTED]):
            if id(structure) not in self.drafting:
                with_drafts = self.drafting[id(structure)] = drafted(structure)
                some += [] if with_drafts is None else [evaluated(with_drafts)]
        nodes = min((one.key[0] for own in some for one in own), default=0.0)
        for own in filter(None, some):
            if min(one.key[0] for one in own) <= _ROUGH * nodes:
                own += at_budgets(own, self.request)
        whole = [one for own in some for one in own]
        self.plans.engines += whole
        return one_per_layout(whole)

    def _say_what_is_not_there(self, every: Sequence[Structure]) -> None:
        """Note the structures of which no layout fits, or none keeps to the limits."""
        reasons: dict[str, list[str]] = {}
        looked_at = [*every, *filter(None, self.drafting.values())]
        for structure in looked_at:
            own = [one for one in self.plans.engines if one.structure is structure]
            if not any(one.least <= one.most for one in own):
                why = lacking(structure, self.request, max(self.sizes), fits=bool(own))
                twice = sum(str(each) == str(structure) for each in every) > 1
                reasons.setdefault(why, []).append(f"{structure} ({structure.format})" if twice else str(structure))
        for why, names in reasons.items():
            named = "all engines and formats" if len(names) == len(looked_at) > 1 else ", ".join(names)
            self.plans.left_out.append(f"{self.cluster}: {named}: {why}")

    def _preferred(self, candidates: Sequence[Engine], kept: list[Deployment]) -> list[Deployment]:
        """Return what is kept, before it the engine that on as many nodes is of the format that the model has.

        Else, or of the same format, the one farthest below its limits. The most promising is played of each format, of
        the checkpoint's of each engine, but for those that were before the best: they take more nodes.
        """
        if not kept or not kept[0].holds:
            return kept
        best, nodes = kept[0], kept[0].nodes
        rank = {one: (one.is_other, one.margin) for one in (best.engine, *candidates)}
        more = self.tried[: self.tried.index(best.engine)]
        same = [one for one in candidates if one.nodes(one.likely) <= nodes and rank[one] < rank[best.engine]]
        kinds: set[str] = set()
        for engine in sorted(same, key=lambda one: (one.is_other, one.margin)):
            kind = engine.structure.format if engine.is_other else engine.structure.framework
            if engine in more or kind in kinds or self._without_fits(engine) is not None:
                continue
            if playable(Player(engine, self.request)) is None:
                kinds.add(kind)
                one = next(iter(self._play(engine, engine.within(nodes), [])), best)
                if one.holds and (engine.is_other < best.engine.is_other or _slow(one) < _slow(best)):
                    return [one, *kept]
        return kept

    def _nearest(self, candidates: Sequence[Engine]) -> list[Deployment]:
        """Return the engine that is nearest to its limits, with the replicas from which on more of them hardly help."""
        for engine in sorted(candidates, key=lambda one: (one.beyond, one.devices)):
            player = Player(engine, self.request)
            if self._without_fits(engine) is None and playable(player) is None:
                return self._failed(player, engine.likely, 0.0, [])
        return []

    def _note(self, engine: Engine, kept: Sequence[Deployment], played: int) -> None:
        if len(self.plans.lost) < MOST_PLAYED and played < MOST_PLAYED and kept and engine.least < NEVER:
            cap = engine.within(kept[0].nodes - 1)
            bound = engine.least if engine.least > cap else engine.likely
            why = f"in closed form {bound} {replicas_word(bound)}, no cheaper than the first plan"
            self.plans.lost.append((engine, why))

    def _without_fits(self, engine: Engine) -> str | None:
        """Return that an engine's kernels were not measured in a format, null where they were. It is then left out."""
        key = id(engine.structure)
        if key not in self.unfitted:
            self.unfitted[key] = None
            if is_unfitted(engine.in_full(self.request, engine.likely)):
                why = f"{self.cluster}: {engine.structure}: most of its kernels have no fit on this device"
                self.unfitted[key] = why
                self.plans.left_out.append(why)
        return self.unfitted[key]

    def _play(self, engine: Engine, cap: int, kept: list[Deployment]) -> list[Deployment]:
        """Return the deployments that are kept once an engine was played, the best first."""
        player = Player(engine, self.request)
        obstacle = playable(player)
        if obstacle is not None:
            return self._unplayed(player, obstacle, cap, kept)
        self.tried.append(engine)
        too_late = player.too_late
        if too_late is not None:
            self.plans.lost.append((engine, too_late))
            return kept
        spread = _spread(engine, self.request, engine.likely)
        slowdown = slowed(self.request, spread)

        def holds(replicas: int) -> bool:
            self.on_step()
            return player.holds(replicas, slowdown)

        least = fewest(holds, engine.likely, cap, partial(player.may_help, slowdown=slowdown))
        if least is None:
            return self._failed(player, cap, spread, kept)
        strict, others = player, player.realisations
        while True:  # each round has more replicas
            full = engine.within(engine.nodes(least))
            number = full if strict.holds(full, slowdown) else least
            self.on_step()
            failing_one = player.holds_in(others, number, slowdown)
            if failing_one.holds(number, slowdown):
                break
            strict = failing_one
            may_help = partial(strict.may_help, slowdown=slowdown)
            more = fewest(partial(strict.holds, slowdown=slowdown), number + 1, cap, may_help)
            if more is None:
                return self._failed(strict, cap, spread, kept)
            least = more
        fewer = strict.play(least - 1, slowdown) if least > 1 else None
        point = engine.in_full(self.request, number)
        return [
            Deployment(strict, strict.play(number), number, fewer, point, spread, realisations=1 + len(others)),
            *(one for one in kept if one.holds),
        ]

    def _failed(self, player: Player, cap: int, spread: float, kept: list[Deployment]) -> list[Deployment]:
        """Note an engine that fails at as many replicas as would be cheaper. Keep it where nothing else holds."""
        slowdown = slowed(self.request, spread)
        played = [each for (number, slow), each in player.known.items() if slow == slowdown and number <= cap]
        most = max(played, key=lambda each: each.replicas, default=None) or player.play(cap, slowdown)
        if kept and kept[0].holds is not False:
            fails = "1 replica fails" if most.replicas == 1 else f"{most.replicas} replicas fail"
            more = "" if most.replicas >= cap else ", which more do not mend"
            self.plans.lost.append((player.engine, f"{fails}{more}: {failing(most)}"))
            return kept
        before = None
        while most.replicas < cap and (before is None or most.ratio * FLAT <= before.ratio):
            before, most = most, player.play(min(2 * most.replicas, cap), slowdown)
        nearest = _nearest_of([each for (_, slow), each in player.known.items() if slow == slowdown])
        point = player.engine.in_full(self.request, nearest.replicas)
        one = Deployment(player, nearest, nearest.replicas, None, point, spread)
        return [min([*kept, one], key=lambda each: _beyond(each)[0])]  # the first of equals promised most

    def _unplayed(self, player: Player, obstacle: str, cap: int, kept: list[Deployment]) -> list[Deployment]:
        """Keep an engine of a kind that is not played, at what the closed form says, where nothing else is there."""
        engine = player.engine
        if kept or engine.likely > cap or player.obstacle is None:
            self.plans.lost.append((engine, f"it is not played: {obstacle}"))
            return kept
        point = engine.in_full(self.request, engine.likely)
        line = f"{self.cluster}: {engine.structure} {engine} is closed form only: {obstacle}"
        self.plans.left_out.append(line)
        return [Deployment(player, None, engine.likely, None, point, 0.0)]


def _spread(engine: Engine, request: PlanRequest, replicas: int) -> float:
    """Return the standard deviation of the logarithm of times of steps, where as many requests run as on average.

    A queue that slower steps make longer shows when they are played.
    """
    running, scenario = engine.in_full(request, replicas).metrics.get("concurrency"), engine.scenario
    if not running or not isinstance(scenario.plan, Serving):
        return 0.0
    plan = replace(scenario.plan, concurrency=max(float(np.rint(running)), 1.0), rate=None, requests=None)
    alike = replace(scenario, plan=plan)
    return spread_of(evaluate_point(alike, engine.structure.workload.calibration(alike), evaluate))


def _nearest_of(played: Sequence[Played]) -> Played:
    """Return what was played nearest to the limits, of numbers of replicas that hardly differ the fewest."""
    able = [each for each in played if each.keeps_up] or played
    least = min(each.ratio for each in able)
    return min((each for each in able if each.ratio <= least * FLAT), key=lambda each: each.replicas)


def _beyond(one: Deployment) -> tuple[float, float]:
    """Return how far a deployment is beyond its limits, then its devices."""
    return (np.inf if one.played is None else one.played.ratio), one.devices


def _slow(one: Deployment) -> tuple[float, float]:
    """Return how near a deployment is to its limits, or to the highest stable rate, then its devices.

    Of a request that leaves a time without a limit how long a whole answer takes: what is far below one limit may wait
    for its first token without end.
    """
    if is_limited(one.player.request) or one.played is None:
        ratio, devices = _beyond(one)
        return max(ratio, one.load), devices
    return one.played.times.get(("latency", "mean"), np.inf), one.devices


def _by_rent(one: Deployment) -> tuple[float, ...]:
    """Return the order of deployments: by cost, the checkpoint's own format first, then the farthest from limits."""
    return one.cost, one.engine.is_other, _slow(one)[0], costs(one)["output"] or 0.0


def _dearer(one: Deployment, best: Deployment) -> str:
    if one.cost > best.cost:
        return f"costs {one.cost / best.cost - 1.0:.0%} more"
    if one.engine.is_other > best.engine.is_other:
        return "costs as much, in another format than the checkpoint's"
    nearer = "nearer to its limits" if is_limited(one.player.request) else "whole answers take longer"
    return f"costs as much, {nearer if _slow(one) > _slow(best) else 'more for a token'}"


def reachable(plans: Plans, on_progress: OnProgress) -> dict[str, Any] | None:
    """Return what the deployment that is nearest to its limits reaches, and the best of each limit by itself.

    Where no number of devices keeps a limit, the plans are those for the others. Null where nothing fits at all.
    """
    if not any(one.played is not None for one in plans.best):
        return None
    best = [_best_of(plans, name, limit) for name, limit in limits(plans.request)]
    never = [each["limit"].partition("_")[0] for each in best if each["best"] and each["best"] > each["asked"]]
    if never:
        easier = plan_servers(replace(plans.request, **dict.fromkeys(never)), on_progress)
        plans.best = [_as_asked(one, plans.request) for one in easier.best if one.holds] or plans.best
    played = [one for one in plans.best if one.played is not None]
    nearest = min(played, key=_beyond)
    assert nearest.played is not None
    rate, buys = highest_rate(plans)
    times = {f"{name}_{statistic}": value for (name, statistic), value in nearest.played.times.items()}
    return {
        "cluster": nearest.engine.structure.cluster, "engine": str(nearest.engine.structure),
        "replicas": nearest.replicas, "devices": nearest.devices, "rate": rate, **times,
        "why": failing(nearest.played),
        "highest": None if buys is None else {
            "cluster": buys.structure.cluster, "engine": str(buys.structure), "parallel": buys.degrees,
            "replicas": buys.most, "devices": buys.most * buys.devices,
            "cost_rate": None if buys.rental is None else buys.nodes(buys.most) * buys.node * buys.rental * _HOUR,
        }, "limits": best,
    }  # fmt: skip


def _as_asked(one: Deployment, request: PlanRequest) -> Deployment:
    """Return a deployment under all limits of a request."""
    player = replace(one.player, request=request, known={})
    return replace(one, player=player, played=player.play(one.replicas), fewer=None)


def _best_of(plans: Plans, name: str, limit: Limit) -> dict[str, Any]:
    """Return the engine whose closed form has the least of one limited time, at what it is when it is played."""
    able = [each for each in plans.engines if name in each.nearest and Player(each, plans.request).obstacle is None]
    best = min(able, key=lambda each: (each.nearest[name][0], each.nearest[name][1] * each.devices), default=None)
    answer: dict[str, Any] = {"limit": f"{name}_{limit.statistic}", "asked": limit.seconds, "best": None}
    if best is None:
        return answer
    replicas = best.nearest[name][1]
    player = Player(best, plans.request)
    played = None

    def keeps(number: int) -> bool:
        each = player.play(number)
        return each.keeps_up and each.times[name, limit.statistic] <= limit.seconds

    if playable(player) is None:
        if not keeps(replicas) and best.nearest[name][0] <= 1.0 and keeps(best.most):
            replicas = fewest(keeps, replicas, best.most) or replicas
        played = player.play(replicas)
    one = Deployment(player, played, replicas, None, best.in_full(plans.request, replicas), 0.0)
    known = [
        (each.played.times[name, limit.statistic], number, each) for number, each in enumerate((one, *plans.best))
        if each.played is not None and each.played.keeps_up
    ]  # fmt: skip
    least, _, one = min(known, default=(None, 0, one))
    structure = one.engine.structure
    return answer | {
        "best": least, "cluster": structure.cluster, "engine": str(structure), "parallel": one.engine.degrees,
        "replicas": one.replicas, "devices": one.devices, "cost_rate": None if one.rent is None else one.rent * _HOUR,
    }  # fmt: skip


def highest_rate(plans: Plans) -> tuple[float | None, Engine | None]:
    """Return the highest rate that holds when it is played on as many replicas as there may be [1/s], and the engine.

    Those are as many as the budget pays, or the cluster has. Null where none is looked for, of users and of a trace,
    which has bursts of its own. Zero where the limits hold at no rate.
    """
    request = plans.request
    if request.rate is None or request.trace is not None:
        return None, None
    rate, best = 0.0, None
    promising = one_per_layout([one for one in plans.engines if one.promise > 0.0])
    for engine in sorted(promising, key=lambda one: -one.promise)[:_BUYING]:
        if not is_unfitted(engine.in_full(request, engine.likely)) and playable(Player(engine, request)) is None:
            own = _rate_of(engine, request, rate)
            rate, best = (own, engine) if own > rate else (rate, best)
    return rate, best


def _rate_of(engine: Engine, request: PlanRequest, least: float) -> float:
    """Return the highest rate at which all replicas that there may be hold, `least` where it is no higher [1/s]."""
    assert request.rate is not None
    slowdown, known = slowed(request, _spread(engine, request, engine.likely)), list[Simulation]()

    def holds(rate: float) -> bool:
        own = replace(request, rate=rate)
        able = means_hold(engine, own, engine.most)  # a run of few requests does not show a queue that grows slowly
        return able and Player(engine, own, simulations=known).holds(engine.most, slowdown)

    if least > 0.0 and not holds(least * (1.0 + _FAINT)):
        return least
    rate = max(min(engine.promise, 1.0) * request.rate, least)
    if holds(rate):
        low, high = rate, rate * _STEP
        while holds(high):
            low, high = high, high * _STEP
    else:
        low, high = rate / _STEP, rate
        while low > least and not holds(low):
            low, high = low / _STEP, low
            if low < _FAINT * request.rate:
                return least
    low = max(low, least)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
