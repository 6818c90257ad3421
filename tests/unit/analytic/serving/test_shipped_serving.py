"""The shipped workloads of generation and serving run, and stand where published figures say they may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import costmodel
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.analytic.intervals import shares_of_conditions
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.result import PHASES
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Disaggregated


@pytest.fixture(scope="module")
def online() -> costmodel.Workload:
    return costmodel.load("deepseek_v3_serving")


def test_deepseek_s_published_rates_are_near(online: costmodel.Workload) -> None:
    """A node: 14.8 k tokens/s given while decoding; 73.7 k taken in while prefilling, of which 56 % were cached.

    The second is the mean load of a day, cached tokens among it, and the prediction a capacity: above the 32.2 k that
    were surely computed, and not twice as much as all of them.
    """
    point = online.points()["online"]
    assert point.metrics["decode_tokens_per_second_per_device"] == pytest.approx(14.8e3 / 8, rel=0.1)
    span = point.intervals["prefill_tokens_per_second_per_device"]
    assert span is not None
    assert span[0] > 32.2e3 / 8
    assert point.metrics["prefill_tokens_per_second_per_device"] < 2 * 73.7e3 / 8


def test_deepseek_s_published_layout_is_the_scenario_s(online: costmodel.Workload) -> None:
    """Four nodes that prefill and 18 that decode, nine and two experts a GPU with replicas."""
    chosen = online.scenario("online")
    assert isinstance(chosen.plan, Disaggregated)
    slots = 256 + chosen.routing.redundant
    assert (chosen.plan.prefill.parallel.devices, slots / chosen.plan.prefill.parallel.ep) == (4 * 8, 9)
    assert (chosen.plan.decode.parallel.devices, slots / chosen.plan.decode.parallel.ep) == (18 * 8, 2)


def test_deepseek_s_published_context_is_the_scenario_s(online: costmodel.Workload) -> None:
    """4,989 tokens of KV cache an output token, and 608 tokens in for 168 out."""
    plan = online.scenario("online").plan
    assert isinstance(plan, Disaggregated)
    assert plan.input_tokens + plan.output_tokens / 2 == pytest.approx(4989, abs=1)
    assert plan.input_tokens / plan.output_tokens == pytest.approx(608 / 168, rel=1e-3)


@pytest.mark.parametrize("name", ["llama3_8b_rtx4090", "deepseek_v3_serving"])
def test_documents_of_the_new_phases_have_the_agreed_keys(name: str) -> None:
    workload = costmodel.load(name)
    for scenario, found in workload.simulate()["scenarios"].items():
        names = PHASES[workload.scenario(scenario).result_kind][1]
        assert found["phase"] in ("generate", "serving")
        assert tuple(found["metrics"]) == tuple(found["intervals"]) == names
        assert found["memory"]["fits"]
        assert sum(entry["share"] for entry in found["breakdown"]) == pytest.approx(1)
        assert sum(found["basis"].values()) == pytest.approx(1)
        for metric, value in found["metrics"].items():
            span = found["intervals"][metric]
            assert (value is None) == (span is None)
            assert value is None or span[0] <= value <= span[1]


def test_a_grid_over_pools_is_its_points(online: costmodel.Workload) -> None:
    result = online.evaluate(
        "online",
        vary={
            "scenarios.online.prefill.parallel.dp": [32, 64],
            "scenarios.online.decode.batch_per_device": [16, 88, 90],
            "scenarios.online.prefix_hit_rate": ["0 %", "56.3 %"],
        },
    )
    assert result.fits.all()  # type: ignore[union-attr]
    document = result.at(1, 2, 1)
    for metric, value in document["metrics"].items():
        if value is None:  # no source states a price of such a node
            assert result.metrics[metric] is None
            continue
        assert result.metrics[metric][1, 2, 1] == pytest.approx(value, rel=1e-9)  # type: ignore[index]


def test_operators_of_both_pools_are_explained_with_their_own_processors(online: costmodel.Workload) -> None:
    from costmodel.report.explain import explain

    found = {name: explain(online, "online", f"{name}: expert up")[0] for name in ("prefill", "decode")}
    assert found["prefill"].inputs["processors"] == (112.0, "count")
    assert found["decode"].inputs["processors"] == (132.0, "count")
    assert any(path.startswith("prefill.communication") for path in found["prefill"].origins)
    assert explain(online, "online", "kv transfer")[0].bound == "network"


def test_one_user_of_a_gpu_reads_the_weights_once_a_token() -> None:
    """The published 24 GB board: 16 GB of weights at 1,008 GB/s are 15 ms, the least a token can take."""
    tpot = costmodel.load("llama3_8b_rtx4090").points(["chat"])["chat"].metrics["tpot"]
    assert tpot is not None
    assert 7.5e9 * 2 / 1008e9 < tpot < 1.1 * 16e9 / 1008e9


@pytest.mark.parametrize("kernels", [("attention_decode", "attention_prefill"), ("attention_mixed",)])
def test_a_lone_request_meets_no_decoding_while_it_prefills(kernels: tuple[str, ...]) -> None:
    """Fitted forms have no logarithm of no sequences: such a kernel does not run, at a point as on a grid."""
    chosen = costmodel.load("llama3_8b_rtx4090").scenario("serving")
    names = dict.fromkeys(("attention_decode", "attention_prefill", *kernels), "fa2-vllm")
    fitted = replace(chosen, framework=replace(chosen.framework, implementations=names))
    calibration = load_calibration(chosen.cluster.device, fitted.framework)
    counts = (1.0, 2.0, 32.0)
    plan = chosen.plan
    assert isinstance(plan, Serving)
    points = [evaluate_point(replace(fitted, plan=replace(plan, concurrency=each)), calibration) for each in counts]
    grid = evaluate_grid(replace(fitted, plan=replace(plan, concurrency=np.array(counts))), calibration, (3,))
    for metric in ("ttft", "tpot"):
        assert grid.metrics[metric] == pytest.approx([point.metrics[metric] for point in points], rel=1e-12)
    assert points[0].metrics["ttft"] < points[1].metrics["ttft"] < points[2].metrics["ttft"]


def served(folder: Path, model: str, **changes: Any) -> costmodel.Workload:
    """Return a workload of one small serving scenario."""
    run = {"phase": "serving", "cluster": "nodes/dgx-h100", "framework": "vllm", "input_tokens": 512, "concurrency": 4}
    scenario = {**run, "output_tokens": 64, **changes}
    content = {"schema": "costmodel/workload@1", "model": f"models/{model}", "scenarios": {"run": scenario}}
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return costmodel.load(folder / "run.yaml")


@pytest.mark.parametrize(
    ("drafts", "share"),
    [(None, 0.0), ({"depth": 1, "acceptance": 0.8}, 0.0), ({"depth": 1, "acceptance": 0.8, "assumed": True}, 1.0)],
)
def test_drafts_of_which_nobody_measured_what_is_accepted_are_told_apart(
    tmp_path: Path, drafts: Any, share: float
) -> None:
    workload = served(tmp_path, "qwen3.5-9b", **({} if drafts is None else {"speculative": drafts}))
    scenario = workload.scenario("run")
    assert shares_of_conditions(scenario)["drafted"] == share


@pytest.mark.parametrize(
    ("mapping", "flag", "ours"),
    [("scheduler", "scheduler_recv_interval", "look_steps"), ("memory", "gpu_memory_utilization", "utilization")],
)
def test_flags_of_engines_are_told_as_keys(tmp_path: Path, mapping: str, flag: str, ours: str) -> None:
    with pytest.raises(InputError, match=f"{mapping}.{flag}: unknown key; write `{ours}`"):
        served(tmp_path, "llama-3-8b", **{mapping: {flag: 1}})


@pytest.mark.parametrize("load", [{"concurrency": 8}, {"concurrency": None, "rate": "4 /s"}])
def test_an_engine_that_looks_seldom_answers_later(tmp_path: Path, load: dict[str, Any]) -> None:
    often, seldom = (
        served(tmp_path, "llama-3-8b", framework="sglang", scheduler={"look_steps": steps}, **load).points()["run"]
        for steps in (1, 20)
    )
    later = seldom.metrics["ttft"] - often.metrics["ttft"]
    assert later == pytest.approx(9.5 * often.metrics["tpot"], rel=0.3)


def test_an_engine_that_preempts_nobody_has_blocks_for_every_last_token(tmp_path: Path) -> None:
    lengths = {"output_tokens": 2000, "framework": "trt-llm", "concurrency": 5000}
    none, some = (
        served(tmp_path, "llama-3-8b", **lengths, scheduler={"max_num_seqs": 9999, **policy}).points()["run"].metrics
        for policy in ({}, {"preemption": "recompute"})
    )
    assert none["max_concurrency"] == none["kv_blocks"] // (-(-2512 // 32))
    assert some["max_concurrency"] > 1.6 * none["max_concurrency"]


@pytest.mark.parametrize(
    ("framework", "stated", "found"), [("sglang", {}, "bf16"), ("sglang", {"router": "fp32"}, "fp32")]
)
def test_engines_score_experts_in_16_bits_unless_another_format_is_stated(
    tmp_path: Path, framework: str, stated: Any, found: str
) -> None:
    precision = {"compute": "fp8-inference", **stated}
    changes = {"cluster": "nodes/hgx-h200", "parallel": {"tp": 8}, "framework": framework, "precision": precision}
    assert served(tmp_path, "deepseek-v3", **changes).scenario("run").precision.router == found


def test_experts_in_nvfp4_run_on_trtllm_gen_as_those_in_fp8_do(tmp_path: Path) -> None:
    """Half the bytes of weights: on B200 under TensorRT-LLM at TP 8 32 users wait less for a token than in FP8."""
    layout = {"cluster": "nodes/hgx-b200", "parallel": {"tp": 8}, "framework": "trt-llm", "concurrency": 32}
    layout |= {"output_tokens": 2000}  # few steps with prompts, which wait for the host in either format
    narrow, wide = (
        served(tmp_path, "deepseek-v3", precision=precision, **layout).points()["run"].metrics["tpot"]
        for precision in ("nvfp4", {"compute": "fp8-inference", "fallback": "bf16"})
    )
    assert narrow < 0.9 * wide
