"""Fits that no longer predict their own rows are listed."""

from __future__ import annotations

from costmodel.calibration.row_prediction import predict
from costmodel.measurements.tables import read_tables
from reports.fits.own_rows import main

SHAPE = "batch,q_heads,kv_heads,head_dim,v_head_dim,q_len,kv_len"
HEAD = f"device,op,dtype_in,dtype_out,kv_dtype,{SHAPE},framework,kernel,time_us"
ROW = "H200_SXM,mla_decode,bf16,bf16,bf16,{batch},{heads},1,576,512,1,{keys},sglang 0.5.14,flash_attention,{time}"
SIZES = [(batch, heads, keys) for batch in (4, 64) for heads in (8, 64, 128) for keys in (512, 4096)]


def test_rows_as_the_fit_has_them_are_nothing_and_slower_ones_are_listed(tmp_path, capsys):
    def table(times, name):
        rows = (ROW.format(batch=b, heads=h, keys=k, time=t) for (b, h, k), t in zip(SIZES, times, strict=True))
        folder = tmp_path / name
        folder.mkdir()
        (folder / "rows.csv").write_text("\n".join([HEAD, *rows]) + "\n", encoding="utf-8")
        return folder

    times = predict(read_tables(table([1.0] * len(SIZES), "asked")), is_own=True).seconds * 1e6
    assert main([str(table(times, "same")), "--every", "1"]) == 0
    assert capsys.readouterr().out == "every fit predicts its own rows\n"
    assert main([str(table(times * 1.3, "slower")), "--every", "1"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split()[:3] == ["h200-sxm/mla-sglang", "mla_decode/bf16", str(len(SIZES))]
    assert "+26.2 %" in line
