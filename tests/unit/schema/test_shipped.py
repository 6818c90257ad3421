"""Every file that ships with the package is sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from costmodel.errors import LayoutError
from costmodel.schema import resolve
from costmodel.schema.files import validate
from costmodel.schema.references import package_root

ROOT = package_root()
SHIPPED = sorted(
    path.relative_to(ROOT) for folder in ("hardware", "workloads") for path in (ROOT / folder).rglob("*.yaml")
)


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_a_shipped_file_has_no_problems(path: Path) -> None:
    assert [str(problem) for problem in validate(ROOT / path)] == []


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
    assert replaced.notes == ("a100-sxm-80gb has no FP8 unit; using the fallback precision",)


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
