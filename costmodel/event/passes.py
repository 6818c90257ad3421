"""A pass of prefill or decoding as tasks: its micro-batches take turns on the streams of each pipeline stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from costmodel.analytic.inference import PassTimes, PricedPass, PricedStage
from costmodel.analytic.recurrence.waves import NOTHING
from costmodel.analytic.segments import ARRIVING, COMPUTE, EXCHANGE, HOST, LEAVING, Key, Segment
from costmodel.analytic.sums import seconds_of, sums_of
from costmodel.event import parts
from costmodel.event.engine import Timeline
from costmodel.event.graph import COPY, KERNEL, MESSAGE, Graph, Span, Task
from costmodel.event.links import Links, links_of
from costmodel.event.parts import Part, parts_of
from costmodel.workload.operators import AttentionCore, MixedAttention
from costmodel.workload.scenario import Scenario

_STREAMS = {
    COMPUTE: parts.COMPUTE, EXCHANGE: parts.EXCHANGE, HOST: "host", ARRIVING: parts.ARRIVING, LEAVING: parts.LEAVING
}  # fmt: skip
_KINDS = {COMPUTE: KERNEL, EXCHANGE: MESSAGE, HOST: KERNEL, ARRIVING: COPY, LEAVING: COPY}
SEND = "send activations"


@dataclass(frozen=True, slots=True, eq=False)
class PassGraph:
    """A pass as a graph. stages: of each that is simulated, how many it stands for, its first and its last task."""

    graph: Graph
    stages: tuple[tuple[float, int, int], ...]


def pass_graph(scenario: Scenario, priced: PricedPass, *, full: bool = False, halves: bool = False) -> PassGraph:
    """Return the tasks of a pass through all stages, each after the one before it and a message.

    full: stages that are alike are simulated one by one, not once for all; halves: attention is cut in two and the
    second micro-batch follows the first one by a turn, so that each exchange runs beside one part of the other's
    computation [DeepSeek, DeepSeek-V3/R1 inference system overview, 2025: five stages a layer].
    """
    graph, links = Graph(), links_of(scenario)
    known = {
        (kind, number): _parts(segment, float(scenario.communication.processors))
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
                previous = (graph.add(Task("pipeline send", sending, seconds, previous, MESSAGE)),)
            first = len(graph.tasks)
            split = halves and _takes_turns(priced, stage)
            units = _units(priced, stage, known) if split else []
            place = _Place(graph, device, streams, links)
            done = _halved(place, units, previous) if split else _turns(place, stage, known, previous)
            last = graph.mark(streams[COMPUTE], done)
            graph.spans.append(Span(first, last, device, "pass", process))
            found.append((1.0 if full else float(stage.count), first, last))
            previous = (last,)
    return PassGraph(graph, tuple(found))


def _parts(segment: Segment, processors: float) -> list[Part]:
    return parts_of(segment.operators, "layer", processors) or [Part("nothing", parts.COMPUTE, 0.0, 0.0, 0.0)]


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A device that tasks are added for. streams: by the closed form's numbers."""

    graph: Graph
    device: int
    streams: dict[int, int]
    links: Links

    def add(self, part: Part, place: int, after: tuple[int, ...]) -> int:
        """Add a part and return its task."""
        task = Task(
            part.name, self.streams[place], part.seconds, after, _KINDS[place], part.elastic, part.processors,
            classes=part.classes,
        )  # fmt: skip
        return self.graph.add(self.links.sent(task, self.device, part.wire))


def _turns(device: _Place, stage: PricedStage, known: dict[Key, list[Part]], before: tuple[int, ...]) -> list[int]:
    """Add the events of a stage in the order of the closed form and return their last tasks."""
    program = stage.program
    done: list[int] = []
    for number, (place, slot) in enumerate(zip(program.stream.tolist(), program.slot.tolist(), strict=True)):
        needs = tuple(done[each] for each in program.after[:, number].tolist() if each != NOTHING) or before
        for part in known[program.slots[slot]]:
            needs = (device.add(part, place, needs),)
        done.append(needs[0])
    return done


def _takes_turns(priced: PricedPass, stage: PricedStage) -> bool:
    """Tell whether two micro-batches hide each other's exchanges on a stage, with nothing on the host."""
    places = {segment.place.stream for kind, count in stage.runs if count for segment in priced.segments[kind]}
    return priced.micro_batches == 2 and places == {COMPUTE, EXCHANGE}


def _units(priced: PricedPass, stage: PricedStage, known: dict[Key, list[Part]]) -> list[list[tuple[int, Part]]]:
    """Return the turns of a micro-batch, each some computation and the exchange behind it: (stream, part) in order."""
    units: list[list[tuple[int, Part]]] = [[]]

    def turn() -> None:
        if units[-1]:
            units.append([])

    for kind, count in stage.runs:
        segments = priced.segments[kind]
        exchanges = [
            sum(part.seconds for part in known[kind, number])
            for number, segment in enumerate(segments)
            if segment.place.stream == EXCHANGE
        ]
        for _ in range(count):
            for number, segment in enumerate(segments):
                place = segment.place.stream
                if exchanges and place == COMPUTE and _has_core(segment):
                    first, second = _halves(segment, exchanges)
                    units[-1] += [(place, part) for part in first]
                    turn()
                    units[-1] += [(place, part) for part in second]
                else:
                    units[-1] += [(place, part) for part in known[kind, number]]
                if place == EXCHANGE:
                    turn()
    return [unit for unit in units if unit]


def _has_core(segment: Segment) -> bool:
    return any(isinstance(item.operator, AttentionCore | MixedAttention) for item in segment.operators)


def _halves(segment: Segment, exchanges: Sequence[float]) -> tuple[list[Part], list[Part]]:
    """Return a segment cut between two operators where it leaves least of the exchanges unhidden, or most evenly.

    exchanges: of the layer in order [s]; the first one runs beside the first half of the other micro-batch's attention,
    the last one beside the second half.
    """
    ends = np.cumsum([float(item.time.seconds) for item in segment.operators])
    left = np.maximum(exchanges[0] - ends, 0.0) + np.maximum(exchanges[-1] - (ends[-1] - ends), 0.0)
    cut = int(np.lexsort((np.abs(ends - ends[-1] / 2), left))[0]) + 1
    halves = [parts_of(half, "attention") for half in (segment.operators[:cut], segment.operators[cut:])]
    first, second = ([part._replace(name=f"attention {n}") for part in half] for n, half in enumerate(halves, 1))
    return first, second


def _halved(device: _Place, units: Sequence[Sequence[tuple[int, Part]]], before: tuple[int, ...]) -> list[int]:
    """Add the turns of two micro-batches, the second one turn behind the first, and return their last tasks."""
    ready = [before, before]
    for turn in range(len(units) + 1):
        for batch, number in ((0, turn), (1, turn - 1)):
            if 0 <= number < len(units):
                for place, part in units[number]:
                    ready[batch] = (device.add(part, place, ready[batch]),)
    return [task for after in ready for task in after]


def pass_times_of(priced: PricedPass, made: PassGraph, timeline: Timeline) -> PassTimes:
    """Return the times of a pass as it was simulated; of stages that are alike, those of the simulated one count."""
    latency = float(priced.hops) * float(seconds_of(priced.send, None))
    slowest = busy = kernels = 0.0
    for count, first, last in made.stages:
        span = float(timeline.finish[last] - timeline.start[first : last + 1].min())
        latency, slowest = latency + count * span, max(slowest, span)
    for stage in priced.stages:
        for segments, repeats in zip(priced.segments, stage.repeats, strict=True):
            for segment in segments:
                if segment.place.stream == COMPUTE:
                    runs = stage.count * repeats * segment.runs(priced.micro_batches)
                    sums = sums_of(segment.operators, None)
                    busy, kernels = busy + runs * float(sums.total), kernels + runs * float(sums.kernels)
    return PassTimes(latency, slowest, busy, kernels)
