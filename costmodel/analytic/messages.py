"""One collective or exchange by itself, in closed form or by flows, with what measurements say of the links."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator
from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError
from costmodel.hardware import Cluster
from costmodel.network.algorithms import algorithm_time, best_chunks, pipelined
from costmodel.network.cluster_links import KINDS
from costmodel.network.collectives import collective_time
from costmodel.network.expert_all_to_all import expert_all_to_all_time
from costmodel.network.group_links import GroupLinks, group_links
from costmodel.network.layout import Layout, layout
from costmodel.network.patterns import ALGORITHMS, bandwidth, bus_factor
from costmodel.network.simulation import WORDS, Outcome, Setting, run_collective, run_exchange, setting
from costmodel.quantities import Seconds
from costmodel.workload.architecture import Architecture, MoeFfn
from costmodel.workload.operators import Collective, ExpertAllToAll, Group, expert_all_to_all_family
from costmodel.workload.scenario import Framework

ENGINES = ("analytic", "flow")
EXCHANGES = ("dispatch", "combine")
COLLECTIVES = (*ALGORITHMS, *EXCHANGES)


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """What an exchange needs to know of a model: top_k of `experts`, from `group_top_k` of `expert_groups`."""

    hidden: float
    experts: float
    top_k: int
    expert_groups: float
    group_top_k: int


def routing_of(model: Architecture) -> Routing:
    """Return how a model's tokens choose experts; raise InputError where it has none."""
    for layer in model.layers:
        if isinstance(layer.ffn, MoeFfn):
            ffn = layer.ffn
            return Routing(
                float(model.hidden), float(ffn.experts), ffn.top_k, float(ffn.groups or 1.0), ffn.group_top_k or 1
            )
    raise InputError.single(f"{model.name} has no experts", hint="name a mixture-of-experts model")


@dataclass(frozen=True, slots=True, eq=False)
class CollectiveRequest:
    """A collective of `size` bytes among `ranks`, as nccl-tests counts them.

    algorithm: null for the fastest; chunks: of a pipelined one, null for so many that they do not count; stride,
    groups: as of a layout; seed: of ECMP's hashes. For an exchange `size` is a rank's tokens in the payload's format;
    mode as of Exchange; in_network: switches copy and add up.
    """

    kind: str
    ranks: int
    size: float
    algorithm: str | None = None
    chunks: int | None = None
    stride: int = 1
    groups: int = 1
    seed: int = 0
    routing: Routing | None = None
    element: float = 2.0
    mode: str = "normal"
    in_network: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class CollectiveTime:
    """What it takes. latency: the part that does not shrink with the size; share: achieved part of the links."""

    asked: CollectiveRequest
    engine: str
    time: float
    latency: float
    bottleneck: str
    algorithm: str
    basis: str
    bus_bytes: float
    outcome: Outcome | None = None

    def document(self) -> dict[str, Any]:
        """Return the answer as `costmodel collective --json` prints it."""
        return {
            "kind": self.asked.kind, "ranks": self.asked.ranks, "size": self.asked.size, "engine": self.engine,
            "algorithm": self.algorithm, "time": self.time, "algbw": bandwidth(self.asked.size, self.time),
            "busbw": bandwidth(self.bus_bytes, self.time), "latency_part": self.latency, "bottleneck": self.bottleneck,
            "basis": self.basis,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Wire:
    """What measurements say of a message's links. fixed: null where the latencies of the path stand for themselves.

    launch: before it [s]; share: achieved part of the bandwidth of every link at this size.
    """

    launch: float
    share: float
    fixed: float | None


def answer(
    asked: CollectiveRequest, cluster: Cluster, calibration: Calibration, framework: Framework, engine: str
) -> CollectiveTime:
    """Return the time of a collective or exchange; raise InputError where it does not fit the cluster."""
    if engine not in ENGINES:
        raise InputError.single(f"no engine is named {engine!r}", hint=f"write one of {', '.join(ENGINES)}")
    if asked.kind not in COLLECTIVES:
        raise InputError.single(f"no collective is named {asked.kind!r}", hint=f"write one of {', '.join(COLLECTIVES)}")
    _check_engine(asked, engine)
    where = layout(cluster, asked.ranks, stride=asked.stride, groups=asked.groups)
    operator = _operator(asked)
    whole = replace(cluster, network=_sound(cluster))
    priced = OperatorTimer(whole, framework, calibration, cluster.device.processors).time_operator(operator)
    way = group_links(operator.group, whole)
    if engine == "flow":
        wire = _wire(priced, framework, lambda: _bare_flows(operator, cluster))
        time, latency, bottleneck, algorithm, outcome = _by_flows(asked, operator, cluster, where, wire)
    else:
        wire = _wire(priced, framework, lambda: float(_wire_time(operator, _bare(way))))
        time, latency, bottleneck, algorithm, outcome = _closed(asked, operator, cluster, wire)
    basis = priced.fit.basis_at(operator)
    return CollectiveTime(
        asked=asked,
        engine=engine,
        time=time,
        latency=latency,
        bottleneck=bottleneck,
        algorithm=algorithm,
        basis=basis,
        bus_bytes=_bus_bytes(asked, operator, way),
        outcome=outcome,
    )


def _check_engine(asked: CollectiveRequest, engine: str) -> None:
    """Raise InputError for what only the other engine knows."""
    only_flows = {
        "stride": asked.stride > 1, "groups": asked.groups > 1, "seed": asked.seed != 0, "in_network": asked.in_network
    }  # fmt: skip
    named = [name for name, stated in only_flows.items() if stated]
    if engine != "flow" and named:
        raise InputError.single(f"the closed form knows no {named[0]}", hint="write --engine flow")
    if engine == "flow" and asked.chunks is not None:
        raise InputError.single("flows know no chunks", hint="leave chunks out, or write --engine analytic")


def _wire(priced: TimedOperator, framework: Framework, bare: Callable[[], float]) -> Wire:
    """Return the part of the links' bandwidth that a fit says is achieved at an operator's size, and what is fixed.

    Without a fitted form: the fit's share of the network. With one: the engine's time without latencies, on a fabric
    where nothing meets, over the fit's time on the wire, so that flows that meet no others take the fitted time.
    """
    fit, time = priced.fit, priced.time
    if fit.form is None or float(time.network) <= 0:
        return Wire(float(framework.launch * fit.launch_factor), float(fit.network_efficiency), None)
    return Wire(0.0, bare() / float(time.network), float(time.fixed))


def _bare(way: GroupLinks) -> GroupLinks:
    return replace(way, intra_latency=0.0, inter_latency=0.0)


def _bare_flows(operator: Collective | ExpertAllToAll, cluster: Cluster) -> float:
    """Return the time of an operator's flows without latencies where all NICs hang on one switch [s]."""
    network = None if cluster.network is None else replace(_sound(cluster), topology="unspecified", planes=1.0)
    alone = replace(cluster, network=network)
    found = _flows(operator, setting(alone, layout(alone, int(operator.group.size))))
    return found.time - found.latency


def _sound(cluster: Cluster) -> Any:
    """Return the network without failures and with PXN, as measurements found it."""
    return None if cluster.network is None else replace(cluster.network, failed=(), pxn=True)


def _operator(asked: CollectiveRequest) -> Collective | ExpertAllToAll:
    group = Group(float(asked.ranks))
    if asked.kind not in EXCHANGES:
        family = "send_recv" if asked.kind == "send_recv" else "collective"
        return Collective(asked.kind, asked.kind, asked.size, group, family)
    model = asked.routing
    if model is None:
        raise InputError.single(f"{asked.kind} needs a model with experts", hint="write --model NAME")
    if model.experts % asked.ranks:
        raise InputError.single(f"{model.experts:g} experts cannot stand evenly on {asked.ranks} ranks")
    copy = model.hidden * asked.element
    return ExpertAllToAll(
        asked.kind, tokens=asked.size / copy, token_bytes=copy, top_k=model.top_k, experts=model.experts,
        expert_groups=model.expert_groups, group_top_k=model.group_top_k, group=group,
        mode=asked.mode, expert_load=1.0, family=expert_all_to_all_family(f"moe_{asked.kind}", asked.mode),
    )  # fmt: skip


def _wire_time(operator: Any, way: GroupLinks, algorithm: str | None = None) -> Seconds:
    if isinstance(operator, ExpertAllToAll):
        return expert_all_to_all_time(operator, way)
    if algorithm is not None:
        return algorithm_time(operator.kind, algorithm, operator.size, way)
    return collective_time(operator.kind, operator.size, way)


def _closed(
    asked: CollectiveRequest, operator: Collective | ExpertAllToAll, cluster: Cluster, wire: Wire
) -> tuple[float, float, str, str, Outcome | None]:
    """Return (time, latency part, bottleneck, algorithm, null) in closed form."""
    way, algorithm = group_links(operator.group, cluster), asked.algorithm
    moved = float(_wire_time(operator, _bare(way), algorithm)) / wire.share
    steps = float(_wire_time(operator, way, algorithm)) / wire.share - moved
    latency = wire.launch + steps if wire.fixed is None else wire.fixed
    if asked.ranks == 1:
        return 0.0, 0.0, "none", algorithm or "", None
    if asked.chunks is not None:
        moved, latency = _chunked(asked.chunks, moved, steps, float(way.latency), wire)
    kind = "latency" if latency > moved else _slowest(operator, _bare(way), algorithm)
    return latency + moved, latency, WORDS.get(kind, kind), algorithm or "fastest", None


def _chunked(chunks: int, bare: float, whole: float, each: float, wire: Wire) -> tuple[float, float]:
    """Return (time on the wire, latencies) of a pipeline with so many chunks; 0 chunks: the best number."""
    steps = max(round(whole / each), 1) if each else 1
    number = float(chunks or best_chunks(bare, float(steps), each))
    total = float(pipelined(bare, float(steps), each, number))
    latencies = (steps - 1 + number) * each
    return total - latencies, latencies + wire.launch


def _slowest(operator: Collective | ExpertAllToAll, way: GroupLinks, algorithm: str | None) -> str:
    """Return the kind of link that would help most if it were twice as fast."""
    faster = {
        "intra": replace(way, intra=2 * way.intra), "nic": replace(way, inter=2 * way.inter)
    }  # fmt: skip
    return min(faster, key=lambda kind: float(_wire_time(operator, faster[kind], algorithm)))


def _by_flows(
    asked: CollectiveRequest, operator: Collective | ExpertAllToAll, cluster: Cluster, where: Layout, wire: Wire
) -> tuple[float, float, str, str, Outcome | None]:
    """Return (time, latency part, bottleneck, algorithm, outcome) on the flow level."""
    run = setting(cluster, where, dict.fromkeys(KINDS, wire.share), asked.seed)
    found = _flows(operator, run, asked.algorithm, in_network=asked.in_network)
    if where.ranks == 1:
        return 0.0, 0.0, "none", found.algorithm, found
    if wire.fixed is None:
        latency = found.latency / wire.share + wire.launch
    else:  # the fit knows the way between ranks that are side by side, on a network that is sound
        latency = wire.fixed + found.latency - _usual_latency(operator, cluster, found)
    moved = found.time - found.latency
    return latency + moved, latency, "latency" if latency > moved else found.document, found.algorithm, found


def _usual_latency(operator: Collective | ExpertAllToAll, cluster: Cluster, found: Outcome) -> float:
    """Return the latency of the algorithm that was taken, with ranks side by side on a sound network [s]."""
    sound = replace(cluster, network=_sound(cluster))
    run = setting(sound, layout(sound, int(operator.group.size)))
    return _flows(operator, run, None if isinstance(operator, ExpertAllToAll) else found.algorithm).latency


def _flows(
    operator: Collective | ExpertAllToAll, run: Setting, algorithm: str | None = None, *, in_network: bool = False
) -> Outcome:
    if isinstance(operator, ExpertAllToAll):
        return run_exchange(operator, run, in_network=in_network)
    return run_collective(operator.kind, float(operator.size), run, algorithm)


def _bus_bytes(asked: CollectiveRequest, operator: Collective | ExpertAllToAll, way: GroupLinks) -> float:
    """Return the bytes that bus bandwidth counts: nccl-tests' share of the buffer; of an exchange what DeepEP counts.

    Copies to nodes, or to ranks in one node, those that stay included; in low-latency mode one an expert.
    """
    if isinstance(operator, Collective):
        return float(operator.size) * bus_factor(asked.kind, asked.ranks)
    places = way.nodes if float(way.nodes) > 1 else way.size
    copies = operator.targets(places) if operator.deduplicates else operator.top_k
    return asked.size * float(copies)
