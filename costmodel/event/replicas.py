"""Data-parallel replicas one by one: a pipeline's graph again for each, with what they have to meet for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from costmodel.errors import InputError
from costmodel.event.graph import Graph, Message, Stream, Task
from costmodel.quantities import Quantity
from costmodel.workload.operators import Collective, ExpertAllToAll

MOST_TASKS = 1_000_000  # of a graph: three quarters of a gigabyte, and half a minute
MEETING = "meetings"  # streams of nothing but marks

Copies = Callable[[Message], tuple[Message, ...]]  # a message of the pipeline -> that of each replica


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many data-parallel replicas are simulated one by one.

    of: how many there are; apart: something tells them apart, so that one cannot stand for all; place: the file's keys
    that ask for them.
    """

    count: int = 1
    of: int = 1
    apart: bool = False
    place: str = "simulation"

    def __post_init__(self) -> None:
        if self.count > self.of:
            raise InputError.single(
                f"{self.count:,} replicas are more than the {self.of:,} that there are", field=f"{self.place}.replicas",
                hint=f"write {self.of:,} or fewer",
            )  # fmt: skip

    def simulated(self, tasks: int) -> int:
        """Return how many are simulated where a pipeline has so many tasks: one, where they are alike and too many.

        Raises InputError where they are not alike and too many.
        """
        if tasks * self.count <= MOST_TASKS:
            return self.count
        if not self.apart:
            return 1
        room = max(MOST_TASKS // tasks, 1)
        raise InputError.single(
            f"{self.count:,} replicas of a pipeline with {tasks:,} tasks each have more than {MOST_TASKS:,} tasks",
            field=f"{self.place}.replicas",
            hint=f"simulate {room:,} of them with `replicas: {room}`, or take fewer micro-batches",
        )


def replicas_met(operator: object, unit: Quantity) -> int:
    """Return how many neighbouring replicas of `unit` devices a message's group spans: one for what is no message."""
    if not isinstance(operator, Collective | ExpertAllToAll):
        return 1
    return max(round(float(operator.group.size * operator.group.stride / unit)), 1)


def replicated(graph: Graph, replicas: int, meets: Mapping[int, int], copies: Copies) -> Graph:
    """Return the graph of `replicas` pipelines, task t of replica q being `q * len(graph.tasks) + t`.

    Its devices are numbered replica by replica. meets: task -> how many neighbouring replicas have to have come to it
    before it starts on any of them: messages of groups that span them, and the end of all passes.
    """
    if replicas == 1:
        return graph
    count, devices = len(graph.tasks), 1 + max(stream.device for stream in graph.streams)
    made = Graph(slowing=graph.slowing, capacity=graph.capacity)
    meetings = [(number, first) for number in sorted(meets) for first in range(0, replicas, meets[number])]
    marks = {meeting: replicas * count + at for at, meeting in enumerate(meetings)}
    for replica in range(replicas):
        made.streams.extend(
            Stream(f"replica {replica}, {each.process}", replica * devices + each.device, each.name)
            for each in graph.streams
        )
        met = {number: marks[number, replica // span * span] for number, span in meets.items()}
        made.extend(_tasks(graph, replica, met, copies))
        own = replica * count
        made.arrows.extend((own + source, own + target) for source, target in graph.arrows)
        made.spans.extend(
            each._replace(first=own + each.first, last=own + each.last, device=replica * devices + each.device)
            for each in graph.spans
        )
    _meet(graph, made, meetings, meets, replicas)
    return made


def _tasks(graph: Graph, replica: int, met: Mapping[int, int], copies: Copies) -> Iterator[Task]:
    """Yield the tasks of a replica. met: task -> the mark at which it meets others."""
    own, streams = replica * len(graph.tasks), replica * len(graph.streams)
    for number, task in enumerate(graph.tasks):
        after = tuple(own + each for each in task.after)
        yield task._replace(
            stream=streams + task.stream,
            after=(*after, met[number]) if number in met else after,
            message=None if task.message is None else copies(task.message)[replica],
        )


def _meet(
    graph: Graph, made: Graph, meetings: Sequence[tuple[int, int]], meets: Mapping[int, int], replicas: int
) -> None:
    """Add the marks of meetings, (task, first replica): all have come to the task. Those of a stream are in order."""
    before = _before(graph)
    places: dict[tuple[int, int], int] = {}
    for number, first in meetings:
        task = graph.tasks[number]
        beside = made.streams[first * len(graph.streams) + task.stream]
        if (task.stream, first) not in places:
            places[task.stream, first] = made.stream(beside.process, beside.device, MEETING)
        members = range(first, min(first + meets[number], replicas))
        needs = [each * len(graph.tasks) + needed for each in members for needed in before[number]]
        made.mark(places[task.stream, first], needs, f"{task.name} of replicas {members[0]} to {members[-1]}")


def _before(graph: Graph) -> list[tuple[int, ...]]:
    """Return what each task waits for, the one before it on its stream included."""
    last: dict[int, int] = {}
    found = []
    for number, task in enumerate(graph.tasks):
        found.append((*task.after, last[task.stream]) if task.stream in last else task.after)
        last[task.stream] = number
    return found
