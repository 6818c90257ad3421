"""What a framework states beside its kernels: host times, what it lacks, layers with tuned tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np

from costmodel.declared import Latency, LinearType, PositiveNumber, Time, Whole
from costmodel.quantities import Count, Quantity, is_single
from costmodel.records import Record, field

_ALIKE = {"fp16": "bf16"}  # engines look up 16-bit formats under one name


class HostTimes(Record):
    """What the host's program adds to a step [s]."""

    step: Annotated[Latency, "per step"] = 0.0
    layer: Annotated[Latency, "per layer of an inference engine's step"] = 0.0
    recurrence: Annotated[
        Latency, "per layer with a recurrence in passes with prompts, whose CUDA graphs end there"
    ] = 0.0
    operator: Annotated[
        Latency, "per kernel or message start of a training pass; their sum is a lower bound of its time"
    ] = 0.0


class EagerPrompts(Record, kw_only=True):
    """Passes with prompts that no CUDA graph holds: the host starts their kernels one by one.

    only: what a deployment has at least one of where it is so (`Scenario.eager_prompts`); null: everywhere.
    """

    layer: Annotated[Time, "host time of a layer; a pass takes no less than that of its layers"] = 0.0
    kernels: Annotated[
        PositiveNumber | None,
        "kernels and messages of the layer whose time `layer` is, as the model's passes have them; others take it in "
        "proportion to theirs; null: all take the same",
    ] = None
    operator: Annotated[Time, "host time of each kernel and message of such a pass, in addition"] = 0.0
    within: Annotated[
        tuple[str, ...], "operators that one call starts together with another one: their names in a breakdown"
    ] = ()
    only: tuple[str, ...] | None = None


class Unsupported(Record, kw_only=True):
    """What a framework lacks: beginnings of the names of architectures, and number formats."""

    architectures: Annotated[
        tuple[str, ...], "beginnings of the names of architectures that it does not run on, such as `cdna`"
    ] = ()
    formats: Annotated[
        tuple[str, ...], "number formats of weights, products and the KV cache that it does not have"
    ] = ()


class TunedTiles(Record):
    """Layers with tuned tiles on one device: number format of the products -> experts on a rank -> their widths."""

    layers: Mapping[str, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)

    def of(self, experts: Count, width: Count, variant: str) -> Quantity:
        """Return one where tiles were tuned for a layer, else zero.

        experts: on a rank.
        width: of an expert's intermediate activations there.
        variant: of the products.
        """
        known = self.layers.get(_ALIKE.get(variant, variant), {})
        if is_single(experts) and is_single(width):
            return float(width in known.get(experts, ()))  # type: ignore[call-overload]
        tuned = np.zeros(np.broadcast_shapes(np.shape(experts), np.shape(width)))
        for count, widths in known.items():
            tuned[np.broadcast_to(np.equal(experts, count) & np.isin(width, widths), tuned.shape)] = 1.0
        return tuned


NOTHING_TUNED = TunedTiles()

# ---- What a training program does: facts of its code, by release -----------------------------------------------------


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
    graphs: Annotated[
        bool,
        "CUDA graphs of layers without routed experts, of embedding and head: the host starts one for each of their "
        "passes: forward, input gradients and weight gradients",
    ] = False
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_unfused(self) -> bool:
        """Tell whether element-wise operators of layers are separate kernels."""
        return self.eager in ("layers", "all")

    @property
    def has_eager_loss(self) -> bool:
        """Tell whether each part of the cross-entropy leaves a result in memory."""
        return self.eager in ("loss", "all")
