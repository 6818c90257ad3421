"""A training run: its step, and what failures and checkpoints leave of it at the best interval between two of these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from costmodel.analytic.intervals import NORMAL_90
from costmodel.equations import equation
from costmodel.errors import InfeasibleError
from costmodel.network.host import host_link
from costmodel.quantities import Seconds
from costmodel.records import Record, ValueRecord, replace
from costmodel.result import Point
from costmodel.schema.published_tables import published_runs
from costmodel.units import render
from costmodel.workload.plans import Training
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.scenario import Scenario
from costmodel.workload.simulation import Checkpoints

DAY, HOUR = 86_400.0, 3_600.0


class Goodput(ValueRecord):
    """What failures leave of a run. share: of its time that is progress.

    interval: training between two checkpoints; between: time between two failures; write: of a checkpoint [s].
    writes: from what `write` follows.
    """

    interval: float
    share: float
    between: float
    write: float
    writes: str = "stated"


@equation
def best_goodput(mean: Seconds, write: Seconds, restart: Seconds) -> Goodput:
    """Return the interval of checkpoints with the largest goodput, and that.

        share = interval / (mean * e^(restart / mean) * (e^((interval + write) / mean) - 1))
        interval = mean * (1 + W(-e^(-1 - write / mean)))

    mean: time between failures of the run; write: training time that a checkpoint takes; restart: from a failure until
    training goes on [s]. W: Lambert's. The share is Daly's [Future Generation Computer Systems 22, 2006, equation 13];
    its derivative is zero where (1 - interval/mean) e^(interval/mean) = e^(-write/mean). Where a checkpoint takes no
    time the interval is zero, and the share e^(-restart / mean).
    """
    from scipy.special import lambertw  # loads when it is used

    interval = float(mean * (1.0 + lambertw(-np.exp(-1.0 - write / mean)).real))
    share = np.exp(-restart / mean)
    if interval > 0.0:
        share *= interval / (mean * np.expm1((interval + write) / mean))
    else:
        interval = 0.0  # W(-1/e) is -1, or no number after rounding
    return Goodput(interval, float(share), float(mean), float(write))


def goodput_of(scenario: Scenario, point: Point) -> Goodput:
    """Return the goodput with the best interval of checkpoints: what the scenario states of failures, else published.

    A checkpoint stops training while each device copies its weights and optimizer to its host.
    """
    stated: Checkpoints | None = scenario.simulation.checkpoints
    known = published_runs()
    mtbf = next(run.device_mtbf for run in known if run.device_mtbf) if stated is None else float(stated.device_mtbf)
    restart = next(run.restart for run in known if run.restart) if stated is None else float(stated.restart)
    parts = point.memory or {}
    state = parts.get("weights", 0.0) + parts.get("optimizer", 0.0)
    try:
        link = float(np.max(host_link(scenario.cluster).bandwidth))
    except InfeasibleError:
        link, follows = np.inf, "no file states a link between device and host"
    else:
        follows = (
            f"{render(float(f'{state:.3g}'), 'size')} of weights and optimizer a device, at "
            f"{render(float(f'{link:.3g}'), 'bandwidth')} to its host"
        )
    if stated is not None:
        return best_goodput(mtbf / point.devices, float(stated.write), restart)
    return replace(best_goodput(mtbf / point.devices, state / link, restart), writes=follows)


class TrainingRun(Record):
    """A layout that trains on all tokens.

    point: its step in full.
    cluster: as it was asked for.
    at: its layout, path below the scenario -> value.
    changes: path -> value that gives it; command: that simulates its step.
    roomier: the fastest that leaves a tenth of memory, null where this one does, or none.
    fewer: what the next smaller number of devices does, null where it was not looked at.
    """

    cluster: str
    scenario: Scenario
    point: Point
    at: Mapping[str, Any]
    tokens: float
    goodput: Goodput
    changes: Mapping[str, str]
    notes: tuple[str, ...]
    command: str = ""
    fewer: str | None = None
    roomier: TrainingRun | None = None

    @property
    def devices(self) -> int:
        """Return how many devices it takes."""
        return self.point.devices

    @property
    def format(self) -> str:
        """Return the name of its number format, of one that is stated in parts that of its products."""
        stated = str(self.changes.get(f"scenarios.{self.scenario.name}.precision", "{"))
        return self.scenario.precision.linear if "{" in stated else stated

    @property
    def seconds(self) -> float:
        """Return how long the run takes: tokens / tokens_per_second / goodput [s]."""
        return self.tokens / float(self.point.metrics["tokens_per_second"] or 0.0) / self.goodput.share

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 80 % interval of the time [s]."""
        known = self.point.intervals.get("tokens_per_second")
        rate = self.point.metrics["tokens_per_second"]
        return (
            None if known is None or rate is None else (self.seconds * rate / known[1], self.seconds * rate / known[0])
        )

    @property
    def dollars(self) -> float | None:
        """Return the rent of the devices, null where none is known [$]."""
        rent = self.point.metrics["cost_rate"]
        return None if rent is None else rent * self.seconds

    @property
    def joules(self) -> float | None:
        """Return the energy: lost training takes as much as kept one [J]."""
        known = self.point.metrics.get("energy_per_token")
        return None if known is None else known * self.tokens / self.goodput.share

    @property
    def memory(self) -> float:
        """Return what the fullest device holds [B]."""
        return math.fsum((self.point.memory or {}).values())

    def probability(self, seconds: float | None) -> float | None:
        """Return how probably the run ends in time: times are lognormal about the middle of their interval."""
        if seconds is None or self.interval is None:
            return None
        low, high = (math.log(end) for end in self.interval)
        spread = (high - low) / (2.0 * NORMAL_90)
        return 0.5 * (1.0 + math.erf((math.log(seconds) - 0.5 * (low + high)) / (spread * math.sqrt(2.0))))

    @property
    def training(self) -> Training:
        """Return the plan of its optimizer steps, in reinforcement learning that of the training part."""
        plan = self.scenario.plan
        step = plan.training if isinstance(plan, Reinforcement) else plan
        assert isinstance(step, Training), "others do not train"
        return step

    @property
    def layout(self) -> dict[str, Any]:
        """Return its layout by the paths below the scenario that trains."""
        plan = self.scenario.plan
        return self._below(plan.train.name) if isinstance(plan, Reinforcement) else dict(self.at)

    @property
    def rollout(self) -> dict[str, Any] | None:
        """Return the layout of the engines that generate what is learnt from, null where nothing is generated."""
        plan = self.scenario.plan
        return self._below(plan.rollout.name) if isinstance(plan, Reinforcement) else None

    def _below(self, name: str) -> dict[str, Any]:
        head = f"scenarios.{name}."
        return {path.removeprefix(head): value for path, value in self.at.items() if path.startswith(head)}
