"""The mixer of one kind of layer, from the facts of a config.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from costmodel.schema.hugging_face.config import Config
from costmodel.schema.hugging_face.layer_kinds import LayerKind
from costmodel.schema.hugging_face.tables import table
from costmodel.schema.tree import Tree

_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def mixer_tree(config: Config, kind: LayerKind) -> dict[str, Tree]:
    """Return the mixer of a kind of layer. config: the facts of that kind."""
    name = config.value("mixer")
    if name == "none":
        return mapping(config, "none")
    if name == "recurrence":
        return _recurrence(config)
    if name == "selective_scan":
        hidden = config.size("hidden")
        stated = config.value("rank")
        rank = -(-hidden // 16) if stated == "auto" else config.size("rank")
        return mapping(config, "selective_scan", inner=config.size("expansion") * hidden, rank=rank)
    if name == "compressed":
        return mapping(config, "compressed", indexer=_indexer(config))  # near keys and pooled far ones
    return _latent(config) if config.has("kv_lora") else _attention(config, kind)


# ---- attention -------------------------------------------------------------------------------------------------------


def _attention(config: Config, kind: LayerKind) -> dict[str, Tree]:
    heads = config.size("heads")
    head_dim, alibi = _head_dim(config, heads), config.flag("alibi")
    rotary, biased = config.flag("rotary") and not alibi, is_biased(config, "bias")
    return mapping(
        config, "attention", kv_heads=_kv_heads(config, heads), head_dim=head_dim, rotary=None if rotary else False,
        rotary_dim=_rotary_dim(config, head_dim) if rotary else None, bias=biased or None,
        output_bias=config.value("output_bias") if biased else None, borrowed_kv=kind.borrowed or None,
        head_groups=_head_groups(config, kind), indexer=_indexer(config),
    )  # fmt: skip


def _head_groups(config: Config, kind: LayerKind) -> list[Tree] | None:
    """Return one group with a window or chunks, null where all keys are seen."""
    span = "window" if kind.windowed else config.value("reach")
    if span is None:
        return None
    fact = "window" if span == "window" else "chunk_length"
    size = config.count(fact)
    if size is None:
        if span == "chunked":
            return None  # no chunk: every layer sees all earlier keys
        raise config.error(fact, "is missing, but some layers have a window", "add it")
    key = "window" if span == "window" else "chunk"
    pattern = Tree({"kind": Tree(span), key: config.leaf(size, fact)})
    return [Tree({"share": Tree(1.0), "pattern": pattern})]


def _indexer(config: Config) -> dict[str, Tree] | None:
    if not config.has("index_heads"):
        return None
    block, blocks = config.count("index_block"), config.count("index_blocks")
    top_k = config.count("index_top_k") if blocks is None or block is None else blocks * block
    fact = "index_top_k" if blocks is None else "index_blocks"
    return mapping(config, "indexer", top_k=None if top_k is None else config.leaf(top_k, fact))


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
    share = config.share("rotary_share")
    rotary_dim = config.count("rotary_dim") if share is None else int(head_dim * share)
    return None if rotary_dim == head_dim else rotary_dim


def is_biased(config: Config, fact: str) -> bool:
    """Tell whether projections have biases."""
    return not config.flag("no_bias") if config.has("no_bias") else config.flag(fact)


def _latent(config: Config) -> dict[str, Tree]:
    rotary = config.flag("rotary", default=True)
    return mapping(config, "latent", rotary=None if rotary else False, indexer=_indexer(config))


# ---- recurrences -----------------------------------------------------------------------------------------------------


def _recurrence(config: Config) -> dict[str, Tree]:
    """Return linear attention, a delta net or a state-space layer with a decay per head."""
    heads = config.size("heads")
    width = config.size("hidden") // heads
    key_dim = config.count("key_dim") or width
    own = config.count("head_parameters", 0)
    if config.flag("channel_parameters"):
        own = 1 + key_dim
    return mapping(
        config, "recurrence", key_dim=key_dim, value_dim=config.count("value_dim") or width,
        head_parameters=own or None, state=_state_format(config),
    )  # fmt: skip


def _state_format(config: Config) -> str | None:
    stated = config.value("state")
    if stated is None:
        return None
    if not isinstance(stated, str) or stated not in _FORMATS:
        raise config.error("state", f"unknown format {stated!r}", f"write one of {', '.join(_FORMATS)}")
    return _FORMATS[stated]


# ---- Mappings of a model document from the facts of a config.json: trees.yaml says which key has which fact ----------

_READ: dict[str, Callable[[Config, str], Any]] = {
    "size": Config.size,
    "count": Config.count,
    "nullable": Config.count,
    "value": Config.value,
    "flag": lambda config, fact: config.flag(fact) or None,
    "unless": lambda config, fact: None if config.flag(fact) else False,
}


def mapping(config: Config, name: str, **made: Any) -> dict[str, Tree]:
    """Return a mapping of the table, each value at the place of its fact.

    made: the values that the table leaves to code; null: no key. A tree has a place of its own.
    """
    document: dict[str, Tree] = {}
    for key, rule in table("trees")[name].items():
        reader, *facts = rule.split()
        if reader == "is":
            value: Any = facts.pop(0)
        elif reader == "made":
            value = made[key]
        else:
            value = _READ[reader](config, facts[0] if facts else key)
        if value is not None or reader == "nullable":
            document[key] = value if isinstance(value, Tree) else config.leaf(value, facts[-1] if facts else key)
    return document
