from __future__ import annotations

import csv
import json
import os
import shutil

import pytest
from command_line import run_here

FLAGSHIP = "deepseek_v3"


@pytest.fixture(autouse=True)
def _plain_tables(monkeypatch):
    monkeypatch.setenv("COSTMODEL_TABLE", "csv")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return three of the flagship's scenarios as a result in a file, and a folder with its figures."""
    folder = tmp_path_factory.mktemp("report")
    file = folder / "v3.json"
    some = (word for name in ("decode", "decode_ep_bound", "training") for word in ("--scenario", name))
    file.write_text(run_here("simulate", FLAGSHIP, *some, "--json").out)
    done = run_here("report", file, "--output", folder / "figures")
    assert (done.code, done.err) == (0, "")
    return file, folder / "figures", done.out.splitlines()


@pytest.fixture
def result(simulated, tmp_path):
    """Return a copy of the flagship's result."""
    return shutil.copy(simulated[0], tmp_path / "v3.json")


def names(folder, ending):
    return sorted(name.removesuffix(ending) for name in os.listdir(folder) if name.endswith(ending))


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_result_becomes_figures_in_both_forms_with_their_data(simulated):
    _, figures, printed = simulated
    times = [f"time-{name}" for name in ("decode", "decode_ep_bound", "training")]
    roofs = [f"roofline-{name}" for name in ("decode", "training")]
    assert names(figures, ".svg") == names(figures, ".png") == ["memory", *roofs, *times]
    beside = len(os.listdir(figures)) - 1
    assert printed == [f"{beside} files of figures in {figures}, and one page of all:", str(figures / "report.html")]
    assert set(names(figures, ".svg")) <= set(names(figures, ".csv"))


def test_the_data_beside_a_figure_is_what_the_result_says(simulated):
    result, figures, _ = simulated
    document = json.loads(result.read_text())["scenarios"]
    training = document["training"]
    drawn = {row["name"]: row for row in rows(figures / "time-training.csv")}
    assert float(drawn.pop("bubble")["time"]) == training["metrics"]["bubble_time"]
    assert list(drawn) == [entry["name"] for entry in training["breakdown"]]
    for entry in training["breakdown"]:
        row = drawn[entry["name"]]
        assert [float(row[key]) for key in ("time", "hidden", "share")] == [
            entry[key] for key in ("time", "hidden", "share")
        ]
    points = {row["name"]: row for row in rows(figures / "roofline-training.csv")}
    for entry in training["breakdown"]:
        assert (entry["name"] in points) == (entry["flop"] > 0)
        if entry["flop"]:
            assert float(points[entry["name"]]["flop_rate"]) == entry["flop_rate"]
            assert float(points[entry["name"]]["arithmetic_intensity"]) == entry["arithmetic_intensity"]
    roofs = {row["name"]: float(row["value"]) for row in rows(figures / "roofline-training-roofs.csv")}
    assert roofs["fp8"] == training["hardware"]["peaks"]["fp8"]
    assert roofs["hbm"] == training["hardware"]["memory"][-1]["bandwidth"]
    for row in rows(figures / "memory.csv"):
        held = document[row["scenario"]]["memory"]
        assert {key: float(row[key]) for key in held if key != "fits"} == {
            key: value for key, value in held.items() if key != "fits"
        }


def test_the_same_result_gives_the_same_bytes(process, simulated, tmp_path):
    result, here, _ = simulated
    there = tmp_path / "there"
    assert process("report", result, "--output", there, PYTHONHASHSEED="7").code == 0
    assert sorted(os.listdir(here)) == sorted(os.listdir(there))
    for name in os.listdir(here):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


def test_figures_hold_no_date_and_no_version(simulated):
    for name in names(simulated[1], ".svg"):
        text = (simulated[1] / f"{name}.svg").read_text()
        assert "<dc:date>" not in text
        assert "Matplotlib v" not in text


def test_without_an_output_figures_stand_beside_their_source(run, tmp_path):
    (tmp_path / "v3.json").write_text(run("simulate", FLAGSHIP, "--scenario", "decode_ep_bound", "--json").out)
    assert run("report", tmp_path / "v3.json").code == 0
    assert names(tmp_path / "v3_report", ".svg") == ["time-decode_ep_bound"]
    swept = tmp_path / "swept"
    again = ("sweep", FLAGSHIP, "--vary", "hardware.processors=120,132", "--scenario", "decode", "--output", swept)
    run(*again)
    assert run("report", swept).code == 0
    assert names(swept / "report", ".svg") == ["sweep-decode"]
    assert run(*again).code == 0  # figures in the folder are no obstacle


def test_what_does_not_fit_is_drawn_as_its_ledger_alone(run, tmp_path):
    file = tmp_path / "tight.json"
    options = ("--scenario", "training", "--set", "scenarios.training.recompute=none", "--json")
    file.write_text(run("simulate", FLAGSHIP, *options).out)
    assert run("report", file, "--output", tmp_path / "figures").code == 0
    assert names(tmp_path / "figures", ".svg") == ["memory"]
    assert "cannot run" in (tmp_path / "figures" / "memory.svg").read_text()


def test_the_data_of_a_swept_figure_are_the_table_s_points(run, tmp_path):
    swept = tmp_path / "swept"
    varied = ("--vary", "scenarios.decode.batch_per_device=64,128,512", "--vary", "hardware.processors=120,132")
    run("sweep", FLAGSHIP, *varied, "--output", swept)
    run("report", swept, "--output", tmp_path / "figures")
    table = rows(swept / "points" / "part-00000.csv")
    drawn = rows(tmp_path / "figures" / "sweep-decode.csv")
    keys = ("scenarios.decode.batch_per_device", "hardware.processors", "tpot", "tpot_low", "tpot_high")
    assert [[row[key] and float(row[key]) for key in keys] for row in drawn] == [
        [row[key] and float(row[key]) for key in keys] for row in table
    ]
    assert [row["reason"] for row in drawn] == [row["reason"] for row in table]


def test_a_sweep_in_which_nothing_runs_has_nothing_to_draw(run, tmp_path):
    swept = tmp_path / "swept"
    run("sweep", FLAGSHIP, "--vary", "hardware.memory.hbm.capacity=1GB,2GB", "--scenario", "decode", "--output", swept)
    done = run("report", swept)
    assert done.code == 3
    assert "nothing to draw" in done.err


def test_more_axes_than_two_give_a_figure_for_each_of_their_values(run, tmp_path):
    swept = tmp_path / "swept"
    varied = [
        word
        for axis in (
            "scenarios.decode.batch_per_device=32..128:4",
            "hardware.memory.hbm.bandwidth=2TB/s,3TB/s,4TB/s",
            "hardware.processors=100..132:17",
        )
        for word in ("--vary", axis)
    ]
    run("sweep", FLAGSHIP, *varied, "--output", swept)
    done = run("report", swept)
    assert names(swept / "report", ".svg") == ["sweep-decode", "sweep-decode-2", "sweep-decode-3"]
    assert "HBM bandwidth 3 TB/s" in (swept / "report" / "sweep-decode-2.svg").read_text()
    assert done.err == ""


def test_axes_that_vary_together_are_one_dimension_of_a_figure(run, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(
        "schema: costmodel/study@1\ntitle: groups\nworkload: deepseek_v3\nscenarios: [decode]\naxes:\n"
        "  - scenarios.decode.parallel.ep: [32, 64, 128]\n    scenarios.decode.parallel.dp: [32, 64, 128]\n"
        "  - hardware.memory.hbm.bandwidth: 2TB/s..4TB/s:5\n"
    )
    assert run("sweep", study, "--output", tmp_path / "swept").code == 0
    done = run("report", tmp_path / "swept")
    assert (done.code, done.err) == (0, "")
    drawn = list(csv.DictReader((tmp_path / "swept" / "report" / "sweep-decode.csv").open()))
    assert len(drawn) == 3 * 5


def test_a_sweep_over_names_is_told_to_have_no_figure(run, tmp_path):
    varied = ("--vary", "scenarios.decode.precision=bf16,fp8-inference", "--scenario", "decode")
    run("sweep", FLAGSHIP, *varied, "--output", tmp_path / "swept")
    done = run("report", tmp_path / "swept")
    assert (done.code, done.out) == (2, "")
    assert "scenarios.decode.precision is an axis of names, so the results do not form a grid" in done.err
    assert "value error" not in done.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not a complete JSON document"),
        ('{"schema": "costmodel/result@1", "scen', "not a complete JSON document"),
        ("[" * 100_000, "is nested too deeply"),
        ("[1, 2]", "has no `schema` key"),
        ('{"a": 1}', "has no `schema` key"),
        ('{"schema": "costmodel/result@2"}', "is 'costmodel/result@2', not costmodel/result@1"),
        ('{"plans": [{}], "request": {}}', "is no plan as `plan --json` prints it"),
        ('{"plans": [5], "request": 5}', "is no plan as `plan --json` prints it"),
        ('{"schema": "costmodel/sweep@1"}', "is a costmodel/sweep@1 file, which `report` cannot draw"),
        ('{"schema": "costmodel/result@1"}', "version: field required"),
        ('{"schema": "costmodel/result@1", "version": "0", "model": {"name": "m"}, "scenarios": {}}', "scenarios: "),
    ],
)
def test_what_is_no_result_is_told_in_one_line(run, tmp_path, text, told):
    file = tmp_path / "foreign.json"
    file.write_text(text)
    done = run("report", file)
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith(f"{file}: ")
    assert told in done.err
    assert os.listdir(tmp_path) == ["foreign.json"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("scenarios", "decode", "breakdown", 0, "time"), "fast"),
        (("scenarios", "decode", "breakdown", 0, "time"), float("nan")),
        (("scenarios", "decode", "breakdown", 0, "arithmetic_intensity"), -1.0),
        (("scenarios", "decode", "memory", "capacity"), None),
        (("scenarios", "decode", "hardware", "memory", 0, "bandwidth"), 0.0),
        (("scenarios", "decode"), []),
    ],
)
def test_a_wrong_value_in_a_result_is_told_with_its_place(run, result, path, value):
    document = json.loads(result.read_text())
    inner = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    result.write_text(json.dumps(document))
    done = run("report", result)
    assert done.code == 2
    assert ".".join(map(str, path)) in done.err
    assert len(done.err.splitlines()) == 1


def test_a_source_that_is_not_there_or_no_sweep_is_told(run, tmp_path):
    missing, empty = run("report", tmp_path / "no.json"), run("report", tmp_path)
    assert missing.code == empty.code == 2
    assert "does not exist" in missing.err
    assert "study.json: does not exist; make it with `costmodel sweep" in empty.err


def test_a_sweep_without_its_points_is_told(run, tmp_path):
    swept = tmp_path / "swept"
    run("sweep", FLAGSHIP, "--vary", "hardware.processors=120,132", "--scenario", "decode", "--output", swept)
    (swept / "points" / "part-00000.csv").unlink()
    done = run("report", swept)
    assert done.code == 2
    assert "part-00000.csv: does not exist; run the sweep again" in done.err


def test_what_is_not_drawn_is_told(run, tmp_path):
    swept = tmp_path / "swept"
    device = ("memory.hbm.bandwidth=3TB/s,4TB/s", "memory.l2.bandwidth=8TB/s,9TB/s", "processors=120,132")
    others = ("links.nvlink.bandwidth=200GB/s,450GB/s", "node.nic.bandwidth=400Gbit/s,800Gbit/s")
    varied = [word for axis in (*device, *others) for word in ("--vary", f"hardware.{axis}")]
    varied += ["--vary", "scenarios.decode.batch_per_device=64,128"]
    run("sweep", FLAGSHIP, *varied, "--output", swept)
    done = run("report", swept)
    assert done.code == 0
    assert len(names(swept / "report", ".svg")) == 12
    assert done.err == "4 more axis combinations are not drawn; they are in the table\n"


def test_axes_that_vary_together_are_all_in_a_figure_and_its_data(run, tmp_path):
    degrees = [f"scenarios.decode.parallel.{name}=64,128" for name in ("dp", "ep")]
    batches = "scenarios.decode.batch_per_device=32,64,128"
    asked = ("--scenario", "decode", "--vary", "; ".join(degrees), "--vary", batches)
    assert run("sweep", "deepseek_v3", *asked, "--output", tmp_path / "out").code == 0
    done = run("report", tmp_path / "out", "--output", tmp_path / "figures")
    assert done.code == 0, done.err
    rows = list(csv.DictReader((tmp_path / "figures" / "sweep-decode.csv").open()))
    dp, ep = (f"scenarios.decode.parallel.{name}" for name in ("dp", "ep"))
    assert {(row[dp], row[ep]) for row in rows} == {("64.0", "64.0"), ("128.0", "128.0")}
    page = (tmp_path / "figures" / "report.html").read_text()
    assert "DP, EP" in page  # the title of the legend
    assert "DP 64, EP 64" in page  # what a dot tells
    assert "together with" in page
