"""A layer's forward pass cut into segments on streams, and the order in which the micro-batches of a pass run them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator
from costmodel.analytic.recurrence import Event, Program, compile_events
from costmodel.workload.operators import (
    AttentionKernel,
    ExpertAllToAll,
    HostGemm,
    HostTransfer,
    HostUpdate,
    MixedAttention,
    Operator,
)
from costmodel.workload.passes import LayerRuns
from costmodel.workload.work import LayerWork

COMPUTE, EXCHANGE, HOST, ARRIVING, LEAVING = range(5)
"""Streams: the device's kernels, its exchanges, its host's work, and the two directions of the link to the host."""

Key: TypeAlias = "tuple[int, int]"  # (kind of layer, segment)


class Place(NamedTuple):
    """Where a segment runs. beside: beside the host's work before it; once: for all micro-batches together.

    second: the second half of a layer's attention, from its core to the exchange behind it, where that has a turn of
    its own.
    """

    stream: int
    beside: bool = False
    once: bool = False
    second: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Operators of one micro-batch that run without a break on one stream."""

    place: Place
    operators: tuple[TimedOperator, ...]

    def runs(self, micro_batches: int) -> int:
        """Return how often a layer runs the segment in a pass."""
        return 1 if self.place.once else micro_batches


def segments_of(work: LayerWork, pricing: OperatorTimer, *, split: bool = False) -> tuple[Segment, ...]:
    """Return a layer's forward pass cut where the stream changes; split: and before its attention core.

    What it needs from the host comes first, what it leaves there last; tokens on their way to the host's work and back
    belong to that work.
    """
    copies = [
        Segment(
            Place(ARRIVING if copy.direction == "in" else LEAVING, once=copy.per_pass), (pricing.time_operator(copy),)
        )
        for copy in work.host_transfers
    ]
    halves = _second_halves(work.forward) if split else [False] * len(work.forward)
    placed = [
        (_stream(operator), at in work.beside_host, half, operator)
        for at, (operator, half) in enumerate(zip(work.forward, halves, strict=True))
    ]
    own = [
        Segment(Place(stream, beside, second=half), tuple(pricing.time_operator(operator) for *_, operator in run))
        for (stream, beside, half), run in itertools.groupby(placed, key=lambda each: each[:3])
    ]
    arriving = [copy for copy in copies if copy.place.stream == ARRIVING]
    return (*arriving, *own, *(copy for copy in copies if copy.place.stream == LEAVING))


def _second_halves(operators: Sequence[Operator]) -> list[bool]:
    """Tell of each operator whether it belongs to the second half of attention: from the core to the next exchange."""
    second, found = False, []
    for operator in operators:
        second = (second or isinstance(operator, AttentionKernel | MixedAttention)) and not isinstance(
            operator, ExpertAllToAll
        )
        found.append(second)
    return found


def _stream(operator: Operator) -> int:
    if isinstance(operator, HostGemm | HostUpdate | HostTransfer):
        return HOST
    return EXCHANGE if isinstance(operator, ExpertAllToAll) else COMPUTE


class _Part(NamedTuple):
    """One segment of one layer of the chain. layer: its number in the chain; copied: the layer has copies."""

    layer: int
    key: Key
    place: Place
    copied: bool

    @property
    def turn(self) -> tuple[int, bool, bool, int]:
        """Return what changes where the next micro-batch has its turn."""
        return self.place.stream, self.place.beside, self.place.second, self.layer if self.copied else -1


Shape: TypeAlias = "tuple[tuple[Place, ...], ...]"  # by kind of layer


@lru_cache(maxsize=256)
def compile_pass(shape: Shape, runs: LayerRuns, micro_batches: int, *, overlap: bool = True) -> Program[Key]:
    """Return the program of a stage. shape: places of the segments, by kind of layer; runs: (kind, layers) in order.

    A turn lasts until the micro-batch has to change streams: what follows a combine and the next layer's attention are
    one turn, or the next micro-batch's combine would hold both up. Where layers have copies it ends with the layer, so
    that one copy serves all micro-batches. Where attention has two turns, each micro-batch is one turn of computation
    behind the one before: while one exchanges, the other one computes half an attention or its experts. overlap: copies
    to a layer run while the layer before computes; else nothing runs beside a copy.
    """
    order = _Order(shape, micro_batches, overlap)
    turns = [list(turn) for _, turn in itertools.groupby(_chain(shape, runs), key=lambda part: part.turn)]
    behind = 1 if any(place.second for places in shape for place in places) else 0
    rounds = _rounds(turns) if behind else turns
    for number in range(len(rounds) + behind * (micro_batches - 1)):
        for batch in range(micro_batches):
            place = number - behind * batch
            for part in rounds[place] if 0 <= place < len(rounds) else ():
                order.add(part, batch)
    return compile_events(order.events, tuple(dict.fromkeys(event.slot for event in order.events)))


def _rounds(turns: Iterable[list[_Part]]) -> list[list[_Part]]:
    """Return turns of computation, each with the exchanges behind it."""
    rounds: list[list[_Part]] = []
    for turn in turns:
        if rounds and turn[0].place.stream == EXCHANGE:
            rounds[-1] = rounds[-1] + turn
        else:
            rounds.append(turn)
    return rounds


def _chain(shape: Shape, runs: LayerRuns) -> Iterator[_Part]:
    """Yield the segments of all layers that a micro-batch runs one after the other, copies left out."""
    layer = 0
    for kind, layers in runs:
        places = shape[kind]
        copied = any(place.stream in (ARRIVING, LEAVING) for place in places)
        for _ in range(layers):
            for part, place in enumerate(places):
                if place.stream not in (ARRIVING, LEAVING):
                    yield _Part(layer, (kind, part), place, copied)
            layer += 1


@dataclass(slots=True)
class _Order:
    """Lists the events of a stage, each with what it waits for.

    _ready: by micro-batch, what its next segment waits for; _fork: what its last segment on the host waited for;
    _begun: the layer that each micro-batch is in; _left: by layer, what ends it; _shared: copies that serve all
    micro-batches, by layer and segment.
    """

    shape: Shape
    micro_batches: int
    overlap: bool
    events: list[Event[Key]] = field(default_factory=list)
    _ready: list[tuple[int, ...]] = field(default_factory=list)
    _fork: list[tuple[int, ...]] = field(default_factory=list)
    _begun: list[int] = field(default_factory=list)
    _left: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _shared: dict[tuple[int, Key], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ready = [()] * self.micro_batches
        self._fork = [()] * self.micro_batches
        self._begun = [-1] * self.micro_batches

    def add(self, part: _Part, batch: int) -> None:
        """Add one segment of a micro-batch, before it what its layer needs from the host, behind it what it leaves."""
        places = self.shape[part.key[0]]
        if self._begun[batch] != part.layer:
            self._begun[batch] = part.layer
            self._arrive(part, places, batch)
        if part.place.stream == HOST:
            self._fork[batch] = self._ready[batch]
        after = self._fork[batch] if part.place.beside else self._ready[batch]
        event = self._event(part.place.stream, part.key, after)
        self._ready[batch] = (*self._ready[batch], event) if part.place.beside else (event,)
        if all(place.stream == LEAVING for place in places[part.key[1] + 1 :]):
            self._left[part.layer] = (*self._left.get(part.layer, ()), *self._ready[batch])
            self._leave(part, places, batch)

    def _arrive(self, part: _Part, places: tuple[Place, ...], batch: int) -> None:
        """Add the copies that the layer waits for. There is room for two layers: one computes, the next arrives."""
        for number, place in enumerate(places):
            if place.stream != ARRIVING:
                continue
            key = (part.key[0], number)
            event = self._shared.get((part.layer, key))
            if event is None:
                room = self._left.get(part.layer - 2, ())
                event = self._event(ARRIVING, key, room if self.overlap else self._all_ready())
                if place.once:
                    self._shared[part.layer, key] = event
            self._ready[batch] = (*self._ready[batch], event)

    def _leave(self, part: _Part, places: tuple[Place, ...], batch: int) -> None:
        """Add the copies of what the layer leaves to the host, which nothing waits for unless nothing overlaps."""
        for number, place in enumerate(places):
            if place.stream == LEAVING:
                event = self._event(LEAVING, (part.key[0], number), self._ready[batch])
                if not self.overlap:
                    self._ready[batch] = (event,)

    def _all_ready(self) -> tuple[int, ...]:
        return tuple({event: None for ready in self._ready for event in ready})

    def _event(self, stream: int, key: Key, after: tuple[int, ...]) -> int:
        self.events.append(Event(stream, key, after))
        return len(self.events) - 1
