"""Towers for images in front of a language model: what the keys of a `vision_config` mean, and the encoder they make.

Source: huggingface/transformers 4.57 and 5, src/transformers/models/FAMILY/modeling_*.py (vision models, projectors).
For kimi_k25 the modeling file beside the weights (moonshotai/Kimi-K2.5), for internvl_chat OpenGVLab/InternVL3-8B, for
kimi_k3 NVIDIA-NeMo/Automodel, components/models/kimi_k3 (KimiK3VisionConfig, KimiK3PatchMergerProjector).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from costmodel.schema.hugging_face.config import Config
from costmodel.schema.hugging_face.keys import Family, Key
from costmodel.schema.hugging_face.mixer_trees import entries
from costmodel.schema.tree import Tree

_Matrices: TypeAlias = "list[tuple[int, int]]"

# fmt: off
_SIGLIP: Family = {
    "hidden": Key("hidden_size", default=768),
    "depth": Key("num_hidden_layers", default=12),
    "heads": Key("num_attention_heads", default=12),
    "intermediate": Key("intermediate_size", default=3072),
    "patch": Key("patch_size", default=16),
    "channels": Key("num_channels", default=3),
    "image": Key("image_size", default=224),
    "bias": True, "patch_bias": True, "norm": "layer", "final_norm": "layer", "merge_side": 1,
}
_QWEN_3: Family = {
    "hidden": Key("hidden_size", default=1152),
    "depth": Key("depth", default=27),
    "heads": Key("num_heads", default=16),
    "intermediate": Key("intermediate_size", default=4304),
    "patch": Key("patch_size", default=16),
    "channels": Key("in_channels", default=3),
    "frames": Key("temporal_patch_size", default=2),
    "positions": Key("num_position_embeddings", default=2304),
    "merge_side": Key("spatial_merge_size", default=2),
    "outputs": Key("out_hidden_size"),
    "deep_layers": Key("deepstack_visual_indexes", default=None),
    "bias": True, "patch_bias": True, "norm": "layer", "projector": "merger",
}
_QWEN_2: Family = {
    "hidden": Key("embed_dim", default=1280),
    "depth": Key("depth", default=32),
    "heads": Key("num_heads", default=16),
    "expansion": Key("mlp_ratio", default=4),
    "patch": Key("patch_size", default=14, older_name="spatial_patch_size"),
    "channels": Key("in_channels", default=3, older_name="in_chans"),
    "frames": Key("temporal_patch_size", default=2),
    "merge_side": Key("spatial_merge_size", default=2),
    "outputs": Key("hidden_size"),
    "bias": True, "rotary": True, "norm": "layer", "projector": "merger",
}
_MOON: Family = {
    "hidden": Key("vt_hidden_size", default=1152, older_name="hidden_size"),
    "depth": Key("vt_num_hidden_layers", default=27, older_name="num_hidden_layers"),
    "heads": Key("vt_num_attention_heads", default=16, older_name="num_attention_heads"),
    "intermediate": Key("vt_intermediate_size", default=4304, older_name="intermediate_size"),
    "patch": Key("patch_size", default=14),
    "channels": 3,
    "grid_height": Key("init_pos_emb_height", default=64),
    "grid_width": Key("init_pos_emb_width", default=64),
    "merge_side": 2,
    "bias": True, "patch_bias": True, "rotary": True, "norm": "layer", "final_norm": "layer", "projector": "merger",
}
ENCODERS: dict[str, Family] = {
    "siglip_vision_model": _SIGLIP,
    "clip_vision_model": _SIGLIP | {"patch_bias": False, "class_token": 1, "projector": "mlp"},
    "qwen3_vl": _QWEN_3,
    "qwen2_vl": _QWEN_2,
    "qwen2_5_vl": _QWEN_2 | {
        "hidden": Key("hidden_size", default=1280),
        "intermediate": Key("intermediate_size", default=3420),
        "outputs": Key("out_hidden_size", default=3584),
        "gated": True, "norm": "rms",
    },
    "gemma4_vision": {
        "hidden": Key("hidden_size", default=768),
        "depth": Key("num_hidden_layers", default=16),
        "heads": Key("num_attention_heads", default=12),
        "kv_heads": Key("num_key_value_heads", default=12),
        "head_dim": Key("head_dim", default=64),
        "intermediate": Key("intermediate_size", default=3072),
        "patch": Key("patch_size", default=16),
        "channels": 3,
        "position_rows": Key("position_embedding_size", default=10_240),  # a table for each axis
        "merge_side": Key("pooling_kernel_size", default=3),
        "rotary": True, "gated": True, "norm": "rms", "norm_position": "both", "qk_norm": "head", "projector": "linear",
    },
    "pixtral": {
        "hidden": Key("hidden_size", default=1024),
        "depth": Key("num_hidden_layers", default=24),
        "heads": Key("num_attention_heads", default=16),
        "intermediate": Key("intermediate_size", default=4096),
        "patch": Key("patch_size", default=16),
        "channels": Key("num_channels", default=3),
        "merge_side": 2,
        "rotary": True, "gated": True, "norm": "rms", "final_norm": "rms", "projector": "pixtral",
    },
    "llama4_vision_model": {
        "hidden": Key("hidden_size", default=768),
        "depth": Key("num_hidden_layers", default=34),
        "heads": Key("num_attention_heads", default=16),
        "intermediate": Key("intermediate_size", default=5632),
        "patch": Key("patch_size", default=14),
        "channels": Key("num_channels", default=3),
        "image": Key("image_size", default=448),
        "class_token": 2,  # a vector, and its row of the position table
        "inner": Key("projector_input_dim", default=4096),
        "merge_side": 2,
        "bias": True, "rotary": True, "norm": "layer", "final_norm": "layer", "projector": "llama4",
    },
    "intern_vit_6b": {
        "hidden": Key("hidden_size", default=3200),
        "depth": Key("num_hidden_layers", default=48),
        "heads": Key("num_attention_heads", default=25),
        "intermediate": Key("intermediate_size", default=12_800),
        "patch": Key("patch_size", default=14),
        "channels": Key("num_channels", default=3),
        "image": Key("image_size", default=224),
        "class_token": 2,
        "bias": Key("qkv_bias", default=False),
        "ffn_bias": True, "output_bias": True, "patch_bias": True, "norm": Key("norm_type", default="rms_norm"),
        "merge_side": 2, "projector": "internvl",
    },
    "kimi_k25": _MOON,
    "moonvit": _MOON,
    "kimi_k3": _MOON | {
        "hidden": Key("vt_hidden_size", default=1024, older_name="hidden_size"),
        "heads": Key("vt_num_attention_heads", default=12, older_name="num_attention_heads"),
        "attended": Key("qkv_hidden_size", default=1536),
        "intermediate": Key("vt_intermediate_size", default=4096, older_name="intermediate_size"),
        "bias": Key("linear_bias", default=False),
        "patch_bias": Key("patch_embed_proj_bias", default=False),
        "norm": "rms", "final_norm": "rms", "projector": "moon_v2",
    },
}
# fmt: on
"""`model_type` of a `vision_config` -> the meaning of its keys."""
for _name in ("qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen3_5_vision", "qwen3_5_moe_vision", "qwen3_vl_vision"):
    ENCODERS[_name] = _QWEN_3
ENCODERS["kimi_k3_vision"] = ENCODERS["kimi_k3"]
ENCODERS["internvl_vision"] = ENCODERS["intern_vit_6b"]


def encoder_tree(config: Config, text_hidden: int) -> Tree:
    """Return the encoder of a `vision_config`. text_hidden: width of the language model."""
    hidden, side = config.size("hidden"), config.count("merge_side") or 1
    patch, frames = config.size("patch"), config.count("frames") or 1
    merge = side * side
    matrices, bias, norms = _projectors(config, hidden * merge, text_hidden)
    final = config.value("final_norm")
    projectors = [Tree({"inputs": Tree(inputs), "outputs": Tree(outputs)}) for inputs, outputs in matrices]
    values = entries(
        config,
        {
            "hidden": (hidden, "hidden"),
            "inputs": (config.size("channels") * patch * patch * frames, "patch"),
            "bias": (config.flag("patch_bias") or None, "patch"),
            "positions": (_position_rows(config, patch), "positions"),
            "layers": ([Tree(_layer(config, hidden))], "depth"),
            "final_norm": (final, "hidden"),
            "merge": (merge, "merge_side"),
            "projectors": (projectors, "outputs"),
            "projector_bias": (bias or None, "outputs"),
            "projector_norms": (norms, "outputs"),
        },
    )
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
    mixer = entries(
        config,
        {
            "type": ("attention", "heads"),
            "q_heads": (config.size("heads"), "heads"),
            "kv_heads": (config.count("kv_heads"), "kv_heads"),
            "head_dim": (_head_dim(config), "heads"),
            "causal": (False, "heads"),
            "rotary": (None if config.flag("rotary") else False, "heads"),
            "bias": (bias or None, "bias"),
            "output_bias": (config.value("output_bias") if bias else None, "bias"),
            "qk_norm": (config.value("qk_norm"), "heads"),
        },
    )
    ffn = entries(
        config,
        {
            "type": ("glu" if config.flag("gated") else "mlp", "intermediate"),
            "intermediate": (width, "intermediate"),
            "bias": (config.flag("ffn_bias", default=bias) or None, "bias"),
        },
    )
    return entries(
        config,
        {
            "repeat": (config.size("depth"), "depth"),
            "norm": (None if norm == "rms" else norm, "norm"),
            "norm_position": (config.value("norm_position"), "norm"),
            "mixer": (mixer, "heads"),
            "ffn": (ffn, "intermediate"),
        },
    )


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
