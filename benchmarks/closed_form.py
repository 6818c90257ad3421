"""Prints how far means of servers in closed form are from requests one by one: `python -m benchmarks.closed_form`.

A grid of engines, lengths of requests and loads; each point has the mean of several seeds. A load is a share of the
highest stable rate. TTFT within 10 % and TPOT within 5 % are wanted up to 0.9 of it.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from statistics import fmean

import costmodel

WORKLOAD = """schema: costmodel/workload@1
model: models/{model}
scenarios:
  one: {{phase: serving, cluster: nodes/{node}, framework: {framework}, parallel: {{tp: {tp}}}, rate: 1 /s,
    input_tokens: {inputs}, output_tokens: {outputs}, requests: {{count: {count}}}}}
"""
ENGINES = tuple(
    {"model": model, "node": "dgx-h100", "tp": tp, "framework": framework}
    for (model, tp), framework in itertools.product(
        (("llama-3-8b", 1), ("qwen3-32b", 2)), ("vllm", "sglang", "trt-llm")
    )
)
LENGTHS = ((128, 128), (1024, 256), (4096, 512))
LOADS = (0.3, 0.7, 0.9)
COUNT, SEEDS = 1000, 2
TIMES = ("ttft", "tpot")


def point(loaded: costmodel.Workload, rate: float) -> dict[str, float]:
    """Return by how much the closed form's mean times are longer than those of requests, at a rate [-]."""
    found: dict[str, list[float]] = {name: [] for name in TIMES}
    for seed in range(SEEDS):
        run = loaded.changed({"scenarios.one.rate": f"{rate} /s", "scenarios.one.simulation": {"seed": seed}})
        closed, served = (run.evaluate("one", engine=each).point().metrics for each in ("analytic", "event"))
        for name in TIMES:
            known, own = served[name], closed[name]
            assert known is not None
            assert own is not None
            found[name].append(float(own) / float(known) - 1.0)
    return {name: fmean(each) for name, each in found.items()}


def main() -> None:
    """Print a line for each engine and lengths, with the differences at each load."""
    print("engine", "input", "output", *(f"{name} at {load:.0%}" for load in LOADS for name in TIMES), sep=" | ")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.yaml"
        for engine, (inputs, outputs) in itertools.product(ENGINES, LENGTHS):
            content = WORKLOAD.format(**engine, inputs=inputs, outputs=outputs, count=COUNT)
            path.write_text(content, encoding="utf-8")
            loaded = costmodel.load(path)
            highest = loaded.evaluate("one").point().metrics["highest_stable_rate"]
            assert highest is not None
            points = [point(loaded, load * float(highest)) for load in LOADS]
            cells = (f"{each[name]:+.0%}" for each in points for name in TIMES)
            print(f"{engine['model']} {engine['framework']}", inputs, outputs, *cells, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
