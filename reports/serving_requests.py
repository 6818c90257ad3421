"""The requests of a measured serving run, drawn from its configuration, for `python -m reports.serving --engine event`.

Stages of inference-perf: exponential gaps, scaled so that exactly rate x duration requests fill the stage (its
ConstantLoadTimer); ten groups of ten prompts, each group with one system prompt. Stages of guidellm at a constant rate:
equal gaps, ShareGPT's lengths as below, prompts that share nothing.
Closed loops: each user's next request follows the last one, ten requests a user, lengths uniform between 80 and 100 %
of the nominal ones (`vllm bench serve --random-range-ratio`, as SemiAnalysis InferenceX calls it).
ShareGPT's requests: exponential lengths with the run's means (decision 0256).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

GROUPS, PROMPTS = 10, 10  # of inference-perf's shared prefixes: system prompts, and questions to each
BLOCK = 16  # tokens of a block
PER_USER = 10  # requests of a closed loop
SHORTEST = 0.8  # of the nominal length
EVEN = "constant"  # arrivals at equal gaps, as guidellm's
Row = Mapping[str, str]


def stage_trace(row: Row, path: Path) -> None:
    """Write the requests of a stage as a trace with the blocks of their prompts.

    row: with `rate_per_s`, `n_requests` or `duration_s`, `input_mean`, `output_mean`, and where known
    `system_prompt_tokens`.
    """
    rate, count = float(row["rate_per_s"]), _count(row)
    draw = np.random.default_rng(0)
    is_even = row.get("arrival") == EVEN
    gaps = np.ones(count) if is_even else draw.exponential(1.0, count)
    arrival = (np.cumsum(gaps) - gaps[0]) * (count / rate) / gaps.sum()
    prompt, output = round(float(row["input_mean"])), round(float(row["output_mean"]))
    if is_even and _is_sharegpt(row):
        drawn = [np.maximum(np.rint(draw.exponential(mean, count)), 1).astype(int) for mean in (prompt, output)]
        lines = [f"{at!r},{first},{later}" for at, first, later in zip(arrival.tolist(), *drawn, strict=True)]
        path.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *lines]) + "\n", encoding="utf-8")
        return
    shared = row.get("system_prompt_tokens", "null")
    system = 0 if shared in ("", "null") else int(float(shared)) // BLOCK
    blocks = prompt // BLOCK
    chosen = draw.integers(0, GROUPS * PROMPTS, count)
    lines = ["arrival_s,input_tokens,output_tokens,block_ids"]
    for at, number in zip(arrival.tolist(), chosen.tolist(), strict=True):
        group = number // PROMPTS
        ids = [*range(group * system, (group + 1) * system)]
        first = GROUPS * system + number * (blocks - system)
        ids += range(first, first + blocks - system)
        lines.append(f"{at!r},{prompt},{output},{' '.join(map(str, ids))}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _count(row: Row) -> int:
    stated = row.get("n_requests", "null")
    return (
        int(float(stated)) if stated not in ("", "null") else round(float(row["rate_per_s"]) * float(row["duration_s"]))
    )


def over_time(row: Row, scenario: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a row's scenario with its requests over time; traces are written into the folder."""
    if "isl_mean" in row:
        lengths = {
            name: {"distribution": "uniform", "low": int(SHORTEST * float(row[key])), "high": int(float(row[key]))}
            for name, key in (("input", "isl"), ("output", "osl"))
        }
        count = PER_USER * int(scenario["concurrency"]) * scenario["parallel"].get("dp", 1)
        ranks = {"replicas": {"routing": "least_loaded"}} if "dp" in scenario["parallel"] else {}
        return {**scenario, **ranks, "requests": {"arrivals": "closed_loop", "count": count, **lengths}}
    if "rate" not in scenario:
        lengths = _lengths(row, scenario)
        return {**scenario, "requests": {"arrivals": "closed_loop", "count": _closed(row, scenario), **lengths}}
    stage_trace(row, folder / "requests.csv")
    kept = {key: value for key, value in scenario.items() if key not in ("rate", "prefix_hit_rate")}
    return {**kept, "requests": {"trace": "requests.csv"}}


def _lengths(row: Row, scenario: Mapping[str, Any]) -> dict[str, Any]:
    """Return how long requests are where they differ: those of ShareGPT."""
    if not _is_sharegpt(row):
        return {}
    return {name: {"distribution": "exponential", "mean": scenario[f"{name}_tokens"]} for name in ("input", "output")}


def _is_sharegpt(row: Row) -> bool:
    """Tell whether a row's requests are ShareGPT's; those of a workload that is not named have its means."""
    return row.get("workload", "").startswith(("ShareGPT", "null"))


def _closed(row: Row, scenario: Mapping[str, Any]) -> int:
    stated = row.get("n_requests", "null")
    return PER_USER * int(scenario["concurrency"]) if stated in ("", "null") else int(float(stated))
