"""Reading measurement tables: units, joins, and every way in which a file can be wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from small_world import write

from costmodel.errors import MeasurementError
from costmodel.measurements.raw_tables import MOST_COLUMNS
from costmodel.measurements.row_mapping import OPERATIONS
from costmodel.measurements.tables import NUMBERS, TEXTS, read_tables

PAGE = Path(__file__).parents[3] / "docs" / "measurements.md"
HEADER = "row_id,device,op,dtype_in,m,n,k,time_us,flag,meta_id\n"


def problem_of(path):
    with pytest.raises(MeasurementError) as caught:
        read_tables(path)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_times_are_seconds_and_blanks_are_nan(tmp_path):
    table = read_tables(
        write(tmp_path, "t.csv", HEADER + "1,CHIP,gemm,bf16,8,,16,12.5,,\n2,CHIP,gemm,bf16,8,4,16,-1,,\n")
    )
    assert len(table) == 2
    assert table.seconds[0] == pytest.approx(12.5e-6)
    assert np.isnan(table.seconds[1])
    assert table.number("k").tolist() == [16.0, 16.0]
    assert np.isnan(table.number("n")[0])
    assert np.isnan(table.number("kv_len")).all()
    assert table.text("sub_op").tolist() == ["", ""]


def test_a_folder_is_read_whole_and_joined_with_meta(tmp_path):
    write(tmp_path, "meta.csv", 'meta_id,source_id,framework,kernel,timing,notes\n3,s,vllm,cublas,events,"a, b"\n')
    write(tmp_path, "calibration/A__gemm.csv", HEADER + "1,CHIP,gemm,bf16,8,4,16,1,,3\n")
    write(tmp_path, "calibration/B__gemm.csv", HEADER + "2,CHIP,gemm,bf16,8,4,16,1,,3\n")
    table = read_tables(tmp_path)
    assert table.text("row_id").tolist() == ["1", "2"]
    assert table.text("kernel").tolist() == ["cublas", "cublas"]
    assert table.text("notes")[0] == "a, b"


def test_a_table_that_names_its_own_kernel_keeps_it(tmp_path):
    write(tmp_path, "meta.csv", "meta_id,framework,kernel,timing,notes\n3,vllm,cublas,events,\n")
    text = "device,op,dtype_in,time_us,meta_id,kernel\nCHIP,gemm,bf16,1,3,mine\n"
    table = read_tables(write(tmp_path, "t.csv", text))
    assert (table.text("kernel")[0], table.text("framework")[0]) == ("mine", "vllm")


def test_a_table_has_as_many_columns_as_are_allowed_and_no_more(tmp_path):
    wide = [HEADER.strip(), *(f"x{number}" for number in range(MOST_COLUMNS - HEADER.count(",") - 1))]
    row = "1,CHIP,gemm,bf16,8,4,16,1,," + "," * (len(wide) - 1)
    assert len(read_tables(write(tmp_path, "t.csv", ",".join(wide) + f"\n{row}\n"))) == 1
    assert "2,001 columns" in problem_of(write(tmp_path, "u.csv", ",".join([*wide, "y"]) + f"\n{row},\n")).message


def test_a_missing_column_is_named_with_what_it_may_be_called(tmp_path):
    path = write(tmp_path, "t.csv", "device,op,dtype_in,time_ms\nCHIP,gemm,bf16,1\n")
    problem = problem_of(path)
    assert (problem.field, problem.location.line) == ("time_us", 1)
    assert "time_ms" in problem.hint


@pytest.mark.parametrize(
    ("row", "field", "said"),
    [
        ("2,CHIP,gemm,bf16,eight,4,16,1,,", "m", "'eight' is not a number"),
        ("2,CHIP,gemm,bf16,nan,4,16,1,,", "m", "'nan' is not a number"),
        ("2,CHIP,gemm,bf16,-8,4,16,1,,", "m", "'-8' is impossible"),
        ("2,CHIP,gemm,bf16,inf,4,16,1,,", "m", "'inf' is impossible"),
        ("2,CHIP,gemm,bf16,8,4,16,0,,", "time_us", "'0' is no time"),
        ("2,CHIP,gemm,bf16,8,4,16,,,", "time_us", "'' is no time"),
        ("2,,gemm,bf16,8,4,16,1,,", "device", "is blank"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_found_with_its_line(tmp_path, row, field, said):
    problem = problem_of(write(tmp_path, "t.csv", f"{HEADER}1,CHIP,gemm,bf16,8,4,16,1,,\n{row}\n"))
    assert (problem.location.line, problem.field, problem.message) == (3, field, said)


def test_a_file_that_is_cut_off_in_a_row_is_refused(tmp_path):
    problem = problem_of(write(tmp_path, "t.csv", HEADER + "1,CHIP,gemm,bf16,8,4,16,1,,\n2,CHIP,gemm,bf"))
    assert problem.location.line == 3
    assert problem.message == "has 4 values for 10 columns"


@pytest.mark.parametrize("text", ["", HEADER])
def test_a_file_without_rows_is_refused(tmp_path, text):
    assert problem_of(write(tmp_path, "t.csv", text)).message == "holds no row"


@pytest.mark.parametrize("text", ['{"device": "CHIP", "m": 8}\n', '[{"device": "CHIP"}]\n'])
def test_rows_as_json_are_told_what_a_table_is(tmp_path, text):
    problem = problem_of(write(tmp_path, "t.jsonl", text))
    assert problem.message == "is JSON, and a table is CSV or Parquet"
    assert "header line" in problem.hint


def test_a_row_whose_meta_id_is_unknown_is_refused(tmp_path):
    write(tmp_path, "meta.csv", "meta_id,framework,kernel,timing,notes\n3,vllm,cublas,events,\n")
    problem = problem_of(write(tmp_path, "t.csv", HEADER + "1,CHIP,gemm,bf16,8,4,16,1,,9\n"))
    assert (problem.location.line, problem.field) == (2, "meta_id")


def test_a_missing_file_and_an_empty_folder_are_measurement_errors(tmp_path):
    assert problem_of(tmp_path / "none.csv").message == "does not exist"
    assert problem_of(tmp_path).message == "holds no measurement table"


def test_a_huge_table_is_refused_with_its_size(tmp_path):
    path = tmp_path / "huge.csv"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)
    assert "100 MiB" in problem_of(path).message


@pytest.mark.parametrize("column", ["time_ms", "latency", "Latency_ms", "duration_us", "time", "elapsed_s", "time_sec"])
def test_a_time_in_another_column_names_the_schemas_own(tmp_path, column):
    problem = problem_of(write(tmp_path, "t.csv", f"device,op,dtype_in,{column}\nCHIP,gemm,bf16,1\n"))
    assert (problem.field, problem.location.line) == ("time_us", 1)
    assert f"`{column}` (column 4) is no column" in problem.message
    assert problem.hint == f"convert `{column}` to microseconds, named `time_us`"


@pytest.mark.parametrize(("column", "field"), [("latency", "time_us"), ("size_mb", "bytes"), ("bytes_KiB", "bytes")])
def test_two_units_of_one_quantity_are_refused(tmp_path, column, field):
    text = f"device,op,dtype_in,time_us,bytes,{column}\nCHIP,all_reduce,bf16,1,8,1\n"
    problem = problem_of(write(tmp_path, "t.csv", text))
    assert (problem.field, problem.hint) == (field, f"keep `{field}` alone")


def test_rates_and_earlier_predictions_are_no_times(tmp_path):
    text = "device,op,dtype_in,time_us,achieved_tflops,timing,predicted_us,low_us\nCHIP,gemm,bf16,1,2,x,3,4\n"
    assert len(read_tables(write(tmp_path, "t.csv", text))) == 1


def test_a_table_to_predict_needs_no_time_and_has_none_in_another_unit(tmp_path):
    table = read_tables(write(tmp_path, "t.csv", "device,op,dtype_in\nCHIP,gemm,bf16\n"), timed=False)
    assert np.isnan(table.seconds[0])
    with pytest.raises(MeasurementError, match=r"u.csv:1: time_us: `latency` \(column 4\) is no column"):
        read_tables(write(tmp_path, "u.csv", "device,op,dtype_in,latency\nCHIP,gemm,bf16,1\n"), timed=False)


@pytest.mark.parametrize(
    ("header", "cells", "field"),
    [
        ("m,n,k", "8.5,16,16", "m"),
        ("m,n,k", "nan,16,16", "m"),
        ("m,n,k,time_us", "8,16,16,nan", "time_us"),
        ("m,n,k,time_us", "8,16,16,0", "time_us"),
        ("size_kb", "8", "bytes"),
    ],
)
def test_a_table_to_predict_is_refused_as_one_to_evaluate_is(tmp_path, header, cells, field):
    path = write(tmp_path, "t.csv", f"device,op,dtype_in,{header}\nCHIP,gemm,bf16,{cells}\n")
    with pytest.raises(MeasurementError) as caught:
        read_tables(path, timed=False)
    (problem,) = caught.value.problems
    assert problem.field == field


def test_a_table_to_predict_may_leave_times_blank(tmp_path):
    path = write(tmp_path, "t.csv", "device,op,dtype_in,time_us\nCHIP,gemm,bf16,\nCHIP,gemm,bf16,2\n")
    assert np.isnan(read_tables(path, timed=False).seconds).tolist() == [True, False]


def test_lines_count_quoted_line_breaks(tmp_path):
    text = 'device,op,dtype_in,m,time_us,notes\nCHIP,gemm,bf16,8,1,"two\nlines"\nCHIP,gemm,bf16,x,1,\n'
    problem = problem_of(write(tmp_path, "t.csv", text))
    assert (problem.location.line, problem.message) == (4, "'x' is not a number")


def test_rows_know_their_file_and_line(tmp_path):
    write(tmp_path, "a.csv", HEADER + "1,CHIP,gemm,bf16,8,4,16,1,,\n2,CHIP,gemm,bf16,8,4,16,2,,\n")
    write(tmp_path, "b.csv", HEADER + "3,CHIP,gemm,bf16,8,4,16,3,,\n")
    table = read_tables(tmp_path)
    assert [str(table.location(row)).rpartition("/")[2] for row in range(3)] == ["a.csv:2", "a.csv:3", "b.csv:2"]
    assert str(table.take(np.array([2])).location(0)).endswith("b.csv:2")


@pytest.mark.parametrize(
    ("cell", "mask"), [("0", "0"), ("1", "1"), ("True", "1"), ("false", "0"), ("0.0", "0"), ("", "")]
)
def test_causal_masks_are_read_however_they_are_spelt(tmp_path, cell, mask):
    text = f"device,op,dtype_in,time_us,causal\nCHIP,attention_prefill,bf16,1,{cell}\n"
    assert read_tables(write(tmp_path, "t.csv", text)).text("causal").tolist() == [mask]


def test_a_causal_mask_that_is_neither_is_an_error(tmp_path):
    problem = problem_of(write(tmp_path, "t.csv", "device,op,dtype_in,time_us,causal\nCHIP,x,bf16,1,2\n"))
    assert (problem.location.line, problem.field, problem.message) == (2, "causal", "'2' is neither 0 nor 1")


def test_a_file_that_is_cut_off_in_a_quoted_cell_is_refused(tmp_path):
    problem = problem_of(write(tmp_path, "t.csv", 'device,op,dtype_in,time_us,notes\nCHIP,gemm,bf16,1,"cut'))
    assert "cut off" in problem.hint


def test_a_column_that_stands_twice_is_named(tmp_path):
    problem = problem_of(write(tmp_path, "t.csv", "device,op,dtype_in,time_us,m,m\nCHIP,gemm,bf16,1,2,3\n"))
    assert (problem.field, problem.message) == ("m", "the column stands twice")


def test_parquet_holds_the_same_as_csv(tmp_path):
    polars = pytest.importorskip("polars", reason="Parquet needs polars")
    columns = {"device": ["CHIP"] * 2, "op": ["gemm"] * 2, "dtype_in": ["bf16"] * 2, "m": [8.0, None],
               "n": [4, 5], "time_us": [12.5, -1.0], "causal": [False, True], "meta_id": [3.0, None]}  # fmt: skip
    polars.DataFrame(columns).write_parquet(tmp_path / "t.parquet")
    write(tmp_path, "meta.csv", "meta_id,framework,kernel,timing,notes\n3,vllm,cublas,events,\n")
    table = read_tables(tmp_path)
    assert table.seconds[0] == pytest.approx(12.5e-6)
    assert np.isnan(table.seconds[1])
    assert np.isnan(table.number("m")[1])
    assert table.text("causal").tolist() == ["0", "1"]
    assert table.text("framework").tolist() == ["vllm", ""]


def test_a_parquet_file_that_is_cut_off_is_refused(tmp_path):
    polars = pytest.importorskip("polars", reason="Parquet needs polars")
    polars.DataFrame({"device": ["CHIP"]}).write_parquet(tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in problem_of(tmp_path / "t.parquet").message


@pytest.mark.core
def test_without_polars_parquet_is_one_error_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    problem = problem_of(tmp_path / "t.parquet")
    assert problem.message == "reading Parquet needs polars, which is not installed"
    assert "pip install 'costmodel[sweep]'" in problem.hint


NCCL = "framework,version,device,op_name,kernel_source,nccl_dtype,num_gpus,message_size,latency,system,file\n"
PARQUET = "a100_sxm/comm/nccl/2.27.3/nccl_perf.parquet"


def test_a_table_of_aiconfigurator_s_nccl_runs_is_read_as_it_is(tmp_path):
    rows = f"TRTLLM,2.27.3,NVIDIA A100-SXM4-80GB,alltoall,NCCL,half,4,256,0.00898,a100_sxm,{PARQUET}\n"
    rows += f",,,all_gather,NCCL,int8,8,1024,0.5,a100_sxm,{PARQUET}\n"
    table = read_tables(write(tmp_path, "nccl.csv", NCCL + rows))
    assert table.text("device").tolist() == ["NVIDIA A100-SXM4-80GB"] * 2
    assert table.text("op").tolist() == ["all_to_all", "all_gather"]
    assert table.number("bytes").tolist() == [512.0, 1024.0]
    assert table.number("world_size").tolist() == [4.0, 8.0]
    assert table.seconds == pytest.approx([8.98e-6, 5e-4])
    assert set(table.text("framework")) == {"nccl 2.27.3"}


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        (f"T,2,CHIP,all_gather,NCCL,half,4,many,0.1,s,{PARQUET}", "message_size", "'many' is not a number"),
        (f"T,2,CHIP,all_gather,NCCL,half,4,1,x,s,{PARQUET}", "latency", "'x' is not a number"),
        (f"T,2,CHIP,all_gather,NCCL,fp4,4,1,1,s,{PARQUET}", "nccl_dtype", "'fp4' is unknown"),
        (f"T,2,,all_gather,NCCL,half,4,1,1,s,{PARQUET}", "system", "'s' is unknown"),
    ],
)
def test_a_cell_of_such_a_table_that_means_nothing_has_its_place(tmp_path, row, field, message):
    problem = problem_of(write(tmp_path, "nccl.csv", NCCL + row + "\n"))
    assert (problem.location.line, problem.field) == (2, field)
    assert message in problem.message


def test_every_missing_column_is_named_at_once(tmp_path):
    problem = problem_of(write(tmp_path, "t.csv", "device,m\nCHIP,8\n"))
    assert problem.field == "op, dtype_in, time_us"


def test_the_page_of_tables_lists_every_column_and_operation():
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in (*TEXTS, *NUMBERS, "time_us", *OPERATIONS) if f"`{name}`" not in page] == []
