"""What keeps a cluster from its nominal speed: jitter, slow devices, links and planes that fail, devices that stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from costmodel.errors import InputError
from costmodel.event.graph import KERNEL, MARK, MESSAGE, Graph
from costmodel.quantities import Count, Seconds
from costmodel.workload.scenario import Scenario
from costmodel.workload.simulation import Slowdown

EVERYTHING = "everything"
_KINDS = {"compute": KERNEL, "network": MESSAGE, EVERYTHING: EVERYTHING}


@dataclass(frozen=True, slots=True)
class SlowdownWindow:
    """Tasks of one kind on a device run `factor` times as fast from `begin` to `end` [s]; 0: they stand still.

    device: null for all of them; kind: of the tasks, or `everything`.
    """

    device: int | None
    begin: Seconds
    end: Seconds
    factor: float
    kind: str = EVERYTHING

    def touches(self, device: int, kind: str) -> bool:
        """Tell whether it slows tasks of a kind on a device."""
        return self.device in (None, device) and self.kind in (EVERYTHING, kind)


def straggler(device: int, factor: float) -> SlowdownWindow:
    """Return a device whose kernels run `factor` times as fast, from the first to the last."""
    return SlowdownWindow(device, 0.0, np.inf, factor, KERNEL)


def link_flap(device: int, begin: Seconds, seconds: Seconds) -> SlowdownWindow:
    """Return a device's link that is down for some seconds."""
    return SlowdownWindow(device, begin, begin + seconds, 0.0, MESSAGE)


def plane_failure(begin: Seconds, planes: int, failed: int = 1) -> SlowdownWindow:
    """Return a fabric that loses some of its planes and goes on with the bandwidth of the others."""
    return SlowdownWindow(None, begin, np.inf, (planes - failed) / planes, MESSAGE)


def device_failure(device: int, begin: Seconds) -> SlowdownWindow:
    """Return a device that stops and does not come back."""
    return SlowdownWindow(device, begin, np.inf, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """How a graph is run.

    seed, jitter: of factors exp(N(-j^2/2, j)), whose mean is one, on each task's time; disturbances: in any order;
    processors: of a device that kernels share with resident communication kernels, and those that the times of kernels
    were taken at (null: times hold whatever runs beside); patience: time without any task finished after which a run is
    given up [s].
    """

    seed: int = 0
    jitter: float = 0.0
    slowdown_windows: tuple[SlowdownWindow, ...] = ()
    processors: tuple[Count, Count] | None = None
    patience: Seconds = np.inf

    @classmethod
    def of(cls, scenario: Scenario) -> Conditions:
        """Return the conditions that a scenario asks for."""
        asked, whole = scenario.simulation, scenario.cluster.device.processors
        return cls(
            asked.seed,
            asked.jitter,
            tuple(_disturbance(each) for each in asked.slowdowns),
            (whole, whole - scenario.communication.processors) if asked.shares_processors else None,
            np.inf if asked.patience is None else asked.patience,
        )

    def __post_init__(self) -> None:
        for name, value in self._stated().items():
            if not (np.isfinite(value) and value >= 0):
                raise InputError.single(f"is {value:g}", field=name, hint="write a number of 0 or more")
        if not self.patience > 0:
            raise InputError.single(f"is {float(self.patience):g}", field="patience", hint="write a time above zero")

    def _stated(self) -> Mapping[str, float]:
        factors = {f"disturbances[{i}].factor": each.factor for i, each in enumerate(self.slowdown_windows)}
        begins = {f"disturbances[{i}].begin": float(each.begin) for i, each in enumerate(self.slowdown_windows)}
        return {"jitter": self.jitter, **factors, **begins}

    def factors(self, graph: Graph) -> list[float]:
        """Return the factor of jitter on each task's time: the same seed gives the same factors."""
        count = len(graph.tasks)
        if not self.jitter:
            return [1.0] * count
        draws = np.random.default_rng(self.seed).standard_normal(count)
        return [float(each) for each in np.exp(self.jitter * draws - self.jitter**2 / 2)]

    def speed(self, device: int, kind: str, now: Seconds) -> float:
        """Return how fast tasks of a kind run on a device at some time, 1 where nothing disturbs them."""
        speed = 1.0
        for each in self.slowdown_windows:
            if each.begin <= now < each.end and each.touches(device, kind):
                speed *= each.factor
        return speed

    def varying(self, graph: Graph) -> list[bool]:
        """Tell of each task whether its speed can change while it runs."""
        shares = self.processors is not None
        slowed = {
            (device, kind): any(each.touches(device, kind) for each in self.slowdown_windows)
            for device in {stream.device for stream in graph.streams}
            for kind in {task.kind for task in graph.tasks} - {MARK}
        }
        devices = [stream.device for stream in graph.streams]
        return [
            task.kind != MARK
            and (
                slowed[devices[task.stream], task.kind]
                or (shares and task.processor_bound_share > 0)
                or (graph.slowing > 1 and task.kind == KERNEL)
            )
            for task in graph.tasks
        ]


def _disturbance(asked: Slowdown) -> SlowdownWindow:
    end = np.inf if asked.end is None else asked.end
    return SlowdownWindow(asked.rank, asked.begin, end, asked.speed, _KINDS[asked.slows])
