"""A model in place of a workload: `simulate MODEL`, `init workload`, and the list of what is read."""

from __future__ import annotations

import json
import re

import pytest

from costmodel.api import load
from costmodel.errors import InputError
from costmodel.schema.files import list_names, load_document, load_model, read_model


def test_a_model_runs_on_a_cluster_and_what_is_assumed_is_said(run):
    done = run("simulate", "qwen3-8b", "--cluster", "nodes/h100-x1", "--json")
    assert done.code == 0
    document = json.loads(done.out)
    assert list(document["scenarios"]) == ["prefill", "decode"]
    assert "note: qwen3-8b on 1 device of nodes/h100-x1 (tp 1, pp 1): prefill of one prompt of 1,024 tokens" in done.err
    assert "costmodel init workload --model qwen3-8b --cluster nodes/h100-x1 > qwen3-8b.yaml" in done.err


def test_a_model_that_denoises_makes_an_image_or_a_video(run):
    for name, what in (("stable-diffusion-xl", "an image of 1024 x 1024"), ("wan-2.2-ti2v-5b", "a video of 81 frames")):
        done = run("simulate", name, "--cluster", "nodes/h100-x1", "--json")
        assert done.code == 0
        assert list(json.loads(done.out)["scenarios"]) == ["diffusion"]
        assert f"diffusion of {what}" in done.err
    assert run("simulate", "wan-2.2-ti2v-5b", "--cluster", "nodes/h100-x1", "--scenario", "diffusion").code == 0
    refused = run("simulate", "qwen3-8b", "--cluster", "nodes/h100-x1", "--phase", "diffusion")
    assert refused.code == 2
    assert "qwen3-8b denoises no latents" in refused.err


def test_the_workload_of_a_model_is_what_init_writes(run, tmp_path):
    written = run("init", "workload", "--model", "qwen3-8b", "--cluster", "nodes/h100-x1", "--phase", "decode")
    assert written.code == 0
    file = tmp_path / "workload.yaml"
    file.write_text(written.out, encoding="utf-8")
    assert run("validate", str(file)).code == 0
    again = run("simulate", str(file), "--json")
    direct = run("simulate", "qwen3-8b", "--cluster", "nodes/h100-x1", "--phase", "decode", "--json")
    first, second = (json.loads(each.out)["scenarios"]["decode"]["metrics"] for each in (again, direct))
    assert first == second


def test_a_node_of_one_s_own_stands_in_the_folder_that_path_names(run, tmp_path):
    node = tmp_path / "hardware/nodes/mine.yaml"
    node.parent.mkdir(parents=True)
    node.write_text("schema: costmodel/node@1\nextends: nodes/h100-x1\nname: mine\n", encoding="utf-8")
    asked = ("init", "workload", "--model", "qwen3-8b", "--cluster", "nodes/mine", "--phase", "decode")
    assert "cluster: nodes/mine" in run(*asked, "--path", str(tmp_path)).out
    assert run(*asked).code == 2


def test_a_folder_without_a_config_says_so(run, tmp_path):
    done = run("model", "show", tmp_path)
    assert done.code == 2
    assert "has no config.json" in done.err


def test_an_id_of_the_cache_is_a_model(run, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub/models--some--model/snapshots/abc"
    snapshot.mkdir(parents=True)
    config = {
        "model_type": "llama", "hidden_size": 512, "vocab_size": 1000, "num_hidden_layers": 2,
        "num_attention_heads": 8, "intermediate_size": 1024,
    }  # fmt: skip
    (snapshot / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    done = run("simulate", "some/model", "--cluster", "nodes/h100-x1", "--phase", "decode", "--json")
    assert done.code == 0
    assert json.loads(done.out)["scenarios"]["decode"]["metrics"]["tpot"] > 0


def test_what_a_model_asks_for_is_told(run):
    alone = run("simulate", "qwen3-8b")
    assert alone.code == 2
    assert "--cluster: qwen3-8b is a model, which runs on a cluster" in alone.err
    phase = run("simulate", "llama3_8b_rtx4090", "--phase", "decode")
    assert phase.code == 2
    assert "is a workload, whose scenarios have phases of their own" in phase.err
    unknown = run("simulate", "qwen3-8b", "--cluster", "nodes/h100-x1", "--phase", "dream")
    assert unknown.code == 2
    assert "unknown phase 'dream'" in unknown.err


@pytest.mark.parametrize(("batch", "is_said"), [(8, True), (512, False)])
def test_what_limits_a_training_step_of_little_arithmetic_is_said(batch, is_said, run):
    of = ("simulate", "gpt2", "--cluster", "nodes/dgx-h100", "--phase", "training")
    told = run(*of, "--set", f"scenarios.training.global_batch={batch}").err
    assert bool(re.search(r"note: training: mfu is [\d.]+%: arithmetic limits \d+% of the step, ", told)) is is_said


def test_only_the_problems_of_what_is_set_are_told(run):
    of = ("simulate", "deepseek-v3", "--cluster", "dgx-h100", "--scenario", "decode")
    done = run(*of, "--set", "scenarios.decode.parallel.tp=3")
    assert done.code == 2
    assert "scenarios.decode.parallel.tp: 3 does not divide the attention heads (128)" in done.err
    assert all(line.startswith("--set scenarios.decode.parallel.tp=3: ") for line in done.err.splitlines())


def test_the_list_of_support_is_generated_with_its_counts(run):
    document = json.loads(run("model", "list", "--support", "--json").out)
    assert document["counts"]["families"] == len(document["families"]) > 60
    assert {"deepseek_v32", "qwen3_5_moe_text", "nemotron_h", "kimi_linear"} <= set(document["families"])
    told = run("model", "list", "--support").out
    assert f"{document['counts']['families']} families and" in told
    assert "gemma3n" in told


def test_what_is_implausible_is_told_once(run, tmp_path):
    """The smallest layout is found by loading the workload several times."""
    folder = tmp_path / "hardware"
    for kind, text in (
        ("devices", "extends: devices/h100-sxm\nname: mine\nmemory: [{name: hbm, bandwidth: 3.35 GB/s}]\n"),
        ("nodes", "extends: nodes/h100-x1\nname: mine\ndevice: devices/mine\n"),
    ):
        (folder / kind).mkdir(parents=True)
        (folder / kind / "mine.yaml").write_text(f"schema: costmodel/{kind[:-1]}@1\n{text}", encoding="utf-8")
    done = run("simulate", "qwen3-8b", "--cluster", "nodes/mine", "--phase", "decode", "--path", tmp_path)
    assert done.code == 0
    assert [line for line in done.err.splitlines() if line.startswith("warning: ")] == [
        f"warning: {folder}/devices/mine.yaml:4:33: memory.hbm.bandwidth: 3.35 GB/s is implausible: shipped devices "
        "have 273 GB/s to 8 TB/s; did you mean 3.35 TB/s? if it is meant, add `plausible: [memory.hbm.bandwidth]`"
    ]


def test_support_says_which_devices_have_no_unit_for_a_model_and_which_models_are_names_alone(run):
    document = json.loads(run("model", "list", "--support", "--json").out)
    pro = document["models"]["deepseek-v4-pro"]
    assert (pro["weights"], pro["products"]) == (["fp8", "mxfp4"], ["fp8"])
    assert {"a100-sxm-80gb", "ascend-910c"} <= set(pro["devices_without"]["fp8"])
    assert not {"h100-sxm", "mi355x", "tpu-v7"} & set(pro["devices_without"]["fp8"])
    assert not set(document["awaited"]) & set(json.loads(run("model", "list", "--json").out))
    told = run("model", "list", "--support").out
    assert "glm-5.3" in told
    for asked in (("simulate", "Qwen/Qwen3.5-27B", "--cluster", "nodes/h100-x1"), ("model", "show", "glm-5.3")):
        assert "known by name alone" in run(*asked).err
    assert "ascend-910c" in told


def test_models_and_devices_that_benchmarks_of_servers_name_are_known():
    """Names as InferenceX' documentation has them."""
    for name in ("deepseek-r1-0528", "gpt-oss-120b", "llama-3.3-70b", "kimi-k2.5", "kimi-k2.6", "qwen3.5-397b-a17b",
                 "glm-5", "glm-5.1", "minimax-m2.5", "minimax-m2.7", "minimax-m3", "deepseek-v4-pro",
                 "deepseek-ai/DeepSeek-R1-0528", "zai-org/GLM-5-FP8", "nvidia/Kimi-K2.5-NVFP4"):  # fmt: skip
        assert load_model(name).layers
    known = {alias for name in list_names("devices") for alias in load_document("devices", name)["aliases"]}
    assert {"H100_SXM", "H200_SXM", "B200_SXM", "B300_SXM", "GB200", "GB300", "MI300X", "MI325X", "MI355X"} <= known


@pytest.mark.parametrize(
    ("name", "model", "formats"),
    [
        ("nvidia/GLM-5-NVFP4", "glm-5", ("nvfp4", "nvfp4")),
        ("nvidia/DeepSeek-R1-0528-FP4-V2", "deepseek-v3", ("nvfp4", "nvfp4")),
        ("models/RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "llama-3-8b", ("bf16", "int4")),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", "llama-3-70b", ("fp8", "fp8")),  # one scale a tensor
        ("unsloth/gpt-oss-120b-BF16", "gpt-oss-120b", ("bf16", "bf16")),
        ("MiniMaxAI/MiniMax-M2.5-FP8", "minimax-m2", ("fp8", "fp8")),  # as its own config.json says
    ],
)
def test_a_name_of_the_hub_is_read_as_the_catalogue_s_model_in_the_format_that_it_ends_in(name, model, formats):
    read, own = read_model(name), read_model(model)
    assert read.document | {"quantization": None} == own.document | {"quantization": None}
    assert (read.document["quantization"]["linear"], read.document["quantization"]["weights"]) == formats
    kept = (
        own.document["quantization"]["scale_block"] if "M2.5-FP8" in name else None
    )  # nothing else of the model's own
    assert read.document["quantization"]["scale_block"] == kept
    assert [f"is read as {model}" in note for note in read.notes] == [True]


def test_a_model_of_a_workload_extends_a_name_of_the_hub(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "schema: costmodel/workload@1\nmodel: {extends: nvidia/GLM-5-NVFP4, vocabulary: 1000}\n"
        "scenarios: {decode: {phase: decode, cluster: nodes/hgx-b200, batch_per_device: 1, input_tokens: 64}}\n"
    )
    decode = load(tmp_path / "own.yaml").scenario("decode")
    assert (decode.architecture.vocabulary, decode.architecture.depth) == (1000, load_model("glm-5").depth)
    assert decode.precision.weights == "nvfp4"


@pytest.mark.parametrize(
    "name", ["mistralai/Mistral-7B-Instruct-v0.3", "Qwen/Qwen3-0.6B", "moonshotai/Kimi-K2-Thinking"]
)
def test_a_name_of_another_network_is_not_guessed(name):
    """Vocabularies, sizes and formats differ there."""
    with pytest.raises(InputError, match="not found"):
        load_model(name)


def test_weights_in_the_format_of_a_name_take_its_room(run):
    """Qwen3 32B in FP8: a byte for each of its matrices' parameters, two for embedding and head."""
    asked = ("--cluster", "nodes/h100-x1", "--phase", "prefill", "--json")
    answer = json.loads(run("simulate", "Qwen/Qwen3-32B-FP8", *asked).out)
    weights = 31.2e9 * (1 + 4 / 128**2) + 2 * 2 * 151936 * 5120
    assert answer["scenarios"]["prefill"]["memory"]["weights"] == pytest.approx(weights, rel=0.01)


def test_what_a_model_runs_as_is_said_once_beside_a_ratio(run):
    done = run("simulate", "llama-3-8b", "--cluster", "nodes/h100-x1", "--set", "hardware.memory.hbm.bandwidth=2x")
    assert done.code == 0
    assert "without the factors" in done.out
    assert done.err.count("prefill of one prompt") == 1
