"""Which layers stand on which stage."""

from __future__ import annotations

import pytest
from builders import DENSE_MODEL, MOE_MODEL

from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.workload.architecture import even_split, layer_runs, stage_layout
from costmodel.workload.plans import Placement


def test_layers_are_spread_evenly_and_the_last_stages_get_fewer() -> None:
    assert even_split(8, 4) == (2, 2, 2, 2)
    assert even_split(10, 4) == (3, 3, 2, 2)


def test_head_and_embedding_count_as_layers_where_stages_are_too_many() -> None:
    assert even_split(3, 4) == (1, 1, 1, 0)
    assert even_split(126, 128) == (0, *(1,) * 126, 0)


def test_the_ends_stand_on_the_outer_stages() -> None:
    first, *middle, last = stage_layout(MOE_MODEL, 4)
    assert (first.embedding, first.head, first.mtp) == (1, 0, 0)
    assert (last.embedding, last.head, last.mtp) == (0, 1, 1)
    assert all((stage.embedding, stage.head, stage.mtp) == (0, 0, 0) for stage in middle)


def test_a_single_stage_has_everything() -> None:
    (only,) = stage_layout(MOE_MODEL, 1)
    assert (only.layers, only.embedding, only.head, only.mtp) == ((2, 6), 1, 1, 1)


def test_stated_sizes_cut_through_kinds_of_layers() -> None:
    assert [stage.layers for stage in stage_layout(MOE_MODEL, 3, (1, 4, 3))] == [(1, 0), (1, 3), (0, 3)]


def test_equal_stages_compare_equal() -> None:
    assert len(set(stage_layout(DENSE_MODEL, 8))) == 3


@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 3), (9, -1)])
def test_sizes_that_do_not_add_up_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="add up to 8"):
        stage_layout(DENSE_MODEL, 2, sizes)


def test_ends_stand_where_placement_says() -> None:
    placed = stage_layout(DENSE_MODEL, 4, None, Placement(embedding=1, head=0, mtp=-2))
    assert [stage.embedding for stage in placed] == [0, 1, 0, 0]
    assert [stage.head for stage in placed] == [1, 0, 0, 0]


def test_runs_of_a_stage_keep_the_order_of_layers_that_take_turns() -> None:
    wide = replace(DENSE_MODEL.layers[0], repeat=2)
    narrow = replace(wide, repeat=1)
    model = replace(DENSE_MODEL, layers=(wide, narrow, wide, narrow))
    assert layer_runs(model, stage_layout(model, 1)) == [((0, 2), (1, 1), (0, 2), (1, 1))]
    assert layer_runs(model, stage_layout(model, 2)) == [((0, 2), (1, 1)), ((0, 2), (1, 1))]
    assert layer_runs(model, stage_layout(model, 4)) == [((0, 2),), ((1, 1), (0, 1)), ((0, 1),), ((1, 1),)]
