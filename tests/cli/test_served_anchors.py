"""Benchmarks of one's own server as anchors: `--anchor`, `calibrate --run`, and what `compare` says of them."""

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
CHAT = """
schema: costmodel/workload@1
model: models/llama-3-8b
scenarios:
  chat:
    phase: serving
    cluster: nodes/h100-x1
    framework: vllm
    concurrency: 64
    input_tokens: 1024
    output_tokens: 256
"""
BENCH = {
    "backend": "vllm", "model_id": "m", "request_rate": "inf", "max_concurrency": 64, "completed": 1000,
    "total_input_tokens": 1024000, "total_output_tokens": 256000, "request_throughput": 14.0,
    "output_throughput": 3584.0, "mean_ttft_ms": 90.0, "mean_tpot_ms": 17.0,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with a server's workload and its benchmark."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "chat.yaml", CHAT)
    write(tmp_path, "bench.json", json.dumps(BENCH))
    return tmp_path


def chat(run: Run, *arguments: str, name: str = "chat") -> dict[str, Any]:
    ran = run("simulate", "chat.yaml", *arguments, "--json")
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)["scenarios"][name]
    return found


def width(one: dict[str, Any], metric: str) -> float:
    low, high = one["intervals"][metric]
    return math.log(high / low)


@pytest.mark.usefixtures("folder")
def test_a_benchmark_moves_and_narrows_its_own_run_and_what_is_asked_of_its_server(run: Run) -> None:
    own = chat(run, "--anchor", "bench.json")
    assert own["metrics"]["tpot"] == pytest.approx(0.017, rel=1e-3)
    assert own["metrics"]["ttft"] == pytest.approx(0.09, rel=1e-3)
    assert own["basis"]["anchored"] == 1.0
    assert own["anchor"]["rests_on"] == ["ttft of chat (bench.json)", "tpot of chat (bench.json)"]
    more = "--set", "scenarios.chat.concurrency=96"
    plain, moved = chat(run, *more), chat(run, *more, "--anchor", "bench.json")
    ratio = own["metrics"]["tpot"] / chat(run)["metrics"]["tpot"]
    changed = moved["metrics"]["tpot"] / plain["metrics"]["tpot"]
    assert min(1.0, ratio) < changed < max(1.0, ratio)
    assert width(moved, "tpot") < width(plain, "tpot")


def test_both_engines_give_what_was_measured(run: Run, folder: Path) -> None:
    write(folder, "chat.yaml", CHAT + "    requests: {arrivals: closed_loop, count: 200}\n")
    for engine in ("analytic", "event"):
        own = chat(run, "--anchor", "bench.json", "--engine", engine)
        assert own["metrics"]["tpot"] == pytest.approx(0.017, rel=2e-3)


def test_calibrate_writes_what_a_benchmark_and_its_workload_say(run: Run, folder: Path) -> None:
    assert run("calibrate", "--run", "chat.yaml", "bench.json", "--output", "site.yaml").code == 0
    assert run("validate", "site.yaml").code == 0
    text = (folder / "site.yaml").read_text(encoding="utf-8")
    assert "concurrency: 64" in text
    assert "bench" not in text
    by = [chat(run, "--anchor", name) for name in ("site.yaml", "bench.json")]
    assert by[0]["metrics"]["tpot"] == pytest.approx(by[1]["metrics"]["tpot"], rel=1e-9)
    assert by[0]["anchor"]["rests_on"][0].startswith("ttft of chat-chat")


def test_several_anchors_add_up_to_narrower_intervals(run: Run, folder: Path) -> None:
    two = CHAT + CHAT.partition("scenarios:\n")[2].replace("chat:", "night:").replace("64", "16")
    write(folder, "chat.yaml", two)
    write(folder, "night.json", json.dumps(BENCH | {"max_concurrency": 16, "mean_tpot_ms": 9.0}))
    asked = "--set", "scenarios.chat.concurrency=32"
    one = chat(run, "--anchor", "bench.json", *asked)
    both = chat(run, "--anchor", "bench.json", "--anchor", "night.json", *asked)
    assert width(both, "tpot") < width(one, "tpot")
    assert both["anchor"]["steps"] == 4


def test_a_benchmark_that_two_scenarios_agree_with_asks_which_one_ran(run: Run, folder: Path) -> None:
    write(folder, "chat.yaml", CHAT + CHAT.partition("scenarios:\n")[2].replace("chat:", "night:"))
    ran = run("simulate", "chat.yaml", "--anchor", "bench.json")
    assert ran.code == 2
    assert "agrees with chat, night; name the one that ran with --scenario" in ran.err.replace("\n", " ")
    assert run("simulate", "chat.yaml", "--anchor", "bench.json", "--scenario", "night").code == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_concurrency": 32}, "scenarios.chat.concurrency: was measured at concurrency 32, the scenario has 64"),
        ({"total_input_tokens": 512000}, "was measured at input_tokens 512, the scenario has 1024"),
        ({"total_output_tokens": 64000}, "was measured at output_tokens 64, the scenario has 256"),
        ({"request_rate": 8.0}, "was measured at rate 8, the scenario has a concurrency"),
        ({"max_concurrency": None}, "sent all its requests at once"),
        ({"mean_tpot_ms": -1.0}, "mean_tpot_ms"),
        (
            {"max_concurrency": 32, "total_output_tokens": 64000},
            "was measured at output_tokens 64, the scenario has 256",
        ),
        ({"mean_tpot_ms": 17000.0}, "check the unit"),
    ],
)
def test_a_benchmark_of_another_load_is_one_clear_error(
    run: Run, folder: Path, changes: dict[str, Any], said: str
) -> None:  # fmt: skip
    write(folder, "bench.json", json.dumps(BENCH | changes))
    ran = run("simulate", "chat.yaml", "--anchor", "bench.json")
    assert ran.code == 2
    assert said in ran.err
    assert "bench.json" in ran.err


def test_a_benchmark_needs_a_server_and_one_that_agrees(run: Run, folder: Path) -> None:
    write(folder, "steps.yaml", CHAT.replace("serving", "generate").replace("concurrency", "batch"))
    assert "no scenario of phase serving" in run("simulate", "steps.yaml", "--anchor", "bench.json").err
    again = CHAT + CHAT.partition("scenarios:\n")[2].replace("chat:", "again:")
    write(folder, "chat.yaml", again)
    ran = run("simulate", "chat.yaml", "--anchor", "bench.json")
    assert "agrees with chat, again" in ran.err
    assert run("simulate", "chat.yaml", "--scenario", "again", "--anchor", "bench.json").code == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{metric: step_time, value: 1 s}", "step_time is not measured in phase serving"),
        ("{metric: tpot, value: 0 s}", "write a value above zero"),
        ("{metric: tpot, value: 2 kg}", "2 kg"),
    ],
)
def test_a_wrong_stated_value_is_one_clear_error(run: Run, value: str, message: str) -> None:
    ran = run("simulate", "chat.yaml", "--set", f"scenarios.chat.anchor={value}")
    assert ran.code == 2
    assert message in ran.err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("phase", "size", "metric", "value"),
    [
        ("prefill", "tokens_per_device: 4096", "ttft", 0.2), ("decode", "batch_per_device: 32", "tpot", 0.012),
        ("generate", "batch: 32", "latency", 4.0),
    ],
)  # fmt: skip
def test_passes_and_batches_are_anchored_by_what_they_state(
    run: Run, folder: Path, phase: str, size: str, metric: str, value: float
) -> None:
    lengths = "input_tokens: 1024" + ("" if phase == "prefill" else "\n    output_tokens: 256")
    text = CHAT.partition("    concurrency")[0].replace("serving", phase) + f"    {size}\n    {lengths}\n"
    write(folder, "chat.yaml", text)
    plain = chat(run)["metrics"][metric]
    own = chat(run, "--set", f"scenarios.chat.anchor={{metric: {metric}, value: {1.1 * plain} s}}")
    assert own["metrics"][metric] == pytest.approx(1.1 * plain, rel=0.02)
    assert own["anchor"]["ratios"] == pytest.approx([1.1])
    assert value / 20.0 < plain < 20.0 * value


@pytest.mark.usefixtures("folder")
def test_compare_says_how_much_slower_the_engine_is_and_offers_the_anchor(run: Run, folder: Path) -> None:
    write(folder, "result.json", run("simulate", "chat.yaml", "--json").out)
    predicted = chat(run)["metrics"]["tpot"]
    write(folder, "slow.json", json.dumps(BENCH | {"mean_tpot_ms": 1120.0 * predicted}))
    out = run("compare", "result.json", "slow.json").out
    assert "12% slower than predicted" in out
    assert "--anchor slow.json" in out


@pytest.mark.usefixtures("folder")
def test_a_search_is_anchored(run: Run) -> None:
    asked = "chat.yaml", "--set", "scenarios.chat.cluster=nodes/dgx-h100", "--devices", "1", "--json"
    plain = json.loads(run("search", *asked, "--objective", "maximise tokens_per_second").out)
    moved = json.loads(
        run("search", *asked, "--objective", "maximise tokens_per_second", "--set",
            "scenarios.chat.anchor={metric: tpot, value: 40 ms}").out
    )  # fmt: skip
    assert json.dumps(plain) != json.dumps(moved)


CASES = """
schema: costmodel/case@1
source: {cite: "own runs"}
cases:
  - id: own
    class: serving
    scenario:
      model: models/llama-3-8b
      phase: serving
      cluster: nodes/h100-x1
      framework: vllm
      concurrency: 64
      input_tokens: 1024
      output_tokens: 256
      anchor: {metric: tpot, value: 17 ms}
    expect: [{metric: tpot, value: 17 ms, tolerance: 10 %}]
  - id: other
    class: serving
    scenario:
      model: models/llama-3-8b
      phase: serving
      cluster: nodes/h100-x1
      framework: vllm
      concurrency: 32
      input_tokens: 1024
      output_tokens: 256
    expect: [{metric: tpot, value: 12 ms, tolerance: 50 %}]
"""


def test_a_run_that_anchors_its_own_prediction_is_shown_and_not_scored(run: Run, folder: Path) -> None:
    write(folder, "own.yaml", CASES)
    ran = run("reproduce", "own.yaml", "--json")
    rows = {row["id"]: row for row in json.loads(ran.out)}
    assert rows["own"]["state"] == "anchored"
    assert rows["own"]["error"] is None
    assert "rests on the measured tpot" in rows["own"]["reason"]
    assert rows["other"]["error"] is not None
