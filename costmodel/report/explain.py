"""What `explain` shows of one operator: formula, inputs, numbers, bound, basis, and where the inputs come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from costmodel.analytic.bound import bound_times
from costmodel.analytic.breakdown import ALL_TO_ALL_CONTENTION
from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.analytic.expert_load import routing_facts
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.cost.calibration import Form
from costmodel.cost.form_registry import FORMS
from costmodel.cost.kernels import block_count, tile_times
from costmodel.cost.machine import VECTOR_DTYPE, Machine
from costmodel.cost.two_tile_gemm import TwoTileForm
from costmodel.errors import InputError
from costmodel.network.group_links import GroupLinks, group_links
from costmodel.network.host import host_bandwidth, host_link, host_peak
from costmodel.quantities import ceil
from costmodel.schema.forms import parameter
from costmodel.schema.references import suggest
from costmodel.workload.dtypes import payload_width
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    Elementwise,
    ExpertAllToAll,
    Gemm,
    Group,
    HostGemm,
    HostTime,
    HostTransfer,
    HostUpdate,
    MixedAttention,
    base_name,
    gemm_family,
)
from costmodel.workload.plans import ExpertBound
from costmodel.workload.scenario import Disaggregated, HostTimes, Pool, Scenario

if TYPE_CHECKING:
    from costmodel.api import Workload

FORMULAS = {
    Gemm: "t = launch + min over tiles of max(tensor, promotion, L2, memory)",
    AttentionKernel: "t = launch + max(FLOP / peak in whole waves, traffic / memory bandwidth)",
    MixedAttention: "t = launch + max(FLOP of all parts / peak, traffic of all parts / memory bandwidth)",
    Elementwise: "t = launch + traffic / memory bandwidth",
    Collective: "t = fastest of ring, two levels and halving-doubling, over the links that the group crosses",
    HostTime: "t = always + each * sequences",
    HostTransfer: "t = launch + size / min(B_link, B_host / devices of a node) + latency",
    HostUpdate: "t = traffic / (B_host / devices of a node)",
    HostGemm: "t = max(traffic / (B_host / devices of a node), FLOP / (host peak / devices of a node))",
}
EXCHANGE_FORMULAS = {
    True: "t = max(T * E_nodes * load_N * (1-1/N) * b / B_out, T * E_ranks * load_n * (1-1/l) * b / B_in) + latency",
    False: "t = max(T * k * load * (1-l/n) * b / B_out, T * k * load * (l-1)/n * b / B_in) + latency",
}  # by whether a token goes once to each place


EXPERTS = ("grouped_gemm", gemm_family("grouped_gemm", weight_only=True))  # families of the experts' products
BOUND = "all-to-all"  # the one line of a bound
BOUND_FORMULA = (
    "all_to_all = (b_dispatch + b_combine) * tokens * sends * hidden / B; layer = 2 * all_to_all; tpot = layers * layer"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a scenario's breakdown: exposed time, its share of the headline, and the operators it stands for."""

    name: str
    time: float
    share: float
    hidden: float
    bound: str
    basis: str
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """One operator explained. inputs: name -> (value, dimension); origins: path -> where the value was written."""

    name: str
    family: str
    formula: str
    inputs: dict[str, tuple[float, str]]
    parts: dict[str, float]
    time: float
    bound: str
    basis: str
    origins: dict[str, str]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the explanation as JSON: SI numbers."""
        return {
            "name": self.name,
            "family": self.family,
            "formula": self.formula,
            "inputs": {name: value for name, (value, _) in self.inputs.items()},
            "parts": self.parts,
            "time": self.time,
            "bound": self.bound,
            "basis": self.basis,
            "origins": self.origins,
            "notes": list(self.notes),
        }


def refused(workload: Workload, scenario: str) -> str | None:
    """Return why a scenario cannot run, null where it can."""
    result = workload.evaluate(scenario)
    return None if result.fits else result.point().reason


def lines(workload: Workload, scenario: str) -> list[Line]:
    """Return where a scenario's time goes, the longest first; as if memory sufficed where it does not."""
    evaluation = _evaluated(workload, scenario)
    headline = evaluation.metrics(None)[evaluation.headline]
    whole = 0.0 if headline is None else float(headline)
    names = dict.fromkeys(priced.operator.name for priced in evaluation.operators())
    return [
        Line(
            entry.name,
            entry.time,
            entry.time / whole if whole else 0.0,
            entry.hidden,
            entry.bound,
            entry.basis,
            tuple(name for name in names if base_name(name) == entry.name),
        )
        for entry in evaluation.breakdown()
    ]


def explain(workload: Workload, scenario: str, name: str) -> list[Explanation]:
    """Return an operator, or all those that a line of the breakdown stands for, explained.

    Operators of one name that differ in size are explained one by one. Raises InputError on an unknown name, with the
    nearest ones.
    """
    chosen = workload.scenario(scenario)
    if isinstance(chosen.plan, ExpertBound):
        known, found = {BOUND}, [_bound(workload, chosen, chosen.plan)] if name == BOUND else []
    else:
        distinct = {
            (priced.operator.name, float(priced.time.seconds)): priced
            for priced in _evaluated(workload, scenario).operators()
            if float(priced.time.seconds)
        }.values()
        known = {each for priced in distinct for each in (priced.operator.name, base_name(priced.operator.name))}
        named = [priced for priced in distinct if priced.operator.name == name]
        found = [
            _explained(workload, chosen, priced)
            for priced in named or [each for each in distinct if base_name(each.operator.name) == name]
        ]
    if not found:
        raise _unknown(workload, scenario, name, sorted(known))
    return found


def _unknown(workload: Workload, scenario: str, name: str, known: list[str]) -> InputError:
    """Return the error of a name that no operator has: a wait between operators, or nothing at all."""
    everything = "without --op every line is listed"
    if name == ALL_TO_ALL_CONTENTION:
        text = (
            f"{name!r} is no operator: beside expert exchanges kernels take `framework.moe_comm_slowdown` times as long"
        )
        return InputError.single(text, hint="set it to 1 to see the step without", field="--op")
    if any(line.name == name for line in lines(workload, scenario)):
        text = f"{name!r} of scenario {scenario} is time in which ranks wait or kernels run slower, not an operator"
        return InputError.single(text, hint=everything, field="--op")
    hint = suggest(name, known)
    text = f"scenario {scenario} has no operator {name!r}"
    return InputError.single(text, hint=hint if hint.endswith("?") else everything, field="--op")


def routing(workload: Workload, scenario: str) -> dict[str, float] | None:
    """Return how full the fullest rank is and which experts it runs; null without expert layers."""
    facts = routing_facts(workload.scenario(scenario))
    return None if facts is None else {name: float(value) for name, value in facts.items()}


def _evaluated(workload: Workload, scenario: str) -> Evaluation:
    chosen = workload.scenario(scenario)
    return evaluate(chosen, workload.calibration(chosen))


def _explained(workload: Workload, scenario: Scenario, priced: TimedOperator) -> Explanation:
    operator, time = priced.operator, priced.time
    pool = _pool(scenario, operator.name)
    scenario = scenario if pool is None else scenario.of_pool(pool)
    parts = {"compute": time.compute, "memory": time.memory, "network": time.network, "fixed": time.fixed}
    notes = workload.calibration(scenario).notes
    return Explanation(
        operator.name,
        family=operator.family,
        formula=_formula(priced),
        inputs=_inputs(priced, scenario),
        parts={part: float(value) for part, value in parts.items() if float(value)},
        time=float(time.seconds),
        bound=time.bound,
        basis=priced.fit.basis_at(operator),
        origins=_origins(workload, scenario, priced, None if pool is None else _part(operator.name)),
        notes=tuple(note for note in notes if note.partition(":")[0].partition("/")[0] == operator.family),
    )


def _formula(priced: TimedOperator) -> str:
    """Return the equation that gave an operator's time."""
    form, operator = priced.fit.form, priced.operator
    if form is not None:
        return form.FORMULA if priced.fit.residual is None else f"{form.FORMULA}; times the correction"
    return (
        EXCHANGE_FORMULAS[operator.deduplicates] if isinstance(operator, ExpertAllToAll) else FORMULAS[type(operator)]
    )


def _pool(scenario: Scenario, operator: str) -> Pool | None:
    """Return the pool that an operator runs in, of two; null where there is one engine, or between the pools."""
    plan = scenario.plan
    if not isinstance(plan, Disaggregated):
        return None
    return {"prefill": plan.prefill, "decode": plan.decode}.get(_part(operator))


def _part(operator: str) -> str:
    """Return the part of a phase that an operator's name begins with."""
    return operator.partition(":")[0].removesuffix(" draft")


def _bound(workload: Workload, scenario: Scenario, plan: ExpertBound) -> Explanation:
    """Return the closed-form bound explained: it has one formula and no operators."""
    times, communication = bound_times(scenario, plan), scenario.communication
    slowest = group_links(Group(scenario.parallel.ep), scenario.cluster)
    inputs = {
        "bytes of a dispatched element": (payload_width(communication.dispatch), "size"),
        "bytes of a combined element": (payload_width(communication.combine), "size"),
        "tokens": (float(plan.tokens_per_device), "count"),
        "sends": (float(plan.sends), "count"),
        "hidden": (float(plan.hidden), "count"),
        "layers": (float(scenario.architecture.depth), "count"),
        "bandwidth of the slowest link": (float(slowest.slowest), "bandwidth"),
    }
    parts = {"all_to_all": float(times.all_to_all), "layer": float(times.layer)}
    wanted = [_link_fields(scenario, slowest)[-1], "sends", "hidden", "tokens_per_device"]
    places = _places(workload, scenario, wanted)
    return Explanation(
        BOUND,
        family="bound",
        formula=BOUND_FORMULA,
        inputs=inputs,
        parts=parts,
        time=float(times.tpot),
        bound="network",
        basis="roofline",
        origins=places,
        notes=(),
    )


def _inputs(priced: TimedOperator, scenario: Scenario) -> dict[str, tuple[float, str]]:
    """Return what enters the formula."""
    operator = priced.operator
    if isinstance(operator, Gemm | AttentionKernel | MixedAttention | Elementwise) and priced.fit.form is not None:
        device = {name: value for name, value in _device(operator, scenario).items() if name != "launch"}
        return {**_work(operator), **device, **_fitted(priced.fit.form, priced)}
    shares = _shares(priced)
    if isinstance(operator, Gemm):
        return {**_work(operator), **_device(operator, scenario), **_tile(operator, priced, scenario), **shares}
    if isinstance(operator, AttentionKernel | MixedAttention | Elementwise):
        decodes = isinstance(operator, AttentionKernel) and operator.family.endswith("decode")
        cached = {"element of the cache": (float(scenario.precision.kv_element), "size")} if decodes else {}
        return {**_work(operator), **cached, **_device(operator, scenario), **shares}
    if isinstance(operator, HostTransfer | HostUpdate | HostGemm):
        return _host(operator, scenario)
    if isinstance(operator, HostTime):
        each = {"each": (float(operator.sequence_seconds), "time"), "sequences": (float(operator.sequences), "count")}
        return {"always": (float(operator.step_seconds), "time"), **each}
    way = group_links(operator.group, scenario.cluster)
    group = {
        "ranks": (float(way.size), "count"),
        "ranks a node": (float(way.ranks_per_node), "count"),
        "bandwidth inside a node": (float(way.intra), "bandwidth"),
        "bandwidth between nodes": (float(way.inter), "bandwidth"),
        "latency (0: no source states one)" if way.latency == 0 else "latency": (float(way.latency), "time"),
    }
    fitted = {} if priced.fit.form is None else _fitted(priced.fit.form, priced)
    if isinstance(operator, Collective):
        several = {} if operator.calls == 1 else {"messages, one after the other": (float(operator.calls), "count")}
        return {"buffer": (float(operator.size), "size"), **several, **group, **fitted}
    return {
        "tokens of a rank": (float(operator.tokens), "count"),
        "bytes of a copy": (float(operator.token_bytes), "size"),
        "experts a token": (float(operator.top_k), "count"),
        **_loads(operator, way),
        **group,
        **fitted,
    }


def _shares(priced: TimedOperator) -> dict[str, tuple[float, str]]:
    """Return the shares of the peaks that a fit without a form states, where they are not all of them."""
    stated = {"share of the arithmetic peak": priced.fit.compute, "share of the memory bandwidth": priced.fit.memory}
    return {name: (float(share), "ratio") for name, share in stated.items() if float(share) != 1.0}


def _fitted(form: Form, priced: TimedOperator) -> dict[str, tuple[float, str]]:
    """Return the fitted parameters of a form, and what its residual multiplies the time by.

    A parameter that the fit leaves at what it means nothing at is left out.
    """
    kind = next(name for name, each in FORMS.items() if each.made(form))
    found = {}
    for name in FORMS[kind].names:
        part, own = form.part(name) if isinstance(form, TwoTileForm) else (form, name)
        value = float(getattr(part, own))
        if value != signature(type(part)).parameters[own].default:
            dimension = parameter(kind, name)
            found[f"{name} (fitted)"] = (value, "count" if dimension == "ratio" else dimension)
    correction = float(np.asarray(priced.fit.correction(priced.operator)))
    return {**dict(sorted(found.items())), "correction": (correction, "ratio")}


def _host(operator: HostTransfer | HostUpdate | HostGemm, scenario: Scenario) -> dict[str, tuple[float, str]]:
    """Return what a copy to the host, or the host's own work, rests on."""
    share = host_bandwidth(scenario.cluster, operator.devices)
    found = {} if share is None else {"host bandwidth a device": (float(share), "bandwidth")}
    if isinstance(operator, HostUpdate):
        return {"traffic": (float(operator.traffic), "size"), **found}
    if isinstance(operator, HostGemm):
        dtype = operator.gemm.dtype
        peak = host_peak(scenario.cluster, dtype, operator.devices)
        unknown = f"host {dtype} peak a device (0: no source states one)"
        rate = (
            {unknown: (0.0, "flop_rate")}
            if peak is None
            else {f"host {dtype} peak a device": (float(peak), "flop_rate")}
        )
        return {**_work(operator.gemm), **found, **rate}
    link = host_link(scenario.cluster)
    copied = {"size": (float(operator.size), "size"), "link to the host": (float(link.bandwidth), "bandwidth")}
    return {**copied, **found, "launch": (float(scenario.framework.launch), "time")}


def _loads(exchange: ExpertAllToAll, way: GroupLinks) -> dict[str, tuple[float, str]]:
    """Return how many places a token goes to, and how much more the fullest one gets than the mean."""
    if not exchange.deduplicates:
        return {"load of the fullest rank": (float(exchange.expert_load), "count")}
    found: dict[str, tuple[float, str]] = {}
    for name, places in (("node", way.nodes), ("rank", way.size)):
        found[f"expected {name}s a token"] = (float(exchange.targets(places)), "count")
        found[f"load of the fullest {name}, each token once"] = (float(exchange.most_loaded(places)), "count")
    return found


def _work(operator: Gemm | AttentionKernel | MixedAttention | Elementwise) -> dict[str, tuple[float, str]]:
    work = {"FLOP": (float(operator.flop), "flop"), "traffic": (float(operator.traffic), "size")}
    if isinstance(operator, Gemm):
        shape = {"m": operator.m, "n": operator.n, "k": operator.k, "groups": operator.groups}
        if operator.family in EXPERTS:
            shape |= {"standard deviation of m": operator.m_std, "load of the fullest rank": operator.expert_load}
        widths = {"left": operator.a_bytes, "right": operator.b_bytes, "result": operator.out_bytes}
        return {
            **{name: (float(value), "count") for name, value in shape.items()},
            **{f"element of {name}": (float(value), "size") for name, value in widths.items()},
            **work,
        }
    if isinstance(operator, AttentionKernel):
        shape = {"sequences": operator.sequences, "heads": operator.heads, "query rows": operator.q_len}
        shape["query-key pairs a head"] = operator.qk_pairs
        if operator.last_query_kv_len is not None:
            shape["keys of the last query"] = operator.last_query_kv_len
        if np.any(operator.serial_cycles):
            shape |= {
                "cycles of a block, chunk after chunk": operator.serial_cycles,
                "blocks on a processor": operator.blocks,
            }
        shape |= {} if operator.calls == 1 else {"blocks of keys, a kernel each": operator.calls}
        return {**{name: (float(value), "count") for name, value in shape.items()}, **work}
    return {"traffic": work["traffic"]}


def _tile(gemm: Gemm, priced: TimedOperator, scenario: Scenario) -> dict[str, tuple[float, str]]:
    """Return the tile that was fastest, and in how many waves its blocks run."""
    processors = scenario.cluster.device.processors - scenario.communication.processors
    machine = Machine(scenario.cluster.device, scenario.framework, processors)
    tile, _, _ = min(tile_times(gemm, machine, priced.fit), key=lambda each: max(float(each[1]), float(each[2])))
    blocks = block_count(gemm, tile)
    return {
        "tile m": (float(tile.m), "count"),
        "tile n": (float(tile.n), "count"),
        "K split": (float(tile.split), "count"),
        "blocks": (float(blocks), "count"),
        "waves": (float(ceil(blocks / processors)), "count"),
    }


def _device(
    operator: Gemm | AttentionKernel | MixedAttention | Elementwise, scenario: Scenario
) -> dict[str, tuple[float, str]]:
    device = scenario.cluster.device
    processors = device.processors - scenario.communication.processors
    bandwidth = device.device_memory.bandwidth
    assert bandwidth is not None
    found = {"memory bandwidth": (float(bandwidth), "bandwidth"), "launch": (float(scenario.framework.launch), "time")}
    if isinstance(operator, Elementwise):
        return found
    found["processors"] = (float(processors), "count")
    found[f"{operator.dtype} peak of them"] = (float(device.peak(operator.dtype, processors)), "flop_rate")
    cache = device.level("l2")
    if isinstance(operator, Gemm) and cache is not None and cache.bandwidth is not None:
        found["L2 bandwidth"] = (float(cache.bandwidth), "bandwidth")
    unit = device.math[operator.dtype]
    if isinstance(operator, Gemm) and (unit.scaling == "software" or unit.accumulate == "fp22"):
        found["CUDA-core peak (promotion)"] = (float(device.peak(VECTOR_DTYPE, processors)), "flop_rate")
    return found


def _origins(workload: Workload, scenario: Scenario, priced: TimedOperator, pool: str | None) -> dict[str, str]:
    """Return where the values that enter were written. pool: where the operator's layout stands, of two pools."""
    operator, fitted = priced.operator, priced.fit.form is not None
    if isinstance(operator, HostTransfer | HostUpdate | HostGemm):
        host = ["hardware.node.host.bandwidth"]
        if isinstance(operator, HostTransfer):
            host.insert(0, f"hardware.device.links.{scenario.cluster.node.host.link}.bandwidth")
        if isinstance(operator, HostGemm):
            host.append(f"hardware.node.host.peak.{operator.gemm.dtype}")
        return _places(workload, scenario, host)
    if isinstance(operator, HostTime):
        return _places(workload, scenario, [f"framework.host.{field.name}" for field in fields(HostTimes)])
    if not isinstance(operator, Gemm | AttentionKernel | MixedAttention | Elementwise):
        way = group_links(operator.group, scenario.cluster)
        loads = [_load_field(scenario)] if isinstance(operator, ExpertAllToAll) else []
        links = [*loads, *_latency_fields(scenario, way), *_link_fields(scenario, way)]
        return _places(workload, scenario, links) | ({"fit": priced.fit.source} if fitted else {})
    wanted = ["hardware.device.memory.hbm.bandwidth", *([] if fitted else ["framework.launch"])]
    if not isinstance(operator, Elementwise):
        peak = f"hardware.device.math.{operator.dtype}.peak"
        taken = "communication.processors" if pool is None else f"{pool}.communication.processors"
        wanted += [peak, "hardware.device.processors", taken]
    if isinstance(operator, Gemm):
        wanted += ["hardware.device.memory.l2.bandwidth"]
        wanted += [_load_field(scenario)] if operator.family in EXPERTS else []
    places = _places(workload, scenario, wanted)
    return {**places, "fit": priced.fit.source} if priced.fit.source else places


def _load_field(scenario: Scenario) -> str:
    """Return the field that says how full the fullest rank is."""
    return "routing.load" if scenario.communication.expert_load is None else "communication.expert_load"


def _link_fields(scenario: Scenario, way: GroupLinks) -> list[str]:
    """Return the fields that hold the bandwidths of a path, the one between nodes last."""
    inner = f"hardware.device.links.{scenario.cluster.node.intra.name}.bandwidth"
    return [inner, "hardware.node.nic.bandwidth"] if float(way.nodes) > 1 else [inner]


def _latency_fields(scenario: Scenario, way: GroupLinks) -> list[str]:
    """Return the fields that may hold the latency of a path: the fabric's where it states one, else the NIC's."""
    network = scenario.cluster.network
    if float(way.nodes) <= 1:
        return [f"hardware.device.links.{scenario.cluster.node.intra.name}.latency"]
    if network is None or network.latency_same_leaf is None:
        return ["hardware.node.nic.latency"]
    return ["hardware.network.latency.same_leaf", "hardware.network.latency.cross_leaf"]


def _places(workload: Workload, scenario: Scenario, paths: Sequence[str]) -> dict[str, str]:
    """Return path -> where its value was written, for those that exist."""
    places = {each: workload.resolved.origin(f"scenarios.{scenario.name}.{each}") for each in paths}
    return {each: str(place) for each, place in places.items() if place is not None}
