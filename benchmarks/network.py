"""Prints the speed of the flow level beside its targets: `python -m benchmarks.network`; the last part needs numba."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from benchmarks.processor_time import command_seconds, seconds
from benchmarks.run import report
from costmodel.records import replace

ENDPOINTS = 2_048
GIB = 2**30
BATCHES = (0.05, 0.025)


def by_symmetry(ranks: int) -> float:
    """Return the processor time of a uniform all-to-all on eight planes [s]."""
    from costmodel.network.group_links import layout
    from costmodel.network.simulation import FlowRun, run_collective
    from costmodel.schema.files import load_cluster

    cluster = replace(load_cluster("h800-2048-mpft"), count=float(ranks // 8))
    run = FlowRun(cluster, layout(cluster, ranks))
    return seconds(lambda: run_collective("all_to_all", 1e9, run))


def by_flows(batches: tuple[float, ...]) -> tuple[float, list[float]]:
    """Return (wall time [s], makespan for each batch [s]) of an all-to-all by ECMP on a two-level tree, by flows."""
    from costmodel.network.cluster_links import build_cluster_links
    from costmodel.network.flows import run_flows
    from costmodel.network.group_links import pairs
    from costmodel.network.routing import Flows, route
    from costmodel.quantities import Array
    from costmodel.schema.files import load_cluster

    cluster = load_cluster("h800-2048-mrft")
    assert cluster.network is not None
    single = replace(cluster, node=replace(cluster.node, count=1.0), network=replace(cluster.network, topology="ft2"))

    def makespan(batch: float, endpoints: int) -> float:
        import numpy as np

        links = build_cluster_links(single, endpoints)
        source, target = pairs(endpoints)
        size: Array = np.full(len(source), 1e9 / endpoints)
        return run_flows(route(links, Flows(source, target, size), "ecmp").incidence, size, batch=batch).makespan

    makespan(0.0, 64)  # compiles
    start = time.perf_counter()
    coarse = makespan(batches[0], ENDPOINTS)
    return time.perf_counter() - start, [coarse, *(makespan(batch, ENDPOINTS) for batch in batches[1:])]


def by_hashes(ranks: int) -> float:
    """Return the processor time of an all-to-all by ECMP on a tree of three levels, without the time to compile [s]."""
    from costmodel.network.group_links import layout
    from costmodel.network.simulation import FlowRun, run_collective
    from costmodel.schema.files import load_cluster

    cluster = load_cluster("h800-2048-mrft")
    assert cluster.network is not None
    network = replace(cluster.network, topology="ft3", radix=64.0, routing="ecmp")

    def run(count: int) -> None:
        single = replace(cluster, node=replace(cluster.node, count=1.0), network=network, count=float(count))
        run_collective("all_to_all", 1e9, FlowRun(single, layout(single, count)))

    run(256)  # compiles
    return seconds(lambda: run(ranks), repeats=1)


def main() -> None:
    """Measure and print; `--flows N` runs the flow-by-flow part alone, with the first N batches."""
    if "--flows" in sys.argv:
        warm, makespans = by_flows(BATCHES[: int(sys.argv[-1])])
        print(warm, *makespans, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    names = ("ft2", "mpft", "ft3", "sf", "df")
    report(
        "costmodel topology, the five of table 3", command_seconds("topology", *names, "--json"), 1, "s", at_most=True
    )
    for ranks, target in ((2_048, 10.0), (16_384, 200.0)):
        what = f"uniform all-to-all of {ranks:,} endpoints"
        report(what, 1e3 * by_symmetry(ranks), target, "ms", at_most=True)
    report("all-to-all of 16,384 endpoints by ECMP", by_hashes(16_384), 10, "s", at_most=True)
    subprocess.run([sys.executable, "-m", "benchmarks.network", "--flows", "1"], check=True, capture_output=True)
    start = time.perf_counter()
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.network", "--flows", "1"], check=True, capture_output=True, text=True
    )
    whole = time.perf_counter() - start
    warm, *_, memory = map(float, told.stdout.split())
    flows = f"{ENDPOINTS * (ENDPOINTS - 1):,} flows by ECMP"
    report(f"{flows}, compiled", warm, 5, "s", at_most=True)
    report(f"{flows}, whole process", whole, 10, "s", at_most=True)
    report(f"{flows}, memory", memory / GIB, 1, "GiB", at_most=True)
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.network", "--flows", "2"], check=True, capture_output=True, text=True
    )
    _, coarse, fine, _ = map(float, told.stdout.split())
    report("makespan when batches halve, change", 100 * abs(coarse / fine - 1), 0.5, "%", at_most=True)


if __name__ == "__main__":
    main()
