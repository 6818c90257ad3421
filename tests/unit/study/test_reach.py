"""Dual questions: how far a number goes under constraints, and the fewest devices that keep them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import costmodel
from costmodel.errors import InputError
from costmodel.study.goals import SearchResult
from costmodel.study.reach import Number
from costmodel.study.search import Space, searched, settings
from costmodel.study.sweep import Wanted

SCENARIOS: dict[str, dict[str, Any]] = {
    "training": {"phase": "training", "global_batch": 16, "sequence": 2048},
    "decode": {"phase": "decode", "input_tokens": 1024, "output_tokens": 100, "batch_per_device": 8},
    "serving": {
        "phase": "serving", "framework": "vllm", "input_tokens": 500, "output_tokens": 10, "rate": "40 /s",
        "slo": {"tpot": "25 ms"},
    },
}  # fmt: skip
LENGTH, BANDWIDTH = "scenarios.decode.input_tokens", "hardware.memory.hbm.bandwidth"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> costmodel.Workload:
    """Return scenarios of a model of two layers on nodes with a network."""
    path = tmp_path_factory.mktemp("reach") / "workload.yaml"
    scenarios = {name: {"cluster": "nodes/dgx-h100", **one} for name, one in SCENARIOS.items()}
    path.write_text(
        json.dumps({"schema": "costmodel/workload@1", "model": "models/llama-3-8b", "scenarios": scenarios})
    )
    return costmodel.load(path, set={"model.layers.0.repeat": 2})


def found(
    workload: costmodel.Workload, scenario: str, objective: str | None, *constraints: str, devices: tuple[int, ...] = ()
) -> SearchResult:
    return searched(workload, scenario, objective, Wanted({}, constraints), Space(devices))


def best(result: SearchResult) -> float:
    assert result.best, result.why
    return result.best[0].objective


def test_the_dual_of_a_dual_is_the_same_point(small: costmodel.Workload) -> None:
    longest = found(small, "decode", "maximise input_tokens", "tpot <= 4 ms", devices=(2,))
    there = small.changed({LENGTH: str(int(best(longest)))})
    fastest = best(found(there, "decode", "minimise tpot", devices=(2,)))
    again = found(small, "decode", "maximise input_tokens", f"tpot <= {fastest * (1 + 1e-9)} s", devices=(2,))
    assert fastest <= 4e-3
    assert best(again) == best(longest)


def test_nothing_is_found_one_step_beyond_the_end(small: costmodel.Workload) -> None:
    result = found(small, "decode", "maximise input_tokens", "tpot <= 4 ms", devices=(2,))
    assert result.reached is not None
    assert result.reached.beyond is not None
    assert result.reached.beyond / result.reached.value < 1.002  # ten significant bits
    beyond = small.changed({LENGTH: str(result.reached.beyond)})
    assert not found(beyond, "decode", None, "tpot <= 4 ms", devices=(2,)).best


@pytest.mark.parametrize(
    ("scenario", "objective", "metric", "bounds"),
    [
        ("decode", "maximise input_tokens", "tpot <= {} ms", (3, 6)),
        ("decode", f"minimise {BANDWIDTH}", "tpot <= {} ms", (3, 6)),
        ("training", "maximise sequence", "step_time <= {} s", (1, 2)),
        ("serving", "maximise rate", "cost_rate <= {} $/h", (7, 14)),
    ],
)
def test_a_looser_bound_is_no_worse(
    scenario: str, objective: str, metric: str, bounds: tuple[int, int], small: costmodel.Workload
) -> None:
    devices = (2,) if scenario == "decode" else ()
    tight, loose = (best(found(small, scenario, objective, metric.format(each), devices=devices)) for each in bounds)
    assert loose < tight if objective.startswith("minimise") else loose > tight


def test_both_numbers_of_devices_reach_as_far_as_the_better_of_them(small: costmodel.Workload) -> None:
    ends = [best(found(small, "decode", "maximise input_tokens", "tpot <= 4 ms", devices=each)) for each in
            ((1,), (4,), (1, 4))]  # fmt: skip
    assert ends[2] == max(ends[:2])


def test_the_fewest_devices_keep_a_limit_that_fewer_of_those_tried_do_not(small: costmodel.Workload) -> None:
    one = best(found(small, "training", "minimise step_time", devices=(1,)))
    limit = f"step_time <= {one / 5} s"
    fewest = found(small, "training", "minimise devices", limit)
    reached = int(best(fewest))
    assert reached > 1
    tried = tuple(number for number in fewest.devices if number < reached)
    assert not found(small, "training", None, limit, devices=tried).best
    time = fewest.best[0].metrics["step_time"]
    assert best(found(small, "training", "minimise devices", f"step_time <= {time * (1 + 1e-9)} s")) == reached


def test_the_settings_of_an_end_evaluate_to_it(small: costmodel.Workload) -> None:
    result = found(small, "decode", f"minimise {BANDWIDTH}", "tpot <= 4 ms", devices=(2,))
    assert settings(small, result)[f"scenarios.decode.{BANDWIDTH}"].endswith("B/s")
    again = small.changed(settings(small, result)).evaluate("decode")
    assert again.metrics["tpot"] == pytest.approx(result.best[0].metrics["tpot"], rel=1e-12)


@pytest.mark.parametrize(
    ("objective", "constraints", "told"),
    [
        (f"maximise {BANDWIDTH}", (), "nothing limits hardware.memory.hbm.bandwidth"),
        ("maximise rate", (), "is no metric"),
        ("maximise input_token", (), "is no metric"),
    ],
)
def test_a_question_without_an_end_is_an_error(
    objective: str, constraints: tuple[str, ...], told: str, small: costmodel.Workload
) -> None:
    with pytest.raises(InputError, match=told):
        found(small, "decode", objective, *constraints, devices=(1,))


def test_a_limit_that_no_value_keeps_is_no_end(small: costmodel.Workload) -> None:
    result = found(small, "decode", "maximise input_tokens", "tpot <= 1 us", devices=(1,))
    assert not result.best
    assert "at input_tokens 1 to 1024" in str(result.why)


@given(value=st.floats(1.0, 1e12), whole=st.booleans())
def test_values_that_are_tried_are_near_and_stay(value: float, whole: bool) -> None:
    number = Number("path", "path", 1.0, "count", whole)
    rounded = number.rounded(value)
    assert number.rounded(rounded) == rounded
    assert abs(rounded / value - 1.0) <= (0.5 if value < 2.0 else 1 / 3 if value < 1024.0 else 0.005)
    if whole:
        assert rounded.is_integer()
        assert value >= 1024.0 or rounded == float(int(value))
