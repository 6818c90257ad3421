"""Degrees of parallelism and number formats as engines count them, and back."""

from __future__ import annotations

from collections.abc import Mapping

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


def layout_words(degrees: Mapping[str, float | bool], alone: str = "TP 1") -> str:
    """Return degrees of parallelism above one in words. alone: where there are none."""
    names = {"expert_tensor": "experts' TP"}
    parts = [f"{names.get(name, name.upper())} {value}" for name, value in degrees.items() if value > 1]
    return " ".join(parts) or alone


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
    usual = {"expert_tensor": read["tp"] if read["ep"] == 1 else 1, "tp": 0}  # else 1
    return settings | {f"parallel.{name}": value for name, value in read.items() if value != usual.get(name, 1)}


def _to_vllm(of: dict[str, int]) -> dict[str, int | bool]:
    """Experts are sliced over all ranks of an engine, or spread over them."""
    return {"tensor": of["tp"], "pipeline": of["pp"], "data": of["dp"], "context": of["cp"], "spread": of["ep"] > 1}


def _from_vllm(named: dict[str, int]) -> dict[str, int]:
    tp, dp, cp = (named.get(name, 1) for name in ("tensor", "data", "context"))
    ranks = tp * dp * cp
    spread = ranks if named.get("spread") else 1
    return {
        "tp": tp, "pp": named.get("pipeline", 1), "dp": dp, "cp": cp, "ep": spread, "expert_tensor": ranks // spread,
    }  # fmt: skip


def _to_tensor(of: dict[str, int]) -> dict[str, int | bool]:
    """With data-parallel attention the tensor-parallel size is that of all ranks, which share the experts."""
    shared = of["dp"] > 1
    return {
        "tensor": of["tp"] * of["dp"], "pipeline": of["pp"], "data": of["dp"], "context": of["cp"],
        "attention_data": shared, "experts": of["ep"],
    }  # fmt: skip


def _from_tensor(named: dict[str, int]) -> dict[str, int]:
    """Attention of TensorRT-LLM is data parallel over all ranks or none."""
    tensor, ep, shared = named.get("tensor", 1), named.get("experts", 1), bool(named.get("attention_data"))
    dp = named.get("data", tensor if shared else 1)
    rest = {"pp": named.get("pipeline", 1), "cp": named.get("context", 1), "ep": ep}
    return {"tp": tensor // dp if shared else tensor, "dp": dp, **rest, "expert_tensor": max(tensor // ep, 1)}


_TO = dict.fromkeys(SERVERS, _to_tensor) | {"vllm": _to_vllm}
_FROM = dict.fromkeys(SERVERS, _from_tensor) | {
    "vllm": _from_vllm, "sglang": lambda named: _from_tensor({"data": 1, **named}),
}  # fmt: skip
