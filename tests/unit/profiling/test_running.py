"""A whole run of the harness on a pretended H100: its budget, its order, its failures, kills, and readings."""

from __future__ import annotations

import csv
import json
from collections import Counter

import numpy as np
import pytest
from pretended_gpu import Ended, OneRank, PretendedGpu

from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import read_tables
from costmodel.profiling.board_log import BoardLog
from costmodel.profiling.failures import LATER
from costmodel.profiling.running import ProfileRequest, run_on
from costmodel.profiling.shapes import ProfileLimits, shapes

FIRST = 500  # rows of a run of several thousand
CHEAP = ("elementwise", "launch", "optimizer")


def profile(tmp_path, gpu, minutes=1.0, suites=(), **options):
    request = ProfileRequest("cuda", suites, 60.0 * minutes, tmp_path / "mine.csv", **options)
    gpu.clock.seconds = 0.0
    return run_on(gpu, request, OneRank(), lambda rows: np.full(len(rows), 0.3), lambda _: None, lambda _: None)


def rows(tmp_path):
    with (tmp_path / "mine.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_most_of_the_budget_is_spent_on_timing_and_first_on_products_and_attention_both_ways(tmp_path):
    run = profile(tmp_path, PretendedGpu(), minutes=1.5)
    assert run.timing >= 0.6
    assert run.new > 750
    leading = Counter()
    for row in rows(tmp_path)[:FIRST]:
        leading[row["op"], row["sub_op"], row["dtype_in"], row["backend"]] += 1
    for family in (
        ("gemm", "", "bf16", ""), ("gemm", "dgrad", "bf16", ""), ("gemm_wgrad", "", "bf16", ""),
        ("attention_prefill", "", "bf16", "flash"), ("attention_prefill", "", "bf16", "cudnn-9.10.2"),
        ("attention_backward", "", "bf16", "flash"), ("grouped_gemm", "", "bf16", ""),
        ("gemm", "", "fp8_e4m3", "tensor_fast"), ("gemm", "", "fp8_e4m3", "row_fast"),
        ("gemm", "", "fp8_e4m3_blk128", "block"),
    ):  # fmt: skip
        assert leading[family] >= 20, family


def test_a_plan_that_takes_long_is_paid_from_the_budget_of_its_family(tmp_path):
    profile(tmp_path, PretendedGpu(), minutes=1.0, suites=("attention",))
    counts = Counter(row["backend"] for row in rows(tmp_path) if row["op"] == "attention_prefill")
    assert counts["flash"] > 2 * counts["cudnn-9.10.2"] >= 40


def test_formats_are_those_that_models_use_or_those_asked_for(tmp_path):
    profile(tmp_path, PretendedGpu(), minutes=0.2, suites=("gemm",))
    fp8 = [row for row in rows(tmp_path) if row["dtype_in"].startswith("fp8")]
    assert 0.3 < len(fp8) / len(rows(tmp_path)) < 0.9
    (tmp_path / "mine.csv").unlink()
    profile(tmp_path, PretendedGpu(), minutes=0.1, suites=("elementwise",), dtypes=("fp16",))
    assert {row["dtype_in"] for row in rows(tmp_path) if row["op"] == "elementwise" and row["sub_op"] != "copy"} <= {
        "fp16", "fp32"
    }  # fmt: skip


def test_a_device_with_fp4_has_products_of_it_and_their_peak(tmp_path):
    gpu = PretendedGpu(formats=("bf16", "fp8_e4m3", "fp8_e4m3_blk128", "nvfp4", "fp16", "fp32"))
    run = profile(tmp_path, gpu, minutes=0.5, suites=("gemm", "attention", "elementwise"))
    fp4 = [row for row in rows(tmp_path) if row["dtype_in"] == "nvfp4"]
    assert len(fp4) >= 20
    assert {(row["op"], row["dtype_out"], row["backend"]) for row in fp4} == {("gemm", "bf16", "block16")}
    text = run.device_file.read_text()
    assert "scaling: native" in text
    table = read_tables(tmp_path / "mine.csv")
    mapped, _ = map_rows(table, Catalogue([tmp_path / "mine"]))
    assert {part.operators[0].variant for part in mapped if table.text("dtype_in")[part.rows[0]] == "nvfp4"} == {"fp4"}
    (tmp_path / "mine.csv").unlink()
    profile(tmp_path, PretendedGpu(), minutes=0.2, suites=("gemm",))
    assert not [row for row in rows(tmp_path) if row["dtype_in"] == "nvfp4"]


def test_vllms_experts_are_rows_of_vllm_where_it_is_installed(tmp_path):
    versions = {"torch": "2.11.0", "vllm": "0.24.0"}
    profile(tmp_path, PretendedGpu(versions=versions), minutes=0.3, suites=("moe",))
    counts = Counter((row["framework"], row["backend"]) for row in rows(tmp_path) if row["op"] == "moe_layer")
    assert set(counts) == {("torch 2.11.0", "grouped_mm_layer"), ("vllm 0.24.0", "triton-vllm")}
    assert min(counts.values()) >= 20


FAULTS = (
    AssertionError("rows are a multiple of 16"), KeyError("sm_90a"), ImportError("no compiler"), OSError("nvcc"),
    RuntimeError("CUDA error"), NotImplementedError("format"), TypeError("scales"), ZeroDivisionError("x"),
)  # fmt: skip


def order(tmp_path):
    gpu = PretendedGpu()
    profile(tmp_path, gpu, minutes=0.15, suites=CHEAP)
    return [shape.row_id for shape in gpu.built]


def test_failures_are_listed_skipped_and_lose_no_other_row(tmp_path):
    every = order(tmp_path / "calm")
    faults = {row: FAULTS[place % len(FAULTS)] for place, row in enumerate(every[20::3][:100])}
    gpu = PretendedGpu(faults=faults)
    run = profile(tmp_path, gpu, minutes=0.3, suites=CHEAP)
    assert len(faults) == 100
    failed = set(run.failed)
    assert failed <= set(faults)
    assert len(failed) > 60
    measured = {row["row_id"] for row in rows(tmp_path)}
    assert not measured & failed
    aside = json.loads((tmp_path / "mine.json").read_text())
    assert set(aside["failed"]) == failed
    gpu.built.clear()
    again = profile(tmp_path, gpu, minutes=0.05, suites=CHEAP)
    assert failed <= set(again.failed)
    assert not {shape.row_id for shape in gpu.built} & (measured | failed)


OUT_OF_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_kernel_that_lacked_memory_is_tried_again_later_in_the_same_run(tmp_path):
    every = order(tmp_path / "calm")
    victims = every[80:83]  # behind the probes
    gpu = PretendedGpu(passing={victim: [OUT_OF_MEMORY] for victim in victims})
    run = profile(tmp_path, gpu, minutes=0.15, suites=CHEAP)
    table = [row["row_id"] for row in rows(tmp_path)]
    assert set(victims) <= set(table)
    assert all(table.index(victim) >= 80 + LATER - 3 for victim in victims)
    assert gpu.checked == victims  # memory was given back before anything else ran
    assert run.failed == {}


def test_what_fails_twice_for_want_of_memory_is_listed_and_tried_again_by_the_next_run(tmp_path):
    victim = order(tmp_path / "calm")[25]
    gpu = PretendedGpu(passing={victim: [OUT_OF_MEMORY] * 3})
    first = profile(tmp_path, gpu, minutes=0.15, suites=CHEAP)
    assert first.failed == {victim: "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"}
    assert gpu.passing[victim] == [OUT_OF_MEMORY]  # twice a run, however long that is
    second = profile(tmp_path, gpu, minutes=0.15, suites=CHEAP)
    assert second.failed == {}
    assert victim in {row["row_id"] for row in rows(tmp_path)}
    assert profile(tmp_path, gpu, minutes=0.02, suites=CHEAP).failed == {}


def test_kernels_that_lack_memory_do_not_end_their_family(tmp_path):
    every = order(tmp_path / "calm")
    family = [row for row in every if "/adamw/" in row]
    gpu = PretendedGpu(passing={row: [OUT_OF_MEMORY] for row in family[:6]})
    run = profile(tmp_path, gpu, minutes=0.3, suites=("optimizer",))
    assert run.failed == {}
    assert set(family) <= {row["row_id"] for row in rows(tmp_path)}


def test_a_kernel_that_no_graph_holds_keeps_its_time(tmp_path):
    calm = PretendedGpu()
    profile(tmp_path / "calm", calm, minutes=0.1, suites=("elementwise",))
    short = next(row for row in rows(tmp_path / "calm") if row["graph_us"] and row["op"] == "elementwise")
    shape = next(shape for shape in calm.built if shape.row_id == short["row_id"])
    gpu = PretendedGpu()
    gpu.watch.uncaptured = frozenset({calm.build(shape).seconds})
    run = profile(tmp_path, gpu, minutes=0.1, suites=("elementwise",))
    row = next(row for row in rows(tmp_path) if row["row_id"] == short["row_id"])
    assert float(row["time_us"]) == pytest.approx(float(short["time_us"]), rel=0.02)
    assert row["graph_us"] == ""
    assert "during capture" in run.uncaptured[short["row_id"]]
    assert short["row_id"] in gpu.checked
    assert run.failed == {}
    assert json.loads((tmp_path / "mine.json").read_text())["uncaptured"] == run.uncaptured


def test_ten_kills_lose_no_row_and_an_innocent_kernel_is_measured_later(tmp_path):
    before: list[str] = []
    victims = []
    for kill in range(10):
        with pytest.raises(Ended) as ended:
            profile(tmp_path, PretendedGpu(ends_at=(1, 2, 23)[kill % 3]), suites=CHEAP)
        victims.append(str(ended.value))
        now = [row["row_id"] for row in rows(tmp_path)]
        assert now[: len(before)] == before
        before = now
    profile(tmp_path, PretendedGpu(), suites=CHEAP)
    measured = {row["row_id"] for row in rows(tmp_path)}
    assert set(victims) <= measured
    assert len(measured) == len(rows(tmp_path))


def test_a_kernel_that_keeps_ending_the_process_is_left_out(tmp_path):
    victim = order(tmp_path / "calm")[30]
    gpu = PretendedGpu(ends={victim})
    for _ in range(3):
        with pytest.raises(Ended):
            profile(tmp_path, gpu, suites=CHEAP)
    run = profile(tmp_path, gpu, suites=CHEAP)
    assert "ended while it ran" in run.failed[victim]
    assert run.new > 30


def test_failures_survive_a_kill_of_the_next_run(tmp_path):
    every = order(tmp_path / "calm")
    gpu = PretendedGpu(faults={every[25]: KeyError("sm_90a")})
    profile(tmp_path, gpu, minutes=0.1, suites=CHEAP)
    with pytest.raises(Ended):
        profile(tmp_path, PretendedGpu(ends_at=5), suites=CHEAP)
    run = profile(tmp_path, PretendedGpu(), minutes=0.02, suites=CHEAP)
    assert run.failed[every[25]] == "KeyError: 'sm_90a'"


def test_a_family_none_of_which_runs_costs_three_tries(tmp_path):
    limits = ProfileLimits({"bf16": 1e15}, 3e12, 5e9, 0.02, versions={"torch": "2.11.0"}, cudnn="9.10.2", hopper=True)
    missing = AttributeError("module 'torch' has no attribute '_grouped_mm'")
    faults = {shape.row_id: missing for shape in shapes(("grouped_gemm", "moe"), limits)}
    run = profile(tmp_path, PretendedGpu(faults=faults), minutes=0.3, suites=("grouped_gemm", "moe", "optimizer"))
    assert 9 <= len(run.failed) <= 16  # four families
    assert run.new > 20


def test_what_the_board_did_stands_in_the_row_it_was_read_in(tmp_path):
    path = tmp_path / "board.csv"
    calm, capped = "1980,300,60,0x0", "1410,690,70,0x4"
    path.write_text("".join(f"{t / 100:.4f},{calm if t < 500 else capped}\n" for t in range(3000)))
    profile(tmp_path, PretendedGpu(board=BoardLog(path, lambda: ("", ""))), minutes=0.3, suites=CHEAP)
    table = rows(tmp_path)
    assert table[0]["clock_mhz"] == "1980"
    assert table[0]["throttle"] == ""
    assert (table[-1]["clock_mhz"], table[-1]["power_w"], table[-1]["throttle"]) == ("1410", "690.0", "power_cap")
    assert sum(row["clock_mhz"] == "" for row in table) == 0


def test_loads_of_seconds_are_context_and_come_before_the_rest(tmp_path):
    profile(tmp_path, PretendedGpu(), minutes=1.2, suites=CHEAP, sustained=True)
    loads = [row for row in rows(tmp_path) if row["load"]]
    assert {row["load"] for row in loads} == {"random", "zeros", "half_duty"}
    assert {row["dtype_in"] for row in loads if row["op"] == "gemm"} == {"bf16", "fp8_e4m3", "fp8_e4m3_blk128"}
    assert {row["tier"] for row in loads} == {"secondary"}
    assert {row["timing"] for row in loads} == {"sustained_5s"}


def test_a_short_kernel_has_its_time_in_a_graph_beside_the_other(tmp_path):
    profile(tmp_path, PretendedGpu(), minutes=0.1, suites=("elementwise",))
    for row in rows(tmp_path):
        if row["op"] == "elementwise" and not row["load"]:
            assert (row["graph_us"] != "") == (float(row["time_us"]) < 10.0), row["row_id"]
            assert float(row["host_us"]) == pytest.approx(3.0)
            assert row["queued"] == "1"
