"""How many replicas of each engine's layout a load takes, in closed form: at least, and about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.out_of_memory import gib
from costmodel.analytic.paces import Engines as Paces
from costmodel.analytic.paces import paced
from costmodel.analytic.serving.open_loop import OpenLoopEvaluation
from costmodel.cost.calibration import Calibration
from costmodel.errors import InfeasibleError
from costmodel.planning.launch.layouts import layout_words
from costmodel.planning.launch.scripts import can_start
from costmodel.planning.request import Limit, PlanRequest
from costmodel.planning.structures import HEAD, MOST_DEVICES, SCENARIO, Structure, counts
from costmodel.quantities import Array
from costmodel.records import Record, field, replace
from costmodel.result import Point
from costmodel.study.layouts import DEGREES, REPLICAS, SLICES, Space, divisors, server_space
from costmodel.workload.counting import parameter_count
from costmodel.workload.dtypes import element_bytes
from costmodel.workload.plans import Serving, drafted_tokens
from costmodel.workload.scenario import Scenario
from costmodel.workload.validity import feasible_layout

NORMAL = {"p50": 0.0, "p90": 1.2815515655446004, "p95": 1.6448536269514722, "p99": 2.3263478740408408}
"""Statistic -> that quantile of the standard normal distribution."""
BUDGETS = (2048.0, 8192.0, 16384.0)  # tokens of a step that are tried besides the engine's own
NAMED = {
    name: f"parallel.{name}" for name in (*DEGREES[:4], SLICES.rpartition(".")[2])
}  # of a layout, as a plan has it
_FEW_LAYOUTS = 4  # which are tried at every budget
_BUDGET = "scheduler.token_budget"
_NODES = (2, 4, 8)  # whole nodes of an engine, where no smaller one holds the model or experts spread
NEVER = 10**9  # replicas, where no number holds
FLAT = 1.1  # times the shortest times, which more replicas hardly improve
Mask = npt.NDArray[np.bool_]


class Engine(Record, dict=True):
    """An engine's layout. at: path below the scenario -> value.

    devices: of one replica; rental: rent of a device [$/s], null where it has no price.
    least: replicas with fewer of which means are beyond the limits already.
    likely: replicas with which the rough closed form is within them, or from which on more of them hardly help.
    most: replicas that the cluster, or the budget, has.
    promise: that number over the replicas with which the rough closed form is within the limits, zero where none are.
    beyond: least of the largest ratio of the closed form's times to their limits, over numbers of replicas.
    margin: that ratio, or the share of its capacity that the load takes, whichever is larger, where the nodes of the
    likely replicas are full: steps that are longer by its inverse are beyond. Of a request that leaves a time without a
    limit a whole answer's mean time [s], which queues of the other time are in.
    nearest: time -> the least ratio to its own limit, and with how many replicas.
    points: results in full by their number of replicas, as they are asked for.
    """

    structure: Structure
    at: Mapping[str, float]
    devices: int
    rental: float | None
    least: int
    likely: int
    most: int
    promise: float
    beyond: float
    margin: float
    nearest: Mapping[str, tuple[float, int]]
    points: dict[int, Point] = field(default_factory=dict)

    @property
    def key(self) -> tuple[float, float, int, int]:
        """Return the order in which engines are played: the fewest devices by the rough closed form, in nodes, first.

        Of those that need one node at most the fastest: none is cheaper.
        """
        rough = np.inf if self.beyond > 1.0 else max(self.likely * self.devices / self.node, 1.0)
        return rough, self.margin, self.least * self.devices, self.devices

    @property
    def is_other(self) -> bool:
        """Tell whether its number format is another than the one that the model was published in."""
        return self.structure.precision is not None

    @property
    def node(self) -> int:
        """Return the devices of a node."""
        return int(np.max(self.structure.scenario.cluster.node.count))

    def nodes(self, replicas: int) -> int:
        """Return the nodes of some replicas: those on a part of a node fill it one after the other."""
        return -(-replicas * self.devices // self.node)

    def within(self, nodes: int) -> int:
        """Return the most replicas that some nodes have devices for."""
        return min(nodes * self.node // self.devices, self.most)

    @property
    def degrees(self) -> dict[str, int]:
        """Return the degrees of parallelism, and the slices of an expert where these are not the usual ones."""
        return {name: int(self.stated[path]) for name, path in NAMED.items() if path in self.stated}

    @cached_property
    def stated(self) -> dict[str, float]:
        """Return what a workload has to state of the layout: not `tp` slices of an expert if `ep` is 1, else one."""
        usual = self.at["parallel.tp"] if self.at["parallel.ep"] == 1.0 else 1.0
        return {path: value for path, value in self.at.items() if value and not (path == SLICES and value == usual)}

    @cached_property
    def changes(self) -> dict[str, float]:
        """Return the paths of the workload that this layout sets, but for the number of replicas."""
        return {f"{HEAD}{path}": value for path, value in self.stated.items()}

    @cached_property
    def scenario(self) -> Scenario:
        """Return the scenario of one replica of this layout."""
        scenario = self.structure.workload.changed(self.changes, [SCENARIO]).scenario(SCENARIO)
        return _at_measured_pace(scenario, self.structure.workload.calibration(scenario))

    def in_full(self, request: PlanRequest, replicas: int) -> Point:
        """Return the closed form of so many replicas in full, computed once."""
        if replicas not in self.points:
            scenario = with_replicas(self, request, replicas)
            self.points[replicas] = evaluate_point(scenario, self.structure.workload.calibration(scenario), evaluate)
        return self.points[replicas]

    def __str__(self) -> str:
        return layout_words(self.degrees)


def _at_measured_pace(scenario: Scenario, calibration: Calibration) -> Scenario:
    """Return a scenario whose steps take the times that measured runs of its site make likely."""
    if scenario.anchor is None:
        return scenario
    kept: list[Scenario] = []

    def asked(paced_one: Scenario, its: Calibration) -> Evaluation:
        kept.append(paced_one)
        return evaluate(paced_one, its)

    paced(scenario, calibration, Paces(asked, evaluate, evaluate))
    return kept[-1]


def engines(
    structure: Structure, request: PlanRequest, sizes: Sequence[int], *, pipelines: bool = False
) -> list[Engine]:  # fmt: skip
    """Return the layouts of an engine on some numbers of devices, at its own budget of tokens, that fit in memory.

    Means are no longer than quantiles of slower requests, so that fewer than `least` replicas never hold.
    """
    weights, capacity = weights_of(structure)
    able = [size for size in sizes if weights <= size * capacity]
    layouts = layouts_of(structure, able)
    some = layouts.select(np.flatnonzero((layouts.columns["parallel.pp"] > 1.0) == pipelines))
    return _of(structure, request, some, _budgets(structure)[:1])


def layouts_of(structure: Structure, sizes: Sequence[int]) -> Space:
    """Return the layouts of one engine on some numbers of devices that its options state.

    Experts are sliced over all ranks or whole: what lies between no run of our tables has tried, and SGLang's kernels
    in 4 bits refuse it [sgl-project/sglang, server_args.py, _handle_moe_kernel_config].
    """
    space = server_space(structure.scenario, sizes).columns
    tp, dp, ep = (space[f"parallel.{name}"] for name in ("tp", "dp", "ep"))
    rows = np.flatnonzero((space[REPLICAS] == 1.0) & ((ep == 1.0) | (ep == tp * dp)))
    degrees = ({name: space[path][row] for name, path in NAMED.items() if path in space} for row in rows)
    rows = rows[[can_start(structure.framework, of) for of in degrees]]
    return Space({name: own[rows] for name, own in space.items() if name != REPLICAS})


def at_budgets(some: Sequence[Engine], request: PlanRequest) -> list[Engine]:
    """Return an engine's layouts that promise most at other budgets of tokens, which hardly move one among others."""
    best = sorted(some, key=lambda one: one.key)[:_FEW_LAYOUTS]
    names = (name for name in best[0].at if name != _BUDGET)
    layouts = Space({name: np.array([one.at[name] for one in best]) for name in names})
    return _of(best[0].structure, request, layouts, _budgets(best[0].structure)[1:])


def weights_of(structure: Structure) -> tuple[float, float]:
    """Return the least bytes of a model's weights, all in its narrowest format, and the capacity of a device [B]."""
    scenario = structure.scenario
    own, parts = scenario.precision.weights, scenario.precision.parts.values()
    narrowest = min(float(element_bytes(name)) for name in (own, *(each.weights for each in parts)))
    weights = float(parameter_count(scenario.architecture).total) * narrowest
    return weights, float(np.max(scenario.cluster.device.device_memory.capacity))


def lacking(structure: Structure, request: PlanRequest, largest: int, *, fits: bool) -> str:
    """Return why a structure has no engine that may hold. largest: devices of the engines that were looked at.

    fits: whether it has one in memory.
    """
    (weights, capacity), most = weights_of(structure), sizes_of(structure)[-1][-1]
    if fits:
        return f"no layout{'' if largest == most else f' of up to {largest} devices'} keeps to the limits"
    has = f"{gib(weights)}, an engine has at most {gib(most * capacity)} on {most} x {gib(capacity)}"
    if weights > most * capacity:
        return (
            f"no layout fits in memory: weights alone take at least {has}; name a --cluster of larger devices, or one "
            f"whose engines have {int(weights / capacity) + 1} devices"
        )
    if largest < most:
        return f"an engine takes over {largest} devices, which cannot cost less than what holds"
    tokens = (request.isl or 0.0) + (request.osl or 0.0)
    of_tokens = f" of {tokens:,.0f} tokens" if tokens else ""
    within = " within the budget" if request.budget is not None else ""
    return f"no layout has room for a request{of_tokens}{within}: weights take at least {has}"


def _budgets(structure: Structure) -> tuple[float, ...]:
    """Return the budgets of tokens that are tried, the engine's own first, with room for all that it runs at a time."""
    plan = structure.plan
    own, most = plan.scheduler.token_budget, plan.scheduler.max_num_seqs if plan.scheduler.mixes else None
    least = 0.0 if most is None else float(np.max(most)) * (1.0 + drafted_tokens(plan.speculative))
    some = (*(() if own is None else (float(np.max(own)),)), *(each for each in BUDGETS if each >= least))
    return tuple(dict.fromkeys(some))


def sizes_of(structure: Structure) -> list[list[int]]:
    """Return the numbers of devices of an engine in the order in which they are tried: divisors of a node, whole nodes.

    No engine of more nodes than a deployment that holds costs less.
    """
    cluster = structure.scenario.cluster
    node, has_network = int(cluster.node.count), cluster.network is not None or cluster.node.nic is not None
    able = [node * nodes for nodes in _NODES if has_network and node * nodes <= structure.most]
    return [divisors(node), *([size] for size in able)]


def _of(structure: Structure, request: PlanRequest, layouts: Space, budgets: Sequence[float]) -> list[Engine]:
    """Return the engines of some layouts at some budgets of tokens."""
    if not layouts.size or not budgets:
        return []
    columns = {name: np.repeat(column, len(budgets)) for name, column in layouts.columns.items()}
    columns[_BUDGET] = np.tile(budgets, layouts.size)
    devices = columns["parallel.tp"] * columns["parallel.pp"] * columns["parallel.dp"]
    axis = counts(int(MOST_DEVICES // devices.min()))
    vary: dict[str | tuple[str, ...], tuple[Array, ...]] = {
        tuple(HEAD + name for name in columns): tuple(columns.values()),
        (HEAD + REPLICAS,): (axis,),
    }
    if request.users is not None:
        return _closed_loop(structure, request, columns, devices, axis)
    scenario, shape = structure.workload.varied(SCENARIO, vary)
    return _collected(structure, request, columns, devices, _judged(structure, request, scenario, shape), axis)


def _closed_loop(
    structure: Structure, request: PlanRequest, columns: dict[str, Array], devices: Array, axis: Array
) -> list[Engine]:
    """Return the engines whose users are divided among them: pairs of a layout and a number of replicas."""
    size, number = len(devices), len(axis)
    assert request.users is not None
    pairs = {name: np.repeat(column, number) for name, column in columns.items()}
    replicas = np.tile(axis, size)
    groups = replicas * pairs["parallel.dp"]
    pairs |= {REPLICAS: replicas, "concurrency": np.ceil(request.users / groups)}
    scenario, shape = structure.workload.varied(SCENARIO, {tuple(HEAD + name for name in pairs): tuple(pairs.values())})
    judged = _judged(structure, request, scenario, shape)
    return _collected(structure, request, columns, devices, judged.reshaped(size, number), axis)


class _Judged(Record):
    """Where a layout fits, and ratios of its times to their limits: the largest of means, rough quantiles by name.

    latency: mean time of a whole answer [s]. load: rate of requests over the highest stable one.
    Infinite where a queue grows, as all ratios are.
    """

    fits: Mask
    means: Array
    latency: Array
    load: Array
    each: dict[str, Array]

    @property
    def rough(self) -> Array:
        """Return the largest ratio of rough quantiles."""
        return np.asarray(np.maximum.reduce(list(self.each.values())))

    def reshaped(self, *shape: int) -> _Judged:
        each = {name: ratio.reshape(shape) for name, ratio in self.each.items()}
        means, latency, load = (own.reshape(shape) for own in (self.means, self.latency, self.load))
        return _Judged(self.fits.reshape(shape), means, latency, load, each)


@np.errstate(divide="ignore", invalid="ignore", over="ignore")  # points that are masked
def _judged(structure: Structure, request: PlanRequest, scenario: Scenario, shape: tuple[int, ...]) -> _Judged:
    """Return how a grid of layouts and numbers of replicas compares with memory and limits."""
    try:
        evaluation = evaluate(scenario, structure.workload.calibration(scenario))
    except InfeasibleError:
        never = np.full(shape, np.inf)
        return _Judged(np.zeros(shape, dtype=bool), never, never, never, {"": never})
    ledger = evaluation.ledger
    assert ledger is not None, "an engine holds a model"
    metrics = evaluation.metrics(None)
    fits = feasible_layout(scenario) & (ledger.total <= scenario.cluster.device.device_memory.capacity)
    rate = None if not isinstance(scenario.plan, Serving) else scenario.plan.rate
    load = np.zeros(()) if rate is None else rate / np.asarray(metrics["highest_stable_rate"])
    keeps_up = load < 1.0
    latency = np.asarray(metrics["latency"], dtype=np.float64)
    ratios = {"means": np.zeros(shape), "": np.zeros(shape)}
    ratios |= {name: np.broadcast_to(own, shape) for name, own in (("latency", latency), ("load", load))}
    for name, limit in limits(request):
        mean = np.asarray(metrics[name], dtype=np.float64)
        if limit.statistic != "p50":  # a median may be below the mean
            ratios["means"] = np.maximum(ratios["means"], mean / limit.seconds)
        ratios[name] = _statistic(evaluation, name, limit, mean) / limit.seconds
    ratios = {name: np.where(keeps_up & fits & np.isfinite(each), each, np.inf) for name, each in ratios.items()}
    means, latency, load = (ratios.pop(name) for name in ("means", "latency", "load"))
    return _Judged(np.broadcast_to(np.asarray(fits, dtype=bool), shape), means, latency, load, ratios)


def means_hold(engine: Engine, request: PlanRequest, replicas: int) -> bool:
    """Tell whether so many replicas keep up with the rate, and their means to the limits, in closed form."""
    scenario = with_replicas(engine, request, replicas)
    judged = _judged(engine.structure, request, scenario, ())
    return bool(judged.means <= 1.0)


def is_limited(request: PlanRequest) -> bool:
    """Tell whether a request limits first tokens and the time of each further one."""
    return request.ttft is not None and request.tpot is not None


def limits(request: PlanRequest) -> Iterator[tuple[str, Limit]]:
    """Yield the times that a request limits, with their limits."""
    if request.ttft is not None:
        yield "ttft", request.ttft
    if request.tpot is not None:
        yield "tpot", request.tpot


def _statistic(evaluation: Evaluation, name: str, limit: Limit, mean: Array) -> Array:
    """Return a statistic of a time in closed form, its mean where it knows no other [s]."""
    if limit.statistic == "mean" or not isinstance(evaluation, OpenLoopEvaluation):
        return mean
    return np.asarray(evaluation.tails(NORMAL[limit.statistic])[name], dtype=np.float64)


def _collected(
    structure: Structure, request: PlanRequest, columns: Mapping[str, Array], devices: Array, judged: _Judged,
    axis: Array,
) -> list[Engine]:  # fmt: skip
    """Return the layouts that fit in memory, with the numbers of replicas that the closed form says."""
    rental, node = request.rental(structure.scenario.cluster.device), int(np.max(structure.scenario.cluster.node.count))
    limited = [name for name, _ in limits(request)]
    fitting, rough = [], judged.rough
    for row in np.flatnonzero(judged.fits.any(axis=1)).tolist():
        size = int(devices[row])
        most = structure.most // size
        if request.budget is not None and rental is not None:
            most = min(most, int(request.budget / (node * rental)) * node // size)
        if most < 1:
            continue
        least, enough = _fewest(judged.means[row] <= 1.0, axis), _fewest(rough[row] <= 1.0, axis)
        flat, beyond = _flat(rough[row])
        lower = NEVER if least is None else 1 + int(axis[least - 1]) if least else 1
        about = int(axis[flat if enough is None else enough])
        at = {name: float(column[row]) for name, column in columns.items()}
        flats = {name: _flat(judged.each[name][row]) for name in limited if name in judged.each}
        nearest = {name: (ratio, min(int(axis[number]), most)) for name, (number, ratio) in flats.items()}
        likely = min(about, most)
        full = min(-(-likely * size // node) * node // size, most)
        order = np.maximum(rough, judged.load) if is_limited(request) else judged.latency
        margin = float(order[row][np.searchsorted(axis, full, side="right") - 1])
        promise = 0.0 if enough is None else most / float(axis[enough])
        fitting.append(Engine(structure, at, size, rental, lower, likely, most, promise, beyond, margin, nearest))
    return fitting


def _flat(ratios: Array) -> tuple[int, float]:
    """Return the index of the fewest replicas from which on more hardly help, and the least ratio."""
    least = float(ratios.min())
    return int(np.argmax(ratios <= least * FLAT)), least


def _fewest(holds: Mask, axis: Array) -> int | None:
    """Return the index of the fewest replicas that hold, null where none do."""
    where = np.flatnonzero(holds[: len(axis)])
    return int(where[0]) if len(where) else None


def one_per_layout(some: Sequence[Engine]) -> list[Engine]:
    """Return engines in the order of promise, of those that differ in their budget of tokens alone the best."""
    best: dict[tuple[object, ...], Engine] = {}
    for engine in sorted(some, key=lambda one: one.key):
        best.setdefault((id(engine.structure), *engine.degrees.values()), engine)
    return list(best.values())


def with_replicas(engine: Engine, request: PlanRequest, count: int) -> Scenario:
    """Return the scenario of so many replicas of an engine."""
    scenario, plan = engine.scenario, engine.scenario.plan
    assert isinstance(plan, Serving)
    users: float | None = None
    if request.users is not None:
        users = float(np.ceil(request.users / (count * float(scenario.parallel.dp))))
    rate = plan.rate if request.trace is not None else request.rate
    own = replace(plan, replicas=replace(plan.replicas, count=float(count)), concurrency=users, rate=rate)
    return replace(scenario, plan=own)
