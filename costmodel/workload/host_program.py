"""What a framework states beside its kernels: times of its host, contexts of unequal length, and what it lacks."""

from __future__ import annotations

from typing import Annotated

from costmodel.declared import Latency, PositiveNumber, Time
from costmodel.records import Record


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


class UnevenContexts(Record):
    """Decoding kernels in which one thread block reads a whole context."""

    load_rate: Annotated[PositiveNumber, "what one thread block loads, bytes a cycle"]
    overlap_p: Annotated[PositiveNumber, "p-norm of the longest context's time and that of all contexts together"]
