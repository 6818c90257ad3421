"""Replication and packing of experts: by hand, in the published order, and what greedy rules guarantee."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.quantities import Array
from costmodel.workload.popularity import balanced, pack, replicate, sequential


def loads(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


def most(placed: Array) -> float:
    return float(placed.sum(axis=1).max())


def test_the_fullest_replica_is_split_next() -> None:
    """90: halves of 45, thirds of 30; 40 stays until it is the fullest."""
    assert sorted(replicate(loads(90, 40, 10), 4)) == [10, 40, 45, 45]
    assert sorted(replicate(loads(90, 40, 10), 5)) == [10, 30, 30, 30, 40]
    assert sorted(replicate(loads(90, 40, 10), 6)) == [10, 20, 20, 30, 30, 30]


def test_the_largest_goes_where_there_is_least_and_room() -> None:
    """9 | 7, then 6 to the 7, 5 to the 9 (14 against 13), 2 to the 13, and 1 where room is left."""
    packed = pack(loads(9, 7, 6, 5, 2, 1), 2)
    assert sorted(sorted(items) for items in packed.tolist()) == [[0, 3, 5], [1, 2, 4]]


def test_one_item_a_pack_stays_in_order() -> None:
    assert pack(loads(1, 3, 2), 3).tolist() == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("counts", "physical"),
    [
        ((90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86), (5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1)),
        ((20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27), (7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1)),
    ],
)
def test_the_published_example_of_hierarchical_balancing(counts: tuple[float, ...], physical: tuple[int, ...]) -> None:
    """The example in the description of EPLB: 12 experts, 16 replicas, four groups, two nodes of four GPUs.

    physical: the expert in each slot, two slots a GPU, as it prints them.
    """
    weight = loads(*counts)
    copies = np.bincount(physical, minlength=12)
    expected = (weight / copies)[list(physical)].reshape(8, 2)
    found = balanced(weight, 8, 4, 4, 2)
    by_node = [sorted(map(tuple, np.sort(ranks, axis=1).round(9).tolist())) for ranks in (found[:4], found[4:])]
    wanted = [sorted(map(tuple, np.sort(ranks, axis=1).round(9).tolist())) for ranks in (expected[:4], expected[4:])]
    assert sorted(by_node) == sorted(wanted)


def test_groups_that_nodes_do_not_divide_are_balanced_globally() -> None:
    weight = loads(*range(1, 13))
    np.testing.assert_array_equal(balanced(weight, 6, 0, 4, 3), balanced(weight, 6, 0, 1, 1))


def test_a_group_stays_on_one_node() -> None:
    weight = np.repeat([1.0, 2.0, 3.0, 10.0], 4)
    found = balanced(weight, 4, 0, 4, 2)
    assert sorted(found[:2].reshape(-1).tolist() + found[2:].reshape(-1).tolist()) == sorted(weight.tolist())
    nodes = [set(found[:2].reshape(-1)), set(found[2:].reshape(-1))]
    assert not nodes[0] & nodes[1]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, int, int]:
    ranks, each = draw(st.sampled_from([2, 3, 4, 8])), draw(st.integers(1, 5))
    values = draw(st.lists(st.floats(0.0, 100.0), min_size=ranks * each, max_size=ranks * each))
    return np.array(values), ranks, draw(st.integers(0, 4)) * ranks


@given(case=cases())
def test_balancing_moves_load_and_makes_none(case: tuple[Array, int, int]) -> None:
    weight, ranks, redundant = case
    found = balanced(weight, ranks, redundant, 1, 1)
    assert found.shape == (ranks, (len(weight) + redundant) // ranks)
    assert found.sum() == pytest.approx(weight.sum(), abs=1e-9)


@given(case=cases(), more=st.integers(1, 10))
def test_more_replicas_never_make_the_fullest_one_fuller(case: tuple[Array, int, int], more: int) -> None:
    weight, _, redundant = case
    few, many = len(weight) + redundant, len(weight) + redundant + more
    assert replicate(weight, many).max() <= replicate(weight, few).max() + 1e-12


@given(case=cases())
def test_the_fullest_rank_is_at_most_one_item_above_the_mean(case: tuple[Array, int, int]) -> None:
    """What a greedy packing guarantees; it can be worse than the order that the experts came in."""
    weight, ranks, redundant = case
    found = balanced(weight, ranks, redundant, 1, 1)
    assert most(found) <= found.sum() / ranks + found.max() + 1e-9


def test_greedy_packing_can_be_worse_than_a_lucky_order() -> None:
    weight = loads(3, 3, 0, 2, 2, 2)
    assert most(sequential(weight, 2)) == 6
    assert most(balanced(weight, 2, 0, 1, 1)) == 7


@pytest.mark.parametrize("exponent", [0.3, 0.6, 1.0, 1.5])
@pytest.mark.parametrize(("experts", "ranks"), [(8, 4), (64, 8), (256, 32), (256, 64), (160, 40)])
def test_popular_experts_are_balanced_better_than_in_order(experts: int, ranks: int, exponent: float) -> None:
    weight = np.arange(1.0, experts + 1) ** -exponent
    shuffled = np.random.default_rng(3).permutation(weight)
    before, packed = most(sequential(shuffled, ranks)), most(balanced(shuffled, ranks, 0, 1, 1))
    replicated = [most(balanced(shuffled, ranks, count * ranks, 1, 1)) for count in (1, 2, 4)]
    assert packed <= before + 1e-12
    assert all(each <= packed + 1e-12 for each in replicated)
