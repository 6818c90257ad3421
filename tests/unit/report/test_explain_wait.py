"""The equations of waits that `explain` prints: their terms give the line's time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import costmodel
from costmodel.report.explain import explain, lines
from costmodel.report.explain_wait import WAITS

TEXT = """
schema: costmodel/workload@1
model: models/{model}
scenarios:
  serving: {{phase: serving, cluster: nodes/{node}, framework: {framework}, parallel: {{{parallel}}},
    input_tokens: 3000, output_tokens: 500, {more}}}
"""
DENSE = "llama-3-8b", "h100-x1", "tp: 1"
CASES = {
    "at a rate": (DENSE, "vllm", "rate: 4 /s", "rest of the running step"),
    "prompts that gather": (DENSE, "vllm", "rate: 6 /s, scheduler: {token_budget: 8192}", "prompts of the same step"),
    "few seats": (DENSE, "vllm", "rate: 2 /s, scheduler: {max_num_seqs: 16}", "waiting for a seat"),
    "a look every ten steps": (DENSE, "sglang", "rate: 4 /s, scheduler: {look_steps: 10}", "behind other prompts"),
    "a closed loop": (DENSE, "vllm", "concurrency: 64", "steps under way"),
    "a closed loop beyond memory": (DENSE, "vllm", "concurrency: 900", "waiting for memory"),
    "full steps": (DENSE, "vllm", "concurrency: 200, scheduler: {token_budget: 512}", "waiting for a chunk"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_terms_of_a_wait_give_its_time(case: str, tmp_path: Path) -> None:
    (model, node, parallel), framework, more, shown = CASES[case]
    path = tmp_path / "serving.yaml"
    path.write_text(TEXT.format(model=model, node=node, parallel=parallel, framework=framework, more=more))
    workload = costmodel.load(path)
    waits = {line.name: line.time for line in lines(workload, "serving") if line.name in WAITS and line.time > 0.0}
    assert shown in waits
    for name, time in waits.items():
        (found,) = explain(workload, "serving", name)
        _, equation = found.equation.split(" = ", 1)
        value = eval(equation, {"__builtins__": {}, "max": max}, dict(found.terms))
        assert math.isclose(value, time, rel_tol=1e-9), (name, equation, found.terms)
        assert found.time == time
