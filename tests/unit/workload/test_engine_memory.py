"""The KV cache of an engine in blocks, against figures of real engines and against the terms one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import CLUSTER, DENSE_MODEL, DEVICE, DRAFTS, FRAMEWORK, SERVING, scenario, with_device, with_level

import costmodel
from costmodel.analytic.grid import evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.schema.resolve import resolve
from costmodel.workload.counting import kv_bytes_per_token, parameter_count
from costmodel.workload.engine import Engine, EngineMemory, Reserve, Scheduler, SchedulerRule
from costmodel.workload.engine_memory import KvPool, kv_pool
from costmodel.workload.plans import Serving, Speculative
from costmodel.workload.scenario import Parallelism, Scenario

GIB = 2**30
MEMORY = EngineMemory(utilization=0.9, process=1e8, rank=3e8, workspace=5e7, logit=10.0)
PLAN = replace(SERVING, memory=MEMORY, scheduler=Scheduler(max_num_seqs=512.0, token_budget=1024.0))
WORKLOAD = """\
schema: costmodel/workload@1
model: {model}
scenarios:
  online:
    phase: serving
    cluster: {cluster}
    framework: {framework}
    parallel: {{tp: {tp}}}
    precision: {precision}
    input_tokens: 573
    output_tokens: 248
    concurrency: 8
    {more}
"""


def of(plan: Serving, layout: Parallelism | None = None, capacity: float = 80e9) -> Scenario:
    cluster = with_device(CLUSTER, with_level(DEVICE, "hbm", 2e12, capacity))
    return scenario(plan, DENSE_MODEL, layout, cluster=cluster)


def pool(plan: Serving, layout: Parallelism | None = None, capacity: float = 80e9) -> KvPool:
    return kv_pool(of(plan, layout, capacity), plan)


def room(found: KvPool) -> float:
    return float(found.blocks * found.block_bytes)


def test_a_block_holds_its_tokens() -> None:
    found = pool(PLAN)
    assert found.block_bytes == pytest.approx(16 * kv_bytes_per_token(DENSE_MODEL))
    assert found.blocks_of(1.0) == 1
    assert found.blocks_of(16.0) == 1
    assert found.blocks_of(17.0) == 2
    assert found.mean_blocks_of(100.0) == pytest.approx((100 + 7.5) / 16)


def test_blocks_are_what_weights_sampling_and_libraries_leave() -> None:
    weights = 2 * parameter_count(DENSE_MODEL).total
    hidden = 2 * 1024 * DENSE_MODEL.hidden
    sampling = 512 * DENSE_MODEL.vocabulary * 10
    found = pool(PLAN)
    expected = 0.9 * 80e9 - weights - hidden - sampling - 5e7 - 1e8
    assert found.blocks == pytest.approx(expected // found.block_bytes, abs=1)
    assert room(found) <= expected < room(found) + 2 * found.block_bytes


def test_several_ranks_keep_buffers_for_their_messages() -> None:
    alone, together = (replace(PLAN, memory=replace(MEMORY, rank=rank)) for rank in (0.0, 3e8))
    for layout, difference in ((Parallelism(), 0.0), (Parallelism(tp=2.0), 3e8)):
        lost = room(pool(alone, layout)) - room(pool(together, layout))
        assert lost == pytest.approx(difference, abs=pool(PLAN, layout).block_bytes)


def test_a_share_of_free_memory_leaves_less_of_the_rest_to_the_cache() -> None:
    total, free = (pool(replace(PLAN, memory=replace(MEMORY, of=of))) for of in ("total", "free"))
    others = 0.9 * 80e9 - room(total)
    assert room(free) == pytest.approx(0.9 * (80e9 - others), abs=2 * free.block_bytes)


def test_a_static_share_is_of_weights_and_cache() -> None:
    found = pool(replace(PLAN, memory=EngineMemory(utilization=0.5, of="static", process=1e8)))
    assert room(found) == pytest.approx(
        0.5 * 80e9 - 2 * parameter_count(DENSE_MODEL).total - 1e8, abs=2 * found.block_bytes
    )
    assert found.ledger.total <= 80e9


def test_without_a_share_the_reserve_is_left_free() -> None:
    reserve = Reserve(fixed=1e9, token=1e5)
    found = pool(replace(PLAN, memory=EngineMemory(utilization=None, process=1e8, reserve=reserve)))
    weights = 2 * parameter_count(DENSE_MODEL).total
    assert room(found) == pytest.approx(80e9 - weights - 1e8 - 1e9 - 2048e5, abs=2 * found.block_bytes)


def test_activations_come_out_of_the_reserve() -> None:
    """An engine that leaves a reserve free and no more runs, however large its largest step might be."""
    reserve = Reserve(fixed=1e8)
    plan = replace(PLAN, memory=EngineMemory(utilization=None, reserve=reserve), scheduler=Scheduler(token_budget=1e5))
    found = pool(plan)
    assert found.ledger.total <= 80e9
    assert found.ledger.activations <= 1e8


def test_stated_blocks_count_whatever_fits() -> None:
    found = pool(replace(PLAN, blocks=1234.0))
    assert found.blocks == 1234
    assert found.ledger.kv_cache == pytest.approx(1234 * found.block_bytes)


@pytest.mark.parametrize(("drafts", "blocks"), [(None, 80), (DRAFTS, 81)])
def test_the_ledger_holds_a_whole_request_however_few_blocks_are_stated(
    drafts: Speculative | None, blocks: int
) -> None:
    """1,024 + 256 tokens are 80 blocks of 16; a drafted one begins another."""
    found = pool(replace(PLAN, blocks=1.0, speculative=drafts))
    assert found.ledger.kv_cache == pytest.approx(blocks * found.block_bytes)


def test_an_engine_without_room_for_one_request_does_not_fit() -> None:
    weights = 2 * parameter_count(DENSE_MODEL).total
    result = evaluate_point(of(PLAN, capacity=1.05 * weights), Calibration())
    assert not result.fits
    assert evaluate_point(of(PLAN), Calibration()).fits


def test_requests_are_admitted_by_blocks_and_by_seats() -> None:
    few = replace(PLAN, blocks=720.0, concurrency=64.0)
    # 1,024 + 256/2 tokens and half a block: 72.47 blocks a request
    assert evaluate_point(of(few), Calibration()).metrics["max_concurrency"] == 9
    seats = replace(PLAN, concurrency=64.0, scheduler=Scheduler(max_num_seqs=5.0, token_budget=1024.0))
    found = evaluate_point(of(seats), Calibration()).metrics
    assert found["max_concurrency"] == 5
    assert found["concurrency"] == 5


def test_what_the_driver_keeps_is_no_room() -> None:
    level = replace(DEVICE.device_memory, capacity=80e9, driver=1e9)
    device = replace(DEVICE, memory=(*DEVICE.memory[:-1], level))
    chosen = scenario(PLAN, DENSE_MODEL, cluster=with_device(CLUSTER, device))
    lost = room(pool(PLAN)) - room(kv_pool(chosen, PLAN))
    assert lost == pytest.approx(0.9e9, abs=2 * pool(PLAN).block_bytes)


def test_the_first_rule_that_holds_sets_the_limits() -> None:
    large = SchedulerRule(
        from_capacity=70e9, except_architectures=("ampere",), max_num_seqs=1024.0, token_budget=8192.0
    )
    rest = SchedulerRule(max_num_seqs=256.0, token_budget=2048.0)
    engine = Engine("1", rules=(large, rest), scheduler=Scheduler(), memory=MEMORY)
    assert engine.rule(DEVICE, 1.0) is large
    assert engine.rule(replace(DEVICE, architecture="ampere"), 1.0) is rest
    assert engine.rule(with_level(DEVICE, "hbm", 2e12, 24e9), 1.0) is rest


def test_graphs_are_counted_by_size_and_kind() -> None:
    rule = SchedulerRule(max_num_seqs=8.0, token_budget=64.0)
    engine = Engine("1", rules=(rule,), scheduler=Scheduler(), memory=MEMORY, graph_sizes=(1, 2, 4, 8, 16, 32))
    assert engine.graphs(8.0, 64.0) == 4
    assert replace(engine, prompt_graphs=True).graphs(8.0, 64.0) == 4 + 5


def test_graphs_in_the_budget_cost_blocks() -> None:
    memory = replace(MEMORY, graph=1e7, first_graph=1e8, graphs_in_budget=True)
    rule = SchedulerRule(max_num_seqs=8.0, token_budget=64.0)
    engine = Engine("1", rules=(rule,), scheduler=Scheduler(), memory=memory, graph_sizes=(1, 2, 4, 8))
    chosen = replace(of(PLAN), framework=replace(FRAMEWORK, engine=engine))
    lost = room(pool(PLAN)) - room(kv_pool(chosen, replace(PLAN, memory=memory)))
    assert lost == pytest.approx(1e8 + 4 * 1e7, abs=2 * pool(PLAN).block_bytes)


@pytest.mark.parametrize(
    ("model", "cluster", "tp", "precision", "weights", "activations", "cache"),
    [
        ("models/qwen3-32b", "nodes/h100-x1", 1, "bf16", 61.03, 5.64, 4.45),
        ("models/llama-3-8b", "nodes/h100-x1", 1, "bf16", 14.99, 4.76, 51.38),
        ("models/llama-3-70b", "nodes/dgx-h100", 2, "{compute: fp8-tensor, kv_cache: bf16}", 33.88, 4.84, 32.0),
    ],
)
def test_the_parts_are_those_that_vllm_logs(
    tmp_path: Path, model: str, cluster: str, tp: int, precision: str, weights: float, activations: float, cache: float
) -> None:  # fmt: skip
    """llm-d, docs/empirical-vllm-memory-results.md, GiB a GPU."""
    file = tmp_path / "w.yaml"
    text = WORKLOAD.format(
        model=model, cluster=cluster, framework="vllm-0.11", tp=tp, precision=precision, more="memory: {block: 128}"
    )
    file.write_text(text)
    chosen = resolve(file).scenarios["online"]
    assert isinstance(chosen.plan, Serving)
    ledger = kv_pool(chosen, chosen.plan).ledger
    found = [float(part) / GIB for part in (ledger.weights, ledger.activations, ledger.kv_cache)]
    assert found == pytest.approx([weights, activations, cache], rel=0.05)


@pytest.mark.parametrize("more", ["", "scheduler: {max_num_seqs: 128, token_budget: 2048}"])
def test_blocks_of_llama_on_a_4090(tmp_path: Path, more: str) -> None:
    """vLLM 0.19 had 2,588 blocks of 16 tokens for Llama 3.1 8B on an RTX 4090."""
    file = tmp_path / "w.yaml"
    file.write_text(
        WORKLOAD.format(
            model="models/llama-3-8b", cluster="nodes/rtx-4090-x1", framework="vllm", tp=1, precision="bf16", more=more
        )
    )
    found = costmodel.load(file).simulate()["scenarios"]["online"]["metrics"]["kv_blocks"]
    assert found == pytest.approx(2588, rel=0.06)


@pytest.mark.parametrize(("cluster", "fused"), [("nodes/rtx-4090-x1", True), ("nodes/h100-x1", False)])
def test_one_kernel_for_prompts_and_requests_is_taken_where_it_was_measured(
    tmp_path: Path, cluster: str, fused: bool
) -> None:
    file = tmp_path / "w.yaml"
    text = WORKLOAD.format(
        model="models/llama-3-8b", cluster=cluster, framework="vllm", tp=1, precision="bf16", more="memory: {block: 16}"
    )
    file.write_text(text)
    framework = resolve(file).scenarios["online"].framework
    assert ("attention_mixed" in framework.implementations) is fused


@pytest.mark.parametrize("framework", ["vllm", "sglang"])
@pytest.mark.parametrize("load", ["concurrency: 300", "rate: 8 /s"])
def test_an_axis_of_capacity_or_ranks_takes_each_points_own_rule_of_the_scheduler(
    framework: str, load: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    filled = WORKLOAD.format(
        model="models/llama-3-8b", cluster="nodes/dgx-h100", framework=framework, tp=1, precision="bf16", more=""
    )
    path.write_text(filled.replace("concurrency: 8", load), encoding="utf-8")
    capacities, ranks = (40 * GIB, 64 * GIB, 141 * 10**9, 180 * 10**9), (1.0, 4.0)
    vary = {"hardware.memory.hbm.capacity": list(map(float, capacities)), "scenarios.online.parallel.tp": list(ranks)}
    grid = costmodel.load(path).evaluate("online", vary=vary)
    for i, capacity in enumerate(capacities):
        for j, tp in enumerate(ranks):
            given = {"hardware.memory.hbm.capacity": float(capacity), "scenarios.online.parallel.tp": tp}
            alone = costmodel.load(path, set=given).evaluate("online")
            for name in ("ttft", "tpot", "kv_blocks", "max_concurrency"):
                assert grid.metrics[name][i, j] == pytest.approx(float(alone.metrics[name]), rel=1e-9), (name, i, j)
