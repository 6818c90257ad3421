"""profile -> calibrate -> predict -> simulate: on a pretended GPU within a bar; on the CPU that runs this, as a loop.

What a loaded machine times says little of how good a fit is, so no outcome here depends on times or on how many kernels
are timed a minute: runs are ended by what is in their table. With --long, kernels of this machine are held to a bar.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
import statistics
import subprocess
import time
from collections import Counter
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command_line import PATIENCE, command
from few_folds import few_folds  # noqa: F401  for all tests
from pretended_gpu import OneRank, PretendedGpu
from ranks import group_of_two
from small_world import write

from costmodel.measurements.tables import read_tables
from costmodel.profiling.rows import RowTable
from costmodel.profiling.running import ProfileRequest, run_on
from costmodel.profiling.shapes import ProfileLimits, shapes
from costmodel.schema.references import package_root

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="the loop measures with torch: pip install 'costmodel[profile]'"
)

HELD_OUT = 5  # every fifth kernel of a kind is kept from the fit
OF_THE_PRETENDED = 0.05  # median error on those, of a device whose kernels take the time of their roofline
BAR = 0.15  # the same of this machine, beyond what two runs of the same kernels differ by: measured with --long
OF_A_FIT = ("measured", "fitted", "extrapolated")
KINDS = ("gemm", "attention_prefill")
ENOUGH = 30  # products for a fit, which needs 20 of those that are not held out
SUITES = ("--suite", "gemm", "--dtype", "fp32")
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
  prompt: {phase: prefill, precision: DTYPE, cluster: nodes/DEVICE, input_tokens: 256, tokens_per_device: 256}
"""


def rows_of(table: Path) -> list[dict[str, str]]:
    """Return the whole rows of a table, which a run may be writing."""
    if not table.exists():
        return []
    whole = table.read_bytes().rpartition(b"\n")[0].decode()
    return list(csv.DictReader(whole.splitlines()))


def count(table: Path, kind: str) -> int:
    """Return how many rows of a kind a table has, in the format that is asked for."""
    return sum(row["op"].startswith(kind) and row["dtype_in"] == "fp32" for row in rows_of(table))


def started(table: Path, kind: str, enough: int, *more: str) -> subprocess.Popen[str]:
    """Start a run without an end and wait until its table has enough rows of a kind. more: options."""
    arguments = command("profile", "--device", "cpu", *SUITES, *more, "--minutes", "1000", "--output", table)
    run = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    ends = time.monotonic() + PATIENCE
    while run.poll() is None and count(table, kind) < enough:
        if time.monotonic() > ends:
            run.kill()
        time.sleep(0.02)
    assert run.poll() is None, run.communicate()[1]
    return run


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Return the table of a run that was interrupted when it had enough products, and its exit code."""
    table = tmp_path_factory.mktemp("loop") / "mine.csv"
    run = started(table, "gemm", ENOUGH)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=PATIENCE)
    return table, run.returncode


@pytest.fixture
def measured(interrupted: tuple[Path, int], tmp_path: Path) -> Path:
    """Return a copy of what the interrupted run left, which a test may change."""
    shutil.copytree(interrupted[0].parent, tmp_path / "copy")
    return tmp_path / "copy" / "mine.csv"


def split(table: Path) -> tuple[Path, Path]:
    """Write the kernels to fit and those held out, each to a table of its own; return both."""
    with table.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    op, dtype, backend = (header.index(name) for name in ("op", "dtype_in", "backend"))
    rows.sort(key=lambda row: (row[op], row[dtype], row[backend]))  # stable: the order of a kind stays
    seen: Counter[tuple[str, ...]] = Counter()
    parts: dict[str, list[list[str]]] = {"seen": [], "unseen": []}
    for row in rows:
        kind = (row[op], row[dtype], row[backend])
        seen[kind] += 1
        parts["seen" if seen[kind] % HELD_OUT else "unseen"].append(row)
    for name, some in parts.items():
        with (table.parent / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *some])
    return table.parent / "seen.csv", table.parent / "unseen.csv"


def calibrated(run, table: Path, device: str) -> tuple[Path, dict[str, list[float]]]:
    """Fit most of a table's kernels; return the fit's folder and predicted over measured of those held out."""
    seen, unseen = split(table)
    root = table.with_suffix("")
    output = root / f"hardware/calibrations/{device}/torch.yaml"
    done = run("calibrate", seen, "--device", device, "--output", output, "--path", root)
    assert (done.code, done.err) == (0, "")
    predicted = table.parent / "predicted.csv"
    assert run("predict", unseen, "--output", predicted, "--path", root).code == 0
    ratios: dict[str, list[float]] = {}
    for row in rows_of(predicted):
        if row["basis"] in OF_A_FIT:
            ratios.setdefault(row["op"], []).append(float(row["predicted_us"]) / float(row["time_us"]))
    return root, ratios


def simulated(run, root: Path, device: str, dtype: str) -> None:
    """Simulate a prompt by the fits that were just made: the time of its products rests on them."""
    write(root, "workloads/models/small.yaml", MODEL)
    halves = (package_root() / "workloads/precisions/fp16.yaml").read_text(encoding="utf-8")
    write(root, "workloads/precisions/fp32.yaml", halves.replace("fp16", "fp32"))
    workload = write(root, "workloads/prompt.yaml", WORKLOAD.replace("DEVICE", device).replace("DTYPE", dtype))
    file = root / f"hardware/devices/{device}.yaml"
    file.write_text(file.read_text() + "calibration: {default: {gemm: torch}}\n")
    scenario = json.loads(run("simulate", workload, "--path", root, "--json").out)["scenarios"]["prompt"]
    assert scenario["metrics"]["ttft"] > 0
    bases = {line["name"]: line["basis"] for line in scenario["breakdown"]}
    assert {bases[name] for name in ("qkv projection", "ffn up", "ffn down")} <= set(OF_A_FIT)


def test_kernels_of_a_pretended_gpu_that_no_fit_has_seen_are_met(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table, device = tmp_path / "mine.csv", "pretended-h100"
    request = ProfileRequest("cuda", ("gemm",), 1.0, table, dtypes=("bf16",))  # seconds of a pretended clock
    run_on(PretendedGpu(), request, OneRank(), lambda rows: np.full(len(rows), 0.3), lambda _: None, lambda _: None)
    root, ratios = calibrated(run, table, device)
    assert statistics.median(abs(ratio - 1) for ratio in ratios["gemm"]) < OF_THE_PRETENDED
    simulated(run, root, device, "bf16")


@needs_torch
def test_the_loop_goes_from_this_machine_to_a_prediction(run, measured, monkeypatch):
    monkeypatch.chdir(measured.parent)
    root, ratios = calibrated(run, measured, "this-cpu")
    assert all(math.isfinite(ratio) and ratio > 0.0 for ratio in ratios["gemm"])
    simulated(run, root, "this-cpu", "fp32")


@needs_torch
def test_an_interrupted_run_keeps_what_was_measured(interrupted):
    table, code = interrupted
    assert code == 130
    assert len(read_tables(table)) >= ENOUGH
    assert json.loads(table.with_suffix(".json").read_text())["rows"] == len(read_tables(table))
    assert (table.parent / "mine/hardware/devices/this-cpu.yaml").is_file()


@needs_torch
def test_after_a_kill_the_same_command_goes_on_and_times_nothing_twice(run, measured):
    killed = started(measured, "gemm", count(measured, "gemm") + 2)
    killed.kill()
    killed.communicate(timeout=PATIENCE)
    whole = measured.read_bytes().rpartition(b"\n")[0] + b"\n"
    measured.write_bytes(whole + b"torch/gemm/fp32/m1.n")  # what a kill in the middle of a row leaves
    assert run("profile", "--device", "cpu", *SUITES, "--minutes", "0.001", "--output", measured).code == 0
    assert measured.read_bytes().startswith(whole)
    assert len(measured.read_bytes()) > len(whole)
    identifiers = [row["row_id"] for row in rows_of(measured)]
    assert len(identifiers) == len(set(identifiers))


@needs_torch
def test_kernels_that_no_fit_has_seen_are_met_within_what_two_runs_differ_by(run, tmp_path, long):
    if not long:
        pytest.skip("times kernels against a bar, which needs an idle machine: --long")
    tables = [tmp_path / name / "mine.csv" for name in ("one", "other")]
    for table in tables:
        table.parent.mkdir()
        measuring = started(table, KINDS[1], ENOUGH, "--suite", "attention")
        measuring.send_signal(signal.SIGINT)
        measuring.communicate(timeout=PATIENCE)
    _, ratios = calibrated(run, tables[0], "this-cpu")
    for kind in KINDS:
        first, second = ({row["row_id"]: float(row["time_us"]) for row in rows_of(table)} for table in tables)
        common = [row for row in first.keys() & second.keys() if f"/{kind}/" in row]
        differ = statistics.median(abs(second[row] / first[row] - 1) for row in common)
        assert statistics.median(abs(ratio - 1) for ratio in ratios[kind]) < BAR + differ


@needs_torch
def test_a_group_of_ranks_times_its_messages_and_one_of_them_writes(tmp_path):
    """All messages but the smallest of each kind are in the table already: five are left."""
    table = tmp_path / "links.csv"
    limits = ProfileLimits({}, 1e30, 1e30, 1.0, {"torch": version("torch").partition("+")[0]}, ranks=2, local=2)
    messages = [shape for shape in shapes(("collectives",), limits) if shape.size("bytes") > 2**12]
    with RowTable(table, "this-cpu") as held:
        for shape in messages:
            held.append(shape.columns() | {"device": "this-cpu", "time_us": "1"})
    arguments = command("profile", "--device", "cpu", "--suite", "collectives", "--minutes", "1000", "--output", table)
    first, second = group_of_two(arguments)
    assert (first.code, second.code) == (0, 0), second.err
    assert (first.out + second.out).count("5 new rows of this-cpu") == 1
    rows = rows_of(table)
    assert len({row["row_id"] for row in rows}) == len(rows) == len(messages) + 5
    kinds = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"}
    assert {row["op"] for row in rows[len(messages) :]} == kinds
    assert {(row["world_size"], row["gpus_per_node"]) for row in rows} == {("2", "2")}
