"""The tower for images in front of a language model, from the facts of a `vision_config` (encoders.yaml)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from costmodel.schema.hugging_face.config import Config
from costmodel.schema.hugging_face.trees import mapping
from costmodel.schema.tree import Tree

_Matrices: TypeAlias = "list[tuple[int, int]]"


def encoder_tree(config: Config, text_hidden: int) -> Tree:
    """Return the encoder of a `vision_config`. text_hidden: width of the language model."""
    hidden, side = config.size("hidden"), config.count("merge_side") or 1
    patch, frames = config.size("patch"), config.count("frames") or 1
    merge = side * side
    matrices, bias, norms = _projectors(config, hidden * merge, text_hidden)
    projectors = [Tree({"inputs": Tree(inputs), "outputs": Tree(outputs)}) for inputs, outputs in matrices]
    values = mapping(
        config, "encoder", inputs=config.size("channels") * patch * patch * frames,
        positions=_position_rows(config, patch), layers=[Tree(_layer(config, hidden))], merge=merge,
        projectors=projectors, projector_bias=bias or None, projector_norms=norms,
    )  # fmt: skip
    return config.leaf(values, "hidden")


def _position_rows(config: Config, patch: int) -> int:
    """Return the rows of position tables and class tokens, as wide as the stream."""
    if config.has("grid_height"):
        return config.size("grid_height") * config.size("grid_width")
    if config.has("position_rows"):
        return 2 * config.size("position_rows")
    image = config.count("image")
    rows = config.count("positions") or 0 if image is None else (image // patch) ** 2
    return rows + (config.count("class_token") or 0)


def _layer(config: Config, hidden: int) -> dict[str, Tree]:
    """Return a layer of the tower: attention over all patches of an image, and an FFN."""
    norm = {"rms_norm": "rms", "layer_norm": "layer"}.get(config.value("norm"), config.value("norm"))
    bias = config.flag("bias")
    width = config.count("intermediate") or (config.count("expansion") or 4) * hidden
    mixer = mapping(
        config, "encoder_attention", head_dim=_head_dim(config), causal=False, bias=bias or None,
        output_bias=config.value("output_bias") if bias else None,
    )  # fmt: skip
    has_bias = config.leaf(value=True, fact="bias") if config.flag("ffn_bias", default=bias) else None
    ffn = mapping(config, "dense", type="glu" if config.flag("gated") else "mlp", intermediate=width, bias=has_bias)
    return mapping(config, "encoder_layer", norm=None if norm == "rms" else norm, mixer=mixer, ffn=ffn)


def _head_dim(config: Config) -> int | None:
    """Return the width of a head where it is not the stream's over the heads."""
    if config.has("attended"):
        return config.size("attended") // config.size("heads")
    return config.count("head_dim")


def _projectors(config: Config, merged: int, text: int) -> tuple[_Matrices, bool, int]:
    """Return the matrices to the language model, whether they have biases, and the elements of their norms."""
    name = config.value("projector") or "linear"
    return _PROJECTORS[name](config, merged, text)


def _merger(config: Config, merged: int, text: int) -> tuple[_Matrices, bool, int]:
    """Return two matrices on merged patches behind a norm of one patch, and as many for each deeper layer's features.

    Those of deeper layers have their norm behind the merging (Qwen3-VL's DeepStack).
    """
    outputs = config.count("outputs") or text
    vectors = 1 if config.value("norm") == "rms" else 2
    deep = len(config.items("deep_layers") or ()) if config.has("deep_layers") else 0
    pair = [(merged, merged), (merged, outputs)]
    return pair * (1 + deep), True, vectors * (config.size("hidden") + deep * merged)


def _moon_v2(_: Config, merged: int, text: int) -> tuple[_Matrices, bool, int]:
    return [(merged, merged), (merged, text)], False, text  # an RMS norm behind them


def _linear(config: Config, _: int, text: int) -> tuple[_Matrices, bool, int]:
    hidden = config.size("hidden")
    return [(hidden, text)], False, 0 if config.has("position_rows") else hidden


def _mlp(config: Config, _: int, text: int) -> tuple[_Matrices, bool, int]:
    return [(config.size("hidden"), text), (text, text)], True, 0


def _pixtral(config: Config, merged: int, text: int) -> tuple[_Matrices, bool, int]:
    hidden = config.size("hidden")
    return [(merged, hidden), (hidden, text), (text, text)], False, hidden


def _llama_4(config: Config, merged: int, text: int) -> tuple[_Matrices, bool, int]:
    inner, hidden = config.size("inner"), config.size("hidden")
    return [(merged, inner), (inner, inner), (inner, text)], False, 2 * hidden  # and the norm before the layers


def _internvl(config: Config, merged: int, text: int) -> tuple[_Matrices, bool, int]:
    scales = 2 * config.size("hidden") * config.size("depth")  # of each branch of each layer
    return [(merged, text), (text, text)], True, 2 * merged + scales


_PROJECTORS: Mapping[str, Callable[[Config, int, int], tuple[_Matrices, bool, int]]] = {
    "merger": _merger, "linear": _linear, "mlp": _mlp, "pixtral": _pixtral, "llama4": _llama_4, "internvl": _internvl,
    "moon_v2": _moon_v2,
}  # fmt: skip
