"""Answers of two or three tokens: a request's later tokens take no less than steps that only decode."""

from __future__ import annotations

import pytest

import costmodel


@pytest.mark.parametrize("framework", ["vllm", "sglang"])
@pytest.mark.parametrize("tokens", [2, 3])
def test_a_token_of_a_short_answer_takes_no_less_than_one_of_a_long_answer_alone(framework: str, tokens: int) -> None:
    def metrics(concurrency: int, output: int) -> dict[str, float]:
        scenario = {
            "phase": "serving", "cluster": "nodes/dgx-h100", "framework": framework, "parallel": {"tp": 1},
            "input_tokens": 4096, "output_tokens": output, "concurrency": concurrency, "precision": "bf16",
        }  # fmt: skip
        file = {"schema": "costmodel/workload@1", "model": "llama-3-8b", "scenarios": {"s": scenario}}
        return {name: float(value) for name, value in costmodel.load(file).evaluate("s").metrics.items() if value}

    short, alone = metrics(2, tokens), metrics(1, tokens)
    assert short["tpot"] >= 0.99 * alone["tpot"]
    assert short["latency"] >= short["ttft"]
