"""Predictions of measured serving runs: which scenario a row is, and what a closed loop on two pools has to keep to."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import costmodel
from reports import serving
from reports.serving import over_time

ROW = {
    "row_id": "one", "gpu": "gb200", "model": "gptoss", "precision": "fp4", "framework": "dynamo-trt", "version": "",
    "disagg": "1", "mtp": "none", "isl": "1024", "osl": "512", "isl_mean": "900", "osl_mean": "450",
    "concurrency": "24",
    "n_gpus_prefill": "2", "prefill_workers": "2", "prefill_dpa": "0", "prefill_ep": "1",
    "n_gpus_decode": "4", "decode_workers": "2", "decode_dpa": "0", "decode_ep": "1",
}  # fmt: skip


def test_a_pool_has_instances_of_equal_size() -> None:
    assert serving.pool(ROW, "decode") == ({"tp": 2}, 2, 2)
    assert serving.pool({**ROW, "decode_dpa": "1"}, "decode") == ({"dp": 2, "ep": 2}, 2, 2)
    assert serving.pool({**ROW, "decode_ep": "2"}, "decode") == ({"tp": 2, "ep": 2}, 2, 2)


@pytest.mark.parametrize("in_flight", [2, 24])
def test_a_closed_loop_keeps_its_number_in_flight(in_flight: int) -> None:
    found = serving.prediction({**ROW, "concurrency": str(in_flight)})
    assert "error" not in found
    seconds = (found["ttft"] + found["tpot"] * 449) / 1e3
    assert found["request_per_s"] * seconds == pytest.approx(in_flight, rel=1e-6)
    assert found["total_tok_s_gpu"] == pytest.approx(found["request_per_s"] * 1350 / 6)
    assert found["tpot_low"] <= found["tpot"] <= found["tpot_high"]


def test_more_users_wait_longer_and_gain_throughput() -> None:
    few, many = (serving.prediction({**ROW, "concurrency": str(count)}) for count in (4, 400))
    assert many["tpot"] > few["tpot"]
    assert many["ttft"] > few["ttft"]
    assert many["request_per_s"] > few["request_per_s"]


@pytest.mark.parametrize(("workload", "distribution"), [("ShareGPT", "exponential"), ("random 2K input", None)])
def test_lengths_of_sharegpt_differ_and_random_ones_do_not(
    workload: str, distribution: str | None, tmp_path: Path
) -> None:
    run = {"concurrency": 100, "input_tokens": 217, "output_tokens": 197}
    requests = over_time({"workload": workload, "n_requests": "1000"}, run, tmp_path)["requests"]
    assert requests["count"] == 1000
    assert requests.get("output", {}).get("distribution") == distribution


def test_a_constant_rate_has_equal_gaps_and_sharegpt_s_lengths(tmp_path: Path) -> None:
    row = {"rate_per_s": "8", "n_requests": "400", "input_mean": "200", "output_mean": "100", "workload": "ShareGPT"}
    for arrival, is_even in (("constant", True), ("poisson", False)):
        over_time({**row, "arrival": arrival}, {"rate": "8 /s"}, tmp_path)
        table = np.genfromtxt(tmp_path / "requests.csv", delimiter=",", names=True)
        assert (np.ptp(np.diff(table["arrival_s"])) < 1e-9) == is_even
        assert np.std(table["output_tokens"]) == pytest.approx(100 if is_even else 0, abs=15)


def test_what_a_row_leaves_open_is_as_the_engine_recommends() -> None:
    row = {**ROW, "disagg": "0", "n_gpus": "8", "framework": "sglang", "gpu": "b200", "model": "dsr1", "mtp": "none"}

    def run(**changes: str) -> dict[str, Any]:
        content = serving.document({**row, "precision": "fp8", "decode_tp": "8", **changes})
        assert isinstance(content, dict)
        return dict(content["scenarios"]["run"])

    assert run(concurrency="8")["scheduler"] == {"look_steps": 10, "token_budget": 32768}
    assert run(concurrency="16")["scheduler"]["look_steps"] == 30
    assert run(precision="fp4", n_gpus="4")["precision"]["compute"] == "nvfp4"
    assert run(gpu="h200")["memory"] == {"utilization": 0.82}
    assert run(framework="trt", version="1.3.0rc14")["precision"]["kv_cache"] == "fp8"
    assert "scheduler" not in run(gpu="mi300x")
    for device in ("h200", "b200"):
        assert run(gpu=device, framework="vllm", version="0.13.0", model="gptoss")["scheduler"] == {"async": True}
    assert "scheduler" not in run(framework="vllm", version="0.17.0", model="gptoss")
    nvidia = {"framework": "trt", "version": "1.1.0", "concurrency": "64"}
    assert run(**nvidia)["scheduler"] == {"max_num_seqs": 512, "token_budget": 1152}
    assert run(**nvidia, isl="8192", n_gpus="4")["memory"] == {"utilization": 0.75}
    assert run(**nvidia, decode_dpa="1")["scheduler"]["align_steps"] == 60


@pytest.mark.parametrize(
    ("ranks", "changes", "stated"),
    [("16", {}, True), ("8", {}, False), ("16", {"decode_dpa": "0"}, False), ("16", {"gpu": "h100"}, False),
     ("16", {"framework": "dynamo-sglang"}, False), ("8", {"model": "gptoss"}, True)],
)  # fmt: skip
def test_many_ranks_of_tensorrt_llm_in_a_rack_exchange_tokens_by_an_all_to_all(
    ranks: str, changes: dict[str, str], stated: bool
) -> None:
    row = {**ROW, "gpu": "gb300", "model": "dsr1", "n_gpus_decode": ranks, "decode_workers": "1", "decode_dpa": "1"}
    content = serving.document({**row, **changes})
    assert isinstance(content, dict)
    run = content["scenarios"]["run"]
    assert ("communication" in run["decode"]) == stated
    assert "communication" not in run["prefill"]
    formats = run.get("precision", {})
    assert ((formats.get("compute"), formats.get("kv_cache")) == ("nvfp4", "fp8")) == (
        changes.get("model") != "gptoss" and "framework" not in changes
    )


@pytest.mark.parametrize(("ranks", "depth"), [("0", 3), ("1", 1)])
def test_nvidia_drafts_less_with_attention_data_parallelism(ranks: str, depth: int) -> None:
    row = {**ROW, "disagg": "0", "n_gpus": "8", "framework": "trt", "version": "1.3.0", "gpu": "b200", "mtp": "mtp"}
    content = serving.document({**row, "model": "dsr1", "precision": "fp8", "decode_dpa": ranks})
    assert isinstance(content, dict)
    assert content["scenarios"]["run"]["speculative"]["depth"] == depth


def test_versions_of_tensorrt_llm_have_files_of_their_own() -> None:
    for version, day, name in (
        ("1.1.0rc2.post2", "2026-03-01", "trt-llm-1.1"), ("", "2025-12-15", "trt-llm-1.1"),
        ("", "2026-05-18", "trt-llm"), ("1.3.0rc14", "2025-12-15", "trt-llm"), ("", "", "trt-llm"),
    ):  # fmt: skip
        assert serving.framework({"framework": "trt", "version": version, "run_date": day}) == name
    dynamo = {"framework": "dynamo-trt", "version": "0.8.1.post2", "run_date": "2026-03-23"}
    assert serving.framework(dynamo) == "trt-llm"


def test_drafts_are_those_of_the_engine() -> None:
    row = {**ROW, "disagg": "0", "n_gpus": "2", "framework": "sglang", "gpu": "b200", "mtp": "mtp", "model": "dsr1"}
    content = serving.document(row)
    assert isinstance(content, dict)
    run = content["scenarios"]["run"]
    assert run["speculative"] == {"depth": 3, "acceptances": list(serving.ACCEPTANCES), "assumed": True}
    assert serving.framework({"framework": "vllm", "version": "v0.13.0"}) == "vllm-0.11"


def test_versions_of_sglang_have_files_of_their_own() -> None:
    row = {"framework": "sglang", "gpu": "h200"}
    assert serving.framework({**row, "version": "v0.5.14-cu130"}) == "sglang"
    assert serving.framework({**row, "version": ""}) == "sglang"
    assert serving.framework({**row, "version": "", "run_date": "2026-05-20"}) == "sglang-0.5.12"
    assert serving.framework({**row, "version": "v0.5.12-cu130"}) == "sglang-0.5.12"
    assert serving.framework({**row, "version": "v0.5.9-cu130"}) == "sglang-0.5.9"
    assert serving.framework({**row, "version": "v0.5.9-rocm700-mi30x", "gpu": "mi300x"}) == "sglang-rocm-0.5.9"


@pytest.mark.parametrize(
    ("gpu", "more", "has_graphs"),
    [("h200", {}, True), ("b200", {}, False), ("h200", {"speculative": {"depth": 1, "acceptances": [0.8]}}, False),
     ("h200", {"parallel": {"dp": 8, "ep": 8}}, False), ("h200", {"parallel": {"tp": 4, "pp": 2}}, False)],
)  # fmt: skip
def test_which_prompts_of_sglang_have_graphs(tmp_path: Path, gpu: str, more: dict[str, Any], has_graphs: bool) -> None:
    cluster = {"h200": "hgx-h200", "b200": "hgx-b200"}[gpu]
    run = {"phase": "serving", "cluster": f"nodes/{cluster}", "framework": "sglang-0.5.12", "parallel": {"tp": 8},
           "input_tokens": 512, "output_tokens": 64, "concurrency": 2, **more}  # fmt: skip
    file = tmp_path / "run.yaml"
    content = {"schema": "costmodel/workload@1", "model": "models/deepseek-v3", "scenarios": {"run": run}}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert (costmodel.load(file).scenario("run").eager_prompts.layer == 0.0) == has_graphs


@pytest.mark.parametrize(
    "changes", [{"decode_workers": "0"}, {"prefill_workers": ""}, {"n_gpus_prefill": "0"}, {"n_gpus_decode": "1"}]
)
def test_a_row_whose_pools_lack_workers_loses_no_other_rows(changes: dict[str, str], tmp_path: Path) -> None:
    runs, output = tmp_path / "runs.csv", tmp_path / "found.jsonl"
    with runs.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(ROW))
        table.writeheader()
        table.writerows([ROW | changes | {"row_id": "empty"}, ROW])
    done = CliRunner().invoke(serving.main, [str(runs), "--output", str(output)], catch_exceptions=False)
    assert done.exit_code == 0
    empty, whole = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    assert empty == {"id": "empty", "error": "pools without workers, or with fewer devices than workers"}
    assert whole["tpot"] > 0.0
