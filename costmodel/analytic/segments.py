"""A layer's forward pass cut into segments on streams, and the order in which micro-batches run them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator
from costmodel.analytic.recurrence.program import Event, Program, compile_events
from costmodel.quantities import is_single
from costmodel.records import MutableRecord, Record, field
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    ExpertAllToAll,
    HostTransfer,
    HostWork,
    MixedAttention,
    Operator,
)
from costmodel.workload.passes import LayerRuns
from costmodel.workload.work import EXPERTS, FROM_EXPERTS, TO_EXPERTS, LayerWork

COMPUTE, ALL_TO_ALL, HOST, H2D, D2H = range(5)
"""Streams: the device's kernels, its expert all-to-alls, its host's work, and both directions of the host's link."""
ELSEWHERE = {TO_EXPERTS: 6, EXPERTS: 7, FROM_EXPERTS: 8}  # 5 is that of a message during a stage's pass
"""Streams of devices that hold experts only: messages to them, their kernels, messages from them."""

SegmentKey: TypeAlias = "tuple[int, int]"  # (kind of layer, segment)


class Placement(NamedTuple):
    """Where a segment runs.

    overlaps_host: it overlaps the host's work before it
    once: for all micro-batches together
    second_half: of split attention, from its kernel to the all-to-all after it
    """

    stream: int
    overlaps_host: bool = False
    once: bool = False
    second_half: bool = False


class Segment(Record):
    """Operators of one micro-batch that run back to back on one stream."""

    placement: Placement
    operators: tuple[TimedOperator, ...]

    def runs(self, micro_batches: int) -> int:
        """Return how often a layer runs the segment in a pass."""
        return 1 if self.placement.once else micro_batches


def segments_of(work: LayerWork, timer: OperatorTimer, *, split: bool = False) -> tuple[Segment, ...]:
    """Return a layer's forward pass cut where the stream changes; split: and before its attention kernel.

    Copies from the host come first, copies to it last. Tokens on their way to the host's work and back belong to it.
    With copies, collectives that kernels wait for are segments of their own: they may meet on the host's link.
    """
    copies = [
        Segment(Placement(H2D if copy.direction == "in" else D2H, once=copy.per_pass), (timer.time_operator(copy),))
        for copy in work.host_transfers
    ]
    halves = _second_halves(work.forward) if split else [False] * len(work.forward)
    placed = [
        ((_stream(operator, work), index in work.beside_host, half, bool(copies) and _is_awaited(operator)), operator)
        for index, (operator, half) in enumerate(zip(work.forward, halves, strict=True))
    ]
    own = [
        Segment(Placement(stream, overlaps_host, second_half=half), timer.time_all(operator for _, operator in run))
        for (stream, overlaps_host, half, _), run in itertools.groupby(placed, key=lambda item: item[0])
    ]
    by_direction = {stream: [copy for copy in copies if copy.placement.stream == stream] for stream in (H2D, D2H)}
    return (*by_direction[H2D], *own, *by_direction[D2H])


def _second_halves(operators: Sequence[Operator]) -> list[bool]:
    """Tell of each operator whether it is in the second half of attention: from the kernel to the next all-to-all."""
    second, halves = False, []
    for operator in operators:
        second = (second or isinstance(operator, AttentionKernel | MixedAttention)) and not isinstance(
            operator, ExpertAllToAll
        )
        halves.append(second)
    return halves


def _is_awaited(operator: Operator) -> bool:
    """Tell whether an operator is a collective that overlaps no kernel of its own pass."""
    if not isinstance(operator, Collective) or operator.overlapped_gemm is not None:
        return False
    return is_single(operator.attention_overlap) and operator.attention_overlap == 0


def _stream(operator: Operator, work: LayerWork) -> int:
    if operator.name in work.elsewhere:
        return ELSEWHERE[work.elsewhere[operator.name]]
    if isinstance(operator, HostTransfer | HostWork):
        return HOST
    return ALL_TO_ALL if isinstance(operator, ExpertAllToAll) else COMPUTE


class _ChainSegment(NamedTuple):
    """One segment of one layer of the chain. layer: its number in the chain.

    has_copies: its layer copies weights once for all micro-batches.
    """

    layer: int
    key: SegmentKey
    placement: Placement
    has_copies: bool

    @property
    def slice_key(self) -> tuple[int, bool, bool, int]:
        """Return what differs between neighbouring time slices."""
        placement = self.placement
        return placement.stream, placement.overlaps_host, placement.second_half, self.layer if self.has_copies else -1


Shape: TypeAlias = "tuple[tuple[Placement, ...], ...]"  # by kind of layer


@lru_cache(maxsize=256)
def compile_pass(shape: Shape, runs: LayerRuns, micro_batches: int, *, overlap: bool = True) -> Program[SegmentKey]:
    """Return the program of a stage, whose micro-batches alternate in time slices.

    shape: placements of the segments, by kind of layer.
    runs: (kind, layers) in order.
    overlap: copies to a layer overlap the computation of the layer before, else nothing overlaps a copy.

    A slice lasts until the micro-batch has to change streams: what follows a combine and the next layer's attention are
    one slice, or the next micro-batch's combine would delay both. Where layers copy weights it ends with the layer, so
    that one copy serves all micro-batches. Where attention is split, each micro-batch is one slice of computation
    behind the one before: while one communicates, the other computes half an attention or its experts.
    """
    order = _Order(shape, overlap)
    slices = [list(run) for _, run in itertools.groupby(_chain(shape, runs), key=lambda part: part.slice_key)]
    offset = 1 if any(placement.second_half for placements in shape for placement in placements) else 0
    slices = _with_all_to_alls(slices) if offset else slices
    for number in range(len(slices) + offset * (micro_batches - 1)):
        for batch in range(micro_batches):
            position = number - offset * batch
            for part in slices[position] if 0 <= position < len(slices) else ():
                order.add(part, batch)
    return compile_events(order.events, tuple(dict.fromkeys(event.slot for event in order.events)))


def _with_all_to_alls(slices: Iterable[list[_ChainSegment]]) -> list[list[_ChainSegment]]:
    """Return the slices of computation, each with the all-to-alls that follow it."""
    joined: list[list[_ChainSegment]] = []
    for part in slices:
        if joined and part[0].placement.stream == ALL_TO_ALL:
            joined[-1] = joined[-1] + part
        else:
            joined.append(part)
    return joined


def _chain(shape: Shape, runs: LayerRuns) -> Iterator[_ChainSegment]:
    """Yield the segments that a micro-batch runs one after the other through all layers, without copies."""
    layer = 0
    for kind, layers in runs:
        placements = shape[kind]
        has_copies = any(placement.stream in (H2D, D2H) and placement.once for placement in placements)
        for _ in range(layers):
            for number, placement in enumerate(placements):
                if placement.stream not in (H2D, D2H):
                    yield _ChainSegment(layer, (kind, number), placement, has_copies)
            layer += 1


class _Order(MutableRecord):
    """Lists the events of a stage, each with what it waits for.

    _ready: by micro-batch, what its next segment waits for
    _fork: by micro-batch, what its last segment on the host waited for
    _layer: by micro-batch, the layer that it is in
    _ends: by layer, its last events
    _shared: by layer and segment, copies that serve all micro-batches
    """

    shape: Shape
    overlap: bool
    events: list[Event[SegmentKey]] = field(default_factory=list)
    _ready: defaultdict[int, tuple[int, ...]] = field(default_factory=lambda: defaultdict(tuple))
    _fork: defaultdict[int, tuple[int, ...]] = field(default_factory=lambda: defaultdict(tuple))
    _layer: dict[int, int] = field(default_factory=dict)
    _ends: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _shared: dict[tuple[int, SegmentKey], int] = field(default_factory=dict)

    def add(self, part: _ChainSegment, batch: int) -> None:
        """Add one segment of a micro-batch, with the copies before and after its layer."""
        placements = self.shape[part.key[0]]
        if self._layer.get(batch) != part.layer:
            self._layer[batch] = part.layer
            self._copy_in(part, placements, batch)
        if part.placement.stream == HOST:
            self._fork[batch] = self._ready[batch]
        after = self._fork[batch] if part.placement.overlaps_host else self._ready[batch]
        event = self._event(part.placement.stream, part.key, after)
        self._ready[batch] = (*self._ready[batch], event) if part.placement.overlaps_host else (event,)
        if all(placement.stream == D2H for placement in placements[part.key[1] + 1 :]):
            self._ends[part.layer] = (*self._ends.get(part.layer, ()), *self._ready[batch])
            self._copy_out(part, placements, batch)

    def _copy_in(self, part: _ChainSegment, placements: tuple[Placement, ...], batch: int) -> None:
        """Add the copies that the layer waits for. Two layers are resident: one computes, the next is copied."""
        for number, placement in enumerate(placements):
            if placement.stream != H2D:
                continue
            key = (part.key[0], number)
            event = self._shared.get((part.layer, key))
            if event is None:
                ends = self._ends.get(part.layer - 2, ())
                event = self._event(H2D, key, ends if self.overlap else self._all_ready())
                if placement.once:
                    self._shared[part.layer, key] = event
            self._ready[batch] = (*self._ready[batch], event)

    def _copy_out(self, part: _ChainSegment, placements: tuple[Placement, ...], batch: int) -> None:
        """Add the layer's copies to the host, which nothing waits for unless nothing overlaps."""
        for number, placement in enumerate(placements):
            if placement.stream == D2H:
                event = self._event(D2H, (part.key[0], number), self._ready[batch])
                if not self.overlap:
                    self._ready[batch] = (event,)

    def _all_ready(self) -> tuple[int, ...]:
        return tuple({event: None for ready in self._ready.values() for event in ready})

    def _event(self, stream: int, key: SegmentKey, after: tuple[int, ...]) -> int:
        self.events.append(Event(stream, key, after))
        return len(self.events) - 1
