"""The share of a long training run that is progress when devices fail: checkpoints, lost work and restarts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simpy
from simpy.events import ProcessGenerator

from costmodel.quantities import Count, Seconds
from costmodel.records import MutableRecord, ValueRecord
from costmodel.workload.simulation import Checkpoints

FAILURES = 2000  # in a run: the share is then within two or three per cent of its mean


class Goodput(ValueRecord):
    """Shares of a long run. goodput: training that was kept; lost: training that failures undid."""

    goodput: float
    writing: float
    lost: float
    restarting: float
    failures_per_day: float


class _Clock(MutableRecord):
    """Seconds of a run so far."""

    kept: float = 0.0
    written: float = 0.0
    lost: float = 0.0
    restarted: float = 0.0


def simulate_goodput(step: Seconds, devices: Count, checkpoints: Checkpoints, seed: int) -> Goodput:
    """Return where the time of a run goes.

    Any device's failure ends the run, at exponential times with the mean device_mtbf / devices. It continues after
    `restart` from the last checkpoint that was written. A failure during a restart begins it anew. Checkpoints are
    between steps. Of the time x between two failures, without the restart, floor(x / (t + w)) periods are kept. For a
    mean M between failures the expected goodput is t / (e^((t + w)/M) - 1) / (M * e^(R/M)) [Daly, Future Generation
    Computer Systems 22, 2006, equation 13].
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
        trained = fails_at - environment.now
        periods = trained // (interval + write)  # all at once: between rare failures there are many
        clock.kept += periods * interval
        clock.written += periods * write
        clock.lost += trained - periods * (interval + write)
        yield environment.timeout(trained)
        down = True
