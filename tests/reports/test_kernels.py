"""The evidence of kernel times: the same bytes again, errors pooled by rows, bars by operator."""

from __future__ import annotations

import pytest
from small_world import write
from synthetic import stream_table

from costmodel.fitting.calibrate import calibrate
from costmodel.schema.calibration import AccuracyFile
from costmodel.schema.fit_plan import BarFile, FitPlanFile
from reports.kernels.__main__ import Accuracy, pooled, publish, stated_accuracies

CHIP = """
schema: costmodel/device@1
name: chip
architecture: test
processors: 100
clock: {tensor_reference: 1 GHz, max: 1 GHz}
math:
  bf16: {peak: 1000 TFLOP/s}
  fp32: {peak: 50 TFLOP/s}
memory:
  - {name: hbm, capacity: 80 GB, bandwidth: 2 TB/s}
links: {}
aliases: [CHIP]
"""


def stated(**errors: float) -> AccuracyFile:
    usual = dict.fromkeys(("roofline", "shape_only", "form", "residual", "median", "bias"), 0.5)
    usual |= {"coverage": None, "half_width": None}
    return AccuracyFile.model_construct(held_out="n", groups=9.0, **(usual | errors))


def plan(*bars: tuple[str, list[str], float, float]) -> FitPlanFile:
    made = [
        BarFile.model_construct(device=device, families=families, bar=bar, aim=aim)
        for device, families, bar, aim in bars
    ]
    return FitPlanFile.model_construct(name="x", recipes={}, bars=made)


def test_intervals_are_judged_on_rows_that_no_fit_had_seen():
    known = stated(coverage=0.8, half_width=0.06, median=0.03)
    (found,) = pooled([Accuracy("gpu", "gpu/a", "gemm/bf16", 100.0, known)], plan())
    assert (found.coverage, found.width) == (pytest.approx(0.8), pytest.approx(2.0))
    mixed = [Accuracy("gpu", f"gpu/{name}", "gemm/bf16", 100.0, one) for name, one in (("a", known), ("b", stated()))]
    (unknown,) = pooled(mixed, plan())
    assert (unknown.coverage, unknown.width) == (None, None)


def test_files_of_one_operator_are_averaged_over_their_rows():
    ones = [
        Accuracy("gpu", "gpu/a", "gemm/bf16", 100.0, stated(residual=0.04)),
        Accuracy("gpu", "gpu/b", "gemm/fp16", 300.0, stated(residual=0.08)),
        Accuracy("gpu", "gpu/c", "gemm/fp8", 10.0, stated(residual=0.3, median=0.02)),
        Accuracy("gpu", "gpu/c", "bmm/fp8", 10.0, stated()),
    ]
    found = {
        one.family: one
        for one in pooled(ones, plan(("devices/gpu", ["gemm"], 0.08, 0.06), ("devices/gpu", ["gemm/fp8"], 0.05, 0.01)))
    }
    assert found["gemm"].errors["residual"] == pytest.approx(0.07)
    assert (found["gemm"].rows, found["gemm"].verdict) == (400.0, "bar")
    assert found["gemm/fp8"].counts == 0.02  # the median, of so few rows
    assert (found["gemm/fp8"].verdict, found["bmm/fp8"].verdict) == ("bar", "")


def test_the_shipped_calibrations_state_their_errors():
    found = stated_accuracies()
    assert {one.device for one in found} >= {"a100-sxm-80gb", "h800-sxm", "rtx-4090"}
    assert all(float(one.stated.residual) < 1.0 for one in found)


def test_the_page_has_the_errors_of_files_and_is_the_same_again(tmp_path):
    write(tmp_path, "hardware/devices/chip.yaml", CHIP)
    table = stream_table(tmp_path, "mine.csv", rows=80)
    calibrate([table], "chip", tmp_path / "hardware/calibrations/chip/mine.yaml", [tmp_path])
    *figure, made = publish(tmp_path, [tmp_path])
    assert [path.name for path in figure] == ["held_out.svg", "held_out.png", "held_out.csv"]
    before = made.read_bytes()
    assert b"| chip/mine | elementwise/activation | 80 |" in before
    assert str(tmp_path).encode() not in before
    *_, again = publish(tmp_path, [tmp_path])
    assert again.read_bytes() == before
