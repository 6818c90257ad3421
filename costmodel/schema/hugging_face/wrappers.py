"""Configs that wrap a language model: where its own keys are, of which family it is, which towers are beside it."""

from __future__ import annotations

from costmodel.errors import InputError, Location
from costmodel.records import Record, replace
from costmodel.schema.hugging_face.config import BY_HAND, Config
from costmodel.schema.hugging_face.encoders import ENCODERS, encoder_tree
from costmodel.schema.hugging_face.families import FAMILIES
from costmodel.schema.hugging_face.keys import Family
from costmodel.schema.hugging_face.refused import REFUSED
from costmodel.schema.references import available, did_you_mean
from costmodel.schema.tree import Tree

_TEXT = ("text_config", "llm_config", "language_config")
_VISION, _AUDIO = "vision_config", "audio_config"
_INHERITED = ("tie_word_embeddings", "quantization_config")  # keys of a wrapper that hold for its language model
TEXT_FAMILIES = {  # wrapper -> the family of a language model whose own `model_type` is not stated
    "gemma3": "gemma3_text", "gemma4": "gemma4_text", "llama4": "llama4_text", "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe", "mistral3": "mistral", "llava": "llama", "llava_next": "llama", "kimi_k25": "kimi_k2",
    "kimi_k3": "kimi_linear", "kimi_vl": "deepseek_v3", "minimax_m3_vl": "minimax_m3",
}  # fmt: skip
ALIASES = {  # other names of a family
    "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2", "qwen2_5_vl_text": "qwen2", "glm4_moe_text": "glm4_moe", "glm4v_moe_text": "glm4_moe",
    "glm4v_text": "glm4", "mistral_large_3": "deepseek_v3", "deepseek_vl_v2": "deepseek_v2",
    "minimax_m3_vl": "minimax_m3", "minimax_m3_vl_text": "minimax_m3",
}  # fmt: skip
ARCHITECTURES = {  # the class that reads the weights -> the family, where `model_type` is a name of somebody's own
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3", "Qwen3MoeForCausalLM": "qwen3_moe",
    "Qwen3NextForCausalLM": "qwen3_next", "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3", "DeepseekV32ForCausalLM": "deepseek_v32",
    "DeepseekV4ForCausalLM": "deepseek_v4", "GlmMoeDsaForCausalLM": "glm_moe_dsa", "Glm4MoeForCausalLM": "glm4_moe",
    "MiniMaxM2ForCausalLM": "minimax_m2", "MiniMaxM3ForCausalLM": "minimax_m3",
    "MiniMaxM3SparseForCausalLM": "minimax_m3", "MiniMaxText01ForCausalLM": "minimax_text_01",
    "MiniMaxM1ForCausalLM": "minimax_m1", "NemotronHForCausalLM": "nemotron_h", "GptOssForCausalLM": "gpt_oss",
    "MiMoForCausalLM": "mimo", "MiMoV2FlashForCausalLM": "mimo_v2_flash", "Step3p5ForCausalLM": "step3p5",
    "Step3p7FlashForCausalLM": "step3p7", "KimiLinearForCausalLM": "kimi_linear", "KimiK3ForCausalLM": "kimi_linear",
}  # fmt: skip


class Source(Record):
    """What a config.json says of a language model.

    tree: its own keys.
    family: the table that they are read by.
    alias: how the family was found, where not by its name.
    wrapper: the whole file.
    """

    tree: Tree
    family: Family
    wrapper: Tree
    alias: str | None = None

    @property
    def is_wrapped(self) -> bool:
        """Tell whether the language model's keys are inside another mapping."""
        return self.tree is not self.wrapper


def find_source(file: Tree, chosen: str | None = None) -> Source:
    """Return the language model of a config.json and its family. Raises InputError where no table reads it.

    chosen: the family that the user names (null: by `model_type`, or else `architectures`).
    """
    tree = _text_tree(file)
    if chosen is not None:
        if chosen not in FAMILIES:
            hints = [did_you_mean(chosen, list(FAMILIES)), available(list(FAMILIES))]
            raise InputError.single(
                f"unknown family {chosen!r}", hint="; ".join(filter(None, hints)), field="as", location=file.location
            )
        return Source(tree, FAMILIES[chosen], file, f"as {chosen}")
    kind = _kind(tree, file)
    if kind in FAMILIES:
        return Source(tree, FAMILIES[kind], file)
    name = ALIASES.get(kind)
    if name is not None:
        return Source(tree, FAMILIES[name], file)
    for owner in (tree, file):
        for item in _architectures(owner):
            if item in ARCHITECTURES:
                name = ARCHITECTURES[item]
                return Source(tree, FAMILIES[name], file, f"model_type {kind!r} as {name}, by its architecture {item}")
    raise _unknown(kind, tree.child("model_type") or file.child("model_type"), file)


def _text_tree(file: Tree) -> Tree:
    """Return the mapping that holds the language model's keys, with those that a wrapper states for it."""
    if (file.text("model_type") or "") in FAMILIES and not any(file.child(key) for key in _TEXT):
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
    if tree is not file and wrapper in TEXT_FAMILIES:
        return TEXT_FAMILIES[wrapper]
    hint = f"add it; {available(list(FAMILIES))}"
    raise InputError.single("is missing", hint=hint, field="model_type", location=tree.location)


def _architectures(tree: Tree) -> list[str]:
    entry = tree.child("architectures")
    items = entry.value if entry is not None and isinstance(entry.value, list) else []
    return [item.value for item in items if isinstance(item.value, str)]


def _unknown(kind: str, place: Tree | None, file: Tree) -> InputError:
    """Return the error of an architecture that no table reads, with what its grammar lacks where that is known."""
    lacks = REFUSED.get(kind) or REFUSED.get(file.text("model_type") or "")
    hints = [
        None if lacks is None else f"a model file cannot express {lacks}",
        did_you_mean(kind, list(FAMILIES)), available(list(FAMILIES)),
        "if its keys mean what those of one of them do, name that with `as`", f"or {BY_HAND}",
    ]  # fmt: skip
    location: Location | None = file.location if place is None else place.location
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
    kind = vision.text("model_type") or source.wrapper.text("model_type") or ""
    if kind not in ENCODERS and source.wrapper.text("model_type") in ENCODERS:
        kind = source.wrapper.text("model_type") or ""
    if kind not in ENCODERS:
        hint = (
            f"{available(list(ENCODERS))}; to leave the tower out, put the language model's keys in a file of its own"
        )
        raise InputError.single(
            f"{kind!r}: this tower for images cannot be imported", hint=hint, field=f"{_VISION}.model_type",
            location=(vision.child("model_type") or vision).location,
        )  # fmt: skip
    return encoder_tree(Config(vision, ENCODERS[kind]), text_hidden)


def audio_of(source: Source) -> Tree | None:
    """Return a tower for sound, which no table reads, null without one."""
    audio = source.wrapper.child(_AUDIO)
    return audio if audio is not None and audio.is_mapping and audio.value else None
