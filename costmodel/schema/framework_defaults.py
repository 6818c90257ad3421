"""What a framework does with a model unless a scenario states otherwise."""

from __future__ import annotations

from costmodel.records import replace
from costmodel.schema.framework import TrainingDefaultsFile
from costmodel.schema.workload import PlanFile, TrainingFile
from costmodel.workload.architecture import Architecture
from costmodel.workload.scenario import Framework
from costmodel.workload.split_rules import passes_keys_on


def with_defaults(plan: PlanFile, defaults: TrainingDefaultsFile) -> PlanFile:
    """Return a scenario with the framework's sharding where it states none. Other phases have none."""
    if not isinstance(plan, TrainingFile):
        return plan
    stated = plan.optimizer.model_fields_set
    known = {"zero": defaults.zero, "overlap": defaults.overlap}
    changes = {key: value for key, value in known.items() if value is not None and key not in stated}
    return plan.model_copy(update={"optimizer": plan.optimizer.model_copy(update=changes)}) if changes else plan


def with_exchange(
    plan: PlanFile, defaults: TrainingDefaultsFile, kernels: Framework, architecture: Architecture
) -> PlanFile:
    """Return a scenario with the framework's exchange of keys where it states none and the model can have that one."""
    if not isinstance(plan, TrainingFile) or defaults.context is None or "context" in plan.parallel.model_fields_set:
        return plan
    can_ring = not kernels.unfused_attention and all(passes_keys_on(layer.mixer) for layer in architecture.kinds)
    if defaults.context == "ring" and not can_ring:
        return plan
    return plan.model_copy(update={"parallel": plan.parallel.model_copy(update={"context": defaults.context})})


def for_model(kernels: Framework, architecture: Architecture) -> Framework:
    """Return a framework whose engine prepares steps ahead as it does for this model."""
    engine = kernels.engine
    if engine is None or engine.scheduler.recurrent_overlapped is None or not architecture.has_recurrences:
        return kernels
    scheduler = replace(engine.scheduler, overlapped=engine.scheduler.recurrent_overlapped)
    return replace(kernels, engine=replace(engine, scheduler=scheduler))
