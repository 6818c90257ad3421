"""What the host's program adds to a step of an inference engine."""

from __future__ import annotations

import pytest

import costmodel
from costmodel.errors import InputError

FREE = {f"framework.host.{name}": "0 s" for name in ("step", "sequence", "layer", "parallel", "experts")}


def tpot(workload: str, **host: str) -> float:
    changes = {**FREE, **{f"framework.host.{name}": value for name, value in host.items()}}
    loaded = costmodel.load(workload, set={f"scenarios.decode.{path}": value for path, value in changes.items()})
    return float(loaded.evaluate("decode").metrics["tpot"])


@pytest.mark.parametrize(
    ("host", "added"),
    [
        ({"step": "1 ms"}, 1e-3),
        ({"sequence": "10 us"}, 32 * 10e-6),  # a batch of 4 a device, which the eight of a group serve together
        ({"layer": "20 us"}, 80 * 20e-6),
        ({"layer": "20 us", "parallel": "5 us"}, 80 * 25e-6),
        ({"experts": "1 ms"}, 0.0),  # none of the layers has any
    ],
)
def test_a_step_is_longer_by_what_the_host_takes(host, added):
    assert tpot("llama2_70b_a100", **host) - tpot("llama2_70b_a100") == pytest.approx(added, abs=1e-9)


def test_layers_with_experts_take_their_share():
    workload = "mixtral_8x7b_h100"
    assert tpot(workload, experts="9 us") - tpot(workload) == pytest.approx(32 * 9e-6, abs=1e-9)


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
