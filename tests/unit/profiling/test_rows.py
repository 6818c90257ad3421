"""The table of a run: what a kill leaves, what a later run takes up, and what is no table of the harness."""

from __future__ import annotations

import csv
import re

import pytest
from small_world import write

from costmodel.errors import InputError, MeasurementError
from costmodel.measurements.tables import NUMBERS, TEXTS, read_tables
from costmodel.profiling.device_file import Facts, rates_of, write_device
from costmodel.profiling.rows import COLUMNS, RowTable
from costmodel.profiling.running import probes
from costmodel.profiling.shapes import ProfileLimits, shapes
from costmodel.records import replace
from costmodel.schema.files import load_device, load_node, validate

FACTS = Facts(
    product='Some "CPU"',
    architecture="cpu",
    processors=2,
    clock=2.5e9,
    clock_max=3e9,
    memory=2**34,
    cache=2**25,
    driver="6.1",
    link="memory",
)


def row(identifier: str, **cells: str) -> dict[str, str]:
    usual = {"row_id": identifier, "device": "this-cpu", "op": "gemm", "dtype_in": "fp32", "time_us": "12.5"}
    return usual | {"m": "8", "n": "8", "k": "8"} | cells


def test_rows_are_read_by_the_strict_reader_with_every_column(tmp_path):
    every = shapes([], ProfileLimits({"fp32": 1e12, "bf16": 1e13}, 1e12, 1e9, 1e-2, gpu=True, ranks=2, local=2))
    with RowTable(tmp_path / "t.csv", "this-cpu") as table:
        for shape in every[::37]:
            table.append(shape.columns() | {"device": "this-cpu", "time_us": "3.25", "spread": "0.01", "driver": "1"})
    read = read_tables(tmp_path / "t.csv")
    assert len(read) == len(every[::37])
    assert set(read.text("row_id")) == {shape.row_id for shape in every[::37]}
    assert (read.seconds == 3.25e-6).all()


def test_columns_are_those_of_the_schema_and_few_more():
    assert set(COLUMNS) - {*NUMBERS, *TEXTS} == {
        "time_us", "spread", "repeats", "clock_mhz", "power_w", "driver", "load", "graph_us",
        "host_us", "temperature_c", "throttle",
    }  # fmt: skip


def test_a_second_run_beside_the_first_is_refused_so_that_no_row_is_there_twice(tmp_path):
    path = tmp_path / "t.csv"
    with RowTable(path, "this-cpu") as table:
        table.append(row("a"))
        with pytest.raises(InputError, match="another run writes it"):
            RowTable(path, "this-cpu")
        table.append(row("b"))
    with RowTable(path, "this-cpu") as table:
        assert list(table.measured) == ["a", "b"]
    assert path.read_bytes().count(b"\n") == 3


def test_a_later_run_takes_up_what_is_there(tmp_path):
    path = tmp_path / "t.csv"
    with RowTable(path, "this-cpu") as table:
        table.append(row("a"))
    with RowTable(path, "this-cpu") as table:
        assert list(table.measured) == ["a"]
        table.append(row("b"))
    assert [line.partition(",")[0] for line in path.read_text().splitlines()] == ["row_id", "a", "b"]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_kill_loses_at_most_the_row_in_flight(tmp_path, cut):
    path = tmp_path / "t.csv"
    with RowTable(path, "this-cpu") as table:
        table.append(row("a"))
        table.append(row("b"))
    path.write_bytes(path.read_bytes()[:-cut])
    with RowTable(path, "this-cpu") as table:
        assert list(table.measured) == ["a"]
        table.append(row("b"))
    assert len(read_tables(path)) == 2


def test_a_kill_before_the_header_is_whole_starts_anew(tmp_path):
    path = write(tmp_path, "t.csv", "row_id,dev")
    with RowTable(path, "this-cpu") as table:
        table.append(row("a"))
    assert len(read_tables(path)) == 1


def test_another_table_is_refused_and_left_as_it_is(tmp_path):
    text = "device,op,dtype_in,time_us\nCHIP,gemm,bf16,1\n"
    path = write(tmp_path, "t.csv", text)
    with pytest.raises(MeasurementError, match=r"t\.csv:1: is no table of `costmodel profile`"):
        RowTable(path, "this-cpu")
    assert path.read_text() == text


def test_rows_of_another_device_are_refused_with_their_line(tmp_path):
    with RowTable(tmp_path / "t.csv", "h100-sxm") as table:
        table.append(row("a", device="h100-sxm"))
    with pytest.raises(MeasurementError, match=r"t\.csv:2: is a row of h100-sxm"):
        RowTable(tmp_path / "t.csv", "this-cpu")


def test_a_line_with_too_few_values_is_told(tmp_path):
    path = tmp_path / "t.csv"
    with RowTable(path, "this-cpu") as table:
        table.append(row("a"))
    path.write_text(path.read_text() + "b,this-cpu\n")
    with pytest.raises(MeasurementError, match=rf"t\.csv:3: has 2 values for {len(COLUMNS)} columns"):
        RowTable(path, "this-cpu")


def test_a_folder_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        RowTable(tmp_path / "none" / "t.csv", "this-cpu")


def copied(elements: int, microseconds: float) -> dict[str, str]:
    return row(f"c{elements}", op="elementwise", sub_op="copy", m="1", n=str(elements), time_us=str(microseconds))


ROWS = [
    row("a", m="1000", n="1000", k="1000", time_us="20000"),
    row("b", m="1000", n="1000", k="1000", time_us="10000"),
    row("c", op="gemm_wgrad", dtype_in="bf16", m="1000", n="1000", k="1000", time_us="4000"),
    copied(2**20, 100.0),
    copied(2**25, 10000.0),
]


def test_rates_are_the_highest_that_were_seen():
    found = rates_of(ROWS, FACTS.cache)
    assert found.peaks == pytest.approx({"fp32": 2e11, "bf16": 5e11})
    assert found.memory == pytest.approx((2 * 4 * 2**25 - FACTS.cache) / 10e-3)
    assert found.cache == pytest.approx(2 * 4 * 2**20 / 100e-6)


def test_the_device_file_is_valid_and_no_row_beats_it(tmp_path):
    path = write_device(tmp_path, "this-cpu", FACTS, rates_of(ROWS, FACTS.cache), "t.csv")
    assert path == tmp_path / "hardware/devices/this-cpu.yaml"
    assert list(validate(str(path), [tmp_path])) == []
    device = load_device("this-cpu", [tmp_path])
    assert 2e11 <= device.peak("fp32") <= 2e11 * 1.001
    assert device.device_memory.capacity == pytest.approx(2**34, rel=1e-3)
    assert load_node("this-cpu", [tmp_path]).device.name == "this-cpu"
    assert not re.search(r"/(tmp|work|home)", path.read_text())


def test_a_calibration_that_a_person_named_stays(tmp_path):
    path = write_device(tmp_path, "this-cpu", FACTS, rates_of(ROWS, FACTS.cache), "t.csv")
    own = "calibration:\n  default: {gemm: torch}\n"
    path.write_text(path.read_text() + own)
    write_device(tmp_path, "this-cpu", FACTS, rates_of(ROWS[1:], FACTS.cache), "t.csv")
    assert path.read_text().endswith(own)
    assert path.read_text().count("calibration:") == 1


def test_nothing_is_written_before_peak_and_bandwidth_are_known(tmp_path):
    assert write_device(tmp_path, "this-cpu", FACTS, rates_of(ROWS[:3], FACTS.cache), "t.csv") is None
    assert list(tmp_path.iterdir()) == []


def test_a_row_is_one_line_whatever_a_kernel_is_called(tmp_path):
    with RowTable(tmp_path / "t.csv", "this-cpu") as table:
        table.append(row("a", kernel='torch.mm, "fast"\nsecond line'))
    with (tmp_path / "t.csv").open(newline="") as file:
        (read,) = csv.DictReader(file)
    assert read["kernel"] == 'torch.mm, "fast" second line'


@pytest.mark.parametrize("cache", [2**25, 300 * 2**20])
def test_a_probe_leaves_a_cache_of_any_size_that_the_memory_has_room_beside(cache):
    found = probes("cpu", ("fp32",), replace(FACTS, cache=cache))
    sizes = [4 * shape.size("n") for shape in found if shape.op == "elementwise"]
    assert max(sizes) >= cache
    assert 2 * max(sizes) <= FACTS.memory / 8
