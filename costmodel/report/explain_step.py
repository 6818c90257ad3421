"""What `explain --op step` shows of a training step: its schedule's recurrence, its stages, what bounds it."""

from __future__ import annotations

import numpy as np

from costmodel.analytic.actions import all_to_all_contention
from costmodel.analytic.recurrence import Slot
from costmodel.analytic.step_model import StepModel, step_model
from costmodel.analytic.training import StepStreams, jitter, lone_stage, pipeline_times, step_streams, step_times
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Seconds
from costmodel.report.explain_inputs import Inputs
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario
from costmodel.workload.stages import Stage

STEP, BUBBLE = "step", "bubble"
FILES = "costmodel/analytic/training.py; costmodel/analytic/recurrence/evaluate.py"
EQUATION = """\
step_time       = span_time + optimizer_time
span_time       = max over actions e of finish(e)
finish(e)       = start(e) + duration(e) + jitter_time(e)           of the kind of e on the stages of e
start(e)        = max(finish(previous of the rank), finish(a) for a it waits for on the rank,
                      finish(x) + p2p_time for x it waits for on other ranks)
duration(e)     = compute_time + all_to_all_time                    of a lone pass
                  max(compute_time + contention_time, all_to_all_time)     of a forward overlapped with a backward
contention_time = min(all_to_all_time, slowdown*compute_time) * (1 - 1/slowdown)        slowdown = moe_comm_slowdown
bubble_time     = span_time - busy_time
busy_time       = sum of the durations of all actions, mean over ranks"""


def step_terms(
    scenario: Scenario, plan: Training, calibration: Calibration
) -> tuple[dict[str, float], Inputs, str, str]:
    """Return the terms of a training step [s], its actions as inputs, which rank bounds it, and which action is shown.

    The terms of an action are those of the one that takes most of the time.
    """
    model = step_model(scenario, plan, calibration)
    streams = step_streams(model, None)
    times, passes = step_times(model, None), pipeline_times(model, streams)
    span = float(passes.span)
    durations = passes.durations.reshape(len(model.pipeline.program.slots), -1)[:, 0]
    kinds = {f"{kind}_time": float(seconds) for kind, seconds in times.by_kind.items() if float(seconds)}
    slots = model.pipeline.program.slots
    largest = slots[int(np.argmax(model.pipeline.program.mean_counts * durations))]
    terms = {
        "step_time": float(times.step), "span_time": span, "optimizer_time": float(times.optimizer),
        "bubble_time": float(times.bubble), "busy_time": sum(kinds.values()), **kinds,
        "p2p_time": float(model.p2p.seconds(None)), **_action_terms(model, largest, streams),
    }  # fmt: skip
    shown = f"compute_time to moe_comm_slowdown are those of the action with most time: {_named(largest, model)}"
    return terms, _actions(model, durations), _bound(model, durations, span), shown


def _action_terms(model: StepModel, slot: Slot, streams: StepStreams) -> dict[str, float]:
    """Return what the duration of an action is made of."""
    slowdown, waits = model.moe_comm_slowdown, jitter(model, streams.layers)
    contention: Seconds = 0.0
    if slot.forward is not None and slot.backward is not None:
        times = streams.stages[slot.forward].forward + streams.stages[slot.backward].backward
        contention = all_to_all_contention(times, slowdown)
    else:
        times = streams.stages[lone_stage(slot)].of(slot.kind)
    return {
        "compute_time": float(times.compute), "all_to_all_time": float(times.expert_all_to_alls),
        "contention_time": float(contention), "jitter_time": float(waits.get(slot, 0.0)),
        "moe_comm_slowdown": float(slowdown),
    }  # fmt: skip


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
