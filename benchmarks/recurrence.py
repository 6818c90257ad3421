"""Prints how fast the recurrence is on one thread: `python benchmarks/recurrence.py`.

Points a second of DeepSeek-V3's order, and the parts of a first evaluation of long orders on many ranks.
"""

from __future__ import annotations

import time

import numpy as np

from costmodel.analytic.recurrence.program import Program, Slot, compile_schedule
from costmodel.analytic.recurrence.tape import makespan
from costmodel.quantities import Seconds
from costmodel.workload.schedules.catalogue import folded_order

CASES = ((1, 1), (13, 13), (16384, 1024), (16384, 2048), (16384, 4096), (16384, 8192))  # points, points in a chunk
LONG = (("dualpipe", 16, 1, 120), ("1f1b", 64, 1, 512), ("interleaved", 64, 2, 512), ("zb-v", 64, 2, 512))


def first_evaluation(schedule: str, pp: int, virtual: int, micro_batches: int) -> None:
    """Print what a new order takes: to write it, to compile it, to evaluate it at 13 points and at one."""
    clock = [time.perf_counter()]
    folded_order(schedule, pp, virtual, micro_batches)
    clock.append(time.perf_counter())
    program = compile_schedule(schedule, pp, virtual, micro_batches)
    clock.append(time.perf_counter())
    for points in (13, 1):
        makespan(program, np.ones((len(program.slots), points)), 0.1)
        clock.append(time.perf_counter())
    written, compiled, many, one = (f"{1e3 * seconds:.0f} ms" for seconds in np.diff(clock))
    size = f"{schedule}, pp {pp}, virtual {virtual}, {micro_batches} micro-batches ({len(program.slot)} actions)"
    print(f"{size}: written {written}, compiled {compiled}, 13 points {many}, one point {one}")


def fastest(program: Program[Slot], points: int, chunk: int, transfer: Seconds) -> float:
    """Return the shortest of several evaluations [s]."""
    durations = 1.0 + 0.2 * np.random.default_rng(1).random((len(program.slots), points))
    times = []
    for _ in range(7):
        start = time.perf_counter()
        makespan(program, durations, transfer, chunk)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print a line for each long order, then for each schedule length, chunk size, with and without transfer times."""
    for case in LONG:
        first_evaluation(*case)
    for micro_batches in (120, 60, 40):
        start = time.perf_counter()
        program = compile_schedule("dualpipe", 16, 1, micro_batches)
        makespan(program, np.ones((len(program.slots), 1)), 0.1)
        first = time.perf_counter() - start
        print(f"dualpipe, pp 16, {micro_batches} micro-batches: first evaluation {first * 1e3:.0f} ms")
        for points, chunk in CASES:
            for transfer in (0.0, 0.1):
                seconds = fastest(program, points, chunk, transfer)
                rate = points / seconds
                print(
                    f"  {points:6} points by {chunk:5}, transfer {transfer}: {seconds * 1e3:7.2f} ms, {rate:10,.0f} /s"
                )


if __name__ == "__main__":
    main()
