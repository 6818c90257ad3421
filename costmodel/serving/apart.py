"""Replicas whose requests are dealt out, which share nothing: threads of this process run them, or other processes.

Which of them runs a replica changes nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from costmodel.serving.compiled import compiled
from costmodel.serving.first_run import Loop, run_as_python
from costmodel.serving.fleet import run_apart
from costmodel.serving.routing import Service
from costmodel.serving.rows import Records
from costmodel.serving.state import Engines

PARTS_OF_WORKER = 4  # in which threads run replicas: some have more to do


class _Done(NamedTuple):
    """What became of some replicas. stuck: one of them, -1: none; requests: those that they were given."""

    stuck: int
    engines: Engines
    requests: Records


def serve_by_threads(run: Loop, service: Service, until: float, workers: int) -> int:
    """Run replicas up to a moment, in place. Return one that is stuck, -1: none.

    Compiled loops hold no lock of Python's, so that threads run them at the same time.
    """
    number = len(service.engines.state)
    bounds = _bounds(number, min(workers, number) * PARTS_OF_WORKER)

    def run_part(first: int, last: int) -> int:
        stuck = int(run(_part(service, first, last), until))
        return stuck if stuck < 0 else first + stuck

    if min(workers, number) == 1:
        return run_part(0, number)
    with ThreadPoolExecutor(workers) as threads:
        return _first(list(threads.map(run_part, bounds[:-1], bounds[1:])))


def serve_by_processes(
    executor: Executor, workers: int, service: Service, until: float, *, compiles: bool
) -> int:  # fmt: skip
    """Run replicas up to a moment, some by each worker of an executor. Return one that is stuck, -1: none."""
    number = len(service.engines.state)
    bounds = _bounds(number, workers)
    parts = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    running = [executor.submit(_run_part, _part(service, *part), until, part, compiles) for part in parts]
    stuck = []
    for (first, last), future in zip(parts, running, strict=True):
        done = future.result()
        for own, rows in zip(service.engines, done.engines, strict=True):
            own[first:last] = rows
        service.requests[_given(service.requests, first, last)] = done.requests
        stuck.append(done.stuck if done.stuck < 0 else first + done.stuck)
    return _first(stuck)


def _run_part(service: Service, until: float, part: tuple[int, int], compiles: bool) -> _Done:  # noqa: FBT001
    run: Callable[[Service, float], Any] = compiled(run_apart)
    stuck = int(run(service, until)) if compiles else run_as_python(run_apart, service, until)
    return _Done(stuck, service.engines, service.requests[_given(service.requests, *part)])


def _part(service: Service, first: int, last: int) -> Service:
    """Return some replicas: views of their rows, and all requests."""
    fleet = service.fleet._replace(members=np.asarray(service.fleet.members)[first:last])
    return service._replace(engines=Engines(*(rows[first:last] for rows in service.engines)), fleet=fleet)


def _given(requests: Records, first: int, last: int) -> Any:
    """Tell which requests some replicas were given."""
    return (requests["replica"] >= first) & (requests["replica"] < last)


def _bounds(number: int, parts: int) -> Any:
    return np.linspace(0, number, min(parts, number) + 1).astype(int)


def _first(stuck: list[int]) -> int:
    return next((each for each in stuck if each >= 0), -1)
