"""What enters the equation of an operator's time, and where the values were written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.cost.time import VECTOR_DTYPE
from costmodel.network.group_links import GroupLinks, group_links
from costmodel.network.host import host_bandwidth, host_link, host_peak
from costmodel.quantities import Quantity
from costmodel.records import fields
from costmodel.workload import operators
from costmodel.workload.framework_parts import HostTimes
from costmodel.workload.scenario import Scenario

if TYPE_CHECKING:
    from costmodel.api import Workload

Inputs: TypeAlias = "dict[str, tuple[float, str]]"  # name -> (value, dimension)


def inputs_of(timed: TimedOperator, scenario: Scenario) -> Inputs:
    """Return the sizes and the hardware that enter an operator's equation."""
    operator, is_fitted = timed.operator, timed.fit.form is not None
    if isinstance(operator, operators.Kernel):
        device = _device(operator, scenario)
        decodes = isinstance(operator, operators.AttentionKernel) and operator.family.endswith("decode")
        width = scenario.precision.kv_element
        cache = {"bytes per element, KV cache": (float(width), "size")} if decodes else {}
        if is_fitted:
            return _work(operator) | cache | {name: value for name, value in device.items() if name != "launch"}
        return _work(operator) | cache | device | _shares(timed)
    if isinstance(operator, operators.HostTransfer | operators.HostWork):
        return _host(operator, scenario)
    if isinstance(operator, operators.HostTime):
        return {}
    links = group_links(operator.group, scenario.cluster)
    if isinstance(operator, operators.Collective):
        several = {} if operator.calls == 1 else {"messages, one after the other": (float(operator.calls), "count")}
        return {"buffer": (float(operator.size), "size"), **several, **_links(links)}
    return {
        "tokens per rank": (float(operator.tokens), "count"),
        "bytes per copy": (float(operator.token_bytes), "size"),
        "experts per token": (float(operator.top_k), "count"),
        **_loads(operator, links),
        **_links(links),
    }


def work_section(operator: operators.Operator) -> str:
    """Return where the FLOP and the traffic of an operator are counted, nothing for what moves between devices."""
    section = operators.KINDS[type(operator)].work_section
    return f"costmodel/workload/operators.py; docs/method.md, section {section}" if section else ""


def _links(links: GroupLinks) -> Inputs:
    inputs: Inputs = {
        "ranks": (float(links.size), "count"),
        "ranks per node": (float(links.ranks_per_node), "count"),
        "bandwidth inside a node": (float(links.intra), "bandwidth"),
        "bandwidth between nodes": (float(links.inter), "bandwidth"),
        "latency inside a node": (float(links.intra_latency), "time"),
    }
    return inputs | ({"latency between nodes": (float(links.inter_latency), "time")} if float(links.nodes) > 1 else {})


def _shares(timed: TimedOperator) -> Inputs:
    """Return the shares of the peaks that a fit without a form states, where they are not all of them."""
    fit = timed.fit
    shares = {"share of the arithmetic peak": fit.compute_efficiency, "share of the HBM bandwidth": fit.hbm_efficiency}
    return {name: (float(share), "ratio") for name, share in shares.items() if float(share) != 1.0}


def _host(operator: operators.HostTransfer | operators.HostWork, scenario: Scenario) -> Inputs:
    """Return what a copy to the host, or the host's own work, rests on."""
    bandwidth = host_bandwidth(scenario.cluster, operator.devices)
    shared: Inputs = {} if bandwidth is None else {"host bandwidth per device": (float(bandwidth), "bandwidth")}
    if isinstance(operator, operators.HostUpdate):
        return {"traffic": (float(operator.traffic), "size"), **shared}
    if isinstance(operator, operators.HostGemm):
        name = f"host {operator.gemm.dtype} peak per device"
        peak = host_peak(scenario.cluster, operator.gemm.dtype, operator.devices)
        name, rate = (f"{name} (0: no source states one)", 0.0) if peak is None else (name, float(peak))
        return {**_work(operator.gemm), **shared, name: (rate, "flop_rate")}
    link = host_link(scenario.cluster)
    copied: Inputs = {"size": (float(operator.size), "size"), "link to the host": (float(link.bandwidth), "bandwidth")}
    return {**copied, **shared, "launch": (float(scenario.framework.launch), "time")}


def _loads(exchange: operators.ExpertAllToAll, links: GroupLinks) -> Inputs:
    """Return how many places a token goes to, and how much more the busiest one gets than the mean."""
    if not exchange.deduplicates:
        return {"load of the busiest rank": (float(exchange.expert_load), "count")}
    loads: Inputs = {}
    for name, places in (("node", links.nodes), ("rank", links.size)):
        loads[f"expected {name}s per token"] = (float(exchange.targets(places)), "count")
        loads[f"load of the busiest {name}, each token once"] = (float(exchange.most_loaded(places)), "count")
    return loads


def _work(operator: operators.Kernel) -> Inputs:
    work = {"FLOP": (float(operator.flop), "flop"), "traffic": (float(operator.traffic), "size")}
    if isinstance(operator, operators.Gemm):
        shape = {"m": operator.m, "n": operator.n, "k": operator.k, "groups": operator.groups}
        if operator.is_of_experts:
            shape |= {"standard deviation of m": operator.m_std, "load of the busiest rank": operator.expert_load}
        if operator.calls != 1:
            shape["products, one after the other"] = operator.calls
        widths = {"left operand": operator.a_bytes, "right operand": operator.b_bytes, "result": operator.out_bytes}
        return {
            **{name: (float(value), "count") for name, value in shape.items()},
            **{f"bytes per element, {name}": (float(value), "size") for name, value in widths.items()},
            **work,
        }
    if isinstance(operator, operators.AttentionKernel):
        return {**{name: (float(value), "count") for name, value in _attention_shape(operator).items()}, **work}
    return {"traffic": work["traffic"]}


def _attention_shape(operator: operators.AttentionKernel) -> dict[str, Quantity]:
    shape = {
        "sequences": operator.sequences, "heads": operator.heads, "queries per sequence": operator.q_len,
        "query-key pairs per head": operator.qk_pairs,
    }  # fmt: skip
    if operator.last_query_kv_len is not None:
        shape["keys of the last query"] = operator.last_query_kv_len
    if np.any(operator.serial_cycles):
        shape |= {
            "cycles of a CTA, chunk after chunk": operator.serial_cycles, "CTAs on a processor": operator.blocks,
        }  # fmt: skip
    return shape if operator.calls == 1 else shape | {"blocks of keys, a kernel each": operator.calls}


def _device(operator: operators.Kernel, scenario: Scenario) -> Inputs:
    device = scenario.cluster.device
    processors = device.processors - scenario.communication.processors
    bandwidth = device.device_memory.bandwidth
    assert bandwidth is not None
    inputs = {"HBM bandwidth": (float(bandwidth), "bandwidth"), "launch": (float(scenario.framework.launch), "time")}
    if isinstance(operator, operators.Elementwise):
        return inputs
    inputs["processors"] = (float(processors), "count")
    inputs[f"{operator.dtype} peak of these processors"] = (float(device.peak(operator.dtype, processors)), "flop_rate")
    l2 = device.level("l2")
    if isinstance(operator, operators.Gemm) and l2 is not None and l2.bandwidth is not None:
        inputs["L2 bandwidth"] = (float(l2.bandwidth), "bandwidth")
    unit = device.math[operator.dtype]
    if isinstance(operator, operators.Gemm) and (unit.scaling == "software" or unit.accumulate == "fp22"):
        inputs["CUDA-core peak (promotion)"] = (float(device.peak(VECTOR_DTYPE, processors)), "flop_rate")
    return inputs


def origins_of(workload: Workload, scenario: Scenario, timed: TimedOperator, pool: str | None) -> dict[str, str]:
    """Return where the values that enter were written. pool: that the operator runs in, of two."""
    operator, fit = timed.operator, timed.fit
    paths = [*_kernel_paths(timed, scenario, pool), *_message_paths(timed, scenario), *_host_paths(timed, scenario)]
    is_fitted = fit.form is not None or isinstance(operator, operators.Kernel)
    return locations(workload, scenario, paths) | ({"fit": fit.source} if fit.source and is_fitted else {})


def _kernel_paths(timed: TimedOperator, scenario: Scenario, pool: str | None) -> list[str]:
    operator = timed.operator
    if not isinstance(operator, operators.Kernel):
        return []
    paths = ["hardware.device.memory.hbm.bandwidth", *([] if timed.fit.form is not None else ["framework.launch"])]
    if not isinstance(operator, operators.Elementwise):
        taken = "communication.processors" if pool is None else f"{pool}.communication.processors"
        paths += [f"hardware.device.math.{operator.dtype}.peak", "hardware.device.processors", taken]
    if isinstance(operator, operators.Gemm):
        paths.append("hardware.device.memory.l2.bandwidth")
        paths += [_load_path(scenario)] if operator.is_of_experts else []
    return paths


def _message_paths(timed: TimedOperator, scenario: Scenario) -> list[str]:
    operator = timed.operator
    if not isinstance(operator, operators.Message):
        return []
    links = group_links(operator.group, scenario.cluster)
    load = [_load_path(scenario)] if isinstance(operator, operators.ExpertAllToAll) else []
    return [*load, *_latency_paths(scenario, links), *link_paths(scenario, links)]


def _host_paths(timed: TimedOperator, scenario: Scenario) -> list[str]:
    operator = timed.operator
    if isinstance(operator, operators.HostTime):
        return [f"framework.host.{name}" for name in fields(HostTimes)]
    if not isinstance(operator, operators.HostTransfer | operators.HostWork):
        return []
    paths = ["hardware.node.host.bandwidth"]
    if isinstance(operator, operators.HostTransfer):
        paths.insert(0, f"hardware.device.links.{scenario.cluster.node.host.link}.bandwidth")
    return (
        [*paths, f"hardware.node.host.peak.{operator.gemm.dtype}"]
        if isinstance(operator, operators.HostGemm)
        else paths
    )


def _load_path(scenario: Scenario) -> str:
    """Return the field that says how full the busiest rank is."""
    return "routing.load" if scenario.communication.expert_load is None else "communication.expert_load"


def link_paths(scenario: Scenario, links: GroupLinks) -> list[str]:
    """Return the fields that hold the bandwidths of a group's links, the one between nodes last."""
    intra = f"hardware.device.links.{scenario.cluster.node.intra.name}.bandwidth"
    return [intra, "hardware.node.nic.bandwidth"] if float(links.nodes) > 1 else [intra]


def _latency_paths(scenario: Scenario, links: GroupLinks) -> list[str]:
    """Return the fields that may hold the latency of a group: the fabric's where it states one, else the NIC's."""
    network = scenario.cluster.network
    if float(links.nodes) <= 1:
        return [f"hardware.device.links.{scenario.cluster.node.intra.name}.latency"]
    if network is None or network.latency_same_leaf is None:
        return ["hardware.node.nic.latency"]
    return ["hardware.network.latency.same_leaf", "hardware.network.latency.cross_leaf"]


def locations(workload: Workload, scenario: Scenario, paths: Sequence[str]) -> dict[str, str]:
    """Return path -> where its value was written, for those that exist."""
    written = {path: workload.resolved.origin(f"scenarios.{scenario.name}.{path}") for path in paths}
    return {path: str(location) for path, location in written.items() if location is not None}
