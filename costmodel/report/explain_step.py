"""What `explain --op step` shows of a step beside its equations: its events, and what bounds it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costmodel.analytic.inference import PassModel
from costmodel.analytic.recurrence import Slot
from costmodel.analytic.training.step_model import StepModel
from costmodel.analytic.training.step_times import pipeline_times, step_streams
from costmodel.equations import place_of
from costmodel.quantities import Array
from costmodel.report.equations import Block, Call, Chain
from costmodel.report.explain_inputs import Inputs
from costmodel.workload.schedules import SCHEDULES
from costmodel.workload.stages import Stage


def path_of(chain: Chain, blocks: Sequence[Block]) -> Call | None:
    """Return the call that sums up the longest path of the events in some equations, null where none does."""
    lines = (line for block in blocks for line in block.lines if "on_path" in line.terms)
    return next((call for line in lines for call in chain.calls(line.equation.name, line.value) if call.further), None)


def segments_of(model: PassModel, path: Call) -> Inputs:
    """Return how long each segment on the longest path of a pass takes [s]."""
    segments: Inputs = {}
    slots = zip(path.names["program"].slots, path.further["on_path"], path.names["durations"][:, 0], strict=True)
    for (kind, number), count, seconds in slots:
        first, last = (model.segments[kind][number].operators[place].operator.name for place in (0, -1))
        if count:
            name = f"{count:g} on the longest path: {first} to {last}, of layers of kind {kind + 1}"
            segments[name] = (float(seconds), "time")
    return segments


def actions_of(model: StepModel, path: Call | None) -> tuple[Inputs, str, tuple[str, ...], float]:
    """Return the size of the pipeline with the time of its actions, which rank bounds the step, and notes.

    Then the time of the action that takes most of the step [s]. path: the longest one through the actions.
    """
    times = pipeline_times(model, step_streams(model, None))
    durations = times.durations.reshape(len(model.pipeline.program.slots), -1)[:, 0]
    most = int(np.argmax(model.pipeline.program.mean_counts * durations))
    place = place_of(SCHEDULES[model.pipeline.order[0]].build)
    notes = [
        f"`action_times` is of the action with most time: {_named(model.pipeline.program.slots[most], model)}",
        f"the order of each rank's actions: {place}; docs/method.md, sections 10.1 and 10.3",
    ]
    bound = _bound(model, durations, float(times.span))
    return _actions(model, durations, path), bound, tuple(notes), float(durations[most])


def _actions(model: StepModel, durations: Array, path: Call | None) -> Inputs:
    """Return the size of the pipeline, and how long an action of each kind takes on which stages."""
    name, ranks, virtual, micro_batches = model.pipeline.order
    sizes: Inputs = {
        f"ranks of {name}": (float(ranks), "count"),
        "stages per rank": (float(virtual), "count"),
        "micro-batches": (float(micro_batches), "count"),
    }
    program = model.pipeline.program
    paths = [""] * len(durations)
    if path is not None:
        paths = [f", {count:g} on the longest path" for count in path.further["on_path"]]
    rows = zip(program.slots, program.mean_counts, paths, durations, strict=True)
    return sizes | {
        f"{count:g} per rank{path}: {_named(slot, model)}": (float(seconds), "time")
        for slot, count, path, seconds in rows
    }


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
