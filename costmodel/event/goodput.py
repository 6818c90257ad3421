"""How much of a long training run is progress when devices fail: checkpoints, lost work and restarts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import simpy
from simpy.events import ProcessGenerator

from costmodel.quantities import Count, Seconds
from costmodel.workload.simulation import Checkpoints

FAILURES = 2000  # that a run lives through: the share then lies within two or three per cent of its mean's


@dataclass(frozen=True, slots=True)
class Goodput:
    """Shares of a long run. goodput: training that was kept; lost: training that a failure took back."""

    goodput: float
    writing: float
    lost: float
    restarting: float
    failures_per_day: float

    def document(self) -> dict[str, float]:
        """Return the shares as a result holds them."""
        return {
            "goodput": self.goodput, "writing": self.writing, "lost": self.lost, "restarting": self.restarting,
            "failures_per_day": self.failures_per_day,
        }  # fmt: skip


@dataclass(slots=True)
class _Clock:
    kept: float = 0.0
    written: float = 0.0
    lost: float = 0.0
    restarted: float = 0.0


def simulate_goodput(step: Seconds, devices: Count, asked: Checkpoints, seed: int) -> Goodput:
    """Return where the time of a run goes.

    Any device's failure ends the run, at exponential times with the mean device_mtbf / devices; it goes on `restart`
    later from the last checkpoint that was written. Checkpoints stand between steps. For a mean M between failures the
    expected goodput is t / (e^((t + w)/M) - 1) / (M + R) [renewal argument as in Daly, Future Generation Computer
    Systems 22, 2006].
    """
    environment, clock = simpy.Environment(), _Clock()
    interval = float(np.ceil(asked.interval / step) * step)
    mean = float(asked.device_mtbf / devices)
    environment.process(_training(environment, clock, asked, interval, np.random.default_rng(seed), mean))
    environment.run()
    whole = float(environment.now)
    parts = (clock.kept, clock.written, clock.lost, clock.restarted)
    kept, written, lost, restarted = (part / whole for part in parts)
    return Goodput(kept, written, lost, restarted, 86400.0 * FAILURES / whole)


def _training(
    environment: simpy.Environment,
    clock: _Clock,
    asked: Checkpoints,
    interval: float,
    random: np.random.Generator,
    mean: float,
) -> ProcessGenerator:
    """Train from checkpoint to checkpoint until so many failures have come."""
    write, restart = float(asked.write), float(asked.restart)
    for failure in environment.now + np.cumsum(random.exponential(mean, FAILURES)):
        # Every failure's clock starts when training goes on: restarts shift it.
        fails_at = float(failure) + clock.restarted
        while environment.now + interval + write <= fails_at:
            yield environment.timeout(interval + write)
            clock.kept += interval
            clock.written += write
        clock.lost += fails_at - environment.now
        yield environment.timeout(fails_at - environment.now)
        yield environment.timeout(restart)
        clock.restarted += restart
