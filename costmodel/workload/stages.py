"""Which layers stand on which pipeline stage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from costmodel.errors import InputError
from costmodel.records import ValueRecord
from costmodel.workload.architecture import Architecture
from costmodel.workload.plans import Placement

FIRST_AND_LAST = Placement()


class Stage(ValueRecord):
    """One pipeline stage: how many layers of each of the architecture's kinds, and whether it has the ends.

    `ends` counts embedding, head and MTP modules. Equal stages compare equal, so that work is done once for each kind.
    """

    layers: tuple[int, ...]
    embedding: int = 0
    head: int = 0
    mtp: int = 0


ENDS = 2  # embedding and head, each of which may have a stage without layers


def even_split(depth: int, stages: int) -> tuple[int, ...]:
    """Return layers a stage, as even as possible, the shorter stages last (where the head stands).

    With a stage or two more than layers, head and then embedding have the last and the first to themselves
    [Megatron-LM, --account-for-loss-in-pipeline-split, --account-for-embedding-in-pipeline-split].
    """
    if depth + ENDS == stages:
        return (0, *even_split(depth, stages - 1))
    base, longer = divmod(depth, stages)
    return tuple(base + 1 if stage < longer else base for stage in range(stages))


def stage_layout(
    architecture: Architecture, stages: int, sizes: tuple[int, ...] | None = None, placement: Placement = FIRST_AND_LAST
) -> tuple[Stage, ...]:
    """Return the stages in order. sizes: layers of each (default: even). Raises InputError where they do not add up.

    placement: where the ends stand. By default the embedding on the first stage, head and MTP modules on the last.
    """
    sizes = even_split(architecture.depth, stages) if sizes is None else sizes
    if len(sizes) != stages or sum(sizes) != architecture.depth or min(sizes) < 0:
        raise InputError.single(
            f"{len(sizes)} stages with {sum(sizes)} layers for {stages} stages and {architecture.depth} layers",
            field="stages",
            hint=f"give {stages} layer counts that add up to {architecture.depth}",
        )
    kinds = {layer: index for index, layer in enumerate(architecture.kinds)}
    owner = [kinds[layer] for layer in architecture.layers for _ in range(layer.repeat)]
    modules = 0 if architecture.mtp is None else architecture.mtp.depth
    layout, first = [], 0
    for position, size in enumerate(sizes):
        held = owner[first : first + size]
        first += size
        layout.append(
            Stage(
                tuple(held.count(index) for index in range(len(kinds))),
                embedding=int(position == placement.embedding % stages),
                head=int(position == placement.head % stages),
                mtp=modules if position == placement.mtp % stages else 0,
            )
        )
    return tuple(layout)


def layer_runs(architecture: Architecture, layout: Sequence[Stage]) -> list[tuple[tuple[int, int], ...]]:
    """Return for each stage its runs of equal layers in order: (kind, layers in a row)."""
    kinds = {layer: index for index, layer in enumerate(architecture.kinds)}
    owner = iter([kinds[layer] for layer in architecture.layers for _ in range(layer.repeat)])
    stages = ([next(owner) for _ in range(sum(stage.layers))] for stage in layout)
    return [tuple((kind, len(list(run))) for kind, run in groupby(stage)) for stage in stages]
