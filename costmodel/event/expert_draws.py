"""Load of the busiest expert rank, drawn for each micro-batch: who waits for whom then follows from events."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.workload.schedules import Chunk, Schedule

_GRID = np.linspace(-10.0, 14.0, 4801)  # of standard deviations: the largest of 1e12 ranks is at 7


class ExpertDraws(Record):
    """Excess of the busiest rank over the mean, over its expected value, (micro-batches, stages, layers of a stage).

        x = max of n standard normal loads / E[max] = Phi^-1(u^(1/n)) / E[max],      u uniform; mean one

    A micro-batch's backward pass retraces the routes of its forward pass, and has its draws.
    """

    excess: Array

    def of(self, chunk: Chunk, layer: int) -> float:
        """Return x of a layer of a chunk's stage."""
        micro_batches, stages, layers = self.excess.shape
        return float(self.excess[chunk.micro_batch % micro_batches, chunk.stage % stages, layer % layers])


def expert_draws(schedule: Schedule, layers: int, ranks: float, seed: int, *, shared: bool) -> ExpertDraws:
    """Return the draws of a step. layers: most of a stage; ranks: that share the experts.

    shared: all layers of a micro-batch have one draw, as its texts decide. Else each layer of each has its own.
    """
    shape = (schedule.micro_batches, *((1, 1) if shared else (schedule.stages, max(layers, 1))))
    uniform = np.random.default_rng(seed).uniform(size=shape)
    return ExpertDraws(ndtri(uniform ** (1.0 / ranks)) / expected_largest(ranks))


def expected_largest(ranks: float) -> float:
    """Return E[max] of standard normal numbers: the upper bound less the integral of Phi^n up to there."""
    return float(_GRID[-1] - np.trapezoid(ndtr(_GRID) ** ranks, _GRID))
