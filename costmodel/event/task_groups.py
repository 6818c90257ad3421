"""Operators of a pass gathered into tasks: what runs between two exchanges is one task, as is each exchange."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.stream_times import exposed_seconds
from costmodel.event.links import wire_seconds
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    ExpertAllToAll,
    Gemm,
    HostTime,
    HostTransfer,
    MixedAttention,
    Operator,
    base_name,
)

COMPUTE, EXCHANGE, COLLECTIVE, ARRIVING, LEAVING, STARTS = (
    "compute", "expert exchange", "collectives", "from host", "to host", "host",
)  # fmt: skip
"""Names of a device's streams."""

_CLASSES = (
    ("attention", "attention"), ("mla", "attention"), ("moe_dispatch", "dispatch"), ("moe_combine", "combine"),
    ("send_recv", "collective"), ("bmm", "gemm"), ("host", "copy"),
)  # fmt: skip
_WAITS = (Collective, HostTransfer, HostTime)


class TaskGroup(NamedTuple):
    """Operators that run without a break on one stream.

    seconds: of all of them; kernels: of those that are no messages [s]; elastic: share of `seconds` that processors
    bound; processors: that it takes from kernels while it runs; wire: of `seconds`, those in which bytes move;
    classes: seconds by class of operator; priced: the message that it is, null for others.
    """

    name: str
    stream: str
    seconds: float
    kernels: float
    processor_bound_share: float
    processors: float = 0.0
    wire: float = 0.0
    classes: tuple[tuple[str, float], ...] = ()
    priced: TimedOperator | None = None


def parts_of(
    operators: Sequence[TimedOperator], name: str, processors: float = 0.0, *, apart: bool = False
) -> list[TaskGroup]:
    """Return the parts of one layer's pass, each after the one before. name: of a part without a name of its own.

    apart: collectives that kernels wait for are parts of their own, not parts of what runs between two exchanges.
    Messages that run beside attention cores count with what the cores do not hide, as in the closed form.
    """
    found: list[TaskGroup] = []
    timed = [(item, float(seconds)) for item, seconds in exposed_seconds(operators, None)]
    for kind, group in itertools.groupby(timed, key=lambda each: _kind(each[0].operator, apart=apart)):
        run = list(group)
        if kind is None:
            found.append(_computed(run, name))
        else:
            held = processors if kind == EXCHANGE else 0.0
            found.extend(_message(item, seconds, kind, held) for item, seconds in run)
    return [part for part in found if part.seconds > 0]


def _kind(operator: Operator, *, apart: bool) -> str | None:
    """Return the stream of a message that is a part of its own, null for what is none."""
    if isinstance(operator, ExpertAllToAll):
        return EXCHANGE
    return COMPUTE if apart and isinstance(operator, Collective) else None


def _message(item: TimedOperator, seconds: float, stream: str, processors: float) -> TaskGroup:
    name, wire = base_name(item.operator.name), wire_seconds(item, seconds)
    return TaskGroup(name, stream, seconds, 0.0, 0.0, processors, wire, _classes([(item, seconds)]), item)


def merged(parts: Iterable[TaskGroup], name: str) -> list[TaskGroup]:
    """Return parts of one stream as a single one; none where there is nothing to do."""
    listed = list(parts)
    seconds = sum(part.seconds for part in listed)
    if not seconds:
        return []
    elastic = sum(part.seconds * part.processor_bound_share for part in listed) / seconds
    times: dict[str, float] = defaultdict(float)
    for part in listed:
        for kind, each in part.classes:
            times[kind] += each
    kernels = sum(part.kernels for part in listed)
    return [TaskGroup(name, listed[0].stream, seconds, kernels, elastic, classes=tuple(times.items()))]


def _computed(run: Sequence[tuple[TimedOperator, float]], name: str) -> TaskGroup:
    seconds = sum(each for _, each in run)
    kernels = sum(each for item, each in run if not isinstance(item.operator, _WAITS))
    bound = sum(each for item, each in run if item.time.bound == "compute")
    elastic = bound / seconds if seconds else 0.0
    return TaskGroup(_title(run, name), COMPUTE, seconds, kernels, elastic, classes=_classes(run))


def _classes(run: Sequence[tuple[TimedOperator, float]]) -> tuple[tuple[str, float], ...]:
    """Return the seconds of each class of operators."""
    times: dict[str, float] = defaultdict(float)
    for item, seconds in run:
        times[class_of(item.operator.family)] += seconds
    return tuple((name, seconds) for name, seconds in times.items() if seconds)


def class_of(family: str) -> str:
    """Return the class that operators of a family are compared in with kernels of a measured trace."""
    return next((name for begin, name in _CLASSES if family.startswith(begin)), family)


def _title(run: Sequence[tuple[TimedOperator, float]], name: str) -> str:
    """Return what a run of operators is called: attention, experts, or after its longest operator."""
    if any(isinstance(item.operator, AttentionKernel | MixedAttention) for item, _ in run):
        return "attention"
    if any(isinstance(item.operator, Gemm) and item.operator.family == "grouped_gemm" for item, _ in run):
        return "experts"
    times: dict[str, float] = defaultdict(float)
    for item, seconds in run:
        times[base_name(item.operator.name)] += seconds
    return max(times, key=lambda each: times[each]) if times else name
