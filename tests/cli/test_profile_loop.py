"""profile -> calibrate -> evaluate -> simulate on the CPU that runs the tests; skips where torch is not installed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from small_world import write

torch = pytest.importorskip("torch", reason="the loop measures with torch: pip install 'costmodel[profile]'")

HELD_OUT = 5  # every fifth kernel is kept from the fit
BAR = 0.15  # median error on those
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


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the table of a run of a minute and a half."""
    from click.testing import CliRunner

    from costmodel.cli.profile import command

    table = tmp_path_factory.mktemp("loop") / "mine.csv"
    arguments = [
        "--device",
        "cpu",
        "--suite",
        "gemm",
        "--suite",
        "attention",
        "--minutes",
        "1.5",
        "--output",
        str(table),
    ]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
    assert done.return_value == 0
    return table


def split(table: Path) -> tuple[Path, Path]:
    """Write the kernels to fit and those held out, each to a table of its own; return both."""
    with table.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    parts = {"seen": [row for place, row in enumerate(rows) if place % HELD_OUT], "unseen": rows[::HELD_OUT]}
    for name, some in parts.items():
        with (table.parent / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *some])
    return table.parent / "seen.csv", table.parent / "unseen.csv"


def test_the_loop_predicts_kernels_of_this_machine_that_no_fit_has_seen(run, measured):
    seen, unseen = split(measured)
    root = measured.with_suffix("")
    output = root / "hardware/calibrations/this-cpu/torch.yaml"
    done = run("calibrate", seen, "--device", "this-cpu", "--output", output, "--path", root)
    assert (done.code, done.err) == (0, "")
    scores = json.loads(run("evaluate", unseen, "--path", root, "--json").out)["scores"]
    medians = {(one["op"], one["dtype"]): (one["rows"], one["median"]) for one in scores if one["rows"]}
    print(medians)  # noqa: T201  shown where the test fails
    for kind in ("gemm", "attention_prefill", "attention_decode"):
        weighed = [(rows, median) for (op, _), (rows, median) in medians.items() if op == kind]
        assert weighed
        assert sum(rows * median for rows, median in weighed) / sum(rows for rows, _ in weighed) < BAR, kind

    write(root, "workloads/models/small.yaml", MODEL)
    workload = write(root, "workloads/prompt.yaml", WORKLOAD)
    device = root / "hardware/devices/this-cpu.yaml"
    device.write_text(device.read_text() + "calibration: {default: {gemm: torch, attention_prefill: torch}}\n")
    scenario = json.loads(run("simulate", workload, "--path", root, "--json").out)["scenarios"]["prompt"]
    assert scenario["metrics"]["ttft"] > 0
    assert scenario["basis"]["measured"] + scenario["basis"]["fitted"] + scenario["basis"]["extrapolated"] > 0.5


def test_the_same_command_goes_on_and_keeps_what_a_person_wrote(measured):
    from click.testing import CliRunner

    from costmodel.cli.profile import command

    before = measured.read_bytes()
    measured.write_bytes(before + b"torch/gemm/fp32/m1.n")  # what a kill in the middle of a row leaves
    arguments = ["--device", "cpu", "--suite", "gemm", "--minutes", "0.05", "--output", str(measured)]
    assert CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False).return_value == 0
    after = measured.read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)
    with measured.open(newline="", encoding="utf-8") as file:
        identifiers = [row["row_id"] for row in csv.DictReader(file)]
    assert len(identifiers) == len(set(identifiers))
