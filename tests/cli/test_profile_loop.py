"""profile -> calibrate -> evaluate -> simulate on the CPU that runs the tests; skips where torch is not installed."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import command
from small_world import write

from costmodel.measurements.tables import read_tables

pytestmark = pytest.mark.skipif(
    find_spec("torch") is None, reason="the loop measures with torch: pip install 'costmodel[profile]'"
)

HELD_OUT = 5  # every fifth kernel is kept from the fit
BAR = 0.15  # median error on those, beyond what two runs of the same kernels differ by: measured with --long
FACTOR = 3.0  # in every run, where other work may share the processors while kernels are timed
FEWEST = 5  # of them, for each kind
KINDS = ("gemm", "attention")
RUNS = 20  # at most: a busy machine times few kernels a minute
MODEL = """
schema: costmodel/model@1
name: small
hidden: 512
vocabulary: 4096
layers:
  - repeat: 2
    mixer: {type: attention, q_heads: 8, kv_heads: 8, head_dim: 64}
    ffn: {type: glu, intermediate: 1536}
"""
WORKLOAD = """
schema: costmodel/workload@1
model: models/small
scenarios:
  prompt: {phase: prefill, cluster: nodes/this-cpu, input_tokens: 256, tokens_per_device: 256}
"""


def profiled(table: Path, enough: int, minutes: float) -> Path:
    """Time products and attention until there are enough kernels of each kind; return the table."""
    suites = ("--suite", "gemm", "--suite", "attention")
    arguments = command("profile", "--device", "cpu", *suites, "--minutes", str(minutes), "--output", table)
    for _ in range(RUNS):
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        if min(len(times(table, kind)) for kind in KINDS) >= enough:
            break
    return table


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of which enough is held out."""
    return profiled(tmp_path_factory.mktemp("loop") / "mine.csv", 7 * FEWEST, 0.4)


def times(table: Path, kind: str) -> dict[str, float]:
    """Return the times of the kernels of a kind, by row."""
    with table.open(newline="", encoding="utf-8") as file:
        return {row["row_id"]: float(row["time_us"]) for row in csv.DictReader(file) if kind in row["op"]}


def irreproducible(one: Path, other: Path, kind: str) -> float:
    """Return by how much two runs of the same kernels differ: the least that any model of one of them can miss."""
    first, second = times(one, kind), times(other, kind)
    common = first.keys() & second.keys()
    assert len(common) >= FEWEST
    return statistics.median(abs(second[row] / first[row] - 1) for row in common)


def split(table: Path) -> tuple[Path, Path]:
    """Write the kernels to fit and those held out, each to a table of its own; return both."""
    with table.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    op = header.index("op")
    rows.sort(key=lambda row: row[op])  # every kind is held out alike; the sort keeps the order of a kind
    parts = {"seen": [row for place, row in enumerate(rows) if place % HELD_OUT], "unseen": rows[::HELD_OUT]}
    for name, some in parts.items():
        with (table.parent / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *some])
    return table.parent / "seen.csv", table.parent / "unseen.csv"


def calibrated(run, table: Path, tmp_path: Path) -> tuple[Path, list[dict[str, str]]]:
    """Fit most of a table's kernels; return the fit's folder and the predictions of the others."""
    seen, unseen = split(table)
    root = table.with_suffix("")
    output = root / "hardware/calibrations/this-cpu/torch.yaml"
    done = run("calibrate", seen, "--device", "this-cpu", "--output", output, "--path", root)
    assert (done.code, done.err) == (0, "")
    predicted = tmp_path / "predicted.csv"
    assert run("predict", unseen, "--output", predicted, "--path", root).code == 0
    with predicted.open(newline="", encoding="utf-8") as file:
        return root, [row for row in csv.DictReader(file) if row["basis"] in ("measured", "fitted", "extrapolated")]


def ratios(rows: list[dict[str, str]], kind: str) -> list[float]:
    """Return predicted over measured of the kernels of a kind."""
    return [float(row["predicted_us"]) / float(row["time_us"]) for row in rows if kind in row["op"]]


def fewest(rows: list[dict[str, str]]) -> int:
    """Return how many kernels of the rarer kind a fit predicts: which got one depends on what was measured."""
    return min(len(ratios(rows, kind)) for kind in KINDS)


def test_the_loop_goes_from_this_machine_to_a_prediction(run, measured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, rows = calibrated(run, measured, tmp_path)
    for _ in range(RUNS):
        if fewest(rows) >= FEWEST:
            break
        root, rows = calibrated(run, profiled(measured, 0, 0.4), tmp_path)
    assert fewest(rows) >= FEWEST
    for kind in KINDS:
        assert 1 / FACTOR < statistics.median(ratios(rows, kind)) < FACTOR

    write(root, "workloads/models/small.yaml", MODEL)
    workload = write(root, "workloads/prompt.yaml", WORKLOAD)
    device = root / "hardware/devices/this-cpu.yaml"
    device.write_text(device.read_text() + "calibration: {default: {gemm: torch, attention_prefill: torch}}\n")
    scenario = json.loads(run("simulate", workload, "--path", root, "--json").out)["scenarios"]["prompt"]
    assert scenario["metrics"]["ttft"] > 0
    assert scenario["basis"]["measured"] + scenario["basis"]["fitted"] + scenario["basis"]["extrapolated"] > 0.5


def test_kernels_that_no_fit_has_seen_are_met_within_what_two_runs_differ_by(run, measured, tmp_path, long):
    if not long:
        pytest.skip("times kernels against a bar, which needs an idle machine: --long")
    again = profiled(tmp_path / "again.csv", 2 * FEWEST, 0.2)
    _, rows = calibrated(run, measured, tmp_path)
    for kind in KINDS:
        errors = [abs(ratio - 1) for ratio in ratios(rows, kind)]
        assert statistics.median(errors) < BAR + irreproducible(measured, again, kind)


def started(table: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a run of minutes and wait until some rows are on the disk."""
    run = subprocess.Popen(
        command("profile", "--device", "cpu", "--suite", "elementwise", "--output", table, *arguments)
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not table.exists() or table.read_bytes().count(b"\n") < 15):
        time.sleep(0.05)
    return run


def test_an_interrupted_run_keeps_what_was_measured(tmp_path):
    table = tmp_path / "mine.csv"
    run = started(table)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=30) == 130
    assert len(read_tables(table)) >= 14
    assert json.loads(table.with_suffix(".json").read_text())["rows"] == len(read_tables(table))
    assert (tmp_path / "mine/hardware/devices/this-cpu.yaml").is_file()


def test_after_a_kill_the_same_command_goes_on(run, tmp_path):
    table = tmp_path / "mine.csv"
    killed = started(table)
    killed.kill()
    killed.wait(timeout=30)
    before = table.read_bytes()
    whole = before[: before.rindex(b"\n") + 1]
    again = ("--device", "cpu", "--suite", "elementwise", "--minutes", "0.03")
    assert run("profile", *again, "--output", table).code == 0
    assert table.read_bytes().startswith(whole)
    assert len(read_tables(table)) > whole.count(b"\n") - 1


def test_a_group_of_ranks_times_its_messages_and_one_of_them_writes(tmp_path):
    table = tmp_path / "links.csv"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "costmodel"]
    arguments = ["profile", "--device", "cpu", "--suite", "collectives", "--minutes", "0.2", "--output", str(table)]
    # A session of its own, so that ranks that hang end with the test.
    group = subprocess.Popen([*launch, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, _ = group.communicate(timeout=200)
    finally:
        if group.poll() is None:
            os.killpg(group.pid, signal.SIGKILL)
    assert group.returncode == 0
    assert out.count("new rows of this-cpu") == 1
    rows = read_tables(table)
    assert {"all_reduce", "all_gather"} <= set(rows.text("op"))
    assert set(rows.number("world_size")) == set(rows.number("gpus_per_node")) == {2.0}
    assert len(set(rows.text("row_id"))) == len(rows)


def test_the_same_command_goes_on_and_times_nothing_twice(run, measured):
    before = measured.read_bytes()
    measured.write_bytes(before + b"torch/gemm/fp32/m1.n")  # what a kill in the middle of a row leaves
    arguments = ("--device", "cpu", "--suite", "gemm", "--minutes", "0.05")
    assert run("profile", *arguments, "--output", measured).code == 0
    after = measured.read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)
    with measured.open(newline="", encoding="utf-8") as file:
        identifiers = [row["row_id"] for row in csv.DictReader(file)]
    assert len(identifiers) == len(set(identifiers))
