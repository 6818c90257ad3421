"""Families of config.json that people run today: parameters to the last one, wrappers, aliases, kinds of layers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from small_world import problems_of

from costmodel.schema.files import load_model, read_model
from costmodel.schema.references import package_root
from costmodel.workload.architecture import (
    Architecture,
    Attention,
    CompressedAttention,
    Layer,
    Mla,
    MoeFfn,
    NoFfn,
    NoMixer,
    Recurrence,
)
from costmodel.workload.counting import parameter_count

DATA = Path(__file__).resolve().parents[2] / "data" / "families"
SHARED = package_root().parent / "shared/hf_configs"
# Parameters of the weights on the hub, as their metadata prints them; of glm and kimi without the numbers that balance
# the load and without modules of prediction, which the hub counts with copies of embedding and head.
WEIGHTS = {
    "cohere2": 8_028_033_024,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 4_300_079_472,
    "gemma-3-27b": 27_432_406_640,
    "granite-4-h-small": 32_207_337_984,
    "hunyuan-a13b": 80_393_183_232,
    "jamba-mini": 51_570_323_328,
    "kimi-linear-48b": 49_122_681_728 - 26 * 256,
    "llama4-maverick": 401_583_781_376,
    "minimax-m1": 456_089_655_296,
    "mistral-small-3.1": 24_011_361_280,
    "phi-4": 14_659_507_200,
    "qwen2-vl-7b": 8_291_375_616,
    "qwen2.5-vl-7b": 8_292_166_656,
    "seed-oss-36b": 36_151_104_512,
    "smollm3": 3_075_098_624,
}
CARDS = {  # billions that cards and papers print, total and active; None where none is printed
    "deepseek-v4-pro": (1600, 49), "ernie-4.5-300b": (300, 47), "glm-4.5": (355, 32), "glm-4.5-air": (106, 12),
    "glm-4.7-flash": (30, 3), "nemotron-h-8b": (8.1, None), "qwen3-next-80b": (80, 3), "step3.5-flash": (197, 11),
    "kimi-k3": (2780, 104), "mistral-large-3": (673, 39),
}  # fmt: skip
ROUNDED = 0.025  # half of the last digit of 1.6 T, and of 80 B with its module of prediction


def family(name: str) -> Architecture:
    return load_model(str(DATA / f"{name}.json"))


def expanded(architecture: Architecture) -> list[Layer]:
    """Return the layers of a model one by one."""
    return [layer for layer in architecture.layers for _ in range(layer.repeat)]


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_config_has_the_parameters_of_its_weights(name: str) -> None:
    assert parameter_count(family(name)).total == WEIGHTS[name]


@pytest.mark.parametrize("name", CARDS)
def test_a_config_has_the_parameters_of_its_card(name: str) -> None:
    count = parameter_count(family(name))
    total, active = CARDS[name]
    with_modules = float(count.total + count.mtp)
    assert min(abs(each / 1e9 / total - 1) for each in (float(count.total), with_modules)) <= ROUNDED
    if active is not None:
        between = float(count.active) / 1e9, float(count.active_with_embedding) / 1e9
        assert between[0] - 1 <= active <= between[1] + 1


def test_every_file_is_counted() -> None:
    assert {path.stem for path in DATA.glob("*.json")} == set(WEIGHTS) | set(CARDS)


def test_every_third_layer_of_a_hybrid_is_recurrent_but_each_fourth() -> None:
    mixers = [layer.mixer for layer in expanded(family("qwen3-next-80b"))]
    assert [isinstance(mixer, Recurrence) for mixer in mixers] == [True, True, True, False] * 12
    full, linear = mixers[3], mixers[0]
    assert isinstance(full, Attention)
    assert isinstance(linear, Recurrence)
    assert (full.output_gate, full.qk_norm, full.rotary_dim) == ("element", "head", 64)
    assert (linear.heads, linear.key_heads, linear.decay, linear.chunk) == (32, 16, "delta", 64)


def test_letters_name_the_layers_of_nemotron() -> None:
    layers = expanded(family("nemotron-h-8b"))
    pattern = json.loads((DATA / "nemotron-h-8b.json").read_text(encoding="utf-8"))["hybrid_override_pattern"]
    for letter, layer in zip(pattern, layers, strict=True):
        expected = {"M": Recurrence, "*": Attention, "-": NoMixer}[letter]
        assert isinstance(layer.mixer, expected)
        assert isinstance(layer.ffn, NoFfn) == (letter != "-")
    (attention,) = {layer.mixer for layer in layers if isinstance(layer.mixer, Attention)}
    assert not attention.rotary


def test_a_list_that_names_every_layer_needs_no_number_of_layers(tmp_path: Path) -> None:
    words = {"M": "mamba", "*": "attention", "-": "mlp"}
    pattern = json.loads((DATA / "nemotron-h-8b.json").read_text(encoding="utf-8"))["hybrid_override_pattern"]
    listed = {"hybrid_override_pattern": ..., "layers_block_type": [words[letter] for letter in pattern]}
    model = load_model(str(written(tmp_path, "nemotron-h-8b", num_hidden_layers=..., **listed)))
    assert len(expanded(model)) == len(pattern)
    assert parameter_count(model).total == parameter_count(family("nemotron-h-8b")).total


def test_layers_count_from_one_in_kimi_linear() -> None:
    kinds = [isinstance(layer.mixer, Mla) for layer in expanded(family("kimi-linear-48b"))]
    assert [place + 1 for place, full in enumerate(kinds) if full] == [4, 8, 12, 16, 20, 24, 27]
    mla = next(layer.mixer for layer in expanded(family("kimi-linear-48b")) if isinstance(layer.mixer, Mla))
    assert (mla.rotary, mla.q_lora) == (False, None)


def test_layers_of_llama_4_see_chunks_or_have_no_positions() -> None:
    layers = expanded(family("llama4-maverick"))
    reach = [layer.mixer.head_groups[0].pattern.kind for layer in layers if isinstance(layer.mixer, Attention)]
    rotary = [layer.mixer.rotary for layer in layers if isinstance(layer.mixer, Attention)]
    assert reach == ["chunked", "chunked", "chunked", "full"] * 12
    assert rotary == [True, True, True, False] * 12
    assert [isinstance(layer.ffn, MoeFfn) for layer in layers] == [False, True] * 24


def test_ratios_name_the_layers_of_deepseek_v4() -> None:
    model = family("deepseek-v4-pro")
    mixers = [layer.mixer for layer in expanded(model)]
    assert all(isinstance(mixer, CompressedAttention) for mixer in mixers)
    assert [mixer.ratio for mixer in mixers[:4]] == [128, 128, 4, 128]  # type: ignore[union-attr]
    assert model.streams == 4
    assert model.mtp is not None
    assert model.mtp.layers is not None
    assert model.mtp.layers[0].mixer.ratio is None  # type: ignore[union-attr]


def test_windows_of_step_have_heads_of_their_own() -> None:
    mixers = [layer.mixer for layer in expanded(family("step3.5-flash"))]
    heads = [mixer.q_heads for mixer in mixers[:4] if isinstance(mixer, Attention)]
    assert heads == [64, 96, 96, 96]
    gates = {mixer.output_gate for mixer in mixers if isinstance(mixer, Attention)}
    assert gates == {"head"}


# ---- wrappers, aliases, variants -------------------------------------------------------------------------------------


def written(tmp_path: Path, name: str, **changes: Any) -> Path:
    """Write a config with some keys changed; a key at `...` is left out."""
    document = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8")) | changes
    file = tmp_path / "config.json"
    kept = {key: value for key, value in document.items() if value is not ...}
    file.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return file


def test_an_unknown_name_is_read_by_the_class_of_the_weights_and_said(tmp_path: Path) -> None:
    file = written(tmp_path, "deepseek-v4-pro", model_type="deepseek_ref", architectures=["DeepseekV4ForCausalLM"])
    model = read_model(str(file))
    assert parameter_count(model.architecture).total == parameter_count(family("deepseek-v4-pro")).total
    assert any("read model_type 'deepseek_ref' as deepseek_v4" in note for note in model.notes)


@pytest.mark.parametrize("name", ["text_config", "llm_config", "language_config"])
def test_a_wrapper_holds_a_language_model(tmp_path: Path, name: str) -> None:
    inner = json.loads((DATA / "phi-4.json").read_text(encoding="utf-8"))
    del inner["tie_word_embeddings"]
    file = tmp_path / "config.json"
    wrapper = {"model_type": "eyes", "tie_word_embeddings": True, name: inner}
    file.write_text(json.dumps(wrapper), encoding="utf-8")
    model = load_model(str(file))
    assert model.tied_embeddings  # as the wrapper says
    assert parameter_count(model).total == WEIGHTS["phi-4"] - 100_352 * 5120


@pytest.mark.parametrize("inner", ["minimax_m3_text", "minimax_m3_vl_text", "minimax_m3_vl", ...])
def test_minimax_m3_with_images_holds_the_language_model(tmp_path: Path, inner: Any) -> None:
    sparse = {
        "sparse_attention_freq": [0, 1], "sparse_num_index_heads": 4, "sparse_index_dim": 128,
        "sparse_block_size": 128, "sparse_topk_blocks": 16,
    }  # fmt: skip
    text = {
        "model_type": inner, "hidden_size": 256, "vocab_size": 1000, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 128, "dense_intermediate_size": 512, "moe_intermediate_size": 128,
        "num_local_experts": 8, "num_experts_per_tok": 2, "moe_layer_freq": [0, 1], "use_qk_norm": True,
        "sparse_attention_config": sparse,
    }  # fmt: skip
    own = {key: value for key, value in text.items() if value is not ...}
    for name, document in (("wrapped", {"model_type": "minimax_m3_vl", "text_config": own}), ("bare", text)):
        file = tmp_path / name / "config.json"
        file.parent.mkdir()
        file.write_text(json.dumps(document | ({"model_type": "minimax_m3"} if name == "bare" else {})))
    bare, wrapped = (load_model(str(tmp_path / name / "config.json")) for name in ("bare", "wrapped"))
    assert parameter_count(wrapped).total == parameter_count(bare).total


def test_the_tower_of_kimi_k3_has_the_parameters_of_its_matrices(tmp_path: Path) -> None:
    vision = {
        "vt_hidden_size": 1024,
        "vt_num_attention_heads": 12,
        "qkv_hidden_size": 1536,
        "vt_intermediate_size": 4096,
    }
    text = json.loads((DATA / "kimi-linear-48b.json").read_text())
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "kimi_k3", "text_config": text, "vision_config": vision}))
    layer = 4 * 1024 * 1536 + 2 * 1024 * 4096 + 2 * 1024
    merger = 4096 * 4096 + 4096 * text["hidden_size"] + text["hidden_size"]
    tower = 27 * layer + 1024 * (3 * 14 * 14) + 64 * 64 * 1024 + 1024 + merger
    alone = parameter_count(family("kimi-linear-48b")).total
    assert parameter_count(load_model(str(file))).total - alone == tower


def test_a_tower_without_a_table_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = written(tmp_path, "qwen2-vl-7b", model_type="qwen2", vision_config={"model_type": "eye"})
    (problem,) = problems_of(lambda: load_model(str(file)))
    assert problem.field == "vision_config.model_type"
    assert "in a file of its own" in problem.hint


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("nemotron-h-8b", {"hybrid_override_pattern": "M-X" + "M" * 49}, "layers of type 'X' cannot be imported"),
        ("nemotron-h-8b", {"hybrid_override_pattern": "M-"}, "has 2 entries for 52 layers"),
        ("minimax-m1", {"attn_type_list": [2] * 80}, "layers of type 2 cannot be imported"),
        ("glm-4.5", {"use_qk_norm": "yes"}, 'use_qk_norm: this variant cannot be imported: "yes"'),
        ("step3.5-flash", {"moe_layers_enum": "1;2"}, "moe_layers_enum: must be numbers of layers"),
        ("kimi-linear-48b", {"linear_attn_config": ...}, "linear_attn_config.kda_layers: is missing"),
        ("jamba-mini", {"mamba_proj_bias": True}, "mamba_proj_bias: this variant cannot be imported: true"),
    ],
)
def test_what_no_table_expresses_is_refused(tmp_path: Path, name: str, changes: dict[str, Any], problem: str) -> None:
    file = written(tmp_path, name, **changes)
    assert problem in "\n".join(map(str, problems_of(lambda: load_model(str(file)))))


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/hf_configs is not beside this checkout")
def test_public_configs_have_their_published_parameters() -> None:
    with (SHARED / "index.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wrong = []
    for row in rows:
        count = parameter_count(load_model(str(SHARED / row["name"])))
        published, tolerance = float(row["published_total_b"]), float(row["published_tolerance_pct"])
        total, mtp = float(count.total) / 1e9, float(count.mtp) / 1e9
        error = min(abs(each / published - 1) * 100 for each in (total, total + mtp))
        if error > tolerance:
            wrong.append((row["name"], error))
    assert wrong == []
    assert len(rows) == 47
