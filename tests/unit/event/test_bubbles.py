"""Textbook idle times of pipeline schedules, simulated: equal stages, no transfers, one task an action."""

from __future__ import annotations

import pytest

from costmodel.event.engine import run
from costmodel.event.graph import Graph, Task
from costmodel.workload.schedules.catalogue import order
from costmodel.workload.schedules.schedule import KINDS, NONE, Kind

FORWARD, INPUT, WEIGHT = 1.0, 1.3, 0.8


def idle(name: str, pp: int, virtual: int, micro_batches: int, times: tuple[float, float, float]) -> float:
    """Return the makespan less the work of a rank. times: of a rank's whole share of the model."""
    forward, backward_input, weight = (time / virtual for time in times)
    seconds = {
        Kind.FORWARD: forward,
        Kind.BACKWARD_INPUT: backward_input,
        Kind.BACKWARD_WEIGHT: weight,
        Kind.BACKWARD: backward_input + weight,
        Kind.FORWARD_BACKWARD: forward + backward_input + weight,
    }
    table, graph = order(name, pp, virtual, micro_batches).table(), Graph()
    streams = [graph.stream(f"rank {rank}", rank, "compute") for rank in range(pp)]
    for number, (rank, kind) in enumerate(zip(table.rank, table.kind, strict=True)):
        after = tuple(sorted({int(need) for need in table.needs[:, number] if need != NONE}))
        graph.add(Task(KINDS[kind].value, streams[rank], seconds[KINDS[kind]], after))
    return run(graph).makespan - micro_batches * sum(times)


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_gpipe_and_1f1b(name: str) -> None:
    """(p-1)*(F + B)."""
    assert idle(name, 8, 1, 24, (FORWARD, INPUT, WEIGHT)) == pytest.approx(7 * (FORWARD + INPUT + WEIGHT))


def test_interleaving() -> None:
    """(p-1)*(F + B)/v."""
    assert idle("interleaved", 4, 3, 16, (FORWARD, INPUT, WEIGHT)) == pytest.approx(3 * (FORWARD + INPUT + WEIGHT) / 3)


def test_zb_h1() -> None:
    """(p-1)*(F + B_in - W), where W is the shortest."""
    assert idle("zb-h1", 4, 1, 16, (FORWARD, INPUT, WEIGHT)) == pytest.approx(3 * (FORWARD + INPUT - WEIGHT))


@pytest.mark.parametrize(("pp", "micro_batches"), [(4, 16), (8, 20), (16, 120)])
def test_dualpipe(pp: int, micro_batches: int) -> None:
    """(p/2-1)*(F&B + B - 3*W) at F = B_in = W and F&B = F + B [arXiv 2412.19437, table 2]."""
    assert idle("dualpipe", pp, 1, micro_batches, (1.0, 1.0, 1.0)) == pytest.approx((pp / 2 - 1) * (3 + 2 - 3))
