"""What holds for every schedule on any number of ranks, and the recurrence against an independent simulation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.analytic.recurrence.program import Event, Program, Slot, compile_events, program_of
from costmodel.analytic.recurrence.tape import Workspace, makespan
from costmodel.quantities import Array
from costmodel.workload.schedules.catalogue import SCHEDULES, order
from costmodel.workload.schedules.schedule import Action, Chunk, Kind, Schedule


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Draw a schedule of any kind and size."""
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    pp, virtual, micro_batches = draw(st.integers(1, 7)), SCHEDULES[name].virtual or 1, draw(st.integers(1, 12))
    if name in ("interleaved", "combined-1f1b"):
        virtual, micro_batches = draw(st.integers(2, 4)), pp * draw(st.integers(1, 3))
    elif name == "dualpipe":
        pp += pp % 2
        micro_batches = 2 * pp + 2 * draw(st.integers(0, 7))
    elif name == "dualpipe-v":
        micro_batches += 2 * pp - 1
    return order(name, pp, virtual, micro_batches)


def slot_of(action: Action) -> Slot:
    forward = None if action.forward is None else action.forward.stage
    return Slot(action.kind, forward, None if action.backward is None else action.backward.stage)


def simulate(schedule: Schedule, duration: Mapping[Slot, float], transfer: float) -> float:
    """Return the makespan, event by event, of all ranks; which results an action needs is worked out anew here."""
    forwarded: dict[Chunk, tuple[int, float]] = {}
    backwarded: dict[Chunk, tuple[int, float]] = {}
    clock = [0.0] * len(schedule.ranks)
    left = [list(actions) for actions in schedule.ranks]
    while any(left):
        before = sum(map(len, left))
        for rank, actions in enumerate(left):
            while actions:
                action = actions[0]
                needs: list[tuple[int, float] | None] = []
                if action.forward and action.forward.stage:
                    needs.append(forwarded.get(Chunk(action.forward.stage - 1, action.forward.micro_batch)))
                if action.backward and action.kind is not Kind.BACKWARD_WEIGHT:
                    needs.append(forwarded.get(action.backward))
                    if action.backward.stage < schedule.stages - 1:
                        needs.append(backwarded.get(Chunk(action.backward.stage + 1, action.backward.micro_batch)))
                if None in needs:
                    break
                arrivals = [time + transfer * (source != rank) for source, time in filter(None, needs)]
                clock[rank] = max([clock[rank], *arrivals]) + duration[slot_of(action)]
                if action.forward:
                    forwarded[action.forward] = rank, clock[rank]
                if action.backward and action.kind is not Kind.BACKWARD_WEIGHT:
                    backwarded[action.backward] = rank, clock[rank]
                actions.pop(0)
        assert sum(map(len, left)) < before, "deadlock"
    return max(clock)


def from_tape(program: Program[Slot], durations: Array, transfer: float) -> Array:
    """Return the makespan as many points are evaluated."""
    workspace = Workspace(program, durations.shape[1], transfers=transfer > 0)
    workspace.durations[:] = durations
    workspace.transfer[:] = transfer
    return workspace.makespan()


@given(schedules())
def test_every_micro_batch_passes_every_stage_once_each_way(schedule: Schedule) -> None:
    every = sorted(Chunk(s, m) for s in range(schedule.stages) for m in range(schedule.micro_batches))
    actions = [action for actions in schedule.ranks for action in actions]
    full = {Kind.BACKWARD, Kind.FORWARD_BACKWARD}
    assert sorted(a.forward for a in actions if a.forward) == every
    assert sorted(a.backward for a in actions if a.backward and a.kind in {Kind.BACKWARD_INPUT, *full}) == every
    assert sorted(a.backward for a in actions if a.backward and a.kind in {Kind.BACKWARD_WEIGHT, *full}) == every


@given(schedules())
def test_ranks_work_on_their_own_stages_forward_before_input_before_weight(schedule: Schedule) -> None:
    for rank, actions in enumerate(schedule.ranks):
        forwarded: set[Chunk] = set()
        waiting: set[Chunk] = set()
        for action in actions:
            for chunk in filter(None, (action.forward, action.backward)):
                assert chunk.stage in schedule.stages_of(rank)
            if action.forward:
                forwarded.add(action.forward)
            if action.backward and action.kind is Kind.BACKWARD_WEIGHT:
                waiting.remove(action.backward)
            elif action.backward:
                forwarded.remove(action.backward)
                if action.kind is Kind.BACKWARD_INPUT:
                    waiting.add(action.backward)
        assert not forwarded
        assert not waiting


@given(schedules())
def test_what_a_rank_holds_is_counted_by_running_its_order(schedule: Schedule) -> None:
    for rank, actions in enumerate(schedule.ranks):
        held = dict.fromkeys(schedule.stages_of(rank), 0)
        states = set()
        for action in actions:
            if action.forward:
                held[action.forward.stage] += 1
            states.add(tuple(held.values()))
            if action.backward and action.kind is not Kind.BACKWARD_INPUT:
                held[action.backward.stage] -= 1
        fullest = schedule.in_flight(rank)
        assert set(fullest) <= states
        assert all(any(np.all(np.less_equal(state, most)) for most in fullest) for state in states)


@given(schedules())
def test_mirrored_ranks_run_the_same_order_with_directions_exchanged(schedule: Schedule) -> None:
    if schedule.directions == 1:
        return

    def mirrored(chunk: Chunk | None) -> Chunk | None:
        half = schedule.micro_batches // 2
        return chunk and Chunk(chunk.stage, (chunk.micro_batch + half) % schedule.micro_batches)

    for actions, opposite in zip(schedule.ranks, reversed(schedule.ranks), strict=True):
        assert list(opposite) == [Action(a.kind, mirrored(a.forward), mirrored(a.backward)) for a in actions]


@settings(deadline=None)
@given(schedules(), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 0.3, 5.0]))
def test_recurrence_folded_or_not_equals_an_independent_simulation(
    schedule: Schedule, seed: int, transfer: float
) -> None:
    program = program_of(schedule)
    random = np.random.default_rng(seed)
    durations = random.random((len(program.slots), 4))
    durations *= random.random(durations.shape) < 0.8  # some take no time at all
    expected = [simulate(schedule, dict(zip(program.slots, point, strict=True)), transfer) for point in durations.T]
    np.testing.assert_allclose(makespan(program, durations, transfer), expected, rtol=1e-12)
    np.testing.assert_allclose(from_tape(program, durations, transfer), expected, rtol=1e-12)
    folded = program_of(schedule.fold())
    rows = [program.slots.index(slot) for slot in folded.slots]
    np.testing.assert_allclose(makespan(folded, durations[rows], transfer), expected, rtol=1e-12)


@settings(deadline=None)
@given(schedules(), st.integers(0, 2**32 - 1))
def test_a_longer_action_or_transfer_never_makes_the_step_shorter(schedule: Schedule, seed: int) -> None:
    program = program_of(schedule.fold())
    random = np.random.default_rng(seed)
    points = len(program.slots) + 1
    durations = np.repeat(random.random((len(program.slots), 1)), points, axis=1)
    transfer = np.full(points, random.random())
    base = makespan(program, durations, transfer)
    np.fill_diagonal(durations, durations.diagonal() * 1.5)  # one longer slot a point, a longer transfer at the last
    transfer[-1] *= 1.5
    assert np.all(makespan(program, durations, transfer) >= base * (1 - 1e-14))


@settings(deadline=None)
@given(schedules(), st.integers(0, 2**32 - 1))
def test_no_rank_is_busy_for_longer_than_the_step(schedule: Schedule, seed: int) -> None:
    program = program_of(schedule)
    durations = np.random.default_rng(seed).random((len(program.slots), 3))
    assert np.all(program.counts @ durations <= makespan(program, durations) * (1 + 1e-12))


@settings(deadline=None)
@given(st.data())
def test_any_program_of_events_equals_the_plain_recurrence(data: st.DataObject) -> None:
    streams = data.draw(st.integers(1, 4))
    events: list[Event[int]] = []
    for index in range(data.draw(st.integers(1, 40))):
        earlier = st.lists(st.integers(0, index - 1), max_size=3).map(tuple) if index else st.just(())
        stream = data.draw(st.integers(0, streams - 1))
        events.append(Event(stream, data.draw(st.integers(0, 3)), data.draw(earlier), data.draw(earlier)))
    durations = np.array([[0.0, 1.0], [1.0, 0.5], [0.3, 2.0], [2.0, 0.0]])
    transfer = np.array(data.draw(st.sampled_from([[0.0, 0.0], [0.7, 0.0], [0.1, 4.0]])))
    clock = np.zeros((streams, 2))
    finish: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    for event in events:
        needed = [finish[u] for u in event.after] + [finish[u] + transfer for u in event.receives]
        clock[event.stream] = np.max([clock[event.stream], *needed], axis=0) + durations[event.slot]
        finish.append(clock[event.stream].copy())
    program = compile_events(events, range(4))
    np.testing.assert_allclose(makespan(program, durations, transfer), clock.max(axis=0), rtol=1e-12)
