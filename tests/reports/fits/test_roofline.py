"""Measured over predicted times, and the calibration file that is written from them."""

from __future__ import annotations

import numpy as np
import pytest
from small_world import write

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.fitting.interval_width import groups
from costmodel.measurements.row_group import ExcludedRows
from costmodel.schema.files import validate
from reports.fits.roofline import Ratios, main, measured_over_roofline, render

ROW = "device,op,sub_op,dtype_in,m,n,time_us\n"


def test_a_stream_at_half_the_bandwidth_takes_twice_the_roofline(table, catalogue):
    framework = default_framework()
    moved = 1e9 * 4
    measured = (2 * moved / 2e12 + 2 * framework.launch) * 1e6
    rows = table({"op": "elementwise", "sub_op": "layernorm", "m": 1e6, "n": 1e3, "time_us": measured})
    (ratios,), left_out = measured_over_roofline(rows, framework, catalogue)
    assert ratios.values[0] == pytest.approx(2.0, rel=1e-9)
    assert ratios.predicted[0] == pytest.approx(measured / 2e6, rel=1e-9)
    assert left_out == []


def test_kernels_that_are_launched_together_pay_one_launch(table, catalogue):
    sizes = {"batch": 1, "q_heads": 8, "kv_heads": 8, "head_dim": 128, "v_head_dim": 128, "q_len": 1, "kv_len": 64}
    call = sizes | {"op": "attention_decode_skewed", "batch2": 1, "q2_len": 1, "kv2_len": 64}
    framework = default_framework()
    (alone,), _ = measured_over_roofline(table(sizes | {"op": "attention_decode"}), framework, catalogue)
    (both,), _ = measured_over_roofline(table(call), framework, catalogue)
    assert both.predicted[0] == pytest.approx(2 * alone.predicted[0] - framework.launch, rel=1e-9)


def test_few_rows_join_the_next_shorter_group():
    seconds = np.concatenate([np.full(40, 5e-6), np.full(40, 5e-4), np.full(3, 5e-3)])
    found = groups(seconds)
    assert [len(rows) for rows in found] == [40, 43]
    assert sorted(np.concatenate(found).tolist()) == list(range(83))


def test_the_written_file_is_valid_the_same_each_time_and_says_what_was_left_out(tmp_path):
    values = np.linspace(1.0, 2.0, 101)
    ratios = [Ratios("gemm", "chip", np.arange(101), values, np.full(101, 2e-5))]
    left_out = [ExcludedRows("gemm", "a reason", np.arange(5))]
    text = render(ratios, left_out)
    assert text == render(ratios, left_out)
    assert "low: 1.1, median: 1.5, high: 1.9, rows: 101" in text
    assert "5, a reason." in " ".join(text.split())
    assert validate(write(tmp_path, "roofline.yaml", text)) == []


def test_the_command_writes_a_calibration_that_predictions_read(tmp_path, capsys):
    write(tmp_path, "tables/a.csv", ROW + "A100_SXM4_80GB,elementwise,add,fp32,1000000,1000,7000\n")
    output = tmp_path / "hardware/calibrations/roofline.yaml"
    output.parent.mkdir(parents=True)
    main([str(tmp_path / "tables"), "--output", str(output)])
    printed = capsys.readouterr().out
    assert "elementwise" in printed
    assert str(tmp_path) not in output.read_text()
    calibration = load_calibration("mi300x", "default", [tmp_path])
    assert [name for name in calibration.families if not name.startswith(("composition_", "power_"))] == ["elementwise"]
    assert calibration.family("elementwise").spread.median[0] == pytest.approx(7e-3 / (12e9 / 2.039e12), rel=0.01)
