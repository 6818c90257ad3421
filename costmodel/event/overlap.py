"""What moves beside the passes of a training step, as parts of its actions."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.overlapped_comm import Beside, OverlappedComm, Works
from costmodel.analytic.stream_times import seconds_of
from costmodel.event.links import wire_seconds
from costmodel.event.list_scheduling import ActionTask
from costmodel.event.task_groups import ARRIVING, COLLECTIVE, COMPUTE, LEAVING, TaskGroup
from costmodel.workload.operators import Collective
from costmodel.workload.schedules import Kind

_NOTHING, _HANDED_OVER = (TaskGroup(name, COMPUTE, 0.0, 0.0, 0.0) for name in ("nothing", "gradients handed over"))


def beside(traffic: OverlappedComm, part: str, priced: TimedOperator, count: int) -> TaskGroup:
    """Return what moves beside a pass, on the stream that it uses."""
    seconds = count * float(seconds_of(priced, None))
    place = {"h2d": ARRIVING, "d2h": LEAVING}.get(part, COLLECTIVE)
    stream = COMPUTE if traffic.waits(part) else COLLECTIVE if traffic.one_link else place
    if not isinstance(priced.operator, Collective):
        return TaskGroup(priced.operator.name, stream, seconds, 0.0, 0.0)
    return TaskGroup(priced.operator.name, stream, seconds, 0.0, 0.0, wire=wire_seconds(priced, seconds), priced=priced)


def with_traffic(
    traffic: OverlappedComm, works: Works, kind: Kind, layers: Sequence[Sequence[TaskGroup]]
) -> list[ActionTask]:
    """Return a lone pass with what moves beside it: two layers on their way or at work at a time."""
    along = traffic.along(works, kind, ends=False)
    moved = [own for count, _, own in along for _ in range(count)]
    if traffic.has_async_reduce(kind):
        return _reducing(traffic, layers, moved)
    work: list[ActionTask] = []
    computed: list[int | None] = []
    fetched: list[tuple[int, ...]] = []

    def add(part: TaskGroup, after: Sequence[int | None]) -> int:
        work.append(ActionTask(part, tuple(dict.fromkeys(each for each in after if each is not None))))
        return len(work) - 1

    def fetch(layer: int) -> None:
        room = computed[layer - 2] if layer >= 2 else None
        arrived: list[int] = []
        for name in ("h2d", "gather"):
            own = [beside(traffic, kind_of, priced, 1) for kind_of, priced in moved[layer] if kind_of == name]
            arrived += [add(part, (room, *arrived)) for part in own if part.seconds and part.stream != COMPUTE]
        fetched.append(tuple(arrived))

    fetch(0)
    for number, layer in enumerate(layers):
        if number + 1 < len(layers):
            fetch(number + 1)
        waited = [beside(traffic, part, priced, 1) for part, priced in moved[number]]
        own = [*(part for part in waited if part.stream == COMPUTE and part.seconds), *layer]
        last = computed[-1] if computed else None
        needs: tuple[int | None, ...] = (last, *fetched[number])
        for part in own:
            last = add(part, needs)
            needs = (last,)
        computed.append(last)
        settled: list[int | None] = [last]
        for name in ("reduce", "d2h"):
            for kind_of, priced in moved[number]:
                made = beside(traffic, kind_of, priced, 1)
                if kind_of == name and made.seconds and made.stream != COMPUTE:
                    settled.append(add(made, settled))
    return work


def _reducing(
    traffic: OverlappedComm, layers: Sequence[Sequence[TaskGroup]], moved: Sequence[Sequence[Beside]]
) -> list[ActionTask]:
    """Return a lone pass whose reductions run on beside what follows: one of them at a time.

    A layer hands its own over when it is computed and the one before has ended (`analytic.streams.reducing`).
    """
    work: list[ActionTask] = []
    last, reduced = tuple[int, ...](), tuple[int, ...]()
    for number, layer in enumerate(layers):
        own = [beside(traffic, part, priced, 1) for part, priced in moved[number]]
        computed = [*(part for part in own if part.stream == COMPUTE and part.seconds), *layer]
        for part in computed or [_NOTHING]:  # the action begins with it, although its first layer may have to wait
            work.append(ActionTask(part, last))
            last = (len(work) - 1,)
        work.append(ActionTask(_HANDED_OVER, (*last, *reduced), after_async=not number))
        last = reduced = (len(work) - 1,)
        for part in (part for part in own if part.stream != COMPUTE and part.seconds):
            work.append(ActionTask(part, reduced, is_async=number == len(layers) - 1))
            reduced = (len(work) - 1,)
    return work
