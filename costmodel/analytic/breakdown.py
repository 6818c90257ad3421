"""Where the time of a single point goes, operator by operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from costmodel.analytic.actions import PassSums, all_to_all_contention, lone_seconds, stage_sums
from costmodel.analytic.inference import PassModel, PassTimes
from costmodel.analytic.operator_timing import TimedOperator, TimedWork
from costmodel.analytic.overlapped_comm import OverlappedComm, Works
from costmodel.analytic.recurrence import Slot
from costmodel.analytic.segments import COMPUTE
from costmodel.analytic.stream_times import exposed_seconds
from costmodel.analytic.training import (
    StepModel,
    layer_sums,
    once_a_step,
    optimizer_times,
    pass_times,
    slot_times,
)
from costmodel.result import Entry
from costmodel.workload.memory import stage_work
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    ExpertAllToAll,
    Gemm,
    HostGemm,
    HostTime,
    HostTransfer,
    HostUpdate,
    MixedAttention,
    Operator,
    base_name,
)
from costmodel.workload.schedules import Kind

ROUNDING = 1e-13  # of a pass: what differences of floats that are equal leave
HOST = "host"  # what passes wait for the host to start their kernels
SLOWED = "slowed by exchanges"  # what kernels take longer because exchanges run beside them
_UNCOUNTED = (Collective, ExpertAllToAll, HostTransfer, HostUpdate, HostTime)
_Part: TypeAlias = "tuple[TimedOperator, float, float]"  # an operator, how often, and the share that nothing hides


class Lines:
    """Adds priced operators up by base name."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._bases: dict[TimedOperator, str] = {}

    def add(self, priced: TimedOperator, count: float, exposed: float = 1.0) -> None:
        """Add `count` runs of an operator, a share `exposed` of whose time nothing hides."""
        name = base_name(priced.operator.name)
        entry = self.entries.setdefault(name, Entry(name))
        if priced not in self._bases:
            self._bases[priced] = priced.fit.basis_at(priced.operator)
        entry.add(float(priced.time.seconds) * count, exposed, priced.time.bound, self._bases[priced])
        entry.add_work(count, *_work(priced.operator))

    def add_wait(self, name: str, seconds: float, bound: str) -> None:
        """Add time in which nothing of the scenario's own runs; it rests on what the rest so far rests on."""
        known: dict[str, float] = defaultdict(float)
        for entry in self.entries.values():
            for basis, share in entry.by_basis.items():
                known[basis] += share
        whole = sum(known.values())
        if not seconds:
            return
        entry = self.entries.setdefault(name, Entry(name))
        for basis, share in known.items():
            entry.add(seconds * share / whole, 1.0, bound, basis)

    def sorted(self) -> list[Entry]:
        """Return the entries that take any time, the longest first; what rounding left of a difference is none."""
        nothing = ROUNDING * sum(entry.time + entry.hidden for entry in self.entries.values())
        for entry in self.entries.values():
            entry.hidden = entry.hidden if entry.hidden > nothing else 0.0
        present = [
            entry for entry in self.entries.values() if entry.time > (0.0 if entry.count else nothing) or entry.hidden
        ]
        return sorted(present, key=lambda entry: -entry.time)


def _work(operator: Operator) -> tuple[float, float | None, str | None]:
    """Return (FLOP, bytes of device memory, number format of the products) of one run; null: not counted, none."""
    if isinstance(operator, _UNCOUNTED):
        return 0.0, None, None
    if isinstance(operator, HostGemm):
        return float(operator.flop), None, operator.gemm.dtype
    dtype = operator.dtype if isinstance(operator, Gemm | AttentionKernel | MixedAttention) else None
    return float(operator.flop), float(operator.traffic), dtype


def step_breakdown(step: StepModel) -> list[Entry]:
    """Return the operators of a training step, means over pipeline ranks; with the bubble they sum to the step time."""
    lines = Lines()
    slower = waiting = 0.0
    for slot, count in zip(step.program.slots, step.program.mean_counts, strict=True):
        slower += float(count) * _contention(step, slot)
        waiting += float(count) * _host_wait(step, slot)
        exposed = _exposed_share(step, slot.kind, slot.forward, slot.backward)
        for priced, repeats, share in _slot_operators(step, slot.kind, slot.forward, slot.backward):
            lines.add(priced, float(count) * repeats, exposed if isinstance(priced.operator, ExpertAllToAll) else share)
        for priced, repeats, share in _slot_traffic(step, slot):
            lines.add(priced, float(count) * repeats, share)
    for priced, repeats, share in _running_on(step):
        lines.add(priced, repeats, share)
    for priced, repeats, share in _slowest_end(step):
        lines.add(priced, float(repeats), share)
    lines.add_wait(SLOWED, slower, "memory")
    lines.add_wait(HOST, waiting, "latency")
    return lines.sorted()


def _host_wait(step: StepModel, slot: Slot) -> float:
    """Return how much longer an action takes because its kernels cannot be started faster."""
    if not float(step.start):
        return 0.0
    hurried, timed = (slot_times(each, slot, None) for each in (replace(step, start=0.0), step))
    return float(timed.seconds) - float(hurried.seconds)


def _contention(step: StepModel, slot: Slot) -> float:
    """Return how much longer the kernels of an action take because exchanges run beside them."""
    if slot.forward is None or slot.backward is None:
        return 0.0
    layers = layer_sums(step, None)
    forward, backward = (stage_sums(step.works_of(label), layers) for label in (slot.forward, slot.backward))
    return float(all_to_all_contention(forward.forward + backward.backward, step.moe_comm_slowdown))


def _slot_traffic(step: StepModel, slot: Slot) -> Iterator[_Part]:
    """Yield what moves beside one action, with the share of it that makes the action longer.

    Of actions whose reductions run on only what they wait for in full: `_running_on` has the rest.
    """
    traffic = step.overlapped_comm
    if traffic is None:
        return
    layers = layer_sums(step, None)
    if slot.forward is not None and slot.backward is not None:
        if traffic.has_async_reduce(slot.kind):
            return
        works = step.works_of(slot.forward), step.works_of(slot.backward)
        alone, exchanges = _pair_alone(step, slot)
        longer = traffic.overlapped_pair(*works, alone, exchanges, None) - max(alone, exchanges)
        yield from _spread([(priced, count) for _, count, priced in traffic.in_pair(*works)], float(longer))
        return
    stages = [step.works_of(_label(slot))]
    if traffic.has_async_reduce(slot.kind):
        waited, _ = _apart(traffic, stages, slot.kind, ends=False)
        yield from ((priced, count, 1.0) for priced, count in waited)
        return
    yield from _lone_traffic(traffic, stages, slot.kind, layers, ends=False)


def _running_on(step: StepModel) -> Iterator[_Part]:
    """Yield the reductions that run on, means over ranks, with the share of all of them that makes the step longer."""
    traffic = step.overlapped_comm
    if traffic is None or not traffic.runs_on:
        return
    layers = layer_sums(step, None)
    passes = pass_times(step, layers, None)
    moved: list[tuple[TimedOperator, float]] = []
    longer = float(passes.left)
    for row, (slot, count) in enumerate(zip(step.program.slots, step.program.mean_counts.tolist(), strict=True)):
        if not traffic.has_async_reduce(slot.kind):
            continue
        if slot.forward is not None and slot.backward is not None:
            works = step.works_of(slot.forward), step.works_of(slot.backward)
            own, beside = (
                max(_pair_alone(step, slot)),
                [(priced, times) for _, times, priced in traffic.in_pair(*works)],
            )
        else:
            works_of, compute = step.works_of(_label(slot)), lone_seconds(layers, slot.kind)
            waited, beside = _apart(traffic, [works_of], slot.kind, ends=False)
            own = sum(times * float(compute[work.name]) for times, work in works_of)
            own += sum(times * float(priced.time.seconds) for priced, times in waited)
        longer += count * (float(passes.durations[row].item()) - _host_wait(step, slot) - own)
        moved += [(priced, count * times) for priced, times in beside]
    yield from _spread(moved, max(longer, 0.0))


def _label(slot: Slot) -> int:
    """Return the class of stages that a lone action works on."""
    label = slot.backward if slot.forward is None else slot.forward
    assert label is not None, "an action works on a stage"
    return label


def _pair_alone(step: StepModel, slot: Slot) -> tuple[float, float]:
    """Return what an overlapped pair takes without what moves beside it: its computation, and its exchanges [s]."""
    assert slot.forward is not None, "a pair has a chunk each way"
    assert slot.backward is not None, "a pair has a chunk each way"
    layers = layer_sums(step, None)
    forward, backward = (stage_sums(step.works_of(label), layers) for label in (slot.forward, slot.backward))
    both = forward.forward + backward.backward
    return float(both.compute + all_to_all_contention(both, step.moe_comm_slowdown)), float(both.expert_all_to_alls)


def _apart(
    traffic: OverlappedComm, stages: Sequence[Works], kind: Kind, *, ends: bool
) -> tuple[list[tuple[TimedOperator, int]], list[tuple[TimedOperator, int]]]:
    """Return what a lone pass moves: what it waits for in full, and what runs beside it."""
    waited, beside = list[tuple[TimedOperator, int]](), list[tuple[TimedOperator, int]]()
    for works in stages:
        for count, _, moved in traffic.along(works, kind, ends=ends):
            for part, priced in moved:
                (waited if traffic.waits(part) else beside).append((priced, count))
    return waited, beside


def _lone_traffic(
    traffic: OverlappedComm, stages: Sequence[Works], kind: Kind, layers: Mapping[str, PassSums], *, ends: bool
) -> Iterator[_Part]:
    """Yield what moves beside a lone pass: what it waits for in full, and of the rest what it is longer by."""
    compute = lone_seconds(layers, kind)
    waited, beside = _apart(traffic, stages, kind, ends=ends)
    alone = sum(count * float(compute[work.name]) for works in stages for count, work in works)
    spent = sum(count * float(priced.time.seconds) for priced, count in waited)
    yield from _spread(waited, spent)
    longer = float(traffic.lone_pass(stages, kind, compute, None, ends=ends)) - alone - spent
    yield from _spread(beside, max(longer, 0.0))


def _spread(moved: Sequence[tuple[TimedOperator, float]], longer: float) -> Iterator[_Part]:
    """Yield operators with equal shares of their times that add up to `longer` seconds."""
    whole = sum(count * float(priced.time.seconds) for priced, count in moved)
    yield from ((priced, count, longer / whole if whole else 0.0) for priced, count in moved)


def _slowest_end(step: StepModel) -> Iterator[_Part]:
    """Yield how the rank that ends last ends the step, with the share of each operator that others do not hide."""
    layers = layer_sums(step, None)
    times = [float(end.seconds) for end in optimizer_times(step, layers, None)]
    tail = step.optimizer_steps[times.index(max(times))]
    yield from ((priced, 1, 1.0) for priced in (*tail.serial, *tail.on_host))
    host, copies = (sum(float(each.time.seconds) for each in part) for part in (tail.on_host, tail.copies))
    yield from _spread(
        [(priced, 1) for priced in tail.copies], max(copies - host, 0.0) if step.host_overlaps else copies
    )
    traffic = step.overlapped_comm
    if traffic is None:
        return
    stages = [stage_work(step.work, stage) for stage in tail.stages]
    for kind, longer in zip((Kind.FORWARD, tail.last), once_a_step(step, tail, layers, None), strict=True):
        usual = {id(priced) for works in stages for _, priced in _moved(traffic, works, kind, ends=False)}
        extra = [
            (priced, count)
            for works in stages
            for count, priced in _moved(traffic, works, kind, ends=True)
            if id(priced) not in usual
        ]
        yield from _spread(extra, float(longer))


def _moved(traffic: OverlappedComm, works: Works, kind: Kind, *, ends: bool) -> Iterator[tuple[int, TimedOperator]]:
    for count, _, moved in traffic.along(works, kind, ends=ends):
        yield from ((count, priced) for _, priced in moved)


def _slot_operators(step: StepModel, kind: Kind, forward: int | None, backward: int | None) -> Iterator[_Part]:
    """Yield the operators of one action; shares are what its own pass does not hide."""
    passes: list[tuple[int, Sequence[TimedOperator]]] = []
    if forward is not None:
        passes.extend((count, work.forward) for count, work in _stage(step, forward))
    if backward is not None:
        for count, work in _stage(step, backward):
            if kind is not Kind.BACKWARD_WEIGHT:
                passes.append((count, work.input_gradient))
            if kind is not Kind.BACKWARD_INPUT:
                passes.append((count, work.weight_gradient))
    for count, operators in passes:
        yield from ((priced, count, share) for priced, share in _shares(operators))


def _shares(operators: Sequence[TimedOperator]) -> Iterator[tuple[TimedOperator, float]]:
    """Yield the operators of a pass with the share of each that no other one hides."""
    for priced, seconds in exposed_seconds(operators, None):
        whole = float(priced.time.seconds)
        yield priced, float(seconds) / whole if whole else 1.0


def _stage(step: StepModel, label: int) -> Iterator[tuple[int, TimedWork]]:
    for count, part in stage_work(step.work, step.classes[label]):
        yield count, step.timed_works[part.name]


def _exposed_share(step: StepModel, kind: Kind, forward: int | None, backward: int | None) -> float:
    """Return the share of an action's exchanges that its computation does not hide."""
    if kind is not Kind.FORWARD_BACKWARD:
        return 1.0
    compute = exchange = 0.0
    for priced, repeats, share in _slot_operators(step, kind, forward, backward):
        if isinstance(priced.operator, ExpertAllToAll):
            exchange += repeats * float(priced.time.seconds)
        else:
            compute += repeats * share * float(priced.time.seconds)
    both = float(step.moe_comm_slowdown) * compute  # the longest time in which kernels run beside exchanges
    return 0.0 if exchange <= both else (exchange - both) / exchange


def add_pass(lines: Lines, priced: PassModel, times: PassTimes, count: float = 1.0) -> None:
    """Add `count` runs of a pass: the compute streams in full, and of the other streams what they wait for.

    The entries sum to count * latency.
    """
    busy, latency = float(times.busy), float(times.latency)
    runs = [
        (segment, repeats * stage.count * segment.runs(priced.micro_batches))
        for stage in priced.stages
        for segments, repeats in zip(priced.segments, stage.repeats, strict=True)
        for segment in segments
    ]
    elsewhere = sum(
        number * sum(float(item.time.seconds) for item in segment.operators)
        for segment, number in runs
        if segment.place.stream != COMPUTE
    )
    send = float(priced.hops) * float(priced.send.time.seconds)
    exposed = 0.0 if elsewhere == 0.0 else (latency - busy - send) / elsewhere
    for segment, number in runs:
        for operator, share in _shares(segment.operators):
            lines.add(operator, number * count, share if segment.place.stream == COMPUTE else exposed)
    lines.add_wait(SLOWED, count * float(times.contention), "memory")
    if send:
        lines.add(priced.send, float(priced.hops) * count)
