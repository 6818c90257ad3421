"""Prints how many points a second the recurrence evaluates on one thread: `python benchmarks/recurrence.py`."""

from __future__ import annotations

import time

import numpy as np

from costmodel.analytic.recurrence import Program, Slot, compile_schedule, makespan
from costmodel.quantities import Seconds

CASES = ((1, 1), (13, 13), (16384, 1024), (16384, 2048), (16384, 4096), (16384, 8192))  # points, points in a chunk


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
    """Print a line for each schedule length, chunk size, and with and without transfer times."""
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
