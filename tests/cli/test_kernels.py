"""`predict`, `evaluate` and `calibrate`: from a table of measurements to a scenario that is priced by it."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from few_folds import few_folds  # noqa: F401  for all tests
from small_world import FILES, edit, write
from synthetic import stream_table

ROWS_TO_FIT = 120
ALONE = "architecture: test\naliases: [CHIP]\ncalibration: {inherit: null}"  # no device lends it a fit
ADDED = ["predicted_us", "low_us", "high_us", "basis", "why"]
ROWS = '''note,m,n,k,op,dtype_in,device,sub_op,framework,kernel,mine
"a, ""b""",4096,4096,4096,gemm,bf16,CHIP,,nobody 1.0,unheard,x
second,64,64,64,gemm,bf16,CHIP,,,,
third,64,64,64,gemm,bf16,UNKNOWN,,,,
fourth,64,64,64,mystery,bf16,CHIP,,,,
fifth,64,64,,elementwise,bf16,CHIP,unheard_of,,,
sixth,1000,4096,,elementwise,bf16,CHIP,silu_and_mul,,,
'''


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the small world, its chip with an alias; it is also the working folder."""
    for name, text in FILES.items():
        write(tmp_path, name, text)
    edit(tmp_path, "hardware/devices/chip.yaml", "architecture: test", ALONE)
    edit(tmp_path, "workloads/small.yaml", "    sequence: 128", "    sequence: 128\n    framework: default")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COSTMODEL_PATH", raising=False)
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_keep_their_order_and_every_column(run, world):
    table = write(world, "t.csv", ROWS)
    done = run("predict", table, "--output", "out.csv", "--path", world)
    assert (done.code, done.err) == (0, "note: no operation reads the columns `note` (did you mean `notes`?), `mine`\n")
    before, after = rows_of(table), rows_of(world / "out.csv")
    assert list(after[0]) == [*before[0], *ADDED]
    assert [{name: row[name] for name in before[0]} for row in after] == before
    assert done.out == "wrote 6 rows to out.csv (3 without a prediction, 3 roofline)\n"


def test_unknown_names_are_told_and_what_can_be_predicted_is(run, world):
    run("predict", write(world, "t.csv", ROWS), "--output", "out.csv", "--path", world)
    after = rows_of(world / "out.csv")
    assert [row["why"] for row in after] == [
        "no fit of gemm/bf16 for chip; roofline used",
        "no fit of gemm/bf16 for chip; roofline used",
        "no device file is named or aliased UNKNOWN",
        "the package has no such operator",
        "what element-wise kernel unheard_of reads and writes is unknown",
        "no fit of elementwise/activation for chip; roofline used",
    ]
    for row in after:
        if row["basis"]:
            assert float(row["low_us"]) <= float(row["predicted_us"]) <= float(row["high_us"])
        else:
            assert row["predicted_us"] == row["low_us"] == row["high_us"] == ""


def test_a_rerun_on_its_own_output_replaces_the_predictions(run, world):
    run("predict", write(world, "t.csv", ROWS), "--output", "out.csv", "--path", world)
    first = (world / "out.csv").read_bytes()
    assert run("predict", "out.csv", "--output", "out.csv", "--path", world).code == 0
    assert (world / "out.csv").read_bytes() == first


def test_a_device_stands_in_for_the_rows_own(run, world):
    table = write(world, "t.csv", "op,dtype_in,m,n,k,device\ngemm,bf16,64,64,64,NOBODY\n")
    assert run("predict", table, "--device", "chip", "--output", "out.csv", "--path", world).code == 0
    (row,) = rows_of(world / "out.csv")
    assert (row["device"], row["basis"]) == ("NOBODY", "roofline")
    bare = write(world, "bare.csv", "op,dtype_in,m,n,k\ngemm,bf16,64,64,64\n")
    assert run("predict", bare, "--device", "chip", "--output", "out.csv", "--path", world).code == 0
    done = run("predict", bare, "--output", "none.csv", "--path", world)
    assert (done.code, "bare.csv:1: device: the column is missing" in done.err) == (2, True)
    assert not (world / "none.csv").exists()


def test_a_row_without_a_size_stays_empty_with_the_reason_and_the_others_are_predicted(run, world):
    table = write(world, "t.csv", "op,dtype_in,device,m,n,k\ngemm,bf16,CHIP,1,1,1\ngemm,bf16,CHIP,1,1,\n")
    assert run("predict", table, "--output", "out.csv", "--path", world).code == 0
    full, empty = rows_of(world / "out.csv")
    assert float(full["predicted_us"]) > 0
    assert (empty["predicted_us"], empty["why"]) == ("", "`k` is empty, which the operation needs")


def test_columns_that_no_operation_reads_are_named_once(run, world):
    table = write(world, "t.csv", "op,dtype_in,device,m,n,k,colour,mood\n" + "gemm,bf16,CHIP,1,1,1,red,\n" * 3)
    done = run("predict", table, "--output", "out.csv", "--path", world)
    assert done.err.count("`colour`") == 1
    assert "`colour`, `mood`" in done.err


def test_an_output_that_cannot_be_written_is_an_error(run, world):
    done = run("predict", write(world, "t.csv", ROWS), "--output", "t.csv/out.csv", "--path", world)
    assert done.code == 2
    assert "cannot be written" in done.err


def test_folders_of_an_output_are_made(run, world):
    done = run("predict", write(world, "t.csv", ROWS), "--output", "new/folder/out.csv", "--path", world)
    assert done.code == 0, done.err
    assert len(rows_of(world / "new" / "folder" / "out.csv")) == 6


def test_a_folder_of_tables_is_predicted_as_one(run, world):
    write(world, "t/a.csv", "op,dtype_in,device,m,n,k\ngemm,bf16,CHIP,1,2,3\n")
    write(world, "t/b.csv", "op,dtype_in,device,sub_op,m,n\nelementwise,bf16,CHIP,add,4,5\n")
    assert run("predict", "t", "--output", "out.csv", "--path", world).code == 0
    assert [(row["op"], row["k"], row["sub_op"]) for row in rows_of(world / "out.csv")] == [
        ("gemm", "3", ""), ("elementwise", "", "add"),
    ]  # fmt: skip


def test_parquet_is_written_and_read(run, world):
    polars = pytest.importorskip("polars", reason="Parquet needs polars")
    table = write(world, "t.csv", ROWS)
    assert run("predict", table, "--output", "out.parquet", "--path", world).code == 0
    frame = polars.read_parquet(world / "out.parquet")
    assert frame.columns[-5:] == ADDED
    assert frame["predicted_us"].dtype == polars.Float64
    assert run("predict", "out.parquet", "--output", "again.csv", "--path", world).code == 0
    run("predict", table, "--output", "out.csv", "--path", world)
    assert [row["predicted_us"] for row in rows_of(world / "again.csv")] == [
        row["predicted_us"] for row in rows_of(world / "out.csv")
    ]


@pytest.mark.core
def test_without_polars_a_parquet_output_is_one_error(run, world, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    done = run("predict", write(world, "t.csv", ROWS), "--output", "out.parquet", "--path", world)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "pip install 'costmodel[sweep]'" in done.err


FIT = "hardware/calibrations/chip"
MADE: dict[str, str] = {}  # files of the fit that tests share, and what was printed


def calibrated(run, world):
    """Fit the chip's element-wise kernels, as its default; return what was printed."""
    stream_table(world, "mine.csv", rows=ROWS_TO_FIT)
    if not MADE:
        done = run("calibrate", "mine.csv", "--device", "chip", "--output", f"{FIT}/mine.yaml", "--path", world)
        assert (done.code, done.err) == (0, "")
        MADE.update({file.name: file.read_text() for file in (world / FIT).iterdir()}, printed=done.out)
    for name in MADE.keys() - {"printed"}:
        write(world, f"{FIT}/{name}", MADE[name])
    text = (world / "hardware/devices/chip.yaml").read_text()
    write(
        world,
        "hardware/devices/chip.yaml",
        text.replace("{inherit: null}", "{inherit: null, default: {elementwise: mine}}"),
    )
    return MADE["printed"]


def test_a_calibration_prices_the_scenarios_of_its_device(run, process, world):
    plain = json.loads(run("simulate", "small", "--path", world, "--json").out)["scenarios"]["train"]
    out = calibrated(run, world)
    assert "elementwise/activation" in out
    assert "calibration: {default: {elementwise: mine}}" in out
    fitted = json.loads(process("simulate", "small", "--path", world, "--json").out)["scenarios"]["train"]
    assert plain["basis"]["roofline"] == pytest.approx(1.0)
    assert 0.0 < fitted["basis"]["roofline"] < 1.0
    bases = {line["name"]: line["basis"] for line in fitted["breakdown"]}
    assert bases["ffn activation"] != "roofline"
    assert bases["ffn norm"] == "transferred"  # activations stand nearest
    assert fitted["metrics"]["step_time"] != plain["metrics"]["step_time"]
    low, high = fitted["intervals"]["step_time"]
    assert low <= fitted["metrics"]["step_time"] <= high


def test_strict_is_about_rows_outside_what_was_measured(run, world):
    calibrated(run, world)
    stream_table(world, "inside.csv", rows=20, seed=5)
    done = run("predict", "inside.csv", "--output", "out.csv", "--path", world, "--strict")
    bases = {row["basis"] for row in rows_of(world / "out.csv")}
    assert (done.code, bases <= {"measured", "fitted"}) in ((0, True), (4, False))
    far = "op,sub_op,dtype_in,device,m,n\nelementwise,silu_and_mul,bf16,CHIP,100000000,12288\n"
    write(world, "far.csv", far)
    assert run("predict", "far.csv", "--output", "out.csv", "--path", world).code == 0
    assert run("predict", "far.csv", "--output", "out.csv", "--path", world, "--strict").code == 4
    (row,) = rows_of(world / "out.csv")
    assert (row["basis"], row["why"]) == ("extrapolated", "chip/mine")


def test_evaluate_tells_errors_and_what_it_left_out(run, world):
    calibrated(run, world)
    text = (world / "mine.csv").read_text()
    twice = text + text.splitlines()[1] + "\n" + "900,CHIP,elementwise,silu_and_mul,bf16,60000,12288,,,,1\n"
    write(world, "mine.csv", twice)
    document = json.loads(run("evaluate", "mine.csv", "--path", world, "--json").out)
    assert document["schema"] == "costmodel/evaluation@1"
    (score,) = document["scores"]
    assert (score["device"], score["rows"], score["left_out"]) == ("CHIP", ROWS_TO_FIT, 2)
    assert score["mean"] < 0.05
    assert 0.7 < score["inside"] < 0.9
    assert {one["reason"] for one in document["left_out"]} == {
        "the row stands twice", "faster than device memory gives the bytes that L2 cannot hold",
    }  # fmt: skip
    apart = json.loads(run("evaluate", "mine.csv", "--path", world, "--by", "n", "--json").out)["scores"]
    widths = [int(one["by"]["n"]) for one in apart]
    assert widths == sorted(set(widths))
    assert sum(one["rows"] for one in apart) == ROWS_TO_FIT
    wrong = run("evaluate", "mine.csv", "--path", world, "--by", "kernal")
    assert (wrong.code, "did you mean `kernel`" in wrong.err) == (2, True)
    absent = run("evaluate", "mine.csv", "--path", world, "--by", "window")
    assert (absent.code, absent.err) == (2, "--by: no row states `window`; name a column that the table has\n")
    write(world, "typo.csv", twice.replace("sub_op", "subop", 1))
    assert (
        "no operation reads the columns `subop` (did you mean `sub_op`?)"
        in run("evaluate", "typo.csv", "--path", world).err
    )
    shown = run("evaluate", "mine.csv", "--path", world).out
    assert f"mine.csv:{ROWS_TO_FIT + 2} repeats mine.csv:2" in shown
    assert f"{ROWS_TO_FIT}" in shown


def test_calibrate_reports_as_json(run, world):
    stream_table(world, "mine.csv", rows=60)
    done = run("calibrate", "mine.csv", "--device", "chip", "--output", "m.yaml", "--path", world, "--json")
    document = json.loads(done.out)
    (family,) = document["families"]
    assert (family["family"], family["rows"], set(family["mean"])) == (
        "elementwise/activation", 60, {"roofline", "data", "form", "residual", "near"},
    )  # fmt: skip
    assert (document["too_few"], document["left_out"]) == ({}, [])


@pytest.mark.parametrize("command", ["evaluate", "predict", "calibrate"])
def test_a_table_in_milliseconds_is_refused(run, world, command):
    write(world, "t.csv", "device,op,dtype_in,m,n,k,time_ms\nCHIP,gemm,bf16,8,8,8,1\n")
    more = {"evaluate": [], "predict": ["--output", "o.csv"], "calibrate": ["--device", "chip", "--output", "o.yaml"]}
    done = run(command, "t.csv", *more[command], "--path", world)
    assert done.code == 2
    assert "t.csv:1: time_us: `time_ms` (column 7) is no column of the measurement schema" in done.err
    assert "convert `time_ms` to microseconds, named `time_us`" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (world / "o.csv").exists()


@pytest.mark.parametrize(("scale", "told"), [(1.0, False), (10.0, False), (1e-3, True), (1e3, True)])
def test_times_in_another_unit_than_microseconds_are_asked_about(run, world, scale, told):
    rows = [f"CHIP,gemm,bf16,{m},4096,4096,{scale * 4.6 * m}" for m in (2048, 4096, 8192)]
    write(world, "t.csv", "\n".join(["device,op,dtype_in,m,n,k,time_us", *rows]) + "\n")
    done = run("predict", "t.csv", "--output", "o.csv", "--path", world)
    assert done.code == 0
    assert ("check their unit" in done.err) == told
