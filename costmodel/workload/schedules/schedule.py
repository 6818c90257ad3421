"""The orders of all ranks of one pipeline, and what follows from them."""

from __future__ import annotations

from itertools import pairwise

from costmodel.records import Record, replace
from costmodel.workload.schedules.actions import Action, Dependency
from costmodel.workload.schedules.table import NONE, Table, peak_states, table_of


class Schedule(Record):
    """The orders of all ranks of one pipeline.

    ranks: actions of each rank in order.
    placement: stages that each rank holds.
    micro_batches: of the whole step.
    directions: 2 where the second half of the micro-batches runs through a second copy of the stages, placed the other
    way round (DualPipe), else 1. folded: only the first PP/2 ranks are kept, each standing for its mirror as well.
    """

    name: str
    ranks: tuple[tuple[Action, ...], ...]
    placement: tuple[tuple[int, ...], ...]
    micro_batches: int
    directions: int = 1
    folded: bool = False

    @property
    def stages(self) -> int:
        """Return the number of stages that the model is cut into."""
        return 1 + max(stage for held in self.placement for stage in held)

    @property
    def stage_replicas(self) -> int:
        """Return how many ranks of one pipeline hold each stage."""
        return self.directions

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """Return the stages whose parameters the rank holds."""
        return self.placement[rank]

    def fold(self) -> Schedule:
        """Return the same schedule with one rank for each pair of mirrored ranks. Itself where nothing mirrors.

        Exact: rank PP-1-i runs the order of rank i with the two halves of the micro-batches exchanged, on the same
        stages, so both keep the same clock.
        """
        if self.directions == 1 or self.folded:
            return self
        half = len(self.ranks) // 2
        return replace(self, ranks=self.ranks[:half], placement=self.placement[:half], folded=True)

    def table(self) -> Table:
        """Return the schedule as arrays. Raises ValueError where an action takes what no rank makes."""
        return table_of(self.ranks, self.stages, self.micro_batches)

    def dependencies(self) -> tuple[tuple[tuple[Dependency, ...], ...], ...]:
        """Return, for each action of each rank, the actions that must have finished before it.

        The rank's own order, which every action obeys as well, is not repeated: only results of other ranks and, where
        neighbouring stages share a rank, of earlier actions of this one.
        """
        table = self.table()
        first, rank = table.first, table.rank
        rows = [
            tuple(
                Dependency(int(rank[need]), int(need - first[rank[need]]), bool(linked))
                for need, linked in zip(needs, over_a_link, strict=True)
                if need != NONE
            )
            for needs, over_a_link in zip(table.needs.T, table.is_transfer.T, strict=True)
        ]
        return tuple(tuple(rows[begin:end]) for begin, end in pairwise(first))

    def in_flight(self, rank: int) -> tuple[tuple[int, ...], ...]:
        """Return what the rank holds at its fullest: activations of how many chunks of each stage of `stages_of(rank)`.

        A chunk is held from the start of its forward to the end of its weight gradient. Stages may weigh differently,
        so every combination that no other one contains is returned: memory is the largest weighted sum over them.
        """
        return peak_states(self.ranks[rank], self.placement[rank])
