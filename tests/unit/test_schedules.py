"""Per-rank orders: what DeepSeek and Megatron publish about them, and what they refuse."""

from __future__ import annotations

from collections import Counter

import pytest

from costmodel.errors import InputError
from costmodel.workload.schedules import Action, Chunk, Kind, order


def letters(actions: tuple[Action, ...]) -> str:
    """Return the order in the notation of the papers: F0 is the forward of micro-batch 0."""
    sign = {Kind.FORWARD: "F", Kind.BACKWARD: "B"}
    chunks = [(sign[action.kind], action.forward or action.backward) for action in actions]
    return " ".join(f"{letter}{chunk.micro_batch}" for letter, chunk in chunks if chunk is not None)


def test_1f1b_warms_up_alternates_and_drains() -> None:
    schedule = order("1f1b", 3, 1, 4)
    assert [letters(actions) for actions in schedule.ranks] == [
        "F0 F1 F2 B0 F3 B1 B2 B3",
        "F0 F1 B0 F2 B1 F3 B2 B3",
        "F0 B0 F1 B1 F2 B2 F3 B3",
    ]


def test_1f1b_with_fewer_micro_batches_than_ranks_runs_all_forwards_first() -> None:
    assert letters(order("1f1b", 4, 1, 2).ranks[0]) == "F0 F1 B0 B1"


@pytest.mark.parametrize(("pp", "micro_batches"), [(1, 3), (4, 8), (8, 3)])
def test_1f1b_holds_one_chunk_for_each_rank_after_it_and_itself(pp: int, micro_batches: int) -> None:
    schedule = order("1f1b", pp, 1, micro_batches)
    expected = [min(pp - rank, micro_batches) for rank in range(pp)]
    assert [schedule.peak_chunks(rank) for rank in range(pp)] == expected
    assert [schedule.in_flight(rank) for rank in range(pp)] == [((chunks,),) for chunks in expected]


def test_dualpipe_counts_are_those_of_the_published_order() -> None:
    schedule = order("dualpipe", 16, 1, 120)
    total = Counter(action.kind for actions in schedule.ranks for action in actions)
    assert {kind: number / 16 for kind, number in total.items()} == {
        Kind.FORWARD: 19.625,
        Kind.BACKWARD_INPUT: 11.5,
        Kind.BACKWARD_WEIGHT: 11.5,
        Kind.BACKWARD: 8.125,
        Kind.FORWARD_BACKWARD: 100.375,
    }


def test_dualpipe_rank_0_fills_alternates_directions_and_ends_with_a_weight_gradient() -> None:
    actions = order("dualpipe", 4, 1, 8).ranks[0]
    assert [action.kind for action in actions[:7]] == [Kind.FORWARD] * 4 + [
        Kind.BACKWARD_INPUT,
        Kind.BACKWARD_WEIGHT,
        Kind.FORWARD,
    ]
    assert actions[0] == Action(Kind.FORWARD, forward=Chunk(stage=0, micro_batch=0))
    assert actions[3] == Action(Kind.FORWARD, forward=Chunk(stage=3, micro_batch=4))  # enters at the other end
    assert actions[7] == Action(Kind.FORWARD_BACKWARD, forward=Chunk(0, 3), backward=Chunk(3, 5))
    assert actions[-1] == Action(Kind.BACKWARD_WEIGHT, backward=Chunk(0, 3))


@pytest.mark.parametrize(("pp", "micro_batches"), [(2, 4), (4, 8), (8, 20), (16, 32), (16, 120)])
def test_dualpipe_holds_pp_plus_one_chunks_of_two_stages(pp: int, micro_batches: int) -> None:
    schedule = order("dualpipe", pp, 1, micro_batches)
    assert [schedule.peak_chunks(rank) for rank in range(pp)] == [pp + 1] * pp
    assert schedule.stages_of(1) == (1, pp - 2)
    assert all(len(state) == 2 for state in schedule.in_flight(0))


def test_in_flight_returns_every_combination_that_may_weigh_most() -> None:
    for rank in range(8):
        states = order("dualpipe", 8, 1, 20).in_flight(rank)
        assert not any(a != b and a[0] <= b[0] and a[1] <= b[1] for a in states for b in states)


@pytest.mark.parametrize(("name", "copies"), [("1f1b", 1), ("dualpipe", 2)])
def test_parameter_copies_counts_the_ranks_that_hold_a_stage(name: str, copies: int) -> None:
    schedule = order(name, 4, 1, 8)
    holders = Counter(stage for rank in range(4) for stage in schedule.stages_of(rank))
    assert schedule.stages == 4
    assert set(holders.values()) == {copies} == {schedule.parameter_copies}


def test_folding_keeps_half_of_a_mirrored_pipeline_and_all_of_any_other() -> None:
    assert len(order("dualpipe", 8, 1, 16).fold().ranks) == 4
    assert len(order("1f1b", 8, 1, 16).fold().ranks) == 8


@pytest.mark.parametrize(
    ("name", "pp", "virtual", "micro_batches", "field", "fix"),
    [
        ("dualpipe", 5, 1, 20, "parallel.pp", "write 6"),
        ("dualpipe", 4, 1, 9, "global_batch", "10 micro-batches"),
        ("dualpipe", 8, 1, 14, "global_batch", "16 micro-batches"),
        ("dualpipe", 4, 2, 8, "parallel.virtual", "write 1"),
        ("1f1b", 4, 2, 8, "parallel.virtual", "write 1"),
        ("1f1b", 0, 1, 8, "parallel.pp", "at least 1"),
        ("1f1b", 4, 1, 0, "micro-batches", "at least 1"),
        ("dualpip", 4, 1, 8, "schedule", "dualpipe"),
    ],
)
def test_impossible_layouts_are_errors_that_show_the_fix(
    name: str, pp: int, virtual: int, micro_batches: int, field: str, fix: str
) -> None:
    with pytest.raises(InputError) as caught:
        order(name, pp, virtual, micro_batches)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert fix in problem.hint
