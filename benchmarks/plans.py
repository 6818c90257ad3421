"""Plans against what they leave out: `python -m benchmarks.plans spaces 100`, `... matrix TRACES`, `... layouts NAME`.

spaces LAST [FIRST]: on random small spaces the plan's cost is that of playing every layout at every number of replicas,
a union of clusters costs no more than each, and neither the order of clusters nor the bounds change what it costs.
matrix: on each trace and device the plan keeps to its limits with three other seeds, which deal out the lengths of the
trace's requests anew among its arrivals, and one replica fewer fails. TRACES: a folder with the files of `TRACES`.
layouts: the training run that a plan finds is that of evaluating every layout of its space. NAME: one of `RUNS`, with
further options of the run as `PATH=VALUE`, which leave a smaller space.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError
from costmodel.planning import playing, servers, sizing, structures
from costmodel.planning.deployments import Deployment
from costmodel.planning.goodput import TrainingRun
from costmodel.planning.request import Limit, PlanRequest
from costmodel.planning.servers import plan_servers
from costmodel.planning.training import plan_training
from costmodel.quantities import Array, Indices
from costmodel.records import replace
from costmodel.study import search_steps
from costmodel.study.layouts import Variant
from costmodel.workload.scenario import Scenario

MODELS = ("llama-3-8b", "mistral-7b")
CLUSTERS = ("nodes/rtx-4090-x8", "nodes/h100-x1", "nodes/l4-x1")
TRACES = {"chat": "azure2023_conversation.csv", "code": "azure2023_code.csv", "agents": "mooncake_conversation.csv.gz",
          "batch": "servegen_deepseek_r1.csv"}  # fmt: skip
DEVICES = ("nodes/dgx-h100", "nodes/hgx-h200", "nodes/dgx-a100", "nodes/hgx-b200")
SEEDS = (101, 102, 103)  # none that a plan is sized with
RUNS = {
    "llama-512": PlanRequest(
        model="llama-3-70b", clusters=("nodes/dgx-h100",), train=True, tokens=15e12, devices=(512,)
    ),
    "llama-2048": PlanRequest(
        model="llama-3-70b", clusters=("nodes/dgx-h100",), train=True, tokens=15e12, devices=(2048,)
    ),
    "v3-2048": PlanRequest(
        model="deepseek-v3", clusters=("nodes/hgx-h800",), train=True, tokens=14.8e12, devices=(2048,)
    ),
}
LIMITS = {"chat": (1.0, 0.05), "code": (2.0, 0.05), "agents": (5.0, 0.05), "batch": (10.0, 0.1)}  # p99 TTFT, TPOT [s]


def cost(request: PlanRequest, *, bounded: bool = True) -> float | None:
    """Return what the best plan costs, null where none holds. bounded: without, every layout is played."""
    changes: dict[str, Any] = {"MOST_PLAYED": servers.MOST_PLAYED} if bounded else {"MOST_PLAYED": 1000, "_ROUGH": 1e9}
    with mock.patch.multiple(servers, **changes):
        played = [one for one in plan_servers(request, lambda _: None).best if one.played is not None]
    holding = [one.cost for one in played if one.holds]
    return min(holding, default=None)


def random_request(draw: random.Random) -> PlanRequest:
    """Return a request of few requests a second, on one to three clusters."""
    clusters = tuple(draw.sample(CLUSTERS, draw.choice((1, 2, 2))))
    return PlanRequest(
        model=draw.choice(MODELS), clusters=clusters, rate=draw.choice((1.0, 3.0, 8.0, 15.0)),
        isl=float(draw.choice((200, 800, 2000))), osl=float(draw.choice((20, 60, 150))),
        ttft=Limit(draw.choice((0.3, 0.8, 2.0)), draw.choice(("p99", "p90", "mean"))),
        tpot=Limit(draw.choice((0.02, 0.04, 0.08))),
    )  # fmt: skip


def spaces(number: int, first: int = 0) -> Iterator[str]:
    """Yield a line for each random space from `first` to `number` in which a property does not hold."""
    small: dict[str, Any] = {"ENGINES": {"vllm": "vLLM"}, "_narrower": lambda *_: iter(["fp8-tensor"])}
    with (
        mock.patch.multiple(structures, **small),
        mock.patch.object(sizing, "BUDGETS", ()),
        mock.patch.object(playing, "LEAST", {True: 300, False: 300}),
    ):
        for seed in range(first, number):
            request = random_request(random.Random(seed))
            best, every = cost(request), cost(request, bounded=False)
            each = [cost(replace(request, clusters=(one,))) for one in request.clusters]
            turned = cost(replace(request, clusters=request.clusters[::-1]))
            alone = min((one for one in each if one is not None), default=None)
            named = {"every layout": every, "each cluster": alone, "turned around": turned}
            for name, other in named.items():
                if other != best:
                    yield f"{seed}: {request}: {best} $/s, {name}: {other} $/s"
            print(f"{seed + 1} of {number}", file=sys.stderr)


class Unbounded:
    """In place of the bounds of a search: every layout may fit, and be the fastest."""

    def __init__(self, calibration: Calibration, base: Scenario, alike: Indices) -> None:
        del calibration, base
        self._size = len(alike)

    def memory(self, variant: Variant) -> Array:
        """Return no bytes of each layout."""
        del variant
        return np.zeros(self._size)

    def step(self, variant: Variant) -> Array:
        """Return a nanosecond for each layout."""
        return self.memory(variant) + 1e-9


def every_layout(request: PlanRequest) -> tuple[TrainingRun, int]:
    """Return the fastest run of evaluating every layout, and how many of those evaluated fit into memory."""
    evaluated = 0
    keep = search_steps._Race.keep

    def counted(race: search_steps._Race, done: search_steps._Evaluated) -> None:
        nonlocal evaluated
        evaluated += len(done.layouts)
        keep(race, done)

    with (
        mock.patch.object(search_steps, "Bounder", Unbounded),
        mock.patch.multiple(search_steps._Race, limit=np.inf, keep=counted),
    ):
        return plan_training(request).runs[0], evaluated


def layouts(name: str, changes: Sequence[str] = ()) -> Iterator[str]:
    """Yield the run that a plan finds, that of every layout, and whether they are one to nine digits."""
    stated = tuple((path, value) for path, _, value in (each.partition("=") for each in changes))
    request = replace(RUNS[name], changes=stated)
    start = time.process_time()
    found, middle = plan_training(request).runs[0], time.process_time()
    yield f"plan:  {shown(found)}, {middle - start:.1f} s of the processor"
    every, count = every_layout(request)
    yield f"every: {shown(every)}, {count:,} layouts that fit, {time.process_time() - middle:.1f} s"
    same = (found.at, shown(found)) == (every.at, shown(every))
    yield f"{name}: {'the same run' if same else 'ANOTHER RUN'}"


def shown(run: TrainingRun) -> str:
    """Return a run's step time in nine digits, its MFU and its layout."""
    metrics = run.point.metrics
    return f"{metrics['step_time']:.9g} s a step, MFU {metrics['mfu']:.3%}, {run.format}, {dict(run.at)}"


def replayed(one: Deployment, seed: int) -> bool:
    """Tell whether a deployment holds with another seed."""
    return replace(one.player, seed=seed, known={}).holds(one.replicas)


def matrix(folder: Path) -> None:
    """Print a row for each trace and device: the plan, seconds of the processor, and what its replays say."""
    held = fails = rows = runs = 0
    for name, file in TRACES.items():
        ttft, tpot = LIMITS[name]
        for cluster in DEVICES:
            request = PlanRequest(
                model="qwen3-32b", clusters=(cluster,), trace=str(folder / file), ttft=Limit(ttft), tpot=Limit(tpot)
            )
            start = time.process_time()
            try:
                best = plan_servers(request, lambda _: None).best
            except InputError as error:
                print(f"{name:7} {cluster:16} {error}", flush=True)
                continue
            spent = time.process_time() - start
            one = next((each for each in best if each.played is not None), None)
            if one is None or not one.holds:
                print(f"{name:7} {cluster:16} nothing holds, {spent:.1f} s", flush=True)
                continue
            again = [replayed(one, seed) for seed in SEEDS]
            fewer = one.fewer is None or not one.fewer.holds
            held, runs, fails, rows = held + sum(again), runs + len(again), fails + fewer, rows + 1
            print(
                f"{name:7} {cluster:16} {one.replicas:3} x {one.engine} {one.engine.structure}: {sum(again)} of "
                f"{len(again)} seeds hold, one fewer {'fails' if fewer else 'holds'}, {spent:.1f} s",
                flush=True,
            )
    print(f"{held} of {runs} replays hold, one fewer fails in {fails} of {rows}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["layouts"]:
        for line in layouts(sys.argv[2], sys.argv[3:]):
            print(line, flush=True)
        sys.exit()
    if sys.argv[1:2] == ["spaces"]:
        print("\n".join(spaces(*map(int, sys.argv[2:4]))) or "every property holds")
    elif sys.argv[1:2] == ["matrix"]:
        matrix(Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
