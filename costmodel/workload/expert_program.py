"""How a training program runs routed experts: what a framework's file says of it."""

from __future__ import annotations

from costmodel.quantities import Count
from costmodel.records import ValueRecord


class ExpertProgram(ValueRecord):
    """How a training program runs the routed experts of a rank.

    streams: over which experts are dealt, each a GEMM of its own. Null: one grouped GEMM.
    sorts: passes that order rows by expert, on each way.
    unfused: rows travel in the residual's format and are cast by each GEMM; padding to what FP8 GEMMs ask for, clamps,
        and biases of the down projection are passes of their own.
    """

    streams: Count | None = None
    sorts: Count = 1.0
    unfused: bool = False


GROUPED = ExpertProgram()  # one grouped GEMM for all experts of a rank, nothing next to it
