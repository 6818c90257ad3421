"""What a training program does: facts of its code, by release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from costmodel.declared import LinearType, Whole
from costmodel.records import Record, field


class TrainingProgram(Record, kw_only=True):
    """What a training program's code does.

    options: what a change of a training scenario is called there: `gradients`, `zero`, `full`, ... -> option.
    """

    eager: Annotated[
        Literal["none", "loss", "layers", "all"],
        "what runs as PyTorch's own kernels, one an operator: loss: the cross-entropy, each part of which "
        "leaves a result in memory; layers: element-wise operators, such as residual additions, gates and gradients of "
        "biases and norms; all: both",
    ] = "none"
    tensor_overlap: Annotated[
        Literal["none", "gradients", "all"],
        "tensor-parallel messages of training that overlap with GEMMs: those of input gradients with the "
        "weight gradients of the same layer, or all, in one part per rank, with the GEMM that they belong to",
    ] = "none"
    accumulation: Annotated[
        Literal["product", "buffer", "autograd"],
        "how gradients of micro-batches are added up: in the GEMM itself, or in a separate kernel, into a "
        "buffer for every micro-batch or by autograd for all but the first",
    ] = "product"
    reduction: Annotated[
        Literal["scatter", "all_reduce"], "reduction of gradients in ZeRO stages 1 and 2: reduce-scatter or all-reduce"
    ] = "scatter"
    weight_exchange: Annotated[
        Literal["gather", "broadcast"],
        "updated weights in ZeRO stages 1 and 2: an all-gather, or a broadcast by each rank in turn",
    ] = "gather"
    expert_streams: Annotated[
        Annotated[int, Whole(1, single=True)] | None,
        "streams over which the products of experts are dealt, each one of the library's; null: a grouped kernel",
    ] = None
    casts_rows: Annotated[
        bool,
        "tokens travel to experts in the residual's format, whose products cast the rows that arrive; clamps of "
        "activations and biases of the down projection are passes of their own",
    ] = False
    fused_experts: Annotated[
        tuple[LinearType, ...],
        "formats of linear layers in which gated experts are grouped kernels that also cast, clamp, add biases and "
        "compute the activation",
    ] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_unfused(self) -> bool:
        """Tell whether element-wise operators of layers are separate kernels."""
        return self.eager in ("layers", "all")

    @property
    def has_eager_loss(self) -> bool:
        """Tell whether each part of the cross-entropy leaves a result in memory."""
        return self.eager in ("loss", "all")
