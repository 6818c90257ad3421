"""`python -m benchmarks.app`: the page's first answer, changes of one user, ten users at once, and memory.

Changes are a random walk over the controls of six models on five machines, the same in every run. Bars are those that a
page keeps on two idle processors of which one does ten million additions in 0.3 s.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np

MODELS = ("llama-3-8b", "llama-3-70b", "qwen3-32b", "mixtral-8x7b", "gpt-oss-120b", "deepseek-v3")
CLUSTERS = ("nodes/dgx-h100", "nodes/hgx-h200", "nodes/hgx-b200", "nodes/dgx-a100", "clusters/h100-superpod")
VALUES: dict[str, dict[str, tuple[str, ...]]] = {
    "decode": {"batch_per_device": ("1", "4", "8", "32"), "input_tokens": ("128", "1024", "8192")},
    "prefill": {"input_tokens": ("512", "4096"), "parallel.tp": ("4", "8")},
    "serving": {"concurrency": ("1", "16", "64"), "output_tokens": ("128", "1024"), "parallel.tp": ("4", "8")},
    "training": {"micro_batch": ("1", "2"), "sequence": ("2048", "4096")},
}
LEVERS = ("fp8-kv", "fp8-inference", "two-micro-batches")
CHANGES, USERS, OF_EACH = 100, 10, 5
BARS = {"first answer": 2.0, "a change, p95": 0.3, "ten users at once, p95": 1.5}  # seconds
MOST_MEMORY = 2 * 2**30  # bytes of all processes, each page counted where it is first


def walk(seed: int) -> Iterator[str]:
    """Yield addresses, each one change away from the one before."""
    draw = random.Random(seed)
    state = {"of": draw.choice(MODELS), "on": CLUSTERS[0], "run": "decode"}
    while True:
        kind = draw.choice(("of", "on", "run", "value", "value", "value", "value", "lever"))
        if kind == "of":
            state["of"] = draw.choice(MODELS)
        elif kind == "on":
            state["on"] = draw.choice(CLUSTERS)
        elif kind == "run":
            state = {key: state[key] for key in ("of", "on")} | {"run": draw.choice(tuple(VALUES))}
        elif kind == "value":
            path = draw.choice(tuple(VALUES[state["run"]]))
            state[path] = draw.choice(VALUES[state["run"]][path])
        elif state.pop("lever", None) is None and state["run"] == "decode":
            state["lever"] = draw.choice(LEVERS)
        yield urlencode(state)


def timed(address: str, query: str) -> float:
    """Return the time of an answer [s]."""
    begin = time.perf_counter()
    with urlopen(f"{address}answer?{query}", timeout=120) as answer:
        json.loads(answer.read())
    return time.perf_counter() - begin


def memory(process: int) -> int:
    """Return the memory of a process and all that it started [B], pages that they share once."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = {process}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    total = 0
    for member in family:
        try:
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        total += 1024 * sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def additions() -> float:
    """Return the time of ten million additions [s], which tells how fast a processor is and how busy."""
    begin, total = time.perf_counter(), 0
    while total < 10_000_000:
        total += 1
    return time.perf_counter() - begin


def main() -> int:
    """Print each figure with its bar. Return 1 where one is missed."""
    print(f"{os.cpu_count()} processors, ten million additions in {additions():.2f} s")
    begin = time.perf_counter()
    served = subprocess.Popen(
        [sys.executable, "-m", "costmodel", "app", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert served.stdout is not None
        address = served.stdout.readline().split()[0]
        timed(address, "")
        measured = {"first answer": time.perf_counter() - begin}
        own = walk(1)
        times = [timed(address, next(own)) for _ in range(CHANGES)]
        measured["a change, p50"] = float(np.percentile(times, 50))
        measured["a change, p95"] = float(np.percentile(times, 95))
        again = walk(1)
        measured["the same change again, p95"] = float(
            np.percentile([timed(address, next(again)) for _ in range(CHANGES)], 95)
        )
        with ThreadPoolExecutor(USERS) as users:
            walks = [walk(seed) for seed in range(100, 100 + USERS)]
            rounds = [
                list(users.map(lambda each: timed(address, next(each)), walks, timeout=300)) for _ in range(OF_EACH)
            ]
        measured["ten users at once, p95"] = float(np.percentile(np.concatenate(rounds), 95))
        used = memory(served.pid)
    finally:
        served.terminate()
        served.wait(60)
    for name, seconds in measured.items():
        bar = f"   bar {BARS[name]:g} s" if name in BARS else ""
        print(f"{name:30} {seconds:7.3f} s{bar}")
    print(f"{'memory':30} {used / 2**20:7.0f} MiB   bar {MOST_MEMORY / 2**20:g} MiB")
    return 0 if used <= MOST_MEMORY and all(measured[name] <= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
