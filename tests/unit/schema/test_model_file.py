"""The model file: what it leaves out, layers that repeat together, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_world import FILES, edit, problems_of, write

from costmodel.declared import SI
from costmodel.schema.files import load_model, read_model, validate
from costmodel.schema.resolve import resolve
from costmodel.workload.architecture import Attention, DenseFfn

TINY = "workloads/models/tiny.yaml"
ATTENTION = "{type: attention, q_heads: 8, kv_heads: 8, head_dim: 8}"
GLU = "{type: glu, intermediate: 128}"
GROUP = f"""
schema: costmodel/model@1
name: turns
hidden: 64
vocabulary: 512
layers:
  - mixer: {ATTENTION}
    ffn: {GLU}
  - repeat: 3
    layers:
      - mixer: {{type: attention, q_heads: 8, head_groups: [{{share: 1.0, pattern: {{kind: window, window: 16}}}}]}}
        ffn: {GLU}
      - repeat: 2
        mixer: {{type: attention, q_heads: 8}}
        ffn: {GLU}
"""


def problem_texts(root: Path, name: str = TINY) -> list[str]:
    return [str(problem) for problem in validate(root / name, [root])]


def test_heads_and_widths_default_to_what_follows_from_hidden(world: Path) -> None:
    edit(world, TINY, ATTENTION, "{type: attention, q_heads: 4}")
    edit(world, TINY, GLU, "{type: mlp}")
    layer = load_model("tiny", [world]).layers[0]
    assert isinstance(layer.mixer, Attention)
    assert isinstance(layer.ffn, DenseFfn)
    assert (layer.mixer.kv_heads, layer.mixer.head_dim, layer.mixer.v_head_dim) == (4, 16, 16)
    assert layer.ffn.intermediate == 4 * 64


def test_the_resolved_document_has_the_defaults(world: Path) -> None:
    edit(world, TINY, ATTENTION, "{type: attention, q_heads: 4, bias: true}")
    edit(world, TINY, GLU, "{type: mlp}")
    workload = resolve("small", search_path=[world], scenarios=["train"])
    values = {key: workload.value(f"model.layers.0.mixer.{key}") for key in ("kv_heads", "head_dim", "v_head_dim")}
    assert values == {"kv_heads": 4, "head_dim": 16, "v_head_dim": 16}
    assert workload.value("model.layers.0.mixer.output_bias") is True
    assert workload.value("model.layers.0.ffn.intermediate") == 256


def test_layers_of_a_group_alternate_and_are_shared(world: Path) -> None:
    write(world, "workloads/models/turns.yaml", GROUP)
    model = load_model("turns", [world])
    assert [layer.repeat for layer in model.layers] == [1, 1, 2, 1, 2, 1, 2]
    assert model.depth == 10
    assert list(model.kinds.values()) == [1, 3, 6]
    assert model.layers[1] is model.layers[3] is model.layers[5]


def test_a_value_inside_a_group_is_changed_by_its_path(world: Path) -> None:
    write(world, "workloads/models/turns.yaml", GROUP)
    edit(world, "workloads/small.yaml", "models/tiny", "models/turns")
    changes = {"model.layers.1.layers.0.mixer.q_heads": SI(4), "model.layers.1.repeat": "5"}
    workload = resolve("small", search_path=[world], overrides=changes, scenarios=["train"])
    mixers = [layer.mixer for layer in workload.architecture.kinds if isinstance(layer.mixer, Attention)]
    assert [mixer.q_heads for mixer in mixers] == [8, 4, 8]
    assert workload.architecture.depth == 16


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (ATTENTION, "{type: attention, q_heads: 7}", "hidden = 64 is not a multiple of q_heads = 7; write `head_dim`"),
        (ATTENTION, "{type: attention, q_heads: 8, kv_heads: 16}", "layers.0.mixer: kv_heads must not exceed q_heads"),
        ("head_dim: 8}", "head_dim: 8, alibi: true}", "layers.0.mixer: rotary and alibi exclude each other"),
        ("head_dim: 8}", "head_dim: 8, rotary_dim: 16}", "rotary_dim must not exceed head_dim"),
        ("head_dim: 8}", "head_dim: 8, rotary: false, rotary_dim: 4}", "rotary_dim has no effect without rotary"),
        ("head_dim: 8}", "head_dim: 8, qk_norm: heads}", "unknown value 'heads'; did you mean `head`"),
        (GLU, "{type: glu}", "layers.0.ffn: `intermediate` is missing"),
        (GLU, "{type: moe, experts: 4, intermediate: 8, top_k: 5}", "layers.0.ffn: top_k must not exceed experts"),
        (
            GLU,
            "{type: moe, experts: 8, intermediate: 8, top_k: 2, groups: 2, group_top_k: 3}",
            "group_top_k must not exceed groups",
        ),
        (
            GLU,
            "{type: moe, experts: 8, intermediate: 8, top_k: 2, shared_gate: true}",
            "shared_gate has no effect without shared experts",
        ),
        ("  - repeat: 2", "  - repeat: 2\n    shared_norm: true", "layers.0: shared_norm needs a parallel block"),
        (
            "  - repeat: 2",
            "  - repeat: 2\n    block: parallel\n    norm_position: both",
            "layers.0: a parallel block needs norm_position: before",
        ),
        ("  - repeat: 2", "  - repeat: 1000000000", "1,000,000,000 layers exceed the limit of 10,000"),
        ("  - repeat: 2", "  - repeat: 2\n    norm: batch", "layers.0.norm: unknown value 'batch'"),
        (
            "  - repeat: 2",
            "  - repeat: 2\n    text: own",
            "`text` and `modulation` of layers are a denoising network's",
        ),
        (
            "vocabulary: 512",
            "vocabulary: 512\ndenoiser: {channels: 4, compression: 8}",
            "a network that denoises sees latents, not tokens of a vocabulary; write `features: true`",
        ),
        (
            "  - repeat: 2",
            "  - repeat: 2\n    text: own\n    norm: none",
            "layers.0: text: own needs attention in a sequential block with norms; write `text: joined`",
        ),
        (ATTENTION, "{type: residual_block}", "layers.0: a residual block has norms and a sum of its own"),
        ("vocabulary: 512", "vocabulary: -512", "vocabulary: -512 is too small; write at least 1"),
        ("hidden: 64", "hidden: .nan", "hidden: nan is not a finite number"),
    ],
)
def test_an_invalid_model_is_an_error_with_its_fix(world: Path, old: str, new: str, problem: str) -> None:
    edit(world, TINY, old, new)
    texts = problem_texts(world)
    assert len(texts) == 1
    assert problem in texts[0]
    assert f"{TINY}:" in texts[0]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("intermediate: 128}\n  - repeat: 3", "intermediat: 128}\n  - repeat: 3", ":7:"),
        ("      - mixer:", "      - mixxer:", "layers.1.layers.0.mixxer: unknown key; did you mean `mixer`"),
        ("  - repeat: 3\n    layers:", "  - layers:", "layers.1.repeat: is missing"),
        ("repeat: 3", "repeat: 9999", "29,998 layers exceed the limit of 10,000"),
        ("pattern: {kind: window, window: 16}", "pattern: {kind: window}", "`window` is required for kind: window"),
    ],
)
def test_an_error_in_a_group_has_its_location(world: Path, old: str, new: str, problem: str) -> None:
    write(world, "workloads/models/turns.yaml", GROUP)
    edit(world, "workloads/models/turns.yaml", old, new)
    texts = problem_texts(world, "workloads/models/turns.yaml")
    assert any(problem in text for text in texts), texts


def test_an_alias_can_be_referred_to(world: Path) -> None:
    write(world, "workloads/models/big.yaml", FILES[TINY].replace("name: tiny", "name: big\naliases: [vast, org/Big]"))
    assert load_model("vast", [world]).name == load_model("models/org/Big", [world]).name == "big"
    edit(world, "workloads/small.yaml", "models/tiny", "models/vast")
    assert resolve("small", search_path=[world]).architecture.name == "big"


def test_a_file_comes_before_an_alias_and_an_earlier_folder_before_a_later(world: Path, tmp_path: Path) -> None:
    write(world, "workloads/models/big.yaml", FILES[TINY].replace("name: tiny", "name: big\naliases: [tiny, vast]"))
    assert load_model("tiny", [world]).name == "tiny"
    write(world, "mine/workloads/models/own.yaml", FILES[TINY].replace("name: tiny", "name: own\naliases: [vast]"))
    assert load_model("vast", [tmp_path / "mine", world]).name == "own"


def test_two_files_with_one_alias_are_an_error_where_it_is_used_and_where_it_is_checked(world: Path) -> None:
    for name in ("one", "two"):
        write(
            world, f"workloads/models/{name}.yaml", FILES[TINY].replace("name: tiny", f"name: {name}\naliases: [vast]")
        )
    (problem,) = problems_of(lambda: load_model("vast", [world]))
    assert "'vast' is an alias of workloads/models/one.yaml and of workloads/models/two.yaml" in problem.message
    (text,) = problem_texts(world, "workloads/models/two.yaml")
    assert text.startswith(
        "workloads/models/two.yaml:3:11: aliases: 'vast' is also a name of workloads/models/one.yaml"
    )


def test_an_alias_that_is_another_file_s_name_is_an_error_where_it_is_checked(world: Path) -> None:
    write(world, "workloads/models/big.yaml", FILES[TINY].replace("name: tiny", "name: big\naliases: [tiny]"))
    (text,) = problem_texts(world, "workloads/models/big.yaml")
    assert "'tiny' is also a name of workloads/models/tiny.yaml" in text


def test_a_misspelt_alias_is_answered_with_the_nearest_name(world: Path) -> None:
    write(world, "workloads/models/big.yaml", FILES[TINY].replace("name: tiny", "name: big\naliases: [deep-thought]"))
    (problem,) = problems_of(lambda: load_model("deep-thougt", [world]))
    assert "did you mean `deep-thought`" in problem.hint


def test_a_model_is_read_with_its_document_and_sources(world: Path) -> None:
    model = read_model("tiny", [world])
    assert model.document["hidden"] == 64
    assert model.document["aliases"] == model.document["sources"] == []
    assert model.notes == ()
