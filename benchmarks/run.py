"""Prints every speed figure beside its target: `python -m benchmarks.run`, with one BLAS thread.

Seconds are of the processor; what `processor_time.UNIT` takes meanwhile says how fast the machine was.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402  after the thread limits

import costmodel  # noqa: E402
from benchmarks.processor_time import UNIT, command_seconds, seconds, unit_seconds  # noqa: E402
from costmodel.event.engine import run  # noqa: E402
from costmodel.event.graph import Graph, Task  # noqa: E402

POINTS = 100_000
TRAINING = "scenarios.training"
NVLINK, NIC = "hardware.links.nvlink.bandwidth", "hardware.node.nic.bandwidth"


def predict_rows(count: int) -> float:
    """Return the processor time of `costmodel predict` for products, cores and streams of random shapes [s]."""
    generator = np.random.default_rng(0)
    third = count // 3
    lines = ["device,op,sub_op,dtype_in,m,n,k,batch,q_heads,kv_heads,head_dim,v_head_dim,q_len,kv_len"]
    for m, n, k in generator.integers(1, 16_384, (third, 3)):
        lines.append(f"H800_SXM,gemm,,bf16,{m},{n},{k},,,,,,,")
    for batch, keys in generator.integers(1, 16_384, (third, 2)):
        lines.append(f"A100_SXM4_80GB,attention_decode,,bf16,,,,{batch},32,8,128,128,1,{keys}")
    for m, n in generator.integers(1, 65_536, (count - 2 * third, 2)):
        lines.append(f"RTX_4090,elementwise,silu_and_mul,bf16,{m},{n},,,,,,,,")
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "rows.csv")
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return command_seconds("predict", str(table), "--output", str(table.with_name("predicted.csv")), repeats=1)


def operators_on_streams(count: int) -> float:
    """Return the shortest processor time of `count` operators on 16 streams that wait for each other [s]."""
    graph = Graph()
    streams = [graph.stream(f"device {number // 2}", number // 2, "stream") for number in range(16)]
    for number in range(count):
        graph.add(Task("kernel", streams[number % 16], 1e-3 * (1 + number % 7), (number - 5,) if number >= 5 else ()))
    return seconds(lambda: run(graph))


def whole_step(changes: dict[str, str]) -> tuple[float, float]:
    """Return the processor time of DeepSeek-V3's step on all 16 ranks, cold [s], and its process's most memory [B]."""
    program = (
        "import costmodel, resource, time; start = time.process_time();"
        "from costmodel.api import event_engine;"
        f"workload = costmodel.load('deepseek_v3', set={changes}, scenarios=['training']);"
        "workload.points(engine='event', simulation=event_engine(full=True));"
        "print(time.process_time() - start, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    found = [subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()]
    spent, memory = found[0]
    return float(spent), float(memory)


def report(what: str, measured: float, target: float, unit: str, *, at_most: bool) -> None:
    """Print one figure with its target."""
    met = measured <= target if at_most else measured >= target
    sign = "<=" if at_most else ">="
    print(f"{what:58} {measured:12,.4g} {unit:9} {sign} {target:10,.4g}  {'OK' if met else 'MISS'}")


def main() -> None:
    """Measure and print."""
    print(f"{UNIT}: {1e3 * unit_seconds():.1f} ms")
    report("costmodel --help", command_seconds("--help"), 0.15, "s", at_most=True)
    report("simulate deepseek_v3, cold", command_seconds("simulate", "deepseek_v3"), 0.5, "s", at_most=True)
    report("predict 50,000 rows", predict_rows(50_000), 20, "s", at_most=True)
    report("100,000 operators on streams", operators_on_streams(100_000), 2, "s", at_most=True)
    shared = {f"{TRAINING}.simulation.contention": "true"}
    for told, changes in (("", {}), (", all links shared", shared)):
        spent, memory = whole_step(changes)
        report(f"DeepSeek-V3's step by events, 16 ranks, cold{told}", spent, 5, "s", at_most=True)
        report("and its memory", memory / 2**30, 1, "GiB", at_most=True)
    workload = costmodel.load("deepseek_v3", set={"hardware.memory.hbm.capacity": "100 TiB"})
    workload.evaluate("training")
    spent = seconds(lambda: workload.evaluate("training"), 10)
    report("one evaluation of training", 1e3 * spent, 10, "ms", at_most=True)

    product: dict[str | tuple[str, ...], Any] = {
        NVLINK: np.linspace(100e9, 900e9, 37),
        NIC: np.linspace(20e9, 200e9, 37),
        f"{TRAINING}.micro_batch": [1, 2, 3],
        f"{TRAINING}.sequence": 1024 + 256 * np.arange(25),
    }
    grid = workload.evaluate("training", vary=product)
    times = np.asarray(grid.metrics["step_time"])
    points = times.size
    assert np.all(grid.fits)
    spent = seconds(lambda: workload.evaluate("training", vary=product))
    report(f"product grid of {points:,} points", points / spent, 300_000, "points/s", at_most=False)
    spent = seconds(lambda: grid.intervals, 1)  # kept from then on
    report("intervals of the product grid", points / spent, 30_000, "points/s", at_most=False)

    generator = np.random.default_rng(0)
    scattered: dict[str | tuple[str, ...], Any] = {
        (f"{TRAINING}.sequence", NVLINK, NIC): (
            1024 + np.arange(POINTS),
            generator.uniform(100e9, 900e9, POINTS),
            generator.uniform(20e9, 200e9, POINTS),
        )
    }
    cloud = workload.evaluate("training", vary=scattered)
    assert np.all(cloud.fits)
    spent = seconds(lambda: workload.evaluate("training", vary=scattered), 2)
    report("100,000 scattered points, all shapes distinct", POINTS / spent, 20_000, "points/s", at_most=False)

    worst = 0.0
    for index in generator.integers(0, points, 20):
        place = tuple(int(position) for position in np.unravel_index(index, times.shape))
        worst = max(worst, abs(grid.at(*place)["metrics"]["step_time"] / times[place] - 1))
    apart = np.asarray(cloud.metrics["step_time"])
    for index in generator.integers(0, POINTS, 20):
        worst = max(worst, abs(cloud.at(int(index))["metrics"]["step_time"] / apart[index] - 1))
    report("largest deviation of a grid from its single points", worst, 1e-9, "", at_most=True)
    print(f"{UNIT}, again: {1e3 * unit_seconds():.1f} ms")


if __name__ == "__main__":
    main()
