"""Who leaves the exchange of experts to the framework is told where that is an all-gather, and of DeepEP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import costmodel

WIDE = {"dp": 8, "ep": 8}


def notes(folder: Path, **changes: Any) -> list[str]:
    """Return the notes on the exchange of a serving scenario of DeepSeek-V3 on eight H200."""
    run = {"phase": "serving", "cluster": "nodes/hgx-h200", "framework": "vllm", "parallel": WIDE, "concurrency": 4}
    scenario: dict[str, Any] = {**run, "input_tokens": 512, "output_tokens": 64, **changes}
    scenario = {key: value for key, value in scenario.items() if value is not None}
    content = {"schema": "costmodel/workload@1", "model": "models/deepseek-v3", "scenarios": {"run": scenario}}
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return [note for note in costmodel.load(folder / "run.yaml").scenario("run").notes if "all-gather" in note]


@pytest.mark.parametrize("framework", ["vllm", "sglang", "vllm-0.11"])
def test_a_default_gather_is_told_with_deepep(tmp_path: Path, framework: str) -> None:
    (note,) = notes(tmp_path, framework=framework)
    assert f"as {framework} does by default" in note
    assert "set communication: {mode: low_latency" in note


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": {"tp": 8}},
        {"parallel": {"tp": 8, "ep": 8}},
        {"communication": {"mode": "low_latency"}},
        {"communication": {"exchange": "gather"}},
        {"framework": "deepseek"},
    ],
)
def test_who_gathers_nothing_or_says_how_is_told_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert notes(tmp_path, **changes) == []


@pytest.mark.parametrize(
    "changes", [{"framework": "trt-llm"}, {"cluster": "nodes/mi300x-x8", "precision": "fp8-inference"}]
)
def test_deepep_is_named_only_where_the_framework_has_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    (note,) = notes(tmp_path, **changes)
    assert "DeepEP" not in note


def test_of_two_pools_the_one_that_gathers_is_named(tmp_path: Path) -> None:
    pools = {
        "prefill": {"parallel": {"tp": 8}, "tokens_per_device": 512},
        "decode": {"parallel": WIDE, "batch_per_device": 4},
    }
    (note,) = notes(tmp_path, parallel=None, concurrency=None, **pools)
    assert "set decode.communication:" in note
    assert "prefill" not in note
