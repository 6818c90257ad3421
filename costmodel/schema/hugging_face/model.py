"""From the facts of a config.json to a model document, with as few runs of layers as possible."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, groupby, pairwise
from typing import Any

from costmodel.schema.hugging_face.config import BY_HAND, Config
from costmodel.schema.hugging_face.layer_kinds import EXPERTS, NONE, LayerKind, layer_kinds, mtp_kinds
from costmodel.schema.hugging_face.mixer_trees import is_biased, mapping, mixer_tree
from costmodel.schema.model import MAX_LAYERS
from costmodel.schema.tree import Tree

_MOST_BEFORE_GROUP, _LONGEST_PERIOD = 8, 64  # layers before a repeated group, and in it


def model_tree(config: Config, name: Tree) -> Tree:
    """Return the model document of a config.json. Raises InputError where its fields contradict each other."""
    depth = _depth(config)
    ends = mapping(config, "ends", positions=_positions(config), tied_embeddings=config.flag("tied"))
    chosen = config.has("blocks")
    runs = block_layers(config, depth) if chosen else list(_layers(config, layer_kinds(config, depth)))
    layers = Tree(runs, config.leaf(None, "depth").location)
    more = _layer_embedding(config) | _mtp(config)
    return Tree({"name": name, **ends, **more, "layers": layers}, config.location)


def _depth(config: Config) -> int:
    depth = config.depth()
    if depth > MAX_LAYERS:
        raise config.error(
            "depth", f"{depth:,} layers exceed the limit of {MAX_LAYERS:,}",
            "check the number",
        )  # fmt: skip
    return depth


def _positions(config: Config) -> int | None:
    """Return the rows of a learned position table, null for other positions."""
    rows = config.count("positions")
    if rows is None or not config.flag("positions_used", default=True) or config.flag("rotary") or config.flag("alibi"):
        return None
    return rows + (config.count("positions_more") or 0)


def _mtp(config: Config) -> dict[str, Tree]:
    """Return the modules of multi-token prediction, with their own layers where these are unlike the model's last."""
    modules = config.count("mtp", 0)
    if not modules:
        return {}
    parts = {"depth": config.leaf(modules, "mtp")}
    kinds = mtp_kinds(config)
    if kinds is not None:
        parts["layers"] = Tree([Tree(_layer(config, kind)) for kind in kinds], parts["depth"].location)
    return {"mtp": config.leaf(parts, "mtp")}


def _layer_embedding(config: Config) -> dict[str, Tree]:
    width = config.count("layer_embedding", 0)
    if not width:
        return {}
    rows = config.leaf(config.size("layer_embedding_rows"), "layer_embedding_rows")
    return {"layer_embedding": Tree({"rows": rows, "width": config.leaf(width, "layer_embedding")})}


# ---- layers ---------------------------------------------------------------------------------------------------------


def _layers(config: Config, kinds: list[LayerKind]) -> Iterator[Tree]:
    """Yield the layer list: runs of equal layers, with a repeated group where that makes it shorter."""
    layers = {kind: _layer(config, kind) for kind in dict.fromkeys(kinds)}

    def runs(some: list[LayerKind]) -> list[Tree]:
        grouped = [(kind, len(list(run))) for kind, run in groupby(some)]
        return [Tree({"repeat": config.leaf(count, "depth"), **layers[kind]}) for kind, count in grouped]

    first, period, repeats = _longest_group(kinds)
    yield from runs(kinds[:first])
    if period:
        yield Tree({"repeat": config.leaf(repeats, "depth"), "layers": Tree(runs(kinds[first : first + period]))})
    yield from runs(kinds[first + period * repeats :])


def _longest_group(kinds: list[LayerKind]) -> tuple[int, int, int]:
    """Return where the group that shortens the list most begins, its layers, and its repetitions. Zeros for none."""
    numbers: dict[LayerKind, int] = {}
    order = [numbers.setdefault(kind, len(numbers)) for kind in kinds]
    depth = len(order)
    changes = list(accumulate((int(one != other) for one, other in pairwise(order)), initial=0))

    def runs(begin: int, end: int) -> int:
        """Return into how many runs of equal layers a part of the list falls."""
        return 1 + changes[end - 1] - changes[begin] if begin < end else 0

    best, shortest = (0, 0, 0), runs(0, depth)
    for first in range(min(depth, _MOST_BEFORE_GROUP + 1)):
        for period in range(2, min((depth - first) // 2, _LONGEST_PERIOD) + 1):
            group, repeats = order[first : first + period], 1
            while order[first + repeats * period : first + (repeats + 1) * period] == group:
                repeats += 1
            if repeats == 1:
                continue
            after = first + repeats * period
            length = 1 + runs(0, first) + runs(first, first + period) + runs(after, depth)
            if length < shortest:
                best, shortest = (first, period, repeats), length
    return best


def _layer(config: Config, kind: LayerKind) -> dict[str, Tree]:
    grouped = config.flag("grouped")
    parallel = (config.flag("parallel") or grouped) and NONE not in (kind.mixer, kind.ffn)
    shared = not (grouped and config.count("norms") != 1) if config.has("norms") else config.flag("shared_norm")
    norm = "layer_no_bias" if config.flag("no_bias") else config.value("norm")
    return mapping(
        config, "layer", norm=None if norm == "rms" else norm, block="parallel" if parallel else None,
        shared_norm=(parallel and shared) or None, dropout=config.drops_out() or None,
        mixer=mixer_tree(config.of_kind(kind.mixer), kind), ffn=ffn_tree(config, kind),
    )  # fmt: skip


# ---- The FFN of one kind of layer, from the facts of a config.json ---------------------------------------------------


def ffn_tree(config: Config, kind: LayerKind) -> dict[str, Tree]:
    """Return the FFN of a kind of layer. config: the facts of the model."""
    if kind.ffn == NONE:
        return mapping(config, "none")
    if kind.ffn == EXPERTS and not _has_none(config):
        return _moe(config)
    return _dense(config, doubled=kind.doubled)


def _has_none(config: Config) -> bool:
    """Tell whether a model of a family with experts has only the shared one, which is then a dense FFN."""
    return config.has("no_experts") and config.count("experts", 0) == 0


def _dense(config: Config, *, doubled: bool = False) -> dict[str, Tree]:
    """Return a dense FFN, by default four times as wide as the residual stream."""
    fact = config.value("no_experts") if _has_none(config) else "intermediate"
    width = config.count(fact) or (config.count("expansion") or 4) * config.size("hidden")
    return mapping(
        config, "dense", type="glu" if config.flag("gated") else "mlp", bias=is_biased(config, "ffn_bias") or None,
        intermediate=config.leaf(2 * width if doubled else width, fact),
    )  # fmt: skip


def _moe(config: Config) -> dict[str, Tree]:
    experts, top_k, groups = config.size("experts"), config.size("top_k"), config.count("groups")
    if top_k > experts:
        message = f"a token cannot visit {top_k} of {experts} experts ({config.name_of('experts')})"
        raise config.error("top_k", message, "correct one of them")
    if groups is not None and experts % groups:
        message = f"{groups} groups do not divide {experts} experts ({config.name_of('experts')})"
        raise config.error("groups", message, "correct one of them")
    is_free = groups is None or groups == 1
    shared = config.count("shared", 0)
    return mapping(
        config, "experts", shared=shared or None, groups=None if is_free else groups,
        shared_intermediate=config.count("shared_intermediate") if shared else None,
        group_top_k=None if is_free else config.count("group_top_k"),
    )  # fmt: skip


# ---- Layers that a search chose one by one: `block_configs` of DeciLM and Llama-Nemotron [Puzzle, arXiv 2411.19146].

_ROUNDING = 256  # FFNs are as wide as a multiple of it [modeling_decilm.py, _ffn_mult_to_intermediate_size]
_UNREAD = ("sparsify", "num_sink_tokens", "window_length")


def block_layers(config: Config, depth: int) -> list[Tree]:
    """Return the layer list: runs of equal blocks. Raises InputError at a block that a model file cannot express.

    A block that neither mixes nor has an FFN passes its input on, and is no layer.
    """
    blocks = config.items("blocks") or []
    if len(blocks) != depth:
        raise config.error(
            "blocks", f"has {len(blocks)} entries for {depth} layers",
            f"write one per layer, or correct {config.name_of('depth')}",
        )  # fmt: skip
    return [
        config.leaf({"repeat": config.leaf(repeat, "blocks"), **layer}, "blocks")
        for repeat, layer in _runs(config, blocks)
    ]


def _runs(config: Config, blocks: list[Any]) -> Iterator[tuple[int, dict[str, Tree]]]:
    working = [block for block in blocks if not (block["attention"].get("no_op") and block["ffn"].get("no_op"))]
    for block, run in groupby(working):
        yield (
            len(list(run)),
            {
                "mixer": config.leaf(_mixer(config, block["attention"]), "blocks"),
                "ffn": config.leaf(_ffn(config, block["ffn"]), "blocks"),
            },
        )


def _mixer(config: Config, block: dict[str, Any]) -> dict[str, Tree]:
    """Return attention with its own number of key-value heads, a plain projection, or no mixer."""
    if block.get("no_op"):
        return {"type": Tree("none")}
    if block.get("replace_with_linear"):
        return {"type": Tree("projection")}
    unread = next((key for key in _UNREAD if block.get(key) is not None), None)
    if unread is not None:
        raise config.error("blocks", f"attention with {unread} cannot be imported: {block[unread]!r}", BY_HAND)
    heads = config.size("heads")
    values: dict[str, Any] = {
        "type": "attention", "q_heads": heads, "kv_heads": heads // int(block["n_heads_in_group"]),
        "head_dim": config.count("head_dim") or config.size("hidden") // heads,
    }  # fmt: skip
    return {key: config.leaf(value, "blocks") for key, value in values.items()}


def _ffn(config: Config, block: dict[str, Any]) -> dict[str, Tree]:
    """Return a gated FFN as wide as 2/3 of `ffn_mult` times the stream, rounded up. Or none, or a plain projection."""
    if block.get("no_op"):
        return {"type": Tree("none")}
    if block.get("replace_with_linear"):
        raise config.error("blocks", "an FFN that is one matrix cannot be imported", BY_HAND)
    width = int(2 * float(block["ffn_mult"]) * config.size("hidden") / 3)
    return {"type": Tree("glu"), "intermediate": config.leaf(-(-width // _ROUNDING) * _ROUNDING, "blocks")}
