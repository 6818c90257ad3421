"""Layers that a search chose one by one: `block_configs` of DeciLM and Llama-Nemotron [Puzzle, arXiv 2411.19146]."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from costmodel.schema.hugging_face.config import BY_HAND, Config
from costmodel.schema.tree import Tree

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
