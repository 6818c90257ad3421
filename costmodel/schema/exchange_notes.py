"""Notes for a reader on a framework's own way of carrying tokens to the experts of other ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodel.schema import build
from costmodel.schema.workload import (
    CommunicationFile,
    ExpertBoundFile,
    ParallelFile,
    PlanFile,
    ServingFile,
    TrainingFile,
)
from costmodel.workload.architecture import Architecture
from costmodel.workload.scenario import Framework


def exchange_notes(
    plan: PlanFile, kernels: Framework, architecture: Architecture, *, has_deepep: bool
) -> Iterator[str]:
    """Yield a note where ranks of expert parallelism gather all tokens only because the framework does by default.

    It does so where groups of ranks have tokens of their own, ep*etp/tp > 1, as of `exchange_messages`. has_deepep: the
    framework can use DeepEP on the device. A scenario that states its exchange gets none.
    """
    if isinstance(plan, TrainingFile | ExpertBoundFile) or not architecture.has_experts:
        return
    where = [path for path, parallel, own in _pools(plan) if _gathers(parallel, own, kernels)]
    if not where:
        return
    text = f"experts' tokens are exchanged by an all-gather, as {kernels.name} does by default"
    if has_deepep:
        paths = " and ".join(where)
        text += (
            f"; for DeepEP, which is made for many ranks, set {paths}: {{mode: low_latency, dispatch: fp8}}, or bf16 "
            "where its tokens are not in FP8"
        )
    yield text


def _pools(plan: PlanFile) -> Iterator[tuple[str, ParallelFile, CommunicationFile]]:
    """Yield (path of the communication settings, degrees, settings) of a scenario, or of each of two pools."""
    pools = (("prefill", plan.prefill), ("decode", plan.decode)) if isinstance(plan, ServingFile) else ()
    parts = [(f"{name}.communication", pool.parallel, pool.communication) for name, pool in pools if pool is not None]
    yield from parts or [("communication", plan.parallel, plan.communication)]


def _gathers(parallel: ParallelFile, own: CommunicationFile, kernels: Framework) -> bool:
    """Tell whether a layout gathers tokens, and does not say so itself."""
    degrees = build.parallelism(parallel)
    groups = np.asarray(degrees.ep * degrees.etp / degrees.tp)
    is_by_default = own.exchange is None and build.communication(own, kernels).exchange == "gather"
    return is_by_default and degrees.expert_pool is None and bool(np.any(groups > 1))
