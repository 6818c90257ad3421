"""Two pools of engines under a load, each on its own cluster of those named, played until none of them is spare.

Where to begin the closed form says: their means are as far below the limits as its means of the deployment that was
played say that percentiles need. Those whose means alone need as much as what holds are not played.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.api import Workload
from costmodel.equations import equation
from costmodel.errors import InputError
from costmodel.planning.deployments import Deployment, Pool, binds, load_of_pools, slowed, whole_nodes
from costmodel.planning.playing import Played, PoolsPlayer, fewest, may_mend, spread_of
from costmodel.planning.request import Limit, PlanRequest
from costmodel.planning.sizing import Engine, limits
from costmodel.planning.structures import DRAFTS, HEAD, SCENARIO, loaded
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.result import FITS
from costmodel.schema.references import as_reference

_LAYOUTS = 6  # of a pool, those that promise most as servers by themselves
_COUNTS = 10  # numbers of engines of a pool that are tried, before each one around the best
_SHARE = 1.25  # times the devices, or the cost, of the deployment that was played, the most that pools take
_PLAYED = 2  # pairs of clusters whose pools are played
_STEPS = 8  # a pool that binds grows by a part of its engines
_RATES = ("requests_per_second", "highest_stable_rate")
ROLES = ("prefill", "decode")
T = TypeVar("T")


class Grid(Record):
    """Two pools in closed form: prompts' engines along the first axis. known: metric -> values; used: devices."""

    fits: npt.NDArray[np.bool_]
    known: dict[str, Array]
    cost: Array
    used: Array

    def cheapest(self, margins: Mapping[str, float], load: float) -> tuple[int, int] | None:
        """Return where the cheapest two pools are whose means keep to the margins, null where there are none.

        load: the largest share of the highest stable rate.
        """
        rate, highest = (self.known[name] for name in _RATES)
        holds = self.fits & (rate <= highest * load)
        for name, most in margins.items():
            holds = holds & np.isfinite(self.known[name]) & (self.known[name] <= most)
        if not holds.any():
            return None
        best = np.lexsort((self.used.ravel(), np.where(holds, self.cost, np.inf).ravel()))[0]
        return int(best) // holds.shape[1], int(best) % holds.shape[1]


class _Pair(Record):
    """Clusters for prompts and for decoding. engines: of either pool; margins: limited time -> its longest mean."""

    request: PlanRequest
    engines: tuple[list[Engine], list[Engine]]
    margins: dict[str, float]
    played: Deployment

    def best(self) -> tuple[Deployment, float] | None:
        """Return the cheapest two pools of the pair by the margins, and what they cost by the limits of means alone.

        By these where none keeps to the margins. Null where none does to these either.
        """
        columns = [self._columns(pool, _numbers(self._most(pool))) for pool in range(2)]
        grid = self._evaluated(columns)
        least = grid.cheapest(self.limited, 1.0)
        if least is None:
            return None
        bound = float(grid.cost[least])
        for margins, load in ((self.margins, self._load), (self.limited, 1.0)):
            rows = grid.cheapest(margins, load)
            if rows is None:
                continue
            near = [_near(columns[pool], rows[pool]) for pool in range(2)]
            if any(len(own["row"]) > 1 for own in near):
                finer = self._evaluated(near)
                columns, rows = near, finer.cheapest(margins, load)
                assert rows is not None, "that of the first round is among them"
                finest = finer.cheapest(self.limited, 1.0)
                bound = bound if finest is None else min(bound, float(finer.cost[finest]))
            return self._deployment(columns, rows), bound
        return None

    @property
    def limited(self) -> dict[str, float]:
        """Return the limited times with their limits, which bound means as well [s]."""
        return {name: limit.seconds for name, limit in limits(self.request)}

    def _most(self, pool: int) -> float:
        """Return the devices that a pool has at most: as many of its cluster as cost what was played, and some more."""
        rental, engine = self.played.engine.rental, self.engines[pool][0]
        same = rental is None or engine.rental is None
        ratio = 1.0 if same else max(rental / engine.rental, 1.0)  # type: ignore[operator]
        return max(self.played.devices * _SHARE * ratio, max(each.devices for each in self.engines[pool]))

    @property
    def _load(self) -> float:
        """Return the share of the highest stable rate that the deployment that was played takes, one of users."""
        known = self.played.point.metrics
        rate, highest = known["requests_per_second"], known["highest_stable_rate"]
        return 1.0 if self.request.users is not None or not rate or not highest else rate / highest

    def _columns(self, pool: int, numbers: Sequence[int]) -> dict[str, Array]:
        """Return layouts and numbers of engines of a pool as columns. devices: of one engine; row: its layout's."""
        rows = [
            (row, number)
            for row, each in enumerate(self.engines[pool])
            for number in sorted({min(max(1, round(devices / each.devices)), each.most) for devices in numbers})
        ]
        chosen = [self.engines[pool][row] for row, _ in rows]
        layout = {name: [each.at[name] for each in chosen] for name in chosen[0].at if name.startswith("parallel.")}
        known = {**layout, "instances": [number for _, number in rows], "row": [row for row, _ in rows]}
        return {name: np.array(values, dtype=np.float64) for name, values in known.items()}

    def _evaluated(self, columns: Sequence[dict[str, Array]]) -> Grid:
        """Return layouts and numbers of engines of both pools in closed form."""
        workload = self._workload()
        vary: dict[str | tuple[str, ...], tuple[Array, ...]] = {
            tuple(f"{HEAD}{role}.{name}" for name in own if name != "row"): tuple(
                column for name, column in own.items() if name != "row"
            )
            for role, own in zip(ROLES, columns, strict=True)
        }
        scenario, shape = workload.varied(SCENARIO, vary)
        result = evaluate_grid(scenario, workload.calibration(scenario), shape)
        fits: npt.NDArray[np.bool_] = np.broadcast_to(np.asarray(result.reason) == FITS, shape)
        devices = [self._devices(pool, own) for pool, own in enumerate(columns)]
        cost = self._cost(devices[0][:, None], devices[1][None, :])
        if self.request.budget is not None and all(some[0].rental is not None for some in self.engines):
            fits = fits & (cost <= self.request.budget)
        known = {name: np.asarray(result.metrics[name], dtype=np.float64) for name in (*self.margins, *_RATES)}
        return Grid(fits, known, cost, devices[0][:, None] + devices[1][None, :])

    def _devices(self, pool: int, own: dict[str, Array]) -> Array:
        return np.array([self.engines[pool][int(row)].devices for row in own["row"]]) * own["instances"]

    def _cost(self, prompts: Array, decode: Array) -> Array:
        """Return what devices of both pools cost in whole nodes [$/s], or their number where a rent is unknown."""
        own = [some[0] for some in self.engines]
        rents = [1.0 if None in (own[0].rental, own[1].rental) else each.rental or 0.0 for each in own]
        return np.asarray(
            sum(
                whole_nodes(each, number) * each.node * rent
                for each, number, rent in zip(own, (prompts, decode), rents, strict=True)
            )
        )

    def _workload(self) -> Workload:
        """Return the workload of both pools, their layouts not chosen yet."""
        prompts, decode = (some[0].structure for some in self.engines)
        lines = [
            f"    {role}: {{parallel: {{tp: 1}}, cluster: {json.dumps(as_reference(one.cluster))}}}"
            for role, one in zip(ROLES, (prompts, decode), strict=True)
        ]
        lines += [f"    {key}: {text}" for key, text in load_of_pools(decode, self.request).items()]
        return loaded(self.request, decode.cluster, decode.framework, decode.precision, lines)

    def _deployment(self, columns: Sequence[dict[str, Array]], rows: Sequence[int]) -> Deployment:
        chosen = [
            Pool(self.engines[pool][int(own["row"][row])], int(own["instances"][row]))
            for pool, (own, row) in enumerate(zip(columns, rows, strict=True))
        ]
        changes = {
            f"{HEAD}{role}.{name}": float(own[name][row])
            for role, own, row in zip(ROLES, columns, rows, strict=True)
            for name in own
            if name != "row"
        }
        workload = self._workload().changed(changes, [SCENARIO])
        scenario = workload.scenario(SCENARIO)
        fits, own = workload.calibration(scenario), chosen[1]
        player = PoolsPlayer(own.engine, self.request, both=scenario, instances=chosen[0].replicas, fits=fits)
        point = evaluate_point(scenario, fits, evaluate)
        return Deployment(player, None, own.replicas, None, point, spread_of(point), prefill=chosen[0])


def with_engines(one: Deployment, pool: int, more: int) -> Deployment:
    """Return two pools, one of which has more engines, or fewer. What they do is not played yet."""
    assert one.prefill is not None
    assert isinstance(one.player, PoolsPlayer)
    if pool:
        return replace(one, replicas=one.replicas + more)
    prompts = replace(one.prefill, replicas=one.prefill.replicas + more)
    player = replace(one.player, instances=prompts.replicas, known={}, simulations=one.player.simulations)
    return replace(one, player=player, prefill=prompts)


def settled(one: Deployment, most: float, on_step: Callable[[], None]) -> Deployment | None:
    """Return two pools that hold when played, none of whose engines is spare, null where they cost over `most`.

    The pool that binds gets more engines until they hold: a first token is late for want of those for prompts.
    """
    slowdown = slowed(one.player.request, one.spread)
    grown = _grown(one, most, slowdown, on_step, leaps=True)
    if grown is None:
        return None
    one, fewer = _shrunk(grown, slowdown, on_step)
    while True:  # each round has more engines
        on_step()
        others = one.player.realisations
        strict = one.player.holds_in(others, one.replicas, slowdown)
        if strict.holds(one.replicas, slowdown):
            break
        fewer = strict.play(one.replicas, slowdown)
        grown = _grown(replace(one, player=strict), most, slowdown, on_step)
        if grown is None:
            return None
        one = grown
    point = evaluate_point(one.player.scenario(one.replicas), one.player.calibration, evaluate)
    run = one.player.play(one.replicas)
    return replace(one, played=run, fewer=fewer, point=point, realisations=1 + len(others))


def _grown(
    one: Deployment, most: float, slowdown: float, on_step: Callable[[], None], *, leaps: bool = False
) -> Deployment | None:  # fmt: skip
    """Return two pools with as many engines more as it takes to hold in the realisation that their player plays.

    The pool grows that the time belongs to which is farthest beyond its limit. Null where they cost over `most`, or
    where more engines for prompts do not mend first tokens. leaps: each time it doubles; what is spare goes later.
    """
    limited, request = list(limits(one.player.request)), one.player.request
    before: tuple[int, Played] | None = None  # of the pool for prompts, which grew last
    while not (run := one.player.play(one.replicas, slowdown)).holds:
        on_step()
        assert one.prefill is not None
        if before is not None and not may_mend(request, before[1], run, before[0], one.prefill.replicas):
            return None
        beyond = {name: run.times.get((name, each.statistic), 0.0) / each.seconds for name, each in limited}
        slowest = max(beyond, key=beyond.__getitem__)
        prompts = slowest == "ttft" if beyond[slowest] > 1.0 else binds(one) == "prefill"
        number = one.prefill.replicas if prompts else one.replicas
        before = (number, run) if prompts else None
        one = with_engines(one, int(not prompts), number if leaps else max(number // _STEPS, 1))
        if one.cost > most:
            return None
    return one


def _shrunk(one: Deployment, slowdown: float, on_step: Callable[[], None]) -> tuple[Deployment, Played | None]:
    """Return two pools none of whose engines is spare in that realisation, and what becomes of them with one fewer."""
    fewer = None
    for pool in (1, 0):  # fewer engines that decode have fewer, larger steps, which are played sooner
        number = one.replicas if pool else one.prefill.replicas  # type: ignore[union-attr]
        known = {number: one.player.play(one.replicas, slowdown)}

        def run(count: int, one: Deployment = one, known: dict[int, Played] = known, number: int = number) -> Played:
            if count not in known:
                on_step()
                other = with_engines(one, pool, count - number)  # noqa: B023  called in this round
                known[count] = other.player.play(other.replicas, slowdown)
            return known[count]

        least = fewest(lambda count: run(count).holds, number, number)
        assert least is not None, "as many as there are hold"
        fewer = run(least - 1) if least > 1 else fewer
        one = with_engines(one, pool, least - number)
    return one, fewer


def _numbers(most: float) -> list[int]:
    """Return numbers of devices from one to the most, each about the same factor above the one before."""
    return sorted({round(number) for number in np.geomspace(1.0, max(most, 1.0), _COUNTS)})


def _near(own: dict[str, Array], row: int) -> dict[str, Array]:
    """Return the layout of a row with each number of engines above the one that was tried before, up to its own."""
    same = own["instances"][own["row"] == own["row"][row]]
    most = own["instances"][row]
    below = same[same < most]
    least = float(below.max()) + 1.0 if below.size else 1.0
    numbers = np.unique(np.rint(np.linspace(least, most, min(int(most - least) + 1, _COUNTS))))
    layout = {name: np.full(len(numbers), column[row]) for name, column in own.items() if name != "instances"}
    return layout | {"instances": numbers}


@equation
def longest_mean(limit: Limit, played: float, mean: float) -> float:
    """Return how long the mean in closed form of a limited time may be for its statistic to hold [s].

    longest = limit.seconds * min(mean / played, 1)

    mean: in closed form; played: its statistic, both of the deployment that was played [s].
    """
    return limit.seconds * min(mean / played, 1.0)


def pooled(
    request: PlanRequest, engines: Sequence[Engine], played: Deployment, left_out: list[str],
    on_step: Callable[[], None] = lambda: None,
) -> Deployment | None:  # fmt: skip
    """Return the cheapest two pools for a load, of the engine and format that were played, null where none holds.

    They are played where their means alone might cost less than what holds.

    engines: of all clusters. left_out: receives why there are none.
    """
    run = played.played
    limited = list(limits(request))
    if run is None or not limited or any(not run.times.get((name, limit.statistic)) for name, limit in limited):
        return None
    margins = {
        name: longest_mean(limit, run.times[name, limit.statistic], played.point.metrics[name] or np.inf)
        for name, limit in limited
    }
    able = list(_pairs(request, engines, played))
    pairs = [pair for pair in able if _least_cost(pair, played) <= _SHARE * played.cost]
    if not pairs:
        dear = "a node for each costs over a quarter more than what was played"
        left_out.append(f"two pools: {dear if able else 'no layout does without pipeline stages'}")
        return None
    planned = (_without_errors(_Pair(request, pair, margins, played).best, left_out) for pair in pairs)
    some = [one for one in planned if one is not None]
    if not some:
        left_out.append("two pools: the means of none are within the limits at that cost")
        return None
    some.sort(key=lambda each: each[0].cost)
    able_to_win = [one for one, bound in some if not played.holds or bound < played.cost][:_PLAYED]
    if not able_to_win:
        return some[0][0]
    most = dearest(request, played)
    holding = [_without_errors(partial(settled, one, most, on_step), left_out) for one in able_to_win]
    best = min((one for one in holding if one is not None), key=lambda one: one.cost, default=None)
    if best is None:
        why = "those that hold when they are played cost more than the budget, or a quarter more than the best"
        left_out.append(f"two pools: {why}")
    return best


def _without_errors(of: Callable[[], T | None], left_out: list[str]) -> T | None:
    """Return what a function does, null where its pools cannot be evaluated or played. Note why."""
    try:
        return of()
    except InputError as error:
        line = f"two pools: {error.problems[0].message}"
        left_out += [] if line in left_out else [line]
        return None


def dearest(request: PlanRequest, played: Deployment) -> float:
    """Return what two pools cost at most beside what was played, in its unit: rent [$/s], else devices."""
    most = _SHARE * played.cost
    return most if request.budget is None or played.rent is None else min(most, request.budget)


def _least_cost(pair: tuple[list[Engine], list[Engine]], played: Deployment) -> float:
    """Return what a node for each pool costs, in the unit of what was played: rent [$/s], else devices.

    Infinite where that is rent, and a pool's is unknown.
    """
    nodes = [min(each.nodes(1) for each in some) * some[0].node for some in pair]
    rents = [1.0 if played.rent is None else some[0].rental for some in pair]
    return float(sum(number * (np.inf if rent is None else rent) for number, rent in zip(nodes, rents, strict=True)))


def _pairs(
    request: PlanRequest, engines: Sequence[Engine], played: Deployment
) -> Iterator[tuple[list[Engine], list[Engine]]]:
    """Yield the engines of a cluster for prompts and of one for decoding, of the format that was played."""
    own = played.engine.structure
    drafts = {path: text for path, text in own.choices.items() if path == DRAFTS}
    of_cluster: dict[str, dict[tuple[int, ...], Engine]] = {}
    for each in sorted(engines, key=lambda one: one.key):
        structure = each.structure
        same = (structure.framework, structure.precision, structure.choices) == (own.framework, own.precision, drafts)
        if same and each.degrees["pp"] == 1:
            of_cluster.setdefault(structure.cluster, {}).setdefault(tuple(each.degrees.values()), each)
    for prompts, decode in product(request.clusters, repeat=2):
        if prompts in of_cluster and decode in of_cluster:
            yield tuple(list(of_cluster[each].values())[:_LAYOUTS] for each in (prompts, decode))  # type: ignore[misc]
