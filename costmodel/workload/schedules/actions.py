"""The words of a pipeline schedule: chunks of work, what a rank does with them, and what an action waits for."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What a rank does. `BACKWARD` makes both gradients at once. `FORWARD_BACKWARD` overlaps two chunks."""

    FORWARD = "forward"
    BACKWARD_INPUT = "backward_input"
    BACKWARD_WEIGHT = "backward_weight"
    BACKWARD = "backward"
    FORWARD_BACKWARD = "forward_backward"


class Chunk(NamedTuple):
    """One micro-batch in one stage. Stages, virtual ones included, are numbered along the model from 0."""

    stage: int
    micro_batch: int


class Action(NamedTuple):
    """One thing that a rank does: `forward` is the chunk it runs forward, `backward` the one it runs backward."""

    kind: Kind
    forward: Chunk | None = None
    backward: Chunk | None = None


class Dependency(NamedTuple):
    """An action whose result is needed: its rank and position there. transfer: the result comes over a link."""

    rank: int
    position: int
    transfer: bool


def forward(chunk: Chunk) -> Action:
    """Return the forward pass of a chunk."""
    return Action(Kind.FORWARD, chunk)


def backward(chunk: Chunk) -> Action:
    """Return the full backward pass of a chunk."""
    return Action(Kind.BACKWARD, None, chunk)


def input_gradient(chunk: Chunk) -> Action:
    """Return the part of a chunk's backward pass that the stage before waits for."""
    return Action(Kind.BACKWARD_INPUT, None, chunk)


def weight_gradient(chunk: Chunk) -> Action:
    """Return the part of a chunk's backward pass that nobody waits for."""
    return Action(Kind.BACKWARD_WEIGHT, None, chunk)
