"""A search over several numbers of devices is never worse than one over some of them, whatever it looks for."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import costmodel
from costmodel.result import PHASES
from costmodel.study.goals import SENSES, Candidate, read_goal
from costmodel.study.search import Space, search

CHAT = {"phase": "serving", "framework": "vllm", "input_tokens": 500, "output_tokens": 10}
SCENARIOS: dict[str, dict[str, Any]] = {
    "training": {"phase": "training", "global_batch": 2, "sequence": 2048},
    "prefill": {"phase": "prefill", "input_tokens": 1024, "tokens_per_device": 4096},
    "decode": {"phase": "decode", "input_tokens": 1024, "output_tokens": 100, "batch_per_device": 8},
    "open": {**CHAT, "rate": "40 /s", "slo": {"tpot": "25 ms"}},
    "steady": {**CHAT, "rate": "40 /s"},
    "closed": {**CHAT, "concurrency": 32},
}
NUMBERS = (1, 2)
SLACK = 0.01  # of a constraint over what a layout on both devices reaches
ROUNDING = 1e-11  # relative: of layouts that differ by less the fewest devices are first
TIMES = {"training": "step_time", "prefill": "ttft", "decode": "tpot", "open": "latency", "closed": "latency"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> costmodel.Workload:
    """Return scenarios of a model of two layers on one node."""
    path = tmp_path_factory.mktemp("unions") / "workload.yaml"
    scenarios = {name: {"cluster": "nodes/dgx-h100", **one} for name, one in SCENARIOS.items()}
    document = {"schema": "costmodel/workload@1", "model": "models/llama-3-8b", "scenarios": scenarios}
    path.write_text(json.dumps(document))
    return costmodel.load(path, set={"model.layers.0.repeat": 2, "hardware.price.purchase": "30000 $"})


@cache
def best_of(
    workload: costmodel.Workload, scenario: str, objective: str, constraints: tuple[str, ...], devices: tuple[int, ...]
) -> Candidate | None:
    """Return the best layout on some numbers of devices; null where there is none."""
    goal = read_goal(workload.scenario(scenario).result_kind, scenario, objective, constraints, {})
    found = search(workload, scenario, goal, Space(devices)).best
    return found[0] if found else None


def objectives(scenario: str) -> list[str]:
    kind = SCENARIOS[scenario]["phase"]
    names = (*PHASES[kind][1], "devices", f"devices * {TIMES[scenario]}")
    return [f"{sense} {name}" for sense in SENSES for name in names]


@pytest.mark.parametrize("scenario", [name for name in TIMES if name != "prefill"])  # searched as decoding is
@settings(max_examples=2)
@given(data=st.data())
def test_more_numbers_of_devices_are_never_worse(scenario: str, data: st.DataObject, small: costmodel.Workload) -> None:
    objective = data.draw(st.sampled_from(objectives(scenario)))
    middle = best_of(small, scenario, f"minimise {TIMES[scenario]}", (), (2,))
    assert middle is not None
    limit = f"{TIMES[scenario]} <= {(1.0 + SLACK) * middle.objective} s"
    constraints = data.draw(st.sampled_from([(), (limit,), ("devices > 1", limit)]))
    together = best_of(small, scenario, objective, constraints, NUMBERS)
    for number in NUMBERS:
        alone = best_of(small, scenario, objective, constraints, (number,))
        if alone is not None:
            assert together is not None
            worse = SENSES[objective.partition(" ")[0]] * (together.objective - alone.objective)
            assert worse <= ROUNDING * abs(alone.objective)


def test_more_engines_of_a_layout_that_is_known_take_its_place_where_they_are_better(small: costmodel.Workload) -> None:
    """More layouts than are evaluated at once: the same engine comes again with more replicas, which wait less."""
    numbers = tuple(range(4, 513, 4))
    alone = best_of(small, "steady", "minimise latency", (), numbers[-1:])
    together = best_of(small, "steady", "minimise latency", (), numbers)
    assert alone is not None
    assert together is not None
    assert together.objective <= alone.objective
