"""What a framework does in training unless a scenario states otherwise."""

from __future__ import annotations

from costmodel.schema.framework import FrameworkFile, TrainingDefaultsFile
from costmodel.schema.workload import PlanFile, TrainingFile


def with_defaults(plan: PlanFile, defaults: TrainingDefaultsFile) -> PlanFile:
    """Return a scenario with the framework's sharding where it states none. Other phases have none."""
    if not isinstance(plan, TrainingFile):
        return plan
    stated = plan.optimizer.model_fields_set
    known = {"zero": defaults.zero, "overlap": defaults.overlap}
    changes = {key: value for key, value in known.items() if value is not None and key not in stated}
    return plan.model_copy(update={"optimizer": plan.optimizer.model_copy(update=changes)}) if changes else plan


def gradients_of(plan: PlanFile, framework: FrameworkFile) -> str | None:
    """Return the format in which a framework adds up the gradients of a BF16 run, null where it does not say."""
    return framework.training.gradients if isinstance(plan, TrainingFile) else None
