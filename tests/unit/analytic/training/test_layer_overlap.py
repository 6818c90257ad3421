"""A pass with transfers beside it: against an explicit simulation of queues, and in the limits of its formula."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.analytic.training.layer_overlap import LayerSegment, pass_seconds
from costmodel.records import replace

PARTS = ("h2d", "gather", "compute", "reduce", "d2h")
FIELDS = ("compute", "h2d", "gather", "reduce", "d2h")
seconds = st.one_of(st.just(0.0), st.floats(1e-3, 10.0))


@st.composite
def chains(draw: st.DrawFn) -> list[LayerSegment]:
    kinds = draw(st.integers(1, 4))
    return [LayerSegment(draw(st.integers(1, 4)), *(draw(seconds) for _ in PARTS)) for _ in range(kinds)]


def simulated(chain: list[LayerSegment], *, one_link: bool = False) -> float:
    """Return when the last job is done: queues that work one job after the other, clock moved from event to event.

    What no layer of the chain does is no job: it stands in no queue.
    """
    present = [part for part in PARTS if part == "compute" or any(getattr(each, part) for each in chain)]
    layers = [each for each in chain for _ in range(each.count)]
    queue_of = dict(zip(PARTS, ("in", "wire", "core", "wire", "out"), strict=True))
    if one_link:
        queue_of |= {part: "wire" for part in PARTS if part != "compute"}
    queues: dict[str, deque[tuple[int, str]]] = {name: deque() for name in ("in", "wire", "core", "out")}
    for index in range(len(layers)):  # the next layer is fetched before this one is settled
        wanted = [(0, "h2d"), (0, "gather")] if index == 0 else []
        wanted += [(index + 1, "h2d"), (index + 1, "gather")] if index + 1 < len(layers) else []
        for job in (*wanted, (index, "compute"), (index, "reduce"), (index, "d2h")):
            if job[1] in present:
                queues[queue_of[job[1]]].append(job)

    def needs(layer: int, part: str) -> list[tuple[int, str]]:
        earlier = present[: present.index(part)]
        room = [(layer - 2, "compute")] if part in ("h2d", "gather") and layer >= 2 else []
        return [*room, *((layer, each) for each in earlier)]

    finished: set[tuple[int, str]] = set()
    running: dict[str, tuple[float, tuple[int, str]]] = {}
    clock = 0.0
    while True:
        for name, queue in queues.items():
            if queue and name not in running and all(need in finished for need in needs(*queue[0])):
                job = queue.popleft()
                running[name] = (clock + getattr(layers[job[0]], job[1]), job)
        if not running:
            break
        clock = min(end for end, _ in running.values())
        for name in [name for name, (end, _) in running.items() if end == clock]:
            finished.add(running.pop(name)[1])
    assert len(finished) == len(present) * len(layers)
    return clock


@given(chain=chains(), one_link=st.booleans())
def test_a_pass_takes_as_long_as_its_simulation(chain: list[LayerSegment], one_link: bool) -> None:
    assert pass_seconds(chain, one_link=one_link) == pytest.approx(simulated(chain, one_link=one_link), rel=1e-12)


@given(count=st.integers(1, 30), compute=st.floats(0.1, 5), fetch=st.floats(0.1, 5))
@pytest.mark.parametrize("part", ["h2d", "gather"])
def test_equal_layers_expose_the_first_fetch_and_what_is_longer_than_a_layer(
    part: str, count: int, compute: float, fetch: float
) -> None:
    chain = [LayerSegment(count, compute, **{part: fetch})]
    assert pass_seconds(chain) == pytest.approx(fetch + (count - 1) * max(compute, fetch) + compute)


@given(count=st.integers(1, 30), compute=st.floats(0.1, 5), settle=st.floats(0.1, 5))
@pytest.mark.parametrize("part", ["reduce", "d2h"])
def test_equal_layers_expose_the_last_reduction_and_what_is_longer_than_a_layer(
    part: str, count: int, compute: float, settle: float
) -> None:
    chain = [LayerSegment(count, compute, **{part: settle})]
    assert pass_seconds(chain) == pytest.approx(compute + (count - 1) * max(compute, settle) + settle)


@given(count=st.integers(2, 30), gather=st.floats(0.1, 2), reduce=st.floats(0.1, 2), spare=st.floats(0, 5))
def test_a_long_computation_hides_all_but_the_first_gather_and_the_last_reduction(
    count: int, gather: float, reduce: float, spare: float
) -> None:
    compute = gather + reduce + spare
    chain = [LayerSegment(count, compute, gather=gather, reduce=reduce)]
    assert pass_seconds(chain) == pytest.approx(gather + count * compute + reduce)


@given(chain=chains())
def test_the_limits(chain: list[LayerSegment]) -> None:
    """Nothing moves: computation. Nothing is computed and one link for all: the transfers. One layer: one by one."""
    alone = [LayerSegment(each.count, each.compute) for each in chain]
    assert pass_seconds(alone) == pytest.approx(sum(each.count * each.compute for each in chain))
    moved = [replace(each, compute=0.0) for each in chain]
    total = sum(each.count * (each.h2d + each.gather + each.reduce + each.d2h) for each in chain)
    assert pass_seconds(moved, one_link=True) == pytest.approx(total)
    wires = [replace(each, compute=0.0, h2d=0.0, d2h=0.0) for each in chain]
    assert pass_seconds(wires) == pytest.approx(sum(each.count * (each.gather + each.reduce) for each in chain))
    one = replace(chain[0], count=1)
    assert pass_seconds([one]) == pytest.approx(sum(getattr(one, part) for part in PARTS))


@given(chain=chains(), factor=st.floats(1.0, 10.0), part=st.sampled_from(PARTS))
def test_a_pass_is_never_shorter_than_a_stream_nor_longer_than_all_parts_and_grows_with_each(
    chain: list[LayerSegment], factor: float, part: str
) -> None:
    took = pass_seconds(chain)
    sums = {each: sum(layers.count * getattr(layers, each) for layers in chain) for each in PARTS}
    assert took >= max(sums["compute"], sums["gather"] + sums["reduce"], sums["h2d"], sums["d2h"]) * (1 - 1e-12)
    assert took <= sum(sums.values()) * (1 + 1e-12)
    slower = [replace(each, **{part: factor * getattr(each, part)}) for each in chain]
    assert pass_seconds(slower) >= took * (1 - 1e-12)


@given(points=st.lists(chains(), min_size=2, max_size=4), one_link=st.booleans())
def test_arrays_are_their_points_also_where_a_part_takes_no_time(
    points: list[list[LayerSegment]], one_link: bool
) -> None:
    shortest = min(len(point) for point in points)
    counts = [layers.count for layers in points[0][:shortest]]
    alike = [[replace(layers, count=count) for layers, count in zip(point, counts, strict=False)] for point in points]
    chain = [
        LayerSegment(count, *(np.array([getattr(point[place], part) for point in alike]) for part in FIELDS))
        for place, count in enumerate(counts)
    ]
    together = np.asarray(pass_seconds(chain, one_link=one_link))
    assert together == pytest.approx([pass_seconds(point, one_link=one_link) for point in alike], rel=1e-12)
