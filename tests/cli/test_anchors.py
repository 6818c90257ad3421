"""Anchors on the command line: stated in a scenario, written by `calibrate --run`, named by others."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Ran
from small_world import write

Run = Callable[..., Ran]
PLAIN = """
schema: costmodel/workload@1
model: models/llama-2-7b
scenarios:
  small:
    phase: training
    cluster: nodes/dgx-h100
    framework: nemo
    parallel: {dp: 8}
    optimizer: {zero: 1, overlap: true}
    global_batch: 64
    sequence: 4096
    recompute: full
  large:
    phase: training
    cluster: nodes/dgx-h100
    framework: nemo
    parallel: {dp: 64}
    optimizer: {zero: 1, overlap: true}
    global_batch: 512
    sequence: 4096
    recompute: full
"""
ANCHOR = "anchor: {metric: step_time, value: 4 s}"
CASES = """
schema: costmodel/case@1
source: {cite: "own runs"}
cases:
  - table: steps.csv
    columns: {run: id, devices: parallel.dp, batch: global_batch, seconds: {path: expect.step_time, unit: s}}
    template:
      class: training
      scenario:
        model: models/llama-2-7b
        phase: training
        cluster: nodes/dgx-h100
        framework: nemo
        optimizer: {zero: 1, overlap: true}
        global_batch: 64
        sequence: 4096
        recompute: full
      expect: [{metric: step_time, tolerance: 10 %}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with a workload that states nothing measured."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "plain.yaml", PLAIN)
    write(tmp_path, "own.yaml", PLAIN.replace("    global_batch: 64\n", f"    global_batch: 64\n    {ANCHOR}\n", 1))
    return tmp_path


def scenarios(run: Run, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("simulate", *arguments, "--json").out)["scenarios"]
    return found


@pytest.mark.usefixtures("folder")
def test_a_measured_step_moves_and_narrows_every_scenario_of_its_framework_and_cluster(run: Run) -> None:
    plain, own = scenarios(run, "plain.yaml"), scenarios(run, "own.yaml", "--set", "scenarios.large.anchor=null")
    assert own["small"]["metrics"]["step_time"] == pytest.approx(4.0, rel=0.01)
    before, after = plain["large"], own["large"]
    assert after["basis"]["anchored"] == 1.0
    assert "anchored" not in before["basis"]
    ratio = 4.0 / plain["small"]["metrics"]["step_time"]
    moved = after["metrics"]["step_time"] / before["metrics"]["step_time"]
    assert min(ratio, 1.0) < moved < max(ratio, 1.0)
    widths = [math.log(high / low) for low, high in (one["intervals"]["step_time"] for one in (before, after))]
    assert widths[1] < 0.99 * widths[0]
    assert f"{ratio:.3g} times as long as predicted" in run("simulate", "own.yaml", "--scenario", "small").out
    slow = run("simulate", "own.yaml", "--scenario", "small", "--set", "scenarios.small.anchor.value=40 s").out
    assert "standard deviations of how sites scatter" in slow
    assert "standard deviations" not in run("simulate", "own.yaml", "--scenario", "small").out


@pytest.mark.usefixtures("folder")
def test_what_was_measured_stays_as_written_when_the_scenario_changes(run: Run) -> None:
    stated = scenarios(run, "own.yaml", "--scenario", "small")["small"]
    changed = scenarios(run, "own.yaml", "--scenario", "small", "--set", "scenarios.small.parallel.dp=16")["small"]
    assert changed["anchor"]["ratios"] == stated["anchor"]["ratios"]
    assert changed["metrics"]["step_time"] < 0.6 * stated["metrics"]["step_time"]


@pytest.mark.usefixtures("folder")
def test_both_engines_are_anchored_alike(run: Run) -> None:
    closed, simulated = (scenarios(run, "own.yaml", "--engine", engine) for engine in ("analytic", "event"))
    for name, one in closed.items():
        assert simulated[name]["metrics"]["step_time"] == pytest.approx(one["metrics"]["step_time"], rel=1e-6)


def test_calibrate_writes_a_file_that_says_what_its_steps_say(run: Run, folder: Path) -> None:
    assert run("calibrate", "--run", "own.yaml", "--output", "site/site.yaml").code == 0
    assert run("validate", "site/site.yaml").code == 0
    named = scenarios(run, "plain.yaml", "--set", "scenarios.large.anchor=./site/site.yaml")["large"]
    own = scenarios(run, "own.yaml")["large"]
    assert named["metrics"]["step_time"] == pytest.approx(own["metrics"]["step_time"], rel=1e-9)
    assert (folder / "site/site.yaml").read_text(encoding="utf-8").startswith("schema: costmodel/anchor@1")


def test_calibrate_reads_a_table_of_cases(run: Run, folder: Path) -> None:
    write(folder, "steps.yaml", CASES)
    write(folder, "steps.csv", "run,devices,batch,seconds\na,8,64,9\nb,16,128,9.5\nc,32,64,2.6\n")
    report = json.loads(run("calibrate", "--run", "steps.yaml", "--output", "site.yaml", "--json").out)
    assert [step["measured"] for step in report["steps"]] == [9.0, 9.5, 2.6]
    assert [step["ratio"] for step in report["steps"]] == pytest.approx(
        [step["measured"] / step["predicted"] for step in report["steps"]]
    )
    found = scenarios(run, "plain.yaml", "--set", "scenarios.large.anchor=[./site.yaml]")["large"]
    assert found["anchor"]["steps"] == 3


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{metric: step_time, value: 12}", "has no unit"),
        ("{metric: step_time}", "value"),
        ("{metric: ttft, value: 1 s}", "metric"),
        ("{metric: step_time, value: 0 s}", "above zero"),
        ("{metric: step_time, value: 3 ms}", "a step of 3 ms is faster than h100-sxm can be"),
        ("{metric: mfu, value: 130 %}", "faster than h100-sxm can be"),
        ("anchors/none", "not found"),
        ("{metric: step_time, value: 9 s, set: {parallel.tp: 3}}", "tp"),
    ],
)
def test_a_wrong_anchor_is_one_clear_error(run: Run, value: str, message: str) -> None:
    ran = run("simulate", "plain.yaml", "--scenario", "small", "--set", f"scenarios.small.anchor={value}")
    assert ran.code == 2
    assert "anchor" in ran.err
    assert message in ran.err


@pytest.mark.usefixtures("folder")
def test_a_file_of_another_framework_is_an_error_and_another_cluster_a_note(run: Run) -> None:
    run("calibrate", "--run", "own.yaml", "--output", "site.yaml")
    changes = ("--set", "scenarios.small.anchor=./site.yaml", "--set", "scenarios.small.framework=pytorch")
    ran = run("simulate", "plain.yaml", "--scenario", "small", *changes)
    assert ran.code == 2
    assert "measured with nemo" in ran.err
    elsewhere = scenarios(run, "own.yaml", "--scenario", "small", "--cluster", "nodes/hgx-h200")["small"]
    assert "anchored" not in elsewhere["basis"]
    assert any("anchor" in note for note in elsewhere["notes"])


@pytest.mark.usefixtures("folder")
def test_a_file_without_measured_steps_says_how_to_state_one(run: Run) -> None:
    ran = run("calibrate", "--run", "plain.yaml", "--output", "site.yaml")
    assert ran.code == 2
    assert "anchor: {metric: step_time" in ran.err
