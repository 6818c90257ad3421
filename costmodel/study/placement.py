"""Which layers stand on which stage where a search tries other numbers of stages than the scenario states.

A scenario that states `stages` says with them how many layers its ends weigh: as many as their stages have fewer than
the longest. On another number of stages they weigh the same, and layers are spread as evenly as that allows.
"""

from __future__ import annotations

from costmodel.workload.architecture import Architecture
from costmodel.workload.plans import Training
from costmodel.workload.stages import even_split

_ENDS = ("embedding", "head", "mtp")


def stage_sizes(architecture: Architecture, plan: Training, stages: int) -> tuple[int, ...] | None:
    """Return the layers of each of `stages` stages. Null for as even as possible, where the scenario states none.

    Stated sizes stand where the number of stages is theirs. Elsewhere layer after layer goes to the stage with the
    least on it, the first of equal ones, after each end has been put on its stage with the weight that the stated sizes
    give it.
    """
    stated = plan.stages
    if stated is None or len(stated) == stages:
        return stated
    weights = end_weights(plan)
    if not any(weights.values()):
        return even_split(architecture.depth, stages)
    load = [0] * stages
    for stage_of, weight in weights.items():
        load[stage_of % stages] += weight
    sizes = [0] * stages
    for _ in range(architecture.depth):
        lightest = min(range(stages), key=lambda stage: load[stage])
        load[lightest] += 1
        sizes[lightest] += 1
    return tuple(sizes)


def end_weights(plan: Training) -> dict[int, int]:
    """Return the weight in layers of what stands on each stage with an end: place -> layers fewer than the longest."""
    sizes = plan.stages or ()
    places = {getattr(plan.placement, name) % len(sizes): getattr(plan.placement, name) for name in _ENDS}
    return {stage_of: max(sizes) - sizes[stage] for stage, stage_of in places.items()}
