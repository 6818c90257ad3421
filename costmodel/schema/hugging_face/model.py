"""From the facts of a config.json to a model document, with as few runs of layers as possible."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, groupby, pairwise

from costmodel.schema.hugging_face.block_wise import block_layers
from costmodel.schema.hugging_face.config import Config
from costmodel.schema.hugging_face.ffn_trees import ffn_tree
from costmodel.schema.hugging_face.layer_kinds import NONE, LayerKind, layer_kinds, mtp_kinds
from costmodel.schema.hugging_face.mixer_trees import mixer_tree
from costmodel.schema.hugging_face.trees import mapping
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
    """Return one kind of layer, without its `repeat`."""
    grouped = config.flag("grouped")
    parallel = (config.flag("parallel") or grouped) and NONE not in (kind.mixer, kind.ffn)
    shared = not (grouped and config.count("norms") != 1) if config.has("norms") else config.flag("shared_norm")
    norm = "layer_no_bias" if config.flag("no_bias") else config.value("norm")
    return mapping(
        config, "layer", norm=None if norm == "rms" else norm, block="parallel" if parallel else None,
        shared_norm=(parallel and shared) or None, dropout=config.drops_out() or None,
        mixer=mixer_tree(config.of_kind(kind.mixer), kind), ffn=ffn_tree(config, kind),
    )  # fmt: skip
