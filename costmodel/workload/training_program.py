"""What a training program does: facts of its code, by release."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.quantities import Count
from costmodel.records import Record, field


class TrainingProgram(Record, kw_only=True):
    """What a training program's code does.

    eager: what runs as PyTorch's own kernels, one an operator: `none`, the `loss`, element-wise operators of `layers`,
        or `all`.
    tensor_overlap: tensor-parallel messages that overlap GEMMs: `none`, those of input `gradients`, or `all`.
    accumulation: what adds a micro-batch's gradients to the earlier ones: the `product`, or a separate kernel, into a
        `buffer` always, by `autograd` for all but the first.
    reduction: ZeRO stages 1 and 2 `scatter` gradients or `all_reduce` them.
    weight_exchange: ZeRO stages 1 and 2 `gather` updated weights, or each rank in turn makes a `broadcast` of its own.
    expert_streams: over which the experts of a rank are dealt, each a GEMM of its own; null: one grouped GEMM.
    options: what a change of a training scenario is called there: `gradients`, `zero`, `full`, ... -> option.
    """

    eager: str = "none"
    tensor_overlap: str = "none"
    accumulation: str = "product"
    reduction: str = "scatter"
    weight_exchange: str = "gather"
    expert_streams: Count | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_unfused(self) -> bool:
        """Tell whether element-wise operators of layers are separate kernels."""
        return self.eager in ("layers", "all")

    @property
    def has_eager_loss(self) -> bool:
        """Tell whether each part of the cross-entropy leaves a result in memory."""
        return self.eager in ("loss", "all")
