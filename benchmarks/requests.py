"""Speed of the request engine: python -m benchmarks.requests [small] [million] [prefix] [agents] [fleet]

agents: 10,000 requests of sessions, 98,300 tokens each on average, 48 sessions at a time on 8 devices; also as Python.
small: 10,000 requests on one engine; million: 10^6 on 64 engines dealt out in turn; prefix: the same routed by prefix;
fleet: 10^7 on 1,000 engines dealt out in turn, on as many threads as there are processors (only where it is named).
Prints seconds of all processors and of the clock (the loop, without pricing) at the second call, which has no
compilation, and the largest memory of the process.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import costmodel
from costmodel.serving.simulation import Simulation
from costmodel.workload.plans import Serving

WORKLOAD = """schema: costmodel/workload@1
model: models/llama-3-8b
scenarios:
  online: {{phase: serving, cluster: nodes/rtx-4090-x1, framework: vllm, input_tokens: 512, output_tokens: 200,
           rate: {rate} /s, requests: {{count: {count}, input: {{distribution: lognormal, mean: 512, deviation: 400,
           high: 4096}}, output: {{distribution: lognormal, mean: 200, deviation: 150, high: 2048}}{more}}},
           replicas: {{count: {replicas}, routing: {routing}}}}}
"""
AGENTS = """schema: costmodel/workload@1
model: models/llama-3-8b
scenarios:
  online: {phase: serving, cluster: nodes/hgx-h200, parallel: {tp: 8}, framework: vllm, input_tokens: 9000,
           output_tokens: 400, concurrency: 48, requests: {count: 10000, arrivals: closed_loop,
           sessions: {turns: 20, think_time: 2 s}}, replicas: {routing: prefix}}
"""
CASES: dict[str, dict[str, object]] = {
    "small": {"rate": 4, "count": 10_000, "replicas": 1, "routing": "round_robin", "more": ""},
    "million": {"rate": 256, "count": 1_000_000, "replicas": 64, "routing": "round_robin", "more": ""},
    "prefix": {
        "rate": 256, "count": 1_000_000, "replicas": 64, "routing": "prefix",
        "more": ", prefix: {groups: 200, tokens: 256}",
    },
    "fleet": {"rate": 4000, "count": 10_000_000, "replicas": 1000, "routing": "round_robin", "more": ""},
}  # fmt: skip


def run(name: str) -> None:
    """Print the speed of one case."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.yaml"
        path.write_text(AGENTS if name == "agents" else WORKLOAD.format(**CASES[name]), encoding="utf-8")
        loaded = costmodel.load(path)
    scenario = loaded.scenario("online")
    assert isinstance(scenario.plan, Serving)
    begin = time.process_time()
    workers = (os.cpu_count() or 1) if name == "fleet" else 1
    simulation = Simulation(scenario, scenario.plan, loaded.calibration(scenario), workers)
    print(f"{name}: requests and step times {time.process_time() - begin:.2f} s")
    calls = {"fleet": ("first",), "agents": ("first", "second", "Python's")}.get(name, ("first", "second"))
    for call in calls:
        simulation.compiles = call != "Python's"
        begin, wall = time.process_time(), time.perf_counter()
        served = simulation.run()
        spent, wall = time.process_time() - begin, time.perf_counter() - wall
        steps = served.engines.state["steps"].sum()
        print(f"{name}: {call} run {spent:.3f} s, {wall:.3f} s by the clock, {workers} threads, {steps:,} steps")
        del served
    print(f"{name}: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    for case in sys.argv[1:] or ("small", "million", "prefix", "agents"):
        run(case)
    print(f"the whole process: {time.process_time():.2f} s")
