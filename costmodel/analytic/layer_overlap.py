"""A pass through layers whose weights, gradients and activations move meanwhile, on four streams.

Before a layer computes, its data come from the host and then from other ranks; afterwards they go to other ranks and
then to the host. At most two layers are in progress: one computes while the next is fetched.

    h2d(i), gather(i)   after compute(i-2)
    compute(i)          after compute(i-1), h2d(i) and gather(i)
    reduce(i), d2h(i)   after compute(i)

There is one transfer at a time in each direction over the host's link, and one collective at a time over the others.
Layer i+1 is fetched before layer i is reduced. For L equal layers and one kind of transfer t beside c this is
t + (L-1)*max(c, t) + c. [order and single stream of collectives: PyTorch, docs/source/notes/fsdp.rst; three
directions at once: Rajbhandari et al., ZeRO-Infinity, arXiv 2104.07857.]

The closed form evaluates this recurrence over arrays; `event.overlap` makes tasks of the same `layer_steps`, which
other tasks of a rank may delay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from costmodel.analytic.recurrence import Event, Program, compile_events, makespan
from costmodel.quantities import Mask, Seconds, maximum, where

UNUSED = 1.0  # seconds at points whose result is not used
MOVING = ("h2d", "gather", "reduce", "d2h")
PARTS = ("h2d", "gather", "compute", "reduce", "d2h")
_STREAM = {"h2d": 0, "gather": 1, "compute": 2, "reduce": 1, "d2h": 3}
LayerPart: TypeAlias = "tuple[int, str]"  # (layer or segment, part)


@dataclass(frozen=True, slots=True, eq=False)
class LayerSegment:
    """Equal layers that follow each other in a pass: how many, and how long each part of one takes [s].

    h2d: transfers from the host; gather: collectives before it; compute: the layer; reduce: collectives after it;
    d2h: transfers to the host.
    """

    count: int
    compute: Seconds
    h2d: Seconds = 0.0
    gather: Seconds = 0.0
    reduce: Seconds = 0.0
    d2h: Seconds = 0.0

    def taking(self, part: str, seconds: Seconds) -> LayerSegment:
        """Return the same layers with another time for one part of what moves."""
        times = {name: getattr(self, name) for name in MOVING} | {part: seconds}
        return LayerSegment(self.count, self.compute, **times)


def pass_seconds(chain: Sequence[LayerSegment], *, one_link: bool = False) -> Seconds:
    """Return how long the layers of a chain take, one after the other, with what moves beside them [s].

    one_link: ranks reach each other over the link to the host, so that nothing moves at the same time.
    """
    for part in MOVING:  # what does not happen waits for nothing and holds nothing up, which zero seconds do not say
        absent = _takes_none(chain, part)
        if isinstance(absent, np.ndarray) and absent.any() and not absent.all():
            without = [segment.taking(part, 0.0) for segment in chain]
            present = [segment.taking(part, where(absent, UNUSED, getattr(segment, part))) for segment in chain]
            return where(absent, pass_seconds(without, one_link=one_link), pass_seconds(present, one_link=one_link))
    parts = tuple(part for part in PARTS if part == "compute" or not np.all(_takes_none(chain, part)))
    if parts == ("compute",):
        return _sum([segment.count * segment.compute for segment in chain])
    program = _compile(tuple(segment.count for segment in chain), parts, one_link=one_link)
    rows: list[Seconds] = [getattr(chain[which], part) for which, part in program.slots]
    shape = np.broadcast_shapes(*(np.shape(row) for row in rows))
    durations = np.stack([np.broadcast_to(np.asarray(row, dtype=np.float64), shape).reshape(-1) for row in rows])
    span = makespan(program, durations).reshape(shape)
    return span if shape else float(span)


@dataclass(frozen=True, slots=True, eq=False)
class AsyncReduceTimes:
    """A pass whose reductions run on while later actions compute [s].

    head: its first unit.
    rest: the others, each no sooner than the reduction of the unit before is done.
    trail: the reduction of the last one, which the pass leaves behind.
    """

    head: Seconds
    rest: Seconds
    trail: Seconds


def async_reduce_times(chain: Sequence[LayerSegment]) -> AsyncReduceTimes:
    """Return a pass of units that compute and then reduce, where one reduction at a time runs beside what follows.

    A unit is done, and its reduction begins, once it is computed and the reduction before, of this pass or of an
    earlier one, has ended: the gradients of two units are held at most. With t when unit i is done, w when its
    reduction is,

        t(i) = max(t(i-1) + c(i), w(i-1)),  w(i) = t(i) + r(i)

    so that a pass from t(0), with w(0) left from before, ends at

        t(n) = max(t(0) + c(1), w(0)) + sum over i > 1 of max(c(i), r(i-1))

    [PyTorch, torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, post_backward: the compute stream waits for the
    last reduce-scatter before it hands the next one over]
    """
    first, *others = chain
    rest, trail = (first.count - 1) * maximum(first.compute, first.reduce), first.reduce
    for segment in others:
        rest = rest + maximum(segment.compute, trail) + (segment.count - 1) * maximum(segment.compute, segment.reduce)
        trail = segment.reduce
    return AsyncReduceTimes(first.compute, rest, trail)


def _takes_none(chain: Sequence[LayerSegment], part: str) -> Mask:
    """Tell where no layer of the chain has anything to do in a part."""
    none: Mask = True
    for segment in chain:
        none = none & (getattr(segment, part) == 0)
    return none


def _sum(values: Sequence[Seconds]) -> Seconds:
    total: Seconds = 0.0
    for value in values:
        total = total + value
    return total


def layer_steps(layers: int) -> Iterator[tuple[int, str, tuple[LayerPart, ...]]]:
    """Yield (layer, part, what it waits for) of a pass, in the order in which streams take them up.

    Both engines use it. A layer's compute also waits for that of the layer before, on the same stream.
    """

    def fetch(layer: int) -> Iterator[tuple[int, str, tuple[LayerPart, ...]]]:
        yield layer, "h2d", ((layer - 2, "compute"),)
        yield layer, "gather", ((layer - 2, "compute"), (layer, "h2d"))

    yield from fetch(0)
    for layer in range(layers):
        if layer + 1 < layers:
            yield from fetch(layer + 1)
        yield layer, "compute", ((layer, "h2d"), (layer, "gather"))
        yield layer, "reduce", ((layer, "compute"),)
        yield layer, "d2h", ((layer, "compute"), (layer, "reduce"))


@lru_cache(maxsize=256)
def _compile(counts: tuple[int, ...], parts: tuple[str, ...], *, one_link: bool) -> Program[LayerPart]:
    """Return the program of a chain. counts: equal layers in a row; parts: those that take time."""
    segment_of = [segment for segment, count in enumerate(counts) for _ in range(count)]
    events: list[Event[LayerPart]] = []
    event_of: dict[LayerPart, int] = {}
    for layer, part, needs in layer_steps(len(segment_of)):
        if part in parts:
            stream = 2 if part == "compute" else 1 if one_link else _STREAM[part]
            after = tuple(event_of[need] for need in needs if need in event_of)
            event_of[layer, part] = len(events)
            events.append(Event(stream, (segment_of[layer], part), after))
    return compile_events(events, tuple(dict.fromkeys(event.slot for event in events)))
