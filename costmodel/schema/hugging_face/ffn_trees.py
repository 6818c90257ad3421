"""The FFN of one kind of layer, from the facts of a config.json."""

from __future__ import annotations

from costmodel.schema.hugging_face.config import Config
from costmodel.schema.hugging_face.layer_kinds import EXPERTS, NONE, LayerKind
from costmodel.schema.hugging_face.mixer_trees import is_biased
from costmodel.schema.hugging_face.trees import mapping
from costmodel.schema.tree import Tree


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
    """Return a mixture of experts."""
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
