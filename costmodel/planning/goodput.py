"""What failures and checkpoints leave of a training run, at the best interval between two checkpoints."""

from __future__ import annotations

import numpy as np

from costmodel.equations import equation
from costmodel.errors import InfeasibleError
from costmodel.network.host import host_link
from costmodel.quantities import Seconds
from costmodel.records import ValueRecord, replace
from costmodel.result import Point
from costmodel.schema.published_tables import published_runs
from costmodel.units import render
from costmodel.workload.scenario import Scenario
from costmodel.workload.simulation import Checkpoints


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
