"""What the host's program adds to a step of an inference engine."""

from __future__ import annotations

import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.serving.step_times import Sizes, StepPricer, StepTimes, make_tables

FREE = {f"framework.host.{name}": "0 s" for name in ("step", "layer")}


def tpot(workload: str, **host: str) -> float:
    changes = {**FREE, **{f"framework.host.{name}": value for name, value in host.items()}}
    loaded = costmodel.load(workload, set={f"scenarios.decode.{path}": value for path, value in changes.items()})
    return float(loaded.evaluate("decode").metrics["tpot"])


@pytest.mark.parametrize(
    ("host", "added"),
    [
        ({"step": "1 ms"}, 1e-3),
        ({"layer": "20 us"}, 80 * 20e-6),
        ({"step": "1 ms", "layer": "20 us"}, 1e-3 + 80 * 20e-6),
    ],
)
def test_a_step_is_longer_by_what_the_host_takes(host, added):
    assert tpot("llama2_70b_a100", **host) - tpot("llama2_70b_a100") == pytest.approx(added, abs=1e-9)


def test_the_breakdown_says_how_long_the_device_waits_for_the_host():
    loaded = costmodel.load("llama2_70b_a100", set={"scenarios.decode.framework.host.layer": "20 us"})
    document = loaded.evaluate("decode").at()
    (entry,) = [each for each in document["breakdown"] if each["name"] == "host"]
    assert (entry["bound"], entry["time"]) == ("latency", pytest.approx(80 * 20e-6))


def test_a_training_step_runs_ahead_of_the_host():
    plain, slow = (
        costmodel.load("gpt3_175b_a100", set={"scenarios.selective.framework.host.layer": layer})
        for layer in ("0 s", "1 ms")
    )
    steps = [float(each.evaluate("selective").metrics["step_time"]) for each in (plain, slow)]
    assert steps[0] == steps[1]


def test_a_negative_time_is_refused():
    with pytest.raises(InputError, match=r"host\.step"):
        costmodel.load("llama2_70b_a100", set={"scenarios.decode.framework.host.step": "-1 ms"})


HYBRID = """
schema: costmodel/workload@1
model: models/qwen3.5-9b
scenarios:
  prompts: {phase: prefill, cluster: nodes/dgx-h100, framework: vllm, precision: bf16, parallel: {}, input_tokens: 400,
    tokens_per_device: 800}
  tokens: {phase: decode, cluster: nodes/dgx-h100, framework: vllm, precision: bf16, parallel: {}, input_tokens: 400,
    output_tokens: 10, batch_per_device: 8}
  serving: {phase: serving, cluster: nodes/dgx-h100, framework: vllm, precision: bf16, parallel: {}, input_tokens: 400,
    output_tokens: 40, concurrency: 1, scheduler: {max_num_seqs: 16}}
"""
RECURRENCES = 24  # of the 32 layers


@pytest.fixture
def hybrid(tmp_path):
    """Return what evaluates a scenario of a model with recurrences, whose CUDA graphs end for so long."""
    path = tmp_path / "hybrid.yaml"
    path.write_text(HYBRID, encoding="utf-8")

    def load(scenario, recurrence, **changes):
        given = {f"framework.{name}": value for name, value in changes.items()}
        given["framework.host.recurrence"] = recurrence
        return costmodel.load(path, set={f"scenarios.{scenario}.{key}": value for key, value in given.items()})

    return load


def test_a_pass_with_prompts_waits_at_every_recurrence(hybrid):
    first, plain = (hybrid("prompts", time).evaluate("prompts").at() for time in ("500 us", "0 s"))
    assert first["metrics"]["ttft"] - plain["metrics"]["ttft"] == pytest.approx(RECURRENCES * 500e-6)
    (entry,) = [each for each in first["breakdown"] if each["name"] == "graph break"]
    assert entry["time"] == pytest.approx(RECURRENCES * 500e-6)


def test_decoding_steps_are_one_graph(hybrid):
    times = [hybrid("tokens", time).evaluate("tokens").metrics["tpot"] for time in ("500 us", "0 s")]
    assert times[0] == times[1]


def test_where_no_graph_holds_prompts_none_ends(hybrid):
    eager = {"eager_prompts": {"layer": "1 us"}}
    times = [hybrid("prompts", time, **eager).evaluate("prompts").metrics["ttft"] for time in ("500 us", "0 s")]
    assert times[0] == times[1]


def test_a_step_with_prompts_waits_at_every_recurrence_in_either_engine(hybrid):
    metrics = [hybrid("serving", time).evaluate("serving").at()["metrics"] for time in ("500 us", "0 s")]
    assert metrics[0]["ttft"] - metrics[1]["ttft"] == pytest.approx(RECURRENCES * 500e-6)
    longer = []
    for time, eager in (("500 us", {}), ("500 us", {"eager_prompts": {"layer": "1 us"}})):
        workload = hybrid("serving", time, **eager)
        scenario = workload.scenario("serving")
        pricer = StepPricer(scenario, scenario.plan, workload.calibration(scenario))
        steps = StepTimes(make_tables(pricer, Sizes(4, 512, 512)), Sizes(4, 512, 512), 0.0)
        longer.append(steps(2.0, 300.0, 1.0, 200.0, 200.0) - steps(2.0, 300.0))
    assert longer[0] - longer[1] == pytest.approx(RECURRENCES * 500e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("framework", "model", "ahead"),
    [
        ("sglang-0.5.9", "qwen3.5-9b", False), ("sglang-0.5.12", "qwen3.5-9b", False), ("sglang", "qwen3.5-9b", True),
        ("sglang-0.5.9", "llama-3-8b", True),
    ],
)  # fmt: skip
def test_sglang_prepares_no_step_ahead_of_recurrences_before_their_caches_had_buffers(
    framework, model, ahead, tmp_path
):
    path = tmp_path / "served.yaml"
    path.write_text(HYBRID.replace("vllm", framework).replace("qwen3.5-9b", model), encoding="utf-8")

    assert costmodel.load(path).scenario("serving").plan.scheduler.overlapped is ahead
