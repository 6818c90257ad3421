"""What the event engine needs besides a scenario: noise, disturbances, what shares what, checkpoints."""

from __future__ import annotations

from costmodel.quantities import Seconds
from costmodel.records import Record


class Slowdown(Record):
    """A rank, or all of them where it is null, that runs `speed` times as fast from `begin` to `end` [s].

    slows: `compute`, `network` or `everything`.
    end: null for good.
    speed: 0 where it stands still.
    """

    rank: int | None
    slows: str
    speed: float
    begin: Seconds = 0.0
    end: Seconds | None = None


class Checkpoints(Record):
    """How a run outlives failures: a checkpoint every `interval`, `write` long. `restart` after a failure [s].

    device_mtbf: mean time between failures of one device [s].
    """

    interval: Seconds
    write: Seconds
    restart: Seconds
    device_mtbf: Seconds


class Simulation(Record):
    """How a scenario is simulated.

    seed, jitter: of the factors on each task's time and of failures.
    shares_processors: kernels take the processors of communication while that is idle.
    contention: messages share the links of the cluster.
    experts: `expected` waits for uneven ones, or loads `drawn` for each micro-batch.
    patience: time without any progress after which the run is given up, null: never [s].
    replicas: data-parallel ones that are simulated one by one, null: one for all.
    """

    seed: int = 0
    jitter: float = 0.0
    shares_processors: bool = False
    contention: bool = False
    experts: str = "expected"
    slowdowns: tuple[Slowdown, ...] = ()
    patience: Seconds | None = None
    checkpoints: Checkpoints | None = None
    replicas: int | None = None

    @property
    def ranks_differ(self) -> bool:
        """Tell whether ranks that are equal come to differ."""
        return self.jitter > 0 or self.draws_experts or any(each.rank is not None for each in self.slowdowns)

    @property
    def draws_experts(self) -> bool:
        """Tell whether each micro-batch has an expert load of its own."""
        return self.experts == "drawn"
