"""From the facts of a config.json to a model document, with as few runs of layers as possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from costmodel.schema.hugging_face.config import BY_HAND, Config
from costmodel.schema.model import MAX_LAYERS
from costmodel.schema.references import available
from costmodel.schema.tree import Tree


def model_tree(config: Config, name: Tree) -> Tree:
    """Return the model document of a config.json; raise InputError where its fields contradict each other."""
    depth = config.size("depth")
    if depth > MAX_LAYERS:
        raise config.error(
            "depth", f"{depth:,} layers exceed the limit of {MAX_LAYERS:,}",
            "check the number",
        )  # fmt: skip
    mtp = config.count("mtp", 0)
    ends = _entries(
        config,
        {
            "hidden": (config.size("hidden"), "hidden"),
            "vocabulary": (config.size("vocabulary"), "vocabulary"),
            "positions": (_positions(config), "positions"),
            "tied_embeddings": (config.flag("tied"), "tied"),
            "head_bias": (config.flag("head_bias") or None, "head_bias"),
            "embedding_norm": (config.value("embedding_norm"), "embedding_norm"),
            "mtp": ({"depth": config.leaf(mtp, "mtp")} if mtp else None, "mtp"),
        },
    )
    layers = Tree(list(_layers(config, depth)), config.leaf(None, "depth").location)
    return Tree({"name": name, **ends, "layers": layers}, config.location)


def _entries(config: Config, entries: Mapping[str, tuple[Any, str]]) -> dict[str, Tree]:
    """Return the entries with a value, each at the location of its fact. entries: key -> (value, fact)."""
    return {key: config.leaf(value, fact) for key, (value, fact) in entries.items() if value is not None}


def _positions(config: Config) -> int | None:
    """Return the rows of a learned position table, None for other positions."""
    rows = config.count("positions")
    if rows is None or not config.flag("positions_used", default=True) or config.flag("rotary") or config.flag("alibi"):
        return None
    return rows + (config.count("positions_more") or 0)


# ---- layers ---------------------------------------------------------------------------------------------------------


def _layers(config: Config, depth: int) -> Iterator[Tree]:
    """Yield the layer list: runs of equal layers, or a repeated group if that is shorter."""
    kinds = list(zip(_windowed(config, depth), _with_experts(config, depth), strict=True))
    layers = {kind: _layer(config, windowed=kind[0], experts=kind[1]) for kind in dict.fromkeys(kinds)}

    def runs(some: list[tuple[bool, bool]]) -> list[Tree]:
        grouped = [(kind, len(list(run))) for kind, run in groupby(some)]
        return [Tree({"repeat": config.leaf(count, "depth"), **layers[kind]}) for kind, count in grouped]

    single = runs(kinds)
    period = next((n for n in range(2, depth // 2 + 1) if kinds[n:] == kinds[:-n]), depth)
    if len(single) <= period:
        yield from single
        return
    repeats = depth // period
    yield Tree({"repeat": config.leaf(repeats, "depth"), "layers": Tree(runs(kinds[:period]))})
    if depth % period:
        yield from runs(kinds[repeats * period :])


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
    unknown = next((name for name in types if not isinstance(name, str) or name not in kinds), None)
    if unknown is not None:
        raise config.error(
            "layer_types", f"layers of type {unknown!r} cannot be imported",
            f"{available(list(kinds))}; or {BY_HAND}",
        )  # fmt: skip
    windowed = [kinds[name] for name in types]
    if any(windowed) and config.value("window") is None:
        raise config.error("window", "is missing, but `layer_types` has sliding_attention", "add it")
    return windowed


def _with_experts(config: Config, depth: int) -> list[bool]:
    """Return which layers have experts: all, every n-th, or all from some layer on."""
    if not config.has("experts"):
        return [False] * depth
    begin, every = config.count("moe_from", 0) or 0, config.count("moe_every") or 1
    step, dense = config.count("moe_step") or 1, config.items("dense_layers") or []
    return [
        layer >= begin and layer % every == 0 and (layer + 1) % step == 0 and layer not in dense
        for layer in range(depth)
    ]


def _layer(config: Config, *, windowed: bool, experts: bool) -> dict[str, Tree]:
    """Return one kind of layer, without its `repeat`."""
    grouped = config.flag("grouped")
    parallel = config.flag("parallel") or grouped
    shared = not (grouped and config.count("norms") != 1) if config.has("norms") else config.flag("shared_norm")
    kind = "layer_no_bias" if config.flag("no_bias") else config.value("norm")
    mixer = _latent(config) if config.has("kv_lora") else _attention(config, windowed=windowed)
    entries: dict[str, tuple[Any, str]] = {
        "norm": (None if kind == "rms" else kind, "norm"),
        "norm_position": (config.value("norm_position"), "norm_position"),
        "block": ("parallel" if parallel else None, "parallel"),
        "shared_norm": ((parallel and shared) or None, "norms"),
        "dropout": (config.drops_out() or None, "dropout"),
        "mixer": (mixer, "heads"),
        "ffn": (_moe(config) if experts else _dense(config), "intermediate"),
    }
    return _entries(config, entries)


# ---- mixer and FFN --------------------------------------------------------------------------------------------------


def _attention(config: Config, *, windowed: bool) -> dict[str, Tree]:
    """Return grouped-query attention."""
    heads = config.size("heads")
    head_dim, alibi = _head_dim(config, heads), config.flag("alibi")
    rotary = config.flag("rotary") and not alibi
    group = {"share": Tree(1.0), "pattern": Tree({"kind": Tree("window"), "window": config.leaf(
        config.count("window"), "window")})}  # fmt: skip
    return _entries(
        config,
        {
            "type": ("attention", "heads"),
            "q_heads": (heads, "heads"),
            "kv_heads": (_kv_heads(config, heads), "kv_heads"),
            "head_dim": (head_dim, "head_dim"),
            "rotary": (None if rotary else False, "rotary"),
            "rotary_dim": (_rotary_dim(config, head_dim) if rotary else None, "rotary_share"),
            "alibi": (alibi or None, "alibi"),
            "bias": (_biased(config, "bias") or None, "bias"),
            "output_bias": (config.value("output_bias") if _biased(config, "bias") else None, "output_bias"),
            "qk_norm": (config.value("qk_norm"), "qk_norm"),
            "head_groups": ([Tree(group)] if windowed else None, "window"),
        },
    )


def _head_dim(config: Config, heads: int) -> int:
    head_dim, hidden = config.count("head_dim"), config.size("hidden")
    if head_dim is None and hidden % heads:
        message = f"{hidden} is not a multiple of {heads} heads ({config.name_of('heads')})"
        raise config.error("hidden", message, "correct one of them")
    return hidden // heads if head_dim is None else head_dim


def _kv_heads(config: Config, heads: int) -> int:
    """Return the key-value heads: one under multi-query attention, as many as heads under multi-head attention."""
    kind, stated = config.value("attention_type"), config.count("kv_heads") or heads
    is_multi_query = kind == "multiquery_attention" or (config.flag("multi_query") and not config.flag("grouped"))
    kv_heads = 1 if is_multi_query else heads if kind == "multihead_attention" else stated
    if kv_heads > heads or heads % kv_heads:
        relation = "are more than" if kv_heads > heads else "do not divide"
        message = f"{kv_heads} key-value heads {relation} {heads} heads ({config.name_of('heads')})"
        raise config.error("kv_heads", message, "correct one of them")
    return kv_heads


def _rotary_dim(config: Config, head_dim: int) -> int | None:
    """Return the rotated elements of a head, None for all."""
    share = config.share("rotary_share")
    rotary_dim = config.count("rotary_dim") if share is None else int(head_dim * share)
    return None if rotary_dim == head_dim else rotary_dim


def _biased(config: Config, fact: str) -> bool:
    return not config.flag("no_bias") if config.has("no_bias") else config.flag(fact)


def _latent(config: Config) -> dict[str, Tree]:
    """Return multi-head latent attention."""
    sizes = ("kv_lora", "nope_dim", "rope_dim", "v_head_dim")
    return {
        "type": config.leaf("mla", "heads"),
        "heads": config.leaf(config.size("heads"), "heads"),
        "q_lora": config.leaf(config.count("q_lora"), "q_lora"),
        **{size: config.leaf(config.size(size), size) for size in sizes},
    }


def _dense(config: Config) -> dict[str, Tree]:
    """Return a dense FFN, by default four times as wide as the residual stream."""
    width = config.count("intermediate") or (config.count("expansion") or 4) * config.size("hidden")
    return _entries(
        config,
        {
            "type": ("glu" if config.flag("gated") else "mlp", "intermediate"),
            "intermediate": (width, "intermediate"),
            "bias": (_biased(config, "ffn_bias") or None, "ffn_bias"),
        },
    )


def _moe(config: Config) -> dict[str, Tree]:
    """Return a mixture of experts."""
    experts, top_k, groups = config.size("experts"), config.size("top_k"), config.count("groups")
    if top_k > experts:
        message = f"a token cannot visit {top_k} of {experts} experts ({config.name_of('experts')})"
        raise config.error("top_k", message, "correct one of them")
    if groups is not None and experts % groups:
        message = f"{groups} groups do not divide {experts} experts ({config.name_of('experts')})"
        raise config.error("groups", message, "correct one of them")
    is_free = groups is None or groups == 1
    return _entries(
        config,
        {
            "type": ("moe", "experts"),
            "experts": (experts, "experts"),
            "intermediate": (config.size("expert_intermediate"), "expert_intermediate"),
            "top_k": (top_k, "top_k"),
            "shared": (config.count("shared", 0) or None, "shared"),
            "shared_intermediate": (config.count("shared_intermediate"), "shared_intermediate"),
            "shared_gate": (config.flag("shared_gate") or None, "shared_gate"),
            "groups": (None if is_free else groups, "groups"),
            "group_top_k": (None if is_free else config.count("group_top_k"), "group_top_k"),
            "bias": (config.flag("expert_bias") or None, "expert_bias"),
            "router_bias": (config.flag("router_bias") or None, "router_bias"),
        },
    )
