"""Settings of the event engine in a scenario: noise, disturbances, contention, checkpoints."""

from typing import Annotated

import numpy as np
from pydantic import Field

from costmodel.declared import ShareOrZero, Whole, Wrong
from costmodel.schema.records import Declared, record
from costmodel.workload.simulation import Simulation, Slowdown


class SlowdownFile(Declared, of=Slowdown):
    """A temporary slowdown: a straggler, a flapping link, a failed plane or device."""

    rank: Annotated[int, Whole(0, single=True)] | None = Field(
        default=None, description="pipeline rank, in inference the stage; null: all"
    )
    speed: ShareOrZero = Field(description="fraction of normal speed; 0: stopped")

    def made(self) -> Slowdown:
        """Return the slowdown."""
        return record(Slowdown, self, speed=float(self.speed))

    def _check_times(self) -> None:
        if self.end is not None and np.any(np.less_equal(self.end, self.begin)):
            raise Wrong("end must come after begin", "write a later end, or leave it out")


class SimulationFile(Declared, of=Simulation):
    """Settings of the event engine. The analytic engine ignores them."""

    jitter: ShareOrZero = Field(default=0.0, description="standard deviation of the logarithm of each task's time")

    def made(self) -> Simulation:
        """Return the settings."""
        return record(Simulation, self, jitter=float(self.jitter))
