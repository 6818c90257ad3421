"""A pass of prefill or decoding as tasks: its micro-batches take turns on the streams of each pipeline stage."""

from __future__ import annotations

from dataclasses import dataclass

from costmodel.analytic.inference import PassModel, PassTimes, StageModel
from costmodel.analytic.recurrence.waves import NOTHING
from costmodel.analytic.segments import ARRIVING, COMPUTE, EXCHANGE, HOST, LEAVING, Key, Segment
from costmodel.analytic.stream_times import seconds_of, stream_times
from costmodel.event import task_groups as parts
from costmodel.event.engine import Timeline
from costmodel.event.graph import COPY, KERNEL, MESSAGE, Graph, Span, Task
from costmodel.event.links import Links, links_of, wire_seconds
from costmodel.event.replicas import Replicas, replicas_met, replicated
from costmodel.event.task_groups import TaskGroup, parts_of
from costmodel.quantities import Quantity
from costmodel.workload.scenario import Scenario

_STREAMS = {
    COMPUTE: parts.COMPUTE, EXCHANGE: parts.EXCHANGE, HOST: "host", ARRIVING: parts.ARRIVING, LEAVING: parts.LEAVING
}  # fmt: skip
_KINDS = {COMPUTE: KERNEL, EXCHANGE: MESSAGE, HOST: KERNEL, ARRIVING: COPY, LEAVING: COPY}
SEND = "send activations"


@dataclass(frozen=True, slots=True, eq=False)
class PassGraph:
    """A pass as a graph. stages: of each that is simulated, how many it stands for, its first and its last task.

    replicas: how many are simulated, with `tasks` tasks each; stages are those of the first.
    """

    graph: Graph
    stages: tuple[tuple[float, int, int], ...]
    replicas: int
    tasks: int


def pass_graph(scenario: Scenario, priced: PassModel, replicas: Replicas, *, full: bool = False) -> PassGraph:
    """Return the tasks of a pass through all stages, each after the one before it and a message.

    full: stages that are alike are simulated one by one, not once for all.
    """
    meets: dict[int, int] = {}
    unit = scenario.parallel.tp * scenario.parallel.cp
    graph, links = Graph(slowing=float(priced.moe_comm_slowdown)), links_of(scenario)
    known = {
        (kind, number): _parts(segment, float(scenario.communication.processors), apart=links.link_loads is not None)
        for kind, segments in enumerate(priced.segments)
        for number, segment in enumerate(segments)
    }
    found: list[tuple[float, int, int]] = []
    previous: tuple[int, ...] = ()
    for stage in priced.stages:
        for _ in range(stage.count if full else 1):
            device = len(found)
            process = f"stage {device}"
            streams = {number: graph.stream(process, device, name) for number, name in _STREAMS.items()}
            if found:
                sending = graph.stream(process, device, SEND)
                seconds = float(seconds_of(priced.send, None))
                own, message = links.message(
                    seconds, wire_seconds(priced.send, seconds), priced.send, (device - 1, sending), device
                )
                previous = (graph.add(Task("pipeline send", sending, own, previous, MESSAGE, message=message)),)
            first = len(graph.tasks)
            done = _turns(_Place(graph, device, streams, links, meets, unit), stage, known, previous)
            last = graph.mark(streams[COMPUTE], done)
            graph.spans.append(Span(first, last, device, "pass", process))
            found.append((1.0 if full else float(stage.count), first, last))
            previous = (last,)
    count = replicas.simulated(len(graph.tasks))
    links.assign_links(graph, count, replicas.of)
    return PassGraph(replicated(graph, count, meets, links.of_replicas), tuple(found), count, len(graph.tasks))


def _parts(segment: Segment, processors: float, *, apart: bool) -> list[TaskGroup]:
    return parts_of(segment.operators, "layer", processors, apart=apart) or [
        TaskGroup("nothing", parts.COMPUTE, 0.0, 0.0, 0.0)
    ]


def _kind(part: TaskGroup, place: int) -> str:
    return _KINDS[place] if part.priced is None else MESSAGE


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A device that tasks are added for.

    streams: by the closed form's numbers; meets: task -> replicas of `unit` devices each that it is a message among.
    """

    graph: Graph
    device: int
    streams: dict[int, int]
    links: Links
    meets: dict[int, int]
    unit: Quantity

    def add(self, part: TaskGroup, place: int, after: tuple[int, ...]) -> int:
        """Add a part and return its task."""
        stream = self.streams[place]
        seconds, message = self.links.message(part.seconds, part.wire, part.priced, (self.device, stream))
        number = self.graph.add(
            Task(
                part.name, stream, seconds, after, _kind(part, place), part.processor_bound_share, part.processors,
                message, part.classes, place == EXCHANGE,
            )
        )  # fmt: skip
        met = 1 if part.priced is None else replicas_met(part.priced.operator, self.unit)
        if met > 1:
            self.meets[number] = met
        return number


def _turns(device: _Place, stage: StageModel, known: dict[Key, list[TaskGroup]], before: tuple[int, ...]) -> list[int]:
    """Add the events of a stage in the order of the closed form and return their last tasks."""
    program = stage.program
    done: list[int] = []
    for number, (place, slot) in enumerate(zip(program.stream.tolist(), program.slot.tolist(), strict=True)):
        needs = tuple(done[each] for each in program.after[:, number].tolist() if each != NOTHING) or before
        for part in known[program.slots[slot]]:
            needs = (device.add(part, place, needs),)
        done.append(needs[0])
    return done


def pass_times_of(priced: PassModel, made: PassGraph, timeline: Timeline) -> PassTimes:
    """Return the times of a pass as it was simulated; of stages that are alike, those of the simulated one count.

    A stage takes as long as on the slowest replica.

    What the compute streams take longer than their operators is contention.
    """
    latency = float(priced.hops) * float(seconds_of(priced.send, None))
    slowest = busy = 0.0
    graph, shape = timeline.graph, (made.replicas, made.tasks)
    start, finish = (each[: made.replicas * made.tasks].reshape(shape) for each in (timeline.start, timeline.finish))
    for count, first, last in made.stages:
        span = float((finish[:, last] - start[:, first : last + 1].min(axis=1)).max())
        latency, slowest = latency + count * span, max(slowest, span)
        for number in range(first, last):
            if graph.streams[graph.tasks[number].stream].name == parts.COMPUTE:
                busy += count * float((finish[:, number] - start[:, number]).mean())
    compute = kernels = 0.0
    for stage in priced.stages:
        for segments, repeats in zip(priced.segments, stage.repeats, strict=True):
            for segment in segments:
                if segment.place.stream == COMPUTE:
                    runs = stage.count * repeats * segment.runs(priced.micro_batches)
                    sums = stream_times(segment.operators, None)
                    compute, kernels = compute + runs * float(sums.total), kernels + runs * float(sums.kernels)
    slower = busy - compute
    return PassTimes(latency, slowest, busy, kernels + slower, slower)
