"""Prints how fast grids of serving points and a cold `simulate` are: `python -m benchmarks.serving`, on one thread.

Seconds are of the processor, the best of three.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402  after the thread limits

import costmodel  # noqa: E402
from benchmarks.processor_time import UNIT, command_seconds, seconds, unit_seconds  # noqa: E402

POINTS, TARGET, COLD = 100_000, 20_000, 0.5
WORKLOAD = """schema: costmodel/workload@1
model: models/{model}
scenarios:
  one: {{phase: serving, cluster: nodes/{node}, framework: {framework}, input_tokens: 1024, output_tokens: 256, {more}}}
"""
DENSE = {"model": "llama-3-8b", "node": "h100-x1", "framework": "vllm"}
EXPERTS = {"model": "deepseek-v3", "node": "hgx-h200", "framework": "sglang"}
SIDE = round(POINTS**0.5)
LENGTHS = np.unique(np.rint(np.geomspace(64, 8192, SIDE)))
USERS = np.unique(np.rint(np.geomspace(1, 2000, SIDE)))
RATES = np.geomspace(0.1, 20, SIDE)


def grid(label: str, workload: Mapping[str, str], more: str, axes: Mapping[str, np.ndarray]) -> None:
    """Print the points a second of a grid, of its times to first token and per token."""
    varied: dict[str | tuple[str, ...], object] = {f"scenarios.one.{name}": values for name, values in axes.items()}
    points = int(np.prod([len(values) for values in axes.values()]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serving.yaml"
        path.write_text(WORKLOAD.format(**workload, more=more), encoding="utf-8")
        loaded = costmodel.load(path)

        def run() -> None:
            metrics = loaded.evaluate("one", vary=varied).metrics
            assert metrics["ttft"] is not metrics["tpot"]

        print(f"{label}: {points:,} points, {points / seconds(run):,.0f} a second (>= {TARGET:,})")


def cold() -> None:
    """Print the processor time of a new process that simulates one scenario, its bytecode written before."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serving.yaml"
        path.write_text(WORKLOAD.format(**DENSE, more="rate: 4 /s"), encoding="utf-8")
        spent = command_seconds("simulate", str(path), "--json")
    print(f"simulate, cold: {spent:.2f} s (<= {COLD})")


if __name__ == "__main__":
    print(f"{UNIT}: {1e3 * unit_seconds():.1f} ms")
    grid("rate by prompt", DENSE, "rate: 4 /s", {"rate": RATES, "input_tokens": LENGTHS})
    grid("users by prompt", DENSE, "concurrency: 16", {"concurrency": USERS, "input_tokens": LENGTHS})
    layout = "parallel: {tp: 8}, precision: {compute: fp8-inference, fallback: bf16}"
    grid("users by prompt, experts", EXPERTS, f"concurrency: 16, {layout}",
         {"concurrency": USERS, "input_tokens": LENGTHS})  # fmt: skip
    cold()
