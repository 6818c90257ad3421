"""Import of config.json: public files by their parameter counts, what is listed, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_world import edit, problems_of

from costmodel.schema.files import imported_yaml, load_model, read_model, validate
from costmodel.schema.hugging_face.tables import families
from costmodel.schema.resolve import resolve
from costmodel.workload.architecture import Architecture, Attention, DenseFfn, Mla, MoeFfn
from costmodel.workload.counting import kv_bytes_per_token, parameter_count

DATA = Path(__file__).resolve().parents[2] / "data"  # its README.md says where each file comes from

# File -> parameters, to the last one (tests/published/test_models.py says of whom they are known). Those of deepseek-v3
# are without the MTP module.
PARAMETERS = {
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_404_352,
    "falcon-40b": 41_303_293_952,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2b": 2_506_172_416,
    "gpt-j-6b": 6_050_882_784,
    "gpt-oss-20b": 20_914_757_184,
    "gpt2": 124_439_808,
    "gpt_bigcode-santacoder": 1_124_886_528,
    "internlm-7b": 7_321_948_160,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-405b": 405_853_388_800,
    "mistral-7b-v0.3": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "mpt-7b-instruct": 6_649_286_656,
    "phi-4-mini": 3_836_021_760,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen2-7b": 7_615_616_512,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-8b": 8_190_735_360,
    "redpajama-3b": 2_775_864_320,
    "stablelm-3b": 2_795_443_200,
}
SAME_AS = {  # file -> the catalogue's model of the same sizes
    "deepseek-v2-lite": "deepseek-v2-lite",
    "deepseek-v3": "deepseek-v3",
    "falcon-40b": "falcon-40b",
    "gemma-2-9b": "gemma-2-9b",
    "gpt-j-6b": "gpt-j-6b",
    "gpt2": "gpt2",
    "internlm-7b": "internlm-7b",
    "llama-2-7b": "llama-2-7b",
    "llama-3.1-405b": "llama-3.1-405b",
    "mixtral-8x7b": "mixtral-8x7b",
    "qwen2-7b": "qwen2.5-7b",
    "qwen3-30b-a3b": "qwen3-30b-a3b",
    "qwen3-8b": "qwen3-8b",
}


def config(name: str, **changes: Any) -> dict[str, Any]:
    """Return a public file with some keys changed; a key at `...` is left out."""
    document = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8")) | changes
    return {key: value for key, value in document.items() if value is not ...}


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., Architecture]:
    """Return a function that imports a public file with some keys changed."""

    def load(name: str, **changes: Any) -> Architecture:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config(name, **changes), indent=2), encoding="utf-8")
        return load_model(str(path))

    return load


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that tells the one problem of a public file with some keys changed."""
    monkeypatch.chdir(tmp_path)

    def problem(name: str, **changes: Any) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config(name, **changes), indent=2), encoding="utf-8")
        (problem,) = problems_of(lambda: load_model("config.json"))
        return str(problem)

    return problem


# ---- what public files become ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_a_public_file_has_the_parameters_of_its_weights(name: str) -> None:
    assert parameter_count(load_model(str(DATA / f"{name}.json"))).total == PARAMETERS[name]


def test_every_fixture_is_counted_and_has_a_source() -> None:
    files = {path.stem for path in DATA.glob("*.json")}
    assert files == set(PARAMETERS)
    page = (DATA / "README.md").read_text(encoding="utf-8")
    assert [name for name in files if f"`{name}.json`" not in page] == []


@pytest.mark.parametrize(("file", "name"), SAME_AS.items())
def test_an_imported_model_is_that_of_the_catalogue(file: str, name: str) -> None:
    imported, shipped = read_model(str(DATA / f"{file}.json")).document, read_model(name).document
    provenance = {"name", "aliases", "sources", "quantization"}
    assert {key: value for key, value in imported.items() if key not in provenance} == {
        key: value for key, value in shipped.items() if key not in provenance
    }


def test_head_dim_is_given_or_follows_from_the_heads(imported: Callable[..., Architecture]) -> None:
    def width(architecture: Architecture) -> float:
        mixer = architecture.layers[0].mixer
        assert isinstance(mixer, Attention)
        return float(mixer.head_dim)  # type: ignore[arg-type]

    assert width(imported("qwen3-30b-a3b")) == 128  # 2048 / 32 would be 64
    assert width(imported("llama-2-7b")) == 128
    assert width(imported("llama-2-7b", head_dim=64)) == 64


def test_dense_layers_come_before_experts_in_deepseek(imported: Callable[..., Architecture]) -> None:
    v3 = imported("deepseek-v3")
    assert [(layer.repeat, type(layer.ffn)) for layer in v3.layers] == [(3, DenseFfn), (58, MoeFfn)]
    assert v3.mtp is not None
    assert v3.mtp.depth == 1
    assert kv_bytes_per_token(v3) == 70_272
    experts = v3.layers[1].ffn
    assert isinstance(experts, MoeFfn)
    assert (experts.groups, experts.group_top_k, experts.shared) == (8, 4, 1)
    lite = imported("deepseek-v2-lite").layers[1]
    assert isinstance(lite.ffn, MoeFfn)
    assert isinstance(lite.mixer, Mla)
    assert (lite.ffn.groups, lite.mixer.q_lora) == (None, None)  # one group is no group


def test_experts_may_be_in_every_second_layer(imported: Callable[..., Architecture]) -> None:
    sparse = imported("qwen3-30b-a3b", decoder_sparse_step=2, mlp_only_layers=[1])
    with_experts = [at for at, layer in enumerate(expanded(sparse)) if isinstance(layer.ffn, MoeFfn)]
    assert with_experts == list(range(3, 48, 2))
    strided = imported("deepseek-v2-lite", moe_layer_freq=2)
    assert [at for at, layer in enumerate(expanded(strided)) if isinstance(layer.ffn, MoeFfn)] == list(range(2, 27, 2))


def expanded(architecture: Architecture) -> list[Any]:
    """Return the layers of a model one by one."""
    return [layer for layer in architecture.layers for _ in range(layer.repeat)]


def windows(architecture: Architecture) -> list[float | None]:
    """Return the window of each layer."""
    return [layer.mixer.head_groups[0].pattern.window for layer in expanded(architecture)]


def test_windows_are_in_the_layers_of_the_family(imported: Callable[..., Architecture]) -> None:
    assert windows(imported("mistral-7b-v0.3")) == [None] * 32
    assert windows(imported("mistral-7b-v0.3", sliding_window=4096)) == [4096] * 32
    assert windows(imported("qwen2-7b")) == [None] * 28  # stated, and switched off
    assert windows(imported("qwen2-7b", use_sliding_window=True, max_window_layers=20)) == [None] * 20 + [131072] * 8
    assert windows(imported("gemma-2-9b")) == [4096, None] * 21
    assert windows(imported("gpt-oss-20b")) == [128, None] * 12


def test_layer_types_say_which_layers_have_a_window(imported: Callable[..., Architecture]) -> None:
    types = (["sliding_attention"] * 5 + ["full_attention"]) * 4 + ["sliding_attention"] * 4
    model = imported("qwen2-7b", layer_types=types, sliding_window=1024)
    assert windows(model) == [1024 if name == "sliding_attention" else None for name in types]
    assert len(model.kinds) == 3  # runs of five and of four with a window, and one without


def test_alternating_layers_are_written_as_a_group() -> None:
    (group,) = read_model(str(DATA / "gemma-2-9b.json")).document["layers"]
    assert group["repeat"] == 21
    assert [layer["norm_position"] for layer in group["layers"]] == ["both", "both"]


@pytest.mark.parametrize(
    ("name", "changes", "block", "shared"),
    [
        ("redpajama-3b", {}, "sequential", False),
        ("redpajama-3b", {"use_parallel_residual": True}, "parallel", False),
        ("gpt-j-6b", {}, "parallel", True),
        ("falcon-40b", {}, "parallel", False),
        ("falcon-40b", {"num_ln_in_parallel_attn": 1}, "parallel", True),
        ("falcon-40b", {"new_decoder_architecture": False}, "parallel", True),
        ("falcon-40b", {"new_decoder_architecture": False, "parallel_attn": False}, "sequential", False),
        ("stablelm-3b", {"use_parallel_residual": True}, "parallel", True),
    ],
)
def test_blocks_are_sequential_or_parallel(
    imported: Callable[..., Architecture], name: str, changes: dict[str, Any], block: str, shared: bool
) -> None:
    layer = imported(name, **changes).layers[0]
    assert (layer.block, layer.shared_norm) == (block, shared)


def test_key_value_heads_are_grouped_one_or_all(imported: Callable[..., Architecture]) -> None:
    def heads(name: str, **changes: Any) -> float:
        mixer = imported(name, **changes).layers[0].mixer
        assert isinstance(mixer, Attention)
        return float(mixer.kv_heads)  # type: ignore[arg-type]

    assert heads("falcon-40b") == 8
    assert heads("falcon-40b", new_decoder_architecture=False) == 1
    assert heads("falcon-40b", new_decoder_architecture=False, multi_query=False, num_kv_heads=None) == 128
    assert heads("gpt_bigcode-santacoder") == 1
    assert heads("gpt_bigcode-santacoder", multi_query=False) == 16
    assert heads("llama-2-7b", num_key_value_heads=...) == 32
    grouped = config("mpt-7b-instruct")["attn_config"] | {"attn_type": "grouped_query_attention", "kv_n_heads": 8}
    assert heads("mpt-7b-instruct", attn_config=grouped) == 8


def test_positions_are_rotated_looked_up_or_slopes(imported: Callable[..., Architecture]) -> None:
    def positions(name: str, **changes: Any) -> tuple[Any, ...]:
        model = imported(name, **changes)
        mixer = model.layers[0].mixer
        assert isinstance(mixer, Attention)
        return mixer.rotary, mixer.rotary_dim, mixer.alibi, model.positions

    assert positions("llama-2-7b") == (True, None, False, None)
    assert positions("redpajama-3b", rotary_pct=0.25) == (True, 20, False, None)
    assert positions("gpt-j-6b") == (True, 64, False, None)
    assert positions("phi-4-mini") == (True, 96, False, None)
    assert positions("gpt2") == (False, None, False, 1024)
    assert positions("falcon-40b", alibi=True) == (False, None, True, None)
    assert positions("mpt-7b-instruct") == (False, None, True, None)
    learned = config("mpt-7b-instruct")["attn_config"] | {"alibi": False}
    assert positions("mpt-7b-instruct", attn_config=learned) == (False, None, False, 2048)


def test_mpt_as_it_was_trained_has_the_catalogue_s_parameters(imported: Callable[..., Architecture]) -> None:
    learned = config("mpt-7b-instruct")["attn_config"] | {"alibi": False}
    model = imported("mpt-7b-instruct", attn_config=learned, no_bias=False, vocab_size=50368)
    assert parameter_count(model).total == 6_658_859_008


def test_dropout_is_that_of_any_rate_above_zero(imported: Callable[..., Architecture]) -> None:
    assert imported("gpt2").layers[0].dropout
    assert not imported("gpt2", resid_pdrop=0.0, attn_pdrop=0.0).layers[0].dropout
    assert not imported("llama-2-7b").layers[0].dropout


# One layer, hidden 64, 8 heads, vocabulary 512, FFN 128, counted by hand: families of which no public file is at hand.
SMALL = {
    "hidden_size": 64, "vocab_size": 512, "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 128,
}  # fmt: skip
PROJECTIONS = 64 * (8 + 2 + 2) * 8 + 64 * 64
FFN, TABLE, NORM = 64 * 128, 512 * 64, 64
FULL = 4 * 64 * 64


@pytest.mark.parametrize(
    ("family", "changes", "parameters"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True},
         PROJECTIONS + 96 + 64 + 3 * FFN + 2 * 128 + 64 + 3 * NORM + 2 * TABLE),
        ("granite", {}, PROJECTIONS + 3 * FFN + 3 * NORM + 2 * TABLE),
        ("gemma", {"head_dim": 16}, 2 * PROJECTIONS + 3 * FFN + 3 * NORM + TABLE),
        ("olmo2", {}, PROJECTIONS + (8 + 2) * 8 + 3 * FFN + 3 * NORM + 2 * TABLE),
        ("internlm2", {"bias": False}, PROJECTIONS + 3 * FFN + 3 * NORM + 2 * TABLE),
        ("cohere", {}, PROJECTIONS + 3 * FFN + 2 * NORM + TABLE),
        ("starcoder2", {}, PROJECTIONS + 96 + 64 + 2 * FFN + 128 + 64 + 3 * 2 * NORM + TABLE),
        ("phi", {"num_key_value_heads": None},
         FULL + 4 * 64 + 2 * FFN + 128 + 64 + 2 * 2 * NORM + 2 * TABLE + 512),
        ("opt", {"ffn_dim": 128, "max_position_embeddings": 100, "word_embed_proj_dim": 64},
         FULL + 4 * 64 + 2 * FFN + 128 + 64 + 3 * 2 * NORM + TABLE + 102 * 64),
        ("bloom", {"n_layer": 1, "n_head": 8}, FULL + 4 * 64 + 8 * 64 * 64 + 256 + 64 + 4 * 2 * NORM + TABLE),
        ("kimi_k2", {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
                     "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
         64 * 8 * 12 + 64 * 20 + 16 * 8 * 16 + 64 * 64 + 16 + 4 * 3 * 64 * 32 + 4 * 64 + 3 * NORM + 2 * TABLE),
    ],
)  # fmt: skip
def test_a_family_s_layer_is_counted_by_hand(
    tmp_path: Path, family: str, changes: dict[str, Any], parameters: int
) -> None:
    file = tmp_path / "small.json"
    file.write_text(json.dumps({"model_type": family, **SMALL, **changes}), encoding="utf-8")
    assert parameter_count(load_model(str(file))).total == parameters


# ---- what is left out is listed -------------------------------------------------------------------------------------


def test_ignored_keys_are_listed_and_inert_ones_are_not() -> None:
    (note,) = read_model(str(DATA / "gemma-2-9b.json")).notes
    assert "ignored keys: " in note
    for part in ("attn_logit_softcapping = 50.0", "final_logit_softcapping = 30.0", "sliding_window_size = 4096"):
        assert part in note
    assert "torch_dtype" not in note
    assert read_model(str(DATA / "llama-3.1-405b.json")).notes == ()


def test_the_formats_of_a_checkpoint_are_those_of_its_quantisation() -> None:
    model = read_model(str(DATA / "deepseek-v3.json"))
    assert model.notes == ()
    formats = model.document["quantization"]
    assert (formats["linear"], formats["weights"], formats["scale_block"]) == ("fp8", "fp8", 128)


def test_an_unknown_method_is_told(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    text = json.dumps(config("llama-2-7b", quantization_config={"quant_method": "quip"}))
    file.write_text(text, encoding="utf-8")
    model = read_model(str(file))
    assert model.document["quantization"] is None
    assert model.notes[0].endswith("quantization_config: quip is not known; state the scenario's `precision`")


def test_keys_inside_a_mapping_are_listed_by_their_path(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    inner = config("mpt-7b-instruct")["attn_config"] | {"clip_qkv": 6}
    file.write_text(json.dumps(config("mpt-7b-instruct", attn_config=inner)), encoding="utf-8")
    assert "attn_config.clip_qkv = 6" in read_model(str(file)).notes[0]


# ---- in workloads, cases and files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["llama", "llama/config.json", "./llama"])
def test_the_model_of_a_workload_may_be_a_config_json_relative_to_it(world: Path, path: str) -> None:
    (world / "workloads/llama").mkdir()
    text = json.dumps(config("llama-2-7b", my_key=1))
    (world / "workloads/llama/config.json").write_text(text, encoding="utf-8")
    edit(world, "workloads/small.yaml", "models/tiny", f"{{hf: {path}}}")
    workload = resolve("small", search_path=[world])
    assert workload.architecture.name == "llama"
    assert workload.value("model.hidden") == 4096
    assert [note.split(": ", 1)[1] for note in workload.notes] == ["ignored keys: my_key = 1"]
    assert str(workload.origin("model.hidden")).startswith("workloads/llama/config.json:1:")


def test_other_keys_replace_imported_ones(world: Path) -> None:
    (world / "workloads/c.json").write_text(json.dumps(config("llama-2-7b")), encoding="utf-8")
    edit(world, "workloads/small.yaml", "models/tiny", "{hf: c.json, name: mine, vocabulary: 32064}")
    workload = resolve("small", search_path=[world], overrides={"model.layers.0.repeat": "2"}, scenarios=["train"])
    model = workload.architecture
    assert (model.name, model.vocabulary, model.hidden, model.depth) == ("mine", 32064, 4096, 2)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("{hf: nowhere}", ":2:13: model.hf: workloads/nowhere not found"),
        ("{hf: models}", "workloads/models is a folder without a config.json"),
        ("{hf: 3}", "model.hf: must be a path, not a number"),
        ("{hf: c.json, extends: models/tiny}", "use either `hf` or `extends`, not both"),
        ("{hf: c.json, hiden: 3}", "model.hiden: unknown key; did you mean `hidden`"),
    ],
)
def test_an_invalid_path_is_an_error_where_it_is_written(world: Path, model: str, problem: str) -> None:
    (world / "workloads/c.json").write_text(json.dumps(config("llama-2-7b")), encoding="utf-8")
    edit(world, "workloads/small.yaml", "models/tiny", model)
    texts = [str(problem) for problem in validate(world / "workloads/small.yaml", [world])]
    assert any(problem in text for text in texts), texts


def test_a_config_is_checked_as_a_file(tmp_path: Path) -> None:
    assert validate(DATA / "llama-2-7b.json") == []
    bad = tmp_path / "config.json"
    bad.write_text(json.dumps(config("llama-2-7b", vocab_size=-1)), encoding="utf-8")
    (problem,) = validate(bad)
    assert problem.message == "-1 is too small"
    assert validate(tmp_path) == [problem]


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_the_yaml_of_an_imported_model_is_the_same_model(tmp_path: Path, name: str) -> None:
    text, _ = imported_yaml(DATA / f"{name}.json")
    file = tmp_path / "model.yaml"
    file.write_text(text, encoding="utf-8")
    assert validate(file) == []
    written, imported = (read_model(str(path)).document for path in (file, DATA / f"{name}.json"))
    assert {**written, "sources": []} == imported


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("llama-2-7b", {"model_type": "llam", "architectures": ...},
         "model_type: 'llam': this architecture cannot be imported; did you mean `llama`"),
        ("llama-2-7b", {"model_type": "mamba", "architectures": ...}, "available: "),
        ("llama-2-7b", {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "--as llama > mine.yaml"),
        ("llama-2-7b", {"model_type": "qwen9_vl", "architectures": ..., "text_config": {}}, "model_type: is missing"),
        ("llama-2-7b", {"vision_config": {"model_type": "eye"}},
         "vision_config.model_type: 'eye': this tower for images cannot be imported"),
        ("llama-2-7b", {"audio_config": {"hidden_size": 8}}, "audio_config: towers for sound cannot be imported"),
        ("llama-2-7b", {"model_type": ...}, "model_type: is missing; add it"),
        ("llama-2-7b", {"hidden_size": ...}, "config.json:1:1: hidden_size: is missing"),
        ("llama-2-7b", {"hidden_size": None}, "hidden_size: is missing"),
        ("llama-2-7b", {"hidden_size": 4097}, "hidden_size: 4097 is not a multiple of 32 heads (num_attention_heads)"),
        ("llama-2-7b", {"hidden_size": "4096"}, "hidden_size: must be a whole number, not '4096'"),
        ("llama-2-7b", {"hidden_size": 4096.5}, "hidden_size: 4096.5 is not a whole number"),
        ("llama-2-7b", {"hidden_size": float("nan")}, "hidden_size: nan is not a finite number"),
        ("llama-2-7b", {"hidden_size": True}, "hidden_size: must be a whole number, not true or false"),
        ("llama-2-7b", {"num_key_value_heads": 64},
         "num_key_value_heads: 64 key-value heads are more than 32 heads (num_attention_heads)"),
        ("llama-2-7b", {"num_key_value_heads": 5}, "5 key-value heads do not divide 32 heads"),
        ("llama-2-7b", {"vocab_size": -32000}, "vocab_size: -32000 is too small; write at least 1"),
        ("llama-2-7b", {"num_hidden_layers": 10**9}, "1,000,000,000 layers exceed the limit of 10,000"),
        ("llama-2-7b", {"tie_word_embeddings": "no"}, 'tie_word_embeddings: must be true or false, not "no"'),
        ("mixtral-8x7b", {"num_experts_per_tok": 9},
         "num_experts_per_tok: a token cannot visit 9 of 8 experts (num_local_experts)"),
        ("deepseek-v3", {"n_group": 7}, "n_group: 7 groups do not divide 256 experts (n_routed_experts)"),
        ("deepseek-v3", {"attention_bias": True}, "attention_bias: this variant cannot be imported: true"),
        ("gpt-oss-20b", {"layer_types": ["full_attention"] * 23},
         "layer_types: has 23 entries for 24 layers; write one per layer, or correct num_hidden_layers"),
        ("gpt-oss-20b", {"layer_types": ["linear_attention"] * 24},
         "layers of type 'linear_attention' cannot be imported"),
        ("qwen2-7b", {"layer_types": ["sliding_attention"] * 28, "sliding_window": None},
         "sliding_window: is missing, but `layer_types` has sliding_attention"),
        ("qwen2-7b", {"layer_types": "all"}, "layer_types: must be a list"),
        ("redpajama-3b", {"rotary_pct": 1.5}, "rotary_pct: 1.5 is too large; write at most 1"),
        ("families/step3.5-flash", {"layer_types": 1}, "layer_types: must be a list"),
        ("families/nemotron-h-8b", {"hybrid_override_pattern": ...},
         "hybrid_override_pattern: is missing; add it or `layers_block_type`"),
        ("families/nemotron-h-8b", {"hybrid_override_pattern": True}, "hybrid_override_pattern: must be a list"),
        ("families/ernie-4.5-300b", {"moe_layer_end_index": {}}, "moe_layer_end_index: must be a whole number"),
    ],
)  # fmt: skip
def test_an_inconsistent_config_is_an_error_at_its_key(
    refused: Callable[..., str], name: str, changes: dict[str, Any], problem: str
) -> None:
    text = refused(name, **changes)
    assert problem in text
    assert text.startswith("config.json:")


def test_all_missing_keys_come_at_once(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "llama"}', encoding="utf-8")
    missing = {problem.field for problem in validate(file)}
    assert {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"} <= missing


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{\n  "model_type": "llama",\n  "hidden_size": 40', ":3:20: is not valid JSON: the file ends too early"),
        ('{"model_type": "llama",}', ":1:24: is not valid JSON: no key"),
        ("{'model_type': 1}", ":1:2: is not valid JSON: no key"),
        ('{"a": 1 "b": 2}', ":1:9: is not valid JSON: no `,`"),
        ('{"a": 1, "a": 2}', ":1:10: duplicate key 'a'; keep one; the first is at line 1"),
        ('{"a": yes}', ":1:7: is not valid JSON: no value"),
        ("", ":1:1: is not valid JSON: the file ends too early"),
        ("[1]", ":1:1: must be an object at top level, not a list"),
        ("{} {}", ":1:4: is not valid JSON: more text after the document"),
        ("[" * 100_000, "is nested too deeply to read"),
    ],
)
def test_invalid_json_is_an_error_at_its_location(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    (error,) = validate(file)
    assert problem in str(error)


def test_a_binary_config_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    (error,) = validate(tmp_path)
    assert "is not UTF-8 text" in error.message


@pytest.mark.parametrize("family", sorted(families()))
def test_every_family_reports_the_missing_keys_of_an_empty_file(tmp_path: Path, family: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": family}), encoding="utf-8")
    problems = validate(file)
    assert problems
    assert all(problem.message == "is missing" for problem in problems)


BAD = [None, "x", "", -1, 0, 1, 1.5, 10**40, float("inf"), [], [1], ["x"], {}, {"a": 1}, True, False]


@pytest.mark.parametrize("name", ["llama-2-7b", "deepseek-v3", "gpt-oss-20b", "mpt-7b-instruct", "falcon-40b", "gpt2"])
def test_any_value_of_a_key_is_imported_or_an_error(tmp_path: Path, name: str, long: bool) -> None:
    file = tmp_path / "config.json"
    for number, key in enumerate(config(name)):
        for value in BAD if long else BAD[number % 2 :: 2]:
            file.write_text(json.dumps(config(name, **{key: value})), encoding="utf-8")
            for problem in validate(file):
                assert problem.location is not None, (key, value, problem)
                assert problem.field or "JSON" in problem.message, (key, value, problem)
