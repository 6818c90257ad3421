"""Deployments that a plan consists of, and what is said of them: costs, times, commands, the document of JSON."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from costmodel.analytic.intervals import NORMAL_90
from costmodel.equations import equation
from costmodel.planning import commands
from costmodel.planning.launch.deployment import benchmark, caveats, checkpoint, statistics_of
from costmodel.planning.playing import STATISTICS, TOO_MANY, Played, Player, drawn, playable, probability, ramp_of
from costmodel.planning.request import UNITS, PlanRequest
from costmodel.planning.sizing import Engine, limits, with_replicas
from costmodel.planning.structures import DRAFTS, ENGINES, HEAD, Structure, load_settings, workload_lines
from costmodel.quantities import Array
from costmodel.records import MutableRecord, Record, field
from costmodel.result import Point
from costmodel.schema.published_tables import receipts
from costmodel.schema.references import as_reference
from costmodel.serving.lengths import longest_of
from costmodel.units import render

_MILLION, _HOUR = 1e6, 3600.0
_TIMES = ("ttft", "tpot", "latency")
_CLOSED = ("requests_per_second", "highest_stable_rate", "kv_use")
_OF_MODELS = "vllm"  # what serves a model whose framework nobody states
HOLDS = {True: "yes", False: "no", None: "not played"}  # of a deployment
NOTHING = "nothing"  # of what holds with the least replicas that there can be


class Pool(Record):
    """Engines that compute prompts for those of a deployment."""

    engine: Engine
    replicas: int

    @property
    def devices(self) -> int:
        """Return the devices of all of them."""
        return self.replicas * self.engine.devices


@equation
def whole_nodes(engine: Engine, devices: Array) -> Array:
    """Return the nodes that some devices of an engine are rented in. Two pools share none, as they are started.

    nodes = ceil(devices / node)     replicas stand on a part of a node that divides it, or on whole ones
    """
    nodes: Array = np.ceil(devices / engine.node)
    return nodes


class Deployment(Record):
    """Replicas of an engine that hold, or the nearest that were played where none do.

    prefill: engines that compute the prompts, null where the replicas do.
    spread: standard deviation of the logarithm of times of its steps.
    player: of the realisation that says how many replicas it takes; realisations: in which it was played and holds.
    fewer: what one replica fewer than the least that hold does, null where one is the least or none was played.
    """

    player: Player
    played: Played | None
    replicas: int
    fewer: Played | None
    point: Point
    spread: float
    why: str = ""
    prefill: Pool | None = None
    realisations: int = 0

    @property
    def engine(self) -> Engine:
        """Return what it consists of."""
        return self.player.engine

    @property
    def devices(self) -> int:
        """Return the devices of all replicas, and of the pool for prompts."""
        return sum(number for _, number in self._parts)

    @property
    def _parts(self) -> list[tuple[Engine, int]]:
        """Return the engines of each pool, the one for prompts first, and the devices of all of them."""
        own = self.engine, self.replicas * self.engine.devices
        return [own] if self.prefill is None else [(self.prefill.engine, self.prefill.devices), own]

    @property
    def _nodes(self) -> list[tuple[Engine, int]]:
        """Return the engines of each pool, and the nodes that are rented for it."""
        return [(engine, int(whole_nodes(engine, np.asarray(float(number))))) for engine, number in self._parts]

    @property
    def nodes(self) -> int:
        """Return the nodes that are rented for it."""
        return sum(number for _, number in self._nodes)

    @property
    def empty(self) -> int:
        """Return the devices of its nodes that nothing runs on."""
        return sum(number * engine.node for engine, number in self._nodes) - self.devices

    @property
    def cost(self) -> float:
        """Return what it costs: rent [$/s], or devices of its nodes where rent is unknown."""
        return float(self.devices + self.empty) if self.rent is None else self.rent

    @property
    def rent(self) -> float | None:
        """Return the rent of its nodes [$/s], null where a device has no price."""
        rents = [None if each.rental is None else number * each.node * each.rental for each, number in self._nodes]
        return None if None in rents else float(sum(rent or 0.0 for rent in rents))

    @property
    def holds(self) -> bool | None:
        """Tell whether it holds when it is played, null where its requests cannot be."""
        return None if self.played is None else self.played.holds

    @property
    def load(self) -> float:
        """Return its requests a second over the highest rate that is stable, zero of users who wait for answers."""
        rate, highest = (self.point.metrics.get(name) for name in ("requests_per_second", "highest_stable_rate"))
        return rate / highest if rate and highest else 0.0

    @property
    def probability(self) -> float | None:
        """Return the probability that it holds, by playing slower steps.

        Null where it does not, and where requests are so few that a quantile of theirs is that of the slowest one.
        """
        return probability(self.player, self.replicas, self.spread) if self.holds and not self.few else None

    @property
    def few(self) -> bool:
        """Tell whether fewer requests were played than a quantile that is limited takes: 1 / (1 - q)."""
        quantiles = [STATISTICS.get(limit.statistic, 0.0) for _, limit in limits(self.player.request)]
        least = 1.0 / (1.0 - max(quantiles, default=0.0))
        return self.played is not None and self.played.requests < round(least)


def in_order(some: Sequence[Deployment]) -> Callable[[Deployment], tuple[int, float, int]]:
    """Return the key of the order of deployments: those that hold when played, then those that are not played.

    Of these the cheapest first, then the fewest devices. Where a rent is unknown all go by the devices of their nodes.
    """
    rented = all(one.rent is not None for one in some)

    def key(one: Deployment) -> tuple[int, float, int]:
        rank = {True: 0, None: 1, False: 2}[one.holds]
        return rank, one.cost if rented else float(one.devices + one.empty), one.devices

    return key


class Plans(MutableRecord, eq=False):
    """The answer. best: deployments, the cheapest first, of each cluster the best one and some that lost.

    engines: that were looked at in closed form.
    over_budget: clusters of which one node costs more than the budget.
    reachable: where nothing holds, what would.
    """

    request: PlanRequest
    best: list[Deployment] = field(default_factory=list)
    lost: list[tuple[Engine, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    engines: list[Engine] = field(default_factory=list)
    over_budget: list[str] = field(default_factory=list)
    reachable: dict[str, Any] | None = None

    @property
    def lost_lines(self) -> list[str]:
        """Return what lost, and why, with its cluster where there are several."""
        on = "{0.structure.cluster}: " if len(self.request.clusters) > 1 else ""
        return [f"{on.format(each)}{each.structure} {each}: {why}" for each, why in self.lost]

    @property
    def nothing(self) -> str:
        """Return in words that there is no deployment, and why."""
        if self.engines:
            asked = f"{self.request.model} --cluster {self.request.clusters[0]}"
            why = "most kernels have no fit on these devices"
            return f"nothing is planned: {why}; `costmodel simulate {asked}` answers on their rooflines"
        return f"nothing fits {'the budget' if self.over_budget else 'in memory'}"


def replicas_word(count: int) -> str:
    """Return the word behind a number of replicas."""
    return "replica" if count == 1 else "replicas"


def failing(played: Played) -> str:
    """Return which limit a run broke, and by how much."""
    if not played.keeps_up:
        return TOO_MANY if played.binds == TOO_MANY else "requests queue longer and longer"
    for name, limit in played.limits.items():
        value = played.times.get((name, limit.statistic))
        if name.upper() == played.binds and value is not None:
            return f"{limit.statistic} {name.upper()} {shown(value)} > {shown(limit.seconds)}"
    return "a request never starts" if played.binds == "memory" else "within its limits"


def slowed(request: PlanRequest, spread: float) -> float:
    """Return the factor on times of steps for which is sized: those that take longer are as rare as `--confidence`."""
    return 1.0 if request.confidence is None else math.exp(spread * NormalDist().inv_cdf(request.confidence))


def shown(seconds: float) -> str:
    """Return a time with three digits."""
    return render(float(f"{seconds:.3g}"), "duration")


def why_not_less(one: Deployment) -> str:
    """Return what one replica fewer than the least that hold does, or why that is not known."""
    if one.prefill is not None and one.played is None:
        return "two pools are sized in closed form: one engine fewer is beyond the limits, or beyond their margin"
    if one.prefill is not None:
        return f"one engine fewer: {failing(one.fewer)}" if one.fewer else "one of each is the least"
    if one.played is None:
        return f"sized in closed form: {playable(one.player)}"
    if not one.played.holds:
        return "more replicas do not help, or are not there"
    least = 1 if one.fewer is None else one.fewer.replicas + 1
    spare = f"{least} would do: nodes are rented whole, and {one.replicas} fit on as many"
    if one.fewer is None:
        return spare if one.replicas > least else "one replica is the least"
    why, slower = failing(one.fewer), slowed(one.player.request, one.spread) - 1.0
    why += f" with steps {slower:.0%} slower, as --confidence asks" if slower else ""
    why = f"{least - 1} {replicas_word(least - 1)}: {why}"
    return f"{why}; {spare}" if one.replicas > least else why


def command_of(one: Deployment) -> str:
    """Return the command that evaluates a deployment again: it plays the same requests, where they can be played."""
    request, structure = one.player.request, one.engine.structure
    if one.prefill is not None:
        return _simulate_pools(one)
    settings = {key: text for key, text in load_settings(request).items() if key != "concurrency"}
    settings |= {"framework": structure.framework} if structure.framework != _OF_MODELS else {}
    settings |= {} if structure.precision is None else {"precision": structure.precision}
    usual = structure.plan.scheduler.token_budget
    settings |= {
        path: f"{value:g}" for path, value in one.engine.stated.items()
        if (path != "scheduler.token_budget" or usual is None or value != float(np.max(usual)))
    }  # fmt: skip
    settings |= {"replicas.count": str(one.replicas)} if one.replicas > 1 else {}
    plan = with_replicas(one.engine, request, one.replicas).plan
    users = getattr(plan, "concurrency", None)
    settings |= {} if users is None else {"concurrency": f"{users:g}"}
    if one.played is not None and request.trace is None:
        settings |= {"requests.count": str(drawn(one.engine, request))}
        settings |= {} if users is None else {"requests.arrivals": "closed_loop"}
    if one.played is not None and users is not None:
        settings["requests.ramp"] = f"{ramp_of(one.engine, request):g} s"
    settings |= _realisation(one, settings.get("requests"))
    options = ["--phase", "serving", *([] if one.played is None else ["--engine", "event"])]
    paths = {HEAD + key: text for key, text in settings.items()} | dict(structure.choices) | request.of_hardware
    return commands.simulate(str(request.model), structure.cluster, "serving", paths, options)


def _realisation(one: Deployment, requests: str | None) -> dict[str, str]:
    """Return the keys of the realisation that was played: a trace's lengths dealt out anew, or a seed."""
    seed = 0 if one.played is None else one.played.seed
    if not seed:
        return {}
    if one.player.request.trace is None or requests is None:
        return {"simulation": f"{{seed: {seed}}}"}
    return {"requests": f"{requests[:-1]}, shuffle: {seed}}}"}


def load_of_pools(structure: Structure, request: PlanRequest) -> dict[str, str]:
    """Return the load of two pools as keys of a scenario: mean lengths, the rate or all users, and the trace."""
    plan = structure.plan
    lengths = {"input_tokens": f"{float(plan.input_tokens):g}", "output_tokens": f"{float(plan.output_tokens):g}"}
    if request.users is not None or plan.rate is None:
        lengths["concurrency"] = str(request.users)
    else:
        lengths["rate"] = f"{float(plan.rate):.12g} /s"
    lengths |= {name: text for name, text in load_settings(request).items() if name == "requests"}
    return lengths | ({"speculative": structure.choices[DRAFTS]} if DRAFTS in structure.choices else {})


def _simulate_pools(one: Deployment) -> str:
    """Return the command that writes the workload of two pools, which is no change of a model's, and simulates it."""
    request, structure = one.player.request, one.engine.structure
    settings = load_of_pools(structure, request)
    if one.played is not None:
        parts = [settings["requests"][1:-1]] if "requests" in settings else []
        parts += [] if request.trace is not None else [f"count: {drawn(one.engine, request)}"]
        if request.users is not None:
            parts += [] if request.trace is not None else ["arrivals: closed_loop"]
            parts.append(f"ramp: {ramp_of(one.engine, request):g} s")
        settings["requests"] = f"{{{', '.join(parts)}}}"
    settings |= _realisation(one, settings.get("requests"))
    for role, entry in zip(("prefill", "decode"), pools(one), strict=True):
        assert entry is not None, "there are two"
        degrees = ", ".join(f"{name}: {value}" for name, value in entry["parallel"].items())
        cluster = json.dumps(as_reference(entry["cluster"]))
        settings[role] = f"{{cluster: {cluster}, instances: {entry['instances']}, parallel: {{{degrees}}}}}"
    own = [f"    {key}: {text}" for key, text in settings.items()]
    lines = workload_lines(request, structure.cluster, structure.framework, structure.precision, own)
    options = [part for path, text in request.of_hardware.items() for part in ("--set", f"{path}={text}")]
    options += [] if one.played is None else ["--engine", "event"]
    command = shlex.join(["costmodel", "simulate", "two_pools.yaml", *options])
    return f"printf '%s\\n' {shlex.join(lines)} > two_pools.yaml && {command}"


def pools(one: Deployment) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return both pools by the keys of JSON, nulls where there is one."""
    if one.prefill is None:
        return None, None
    prompts, decode = (
        {
            "cluster": part.engine.structure.cluster, "instances": part.replicas, "devices": part.devices,
            "parallel": part.engine.degrees,
        }
        for part in (one.prefill, Pool(one.engine, one.replicas))
    )  # fmt: skip
    return prompts, decode


def document(plans: Plans, *, in_full: bool = True) -> dict[str, Any]:
    """Return the answer by the keys of `costmodel plan --json`. in_full: as `plan_document` has it."""
    return {
        "request": plans.request.document(), "plans": [plan_document(one, in_full=in_full) for one in plans.best],
        "left_out": [*plans.left_out, *plans.lost_lines], "reachable": plans.reachable,
    }  # fmt: skip


def plan_document(one: Deployment, *, in_full: bool = True) -> dict[str, Any]:
    """Return a deployment by its keys. Times in seconds, rent in $/h, energy in joules for a million tokens.

    in_full: with intervals and probability, for which slower steps are played.
    """
    structure, played, energy = one.engine.structure, one.played, one.point.metrics.get("energy_per_token")
    drafts = structure.drafts
    scheduler = with_replicas(one.engine, one.player.request, one.replicas).plan.scheduler  # type: ignore[union-attr]
    sequences = scheduler.max_num_seqs
    return {
        "cluster": structure.cluster, "devices": one.devices, "replicas": one.replicas,
        "nodes": one.nodes, "empty": one.empty, "engine": structure.framework,
        "framework": structure.scenario.framework.name, "precision": structure.format,
        "parallel": one.engine.degrees, "prefill": pools(one)[0], "decode": pools(one)[1],
        "scheduler": {
            "token_budget": int(np.max(scheduler.token_budget or 0)) or None,
            "max_num_seqs": None if sequences is None else int(np.max(sequences)),
        },
        **({} if drafts is None else {"speculative": drafts}), "metrics": metrics(one),
        "statistics": statistics(one), "intervals": intervals(one) if in_full else {},
        "played": None if played is None else {
            "ttft_p99": played.times.get(("ttft", "p99")), "tpot_p99": played.times.get(("tpot", "p99")),
            "requests": played.requests, "seed": played.seed, "realisations": one.realisations,
        },
        "holds": one.holds, "probability": one.probability if in_full else None, "binds": binds(one),
        "cost_rate": None if one.rent is None else one.rent * _HOUR, "cost_per_million": costs(one),
        "load": load_of(one),
        "energy_per_million": None if energy is None else energy * _MILLION,
        "units": UNITS, "why_not_less": why_not_less(one), "command": command_of(one),
    }  # fmt: skip


def binds(one: Deployment) -> str:
    """Return what keeps a deployment from being smaller: the limit that one replica fewer breaks, else the nearest.

    Nothing does where one replica is the least and holds.
    """
    if one.fewer is not None:
        return one.fewer.binds
    if one.holds:
        return NOTHING
    if one.prefill is not None:
        known = one.point.metrics
        rate, highest, load = (
            known[name] or 0.0 for name in ("requests_per_second", "highest_stable_rate", "prefill_load")
        )
        return "prefill" if load * highest >= rate * (1.0 - 1e-6) else "decode"
    return "memory" if one.played is None else one.played.binds


def metrics(one: Deployment) -> dict[str, float | None]:
    """Return what was played, and the closed form of the rest: times without a statistic are means.

    concurrency: requests in flight in the whole deployment: users, else rate * latency, both played where they can be
    [Little, Operations Research 9(3), 1961].
    """
    values = {name: one.point.metrics.get(name) for name in (*_TIMES, *_CLOSED)} | _played_times(one)
    rate, latency, users = values["requests_per_second"], values["latency"], one.player.request.users
    if one.played is not None and one.played.times:
        rate = one.played.per_second
    little = None if rate is None or latency is None else rate * latency
    return values | {"concurrency": little if users is None else float(users)}


def _played_times(one: Deployment, slower: float = 0.0) -> dict[str, float]:
    """Return the times of the requests that were played, means by the name of the time alone as well.

    slower: logarithm of the factor on times of steps.
    """
    times = {} if one.played is None else one.player.play(one.replicas, float(np.exp(slower))).times
    means = {name: value for (name, statistic), value in times.items() if statistic == "mean"}
    return means | {f"{name}_{statistic}": value for (name, statistic), value in times.items()}


def statistics(one: Deployment) -> dict[str, str]:
    """Return what each of the metrics is: of closed form, a mean of requests there, or a statistic of those played."""
    known = dict.fromkeys(_TIMES, "mean in closed form") | dict.fromkeys(_CLOSED, "closed form")
    known |= {name: f"{name.partition('_')[2] or 'mean'} of requests played" for name in _played_times(one)}
    users = one.player.request.users
    return known | {"concurrency": f"rate * latency, {known['latency']}" if users is None else "users"}


def intervals(one: Deployment) -> dict[str, list[float]]:
    """Return 80 % intervals, of what was played with steps that take exp(+-1.28 sigma) as long."""
    known = {
        name: list(ends) for name, ends in one.point.intervals.items() if ends is not None and name != "concurrency"
    }
    ends = [_played_times(one, sign * NORMAL_90 * one.spread) for sign in (-1.0, 1.0)]
    return {name: known[name] for name in metrics(one) if name in known} | {
        name: [min(value, ends[0].get(name, value)), max(value, ends[1].get(name, value))]
        for name, value in _played_times(one).items()
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
    seen = " (seen: fits had them in sight; blind: nothing had)"
    return (
        f"errors of published runs of {on}: {', '.join(known)}{seen}" if known else f"no published run of {on} is known"
    )


def load_of(one: Deployment) -> dict[str, float | None]:
    """Return the load by the names of the options, mean lengths of a trace. longest: tokens of its longest request."""
    request, plan = one.player.request, one.engine.structure.plan
    lengths = {"isl": float(plan.input_tokens), "osl": float(plan.output_tokens)}
    rate = None if request.users is not None or plan.rate is None else float(plan.rate)
    longest = sum(lengths.values()) if request.trace is None else longest_of(request.trace)
    return {**lengths, "rate": rate, "users": request.users, "longest": longest}


def benchmark_line(one: Deployment) -> str:
    """Return the command that would measure what a plan promises, of one replica at its share."""
    request, structure, share = one.player.request, one.engine.structure, one.replicas if one.prefill is None else 1
    known = {name: value for name, value in load_of(one).items() if value is not None}
    load = {name: -(-value // share) if name == "users" else value / share if name == "rate" else value
            for name, value in known.items()}  # fmt: skip
    model = checkpoint(str(request.model), request.search_path)
    drafts, statistics = structure.drafts is not None, statistics_of([request.ttft, request.tpot])
    return shlex.join(benchmark(structure.framework, model, load, statistics, drafts=drafts))


def not_checked(one: Deployment) -> list[str]:
    """Return what that command does not measure."""
    drafts, of_trace = one.engine.structure.drafts is not None, one.player.request.trace is not None
    return list(caveats(drafts=drafts, of_trace=of_trace))
