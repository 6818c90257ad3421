"""Configs that wrap a language model: where its own keys are, of which family it is, which towers are next to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from costmodel.errors import InputError, Location, available, did_you_mean
from costmodel.records import Record, replace
from costmodel.schema.hugging_face.config import BY_HAND, Config
from costmodel.schema.hugging_face.mixer_trees import mapping
from costmodel.schema.hugging_face.tables import Family, encoders, families, table
from costmodel.schema.tree import Tree

_TEXT = ("text_config", "llm_config", "language_config")
_VISION, _AUDIO = "vision_config", "audio_config"
_INHERITED = ("tie_word_embeddings", "quantization_config")  # keys of a wrapper that hold for its language model


class Source(Record):
    """What a config.json says of a language model.

    tree: its own keys.
    family: the table that they are read by.
    alias: what named the family, where not its name.
    wrapper: the whole file.
    """

    tree: Tree
    family: Family
    wrapper: Tree
    alias: str | None = None


def find_source(file: Tree, chosen: str | None = None) -> Source:
    """Return the language model of a config.json and its family. Raises InputError where no table reads it.

    chosen: the family that the user names (null: by `model_type`, or else `architectures`).
    """
    tree = _text_tree(file)
    if chosen is not None:
        if chosen not in families():
            hints = [did_you_mean(chosen, list(families())), available(list(families()))]
            raise file.error(f"unknown family {chosen!r}", "; ".join(filter(None, hints)), "as")
        return Source(tree, families()[chosen], file, f"as {chosen}")
    kind = _kind(tree, file)
    name = table("names")["aliases"].get(kind, kind)
    if name in families():
        return Source(tree, families()[name], file)
    by_class = table("names")["architectures"]
    for item in (*_architectures(tree), *_architectures(file)):
        if item in by_class:
            name = by_class[item]
            return Source(tree, families()[name], file, f"model_type {kind!r} as {name}, by its architecture {item}")
    raise _unknown(kind, tree.child("model_type") or file.child("model_type"), file)


def _text_tree(file: Tree) -> Tree:
    """Return the mapping that holds the language model's keys, with those that a wrapper states for it."""
    if (file.text("model_type") or "") in families() and not any(file.child(key) for key in _TEXT):
        return file
    for key in _TEXT:
        inner = file.child(key)
        if inner is not None and inner.is_mapping:
            entries = {
                name: entry for name in _INHERITED
                if (entry := file.child(name)) is not None and inner.child(name) is None
            }  # fmt: skip
            return replace(inner, value={**inner.value, **entries})
    return file


def _kind(tree: Tree, file: Tree) -> str:
    """Return the `model_type` of the language model, or the one that a wrapper implies."""
    own = tree.child("model_type")
    if own is not None and isinstance(own.value, str):
        return own.value
    wrapper = file.text("model_type") or ""
    implied = table("names")["text_families"]
    if tree is not file and wrapper in implied:
        return str(implied[wrapper])
    if file.child("plans") or file.child("scenarios"):
        raise file.error("is a plan or a result, no model", "`costmodel compare` reads it; simulate its `next` command")
    raise tree.error("is missing", f"add it; {available(list(families()))}", "model_type")


def _architectures(tree: Tree) -> list[str]:
    entry = tree.child("architectures")
    items = entry.value if entry is not None and isinstance(entry.value, list) else []
    return [item.value for item in items if isinstance(item.value, str)]


def _unknown(kind: str, tree: Tree | None, file: Tree) -> InputError:
    """Return the error of an architecture that no table reads, with what its grammar lacks where that is known."""
    refused, names = table("names")["refused"], list(families())
    lacks = refused.get(kind) or refused.get(file.text("model_type") or "")
    hints = [
        None if lacks is None else f"a model file cannot express {lacks}",
        did_you_mean(kind, names), available(names),
        "if its keys mean what those of one of them do, as llama's: `costmodel init model --from FILE --as llama > "
        "mine.yaml` writes the model", f"or {BY_HAND}",
    ]  # fmt: skip
    location: Location | None = file.location if tree is None else tree.location
    return InputError.single(
        f"{kind!r}: this architecture cannot be imported",
        hint="; ".join(filter(None, hints)),
        field="model_type",
        location=location,
    )


def encoder_of(source: Source, text_hidden: int) -> Tree | None:
    """Return the tower for images of a config.json, null without one. Raises InputError where no table reads it."""
    vision = source.wrapper.child(_VISION)
    if vision is None or not vision.is_mapping or not vision.value:
        return None
    stated = [text for text in (vision.text("model_type"), source.wrapper.text("model_type")) if text]
    kind = next((text for text in stated if text in encoders()), None)
    if kind is None:
        hint = (
            f"{available(list(encoders()))}; to leave the tower out, put the language model's keys in a file of its own"
        )
        raise (vision.child("model_type") or vision).error(
            f"{stated[0] if stated else ''!r}: this tower for images cannot be imported", hint, f"{_VISION}.model_type"
        )
    return encoder_tree(Config(vision, encoders()[kind]), text_hidden)


def audio_of(source: Source) -> Tree | None:
    """Return a tower for sound, which no table reads, null without one."""
    audio = source.wrapper.child(_AUDIO)
    return audio if audio is not None and audio.is_mapping and audio.value else None


# ---- The tower for images in front of a language model, from the facts of a `vision_config` (encoders.yaml) ----------

_Projector: TypeAlias = "tuple[list[tuple[int, int]], bool, int]"


def encoder_tree(config: Config, text_hidden: int) -> Tree:
    """Return the encoder of a `vision_config`. text_hidden: width of the language model."""
    hidden, side = config.size("hidden"), config.count("merge_side") or 1
    patch, frames = config.size("patch"), config.count("frames") or 1
    merge = side * side
    projector = _PROJECTORS[config.value("projector") or "linear"]
    matrices, bias, norms = projector(config, hidden, hidden * merge, text_hidden)
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


def _merger(config: Config, hidden: int, merged: int, text: int) -> _Projector:
    """Return two matrices on merged patches behind a norm of one patch, and as many for each deeper layer's features.

    Those of deeper layers have their norm behind the merging (Qwen3-VL's DeepStack).
    """
    outputs = config.count("outputs") or text
    vectors = 1 if config.value("norm") == "rms" else 2
    deep = len(config.items("deep_layers") or ()) if config.has("deep_layers") else 0
    pair = [(merged, merged), (merged, outputs)]
    return pair * (1 + deep), True, vectors * (hidden + deep * merged)


def _llama_4(config: Config, hidden: int, merged: int, text: int) -> _Projector:
    inner = config.size("inner")
    return [(merged, inner), (inner, inner), (inner, text)], False, 2 * hidden  # and the norm before the layers


_PROJECTORS: Mapping[str, Callable[[Config, int, int, int], _Projector]] = {
    "merger": _merger,
    "llama4": _llama_4,
    "linear": lambda config, width, _, text: ([(width, text)], False, 0 if config.has("position_rows") else width),
    "mlp": lambda _config, width, _merged, text: ([(width, text), (text, text)], True, 0),
    "pixtral": lambda _, width, merged, text: ([(merged, width), (width, text), (text, text)], False, width),
    "moon_v2": lambda _config, _width, merged, text: ([(merged, merged), (merged, text)], False, text),
    "internvl": lambda config, width, merged, text: (  # with scales of each branch of each layer
        [(merged, text), (text, text)], True, 2 * merged + 2 * width * config.size("depth"),
    ),
}  # fmt: skip
"""Name -> matrices to the language model, whether they have biases, and the elements of their norms."""
