"""The max-plus recurrence: when a set of streams is done that each work in a fixed order and wait for each other.

    start(e)  = max(finish(previous of the stream), finish(a): a in e.after, finish(r) + transfer: r in e.receives)
    finish(e) = start(e) + duration(slot of e)
    makespan  = max over e of finish(e)

Pipeline schedules (`compile_schedule`) and overlapping micro-batches (`compile_events`) are such programs. A program
is structure only, compiled once. Three ways evaluate it, with the same result: wave by wave at a few points, by its
longest paths where there are few of them, and from a tape at all others.
"""

from costmodel.analytic.recurrence.paths import Paths
from costmodel.analytic.recurrence.program import Event, Program, Slot, compile_events, compile_schedule, program_of
from costmodel.analytic.recurrence.tape import AsyncReduceSpan, Workspace, async_reduce_span, makespan

__all__ = [
    "AsyncReduceSpan",
    "Event",
    "Paths",
    "Program",
    "Slot",
    "Workspace",
    "async_reduce_span",
    "compile_events",
    "compile_schedule",
    "makespan",
    "program_of",
]  # fmt: skip
