"""Where the time of a single point goes, operator by operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from costmodel.analytic.inference import PassModel, PassTimes
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.recurrence.program import Slot
from costmodel.analytic.segments import COMPUTE
from costmodel.analytic.stream_times import exposed_seconds
from costmodel.analytic.training.overlapped_comm import OverlappedComm, Works, layer_seconds, message_contention
from costmodel.analytic.training.step_model import StepModel
from costmodel.analytic.training.step_times import (
    StepStreams,
    action_times,
    lone_stage,
    once_per_step,
    optimizer_times,
    pipeline_times,
)
from costmodel.equations import equation
from costmodel.quantities import Count
from costmodel.records import replace
from costmodel.result import Entry
from costmodel.workload.memory import stage_work
from costmodel.workload.operators import Elementwise, ExpertAllToAll, HostGemm, Kernel, Operator, base_name, kernel_key
from costmodel.workload.schedules.schedule import Kind

ROUNDING = 1e-13  # of a pass: difference of floats that are equal but for rounding
HOST = "host"  # line of the time that passes wait for the host to launch their kernels
ALL_TO_ALL_CONTENTION = "slowed by exchanges"  # line of what concurrent expert all-to-alls add to kernels
SHARED_LINKS = "shared links"  # line of what messages and copies that meet on a device's links take longer
_Counted: TypeAlias = "tuple[TimedOperator, float]"  # an operator and how often it runs
_Exposed: TypeAlias = "tuple[TimedOperator, float, float]"  # an operator, how often it runs, and its exposed share


class BreakdownLines:
    """Adds timed operators up by base name."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._bases: dict[int, tuple[TimedOperator, str]] = {}  # by time: equal sizes have one

    def add(self, timed: TimedOperator, count: float, exposed: float = 1.0, pace: float = 1.0) -> None:
        """Add `count` runs of an operator. exposed: share of its time that nothing hides; pace: factor on it."""
        name = base_name(timed.operator.name)
        entry = self.entries.setdefault(name, Entry(name))
        if id(timed.time) not in self._bases:
            self._bases[id(timed.time)] = timed, timed.fit.basis_at(timed.operator, timed.time)
        entry.add(float(timed.time.seconds) * count * pace, exposed, timed.time.bound, self._bases[id(timed.time)][1])
        entry.add_work(count, *_work(timed.operator))
        entry.kernels.add(kernel_key(timed.operator))

    def add_wait(self, name: str, seconds: float, bound: str) -> None:
        """Add time in which no operator runs. Its basis is that of the operators so far."""
        if not seconds:
            return
        bases: dict[str, float] = defaultdict(float)
        for entry in self.entries.values():
            for basis, time in entry.by_basis.items():
                bases[basis] += time
        total = sum(bases.values())
        entry = self.entries.setdefault(name, Entry(name))
        for basis, time in bases.items():
            entry.add(seconds * time / total, 1.0, bound, basis)

    def sorted(self) -> list[Entry]:
        """Return the entries that take time beyond rounding, the longest first."""
        negligible = ROUNDING * sum(entry.time + entry.hidden for entry in self.entries.values())
        for entry in self.entries.values():
            entry.hidden = entry.hidden if entry.hidden > negligible else 0.0
        present = [
            entry
            for entry in self.entries.values()
            if entry.time > (0.0 if entry.count else negligible) or entry.hidden
        ]
        return sorted(present, key=lambda entry: -entry.time)


def _work(operator: Operator) -> tuple[float, float | None, str | None]:
    """Return (FLOP, bytes of device memory or null, number format of GEMMs or null) of one run."""
    if isinstance(operator, HostGemm):
        return float(operator.flop), None, operator.gemm.dtype
    if not isinstance(operator, Kernel):
        return 0.0, None, None
    return float(operator.flop), float(operator.traffic), None if isinstance(operator, Elementwise) else operator.dtype


@equation
def step_breakdown(step: StepModel, streams: StepStreams) -> list[Entry]:
    """Return the operators of a training step, means over pipeline ranks. With the bubble they sum to the step time.

    streams: of the step without perturbations.

        slowed_by_exchanges = sum(counts * contentions)      of all actions, each `message_contention`
        host = sum(counts * host_waits)
    """
    lines, parts = BreakdownLines(), _StepParts(step, streams)
    program = step.pipeline.program
    counts = program.mean_counts.tolist()
    contentions, host_waits = list[float](), list[float]()
    runs: dict[tuple[TimedOperator, float], float] = defaultdict(float)  # of an operator as far as it is exposed
    for slot, count in zip(program.slots, counts, strict=True):
        contentions.append(parts.contention(slot))
        host_waits.append(parts.host_wait(slot))
        for timed, repeats, exposed in (*parts.operators(slot), *parts.communication(slot)):
            runs[timed, exposed] += count * repeats
    for timed, repeats, exposed in (*parts.async_reductions(), *parts.optimizer()):
        runs[timed, exposed] += repeats
    for (timed, exposed), repeats in runs.items():
        lines.add(timed, repeats, exposed)
    slowed_by_exchanges, host = (
        sum(count * each for count, each in zip(counts, times, strict=True)) for times in (contentions, host_waits)
    )
    lines.add_wait(ALL_TO_ALL_CONTENTION, slowed_by_exchanges, "memory")
    lines.add_wait(HOST, host, "latency")
    return lines.sorted()


class _Pair(NamedTuple):
    """An overlapped pair: layers of both chunks, their computation with contention, their all-to-alls [s]."""

    works: tuple[Works, Works]
    compute: float
    all_to_alls: float
    contention: float


class _StepParts:
    """The operators of a training step, each with the share of its time that nothing hides."""

    def __init__(self, step: StepModel, streams: StepStreams) -> None:
        self._step, self._comm, self._streams = step, step.overlapped_comm, streams
        self._shares: dict[int, list[_Exposed]] = {}  # of one run of a pass

    def _pair(self, slot: Slot) -> _Pair | None:
        """Return the times of an overlapped pair, null for a lone chunk."""
        if slot.forward is None or slot.backward is None:
            return None
        stages = self._streams.stages
        both = stages[slot.forward].forward + stages[slot.backward].backward
        contention = message_contention(both.compute, both.expert_all_to_alls, self._step.moe_comm_slowdown)
        works = self._step.works_of(slot.forward), self._step.works_of(slot.backward)
        return _Pair(works, float(both.compute + contention), float(both.expert_all_to_alls), float(contention))

    def contention(self, slot: Slot) -> float:
        """Return the extra time of an action's kernels due to concurrent expert all-to-alls."""
        pair = self._pair(slot)
        return 0.0 if pair is None else pair.contention

    def host_wait(self, slot: Slot) -> float:
        """Return the time of an action that its host adds, which launches its kernels."""
        if not float(self._step.launch_time):
            return 0.0
        without = action_times(replace(self._step, launch_time=0.0), slot, self._streams)
        return float(action_times(self._step, slot, self._streams).seconds) - float(without.seconds)

    def operators(self, slot: Slot) -> list[_Exposed]:
        """Return the operators of an action, each exposed as far as its own pass and the other chunk do not hide it."""
        exposed: list[_Exposed] = [
            (timed, count, share) for count, work in self._passes(slot) for timed, _, share in self._exposed(work)
        ]
        if slot.kind is not Kind.FORWARD_BACKWARD:
            return exposed
        compute = all_to_all = 0.0
        for timed, count, share in exposed:
            if isinstance(timed.operator, ExpertAllToAll):
                all_to_all += count * float(timed.time.seconds)
            else:
                compute += count * share * float(timed.time.seconds)
        hiding = float(self._step.moe_comm_slowdown) * compute  # the longest time in which kernels and all-to-alls run
        left = 0.0 if all_to_all <= hiding else (all_to_all - hiding) / all_to_all
        return [
            (timed, count, left if isinstance(timed.operator, ExpertAllToAll) else share)
            for timed, count, share in exposed
        ]

    def _exposed(self, operators: Sequence[TimedOperator]) -> list[_Exposed]:
        """Return the operators of a pass of one layer with the share of each that no other of them hides."""
        if id(operators) not in self._shares:
            self._shares[id(operators)] = list(_exposed(operators, 1.0))
        return self._shares[id(operators)]

    def _passes(self, slot: Slot) -> Iterator[tuple[int, Sequence[TimedOperator]]]:
        """Yield (how many, operators of one) of the passes of an action."""
        works = self._step.timed_works
        if slot.forward is not None:
            yield from ((count, works[work.name].forward) for count, work in self._step.works_of(slot.forward))
        if slot.backward is not None:
            for count, work in self._step.works_of(slot.backward):
                if slot.kind is not Kind.BACKWARD_WEIGHT:
                    yield count, works[work.name].input_gradient
                if slot.kind is not Kind.BACKWARD_INPUT:
                    yield count, works[work.name].weight_gradient

    def communication(self, slot: Slot) -> Iterator[_Exposed]:
        """Yield the overlapped communication of an action, exposed as far as it makes the action longer.

        Without asynchronous reductions: `async_reductions` has those.
        """
        comm, pair = self._comm, self._pair(slot)
        if comm is None or (pair is not None and comm.has_async_reduce(slot.kind)):
            return
        if pair is not None:
            alone = max(pair.compute, pair.all_to_alls)
            longer = comm.overlapped_pair(pair.works, pair.compute, pair.all_to_alls, None) - alone
            yield from _spread([(timed, count) for _, count, timed in comm.of_pair(*pair.works)], float(longer))
            return
        works_of = self._step.works_of(lone_stage(slot))
        blocking, overlapped = _blocking_and_overlapped(comm, works_of, slot.kind)
        if comm.has_async_reduce(slot.kind):
            yield from ((timed, count, 1.0) for timed, count in blocking)
            return
        compute_of = layer_seconds(self._streams.layers, slot.kind)
        alone = sum(count * float(compute_of[work.name]) for count, work in works_of)
        blocked = _seconds(blocking)
        yield from _spread(blocking, blocked)
        longer = float(comm.seconds(comm.chain([works_of], slot.kind, compute_of, None))) - alone - blocked
        yield from _spread(overlapped, max(longer, 0.0))

    def async_reductions(self) -> Iterator[_Exposed]:
        """Yield the asynchronous reductions, means over ranks, exposed as far as all of them make the step longer."""
        comm, program = self._comm, self._step.pipeline.program
        if comm is None or not comm.reduces_async:
            return
        times = pipeline_times(self._step, self._streams)
        reductions: list[_Counted] = []
        longer = float(times.reduce_tail)
        for row, (slot, count) in enumerate(zip(program.slots, program.mean_counts.tolist(), strict=True)):
            if not comm.has_async_reduce(slot.kind):
                continue
            pair = self._pair(slot)
            if pair is not None:
                alone = max(pair.compute, pair.all_to_alls)
                overlapped: list[_Counted] = [(timed, repeats) for _, repeats, timed in comm.of_pair(*pair.works)]
            else:
                works = self._step.works_of(lone_stage(slot))
                compute_of = layer_seconds(self._streams.layers, slot.kind)
                blocking, overlapped = _blocking_and_overlapped(comm, works, slot.kind)
                alone = sum(repeats * float(compute_of[work.name]) for repeats, work in works)
                alone += _seconds(blocking)
            longer += count * (float(times.durations[row].item()) - self.host_wait(slot) - alone)
            reductions += [(timed, count * repeats) for timed, repeats in overlapped]
        yield from _spread(reductions, max(longer, 0.0))

    def optimizer(self) -> Iterator[_Exposed]:
        step, comm = self._step, self._comm
        times = [float(end.seconds) for end in optimizer_times(step, self._streams)]
        end = step.optimizer_steps[times.index(max(times))]
        yield from ((timed, 1, 1.0) for timed in (*end.serial, *end.on_host))
        host, copies = (_seconds([(timed, 1) for timed in part]) for part in (end.on_host, end.copies))
        yield from _spread(
            [(timed, 1) for timed in end.copies], max(copies - host, 0.0) if step.host_overlaps else copies
        )
        if comm is None:
            return
        stages = [stage_work(step.work, stage) for stage in end.stages]
        for kind, longer in zip((Kind.FORWARD, end.last), once_per_step(step, end, self._streams), strict=True):
            usual = {id(timed) for works in stages for timed, _ in _communication(comm, works, kind)}
            once = (item for works in stages for item in _communication(comm, works, kind, once_per_step=True))
            yield from _spread([(timed, count) for timed, count in once if id(timed) not in usual], float(longer))


def _communication(
    comm: OverlappedComm, works: Works, kind: Kind, *, once_per_step: bool = False
) -> Iterator[_Counted]:
    for count, _, operators in comm.by_layer(works, kind, once_per_step=once_per_step):
        yield from ((timed, count) for _, timed in operators)


def _blocking_and_overlapped(comm: OverlappedComm, works: Works, kind: Kind) -> tuple[list[_Counted], list[_Counted]]:
    """Return the communication that a lone pass waits for, and what it overlaps."""
    blocking, overlapped = list[_Counted](), list[_Counted]()
    for count, _, operators in comm.by_layer(works, kind):
        for part, timed in operators:
            (blocking if comm.is_blocking(part) else overlapped).append((timed, count))
    return blocking, overlapped


def _seconds(operators: Iterable[_Counted]) -> float:
    return sum(count * float(timed.time.seconds) for timed, count in operators)


def _spread(operators: Sequence[_Counted], exposed: float) -> Iterator[_Exposed]:
    """Yield operators with equal exposed shares that add up to `exposed` seconds."""
    total = _seconds(operators)
    yield from ((timed, count, exposed / total if total else 0.0) for timed, count in operators)


def _exposed(operators: Sequence[TimedOperator], count: float) -> Iterator[_Exposed]:
    """Yield the operators of `count` passes, each exposed as far as no other operator of its pass hides it."""
    for timed, seconds in exposed_seconds(operators, None):
        total = float(timed.time.seconds)
        yield timed, count, float(seconds) / total if total else 1.0


@equation
def add_pass(lines: BreakdownLines, model: PassModel, times: PassTimes, count: float = 1.0) -> None:
    """Add `count` runs of a pass: the compute streams in full, and the exposed time of the other streams.

    The entries sum to count * latency.

        slowed_by_exchanges = count * times.contention
        waiting_for_kernel_starts = count * times.host
        shared_links = count * slower
        slower = max(waiting - elsewhere, 0)        than any of it takes alone, in a simulation
        waiting = max(times.latency - times.busy - times.host - send, 0)
    """
    runs = [
        (segment, repeats * stage.count * segment.runs(model.micro_batches))
        for stage in model.stages
        for segments, repeats in zip(model.segments, stage.repeats, strict=True)
        for segment in segments
    ]
    pace = float(model.pace)
    elsewhere = pace * sum(
        number * sum(float(timed.time.seconds) for timed in segment.operators)
        for segment, number in runs
        if segment.placement.stream != COMPUTE
    )
    send = pace * float(model.hops) * float(model.send.time.seconds)
    waiting = max(float(times.latency) - float(times.busy) - float(times.host) - send, 0.0)
    slower = max(waiting - elsewhere, 0.0)
    exposed = 0.0 if elsewhere == 0.0 else min(waiting / elsewhere, 1.0)
    for segment, number in runs:
        is_compute = segment.placement.stream == COMPUTE
        for timed, repeats, share in _exposed(segment.operators, number * count):
            lines.add(timed, repeats, share if is_compute else exposed, pace)
    slowed_by_exchanges, waiting_for_kernel_starts = count * float(times.contention), count * float(times.host)
    shared_links = count * slower
    lines.add_wait(ALL_TO_ALL_CONTENTION, slowed_by_exchanges, "memory")
    lines.add_wait("waiting for kernel starts", waiting_for_kernel_starts, "latency")
    if slower > ROUNDING * float(times.latency):
        lines.add_wait(SHARED_LINKS, shared_links, "network")
    if send:
        lines.add(model.send, float(model.hops) * count, pace=pace)


@equation
def add_pipeline_wait(lines: BreakdownLines, name: str, times: PassTimes, sets: Count, count: float = 1.0) -> float:
    """Add and return what `count` passes wait for the sets of requests before theirs in the pipeline [s].

    pipeline_wait = count * (step - times.latency)
    """
    step = float(times.round(sets))
    pipeline_wait = count * (step - float(times.latency))
    lines.add_wait(name, pipeline_wait, "latency")
    return pipeline_wait


def summing_to(total: float, entries: list[Entry], missing: str) -> list[Entry]:
    """Return entries that sum to `total` [s]: what is missing is a line of that name, what is too much is hidden."""
    listed = sum(entry.time for entry in entries)
    if abs(total - listed) <= 1e-9 * total:  # rounding
        return entries
    if total > listed:
        line = Entry(missing, total - listed)
        line.by_bound["latency"] = line.by_basis[entries[0].basis] = line.time
        return [*entries, line]
    for entry in entries:
        hidden = entry.time * (1.0 - total / listed)
        entry.time, entry.hidden = entry.time - hidden, entry.hidden + hidden
    return entries
