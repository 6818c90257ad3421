"""What `explain` shows of one operator: formula, inputs, numbers, bound, basis, and where the inputs come from."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.pricing import Priced
from costmodel.cost.kernels import VECTOR_DTYPE
from costmodel.errors import InputError
from costmodel.network.paths import path
from costmodel.report.text import console, quantity, table
from costmodel.workload.operators import AttentionCore, Collective, Elementwise, Gemm, distinct_targets
from costmodel.workload.scenario import Scenario

if TYPE_CHECKING:
    from costmodel.api import Workload

FORMULAS = {
    Gemm: "t = launch + min over tiles of max(tensor, promotion, L2, memory)",
    AttentionCore: "t = launch + max(FLOP / peak in whole waves, traffic / memory bandwidth)",
    Elementwise: "t = launch + traffic / memory bandwidth",
    Collective: "t = fastest of ring, two levels and tree, over the links that the group crosses",
}
EXCHANGE_FORMULAS = {
    "normal": "t = max(T * E_nodes * (1 - 1/N) * b / B_out, T * E_ranks * (1 - 1/l) * b / B_in) + latency",
    "low_latency": "t = max(T * k * (1 - l/n) * b / B_out, T * k * (l-1)/n * b / B_in) + latency",
}


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


def operators(workload: Workload, scenario: str) -> list[Priced]:
    """Return the distinct operators of a scenario, by name, priced."""
    chosen = workload.scenario(scenario)
    found: dict[str, Priced] = {}
    for priced in evaluate(chosen, workload.calibration(chosen)).operators():
        found.setdefault(priced.operator.name, priced)
    return list(found.values())


def explain(workload: Workload, scenario: str, name: str) -> Explanation:
    """Return one operator of a scenario explained. Raises InputError on an unknown name, with the nearest ones."""
    known = {priced.operator.name: priced for priced in operators(workload, scenario)}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = " or ".join(f"`{each}`" for each in close) or ", ".join(known)
        raise InputError.single(f"scenario {scenario} has no operator `{name}`", hint=f"write {hint}", field="--op")
    priced, chosen = known[name], workload.scenario(scenario)
    operator, time = priced.operator, priced.time
    parts = {"compute": time.compute, "memory": time.memory, "network": time.network, "fixed": time.fixed}
    formula = FORMULAS.get(type(operator)) or EXCHANGE_FORMULAS[getattr(operator, "mode", "normal")]
    return Explanation(
        name,
        operator.family,
        formula,
        _inputs(priced, chosen),
        {part: float(value) for part, value in parts.items() if float(value)},
        float(time.seconds),
        time.bound,
        priced.fit.basis,
        _origins(workload, scenario, priced),
        workload.calibration(chosen).notes,
    )


def _inputs(priced: Priced, scenario: Scenario) -> dict[str, tuple[float, str]]:
    """Return what enters the formula."""
    operator = priced.operator
    if isinstance(operator, Gemm | AttentionCore | Elementwise):
        return {**_work(operator), **_device(operator, scenario)}
    way = path(operator.group, scenario.cluster)
    group = {
        "ranks": (float(way.size), "count"),
        "ranks a node": (float(way.local), "count"),
        "bandwidth inside a node": (float(way.inner), "bandwidth"),
        "bandwidth between nodes": (float(way.outer), "bandwidth"),
        "latency": (float(way.latency), "time"),
    }
    if isinstance(operator, Collective):
        return {"buffer": (float(operator.size), "size"), **group}
    on_node, on_rank = operator.experts / way.nodes, operator.experts / way.size
    return {
        "tokens of a rank": (float(operator.tokens), "count"),
        "bytes of a copy": (float(operator.token_bytes), "size"),
        "experts a token": (float(operator.top_k), "count"),
        "load of the fullest rank": (float(operator.load), "count"),
        "expected nodes a token": (float(distinct_targets(operator.top_k, operator.reachable, on_node)), "count"),
        "expected ranks a token": (float(distinct_targets(operator.top_k, operator.reachable, on_rank)), "count"),
        **group,
    }


def _work(operator: Gemm | AttentionCore | Elementwise) -> dict[str, tuple[float, str]]:
    work = {"FLOP": (float(operator.flop), "flop"), "traffic": (float(operator.traffic), "size")}
    if isinstance(operator, Gemm):
        shape = {"m": operator.m, "n": operator.n, "k": operator.k, "groups": operator.groups}
        return {**{name: (float(value), "count") for name, value in shape.items()}, **work}
    if isinstance(operator, AttentionCore):
        shape = {"sequences": operator.sequences, "heads": operator.heads, "query rows": operator.rows}
        shape["query-key pairs a head"] = operator.pairs
        return {**{name: (float(value), "count") for name, value in shape.items()}, **work}
    return {"traffic": work["traffic"]}


def _device(operator: Gemm | AttentionCore | Elementwise, scenario: Scenario) -> dict[str, tuple[float, str]]:
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


def _origins(workload: Workload, scenario: str, priced: Priced) -> dict[str, str]:
    """Return where the hardware values that enter were written."""
    operator, hardware = priced.operator, f"scenarios.{scenario}.hardware"
    if isinstance(operator, Gemm | AttentionCore | Elementwise):
        wanted = ["device.memory.hbm.bandwidth"]
        if not isinstance(operator, Elementwise):
            wanted += [f"device.math.{operator.dtype}.peak", "device.processors"]
    else:
        link = workload.scenario(scenario).cluster.node.intra.name
        wanted = [f"device.links.{link}.bandwidth", "node.nic.bandwidth", "network.latency.same_leaf"]
    places = {each: workload.resolved.origin(f"{hardware}.{each}") for each in wanted}
    return {each: str(place) for each, place in places.items() if place is not None}


def show_operators(workload: Workload, scenario: str) -> None:
    """Print the operators of a scenario: one run of each."""
    rows = table("operator", ">one run", "limit", "basis", "family")
    for priced in sorted(operators(workload, scenario), key=lambda each: -float(each.time.seconds)):
        if float(priced.time.seconds):
            time = quantity(float(priced.time.seconds), "time")
            rows.add_row(priced.operator.name, time, priced.time.bound, priced.fit.basis, priced.operator.family)
    console().print(rows)


def show_explanation(explanation: Explanation) -> None:
    """Print one operator explained."""
    out = console()
    out.print(f"[bold]{escape(explanation.name)}[/bold] ({explanation.family})\n{escape(explanation.formula)}")
    rows = table("input", ">value")
    for name, (value, dimension) in explanation.inputs.items():
        rows.add_row(name, quantity(value, dimension, 6))
    out.print(rows)
    parts = ", ".join(f"{name} {quantity(value, 'time')}" for name, value in explanation.parts.items())
    out.print(f"time of one run {quantity(explanation.time, 'time')}: {parts}")
    out.print(f"limit: {explanation.bound}; basis: {explanation.basis}")
    for name, place in explanation.origins.items():
        out.print(f"  {name} is written at {escape(place)}", style="dim")
    for note in explanation.notes:
        out.print(f"note: {escape(note)}")
