"""The share of a long training run that is progress when devices fail: checkpoints, lost work and restarts."""

from __future__ import annotations

import numpy as np

from costmodel.quantities import Count, Seconds
from costmodel.records import ValueRecord, asdict
from costmodel.workload.simulation import Checkpoints

FAILURES = 2000  # in a run: the share is then within two or three per cent of its mean


class Goodput(ValueRecord):
    """Shares of a long run. goodput: training that was kept; lost: training that failures undid."""

    goodput: float
    writing: float
    lost: float
    restarting: float
    failures_per_day: float

    def document(self) -> dict[str, float]:
        """Return the shares as a result holds them."""
        return asdict(self)


def simulate_goodput(step: Seconds, devices: Count, checkpoints: Checkpoints, seed: int) -> Goodput:
    """Return where the time of a run goes.

    Any device's failure ends the run, at exponential times with the mean device_mtbf / devices; it continues after
    `restart` from the last checkpoint that was written. A failure during a restart begins it anew. Checkpoints are
    between steps. Of the time x between two failures, without the restart, floor(x / (t + w)) periods are kept.
    For a mean M between failures the expected goodput is t / (e^((t + w)/M) - 1) / (M * e^(R/M)) [Daly,
    Future Generation Computer Systems 22, 2006, equation 13].
    """
    interval, write = float(np.ceil(checkpoints.interval / step) * step), float(checkpoints.write)
    mean = float(checkpoints.device_mtbf / devices)
    gaps = np.random.default_rng(seed).exponential(mean, FAILURES)
    restarts = np.minimum(gaps, np.where(np.arange(FAILURES) > 0, float(checkpoints.restart), 0.0))
    trained = gaps - restarts
    periods = np.floor(trained / (interval + write))
    parts = (periods * interval, periods * write, trained - periods * (interval + write), restarts)
    total = float(gaps.sum())
    kept, written, lost, restarted = (float(part.sum()) / total for part in parts)
    return Goodput(kept, written, lost, restarted, 86400.0 * FAILURES / total)
