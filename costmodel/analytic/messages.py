"""One collective or exchange by itself, in closed form or by flows, with what measurements say of the links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator
from costmodel.cost.calibration import Calibration
from costmodel.cost.time import Time
from costmodel.equations import equation
from costmodel.errors import InputError, did_you_mean
from costmodel.hardware import Cluster
from costmodel.network.cluster_links import KINDS
from costmodel.network.collective_flows import ALGORITHMS, bandwidth, bus_factor
from costmodel.network.collectives import algorithm_time, best_chunks, fastest_algorithm, fastest_time, pipelined
from costmodel.network.expert_all_to_all import expert_all_to_all_time
from costmodel.network.group_links import GroupLinks, Layout, group_links, layout
from costmodel.network.simulation import LINK_NAMES, FlowRun, Outcome, run_collective, run_expert_all_to_all
from costmodel.quantities import Seconds
from costmodel.records import Record, replace
from costmodel.workload.architecture import Architecture, MoeFfn
from costmodel.workload.operators import Collective, ExpertAllToAll, Group, Message, expert_all_to_all_family
from costmodel.workload.scenario import Framework

ENGINES = ("analytic", "flow")
EXCHANGES = ("dispatch", "combine")
COLLECTIVES = (*ALGORITHMS, *EXCHANGES)


class Routing(Record):
    """What an exchange needs to know of a model: top_k of `experts`, from `group_top_k` of `expert_groups`."""

    hidden: float
    experts: float
    top_k: int
    expert_groups: float
    group_top_k: int


def routing_of(model: Architecture) -> Routing:
    """Return how a model's tokens choose experts. Raises InputError where it has none."""
    for layer in model.layers:
        if isinstance(layer.ffn, MoeFfn):
            ffn = layer.ffn
            width = model.hidden if ffn.latent is None else ffn.latent
            return Routing(float(width), float(ffn.experts), ffn.top_k, float(ffn.groups or 1.0), ffn.group_top_k or 1)
    raise InputError.single(f"{model.name} has no experts", hint="name a mixture-of-experts model")


class CollectiveRequest(Record):
    """A collective of `size` bytes among `ranks`, as nccl-tests counts them.

    algorithm: null for the fastest.
    chunks: of a pipelined one, null for so many that they do not count.
    stride, groups: as of a layout.
    seed: of ECMP's hashes. For an exchange `size` is a rank's tokens in the payload's format.
    mode: as of Exchange.
    in_network: switches copy and add up.
    framework: whose implementations run it, null for those of the default one.
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
    framework: str | None = None


class CollectiveTime(Record, kw_only=True):
    """What it takes [s]. latency: the part that does not shrink with the size; bus_bytes: what bus bandwidth counts.

    equations: files that compute it, and their sections of docs/method.md.
    fit: the calibration that scales it.
    """

    request: CollectiveRequest
    engine: str
    time: float
    latency: float
    bottleneck: str
    algorithm: str
    basis: str
    bus_bytes: float
    equations: tuple[str, ...]
    fit: str
    outcome: Outcome | None = None

    def document(self) -> dict[str, Any]:
        """Return the answer as `costmodel collective --json` prints it."""
        return {
            "kind": self.request.kind, "ranks": self.request.ranks, "size": self.request.size, "engine": self.engine,
            "algorithm": self.algorithm, "time": self.time, "algbw": bandwidth(self.request.size, self.time),
            "busbw": bandwidth(self.bus_bytes, self.time), "latency_part": self.latency, "bottleneck": self.bottleneck,
            "basis": self.basis, "equations": list(self.equations), "fit": self.fit,
        }  # fmt: skip


class Wire(Record):
    """What measurements say of a message's links.

    launch: before it [s].
    share: achieved part of the bandwidth of every link at this size.
    time: by the form of a fit, null where the latencies of the links stand for themselves.
    """

    launch: float
    share: float
    time: Time | None


class _Answer(NamedTuple):
    """What an engine says. transfer: the part of the time in which bytes move [s]."""

    transfer: float
    latency: float
    bottleneck: str
    algorithm: str
    outcome: Outcome | None = None


@equation
def answer(
    request: CollectiveRequest, cluster: Cluster, calibration: Calibration, framework: Framework, engine: str
) -> CollectiveTime:
    """Return the time of a collective or exchange. Raises InputError where it does not fit the cluster.

    time = fitted.seconds                          of a fit, which knows its library's algorithm
    time = result.latency + result.transfer
    """
    if engine not in ENGINES:
        raise InputError.single(f"no engine is named {engine!r}", hint=f"write one of {', '.join(ENGINES)}")
    if request.kind not in COLLECTIVES:
        near = did_you_mean(request.kind, COLLECTIVES)
        hint = near or f"write one of {', '.join(COLLECTIVES)}"
        raise InputError.single(f"no collective is named {request.kind!r}", hint=hint)
    _check_engine(request, engine)
    rank_layout = layout(cluster, request.ranks, stride=request.stride, groups=request.groups)
    operator = _operator(request)
    sound = replace(cluster, network=_sound(cluster))
    timed = OperatorTimer(sound, framework, calibration, cluster.device.processors).time_operator(operator)
    links = group_links(operator.group, sound)
    if engine == "flow":
        flat = _flat(cluster)
        alone = OperatorTimer(flat, framework, calibration, cluster.device.processors).time_operator(operator)
        wire = _wire(timed, framework, alone.time.network, lambda: _uncontended_transfer(operator, flat))
        result = _by_flows(request, operator, cluster, rank_layout, wire)
    elif timed.fit.form is not None and request.algorithm is None and request.chunks is None:
        fitted = timed.time
        result = _limited(operator, cluster, (fitted.network, fitted.fixed), None)
    else:
        own = timed.time.network
        wire = _wire(timed, framework, own, lambda: float(_link_time(operator, _without_latency(links))))
        result = _closed(request, operator, cluster, wire)
    return CollectiveTime(
        request=request,
        engine=engine,
        time=result.latency + result.transfer,
        latency=result.latency,
        bottleneck=result.bottleneck,
        algorithm=result.algorithm,
        basis=timed.fit.basis_at(operator, timed.time),
        bus_bytes=_bus_bytes(request, operator, links),
        equations=_equations(engine, timed),
        fit=timed.fit.source,
        outcome=result.outcome,
    )


def _equations(engine: str, timed: TimedOperator) -> tuple[str, ...]:
    """Return the files that compute a time, and their sections of docs/method.md."""
    is_exchange = isinstance(timed.operator, ExpertAllToAll)
    own = ("expert_all_to_all.py", "9") if is_exchange else ("collectives.py", "8.2")
    file, section = own if engine == "analytic" else ("simulation.py", "8.5")
    files = [f"costmodel/network/{file}; docs/method.md, section {section}"]
    form = timed.fit.form
    if form is not None:
        module = type(form).__module__.replace(".", "/")
        files.append(f"{module}.py; docs/method.md, section {form.SECTION}")
    return tuple(files)


def _check_engine(request: CollectiveRequest, engine: str) -> None:
    """Raise InputError for what only the other engine knows."""
    only_flows = {
        "stride": request.stride > 1, "groups": request.groups > 1, "seed": request.seed != 0,
        "in_network": request.in_network,
    }  # fmt: skip
    names = [name for name, is_asked in only_flows.items() if is_asked]
    if engine != "flow" and names:
        raise InputError.single(f"the closed form knows no {names[0]}", hint="write --engine flow")
    if engine == "flow" and request.chunks is not None:
        raise InputError.single("flows know no chunks", hint="leave chunks out, or write --engine analytic")


@equation
def _wire(timed: TimedOperator, framework: Framework, network: Seconds, transfer: Callable[[], float]) -> Wire:
    """Return the part of the links' bandwidth that a fit says is achieved at an operator's size, and what is fixed.

    Without a fitted form: the fit's share of the network. With one: the engine's transfer over the fit's, `network`: of
    flows both on a fabric where none meet, so that flows that meet no others take the fitted time.

        share = unimpeded / network      network: of the time of the fit, without what is fixed (`fitted_time`)
    """
    fit = timed.fit
    if fit.form is None or float(network) <= 0:
        return Wire(float(framework.launch * fit.launch_factor), float(fit.network_efficiency), None)
    unimpeded = transfer()
    return Wire(0.0, unimpeded / float(network), timed.time)


def _without_latency(links: GroupLinks) -> GroupLinks:
    return replace(links, intra_latency=0.0, inter_latency=0.0, setup=0.0, exchange_setup=0.0, bucket_latency=0.0)


def _flat(cluster: Cluster) -> Cluster:
    """Return a cluster whose NICs all hang on one switch, without failures."""
    if cluster.network is None:
        return cluster
    network = replace(_sound(cluster), topology="unspecified", planes=1.0, oversubscription=1.0, shape=())
    return replace(cluster, network=network)


def _uncontended_transfer(operator: Message, flat: Cluster) -> float:
    """Return the time of an operator's flows without latencies where no flows meet [s]."""
    outcome = _flows(operator, FlowRun(flat, layout(flat, int(operator.group.size))), bytes_alone=True)
    return outcome.transfer


def _sound(cluster: Cluster) -> Any:
    return None if cluster.network is None else replace(cluster.network, failed=(), pxn=True)


def _operator(request: CollectiveRequest) -> Message:
    group = Group(float(request.ranks))
    if request.kind not in EXCHANGES:
        family = "send_recv" if request.kind == "send_recv" else "collective"
        return Collective(request.kind, request.kind, request.size, group, family)
    model = request.routing
    if model is None:
        raise InputError.single(f"{request.kind} needs a model with experts", hint="write --model NAME")
    if model.experts % request.ranks:
        raise InputError.single(f"{model.experts:g} experts cannot stand evenly on {request.ranks} ranks")
    copy = model.hidden * request.element
    return ExpertAllToAll(
        request.kind, tokens=request.size / copy, token_bytes=copy, top_k=model.top_k, experts=model.experts,
        expert_groups=model.expert_groups, group_top_k=model.group_top_k, group=group,
        mode=request.mode, expert_load=1.0, family=expert_all_to_all_family(f"moe_{request.kind}", request.mode),
    )  # fmt: skip


def _link_time(operator: Message, links: GroupLinks, algorithm: str | None = None) -> Seconds:
    """Return the time of an operator on its links, by the fastest algorithm where none is named [s]."""
    if isinstance(operator, ExpertAllToAll):
        return expert_all_to_all_time(operator, links)
    if algorithm is not None:
        return algorithm_time(operator.kind, algorithm, operator.size, links)
    return fastest_time(operator.kind, operator.size, links)


@equation
def _closed(request: CollectiveRequest, operator: Message, cluster: Cluster, wire: Wire) -> _Answer:
    """Return what the closed form of an algorithm says.

    transfer = wire_time / wire.share           wire_time: of the bytes alone
    whole = wire_time / wire.share
    latency = launch + steps
    latency = wire.time.fixed                   where a fit knows it
    steps = with_latency / wire.share - whole
    """
    algorithm, links = request.algorithm, group_links(operator.group, cluster)
    wire_time = float(_link_time(operator, _without_latency(links), algorithm))
    with_latency = float(_link_time(operator, links, algorithm))
    whole = wire_time / wire.share
    steps = with_latency / wire.share - whole
    if request.chunks is not None:
        return _limited(
            operator, cluster, _chunked(request.chunks, whole, steps, float(links.latency), wire), algorithm
        )
    if wire.time is not None:
        return _limited(operator, cluster, (whole, wire.time.fixed), algorithm)
    launch = wire.launch
    return _limited(operator, cluster, (whole, launch + steps), algorithm)


def _limited(operator: Message, cluster: Cluster, times: tuple[Seconds, Seconds], algorithm: str | None) -> _Answer:
    """Return a transfer and a latency [s] with what limits them, and the algorithm: null for the fastest."""
    transfer, latency = map(float, times)
    if float(operator.group.size) == 1:
        return _Answer(0.0, 0.0, "none", algorithm or "")
    links = group_links(operator.group, cluster)
    kind = "latency" if latency > transfer else _slowest(operator, _without_latency(links), algorithm)
    if kind == "nic" and _is_narrow_outside(operator, links, cluster):
        kind = "fabric"
    return _Answer(transfer, latency, LINK_NAMES.get(kind, kind), algorithm or _fastest(operator, links))


def _fastest(operator: Message, links: GroupLinks) -> str:
    return (
        operator.mode
        if isinstance(operator, ExpertAllToAll)
        else fastest_algorithm(operator.kind, operator.size, links)
    )


@equation
def _chunked(chunks: int, whole: float, latencies: float, step: float, wire: Wire) -> tuple[float, float]:
    """Return (transfer, latency) of a pipeline with so many chunks [s]. 0 chunks: the best number.

    latencies: of all steps, without chunks.
    step: the latency of one.

        transfer = total - piped
        total = (steps - 1 + number) * (whole / number + step)
        latency = piped + wire.launch
        piped = (steps - 1 + number) * step
    """
    steps = max(round(latencies / step), 1) if step else 1
    number = float(chunks or best_chunks(whole, float(steps), step))
    total = float(pipelined(whole, float(steps), step, number))
    piped = (steps - 1 + number) * step
    transfer, latency = total - piped, piped + wire.launch
    return transfer, latency


def _slowest(operator: Message, links: GroupLinks, algorithm: str | None) -> str:
    """Return the kind of link that would help most if it were twice as fast."""
    sides = None if links.bucket_bandwidth is None else 2 * links.bucket_bandwidth
    faster = {
        "intra": replace(links, intra=2 * links.intra),
        "nic": replace(links, inter=2 * links.inter, bucket_bandwidth=sides),
    }
    return min(faster, key=lambda kind: float(_link_time(operator, faster[kind], algorithm)))


def _is_narrow_outside(operator: Message, links: GroupLinks, cluster: Cluster) -> bool:
    """Tell whether the fabric gives a rank less than its NICs can send."""
    even = isinstance(operator, ExpertAllToAll) or operator.kind == "all_to_all"
    nic = cluster.node.nic
    return nic is not None and float(links.exchange if even else links.inter) < float(nic.bandwidth * nic.per_device)


@equation
def _by_flows(
    request: CollectiveRequest, operator: Message, cluster: Cluster, rank_layout: Layout, wire: Wire
) -> _Answer:
    """Return what the flow level says.

    transfer = outcome.transfer      flows share links, at `share` of each (`_wire`), on planes (`leaf_assignment`)
    latency = outcome.latency / wire.share + launch
    latency = wire.time.fixed + outcome.latency - usual
    """
    run = FlowRun(cluster, rank_layout, dict.fromkeys(KINDS, wire.share), request.seed)
    is_fitted = wire.time is not None
    outcome = _flows(operator, run, request.algorithm, in_network=request.in_network, bytes_alone=is_fitted)
    if rank_layout.ranks == 1:
        return _Answer(0.0, 0.0, "none", outcome.algorithm, outcome)
    if wire.time is None:
        launch = wire.launch
        latency = outcome.latency / wire.share + launch
    else:  # the fit knows the latency of ranks that are side by side, on a network that is sound
        usual = _usual_latency(operator, cluster, outcome.algorithm)
        latency = float(wire.time.fixed) + outcome.latency - usual
    transfer = outcome.transfer
    bottleneck = "latency" if latency > transfer else outcome.bottleneck_text
    return _Answer(transfer, latency, bottleneck, outcome.algorithm, outcome)


def _usual_latency(operator: Message, cluster: Cluster, algorithm: str) -> float:
    """Return the latency of an algorithm with ranks side by side on a sound network [s]."""
    sound = replace(cluster, network=_sound(cluster))
    return _flows(operator, FlowRun(sound, layout(sound, int(operator.group.size))), algorithm).latency


def _flows(
    operator: Message, run: FlowRun, algorithm: str | None = None, *,
    in_network: bool = False, bytes_alone: bool = False,
) -> Outcome:  # fmt: skip
    if isinstance(operator, ExpertAllToAll):
        return run_expert_all_to_all(operator, run, in_network=in_network)
    return run_collective(operator.kind, float(operator.size), run, algorithm, bytes_alone=bytes_alone)


def _bus_bytes(request: CollectiveRequest, operator: Message, links: GroupLinks) -> float:
    """Return the bytes that bus bandwidth counts: nccl-tests' share of the buffer. Of an exchange what DeepEP counts.

    Copies to nodes, or to ranks in one node, those that stay included. In low-latency mode one an expert.
    """
    if isinstance(operator, Collective):
        return float(operator.size) * bus_factor(request.kind, request.ranks)
    places = links.nodes if float(links.nodes) > 1 else links.size
    copies = operator.targets(places) if operator.deduplicates else operator.top_k
    return request.size * float(copies)
