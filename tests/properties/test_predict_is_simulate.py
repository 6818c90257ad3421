"""`predict` and `simulate` time the same operator, shape, device and framework alike."""

from __future__ import annotations

from pathlib import Path

import pytest

import costmodel
from costmodel.analytic.evaluation import evaluate
from costmodel.calibration.row_prediction import predict_mapped
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_all
from costmodel.measurements.tables import read_tables
from costmodel.workload.operators import Gemm

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
