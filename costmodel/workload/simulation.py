"""What the event engine needs besides a scenario: noise, disturbances, what shares what, checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from costmodel.declared import Duration, Moment, Whole
from costmodel.records import Record


class Slowdown(Record):
    """A rank, or all of them where it is null, that runs `speed` times as fast from `begin` to `end` [s]."""

    rank: int | None
    slows: Annotated[Literal["compute", "network", "everything"], "what is slower"]
    speed: float
    begin: Annotated[Moment, "start time, from the start of the step or pass"] = 0.0
    end: Annotated[Moment | None, "end time; null: until the end"] = None


class Checkpoints(Record):
    """How a run outlives failures: a checkpoint every `interval`, `write` long. `restart` after a failure [s]."""

    interval: Annotated[Duration, "training time between two checkpoints"]
    write: Annotated[Moment, "training time lost to writing one"]
    restart: Annotated[Moment, "time from a failure until training resumes"]
    device_mtbf: Annotated[Duration, "mean time between failures of one device"]


class Simulation(Record):
    """How a scenario is simulated."""

    seed: Annotated[int, Whole(0, single=True), "random seed"] = 0
    jitter: float = 0.0
    shares_processors: Annotated[bool, "kernels may use communication SMs while these are idle"] = False
    contention: Annotated[bool, "concurrent messages share links, max-min fairly"] = False
    experts: Annotated[
        Literal["expected", "drawn"],
        "load of the busiest rank in a training step: its expectation in each micro-batch, or drawn for each, whose "
        "waits follow from the events",
    ] = "expected"
    slowdowns: Annotated[tuple[Slowdown, ...], "temporary slowdowns"] = ()
    patience: Annotated[
        Duration | None, "time without progress after which a run counts as deadlocked; null: never"
    ] = None
    checkpoints: Annotated[Checkpoints | None, "checkpoints (training); null: no failures"] = None
    replicas: Annotated[
        Annotated[int, Whole(1, single=True)] | None,
        "number of data-parallel replicas to simulate; null: one represents all",
    ] = None

    @property
    def ranks_differ(self) -> bool:
        """Tell whether ranks that are equal come to differ."""
        return self.jitter > 0 or self.draws_experts or any(each.rank is not None for each in self.slowdowns)

    @property
    def draws_experts(self) -> bool:
        """Tell whether each micro-batch has an expert load of its own."""
        return self.experts == "drawn"
