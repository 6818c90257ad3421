"""What a training program does: facts of its code, by release."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.quantities import Count
from costmodel.records import Record, field


class TrainingProgram(Record, kw_only=True):
    """What a training program's code does.

    expert_streams: over which the experts of a rank are dealt, each a GEMM of its own; null: one grouped GEMM.
    options: what a change of a training scenario is called there: `gradients`, `zero`, `full`, ... -> option.
    """

    expert_streams: Count | None = None
    options: Mapping[str, str] = field(default_factory=dict)
