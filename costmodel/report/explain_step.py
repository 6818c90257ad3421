"""What `explain --op step` and `--op bubble` show: the recurrence of a training step, its stages, what bounds it."""

from __future__ import annotations

import numpy as np

from costmodel.analytic.evaluation import anchor_of
from costmodel.analytic.recurrence import Slot
from costmodel.analytic.training import StepModel, pipeline_times, step_model, step_streams, step_times
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array
from costmodel.report.explain_inputs import Inputs
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario
from costmodel.workload.stages import Stage

STEP, BUBBLE = "step", "bubble"
EQUATION = """\
step_time   = span_time + optimizer_time
span_time   = max over actions e of finish(e)
finish(e)   = start(e) + duration(kind of e, stages of e)
start(e)    = max(finish(previous of the rank), finish(a) for a it waits for on the rank,
                  finish(x) + p2p_time for x it waits for on other ranks)
bubble_time = span_time - busy_time
busy_time   = sum of the times of all kinds of action, mean over ranks"""
ANCHORED = (
    "\nall times   = anchor_factor * those of this model: by measured steps of the site (docs/method.md, section 15.10)"
)


def step_terms(scenario: Scenario, plan: Training, calibration: Calibration) -> tuple[dict[str, float], Inputs, str]:
    """Return the terms of a training step [s], its actions as inputs, and which rank bounds it."""
    model = step_model(scenario, plan, calibration)
    streams, anchored = step_streams(model, None), anchor_of(scenario, calibration)
    factor = 1.0 if anchored is None else float(anchored.factor)
    times, passes = step_times(model, None).scaled(factor), pipeline_times(model, streams)
    span = factor * float(passes.span)
    kinds = {f"{kind}_time": float(seconds) for kind, seconds in times.by_kind.items() if float(seconds)}
    terms = {
        "step_time": float(times.step), "span_time": span, "optimizer_time": float(times.optimizer),
        "bubble_time": float(times.bubble), "busy_time": sum(kinds.values()), **kinds,
        "p2p_time": factor * float(model.p2p.seconds(None)),
        **({} if anchored is None else {"anchor_factor": factor}),
    }  # fmt: skip
    durations = factor * passes.durations.reshape(len(model.pipeline.program.slots), -1)[:, 0]
    return terms, _actions(model, durations), _bound(model, durations, span)


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
        f"{count:g} per rank: {_named(slot, pipeline.layout, pipeline.classes)}": (float(seconds), "time")
        for slot, count, seconds in zip(pipeline.program.slots, counts, durations, strict=True)
    }
    return {**sizes, **actions}


def _named(slot: Slot, layout: tuple[Stage, ...], classes: tuple[Stage, ...]) -> str:
    """Return an action with the stages that it may be on."""
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
