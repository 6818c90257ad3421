"""One process for long and for many: evaluations by threads and by processes are those of one, and memory stays.

`python -m benchmarks.long_life --evaluations 5000` loads and evaluates as many points that differ, and prints the
resident memory after each tenth.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import costmodel

Job = tuple[str, str, float]  # scenario, path, factor
JOBS: tuple[Job, ...] = tuple(
    (scenario, path, factor)
    for scenario, path in (
        ("decode", "hardware.device.memory.hbm.bandwidth"),
        ("prefill", "hardware.node.nic.bandwidth"),
        ("training", "hardware.links.nvlink.bandwidth"),
    )
    for factor in (0.5, 0.8, 1.5, 2.0)
)
THREADS = 8


def answer(job: Job) -> dict[str, object]:
    """Return the metrics of DeepSeek-V3's scenario with one parameter multiplied."""
    scenario, path, factor = job
    workload = costmodel.load("deepseek_v3", {path: f"{factor}x"}, scenarios=[scenario])
    return dict(workload.evaluate(scenario).metrics)


def side_by_side() -> dict[str, bool]:
    """Return, by the way in which they were evaluated, whether all jobs have the answers of one after the other."""
    sys.setswitchinterval(1e-5)  # s: threads take turns within a function
    one_by_one = [answer(job) for job in JOBS]
    ways: dict[str, Executor] = {f"{THREADS} threads": ThreadPoolExecutor(THREADS)}
    for method in ("fork", "spawn"):
        ways[f"processes by {method}"] = ProcessPoolExecutor(2, multiprocessing.get_context(method))
    same = {}
    for name, executor in ways.items():
        with executor:
            same[name] = list(executor.map(answer, JOBS * 4)) == one_by_one * 4
    return same


def _resident() -> float:
    """Return the memory that the process holds [MiB]."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize() / 2**20


def main() -> int:
    """Print what differs and what grows; return whether any answer differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=5000)
    count = parser.parse_args().evaluations
    same = side_by_side()
    for name, is_same in same.items():
        print(f"{name}: {'the same answers' if is_same else 'OTHER ANSWERS'} as one after the other")
    for number in range(count + 1):
        changes = {
            "scenarios.decode.batch_per_device": 2 + 2 * (number % 60),
            "scenarios.decode.input_tokens": 4000 + number,
        }
        costmodel.load("deepseek_v3", changes, scenarios=["decode"]).evaluate("decode")
        if number % max(count // 10, 1) == 0:
            print(f"{number:,} evaluations: {_resident():.0f} MiB", flush=True)
    return 0 if all(same.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
