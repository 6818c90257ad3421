"""A pass of prefill or decoding as tasks: its micro-batches alternate on the streams of each pipeline stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from costmodel.analytic import segments
from costmodel.analytic.inference import PassModel, PassTimes, StageModel
from costmodel.analytic.recurrence.program import NOTHING
from costmodel.analytic.segments import Segment, SegmentKey
from costmodel.analytic.stream_times import seconds_of, stream_times
from costmodel.event.engine import Timeline
from costmodel.event.graph import COPY, KERNEL, MESSAGE, Graph, Span, Task
from costmodel.event.links import Links, LinkUse, links_of, pass_link_use
from costmodel.event.replicas import Replicas, replicas_spanned, replicated
from costmodel.event.task_groups import ALL_TO_ALL, COMPUTE, D2H, H2D, HOST, TaskGroup, task_groups, wire_seconds
from costmodel.quantities import Quantity
from costmodel.records import Record, field
from costmodel.workload.scenario import Scenario
from costmodel.workload.work import EXPERTS

_STREAMS = {
    segments.COMPUTE: (COMPUTE, KERNEL), segments.ALL_TO_ALL: (ALL_TO_ALL, MESSAGE), segments.HOST: (HOST, KERNEL),
    segments.H2D: (H2D, COPY), segments.D2H: (D2H, COPY),
    **{number: (part, KERNEL if part == EXPERTS else MESSAGE) for part, number in segments.ELSEWHERE.items()},
}  # fmt: skip
"""Name of each stream, and the kind of its tasks."""
SEND = "send activations"


class PassGraph(Record):
    """A pass as a graph.

    stages: of each that is simulated, how many it represents, its first and its last task, in the first replica
    replicas: how many are simulated, with `tasks` tasks each
    """

    graph: Graph
    stages: tuple[tuple[float, int, int], ...]
    replicas: int
    tasks: int


def pass_graph(scenario: Scenario, model: PassModel, replicas: Replicas, *, full: bool = False) -> PassGraph:
    """Return the tasks of a pass through all stages, each after the one before it and a message.

    full: equal stages are simulated one by one, not once for all.
    """
    links = links_of(scenario)
    builder = _Builder(
        Graph(moe_comm_slowdown=float(model.moe_comm_slowdown)), links, scenario.parallel.tp * scenario.parallel.cp
    )
    graph, processors = builder.graph, float(scenario.communication.processors)
    groups = {
        (kind, number): _groups(segment, processors, split_collectives=links.wires is not None)
        for kind, layer in enumerate(model.segments)
        for number, segment in enumerate(layer)
    }
    stages: list[tuple[float, int, int]] = []
    uses = pass_link_use(scenario, model)
    previous: tuple[int, ...] = ()
    for stage in model.stages:
        for _ in range(stage.count if full else 1):
            device = len(stages)
            process = f"stage {device}"
            streams = {number: graph.stream(process, device, name) for number, (name, _) in _STREAMS.items()}
            if stages:
                previous = (builder.send(model, graph.stream(process, device, SEND), previous, device),)
            first = len(graph.tasks)
            done = builder.stage(stage, uses, groups, streams, previous, device)
            last = graph.mark(streams[segments.COMPUTE], done)
            graph.spans.append(Span(first, last, device, "pass", process))
            stages.append((1.0 if full else float(stage.count), first, last))
            previous = (last,)
    count = replicas.simulated(len(graph.tasks))
    links.assign_links(graph, count, replicas.of)
    whole = replicated(graph, count, builder.synchronised, links.per_replica)
    return PassGraph(whole, tuple(stages), count, len(graph.tasks))


def _groups(segment: Segment, processors: float, *, split_collectives: bool) -> list[TaskGroup]:
    groups = task_groups(segment.operators, "layer", processors, split_collectives=split_collectives)
    return groups or [TaskGroup("nothing", _STREAMS[segment.placement.stream][0], 0.0)]


class _Builder(Record):
    """Adds the tasks of stages to a graph.

    unit: devices of a replica that act as one rank
    synchronised: task -> replicas that its message spans
    """

    graph: Graph
    links: Links
    unit: Quantity
    synchronised: dict[int, int] = field(default_factory=dict)

    def send(self, model: PassModel, stream: int, after: tuple[int, ...], device: int) -> int:
        """Add the message to a stage from the one before and return its task."""
        seconds = float(seconds_of(model.send, None))
        wire = wire_seconds(model.send, seconds)
        before, message = self.links.message(seconds, wire, model.send, (device - 1, stream), device)
        return self.graph.add(Task("pipeline send", stream, before, after, MESSAGE, message=message))

    def stage(
        self, stage: StageModel, uses: Mapping[SegmentKey, LinkUse], groups: Mapping[SegmentKey, Sequence[TaskGroup]],
        streams: Mapping[int, int], before: tuple[int, ...], device: int,
    ) -> list[int]:  # fmt: skip
        """Add the events of a stage in the order of the closed form and return their last tasks."""
        program = stage.program
        done: list[int] = []
        for event, (stream, slot) in enumerate(zip(program.stream.tolist(), program.slot.tolist(), strict=True)):
            needs = tuple(done[need] for need in program.after[:, event].tolist() if need != NOTHING) or before
            key = program.slots[slot]
            for group in groups[key]:
                task = self.graph.add(
                    self.links.task(group, streams[stream], _STREAMS[stream][1], needs, device, uses.get(key))
                )
                spanned = 1 if group.message is None else replicas_spanned(group.message.operator, self.unit)
                if spanned > 1:
                    self.synchronised[task] = spanned
                needs = (task,)
            done.append(needs[0])
        return done


def pass_times_of(model: PassModel, pass_: PassGraph, timeline: Timeline) -> PassTimes:
    """Return the times of a pass as it was simulated. A simulated stage counts for all that it represents.

    A stage takes as long as on the slowest replica. The time of compute streams beyond their operators is contention.
    """
    latency = float(model.hops) * float(seconds_of(model.send, None))
    slowest = busy = host = 0.0
    full = len(pass_.stages) != len(model.stages)
    least = [float(stage.host) for stage in model.stages for _ in range(stage.count if full else 1)]
    graph, shape = timeline.graph, (pass_.replicas, pass_.tasks)
    start, finish = (
        times[: pass_.replicas * pass_.tasks].reshape(shape) for times in (timeline.start, timeline.finish)
    )
    for (count, first, last), started in zip(pass_.stages, least, strict=True):
        span = float((finish[:, last] - start[:, first : last + 1].min(axis=1)).max())
        waiting = max(started - span, 0.0)
        host, span = host + count * waiting, span + waiting
        latency, slowest = latency + count * span, max(slowest, span)
        for task in range(first, last):
            if graph.streams[graph.tasks[task].stream].name == COMPUTE:
                busy += count * float((finish[:, task] - start[:, task]).mean())
    compute = kernels = 0.0
    for stage in model.stages:
        for layer, repeats in zip(model.segments, stage.repeats, strict=True):
            for segment in layer:
                if segment.placement.stream == segments.COMPUTE:
                    runs = stage.count * repeats * segment.runs(model.micro_batches)
                    times = stream_times(segment.operators, None)
                    compute, kernels = compute + runs * float(times.total), kernels + runs * float(times.kernels)
    contention = busy - compute
    kernels = kernels + contention
    joules = model.joules + model.busy * kernels
    return PassTimes(latency, slowest, busy, kernels, contention, joules, host)
