"""`predict` and `simulate` time the same operator, shape, device and framework alike, and count the same kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

import costmodel
from costmodel.analytic.evaluation import evaluate
from costmodel.calibration.row_prediction import predict_mapped
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_all
from costmodel.measurements.tables import read_tables
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm

WORKLOAD = """schema: costmodel/workload@1
model: models/mixtral-8x7b
scenarios:
  one: {phase: prefill, cluster: nodes/hgx-h800, parallel: {ep: 8, dp: 8}, framework: vllm, precision: bf16,
        input_tokens: 4096, tokens_per_device: 4096}
"""
COLUMNS = "device,op,m,n,k,num_groups,num_experts,num_tokens,dtype_in,dtype_out,framework,time_us"


def test_matrix_products_and_experts_take_the_same_time(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(WORKLOAD)
    workload = costmodel.load(tmp_path / "one.yaml")
    scenario = workload.scenario("one")
    products = [
        timed for timed in evaluate(scenario, workload.calibration(scenario)).operators()
        if isinstance(timed.operator, Gemm) and timed.operator.family in ("gemm", "grouped_gemm")
    ]  # fmt: skip
    rows = []
    for timed in products:
        gemm = timed.operator
        assert isinstance(gemm, Gemm)
        groups = gemm.groups if gemm.family == "grouped_gemm" else ""
        experts = (gemm.experts, gemm.tokens) if gemm.family == "grouped_gemm" else ("", "")
        total = gemm.m * gemm.groups
        rows.append(("H800_SXM", gemm.family, total, gemm.n, gemm.k, groups, *experts, "bf16", "bf16", "vllm", ""))
    text = "\n".join([COLUMNS, *(",".join(map(str, row)) for row in rows)])
    (tmp_path / "table.csv").write_text(f"{text}\n")
    table = read_tables(tmp_path / "table.csv", timed=False)
    found = predict_mapped(table, *map_all(table, Catalogue()))
    assert {timed.operator.family for timed in products} == {"gemm", "grouped_gemm"}
    assert found.seconds.tolist() == pytest.approx([float(timed.time.seconds) for timed in products], rel=1e-9)


LAYER = """schema: costmodel/workload@1
model: models/mixtral-8x7b
scenarios:
  one: {phase: prefill, cluster: nodes/CLUSTER, parallel: {tp: 2, ep: EP, dp: DP}, framework: FRAMEWORK,
        precision: bf16, routing: {load: balanced}, input_tokens: 512, tokens_per_device: 512}
"""
ROW = (
    "device,op,num_experts,topk,ep_size,tp_size,num_tokens,hidden,inter,distribution,dtype_in,framework,kernel,time_us"
)


@pytest.mark.parametrize(
    ("node", "device", "framework", "kernel", "source"),
    [
        ("hgx-h800", "H800_SXM", "vllm", "vllm_fused_moe", "calibrations/h800-sxm/triton-vllm"),
        ("dgx-h100", "H100_SXM", "trt-llm", "moe_torch_flow_cutlass", "calibrations/h100-sxm/trtllm-moe"),
    ],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_fused_layer_of_experts_is_what_its_measured_rows_hold(
    tmp_path: Path, node: str, device: str, framework: str, kernel: str, source: str, ranks: int
) -> None:
    text = LAYER
    for name, value in (("CLUSTER", node), ("FRAMEWORK", framework), ("EP", ranks), ("DP", ranks)):
        text = text.replace(name, str(value))
    (tmp_path / "one.yaml").write_text(text)
    workload = costmodel.load(tmp_path / "one.yaml")
    scenario = workload.scenario("one")
    timed = evaluate(scenario, workload.calibration(scenario)).operators()
    streams = {
        each.operator.name: each for each in timed if isinstance(each.operator, Elementwise) and each.operator.product
    }  # fmt: skip
    tokens = 512 * ranks * 2 // ranks
    row = f"{device},moe_layer,8,2,{ranks},{2 // ranks},{tokens},4096,14336,balanced,bf16,{framework},{kernel},"
    (tmp_path / "table.csv").write_text(f"{ROW}\n{row}\n")
    ((part,), _) = map_all(read_tables(tmp_path / "table.csv", timed=False), Catalogue())
    measured = {each.name: each for each in part.operators if isinstance(each, Elementwise)}
    assert streams.keys() == measured.keys() == {"expert permute", "expert activation", "expert sum"}
    for name, each in streams.items():
        operator = each.operator
        assert isinstance(operator, Elementwise)
        assert (operator.traffic, operator.rows) == (
            pytest.approx(measured[name].traffic[0]), pytest.approx(measured[name].rows[0])
        )  # fmt: skip
        assert operator.product == measured[name].product == "grouped_gemm/bf16"
    assert {streams[name].fit.source for name in ("expert permute", "expert sum")} == {source}


MODULE = """schema: costmodel/workload@1
model: models/deepseek-v3.2
scenarios:
  one: {phase: decode, cluster: nodes/hgx-h200, parallel: {tp: 8}, framework: sglang, precision: fp8-inference,
        batch_per_device: 4, input_tokens: 3000}
"""


def test_a_whole_attention_module_takes_what_its_kernels_take_in_a_simulation(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(MODULE)
    workload = costmodel.load(tmp_path / "one.yaml")
    scenario = workload.scenario("one")
    timed = {each.operator.name: each for each in evaluate(scenario, workload.calibration(scenario)).operators()}
    columns = "device,op,framework,model,gemm_type,kv_dtype,dtype_in,batch,q_heads,q_len,kv_len,time_us"
    core, scores = timed["attention core"].operator, timed["indexer scores"].operator
    assert isinstance(core, AttentionKernel)
    assert isinstance(scores, AttentionKernel)
    kernel = "H200_SXM,dsa_module_decode,sglang 0.5.14,deepseek-ai/DeepSeek-V3.2,fp8_e4m3_blk128,bf16,bf16"
    row = f"{kernel},{float(core.sequences):g},{float(core.heads):g},1,{float(scores.kv_len):g},"
    (tmp_path / "table.csv").write_text(f"{columns}\n{row}\n")
    table = read_tables(tmp_path / "table.csv", timed=False)
    mapped, left_out = map_all(table, Catalogue())
    found = predict_mapped(table, mapped, left_out)
    names = [each.name for each in mapped[0].operators]
    assert {"latent projection", "indexer scores", "key selection", "attention core", "output projection"} <= set(names)
    assert found.seconds.tolist() == pytest.approx([sum(float(timed[name].time.seconds) for name in names)], rel=1e-9)
