"""Settings of the event engine in a scenario: noise, disturbances, contention, checkpoints."""

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from costmodel.declared import Duration, Moment, ShareOrZero, Whole, Wrong
from costmodel.schema.strict import Strict


class SlowdownFile(Strict):
    """A temporary slowdown: a straggler, a flapping link, a failed plane or device."""

    rank: Annotated[int, Whole(0, single=True)] | None = Field(
        default=None, description="pipeline rank, in inference the stage; null: all"
    )
    slows: Literal["compute", "network", "everything"] = Field(description="what is slower")
    speed: ShareOrZero = Field(description="fraction of normal speed; 0: stopped")
    begin: Moment = Field(default=0.0, description="start time, from the start of the step or pass")
    end: Moment | None = Field(default=None, description="end time; null: until the end")

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.end is not None and np.any(np.less_equal(self.end, self.begin)):
            raise Wrong("end must come after begin", "write a later end, or leave it out")
        return self


class CheckpointsFile(Strict):
    """Checkpoints and failures of a training run."""

    interval: Duration = Field(description="training time between two checkpoints")
    write: Moment = Field(description="training time lost to writing one")
    restart: Moment = Field(description="time from a failure until training resumes")
    device_mtbf: Duration = Field(description="mean time between failures of one device")


class SimulationFile(Strict):
    """Settings of the event engine. The analytic engine ignores them."""

    seed: Annotated[int, Whole(0, single=True)] = Field(default=0, description="random seed")
    jitter: ShareOrZero = Field(default=0.0, description="standard deviation of the logarithm of each task's time")
    shares_processors: bool = Field(default=False, description="kernels may use communication SMs while these are idle")
    contention: bool = Field(default=False, description="concurrent messages share links, max-min fairly")
    experts: Literal["expected", "drawn"] = Field(
        default="expected",
        description="what uneven experts cost a training step: the wait that the closed form expects, or loads drawn "
        "for each micro-batch, whose waits follow from the events",
    )
    slowdowns: list[SlowdownFile] = Field(default_factory=list, description="temporary slowdowns")
    patience: Duration | None = Field(
        default=None, description="time without progress after which a run counts as deadlocked; null: never"
    )
    checkpoints: CheckpointsFile | None = Field(default=None, description="checkpoints (training); null: no failures")
    replicas: Annotated[int, Whole(1, single=True)] | None = Field(
        default=None, description="number of data-parallel replicas to simulate; null: one represents all"
    )
