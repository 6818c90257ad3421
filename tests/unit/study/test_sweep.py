"""A sweep's plan, its table and its summary, against single evaluations."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.result import PHASES
from costmodel.study.files import STUDY
from costmodel.study.points import read_sweep, write_sweep
from costmodel.study.sweep import plan_sweep

NIC, HBM = "hardware.node.nic.bandwidth", "hardware.memory.hbm.bandwidth"
BATCH, CAPACITY = "scenarios.decode.batch_per_device", "hardware.memory.hbm.capacity"
TWO = (f"{BATCH}=63,64,128,512", f"{CAPACITY}=80GiB,141GB")  # half a micro-batch, two that fit, one that never does
UNEVEN = (
    "no such layout: micro_batches: 63 requests a device are 63 of a tensor- and context-parallel group, not whole "
    "requests for 2 micro-batches"
)

POINTS = Path("points", "part-00000.csv")


def write(folder: Path, workload: costmodel.Workload, *varied: str) -> dict[str, Any]:
    return write_sweep(plan_sweep(workload, varied), folder, form="csv")


def written(folder: Path, workload: costmodel.Workload, *varied: str) -> list[dict[str, str]]:
    write(folder, workload, *varied)
    with (folder / POINTS).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def decode() -> costmodel.Workload:
    return costmodel.load("deepseek_v3", scenarios=["decode"])


def test_the_table_is_the_grid_that_evaluate_gives(decode: costmodel.Workload, tmp_path: Path) -> None:
    rows = written(tmp_path, decode, *TWO)
    grid = decode.evaluate("decode", vary={BATCH: [63, 64, 128, 512], CAPACITY: ["80 GiB", "141 GB"]})
    assert len(rows) == 8
    for row, index in zip(rows, np.ndindex(4, 2), strict=True):
        assert row["fits"] == str(bool(np.asarray(grid.fits)[index])).lower()
        for name in PHASES["decode"][1]:
            if grid.metrics[name] is None:
                assert row[name] == ""
                continue
            expected = float(np.asarray(grid.metrics[name])[index])
            assert (row[name] == "" and np.isnan(expected)) or float(row[name]) == expected


def test_every_row_that_runs_is_what_simulate_gives_with_its_values_set(v3: costmodel.Workload, tmp_path: Path) -> None:
    rows = written(tmp_path, v3, f"{NIC}=200Gbit/s,400Gbit/s", f"{HBM}=3TB/s,5TB/s")
    assert [row["scenario"] for row in rows] == [name for name in v3.scenarios for _ in range(4)]
    for row in rows:
        changes = {NIC: float(row[NIC]), HBM: float(row[HBM])}
        document = costmodel.load("deepseek_v3", set=changes).simulate([row["scenario"]])["scenarios"][row["scenario"]]
        for name, value in document["metrics"].items():
            assert row[name] == "" if value is None else float(row[name]) == pytest.approx(value, rel=1e-9)
        headline = PHASES[document["phase"]][0]
        assert [float(row[f"{headline}_{end}"]) for end in ("low", "high")] == pytest.approx(
            document["intervals"][headline], rel=1e-9
        )


def test_points_that_cannot_run_stay_with_their_reason_and_without_numbers(
    decode: costmodel.Workload, tmp_path: Path
) -> None:
    rows = written(tmp_path, decode, *TWO)
    reasons = [row["reason"] for row in rows]
    layout, memory = UNEVEN, "does not fit in memory"
    assert reasons == [layout, layout, "", "", "", "", memory, memory]
    for row in rows:
        known = [name for name in PHASES["decode"][1] if name != "capital_cost"]  # no server of the cluster has a price
        numbers = [row[name] for name in (*known, "tpot_low", "tpot_high")]
        assert (row["reason"] == "") == (row["fits"] == "true") == all(numbers)
        assert all(numbers) or not any(numbers)
        assert row["verdict"] == ("runs" if row["fits"] == "true" else "cannot run")


def test_a_count_is_written_as_one_and_the_last_axis_runs_fastest(decode: costmodel.Workload, tmp_path: Path) -> None:
    rows = written(tmp_path, decode, *TWO)
    assert [row[BATCH] for row in rows] == ["63", "63", "64", "64", "128", "128", "512", "512"]
    assert [float(row[CAPACITY]) for row in rows] == [80 * 2**30, 141e9] * 4


def test_the_study_says_what_was_asked_and_the_unit_of_every_column(tmp_path: Path) -> None:
    workload = costmodel.load("deepseek_v3", set={"hardware.processors": "120"}, scenarios=["training", "decode"])
    written(tmp_path, workload, f"{NIC}=200Gbit/s..800Gbit/s:3")
    study = json.loads((tmp_path / STUDY).read_text())
    assert (study["schema"], study["workload"], study["points"]) == ("costmodel/sweep@1", "deepseek_v3", 6)
    assert study["changes"] == {"hardware.processors": "120"}
    assert study["axes"] == [
        {"path": NIC, "dimension": "bandwidth", "unit": "B/s", "values": [25e9, 62.5e9, 100e9]}
    ]  # fmt: skip
    assert {name: one["headline"] for name, one in study["scenarios"].items()} == {
        "training": "step_time", "decode": "tpot",
    }  # fmt: skip
    with (tmp_path / POINTS).open() as file:
        assert next(csv.reader(file)) == list(study["columns"])
    units = study["columns"]
    assert (units[NIC], units["step_time"], units["tpot_high"], units["mfu"]) == ("B/s", "s", "s", "1")
    assert (units["tokens_per_second"], units["energy_per_token"], units["scenario"]) == ("token/s", "J", None)


def test_the_same_question_gives_the_same_bytes(decode: costmodel.Workload, tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(tmp_path / name, decode, *TWO)
    for file in (STUDY, POINTS):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_scenarios_without_the_path_are_left_out_with_the_reason(v3: costmodel.Workload) -> None:
    sweep = plan_sweep(v3, (f"{BATCH}=64,128",))
    assert sweep.scenarios == ("decode",)
    assert set(sweep.left_out) == {"training", "prefill", "decode_4k", "decode_ep_bound"}
    assert sweep.left_out["training"] == f"{BATCH}: is not a field of scenario training"


def test_an_axis_of_one_scenario_s_hardware_leaves_the_others_alone(v3: costmodel.Workload) -> None:
    assert plan_sweep(v3, (f"scenarios.training.{NIC}=200Gbit/s",)).scenarios == ("training",)
    assert plan_sweep(v3, ("model.layers.1.ffn.experts=256,512",)).scenarios == v3.scenarios


@pytest.mark.parametrize(
    ("varied", "told"),
    [
        (("hardware.links.nvlinc.bandwidth=1GB/s",), "did you mean `nvlink`?"),
        (("scenarios.decod.batch_per_device=64",), "did you mean `decode`"),
        (("scenarios.decode.batch_per_devic=64",), "did you mean `batch_per_device`?"),
        (("batch_per_device=64",), "paths start with `model.`, `hardware.` or `scenarios.NAME.`"),
        ((f"{BATCH}=64", "scenarios.training.sequence=4096"), "no scenario has all of these paths"),
        (("hardware.clock=1GHz", "hardware.device.clock.tensor_reference=1GHz"), "--vary hardware.device.clock"),
        ((f"{HBM}=1TB/s", f"scenarios.decode.{HBM}=1TB/s"), "stands for the same field as --vary hardware.memory"),
        (
            (f"{HBM}=1TB/s..2TB/s:10000", f"{NIC}=1GB/s..2GB/s:10000", f"{CAPACITY}=1GB..2GB:2000"),
            "10000 x 10000 x 2000 values of 5 scenario(s) are 1,000,000,000,000 points",
        ),
        (("scenarios.training.schedule=1f1b,,dualpipe",), "has an empty value"),
        (("scenarios.training.schedule=1f1b,dualpip",), "did you mean"),
    ],
)
def test_what_cannot_be_swept_is_told(v3: costmodel.Workload, varied: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError) as caught:
        plan_sweep(v3, varied)
    assert told in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_named_scenario_has_to_have_the_path(v3: costmodel.Workload) -> None:
    with pytest.raises(InputError, match="is not a field of scenario training"):
        plan_sweep(v3, (f"{BATCH}=64",), every=True)


def test_what_is_set_cannot_vary() -> None:
    workload = costmodel.load("deepseek_v3", set={f"scenarios.decode.{HBM}": "3 TB/s"})
    with pytest.raises(InputError, match=f"the same field as --set scenarios.decode.{HBM}"):
        plan_sweep(workload, (f"{HBM}=1TB/s,2TB/s",))


def test_the_summary_names_the_best_point_and_counts_the_reasons(decode: costmodel.Workload, tmp_path: Path) -> None:
    summary = write(tmp_path, decode, *TWO)["decode"]
    assert (summary["points"], summary["fit"]) == (8, 4)
    assert summary["infeasible"] == {UNEVEN: 2, "does not fit in memory": 2}
    alone = costmodel.load("deepseek_v3", set={BATCH: 64}, scenarios=["decode"]).evaluate("decode")
    best: dict[str, Any] = summary["best"]
    assert best["at"] == {BATCH: 64, CAPACITY: 80 * 2**30}
    assert best["value"] == pytest.approx(alone.metrics["tpot"], rel=1e-9)
    assert best["low"] <= best["value"] <= best["high"]
    assert summary["worst"]["at"][BATCH] == 128


def test_points_whose_queue_only_grows_have_no_time_and_say_why(tmp_path: Path) -> None:
    text = """
schema: costmodel/workload@1
extends: llama3_8b_rtx4090
scenarios: {serving: {concurrency: null, rate: 1 /s}}
"""
    (tmp_path / "open.yaml").write_text(text, encoding="utf-8")
    served = costmodel.load(tmp_path / "open.yaml", scenarios=["serving"])
    rates = "scenarios.serving.rate=1 /s,1000 /s"
    assert [row["verdict"] for row in written(tmp_path / "rows", served, rates)] == ["runs", "overloaded"]
    summary = write(tmp_path / "table", served, rates)["serving"]
    assert (summary["points"], summary["fit"]) == (2, 1)
    assert summary["infeasible"] == {"overloaded: the queue only grows": 1}
    assert summary["worst"] == summary["best"]


def test_a_sweep_in_which_nothing_runs_has_no_best(decode: costmodel.Workload, tmp_path: Path) -> None:
    assert write(tmp_path, decode, f"{CAPACITY}=1GB,2GB")["decode"]["best"] is None


# ---- the folder -----------------------------------------------------------------------------------------------------


def test_a_sweep_is_read_back_as_it_was(decode: costmodel.Workload, tmp_path: Path) -> None:
    write(tmp_path, decode, *TWO)
    grid = read_sweep(tmp_path).grids["decode"]
    result = decode.evaluate("decode", vary={BATCH: [63, 64, 128, 512], CAPACITY: ["80 GiB", "141 GB"]})
    interval = result.intervals["tpot"]
    assert interval is not None
    np.testing.assert_array_equal(grid.value, result.metrics["tpot"])
    np.testing.assert_array_equal(grid.high, interval[1])
    assert (grid.reason == "").tolist() == np.asarray(result.fits).tolist()


def test_the_same_study_is_written_again_and_another_is_refused(decode: costmodel.Workload, tmp_path: Path) -> None:
    write(tmp_path, decode, *TWO)
    (tmp_path / POINTS).unlink()
    write(tmp_path, decode, *TWO)
    assert (tmp_path / POINTS).exists()
    before = (tmp_path / POINTS).read_bytes()
    with pytest.raises(InputError, match="holds another study"):
        write(tmp_path, decode, f"{BATCH}=64,128")
    assert (tmp_path / POINTS).read_bytes() == before


def test_a_folder_with_other_files_is_left_alone(decode: costmodel.Workload, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files: thesis\.tex"):
        write(tmp_path, decode, *TWO)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_folder_whose_study_could_not_be_written_is_taken_by_the_next_run(
    decode: costmodel.Workload, tmp_path: Path
) -> None:
    (tmp_path / "points").mkdir()
    write(tmp_path, decode, *TWO)
    assert (tmp_path / POINTS).exists()


def test_a_file_where_the_folder_should_be_is_told(decode: costmodel.Workload, tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("")
    for folder in (file, file / "below"):
        with pytest.raises(InputError, match=r"is no folder|is not writable"):
            write(folder, decode, *TWO)


def test_a_table_that_is_far_too_large_is_refused(decode: costmodel.Workload, tmp_path: Path) -> None:
    written(tmp_path, decode, *TWO)
    os.truncate(tmp_path / POINTS, 10 * 2**30)
    with pytest.raises(InputError, match="file too large: 10 GiB; the limit is 256 MiB"):
        read_sweep(tmp_path)


@pytest.mark.parametrize("damage", ["shorter", "other axis", "no number", "other heading", "bytes"])
def test_a_table_that_is_not_the_study_s_is_refused(decode: costmodel.Workload, tmp_path: Path, damage: str) -> None:
    written(tmp_path, decode, *TWO)
    table = tmp_path / POINTS
    lines = table.read_text().splitlines()
    match damage:
        case "shorter":
            lines = lines[:-1]
        case "other axis":
            lines[1] = lines[1].replace(",63,", ",62,")
        case "no number":
            lines[3] = lines[3].replace(",true,", ",true,").replace(lines[3].split(",")[3], "fast")
        case "other heading":
            lines[0] = lines[0].replace("tpot", "ttft")
    table.write_bytes("\n".join(lines).encode() + (b"\xff\n" if damage == "bytes" else b"\n"))
    with pytest.raises(InputError, match="run the sweep again"):
        read_sweep(tmp_path)


def test_a_sweep_of_a_server_says_what_the_closed_form_leaves_to_requests() -> None:
    given = {"scenarios.serving.replicas": {"count": 2, "max_waiting": 4}}
    server = costmodel.load("llama3_8b_rtx4090", set=given, scenarios=["serving"])
    notes = [
        plan_sweep(server, ["scenarios.serving.concurrency=1,8"], engine=engine).document()["scenarios"]["serving"][
            "notes"
        ]
        for engine in ("analytic", "event")
    ]
    told = [[note for note in each if "`replicas.max_waiting`" in note] for each in notes]
    assert [len(each) for each in told] == [1, 0]


def test_a_sweep_says_that_its_closed_form_leaves_waiting_ranks_to_requests() -> None:
    given = {"model": "models/qwen3-30b-a3b", "scenarios": {"run": {
        "phase": "serving", "cluster": "nodes/dgx-h100", "framework": "vllm", "parallel": {"dp": 2, "ep": 2},
        "input_tokens": 512, "output_tokens": 64, "concurrency": 4}}}  # fmt: skip
    swept = plan_sweep(costmodel.load({"schema": "costmodel/workload@1", **given}), ["scenarios.run.concurrency=1,8"])
    assert any("wait for each other's prompts" in note for note in swept.document()["scenarios"]["run"]["notes"])
