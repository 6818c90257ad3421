"""Degrees of parallelism and number formats as engines count them, and back."""

from __future__ import annotations

from collections.abc import Callable

from costmodel.planning.launch.options import Settings

DEGREES = ("tp", "pp", "dp", "ep", "cp")
SERVERS = ("vllm", "sglang", "trt-llm", "dynamo-trt-llm")
_PLAIN = ("bf16", "fp16")  # formats that are a type of weights, not a quantisation
_KINDS = "precision.format", "precision.type"  # of numbers, where no recipe of theirs is stated
_KV, _TENSOR = "precision.kv_cache", "layout.tensor"


def engine_of(framework: str) -> str | None:
    """Return the engine whose release a framework is, null where it is none that is launched."""
    return next((key for key in SERVERS if framework == key or framework.startswith(f"{key}-")), None)


def degrees(settings: Settings) -> dict[str, int]:
    """Return tp, pp, dp, ep and cp, 1 where not stated."""
    return {name: int(settings.get(f"parallel.{name}") or 1) for name in DEGREES}


def devices_of(settings: Settings) -> int:
    """Return the devices of one engine or training run: tp * pp * dp * cp."""
    of = degrees(settings)
    return of["tp"] * of["pp"] * of["dp"] * of["cp"]


def theirs(key: str, settings: Settings) -> Settings:
    """Return settings in an engine's own counting. key: of engines.yaml."""
    counted = dict(settings)
    compute = settings.get("precision.compute")
    if compute in _PLAIN:
        counted["precision.type"] = compute
    elif compute is not None and key not in SERVERS:
        counted["precision.type"] = "bf16"
    if key in SERVERS:
        layout = {f"layout.{name}": value for name, value in _TO[key](degrees(settings)).items()}
        counted |= {path: value for path, value in layout.items() if value is True or value > 1 or path == _TENSOR}
    return counted


def ours(key: str, counted: Settings) -> Settings:
    """Return what an engine states as settings of a scenario: the inverse of `theirs` wherever that has one.

    A server without an option of its own caches keys and values in 16 bits.
    """
    settings = {path: value for path, value in counted.items() if not path.startswith(("layout.", *_KINDS))}
    kind = next((counted[name] for name in _KINDS if name in counted), None)
    if kind is not None:
        settings.setdefault("precision.compute", kind)
    if key not in SERVERS:
        return settings
    if settings.get("precision.compute") not in (None, *_PLAIN):
        settings.setdefault(_KV, "bf16")
    named = {path.removeprefix("layout."): value for path, value in counted.items() if path.startswith("layout.")}
    read = _FROM[key]({name: int(value) for name, value in named.items()})
    return settings | {f"parallel.{name}": value for name, value in read.items() if value != 1 or name == "tp"}


def _to_vllm(of: dict[str, int]) -> dict[str, int | bool]:
    """Experts are sliced by tensor parallelism, or spread over all ranks of an engine."""
    return {"tensor": of["tp"], "pipeline": of["pp"], "data": of["dp"], "context": of["cp"], "spread": of["ep"] > 1}


def _from_vllm(named: dict[str, int]) -> dict[str, int]:
    tp, dp, cp = (named.get(name, 1) for name in ("tensor", "data", "context"))
    spread = tp * dp * cp if named.get("spread") else 1
    return {"tp": tp, "pp": named.get("pipeline", 1), "dp": dp, "cp": cp, "ep": spread}


def _to_sglang(of: dict[str, int]) -> dict[str, int | bool]:
    """With data-parallel attention the tensor-parallel size is that of all ranks, which share the experts."""
    shared = of["dp"] > 1 and of["ep"] > 1
    tensor = of["tp"] * of["dp"] if shared else of["tp"]
    return {"tensor": tensor, "pipeline": of["pp"], "data": of["dp"], "attention_data": shared, "experts": of["ep"]}


def _from_sglang(named: dict[str, int]) -> dict[str, int]:
    tensor, dp = named.get("tensor", 1), named.get("data", 1)
    tp = tensor // dp if named.get("attention_data") else tensor
    return {"tp": tp, "pp": named.get("pipeline", 1), "dp": dp, "ep": named.get("experts", 1)}


def _to_trt_llm(of: dict[str, int]) -> dict[str, int | bool]:
    """Attention is either tensor parallel or data parallel, over the same ranks."""
    shared = of["dp"] > 1 and of["tp"] == 1
    tensor = of["dp"] if shared else of["tp"]
    return {
        "tensor": tensor, "pipeline": of["pp"], "context": of["cp"], "attention_data": shared, "experts": of["ep"],
    }  # fmt: skip


def _from_trt_llm(named: dict[str, int]) -> dict[str, int]:
    tensor, shared = named.get("tensor", 1), bool(named.get("attention_data"))
    rest = {"pp": named.get("pipeline", 1), "cp": named.get("context", 1), "ep": named.get("experts", 1)}
    return {"tp": 1 if shared else tensor, "dp": tensor if shared else 1, **rest}


_TO: dict[str, Callable[[dict[str, int]], dict[str, int | bool]]] = {
    "vllm": _to_vllm, "sglang": _to_sglang, "trt-llm": _to_trt_llm, "dynamo-trt-llm": _to_trt_llm,
}  # fmt: skip
_FROM: dict[str, Callable[[dict[str, int]], dict[str, int]]] = {
    "vllm": _from_vllm, "sglang": _from_sglang, "trt-llm": _from_trt_llm, "dynamo-trt-llm": _from_trt_llm,
}  # fmt: skip
