"""The formats of published checkpoints: methods, parts that stay wide, and what devices without a unit make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import costmodel
from costmodel.schema.files import read_model
from costmodel.schema.hugging_face.quantization import quantization_of

WIDE = {"linear": "bf16", "weights": "bf16"}
NVFP4 = {"linear": "nvfp4", "weights": "nvfp4"}


def formats(stated: dict[str, Any], beside: dict[str, Any] | None = None, **config: Any) -> Any:
    return quantization_of({**config, **({"quantization_config": stated} if stated else {})}, beside, 4, {})


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]},
         {"linear": "fp8", "weights": "fp8", "scale_block": 128}),
        ({"quant_method": "fp8"}, {"linear": "fp8", "weights": "fp8"}),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True},
         {"linear": "bf16", "weights": "int4", "weight_group": 64, "weight_zero": "int4"}),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True}, {"linear": "bf16", "weights": "int8"}),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
         {"linear": "fp8", "weights": "fp8", "kv_cache": "fp8"}),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
            "weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": True},
            "input_activations": None}}},
         {"linear": "bf16", "weights": "int4", "weight_group": 32}),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
            "weights": {"num_bits": 4, "type": "int", "group_size": 128, "symmetric": False},
            "input_activations": {"num_bits": 8, "type": "float"}}}},
         {"linear": "fp8", "weights": "int4", "weight_group": 128, "weight_zero": "int4"}),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
            "weights": {"num_bits": 4, "type": "float", "group_size": 16},
            "input_activations": {"num_bits": 4, "type": "float", "group_size": 16}}}}, NVFP4),
        ({"quant_method": "mxfp4"},
         {"linear": "bf16", "weights": "mxfp4",
          "parts": {"attention": WIDE, "ffn": WIDE, "shared_experts": WIDE}}),
    ],
)  # fmt: skip
def test_a_method_is_a_set_of_formats(stated: dict[str, Any], expected: dict[str, Any]) -> None:
    assert formats(stated) == expected


@pytest.mark.parametrize(
    ("ignored", "wide"),
    [
        (["lm_head", "gate"], set()),
        (["re:.*self_attn.*", "re:.*mlp\\.(gate|up|down)_proj.*"], {"attention", "ffn"}),
        ([f"model.layers.{layer}.self_attn*" for layer in range(4)], {"attention"}),
        (["model.layers.0*"], set()),  # one of four layers
        (["*.shared_experts.*"], {"shared_experts"}),
        ([f"model.layers.{layer}.mlp.gate" for layer in range(4)], set()),  # the router, not gate_proj
    ],
)
def test_a_part_stays_wide_where_most_of_its_layers_do(ignored: list[str], wide: set[str]) -> None:
    found = formats({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ignored})
    assert {part for part, own in found.get("parts", {}).items() if own == WIDE} == wide


def test_the_output_projection_of_attention_may_be_narrow_alone() -> None:
    ignored = [f"model.layers.{layer}.self_attn.{name}" for layer in range(4) for name in ("q_proj", "q_b_proj")]
    parts = formats({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ignored})["parts"]
    assert parts == {"attention": WIDE, "attention_output": {"linear": "nvfp4", "weights": "nvfp4"}}


def test_an_ignored_module_whose_expression_is_none_is_named() -> None:
    stated = {"quant_method": "fp8", "ignore": ["re:layers.[0"]}
    found = quantization_of({"quantization_config": stated}, None, 2, {})
    assert isinstance(found, str)
    assert "layers.[0" in found


@pytest.mark.parametrize(
    "stated",
    [
        {"config_groups": {"g": None}}, {"config_groups": [1]}, {"config_groups": {"g": {"weights": [4]}}},
        {"quant_method": "fp8", "weight_block_size": 128}, {"quantized_layers": ["a"]},
    ],
)  # fmt: skip
def test_a_configuration_of_another_form_is_named_as_such(stated: dict[str, Any]) -> None:
    assert formats({"quant_method": "compressed-tensors", **stated}) == "an unknown form of quantization_config"


def test_layers_may_name_algorithms_of_their_own() -> None:
    mixer = {f"backbone.layers.1.mixer.{name}": {"quant_algo": "FP8"} for name in ("in_proj", "out_proj")}
    layers = mixer | {
        f"backbone.layers.2.mixer.experts.{expert}.up_proj": {"quant_algo": "W4A16_NVFP4"} for expert in range(2)
    }
    stated = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    assert formats(stated) == {
        **WIDE,
        "parts": {
            "attention": {"linear": "fp8", "weights": "fp8"}, "experts": {"linear": "bf16", "weights": "nvfp4"},
        },
    }  # fmt: skip


def test_a_file_beside_the_config_is_read_and_an_unknown_method_is_named() -> None:
    beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    assert formats({}, beside) == {**NVFP4, "kv_cache": "fp8"}
    assert formats({}) is None
    assert formats({"quant_method": "quip"}) == "quip"
    experts = formats({"quant_method": "fp8", "weight_block_size": [128, 128]}, expert_dtype="fp4")["parts"]["experts"]
    assert (experts["linear"], experts["weights"]) == ("fp8", "mxfp4")


# ---- what simulations make of them -----------------------------------------------------------------------------------

LAYER = (4 * 64 * 64, 8 * 3 * 64 * 128)  # weights of attention and of experts
SMALL = {
    "model_type": "mixtral", "hidden_size": 64, "vocab_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 8, "intermediate_size": 128, "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
REST = 2 * 512 * 64 + 2 * (8 * 64 + 2 * 64) + 64  # embedding, head, routers and norms


def simulated(tmp_path: Path, node: str, quantization: dict[str, Any] | None, **scenario: str) -> Any:
    """Return a decoding scenario of a small mixture on a node."""
    config = SMALL | ({} if quantization is None else {"quantization_config": quantization})
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    lines = {"phase": "decode", "cluster": f"nodes/{node}", "batch_per_device": "4", "input_tokens": "64", **scenario}
    text = "".join(f"    {key}: {value}\n" for key, value in lines.items())
    file = tmp_path / "w.yaml"
    file.write_text(f"schema: costmodel/workload@1\nmodel: {{hf: .}}\nscenarios:\n  d:\n{text}", encoding="utf-8")
    return costmodel.load(file)


def weights(workload: Any) -> float:
    return float(workload.simulate()["scenarios"]["d"]["memory"]["weights"])


def test_the_weights_of_a_checkpoint_are_counted_in_its_formats(tmp_path: Path) -> None:
    attention, experts = LAYER
    mxfp4 = simulated(tmp_path, "h100-x1", {"quant_method": "mxfp4"})
    assert weights(mxfp4) == 2 * (2 * attention + 17 / 32 * experts) + 2 * REST
    assert any("number formats as published" in note for note in mxfp4.scenario("d").notes)
    wide = simulated(tmp_path, "h100-x1", {"quant_method": "mxfp4"}, precision="bf16")
    assert weights(wide) == 2 * (2 * attention + 2 * experts) + 2 * REST
    blocks = simulated(tmp_path, "h100-x1", {"quant_method": "fp8", "weight_block_size": [128, 128]})
    assert weights(blocks) == 2 * (attention + experts) * (1 + 4 / 128**2) + 2 * REST


def test_a_device_without_the_unit_expands_the_weights(tmp_path: Path) -> None:
    nvfp4 = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    hopper = simulated(tmp_path, "h100-x1", nvfp4)
    blackwell = simulated(tmp_path, "hgx-b200", nvfp4)
    assert hopper.scenario("d").precision.linear == "bf16"
    assert hopper.scenario("d").precision.weight_only
    assert blackwell.scenario("d").precision.linear == "nvfp4"
    assert weights(hopper) == weights(blackwell)
    assert any("has no unit for FP4: GEMMs expand" in note for note in hopper.scenario("d").notes)


def test_a_family_may_be_named(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(SMALL | {"model_type": "mine"}), encoding="utf-8")
    assert read_model(str(file), chosen="mixtral").architecture.depth == 2


@pytest.mark.parametrize(
    ("framework", "node", "linear"),
    [
        ("trt-llm", "hgx-b200", "fp8"), ("sglang", "hgx-b200", "fp8"), ("vllm", "hgx-b200", "bf16"),
        ("trt-llm", "hgx-h200", "bf16"),
    ],
)  # fmt: skip
def test_engines_multiply_mxfp4_experts_in_formats_of_their_own(
    tmp_path: Path, framework: str, node: str, linear: str
) -> None:
    precision = simulated(tmp_path, node, {"quant_method": "mxfp4"}, framework=framework).scenario("d").precision
    assert (precision.part("experts").linear, precision.part("experts").weights) == (linear, "mxfp4")


def test_a_stated_precision_is_not_the_engines(tmp_path: Path) -> None:
    stated = simulated(tmp_path, "hgx-b200", {"quant_method": "mxfp4"}, framework="trt-llm", precision="bf16")
    assert stated.scenario("d").precision.part("experts").linear == "bf16"


BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def test_a_mapping_that_names_no_set_changes_the_published_formats(tmp_path: Path) -> None:
    plain, changed = (
        simulated(tmp_path, "h100-x1", BLOCKS, **stated) for stated in ({}, {"precision": "{kv_cache: fp8}"})
    )
    assert weights(changed) == weights(plain)
    formats = changed.scenario("d").precision
    assert (formats.linear, formats.weights, formats.scale_block, formats.kv_cache) == ("fp8", "fp8", 128, "fp8")
    assert any(note.endswith("the scenario's own are `kv_cache`") for note in changed.scenario("d").notes)
    wide = simulated(tmp_path, "h100-x1", BLOCKS, precision="{compute: bf16, kv_cache: fp8}").scenario("d").precision
    assert (wide.linear, wide.weights, wide.kv_cache) == ("bf16", "bf16", "fp8")


def test_a_mapping_changes_bf16_where_nothing_is_published(tmp_path: Path) -> None:
    formats = simulated(tmp_path, "h100-x1", None, precision="{kv_cache: fp8}").scenario("d").precision
    assert (formats.linear, formats.weights, formats.kv_cache) == ("bf16", "bf16", "fp8")


def test_parts_of_a_checkpoint_stay_beside_a_mapping(tmp_path: Path) -> None:
    stated = {"framework": "trt-llm", "precision": "{attention: fp8, kv_cache: fp8}"}
    formats = simulated(tmp_path, "hgx-b200", {"quant_method": "mxfp4"}, **stated).scenario("d").precision
    assert (formats.part("experts").linear, formats.part("experts").weights) == ("fp8", "mxfp4")
    assert (formats.attention, formats.kv_cache) == ("fp8", "fp8")


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ("fp8-kv", True), ("int8-kv", True), ("fp8", True), ("bf16", False), ("fp8-inference", False),
        ("{compute: fp8-kv, weights: bf16}", False),
    ],
)  # fmt: skip
def test_a_named_set_with_wider_weights_than_published_says_so(tmp_path: Path, stated: str, told: bool) -> None:
    notes = simulated(tmp_path, "h100-x1", BLOCKS, precision=stated).scenario("d").notes
    assert any("keeps weights in bf16, the published ones are fp8" in note for note in notes) == told
    unpublished = simulated(tmp_path, "h100-x1", None, precision=stated).scenario("d").notes
    assert not any("published" in note for note in unpublished)


@pytest.mark.parametrize(
    ("stated", "keeps"),
    [
        ("fp8", "fp8-inference"), ("fp8-te", "fp8-tensor"), ("fp8-inference", None), ("fp8-kv", None), ("bf16", None),
        ("{compute: fp8, weights: bf16}", None),
    ],
)  # fmt: skip
def test_a_recipe_of_training_names_the_set_that_keeps_narrow_weights(
    tmp_path: Path, stated: str, keeps: str | None
) -> None:
    """Only where the checkpoint has no formats of its own; the set that is named has half the weights."""
    asked = simulated(tmp_path, "h100-x1", None, precision=stated)
    told = [note for note in asked.scenario("d").notes if "recipe of training" in note]
    assert len(told) == (keeps is not None)
    published = simulated(tmp_path, "h100-x1", BLOCKS, precision=stated).scenario("d").notes
    assert not any("recipe of training" in note for note in published)
    if keeps is not None:
        assert told[0].endswith(f"`precision: {keeps}` keeps them in fp8")
        named = simulated(tmp_path, "h100-x1", None, precision=keeps)
        assert weights(named) - 2 * REST < 0.51 * (weights(asked) - 2 * REST)


def test_the_formats_of_training_are_bf16_with_a_mapping_too(tmp_path: Path) -> None:
    lines = {"phase": "training", "sequence": "64", "global_batch": "1", "micro_batch": "1"}
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"quantization_config": BLOCKS}), encoding="utf-8")
    text = "".join(f"    {key}: {value}\n" for key, value in (lines | {"cluster": "nodes/h100-x1"}).items())
    file = tmp_path / "t.yaml"
    head = "schema: costmodel/workload@1\nmodel: {hf: .}\nscenarios:\n  t:\n"
    file.write_text(head + text + "    precision: {gradients: bf16}\n", encoding="utf-8")
    formats = costmodel.load(file).scenario("t").precision
    assert (formats.linear, formats.weights, formats.gradients) == ("bf16", "bf16", "bf16")
