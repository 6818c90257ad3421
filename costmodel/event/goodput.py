"""The share of a long training run that is progress when devices fail: checkpoints, lost work and restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import simpy
from simpy.events import ProcessGenerator

from costmodel.quantities import Count, Seconds
from costmodel.workload.simulation import Checkpoints

FAILURES = 2000  # in a run: the share is then within two or three per cent of its mean


@dataclass(frozen=True, slots=True)
class Goodput:
    """Shares of a long run. goodput: training that was kept; lost: training that failures undid."""

    goodput: float
    writing: float
    lost: float
    restarting: float
    failures_per_day: float

    def document(self) -> dict[str, float]:
        """Return the shares as a result holds them."""
        return asdict(self)


@dataclass(slots=True)
class _Clock:
    """Seconds of a run so far."""

    kept: float = 0.0
    written: float = 0.0
    lost: float = 0.0
    restarted: float = 0.0


def simulate_goodput(step: Seconds, devices: Count, checkpoints: Checkpoints, seed: int) -> Goodput:
    """Return where the time of a run goes.

    Any device's failure ends the run, at exponential times with the mean device_mtbf / devices; it continues after
    `restart` from the last checkpoint that was written. A failure during a restart begins it anew. Checkpoints are
    between steps. For a mean M between failures the expected goodput is t / (e^((t + w)/M) - 1) / (M * e^(R/M)) [Daly,
    Future Generation Computer Systems 22, 2006, equation 13].
    """
    environment, clock = simpy.Environment(), _Clock()
    interval = float(np.ceil(checkpoints.interval / step) * step)
    mean = float(checkpoints.device_mtbf / devices)
    gaps = np.random.default_rng(seed).exponential(mean, FAILURES).tolist()
    environment.process(_training(environment, clock, checkpoints, interval, gaps))
    environment.run()
    total = float(environment.now)
    parts = (clock.kept, clock.written, clock.lost, clock.restarted)
    kept, written, lost, restarted = (part / total for part in parts)
    return Goodput(kept, written, lost, restarted, 86400.0 * FAILURES / total)


def _training(
    environment: simpy.Environment, clock: _Clock, checkpoints: Checkpoints, interval: float, gaps: Sequence[float]
) -> ProcessGenerator:
    """Train from checkpoint to checkpoint until all failures have come. gaps: times between these [s]."""
    write, restart, down = float(checkpoints.write), float(checkpoints.restart), False
    for gap in gaps:
        fails_at = environment.now + gap
        if down:
            lasts = min(restart, gap)
            yield environment.timeout(lasts)
            clock.restarted += lasts
        while environment.now + interval + write <= fails_at:
            yield environment.timeout(interval + write)
            clock.kept += interval
            clock.written += write
        clock.lost += fails_at - environment.now
        yield environment.timeout(fails_at - environment.now)
        down = True
