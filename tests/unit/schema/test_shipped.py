"""Every file that ships with the package is sound."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from costmodel.errors import LayoutError
from costmodel.schema.files import load_model, validate
from costmodel.schema.references import package_root
from costmodel.schema.resolve import resolve
from costmodel.workload.architecture import Architecture
from costmodel.workload.counting import parameter_count

ROOT = package_root()
SHIPPED = sorted(
    path.relative_to(ROOT) for folder in ("hardware", "workloads") for path in (ROOT / folder).rglob("*.yaml")
)


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_a_shipped_file_has_no_problems(path: Path) -> None:
    assert [str(problem) for problem in validate(ROOT / path)] == []


SIZE = re.compile(r"(?<![a-z0-9.])(?P<active>a?)(?:(?P<of>\d+)x)?(?P<size>\d+(?:\.\d+)?)(?P<unit>[bmt])(?![a-z0-9])")
UNITS = {"m": 1e6, "b": 1e9, "t": 1e12}


def named_models() -> Iterator[tuple[Architecture, list[re.Match[str]], bool]]:
    """Yield the shipped models with a size in a name, these sizes, and whether the file gives a reason for them."""
    for path in SHIPPED:
        if path.parent.name not in ("models", "systems"):
            continue
        file = yaml.load((ROOT / path).read_text(), yaml.CSafeLoader)
        is_model = path.parent.name == "models"
        model = file if is_model else file["model"]
        name = model.get("name", "") if isinstance(model, dict) else ""
        sizes = [size for each in (name, *file.get("aliases", [])) for size in SIZE.finditer(each.lower())]
        if sizes:
            architecture = load_model(f"models/{path.stem}") if is_model else resolve(str(ROOT / path)).architecture
            reasons = {field for source in file.get("sources", []) if source.get("note") for field in source["fields"]}
            yield architecture, sizes, not reasons.isdisjoint(("name", "aliases") if is_model else ("model.name",))


def test_models_have_as_many_parameters_as_their_names_say() -> None:
    """Within 10 %, or the file says why under `name`: a mixture of memories of "1.3B" had 2.65 B."""
    wrong, compared = [], 0
    for architecture, sizes, has_reason in named_models():
        count = parameter_count(architecture)
        for found in sizes:
            size = float(found["size"]) * float(found["of"] or 1) * UNITS[found["unit"]]
            ours = float(count.active if found["active"] else count.total)
            compared += 1
            if abs(ours / size - 1) > 0.1 and not has_reason:
                wrong.append(f"{architecture.name}: {found.group()} has {ours:.4g} parameters")
    assert wrong == []
    assert compared > 150


def test_the_mixtures_of_memories_are_the_released_configurations() -> None:
    """Four heads of 256, FFNs of 2/3 of the hidden ratio rounded up to 256, tied embeddings."""
    counts = {
        name: float(parameter_count(resolve(str(ROOT / f"workloads/systems/{name}.yaml")).architecture).total)
        for name in ("mom_1_3b", "mom_340m")
    }
    assert counts == {"mom_1_3b": pytest.approx(1.55e9, rel=5e-3), "mom_340m": pytest.approx(513e6, rel=5e-3)}


@pytest.mark.parametrize(
    "name",
    [
        "hardware/nodes/hgx-h800.yaml", "hardware/nodes/dgx-a100.yaml", "hardware/nodes/rtx-4090-x8.yaml",
        "hardware/nodes/dgx-h100.yaml", "hardware/nodes/gb200-nvl72.yaml", "hardware/nodes/hgx-h20.yaml",
        "hardware/nodes/hgx-h200.yaml", "hardware/nodes/hgx-b200.yaml", "hardware/nodes/hgx-a800.yaml",
        "hardware/nodes/mi300x-x8.yaml", "hardware/nodes/rtx-4090-x1.yaml", "hardware/nodes/a100-x1.yaml",
        "hardware/nodes/a100-pcie-x1.yaml", "hardware/nodes/h100-x1.yaml", "hardware/nodes/l40s-x8.yaml",
        "hardware/nodes/xeon-6454s-rtx-4090d.yaml", "hardware/clusters/h800-2048-mpft.yaml",
        "hardware/clusters/h800-2048-mrft.yaml", "hardware/clusters/a100-superpod.yaml",
        "hardware/frameworks/default.yaml", "workloads/precisions/fp8.yaml", "workloads/precisions/bf16.yaml",
        "workloads/models/deepseek-v3.yaml",
    ],
)  # fmt: skip
def test_the_names_that_are_promised_ship(name: str) -> None:
    assert Path(name) in SHIPPED


def test_the_use_of_the_fallback_precision_is_noted() -> None:
    plain, replaced = (
        resolve("deepseek_v3", cluster=cluster).scenarios["decode"] for cluster in (None, "nodes/dgx-a100")
    )
    assert plain.notes == ()
    assert replaced.notes == ("a100-sxm-80gb has no FP8 unit; using the fallback precision, weights in bf16",)


RUN = """\
schema: costmodel/workload@1
model: models/{model}
scenarios:
  step: {{phase: training, cluster: nodes/dgx-h100, framework: {framework}, parallel: {{{layout}}}, sequence: 4096,
    global_batch: 8}}
"""


@pytest.mark.parametrize(
    ("framework", "model", "layout", "context"),
    [
        ("megatron", "llama-3-8b", "cp: 2, tp: 4", "ring"),
        ("nemo-2024", "llama-3-8b", "cp: 2, tp: 4", "ring"),
        ("megatron", "llama-3-8b", "cp: 2, tp: 4, context: gather", "gather"),
        ("megatron", "gpt-oss-20b", "cp: 2, tp: 4", "gather"),
        ("megatron-2022", "llama-3-8b", "cp: 2, tp: 4", "gather"),
    ],
)
def test_keys_go_around_a_ring_where_megatron_sends_them_so(
    tmp_path: Path, framework: str, model: str, layout: str, context: str
) -> None:
    file = tmp_path / "step.yaml"
    file.write_text(RUN.format(framework=framework, model=model, layout=layout))
    resolved = resolve(str(file))
    assert resolved.scenarios["step"].parallel.context == context
    assert resolved.document["scenarios"]["step"]["parallel"]["context"] == context


@pytest.mark.parametrize(
    ("framework", "stated", "slices"),
    [("megatron", "", 2.0), ("nemo", "", 2.0), ("megatron-bridge", "", 1.0), ("nemo", ", expert_tensor: 1", 1.0)],
)
def test_experts_are_split_as_other_layers_where_megatron_splits_them(
    tmp_path: Path, framework: str, stated: str, slices: float
) -> None:
    file = tmp_path / "step.yaml"
    file.write_text(RUN.format(framework=framework, model="mixtral-8x7b", layout=f"tp: 2, dp: 8, ep: 8{stated}"))
    assert resolve(str(file)).scenarios["step"].parallel.etp == slices


def test_a_layout_that_experts_split_over_tp_do_not_divide_names_whole_ones(tmp_path: Path) -> None:
    file = tmp_path / "step.yaml"
    file.write_text(RUN.format(framework="megatron", model="mixtral-8x7b", layout="tp: 4, dp: 2, ep: 8"))
    with pytest.raises(LayoutError, match="expert_tensor: 1"):
        resolve(str(file))
