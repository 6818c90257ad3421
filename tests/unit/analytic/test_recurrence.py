"""The recurrence against hand-made programs and published formulas of idle time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from costmodel.analytic.recurrence.paths import Paths, makespan_by_paths
from costmodel.analytic.recurrence.program import Event, Program, Slot, compile_events, compile_schedule, program_of
from costmodel.analytic.recurrence.tape import Workspace, makespan
from costmodel.quantities import Array
from costmodel.workload.schedules.catalogue import SCHEDULES, order, rules_of
from costmodel.workload.schedules.schedule import Action, Chunk, Kind, Schedule


def by_kind(program: Program[Slot], forward: Array, backward_input: Array, weight: Array, overlapped: Array) -> Array:
    """Return durations that depend on the kind only."""
    time = {
        Kind.FORWARD: forward,
        Kind.BACKWARD_INPUT: backward_input,
        Kind.BACKWARD_WEIGHT: weight,
        Kind.BACKWARD: backward_input + weight,
        Kind.FORWARD_BACKWARD: overlapped,
    }
    return np.array([time[slot.kind] for slot in program.slots])


@pytest.mark.parametrize(("pp", "micro_batches"), [(1, 4), (4, 4), (4, 12), (7, 30)])
def test_1f1b_on_equal_stages_takes_the_textbook_time(pp: int, micro_batches: int) -> None:
    program = compile_schedule("1f1b", pp, 1, micro_batches)
    forward, backward = np.array([1.0, 0.3]), np.array([2.0, 0.9])
    durations = by_kind(program, forward, backward / 2, backward / 2, forward)
    expected = (micro_batches + pp - 1) * (forward + backward)
    np.testing.assert_allclose(makespan(program, durations), expected, rtol=1e-13)


def test_1f1b_with_one_micro_batch_pays_every_transfer_both_ways() -> None:
    program = compile_schedule("1f1b", 4, 1, 1)
    assert makespan(program, np.ones((len(program.slots), 1)), 0.25) == pytest.approx(8.0 + 6 * 0.25)


@pytest.mark.parametrize(("pp", "micro_batches"), [(2, 4), (4, 8), (8, 20), (16, 32), (16, 120)])
def test_dualpipe_idles_by_its_formula_where_forward_input_and_weight_take_equally_long(
    pp: int, micro_batches: int
) -> None:
    program = compile_schedule("dualpipe", pp, 1, micro_batches)
    one = np.ones(1)
    durations = by_kind(program, one, one, one, 3 * one)
    idle = makespan(program, durations) - program.counts @ durations
    np.testing.assert_allclose(idle, (pp / 2 - 1) * (3 + 2 - 3), atol=1e-9)
    np.testing.assert_allclose(makespan(program, durations) - program.mean_counts @ durations, idle[0], atol=1e-9)


@pytest.mark.parametrize("pp", [2, 4, 8, 16])
def test_dualpipe_idles_within_one_forward_of_its_formula_on_equal_stages(pp: int) -> None:
    random = np.random.default_rng(pp)
    program = compile_schedule("dualpipe", pp, 1, 4 * pp, (0,) * pp)
    forward = np.ones(200)
    weight, backward_input = random.uniform(0.3, 1.0, 200), random.uniform(1.0, 2.0, 200)
    backward = backward_input + weight
    overlapped = backward + random.random(200)  # between the longer of the two and their sum
    durations = by_kind(program, forward, backward_input, weight, overlapped)
    idle = np.max(makespan(program, durations) - program.counts @ durations, axis=0)
    formula = (pp / 2 - 1) * (overlapped + backward - 3 * weight)
    assert np.all(np.abs(idle - formula) <= forward + 1e-9)


def test_stage_classes_share_slots_and_change_nothing() -> None:
    label = (0, 1, 1, 1, 1, 1, 1, 2)
    apart, shared = compile_schedule("dualpipe", 8, 1, 20), compile_schedule("dualpipe", 8, 1, 20, label)
    random = np.random.default_rng(4)
    time = {slot: random.random(5) for slot in shared.slots}

    def labelled(stage: int | None) -> int | None:
        return None if stage is None else label[stage]

    spread = np.array([time[Slot(slot.kind, labelled(slot.forward), labelled(slot.backward))] for slot in apart.slots])
    together = np.array([time[slot] for slot in shared.slots])
    assert len(shared.slots) < len(apart.slots) / 2
    np.testing.assert_array_equal(makespan(shared, together, 0.1), makespan(apart, spread, 0.1))


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_no_schedule_deadlocks_on_any_small_pipeline(name: str) -> None:
    tried = itertools.product(range(1, 9), range(1, 5), (*range(1, 13), *range(14, 25, 2)))
    sizes = [size for size in tried if all(rule.holds for rule in rules_of(name, *size))]
    assert len(sizes) > 20
    for pp, virtual, micro_batches in sizes:
        program = program_of(order(name, pp, virtual, micro_batches))
        passes = sum(program.counts.sum(axis=0)[number] * _passes(slot) for number, slot in enumerate(program.slots))
        assert passes == 3 * pp * virtual * micro_batches


def _passes(slot: Slot) -> int:
    """Return how many of forward, input gradient and weight gradient an action is."""
    full = slot.kind in {Kind.BACKWARD, Kind.FORWARD_BACKWARD}
    return (slot.forward is not None) + (slot.backward is not None) * (2 if full else 1)


def test_ranks_that_wait_for_each_other_are_refused() -> None:
    """The first waits for the backward of the second before its forward, which the second needs."""
    chunks = Chunk(0, 0), Chunk(1, 0)
    first = Action(Kind.BACKWARD, None, chunks[0]), Action(Kind.FORWARD, chunks[0])
    second = Action(Kind.FORWARD, chunks[1]), Action(Kind.BACKWARD, None, chunks[1])
    with pytest.raises(ValueError, match=r"schedule `circular` deadlocks: its ranks have finished \[0, 0\]"):
        program_of(Schedule("circular", (first, second), ((0,), (1,)), 1))


def test_an_order_that_leaves_a_chunk_out_is_refused() -> None:
    alone = Schedule("alone", ((Action(Kind.FORWARD, Chunk(1, 0)),),), ((0, 1),), 1)
    with pytest.raises(ValueError, match="no rank makes what stage 1 takes for micro-batch 0"):
        program_of(alone)


def test_stage_classes_must_cover_all_stages() -> None:
    with pytest.raises(ValueError, match="3 stage classes for 4 stages"):
        compile_schedule("1f1b", 4, 1, 8, (0, 0, 0))


def test_results_do_not_depend_on_how_points_are_chunked() -> None:
    program = compile_schedule("dualpipe", 4, 1, 8)
    random = np.random.default_rng(5)
    durations, transfer = random.random((len(program.slots), 101)), random.random(101)
    whole = makespan(program, durations, transfer)
    np.testing.assert_array_equal(makespan(program, durations, transfer, chunk=7), whole)
    alone = makespan(program, durations[:, 50:51], transfer[50:51])
    np.testing.assert_allclose(alone, whole[50:51], rtol=1e-14)  # sums in another order
    assert makespan(program, durations[:, :0]).shape == (0,)


def test_a_point_without_a_time_stays_without_one_and_spoils_no_other() -> None:
    program = compile_schedule("1f1b", 2, 1, 4)
    durations = np.ones((len(program.slots), 3))
    durations[0, 1] = np.nan
    assert list(np.isnan(makespan(program, durations))) == [False, True, False]


def test_a_workspace_is_filled_and_evaluated_again_and_again() -> None:
    program = compile_schedule("1f1b", 2, 1, 4)
    workspace = Workspace(program, 3, transfers=True)
    for scale in (1.0, 2.0):
        workspace.durations[:] = scale
        workspace.transfer[:] = 0.0
        np.testing.assert_array_equal(workspace.makespan(), np.full(3, 10.0 * scale))


def test_durations_need_a_row_for_each_slot() -> None:
    program = compile_schedule("1f1b", 2, 1, 4)
    with pytest.raises(ValueError, match="slots"):
        makespan(program, np.ones((1, 3)))


def test_two_micro_batches_hide_communication_under_compute() -> None:
    # Each micro-batch computes, then communicates, layer by layer; the other one computes in the meantime.
    layers, compute, network = 10, 0, 1
    events: list[Event[str]] = []
    for layer in range(layers):
        for _ in range(2):
            before = (len(events) - 3,) if layer else ()
            events.append(Event(compute, "compute", before))
            events.append(Event(network, "send", (len(events) - 1,)))
    program = compile_events(events, ("compute", "send"))
    durations = np.array([[3.0, 3.0, 1.0], [1.0, 3.0, 2.0]])
    expected = [2 * layers * 3.0 + 1.0, 2 * layers * 3.0 + 3.0, 1.0 + 2 * layers * 2.0]
    assert list(makespan(program, durations)) == expected
    assert program.counts.tolist() == [[2 * layers, 0], [0, 2 * layers]]


def test_a_program_of_one_event_takes_as_long_as_the_event() -> None:
    program = compile_events([Event(0, "only")], ["only"])
    assert list(makespan(program, np.array([[2.0, 3.0]]), 1.0)) == [2.0, 3.0]


def test_a_longer_way_round_with_fewer_transfers_does_not_hide_a_transfer() -> None:
    # The last event hears from the first directly, by transfer, and through one on its own stream, without.
    events = [Event(0, "a"), Event(1, "b", after=(0,)), Event(1, "c", receives=(0,))]
    program = compile_events(events, ("a", "b", "c"))
    assert list(makespan(program, np.array([[1.0, 1.0], [0.5, 9.0], [1.0, 1.0]]), 2.0)) == [4.0, 11.0]


def layers_of_two_micro_batches(layers: int) -> Program[str]:
    """Return a chain in which two micro-batches compute in turn and send meanwhile, a copy before every layer."""
    events: list[Event[str]] = []
    for layer in range(layers):
        copy = len(events)
        events.append(Event(2, "copy", (copy - 1,) if layer else ()))
        for _ in range(2):
            before = (len(events) - 4,) if layer else ()
            events.append(Event(0, "compute", before, receives=(copy,)))
            events.append(Event(1, "send", (len(events) - 1,)))
    return compile_events(events, ("compute", "send", "copy"))


@pytest.mark.parametrize(
    ("program", "settled"),
    [
        (layers_of_two_micro_batches(58), 1.0),
        (compile_schedule("1f1b", 2, 1, 8), 0.5),
        (compile_schedule("dualpipe", 4, 1, 12), 0.0),  # too many waits may be longer
    ],
)
def test_longest_paths_give_the_makespans_of_a_tape(program: Program[str], settled: float) -> None:
    rng = np.random.default_rng(0)
    durations = np.where(rng.random((len(program.slots), 999)) < 0.3, 1.0, rng.uniform(0.0, 2.0, (1, 999)))
    durations[:, 500], durations[0, 7] = 0.0, np.nan
    workspace = Workspace(program, 999, transfers=True)
    for transfer in (rng.integers(0, 3, 999) / 4.0, np.zeros(999)):
        workspace.durations[:], workspace.transfer[:] = durations, transfer
        known: Paths = {}
        counts = []
        for _ in range(2):  # the second time with the paths of the first
            spans = makespan_by_paths(program, durations, transfer, known)
            has = np.isfinite(spans)
            assert has.mean() >= min(settled, 998 / 999)
            np.testing.assert_allclose(spans[has], workspace.makespan()[has], rtol=1e-12)
            counts.append(len(known[program]))
        assert counts[0] == counts[1] > 0
        expected = workspace.makespan()
        np.testing.assert_allclose(makespan(program, durations, transfer, known=known), expected, rtol=1e-12)


def test_events_that_wait_for_later_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="event 0 waits"):
        compile_events([Event(0, "a", after=(1,)), Event(0, "a")], ["a"])
