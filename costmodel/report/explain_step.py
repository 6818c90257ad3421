"""What `explain --op step` shows of a training step beside its equations: its actions, and the rank that bounds it."""

from __future__ import annotations

import numpy as np

from costmodel.analytic.recurrence import Slot
from costmodel.analytic.training.step_model import StepModel
from costmodel.analytic.training.step_times import pipeline_times, step_streams
from costmodel.quantities import Array
from costmodel.report.explain_inputs import Inputs
from costmodel.workload.stages import Stage


def actions_of(model: StepModel) -> tuple[Inputs, str, str, float]:
    """Return the size of the pipeline with the time of its actions, and which rank bounds the step.

    Then the action that takes most of the time, and its own [s].
    """
    times = pipeline_times(model, step_streams(model, None))
    durations = times.durations.reshape(len(model.pipeline.program.slots), -1)[:, 0]
    most = int(np.argmax(model.pipeline.program.mean_counts * durations))
    named = _named(model.pipeline.program.slots[most], model)
    return _actions(model, durations), _bound(model, durations, float(times.span)), named, float(durations[most])


def _actions(model: StepModel, durations: Array) -> Inputs:
    """Return the size of the pipeline, and how long an action of each kind takes on which stages."""
    pipeline = model.pipeline
    name, ranks, virtual, micro_batches = pipeline.order
    sizes: Inputs = {
        f"ranks of {name}": (float(ranks), "count"),
        "stages per rank": (float(virtual), "count"),
        "micro-batches": (float(micro_batches), "count"),
    }
    counts = pipeline.program.mean_counts
    actions = {
        f"{count:g} per rank: {_named(slot, model)}": (float(seconds), "time")
        for slot, count, seconds in zip(pipeline.program.slots, counts, durations, strict=True)
    }
    return {**sizes, **actions}


def _named(slot: Slot, model: StepModel) -> str:
    """Return an action with the stages that it may be on."""
    layout, classes = model.pipeline.layout, model.pipeline.classes
    parts = [
        f"{word} of {_stages(layout, classes[label])}"
        for word, label in (("forward", slot.forward), ("backward", slot.backward))
        if label is not None
    ]
    return f"{slot.kind.value.replace('_', ' ')} ({' with '.join(parts)})"


def _stages(layout: tuple[Stage, ...], wanted: Stage) -> str:
    """Return the numbers of the stages that are equal to one, consecutive ones as a range."""
    numbers = [number for number, stage in enumerate(layout) if stage == wanted]
    runs = np.split(numbers, 1 + np.flatnonzero(np.diff(numbers) > 1))
    ranges = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"stage{'s' if len(numbers) > 1 else ''} {', '.join(ranges)}"


def _bound(model: StepModel, durations: Array, span: float) -> str:
    """Return the rank that computes longest, and for how much of the span: the rest is fill, drain and waits."""
    program, schedule = model.pipeline.program, model.pipeline.schedule
    busy = program.counts @ durations
    rank = int(np.argmax(busy))
    stages = ", ".join(str(stage) for stage in schedule.stages_of(rank))
    return f"pipeline rank {rank} (stages {stages}), busy for {busy[rank] / span:.1%} of {span:.4g} s"
