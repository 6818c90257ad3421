"""Per-rank orders: what DeepSeek and Megatron publish about them, and what they refuse."""

from __future__ import annotations

from collections import Counter

import pytest

from costmodel.errors import InputError
from costmodel.workload.schedules.catalogue import SCHEDULES, order
from costmodel.workload.schedules.schedule import Action, Chunk, Dependency, Kind, Schedule

SIGN = {Kind.FORWARD: "F", Kind.BACKWARD: "B", Kind.BACKWARD_INPUT: "I", Kind.BACKWARD_WEIGHT: "W"}
STAGES = {
    "gpipe": 1,
    "1f1b": 1,
    "interleaved": 3,
    "combined-1f1b": 3,
    "zb-h1": 1,
    "zb-v": 2,
    "dualpipe": 1,
    "dualpipe-v": 2,
}  # of a rank


def letters(actions: tuple[Action, ...]) -> str:
    """Return the order in the notation of the papers: F0 is the forward of micro-batch 0, I its input gradient."""
    chunks = [(SIGN[action.kind], action.forward or action.backward) for action in actions]
    return " ".join(f"{letter}{chunk.micro_batch}" for letter, chunk in chunks if chunk is not None)


def letters_and_stages(actions: tuple[Action, ...]) -> str:
    """Return the order as `F3.0`: stage 3, micro-batch 0."""
    chunks = [(SIGN[action.kind], action.forward or action.backward) for action in actions]
    return " ".join(f"{letter}{chunk.stage}.{chunk.micro_batch}" for letter, chunk in chunks if chunk is not None)


def most_chunks(schedule: Schedule, rank: int) -> int:
    """Return the largest number of chunks, of all its stages together, that a rank holds at a time."""
    return max(sum(state) for state in schedule.in_flight(rank))


def test_1f1b_warms_up_alternates_and_drains() -> None:
    schedule = order("1f1b", 3, 1, 4)
    assert [letters(actions) for actions in schedule.ranks] == [
        "F0 F1 F2 B0 F3 B1 B2 B3",
        "F0 F1 B0 F2 B1 F3 B2 B3",
        "F0 B0 F1 B1 F2 B2 F3 B3",
    ]


def test_combined_1f1b_pairs_each_backward_with_a_later_forward_after_one_more_chunk_of_warm_up() -> None:
    """Two ranks of two stages: the last rank's first backward needs its third forward, and overlaps the fourth."""
    last = order("combined-1f1b", 2, 2, 4).ranks[1]
    warm_up = [action for action in last if action.kind is Kind.FORWARD]
    assert letters_and_stages(tuple(warm_up)) == "F1.0 F1.1 F3.0"
    pairs = [(action.forward, action.backward) for action in last if action.kind is Kind.FORWARD_BACKWARD]
    assert pairs[:2] == [(Chunk(3, 1), Chunk(3, 0)), (Chunk(1, 2), Chunk(3, 1))]
    assert letters_and_stages(last[-3:]) == "B3.3 B1.2 B1.3"


def test_combined_1f1b_without_a_pipeline_overlaps_neighbouring_micro_batches() -> None:
    (actions,) = order("combined-1f1b", 1, 1, 3).ranks
    assert [action.kind for action in actions] == [
        Kind.FORWARD, Kind.FORWARD_BACKWARD, Kind.FORWARD_BACKWARD, Kind.BACKWARD,
    ]  # fmt: skip
    assert (actions[1].forward, actions[1].backward) == (Chunk(0, 1), Chunk(0, 0))


def test_combined_1f1b_in_a_pipeline_needs_several_stages_a_rank() -> None:
    with pytest.raises(InputError, match="needs two stages a rank or more"):
        order("combined-1f1b", 4, 1, 8)


def test_1f1b_with_fewer_micro_batches_than_ranks_runs_all_forwards_first() -> None:
    assert letters(order("1f1b", 4, 1, 2).ranks[0]) == "F0 F1 B0 B1"


@pytest.mark.parametrize(("pp", "micro_batches"), [(1, 3), (4, 8), (8, 3)])
def test_1f1b_holds_one_chunk_for_each_rank_after_it_and_itself(pp: int, micro_batches: int) -> None:
    schedule = order("1f1b", pp, 1, micro_batches)
    expected = [min(pp - rank, micro_batches) for rank in range(pp)]
    assert [most_chunks(schedule, rank) for rank in range(pp)] == expected
    assert [schedule.in_flight(rank) for rank in range(pp)] == [((chunks,),) for chunks in expected]


def test_gpipe_runs_all_forwards_first_and_holds_every_micro_batch() -> None:
    schedule = order("gpipe", 3, 1, 4)
    assert [letters(actions) for actions in schedule.ranks] == ["F0 F1 F2 F3 B0 B1 B2 B3"] * 3
    assert [most_chunks(schedule, rank) for rank in range(3)] == [4, 4, 4]


def test_interleaved_takes_groups_of_pp_micro_batches_through_each_stage_of_a_rank() -> None:
    """Megatron-LM's order for two ranks of two stages: 2*(PP-1-r) + (v-1)*PP chunks of warm-up."""
    schedule = order("interleaved", 2, 2, 4)
    assert schedule.placement == ((0, 2), (1, 3))
    assert [letters_and_stages(actions) for actions in schedule.ranks] == [
        "F0.0 F0.1 F2.0 F2.1 F0.2 B2.0 F0.3 B2.1 F2.2 B0.0 F2.3 B0.1 B2.2 B2.3 B0.2 B0.3",
        "F1.0 F1.1 F3.0 B3.0 F3.1 B3.1 F1.2 B1.0 F1.3 B1.1 F3.2 B3.2 F3.3 B3.3 B1.2 B1.3",
    ]


@pytest.mark.parametrize(("pp", "virtual"), [(2, 2), (4, 2), (4, 3), (8, 6)])
def test_interleaved_holds_more_than_1f1b_by_the_published_factor(pp: int, virtual: int) -> None:
    """1 + (p-1)/(p*v) on the first rank, whose 1F1B holds p chunks of v stages [arXiv 2205.05198, section 4.2]."""
    schedule = order("interleaved", pp, virtual, 4 * pp)
    assert most_chunks(schedule, 0) / (pp * virtual) == 1 + (pp - 1) / (pp * virtual)
    assert [most_chunks(schedule, rank) for rank in range(pp)] == [
        2 * (pp - 1 - rank) + (virtual - 1) * pp + 1 for rank in range(pp)
    ]


def test_interleaved_with_one_group_of_micro_batches_warms_up_with_what_there_is() -> None:
    actions = order("interleaved", 4, 2, 4).ranks[0]
    assert [action.kind for action in actions] == [Kind.FORWARD] * 8 + [Kind.BACKWARD] * 8


def test_zb_h1_runs_weight_gradients_late_by_the_rank() -> None:
    """The order of figure 3 (top) of arXiv 2401.10241, four ranks and eight micro-batches."""
    schedule = order("zb-h1", 4, 1, 8)
    assert letters(schedule.ranks[0]) == ("F0 F1 F2 F3 I0 W0 F4 I1 W1 F5 I2 W2 F6 I3 W3 F7 I4 W4 I5 W5 I6 W6 I7 W7")
    assert letters(schedule.ranks[3]) == ("F0 I0 F1 I1 F2 I2 F3 I3 W0 F4 I4 W1 F5 I5 W2 F6 I6 W3 F7 I7 W4 W5 W6 W7")


@pytest.mark.parametrize(("pp", "micro_batches"), [(1, 3), (4, 8), (4, 3), (8, 30)])
def test_zb_h1_holds_on_every_rank_what_1f1b_holds_on_its_first(pp: int, micro_batches: int) -> None:
    schedule, plain = order("zb-h1", pp, 1, micro_batches), order("1f1b", pp, 1, micro_batches)
    assert {most_chunks(schedule, rank) for rank in range(pp)} == {most_chunks(plain, 0)}


def test_zb_v_goes_down_the_ranks_and_comes_back_up() -> None:
    """The handcrafted order of github.com/sail-sg/zero-bubble-pipeline-parallelism for two ranks."""
    schedule = order("zb-v", 2, 2, 4)
    assert schedule.placement == ((0, 3), (1, 2))
    assert [letters_and_stages(actions) for actions in schedule.ranks] == [
        "F0.0 F0.1 F0.2 F3.0 I3.0 W3.0 F3.1 I3.1 W3.1 F0.3 I0.0 W0.0 F3.2 I3.2 W3.2 "
        "I0.1 W0.1 F3.3 I3.3 W3.3 I0.2 W0.2 I0.3 W0.3",
        "F1.0 F2.0 F1.1 F2.1 I2.0 W2.0 F1.2 I1.0 W1.0 F2.2 I2.1 W2.1 F1.3 I1.1 W1.1 "
        "F2.3 I2.2 W2.2 I1.2 I2.3 I1.3 W1.2 W2.3 W1.3",
    ]


@pytest.mark.parametrize(("pp", "micro_batches"), [(1, 4), (2, 3), (4, 7), (8, 40)])
def test_zb_v_holds_as_much_as_1f1b_on_every_rank(pp: int, micro_batches: int) -> None:
    """2*PP chunks of half a 1F1B stage."""
    schedule = order("zb-v", pp, 2, micro_batches)
    assert {most_chunks(schedule, rank) for rank in range(pp)} == {2 * pp}


def test_zb_v_with_few_micro_batches_leaves_out_those_that_do_not_exist() -> None:
    assert [letters_and_stages(actions) for actions in order("zb-v", 2, 2, 1).ranks] == [
        "F0.0 F3.0 I3.0 W3.0 I0.0 W0.0",
        "F1.0 F2.0 I2.0 W2.0 I1.0 W1.0",
    ]


def test_dualpipe_v_runs_the_first_half_of_a_dualpipe_of_twice_the_ranks() -> None:
    whole, half = order("dualpipe", 8, 1, 20), order("dualpipe-v", 4, 2, 10)
    assert half.placement == whole.placement[:4]

    def one_way(chunk: Chunk | None) -> Chunk | None:
        return chunk and Chunk(chunk.stage, chunk.micro_batch % 10)

    for actions, kept in zip(whole.ranks, half.ranks, strict=False):
        assert list(kept) == [Action(a.kind, one_way(a.forward), one_way(a.backward)) for a in actions]


@pytest.mark.parametrize(("pp", "micro_batches"), [(1, 2), (2, 4), (4, 10), (8, 32)])
def test_dualpipe_v_holds_a_chunk_more_than_it_has_stages(pp: int, micro_batches: int) -> None:
    schedule = order("dualpipe-v", pp, 2, micro_batches)
    assert {most_chunks(schedule, rank) for rank in range(pp)} == {2 * pp + 1}


def test_dependencies_are_results_of_neighbouring_stages() -> None:
    """Rank 0 of ZB-V holds the first and the last stage, rank 1 the two where the model turns."""
    schedule = order("zb-v", 2, 2, 1)
    assert schedule.dependencies() == (
        ((), (Dependency(1, 1, True),), (), (), (Dependency(1, 4, True),), ()),
        (
            (Dependency(0, 0, True),),
            (Dependency(1, 0, False),),  # the next stage stands on the same rank: no transfer
            (Dependency(0, 2, True),),
            (),
            (Dependency(1, 2, False),),
            (),
        ),
    )


@pytest.mark.parametrize("virtual", [1, 2, 4])
def test_a_micro_batch_crosses_virtual_times_as_many_links(virtual: int) -> None:
    """Every rank passes it on once a stage: pp*v - 1 transfers each way, p - 1 without interleaving."""
    schedule = order("1f1b" if virtual == 1 else "interleaved", 4, virtual, 8)
    transfers = sum(need.transfer for rank in schedule.dependencies() for needs in rank for need in needs)
    assert transfers / 8 == 2 * (4 * virtual - 1)


def test_the_turn_of_a_v_costs_no_transfer() -> None:
    for name in ("zb-v", "dualpipe-v"):
        schedule = order(name, 4, 2, 8)
        transfers = sum(need.transfer for rank in schedule.dependencies() for needs in rank for need in needs)
        assert transfers / 8 == 2 * (8 - 2)


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
    assert [most_chunks(schedule, rank) for rank in range(pp)] == [pp + 1] * pp
    assert schedule.stages_of(1) == (1, pp - 2)
    assert all(len(state) == 2 for state in schedule.in_flight(0))


def test_in_flight_returns_every_combination_that_may_weigh_most() -> None:
    for rank in range(8):
        states = order("dualpipe", 8, 1, 20).in_flight(rank)
        assert not any(a != b and a[0] <= b[0] and a[1] <= b[1] for a in states for b in states)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_parameter_copies_counts_the_ranks_that_hold_a_stage(name: str) -> None:
    schedule = order(name, 4, STAGES[name], 8)
    holders = Counter(stage for rank in range(4) for stage in schedule.stages_of(rank))
    assert schedule.stages == 4 * STAGES[name] == len(holders)
    assert set(holders.values()) == {2 if name == "dualpipe" else 1} == {schedule.stage_replicas}


def test_folding_keeps_half_of_a_mirrored_pipeline_and_all_of_any_other() -> None:
    assert len(order("dualpipe", 8, 1, 16).fold().ranks) == 4
    for name in set(SCHEDULES) - {"dualpipe"}:
        assert len(order(name, 8, STAGES[name], 16).fold().ranks) == 8


@pytest.mark.parametrize(
    ("name", "pp", "virtual", "micro_batches", "field", "fix"),
    [
        ("dualpipe", 5, 1, 20, "parallel.pp", "write 6"),
        ("dualpipe", 4, 1, 9, "global_batch", "10 micro-batches"),
        ("dualpipe", 8, 1, 14, "global_batch", "16 micro-batches"),
        ("dualpipe", 4, 2, 8, "parallel.virtual", "write 1"),
        ("1f1b", 4, 2, 8, "parallel.virtual", "write 1"),
        ("1f1b", 4, 2, 8, "parallel.virtual", "`schedule: interleaved`"),
        ("gpipe", 4, 2, 8, "parallel.virtual", "`schedule: interleaved`"),
        ("zb-h1", 4, 3, 8, "parallel.virtual", "write 1"),
        ("zb-v", 4, 1, 8, "parallel.virtual", "write 2"),
        ("zb-v", 4, 3, 8, "parallel.virtual", "leave it out"),
        ("dualpipe-v", 4, 1, 8, "parallel.virtual", "write 2"),
        ("dualpipe-v", 4, 2, 7, "global_batch", "8 micro-batches"),
        ("interleaved", 4, 1, 8, "parallel.virtual", "`schedule: 1f1b`"),
        ("interleaved", 4, 2, 10, "global_batch", "12 micro-batches"),
        ("interleaved", 4, 2, 3, "global_batch", "4 micro-batches"),
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
