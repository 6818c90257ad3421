"""The ways in which a search lets ranks of expert parallelism exchange their tokens."""

from __future__ import annotations

from costmodel.api import Workload
from costmodel.workload.plans import Decode, Prefill, Serving

_MODES = {Prefill: "normal", Decode: "low_latency", Serving: "low_latency"}


def exchange_axis(workload: Workload, name: str) -> str | None:
    """Return the axis, as `--vary` takes it, over a framework's own gather and DeepEP, null where there is no choice.

    There is one where a scenario of a model with routed experts states no exchange of its own, its framework gathers by
    default and says that it can use DeepEP on the device (`low_latency_experts`). Dispatched tokens are in FP8 where
    linear layers are. A prefill takes DeepEP's normal kernels, decoding and a server those of low latency.
    """
    scenario, head = workload.scenario(name), f"scenarios.{name}"
    mode = _MODES.get(type(scenario.plan))  # none for a training step
    if mode is None or not scenario.architecture.has_experts or scenario.communication.exchange != "gather":
        return None
    value = workload.resolved.value
    able = value(f"{head}.framework.low_latency_experts") or ()
    if value(f"{head}.communication.exchange") is not None or value(f"{head}.hardware.device.die") not in able:
        return None
    tokens = "fp8" if scenario.precision.linear.startswith("fp8") else "bf16"
    path = f"{head}.communication"
    return f"{path}.exchange=gather,all_to_all; {path}.mode=normal,{mode}; {path}.dispatch=bf16,{tokens}"
