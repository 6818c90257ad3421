"""Which kind each layer of a config.json is of: its mixer and its FFN, by lists, patterns or periods."""

from __future__ import annotations

from typing import Any

from costmodel.errors import available
from costmodel.records import ValueRecord
from costmodel.schema.hugging_face.config import BY_HAND, Config

FULL, WINDOW, DENSE, EXPERTS, NONE = "full", "window", "dense", "moe", "none"
_SPARSE = {1: True, 0: False, "sparse": True, "dense": False, "moe": True, "hash_moe": True}


class LayerKind(ValueRecord):
    """The kind of a layer's mixer, a key of the family's `kinds`, and of its FFN.

    windowed: the mixer has the model's window.
    borrowed: its keys and values are an earlier layer's.
    doubled: its FFN is twice as wide.
    """

    mixer: str
    ffn: str
    windowed: bool = False
    borrowed: bool = False
    doubled: bool = False


def layer_kinds(config: Config, depth: int) -> list[LayerKind]:
    """Return the kind of every layer."""
    named = _named_kinds(config, depth)
    experts = _with_experts(config, depth)
    if named is None:
        return [
            LayerKind(FULL, EXPERTS if routed else DENSE, windowed)
            for windowed, routed in zip(_windowed(config, depth), experts, strict=True)
        ]
    borrowed = depth - (config.count("borrowed", 0) or 0)
    doubled = config.flag("doubled")
    kinds = []
    for layer, (name, routed) in enumerate(zip(named, experts, strict=True)):
        mixer, ffn = name if isinstance(name, tuple) else (name, EXPERTS if routed else DENSE)
        reuses = layer >= borrowed
        kinds.append(LayerKind(mixer, ffn, borrowed=reuses, doubled=doubled and reuses))
    return kinds


def mtp_kinds(config: Config) -> list[LayerKind] | None:
    """Return the kinds of the layers of an MTP module, null where one is like the last layer."""
    if config.has("mtp_kind"):
        return [LayerKind(*config.value("mtp_kind"))]
    types = config.names("mtp_types")
    if types is None:
        return None
    names = config.value("type_names")
    return [LayerKind(*_name(config, "mtp_types", names, item)) for item in types]


# ---- kinds by name ---------------------------------------------------------------------------------------------------


def _named_kinds(config: Config, depth: int) -> list[Any] | None:
    """Return the kind of each layer by the family's names, null where only windows and experts distinguish layers."""
    types = config.names("types")
    if types is not None:
        return _listed(config, types, depth)
    if config.has("types_from_one"):
        linear = set(config.items("types_from_one") or ())
        return ["linear" if layer + 1 in linear else FULL for layer in range(depth)]
    if config.has("types_from_zero"):
        attending = set(config.items("types_from_zero") or ())
        return [FULL if layer in attending else "mamba" for layer in range(depth)]
    if config.has("full_period"):
        period, offset = config.size("full_period"), config.count("full_offset", 0)
        return [FULL if layer % period == offset else "mamba" for layer in range(depth)]
    if config.has("alternates"):
        return [config.value("alternates")[layer % 2] for layer in range(depth)]
    every = config.count("full_every")
    if every is not None:
        usual, last = config.value("every_kinds") or ("linear", FULL)
        return [last if (layer + 1) % every == 0 else usual for layer in range(depth)]
    return [FULL] * depth if config.has("kinds") else None


def _listed(config: Config, types: list[Any] | str, depth: int) -> list[Any]:
    """Return the kinds that a list, or the letters of a pattern, name one by one."""
    names = config.value("type_names")
    more = config.flag("longer_types") and len(types) > depth
    if len(types) != depth and not more:
        raise config.error(
            "types", f"has {len(types)} entries for {depth} layers",
            f"write one per layer, or correct {config.name_of('depth')}",
        )  # fmt: skip
    return [_name(config, "types", names, item) for item in types[:depth]]


def _name(config: Config, fact: str, names: dict[Any, Any], item: Any) -> Any:
    """Return the kind that an entry of a list names."""
    if not isinstance(item, str | int) or item not in names:
        raise config.error(
            fact,
            f"layers of type {item!r} cannot be imported",
            f"{available([str(name) for name in names])}; or {BY_HAND}",
        )
    return names[item]


def _windowed(config: Config, depth: int) -> list[bool]:
    """Return which layers have a sliding window: those listed, or every n-th from some layer on."""
    window, types = config.count("window"), config.items("layer_types")
    if types is not None:
        return _named_windows(config, types, depth)
    if window is None or not config.flag("window_used", default=True):
        return [False] * depth
    every, begin = config.count("window_every") or 1, config.count("window_from", 0) or 0
    return [layer >= begin and layer % every == 0 for layer in range(depth)]


def _named_windows(config: Config, types: list[Any], depth: int) -> list[bool]:
    """Return which layers have a window according to `layer_types`."""
    if len(types) != depth:
        raise config.error(
            "layer_types", f"has {len(types)} entries for {depth} layers",
            f"write one per layer, or correct {config.name_of('depth')}",
        )  # fmt: skip
    kinds = {"full_attention": False, "sliding_attention": True}
    windowed = [bool(_name(config, "layer_types", kinds, item)) for item in types]
    if any(windowed) and config.value("window") is None:
        raise config.error("window", "is missing, but `layer_types` has sliding_attention", "add it")
    return windowed


# ---- experts ---------------------------------------------------------------------------------------------------------


def _with_experts(config: Config, depth: int) -> list[bool]:
    """Return which layers have experts: those listed, all, every n-th, or all from some layer on."""
    if not config.has("experts") or not config.flag("with_experts", default=True):
        return [False] * depth
    listed, every = config.value("moe_types"), config.value("moe_every")
    listed = every if isinstance(every, list) else listed
    if isinstance(listed, list):
        fact = "moe_types" if config.value("moe_types") is listed or not config.has("moe_every") else "moe_every"
        if len(listed) < depth:
            raise config.error(fact, f"has {len(listed)} entries for {depth} layers", "write one per layer")
        return [bool(_name(config, fact, _SPARSE, item)) for item in listed[:depth]]
    numbers = _expert_numbers(config)
    if numbers is not None:
        return [layer in numbers for layer in range(depth)]
    if config.has("moe_period"):
        period, offset = config.size("moe_period"), config.count("moe_offset", 0)
        return [layer % period == offset for layer in range(depth)]
    begin, freq = config.count("moe_from", 0) or 0, config.count("moe_every") or 1
    step, dense = config.count("moe_step") or 1, config.items("dense_layers") or []
    until = config.count("moe_until", low=-1)
    end = depth - 1 if until is None or until < 0 else until
    return [
        begin <= layer <= end and layer % freq == 0 and (layer + 1) % step == 0 and layer not in dense
        for layer in range(depth)
    ]


def _expert_numbers(config: Config) -> set[int] | None:
    """Return the numbers of the layers with experts, from 0, null where no list of them is stated."""
    numbers = config.value("moe_layers")
    if numbers is not None:
        return set(numbers)
    text = config.value("moe_numbers")
    if text is None:
        return None
    try:
        return {int(number) for number in str(text).split(",")}
    except ValueError:
        raise config.error(
            "moe_numbers", f"must be numbers of layers, not {text!r}", "write them with commas"
        ) from None
