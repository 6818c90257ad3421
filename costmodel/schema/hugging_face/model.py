"""From the facts of a config.json to a model document: its ends, and its layers in as few runs as they take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from costmodel.schema.hugging_face.config import BY_HAND, Config
from costmodel.schema.model import MAX_LAYERS
from costmodel.schema.tree import Tree


def model_tree(config: Config, name: Tree) -> Tree:
    """Return the model document of a config.json; raise InputError where its fields contradict each other."""
    depth = config.size("depth")
    if depth > MAX_LAYERS:
        raise config.wrong(
            "depth", f"{depth:,} layers are more than the {MAX_LAYERS:,} that can be laid out on stages",
            "check the number",
        )  # fmt: skip
    mtp = config.count("mtp", 0)
    ends = _said(
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


def _said(config: Config, entries: Mapping[str, tuple[Any, str]]) -> dict[str, Tree]:
    """Return the entries that have a value, each at the place of the fact beside it."""
    return {key: config.leaf(value, fact) for key, (value, fact) in entries.items() if value is not None}


def _positions(config: Config) -> int | None:
    """Return the rows of a learned position table, None where positions are told otherwise."""
    rows = config.count("positions")
    if rows is None or not config.flag("positions_used", default=True) or config.flag("rotary") or config.flag("alibi"):
        return None
    return rows + (config.count("positions_more") or 0)


# ---- layers ---------------------------------------------------------------------------------------------------------


def _layers(config: Config, depth: int) -> Iterator[Tree]:
    """Yield the layer list: runs of equal layers, or a group that repeats where that is shorter."""
    kinds = list(zip(_windowed(config, depth), _with_experts(config, depth), strict=True))
    made = {kind: _layer(config, windowed=kind[0], experts=kind[1]) for kind in dict.fromkeys(kinds)}

    def runs(some: list[tuple[bool, bool]]) -> list[Tree]:
        ends = [at for at in range(1, len(some) + 1) if at == len(some) or some[at] != some[at - 1]]
        begins = [0, *ends[:-1]]
        return [
            Tree({"repeat": config.leaf(end - begin, "depth"), **made[some[begin]]})
            for begin, end in zip(begins, ends, strict=True)
        ]

    single = runs(kinds)
    period = next((turn for turn in range(2, depth // 2 + 1) if kinds[turn:] == kinds[:-turn]), depth)
    if len(single) <= period:
        yield from single
        return
    turns = depth // period
    yield Tree({"repeat": config.leaf(turns, "depth"), "layers": Tree(runs(kinds[:period]))})
    if depth % period:
        yield from runs(kinds[turns * period :])


def _windowed(config: Config, depth: int) -> list[bool]:
    """Return which layers have a sliding window: those that are named, or every n-th from some layer on."""
    window, types = config.count("window"), config.items("layer_types")
    if types is not None:
        return _named_windows(config, types, depth)
    if window is None or not config.flag("window_used", default=True):
        return [False] * depth
    every, begin = config.count("window_every") or 1, config.count("window_from", 0) or 0
    return [at >= begin and at % every == 0 for at in range(depth)]


def _named_windows(config: Config, types: list[Any], depth: int) -> list[bool]:
    """Return which layers `layer_types` says to have a window."""
    if len(types) != depth:
        raise config.wrong(
            "layer_types", f"has {len(types)} entries for {depth} layers",
            f"write one a layer, or correct {config.name_of('depth')}",
        )  # fmt: skip
    kinds = {"full_attention": False, "sliding_attention": True}
    unknown = next((name for name in types if not isinstance(name, str) or name not in kinds), None)
    if unknown is not None:
        raise config.wrong(
            "layer_types", f"{unknown!r} is no kind of layer that can be imported",
            f"known: {', '.join(kinds)}; or {BY_HAND}",
        )  # fmt: skip
    found = [kinds[name] for name in types]
    if any(found) and config.value("window") is None:
        raise config.wrong("window", "is missing, but `layer_types` has sliding_attention", "add it")
    return found


def _with_experts(config: Config, depth: int) -> list[bool]:
    """Return which layers have experts: all, every n-th, or all from some layer on."""
    if not config.has("experts"):
        return [False] * depth
    begin, every = config.count("moe_from", 0) or 0, config.count("moe_every") or 1
    step, dense = config.count("moe_step") or 1, config.items("dense_layers") or []
    return [at >= begin and at % every == 0 and (at + 1) % step == 0 and at not in dense for at in range(depth)]


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
    return _said(config, entries)


# ---- mixer and FFN --------------------------------------------------------------------------------------------------


def _attention(config: Config, *, windowed: bool) -> dict[str, Tree]:
    """Return grouped-query attention."""
    heads = config.size("heads")
    head_dim, alibi = _head_dim(config, heads), config.flag("alibi")
    rotary = config.flag("rotary") and not alibi
    group = {"share": Tree(1.0), "pattern": Tree({"kind": Tree("window"), "window": config.leaf(
        config.count("window"), "window")})}  # fmt: skip
    return _said(
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
    stated, hidden = config.count("head_dim"), config.size("hidden")
    if stated is None and hidden % heads:
        raise config.wrong(
            "hidden", f"{hidden} is no multiple of {heads} heads ({config.name_of('heads')})", "correct one of them"
        )
    return hidden // heads if stated is None else stated


def _kv_heads(config: Config, heads: int) -> int:
    """Return the key-value heads: as stated, one under multi-query attention, else as many as heads."""
    stated = config.count("kv_heads") or heads
    kind = config.value("attention_type")
    one = kind == "multiquery_attention" or (config.flag("multi_query") and not config.flag("grouped"))
    found = 1 if one else heads if kind == "multihead_attention" else stated
    if found > heads or heads % found:
        told = "are more than" if found > heads else "do not divide"
        raise config.wrong(
            "kv_heads", f"{found} key-value heads {told} {heads} heads ({config.name_of('heads')})",
            "correct one of them",
        )  # fmt: skip
    return found


def _rotary_dim(config: Config, head_dim: int) -> int | None:
    """Return how many elements of a head are rotated, None for all."""
    share = config.share("rotary_share")
    found = config.count("rotary_dim") if share is None else int(head_dim * share)
    return None if found == head_dim else found


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
    """Return a dense FFN, four times as wide as the residual stream where nothing is said."""
    width = config.count("intermediate") or (config.count("expansion") or 4) * config.size("hidden")
    return _said(
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
        raise config.wrong(
            "top_k", f"a token cannot visit {top_k} of {experts} experts ({config.name_of('experts')})",
            "correct one of them",
        )  # fmt: skip
    if groups is not None and experts % groups:
        raise config.wrong(
            "groups", f"{groups} groups do not divide {experts} experts ({config.name_of('experts')})",
            "correct one of them",
        )  # fmt: skip
    free = groups is None or groups == 1
    return _said(
        config,
        {
            "type": ("moe", "experts"),
            "experts": (experts, "experts"),
            "intermediate": (config.size("expert_intermediate"), "expert_intermediate"),
            "top_k": (top_k, "top_k"),
            "shared": (config.count("shared", 0) or None, "shared"),
            "shared_intermediate": (config.count("shared_intermediate"), "shared_intermediate"),
            "shared_gate": (config.flag("shared_gate") or None, "shared_gate"),
            "groups": (None if free else groups, "groups"),
            "group_top_k": (None if free else config.count("group_top_k"), "group_top_k"),
            "bias": (config.flag("expert_bias") or None, "expert_bias"),
            "router_bias": (config.flag("router_bias") or None, "router_bias"),
        },
    )
