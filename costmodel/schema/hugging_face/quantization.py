"""The number formats of a checkpoint: `quantization_config` of config.json, or `hf_quant_config.json` next to it.

A part of the model (attention, dense FFN, experts, shared experts) has the formats of most of its layers: checkpoints
may leave the first or last layers wide. [transformers, utils/quantization_config.py; NVIDIA TensorRT Model Optimizer,
modelopt/torch/export; vllm-project/compressed-tensors, quantization/quant_config.py]
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from costmodel.records import ValueRecord
from costmodel.schema.hugging_face.tables import table

Formats: TypeAlias = "dict[str, Any]"
Modules: TypeAlias = "dict[str, tuple[str, ...]]"

_WIDE: Formats = {"linear": "bf16", "weights": "bf16"}


def quantization_of(
    config: Mapping[str, Any], modelopt: Mapping[str, Any] | None, depth: int, named: Modules
) -> Formats | str | None:
    """Return the formats of a checkpoint as a model file's `quantization`, null for one that is not quantised.

    config: config.json.
    beside: hf_quant_config.json.
    depth: layers of the model.
    named: modules of the family's own names. A method that is not known is returned by its name, as is a list that
    cannot be read.
    """
    stated = config.get("quantization_config")
    if stated is None and modelopt is not None:
        stated = {**modelopt.get("quantization", {}), "quant_method": "modelopt"}
    if not isinstance(stated, Mapping):
        return None
    try:
        base = _base(stated)
        if isinstance(base, str):
            return base
        formats, by_module = base
        parts = _parts(stated, (formats, by_module), depth, _modules() | named)
    except re.error as error:
        return f"the ignored pattern {error.pattern!r} ({error.msg})"
    except (AttributeError, LookupError, TypeError):
        return "an unknown form of quantization_config"
    experts = table("quantization")["experts"].get(str(config.get("expert_dtype")))
    if experts is not None and "experts" not in parts and stated.get("moe_quant_algo") is None:
        parts["experts"] = experts
    kv = _kv_format(stated)
    return {**formats, **({} if kv is None else {"kv_cache": kv}), **({"parts": parts} if parts else {})}


def _modules() -> Modules:
    """Return the names that frameworks give the matrices of each part of a model."""
    return {part: tuple(names) for part, names in table("quantization")["modules"].items()}


def _algorithms() -> dict[str, Formats]:
    algorithms: dict[str, Formats] = table("quantization")["algorithms"]
    return algorithms


def _base(stated: Mapping[str, Any]) -> tuple[Formats, Mapping[str, str]] | str:
    """Return the formats of most modules, and the algorithms of those that a list names. Or the method's name."""
    method = str(stated.get("quant_method", ""))
    if method == "mxfp4":
        return {"linear": "bf16", "weights": "mxfp4"}, {}
    if method in ("awq", "gptq"):
        zero = {"weight_zero": "int4"} if stated.get("zero_point", not stated.get("sym", False)) else {}
        bits = stated.get("bits", stated.get("w_bit", 4))
        if bits not in (4, 8):
            return f"{method} of {bits} bits"
        group = stated.get("group_size", stated.get("q_group_size", 128))
        scales = {} if group in (None, -1) else {"weight_group": group}
        return {"linear": "bf16", "weights": f"int{bits}", **scales, **zero}, {}
    layers = stated.get("quantized_layers")
    by_module = {name: str(item.get("quant_algo")) for name, item in layers.items()} if layers else {}
    algorithm = stated.get("quant_algo")
    if method == "fp8" and (algorithm in (None, "MIXED_PRECISION")):
        block = (stated.get("weight_block_size") or [None])[0]
        return {"linear": "fp8", "weights": "fp8", **({} if block is None else {"scale_block": block})}, by_module
    if algorithm == "MIXED_PRECISION" and by_module:
        return dict(_WIDE), by_module
    if str(algorithm) in _algorithms():
        return dict(_algorithms()[str(algorithm)]), by_module
    if stated.get("config_groups"):
        return _of_groups(stated["config_groups"])
    return str(algorithm or method or "an unnamed method")


def _of_groups(groups: Mapping[str, Any]) -> tuple[Formats, Mapping[str, str]] | str:
    """Return the formats of a compressed-tensors scheme: those of its first group."""
    group = next(iter(groups.values()))
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    stored = _format(weights)
    if stored is None:
        return f"{weights.get('num_bits')}-bit {weights.get('type')} weights"
    linear = "bf16" if not inputs else _format(inputs)
    if linear is None:
        return f"{inputs.get('num_bits')}-bit {inputs.get('type')} activations"
    formats: Formats = {"linear": linear, "weights": stored}
    if stored in ("int4", "int8") and weights.get("group_size"):
        formats["weight_group"] = weights["group_size"]
        if weights.get("symmetric") is False:
            formats["weight_zero"] = stored
    if weights.get("strategy") == "block" and weights.get("block_structure"):
        formats["scale_block"] = weights["block_structure"][0]
    return formats, {}


def _format(quantised: Mapping[str, Any]) -> str | None:
    """Return the format of weights or activations by bits and kind, null for one without a name here."""
    kind, bits = quantised.get("type"), quantised.get("num_bits")
    if kind == "float" and bits == 4:
        return "mxfp4" if quantised.get("group_size") == 32 else "nvfp4"
    return {"float 8": "fp8", "int 8": "int8", "int 4": "int4"}.get(f"{kind} {bits}")


def _kv_format(stated: Mapping[str, Any]) -> str | None:
    scheme, algorithm = stated.get("kv_cache_scheme"), stated.get("kv_cache_quant_algo")
    if isinstance(scheme, Mapping):
        return _format(scheme)
    return {"FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8"}.get(str(algorithm))


# ---- parts -----------------------------------------------------------------------------------------------------------


def _parts(
    stated: Mapping[str, Any], base: tuple[Formats, Mapping[str, str]], depth: int, named: Modules
) -> dict[str, Formats]:
    """Return the parts whose formats differ from those of most modules."""
    formats, by_module = base
    # Beside FP8 weights, what a list leaves out of another algorithm stays in FP8.
    mixed = str(stated.get("quant_method")) == "fp8" and bool(by_module)
    ignored = _Ignored.of(() if mixed else [
        str(pattern)
        for key in ("ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers")
        for pattern in stated.get(key) or ()
    ])  # fmt: skip
    parts: dict[str, Formats] = {}
    for part, modules in named.items():
        votes: Counter[str] = Counter()
        for layer in range(depth):
            votes[_vote(layer, modules, ignored, by_module)] += 1
        if by_module and len(votes) > 1:
            del votes[""]  # layers without this part
        winner = votes.most_common(1)[0][0]
        own = _WIDE if winner == "ignored" else _algorithms().get(winner, formats)
        if own != formats:
            parts[part] = dict(own)
    output = parts.pop("attention_output", formats)
    if output != parts.get("attention", formats):
        parts["attention_output"] = dict(output)
    if str(stated.get("quant_method")) == "mxfp4":
        parts |= {part: dict(_WIDE) for part in ("attention", "ffn", "shared_experts") if part not in parts}
    return parts


class _Ignored(ValueRecord):
    """Modules that stay wide. words: names of modules or of what holds them, between dots; patterns: of whole names."""

    words: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, stated: Sequence[str]) -> _Ignored:
        """Return what a list means: regular expressions after `re:`, wildcards, or whole words."""
        expressions = [name[3:] for name in stated if name.startswith("re:")]
        wildcards = [name for name in stated if "*" in name and not name.startswith("re:")]
        words = [f".{name}." for name in stated if "*" not in name and not name.startswith("re:")]
        compiled = map(re.compile, (*expressions, *map(fnmatch.translate, wildcards)))
        return cls(tuple(dict.fromkeys(words)), tuple(compiled))

    def any_of(self, names: Sequence[str]) -> bool:
        if not self.words and not self.patterns:
            return False
        between_dots = "\0".join(f".{name}." for name in names)
        return any(word in between_dots for word in self.words) or any(
            pattern.match(name) for pattern in self.patterns for name in names
        )


def _vote(layer: int, modules: tuple[str, ...], ignored: _Ignored, by_module: Mapping[str, str]) -> str:
    """Return what a layer says of a part: `ignored`, an algorithm of its own, or nothing."""
    names = _names(layer, modules)
    if ignored.any_of(names):
        return "ignored"
    for name in names if by_module else ():
        pieces = name.split(".")
        for end in range(len(pieces), 2, -1):
            algorithm = by_module.get(".".join(pieces[:end]))
            if algorithm is not None:
                return algorithm
    return ""


@lru_cache(maxsize=4096)
def _names(layer: int, modules: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(prefix.format(layer) + module for prefix in table("quantization")["prefixes"] for module in modules)
