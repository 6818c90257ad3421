"""Prints how long a million points and two searches take on one thread: `python -m benchmarks.studies`."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[name] = "1"

import costmodel  # noqa: E402  after the thread limits
from costmodel.schema.what_if import find_study  # noqa: E402
from costmodel.study.points import write_sweep  # noqa: E402
from costmodel.study.search import Space, searched  # noqa: E402
from costmodel.study.sweep import NOTHING, Wanted, plan_sweep  # noqa: E402
from costmodel.study.tables import best_form  # noqa: E402

GIB = 2**30


def sweep_a_million() -> None:
    """Measure the shipped study of V3's decode, its table written."""
    study = find_study("deepseek_v3_decode")
    assert study is not None, "it is shipped"
    start = time.perf_counter()
    workload = costmodel.load(study.file.workload, scenarios=study.file.scenarios)
    wanted = Wanted(study.file.derived, tuple(study.file.constraints))
    sweep = plan_sweep(workload, study.varied, every=True, wanted=wanted)
    with tempfile.TemporaryDirectory() as folder:
        write_sweep(sweep, Path(folder) / "table")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    print(f"{sweep.points:,} points with intervals, as {best_form()}: {seconds:.1f} s (<= 20), {peak:.2f} GiB (<= 1)")


def search_layouts(workload: str, scenario: str, devices: int, target: float) -> None:
    """Measure one search."""
    loaded = costmodel.load(workload, scenarios=[scenario])
    start = time.perf_counter()
    found = searched(loaded, scenario, None, NOTHING, Space([devices]))
    seconds = time.perf_counter() - start
    print(
        f"{workload} on {devices:,}: {found.looked_at:,} layouts, {found.scheduled:,} evaluated, best "
        f"{found.best[0].objective:.4g} s: {seconds:.1f} s (<= {target:g})"
    )


if __name__ == "__main__":
    sweep_a_million()
    search_layouts("gpt3_175b_a100", "selective", 64, 2)
    search_layouts("deepseek_v3", "training", 2048, 4)
