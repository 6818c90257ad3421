"""The catalogue's models against published counts: parameters, active parameters, caches, FLOP a token."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from costmodel.schema.case import load_case_file
from costmodel.schema.files import load_model, read_models
from costmodel.schema.references import Library, package_root
from costmodel.schema.resolve import resolve, resolve_model
from costmodel.schema.tree import Tree
from costmodel.workload.architecture import Architecture, Attention
from costmodel.workload.counting import kv_bytes_per_token, parameter_count, training_flop_per_token

SHARED = package_root().parent / "shared/published"
MODELS, PROBLEMS = read_models()

# Parameters of the weights on the hub, to the last one, as its metadata or loaded models print them.
WEIGHTS = {
    "gemma-2-9b": 917_962_752 + 8_324_201_984 - 128 * 3584,  # arXiv 2408.00118, table 2, counts 128 more rows
    "gemma-2-27b": 1_180_237_824 + 26_047_480_320 - 128 * 4608,
    "gpt-j-6b": 6_050_882_784,
    "gpt2": 124_439_808,
    "gpt2-large": 774_030_080,
    "gpt2-medium": 354_823_168,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "pythia-6.9b": 6_857_302_016,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3.5-9b": 9_409_813_744,  # with the tower for images, without the module that drafts
    "qwen3-235b-a22b": 235_093_634_560,
    "deepseek-v3": 671_026_419_200 - 58 * 256,  # without the numbers that balance the load, which no gradient trains
    "gemma-3-27b": 27_432_406_640,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "granite-4-h-small": 32_207_337_984,
    "jamba-mini": 51_570_323_328,
    "kimi-linear-48b-a3b": 49_122_681_728 - 26 * 256,
    "llama-4-maverick": 401_583_781_376,
    "llama-4-scout": 108_641_793_536,
    "minimax-m1": 456_089_655_296,
    "mistral-small-3": 24_011_361_280,
    "nemotron-super-49b": 49_867_145_216,
    "phi-4": 14_659_507_200,
    "qwen3-vl-8b": 8_767_123_696,
}
# Model -> billions of parameters, of active ones and KV bytes of a token in BF16, the first two as cards and reports
# print them, the last by hand from the layers; the tower for images is part of the parameters.
CARDS = {
    "deepseek-v3.2": (671, 37, 61 * (576 * 2 + 132)),
    "deepseek-v4-flash": (284, 13, 43 * 1024 + 21 * (1024 + 132) / 4 + 20 * 1024 / 128),
    "deepseek-v4-pro": (1600, 49, 61 * 1024 + 30 * (1024 + 132) / 4 + 31 * 1024 / 128),
    "gemma-4-26b-a4b": (25.2 + 0.55, 3.8, 25 * 8 * 512 * 2 + 5 * 2 * 1024 * 2),
    "glm-4.5-air": (106, 12, 46 * 8 * 256 * 2),
    "glm-4.6": (355, 32, 92 * 8 * 256 * 2),
    "glm-5": (744, 40, 78 * (576 * 2 + 132)),
    "glm-5.2": (744, 40, 78 * 576 * 2 + 21 * 132),
    "kimi-k2": (1030, 32, 61 * 576 * 2),
    "kimi-k2.5": (1030, 32, 61 * 576 * 2),
    "kimi-k3": (2780, 104, 24 * 576 * 2),
    "mimo-v2-flash": (309, 15, (9 * 4 + 39 * 8) * 320 * 2),
    "minimax-m2": (230, 10, 62 * 8 * 256 * 2),
    "minimax-m3": (428, 23, 60 * 4 * 256 * 2 + 57 * 128 * 2),
    "mistral-large-3": (673, 39, 61 * 576 * 2),
    "nemotron-3-nano-30b-a3b": (31.6, 3.2, 6 * 2 * 256 * 2),
    "nemotron-3-super-120b-a12b": (120, 12, 8 * 2 * 256 * 2),
    "qwen3-coder-480b-a35b": (480, 35, 62 * 8 * 256 * 2),
    "qwen3-next-80b-a3b": (80, 3, 12 * 2 * 512 * 2),
    "qwen3.5-35b-a3b": (35, 3, 10 * 2 * 512 * 2),
    "qwen3.5-122b-a10b": (122, 10, 12 * 2 * 512 * 2),
    "qwen3.5-397b-a17b": (397, 17, 15 * 2 * 512 * 2),
    "step-3.5-flash": (197, 11, 45 * 8 * 256 * 2),
    "step-3.7-flash": (196, 11, 45 * 8 * 256 * 2),
}
PRINTED = {  # in billions, as papers and cards print them
    "deepseek-v2": 236, "deepseek-v2-lite": 15.7, "llama-30b": 32.5, "llama-65b": 65.2,
    "megatron-1.7b": 1.7, "megatron-3.6b": 3.6, "megatron-7.5b": 7.5, "megatron-18.4b": 18.4, "megatron-22b": 22,
    "megatron-39.1b": 39.1, "megatron-76.1b": 76.1, "megatron-145.6b": 145.6, "megatron-310.1b": 310.1,
    "megatron-530b": 529.6, "megatron-1t": 1008.0, "gpt3-175b": 174.6, "bloom-176b": 176.2,
    "codellama-34b": 33.7, "nemotron-4-15b": 15.7,
}  # fmt: skip
ACTIVE = {  # billions of active parameters, as printed; with the embedding or without, as the authors count
    "deepseek-v2": (21, True), "deepseek-v2-lite": (2.4, False), "deepseek-v3": (37, False),
    "mixtral-8x7b": (12.9, True), "qwen3-30b-a3b": (3.3, True), "qwen3-235b-a22b": (22, True),
}  # fmt: skip
DENOISERS = {  # billions of the denoising networks: huggingface.co/datasets/diffusers/benchmarks, model cards, papers
    "flux.1-dev": 11.90141, "flux.1-fill-dev": 11.9, "stable-diffusion-2.1": 0.8659, "stable-diffusion-xl": 2.56746,
    "stable-diffusion-3.5-large": 8.1, "wan-2.2-a14b": 2 * 14.3, "wan-2.2-ti2v-5b": 5.0, "hunyuan-video": 12.8,
}  # fmt: skip
# Counted by the formula of their layers below: no count of their own is printed to better than a billion.
BY_FORMULA = {"falcon-7b", "falcon-40b", "grok-1", "internlm-7b", "nemotron-3-8b", "nemo-gpt-5b"}
TEMPLATES = {"megatron-gpt"}  # of any size: cases set it


def total(name: str) -> float:
    return float(parameter_count(MODELS[name].architecture).total)


def rounding(printed: float) -> float:
    """Return half of the last printed digit."""
    return 0.5 * 10.0 ** -len(f"{printed}".partition(".")[2]) if isinstance(printed, float) else 0.5


def test_every_model_of_the_catalogue_is_held_against_a_count() -> None:
    assert PROBLEMS == []
    trained = {name for name in MODELS if name.startswith("mpt-")}
    assert set(MODELS) == set(WEIGHTS) | set(PRINTED) | set(CARDS) | BY_FORMULA | TEMPLATES | trained | set(DENOISERS)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_model_has_the_parameters_of_its_weights(name: str) -> None:
    assert total(name) == WEIGHTS[name]


@pytest.mark.parametrize("name", PRINTED)
def test_a_model_has_its_printed_parameters(name: str) -> None:
    printed = PRINTED[name]
    assert abs(total(name) / 1e9 - printed) <= max(0.005 * printed, rounding(printed))


@pytest.mark.parametrize("name", DENOISERS)
def test_a_network_that_denoises_has_its_printed_parameters_within_a_per_cent(name: str) -> None:
    assert total(name) / 1e9 == pytest.approx(DENOISERS[name], rel=0.01)


def test_texts_and_pixels_are_encoded_by_networks_of_published_sizes() -> None:
    """T5 v1.1 XXL's encoder, CLIP ViT-L/14's text half, and the halves of the autoencoder of Stable Diffusion."""
    flux, stable = (MODELS[name].architecture.denoiser for name in ("flux.1-dev", "stable-diffusion-2.1"))
    assert flux is not None
    assert stable is not None
    t5, clip = (float(parameter_count(each.architecture).total) for each in flux.text_encoders)
    assert t5 == pytest.approx(4.762e9, rel=0.01)
    assert clip == pytest.approx(123.06e6, rel=0.01)
    for layers, count in ((stable.encoder, 34.16e6), (stable.decoder, 49.49e6)):
        half = Architecture("half", 4.0, 1.0, layers, final_norm="none", features=True, headless=True)
        assert float(parameter_count(half).total) == pytest.approx(count, rel=0.01)


@pytest.mark.parametrize("name", CARDS)
def test_a_model_of_today_has_the_parameters_of_its_card(name: str) -> None:
    count = parameter_count(MODELS[name].architecture)
    printed, active, kv_bytes = CARDS[name]
    with_modules = float(count.total + count.mtp)
    errors = [abs(each / 1e9 / printed - 1) for each in (float(count.total), with_modules)]
    assert min(errors) <= (0.03 if MODELS[name].architecture.encoder is not None else 0.01)
    head = float(MODELS[name].architecture.vocabulary * MODELS[name].architecture.hidden)
    fewest, most = float(count.active) - head, float(count.active_with_embedding)  # authors count both, one or neither
    assert fewest / 1e9 - 2 * rounding(active) <= active <= most / 1e9 + 2 * rounding(active)
    assert kv_bytes_per_token(MODELS[name].architecture) == kv_bytes


@pytest.mark.parametrize("name", ACTIVE)
def test_a_mixture_has_its_printed_active_parameters(name: str) -> None:
    printed, with_embedding = ACTIVE[name]
    count = parameter_count(MODELS[name].architecture)
    active = float(count.active_with_embedding if with_embedding else count.active) / 1e9
    assert abs(active - printed) <= 2 * rounding(printed)  # some authors cut digits off: 3.353 is printed as 3.3


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith(("megatron", "gpt3", "gpt2", "mpt"))])
def test_a_gpt_has_the_parameters_of_the_closed_form(name: str) -> None:
    """P = 12*l*h^2*(1 + 13/(12*h) + (V + s)/(12*l*h)), arXiv 2104.04473, equation 2; and the norm before the head."""
    model = MODELS[name].architecture
    h, layers, rows = model.hidden, model.depth, model.vocabulary + (model.positions or 0)
    assert total(name) == 12 * layers * h * h + 13 * layers * h + rows * h + 2 * h


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("falcon-7b", 32 * (4544 * 73 * 64 + 4544**2 + 8 * 4544**2 + 2 * 4544) + 65_024 * 4544 + 2 * 4544),
        ("falcon-40b", 60 * (8192 * 144 * 64 + 8192**2 + 8 * 8192**2 + 4 * 8192) + 65_024 * 8192 + 2 * 8192),
        ("internlm-7b", 32 * (4 * 4096**2 + 4 * 4096 + 3 * 4096 * 11_008 + 2 * 4096) + 2 * 103_168 * 4096 + 4096),
        ("nemotron-3-8b", 32 * (4 * 4096**2 + 8 * 4096**2 + 4 * 4096) + 2 * 256_000 * 4096 + 2 * 4096),
        ("nemo-gpt-5b", 24 * (12 * 4096**2 + 13 * 4096) + (51_200 + 2048) * 4096 + 2 * 4096),
        (
            "grok-1",
            64 * (6144 * 64 * 128 + 6144**2 + 8 * 3 * 6144 * 32_768 + 8 * 6144 + 4 * 6144) + 131_072 * 6144 + 6144,
        ),
    ],
)
def test_a_model_has_the_parameters_of_its_layers(name: str, parameters: int) -> None:
    assert total(name) == parameters


def test_grok_is_as_large_as_its_authors_say_without_its_embedding() -> None:
    assert (total("grok-1") - 131_072 * 6144) / 1e9 == pytest.approx(314, rel=0.005)


def test_the_non_embedding_parameters_of_pythia_are_as_its_card_says() -> None:
    assert total("pythia-6.9b") - 2 * 50_432 * 4096 == 6_444_163_072


@pytest.mark.parametrize(
    ("name", "kv_bytes"), [("deepseek-v3", 70_272), ("qwen2.5-72b", 327_680), ("llama-3.1-405b", 516_096)]
)
def test_the_cache_of_a_token_is_exact(name: str, kv_bytes: int) -> None:
    assert kv_bytes_per_token(MODELS[name].architecture) == kv_bytes


@pytest.mark.parametrize(("name", "flop"), [("deepseek-v3", 250e9), ("deepseek-v2", 155e9), ("llama-3.1-405b", 2448e9)])
def test_the_flop_of_a_trained_token_are_as_published(name: str, flop: float) -> None:
    model = MODELS[name].architecture
    assert training_flop_per_token(model, parameter_count(model).active, 4096.0) == pytest.approx(flop, rel=0.015)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("deepseek-r1", "deepseek-v3"), ("llama-3.1-8b", "llama-3-8b"), ("llama-3.1-70b", "llama-3-70b"),
        ("vicuna-7b", "llama-2-7b"), ("vicuna-13b", "llama-2-13b"), ("llama-7b", "llama-2-7b"),
        ("llama-13b", "llama-2-13b"), ("mt-nlg-530b", "megatron-530b"), ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
    ],
)  # fmt: skip
def test_a_model_that_is_another_one_is_its_alias(alias: str, name: str) -> None:
    assert load_model(f"models/{alias}").name == name
    assert resolve("deepseek_v3", overrides={"model": f"models/{alias}"}, scenarios=["decode_ep_bound"]).value(
        "model.name"
    ) == name  # fmt: skip


def test_no_two_models_share_a_name_or_alias() -> None:
    claims = Library().aliases("models")
    assert [alias for alias, files in claims.items() if len(files) > 1 or alias in MODELS] == []


def test_every_value_of_a_model_has_a_source() -> None:
    for name, model in MODELS.items():
        fields = {field for source in model.document["sources"] for field in source["fields"]}
        stated = {"hidden", "vocabulary", "layers"} | ({"positions"} if model.document["positions"] else set())
        assert stated <= fields, name


# ---- tables that stand beside the repository ------------------------------------------------------------------------


def rows(name: str) -> list[dict[str, str]]:
    if not (SHARED / name).is_file():
        pytest.skip("the published rows stand beside the repository, in ../shared, and are not there")
    with (SHARED / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def with_positions(name: str, positions: int) -> Architecture:
    changed = {"model.positions": positions}
    return resolve_model(Tree({"model": Tree(f"models/{name}")}), name, Library(), changed).architecture


def test_every_trained_mpt_has_its_parameters_at_every_length() -> None:
    found = {(row["model"], int(row["seq"]), int(row["params"])) for row in rows("mosaicml_mpt_training_dev.csv")}
    assert len(found) > 40
    for model, length, parameters in sorted(found):
        assert parameter_count(with_positions(f"mpt-{model}", length)).total == parameters, (model, length)


TABLE = """schema: costmodel/case@1
source: {cite: "vTrain's measured steps", verified: true}
cases:
  - table: steps.csv
    columns:
      "hidden size": model.hidden
      "attention heads": model.layers.0.mixer.q_heads
      "# layers": model.layers.0.repeat
      "sequence length": sequence
      "global batch": global_batch
      "micro batch": micro_batch
      "tensor parallelism": parallel.tp
      "data parallelism": parallel.dp
      "pipeline parallelism": parallel.pp
      "iteration time (ms)": {path: expect.step_time, unit: ms}
    template:
      id: step
      class: training
      scenario:
        model:
          name: gpt
          hidden: 1024
          vocabulary: 51200
          positions: 2048
          tied_embeddings: true
          layers:
            - norm: layer
              dropout: true
              mixer: {type: attention, q_heads: 16, rotary: false, bias: true}
              ffn: {type: mlp, bias: true}
        phase: training
        cluster: nodes/dgx-a100
        framework: megatron-2022
        precision: fp16
        recompute: full
        optimizer: {zero: 1}
        global_batch: 1
        sequence: 1
      expect: [{metric: step_time, tolerance: 10 %}]
"""


@pytest.mark.parametrize("name", ["vtrain_multi_dev.csv", "vtrain_single_dev.csv"])
def test_a_table_of_sizes_needs_no_model_files(tmp_path: Path, name: str) -> None:
    from costmodel.schema.case import resolve_case

    stated = rows(name)
    (tmp_path / "steps.csv").write_text((SHARED / name).read_text(encoding="utf-8"), encoding="utf-8")
    path = tmp_path / "steps.yaml"
    path.write_text(TABLE, encoding="utf-8")
    cases = load_case_file(path)
    assert [case.id for case in cases] == [f"step-{number}" for number in range(1, len(stated) + 1)]
    for case, row in list(zip(cases, stated, strict=True))[:: max(1, len(stated) // 20)]:
        model = resolve_case(case).architecture
        mixer = model.layers[0].mixer
        assert isinstance(mixer, Attention)
        assert (model.hidden, model.depth, mixer.q_heads) == (
            float(row["hidden size"]), float(row["# layers"]), float(row["attention heads"]),
        )  # fmt: skip
        assert mixer.head_dim == mixer.v_head_dim == model.hidden / mixer.q_heads
        assert mixer.kv_heads == mixer.q_heads


@pytest.mark.parametrize(
    ("model", "row", "metric"),
    [
        ("deepseek-v3", "ins_t1_v3", "kv"), ("qwen2.5-72b", "ins_t1_qwen72", "kv"),
        ("llama-3.1-405b", "ins_t1_llama405", "kv"), ("deepseek-v2", "ins_t2_v2", "flop"),
        ("deepseek-v3", "ins_t2_v3", "flop"), ("llama-3.1-405b", "ins_t2_llama405", "flop"),
    ],
)  # fmt: skip
def test_counts_are_those_of_the_published_rows(model: str, row: str, metric: str) -> None:
    (value,) = [float(each["value"]) for each in rows("published_dev.csv") if each["id"] == row]
    found = MODELS[model].architecture
    if metric == "kv":
        assert kv_bytes_per_token(found) == value * 1000
    else:
        flop = training_flop_per_token(found, parameter_count(found).active, 4096.0)
        assert flop / 1e9 == pytest.approx(value, rel=0.015)
