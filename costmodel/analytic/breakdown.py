"""Where the time of a single point goes, operator by operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from costmodel.analytic.inference import COMPUTE, PassTimes, PricedPass
from costmodel.analytic.pricing import Priced, PricedWork
from costmodel.analytic.training import PricedStep
from costmodel.result import Entry
from costmodel.workload.memory import stage_work
from costmodel.workload.operators import AttentionCore, Collective, Exchange, Gemm, Operator, base_name
from costmodel.workload.schedules import Kind


class Lines:
    """Adds priced operators up by base name."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def add(self, priced: Priced, count: float, exposed: float = 1.0) -> None:
        """Add `count` runs of an operator, a share `exposed` of whose time nothing hides."""
        name = base_name(priced.operator.name)
        entry = self.entries.setdefault(name, Entry(name))
        entry.add(float(priced.time.seconds) * count, exposed, priced.time.bound, priced.fit.basis_at(priced.operator))
        entry.add_work(count, *_work(priced.operator))

    def add_wait(self, name: str, seconds: float, bound: str) -> None:
        """Add time in which nothing of the scenario's own runs; it rests on what the rest so far rests on."""
        known: dict[str, float] = defaultdict(float)
        for entry in self.entries.values():
            for basis, share in entry.by_basis.items():
                known[basis] += share
        whole = sum(known.values())
        entry = self.entries.setdefault(name, Entry(name))
        for basis, share in known.items():
            entry.add(seconds * share / whole, 1.0, bound, basis)

    def sorted(self) -> list[Entry]:
        """Return the entries that take any time, the longest first."""
        present = [entry for entry in self.entries.values() if entry.time > 0.0 or entry.hidden > 0.0]
        return sorted(present, key=lambda entry: -entry.time)


def _work(operator: Operator) -> tuple[float, float | None, str | None]:
    """Return (FLOP, bytes of device memory, number format of the products) of one run; null: not counted, none."""
    if isinstance(operator, Collective | Exchange):
        return 0.0, None, None
    dtype = operator.dtype if isinstance(operator, Gemm | AttentionCore) else None
    return float(operator.flop), float(operator.traffic), dtype


def step_breakdown(step: PricedStep) -> list[Entry]:
    """Return the operators of a training step, means over pipeline ranks; with the bubble they sum to the step time."""
    lines = Lines()
    for slot, count in zip(step.program.slots, step.program.mean_counts, strict=True):
        exposed = _exposed_share(step, slot.kind, slot.forward, slot.backward)
        for priced, repeats in _slot_operators(step, slot.kind, slot.forward, slot.backward):
            share = exposed if isinstance(priced.operator, Exchange) else 1.0
            lines.add(priced, float(count) * repeats, share)
    slowest = max(step.tails, key=lambda tail: sum(float(item.time.seconds) for item in tail))
    for priced in slowest:
        lines.add(priced, 1.0)
    return lines.sorted()


def _slot_operators(
    step: PricedStep, kind: Kind, forward: int | None, backward: int | None
) -> Iterator[tuple[Priced, int]]:
    """Yield (operator, repeats) of one action."""
    if forward is not None:
        for count, work in _stage(step, forward):
            yield from ((priced, count) for priced in work.forward)
    if backward is not None:
        for count, work in _stage(step, backward):
            if kind is not Kind.BACKWARD_WEIGHT:
                yield from ((priced, count) for priced in work.input_gradient)
            if kind is not Kind.BACKWARD_INPUT:
                yield from ((priced, count) for priced in work.weight_gradient)


def _stage(step: PricedStep, label: int) -> Iterator[tuple[int, PricedWork]]:
    for count, part in stage_work(step.work, step.classes[label]):
        yield count, step.priced[part.name]


def _exposed_share(step: PricedStep, kind: Kind, forward: int | None, backward: int | None) -> float:
    """Return the share of an action's exchanges that its computation does not hide."""
    if kind is not Kind.FORWARD_BACKWARD:
        return 1.0
    compute = exchange = 0.0
    for priced, repeats in _slot_operators(step, kind, forward, backward):
        if isinstance(priced.operator, Exchange):
            exchange += repeats * float(priced.time.seconds)
        else:
            compute += repeats * float(priced.time.seconds)
    return 0.0 if exchange <= compute else (exchange - compute) / exchange


def add_pass(lines: Lines, priced: PricedPass, times: PassTimes, count: float = 1.0) -> None:
    """Add `count` runs of a pass: the compute streams in full, and of the exchanges what they wait for.

    The entries sum to count * latency.
    """
    busy, latency = float(times.busy), float(times.latency)
    runs = [
        (segment, repeats * stage.count * priced.micro_batches)
        for stage in priced.stages
        for segments, repeats in zip(priced.segments, stage.repeats, strict=True)
        for segment in segments
    ]
    exchanged = sum(
        number * sum(float(item.time.seconds) for item in segment.operators)
        for segment, number in runs
        if segment.stream != COMPUTE
    )
    send = float(priced.hops) * float(priced.send.time.seconds)
    exposed = 0.0 if exchanged == 0.0 else (latency - busy - send) / exchanged
    for segment, number in runs:
        share = 1.0 if segment.stream == COMPUTE else exposed
        for operator in segment.operators:
            lines.add(operator, number * count, share)
    if send:
        lines.add(priced.send, float(priced.hops) * count)
