"""Passes whose layers overlap transfers: host copies, gathers and reductions on streams next to the compute stream.

At most two layers are resident: one computes while the next is fetched. With layer i+1 fetched before layer i reduces,
and one transfer at a time on each stream,

    h2d(i)      from the host                 after compute(i-2)
    gather(i)   from the other ranks          after h2d(i) and compute(i-2)
    compute(i)                                after compute(i-1), h2d(i) and gather(i)
    reduce(i)   to the other ranks            after compute(i)
    d2h(i)      to the host                   after compute(i) and reduce(i)

For L equal layers and one kind of transfer t this is t + (L-1)*max(c, t) + c. [order and single stream of collectives:
PyTorch, docs/source/notes/fsdp.rst; three directions at once: Rajbhandari et al., ZeRO-Infinity, arXiv 2104.07857.]

`layer_order` and `async_reduce_order` are the one source of these waits, for the closed form and the event engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from costmodel.analytic.recurrence.program import Event, Program, compile_events
from costmodel.analytic.recurrence.tape import makespan
from costmodel.quantities import Mask, Seconds, maximum, sum_of, where
from costmodel.records import Record, replace

PARTS = ("h2d", "gather", "compute", "reduce", "d2h")
TRANSFERS = ("h2d", "gather", "reduce", "d2h")
STREAMS = H2D, COMMUNICATION, COMPUTE, D2H = "h2d", "communication", "compute", "d2h"
UNUSED = 1.0  # seconds at points whose result is not used
LayerPart: TypeAlias = "tuple[int, str]"  # (layer, part)
Order: TypeAlias = "Iterator[tuple[LayerPart, tuple[LayerPart, ...]]]"  # (part, parts that it waits for)


def stream_of(part: str, *, one_link: bool = False) -> str:
    """Return the stream of a part. one_link: ranks communicate over the link to the host."""
    if part == "compute":
        return COMPUTE
    return COMMUNICATION if one_link or part in ("gather", "reduce") else part


def layer_order(layers: int) -> Order:
    """Yield the parts of a pass in launch order, each with the parts that it waits for."""
    yield from _fetch(0)
    for layer in range(layers):
        if layer + 1 < layers:
            yield from _fetch(layer + 1)
        yield (layer, "compute"), ((layer - 1, "compute"), (layer, "h2d"), (layer, "gather"))
        yield (layer, "reduce"), ((layer, "compute"),)
        yield (layer, "d2h"), ((layer, "compute"), (layer, "reduce"))


def _fetch(layer: int) -> Order:
    yield (layer, "h2d"), ((layer - 2, "compute"),)
    yield (layer, "gather"), ((layer - 2, "compute"), (layer, "h2d"))


def async_reduce_order(layers: int) -> Order:
    """Yield the parts of a pass with asynchronous reductions, as `layer_order` does.

    At `handover`, on the compute stream, a layer passes its gradients to its reduction, once the reduction before has
    ended: the gradients of two layers exist at most. [PyTorch, torch/distributed/fsdp/_fully_shard/
    _fsdp_param_group.py, post_backward: the compute stream waits for the last reduce-scatter]
    """
    for layer in range(layers):
        yield (layer, "compute"), ((layer - 1, "handover"),)
        yield (layer, "handover"), ((layer, "compute"), (layer - 1, "reduce"))
        yield (layer, "reduce"), ((layer, "handover"),)


class LayerSegment(Record):
    """Equal layers that follow each other in a pass: their number, and the time of each part of one layer [s].

    h2d: host to device.
    gather: collectives before the layer.
    reduce: collectives after it.
    d2h: device to host.
    """

    count: int
    compute: Seconds
    h2d: Seconds = 0.0
    gather: Seconds = 0.0
    reduce: Seconds = 0.0
    d2h: Seconds = 0.0

    @property
    def moved(self) -> Seconds:
        """Return the time of the collectives of one layer: gather + reduce [s]."""
        return self.gather + self.reduce

    def with_part(self, part: str, seconds: Seconds) -> LayerSegment:
        """Return the same layers with another time for one part."""
        change: dict[str, Any] = {part: seconds}
        return replace(self, **change)


def pass_seconds(chain: Sequence[LayerSegment], *, one_link: bool = False) -> Seconds:
    """Return the time of a pass through layers with overlapped transfers [s]. one_link: see `stream_of`."""
    for part in TRANSFERS:  # an absent part neither waits nor delays, unlike one of zero seconds
        absent = _is_absent(chain, part)
        if isinstance(absent, np.ndarray) and absent.any() and not absent.all():
            without = [layers.with_part(part, 0.0) for layers in chain]
            present = [layers.with_part(part, where(absent, UNUSED, getattr(layers, part))) for layers in chain]
            return where(absent, pass_seconds(without, one_link=one_link), pass_seconds(present, one_link=one_link))
    parts = tuple(part for part in PARTS if part == "compute" or not np.all(_is_absent(chain, part)))
    if parts == ("compute",):
        return sum_of(layers.count * layers.compute for layers in chain)
    program = _compile(tuple(layers.count for layers in chain), parts, one_link=one_link)
    rows: list[Seconds] = [getattr(chain[segment], part) for segment, part in program.slots]
    shape = np.broadcast_shapes(*(np.shape(row) for row in rows))
    durations = np.stack([np.broadcast_to(np.asarray(row, dtype=np.float64), shape).reshape(-1) for row in rows])
    span = makespan(program, durations).reshape(shape)
    return span if shape else float(span)


class AsyncReduceTimes(Record):
    """A pass with asynchronous reductions [s].

    head: its first layer.
    rest: the other layers, each delayed by the reduction before it.
    trail: the reduction of the last layer, which later actions overlap.
    """

    head: Seconds
    rest: Seconds
    trail: Seconds


def async_reduce_times(chain: Sequence[LayerSegment]) -> AsyncReduceTimes:
    """Return the times of a pass with asynchronous reductions, in the order of `async_reduce_order`.

    With t(i) the handover of layer i and w(i) the end of its reduction,

        t(i) = max(t(i-1) + c(i), w(i-1)),  w(i) = t(i) + r(i)

    so that a pass that starts at t(0), with w(0) left from before, ends at

        t(n) = max(t(0) + c(1), w(0)) + sum over i > 1 of max(c(i), r(i-1))
    """
    first, *others = chain
    rest, trail = (first.count - 1) * maximum(first.compute, first.reduce), first.reduce
    for layers in others:
        rest = rest + maximum(layers.compute, trail) + (layers.count - 1) * maximum(layers.compute, layers.reduce)
        trail = layers.reduce
    return AsyncReduceTimes(first.compute, rest, trail)


def _is_absent(chain: Sequence[LayerSegment], part: str) -> Mask:
    absent: Mask = True
    for layers in chain:
        absent = absent & (getattr(layers, part) == 0)
    return absent


@lru_cache(maxsize=256)
def _compile(counts: tuple[int, ...], parts: tuple[str, ...], *, one_link: bool) -> Program[LayerPart]:
    """Return the program of a chain, its slots (segment, part). counts: layers of each segment; parts: present ones."""
    segment = [number for number, count in enumerate(counts) for _ in range(count)]
    events: list[Event[LayerPart]] = []
    done: dict[LayerPart, int] = {}  # (layer, part) -> its event
    for (layer, part), needs in layer_order(len(segment)):
        if part in parts:
            after = tuple(done[need] for need in needs if need in done)
            done[layer, part] = len(events)
            events.append(Event(STREAMS.index(stream_of(part, one_link=one_link)), (segment[layer], part), after))
    return compile_events(events, tuple(dict.fromkeys(event.slot for event in events)))
