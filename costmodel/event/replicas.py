"""Data-parallel replicas simulated one by one: a pipeline's graph for each, with the points where they synchronise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from costmodel.errors import InputError
from costmodel.event.graph import Graph, Message, Stream, Task
from costmodel.quantities import Quantity
from costmodel.records import ValueRecord
from costmodel.workload.operators import Collective, ExpertAllToAll

MOST_TASKS = 1_000_000  # of a graph: three quarters of a gigabyte, and half a minute
SYNCHRONISATION = "synchronisation"  # name of streams with marks only

PerReplica = Callable[[Message], tuple[Message, ...]]  # a message of the pipeline -> that of each replica


class Replicas(ValueRecord):
    """How many data-parallel replicas are simulated one by one.

    of: how many there are.
    differ: their times may differ, so that one cannot represent all.
    path: of the keys of the file that ask for them.
    """

    count: int = 1
    of: int = 1
    differ: bool = False
    path: str = "simulation"

    def __post_init__(self) -> None:
        if self.count > self.of:
            raise InputError.single(
                f"{self.count:,} replicas are more than the {self.of:,} that there are", field=f"{self.path}.replicas",
                hint=f"write {self.of:,} or fewer",
            )  # fmt: skip

    def simulated(self, tasks: int) -> int:
        """Return how many are simulated of a pipeline with so many tasks: one, where they are equal and too many.

        Raises InputError where they differ and are too many.
        """
        if tasks * self.count <= MOST_TASKS:
            return self.count
        if not self.differ:
            return 1
        room = max(MOST_TASKS // tasks, 1)
        raise InputError.single(
            f"{self.count:,} replicas of a pipeline with {tasks:,} tasks each have more than {MOST_TASKS:,} tasks",
            field=f"{self.path}.replicas",
            hint=f"simulate {room:,} of them with `replicas: {room}`, or take fewer micro-batches",
        )

    def note(self, simulated: int) -> tuple[str, ...]:
        """Return that fewer replicas were simulated than requested, where it is so."""
        if simulated == self.count:
            return ()
        return (f"simulating one of {self.count:,} identical data-parallel replicas; all of them would be too many",)


def replicas_spanned(operator: object, unit: Quantity) -> int:
    """Return how many neighbouring replicas of `unit` devices a message's group spans, one for all other operators."""
    if not isinstance(operator, Collective | ExpertAllToAll):
        return 1
    return max(round(float(operator.group.size * operator.group.stride / unit)), 1)


def replicated(graph: Graph, replicas: int, synchronised: Mapping[int, int], per_replica: PerReplica) -> Graph:
    """Return the graph of `replicas` pipelines, task t of replica q being `q * len(graph.tasks) + t`.

    Its devices are numbered replica by replica. synchronised: task -> how many neighbouring replicas have to reach it
    before it starts on any of them: messages of groups that span them, and the end of all passes.
    """
    if replicas == 1:
        return graph
    count, devices = len(graph.tasks), 1 + max(stream.device for stream in graph.streams)
    whole = Graph(moe_comm_slowdown=graph.moe_comm_slowdown, capacity=graph.capacity)
    barriers = [(task, first) for task in sorted(synchronised) for first in range(0, replicas, synchronised[task])]
    marks = {barrier: replicas * count + number for number, barrier in enumerate(barriers)}
    for replica in range(replicas):
        whole.streams.extend(
            Stream(f"replica {replica}, {stream.process}", replica * devices + stream.device, stream.name)
            for stream in graph.streams
        )
        waits = {task: marks[task, replica // span * span] for task, span in synchronised.items()}
        whole.tasks.extend(_tasks(graph, replica, waits, per_replica))
        first = replica * count
        whole.arrows.extend((first + source, first + target) for source, target in graph.arrows)
        whole.spans.extend(
            span._replace(first=first + span.first, last=first + span.last, device=replica * devices + span.device)
            for span in graph.spans
        )
    needs = _needs(graph)
    streams: dict[tuple[int, int], int] = {}  # barriers of a stream are in order
    for number, first in barriers:
        task = graph.tasks[number]
        own_stream = whole.streams[first * len(graph.streams) + task.stream]
        if (task.stream, first) not in streams:
            streams[task.stream, first] = whole.stream(own_stream.process, own_stream.device, SYNCHRONISATION)
        members = range(first, min(first + synchronised[number], replicas))
        after = [member * count + needed for member in members for needed in needs[number]]
        whole.mark(streams[task.stream, first], after, f"{task.name} of replicas {members[0]} to {members[-1]}")
    return whole


def _tasks(graph: Graph, replica: int, waits: Mapping[int, int], per_replica: PerReplica) -> Iterator[Task]:
    """Yield the tasks of a replica. waits: task -> the mark at which it waits for other replicas."""
    first, streams = replica * len(graph.tasks), replica * len(graph.streams)
    for number, task in enumerate(graph.tasks):
        after = tuple(first + needed for needed in task.after)
        yield task._replace(
            stream=streams + task.stream,
            after=(*after, waits[number]) if number in waits else after,
            message=None if task.message is None else per_replica(task.message)[replica],
        )


def _needs(graph: Graph) -> list[tuple[int, ...]]:
    """Return what each task waits for, the one before it on its stream included."""
    last: dict[int, int] = {}
    needs = []
    for number, task in enumerate(graph.tasks):
        needs.append((*task.after, last[task.stream]) if task.stream in last else task.after)
        last[task.stream] = number
    return needs
