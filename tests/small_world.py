"""A small world of files: one chip, one box, one cluster, one model, two precisions, one framework, one workload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from costmodel.errors import InputError, Problem

FILES = {
    "hardware/devices/chip.yaml": """
schema: costmodel/device@1
name: chip
architecture: test
processors: 10
clock: {tensor_reference: 1 GHz, max: 2 GHz}
math:
  bf16: {peak: 10 TFLOP/s}
  fp32: {peak: 2 TFLOP/s, clock: max}
memory:
  - {name: smem, capacity: 100 KiB, per: processor, bandwidth: 100 GB/s}
  - {name: hbm, capacity: 10 GiB, bandwidth: 1 TB/s}
links:
  fast: {bandwidth: {bidirectional: 200 GB/s}, latency: 1 us}
plausible: [processors, clock, math, memory]   # round numbers that nobody builds
""",
    "hardware/nodes/box.yaml": """
schema: costmodel/node@1
name: box
device: devices/chip
count: 4
intra: fast
nic: {per_device: 1, bandwidth: 400 Gbit/s, latency: 2 us}
""",
    "hardware/nodes/lone.yaml": """
schema: costmodel/node@1
extends: nodes/box
name: lone
nic: null
""",
    "hardware/clusters/pair.yaml": """
schema: costmodel/cluster@1
name: pair
node: nodes/box
count: 2
network: {topology: fat-tree, radix: 64, latency: {same_leaf: 3 us}}
""",
    "hardware/frameworks/default.yaml": """
schema: costmodel/framework@1
name: default
gemm_tiles: [{m: 128, n: 128}]
attention_tiles: [{m: 128, n: 64}]
promotion_interval: 128
launch: 2 us
reserve: 1 GiB
""",
    "workloads/precisions/bf16.yaml": """
schema: costmodel/precision@1
name: bf16
linear: bf16
attention: bf16
router: fp32
head: bf16
residual: bf16
weights: bf16
master: fp32
gradients: fp32
moments: fp32
kv_cache: bf16
activations: bf16
""",
    "workloads/precisions/fp8.yaml": """
schema: costmodel/precision@1
extends: precisions/bf16
name: fp8
linear: fp8
activations: fp8
scale_block: 128
""",
    "workloads/models/tiny.yaml": """
schema: costmodel/model@1
name: tiny
hidden: 64
vocabulary: 512
layers:
  - repeat: 2
    mixer: {type: attention, q_heads: 8, kv_heads: 8, head_dim: 8}
    ffn: {type: glu, intermediate: 128}
""",
    "workloads/small.yaml": """
schema: costmodel/workload@1
model: models/tiny
scenarios:
  train:
    phase: training
    cluster: clusters/pair
    parallel: {tp: 2, dp: 4}
    global_batch: 16
    sequence: 128
  decode: {phase: decode, cluster: nodes/box, parallel: {tp: 8}, batch_per_device: 4, input_tokens: 100}
""",
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a search root with the files above; it is also the working folder."""
    for name, text in FILES.items():
        write(tmp_path, name, text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COSTMODEL_PATH", raising=False)
    return tmp_path


def write(root: Path, name: str, text: str) -> Path:
    """Write a file below `root` and return its path."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.lstrip("\n"), encoding="utf-8")
    return path


def edit(root: Path, name: str, old: str, new: str) -> Path:
    """Replace a part of one of the files and return its path."""
    text = (root / name).read_text(encoding="utf-8")
    assert old in text
    return write(root, name, text.replace(old, new))


def problems_of(action: Callable[[], object]) -> Sequence[Problem]:
    """Return the problems of the InputError that `action` raises."""
    with pytest.raises(InputError) as caught:
        action()
    return caught.value.problems
