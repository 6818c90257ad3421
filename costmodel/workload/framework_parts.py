"""What a framework states beside its kernels: host times, what it lacks, layers with tuned tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np

from costmodel.declared import Latency, PositiveNumber, Time
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
