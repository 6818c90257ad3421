"""The fewest replicas that hold."""

from __future__ import annotations

import pytest

from costmodel.planning.playing import fewest


@pytest.mark.parametrize("first", [1, 3, 20, 200])
@pytest.mark.parametrize(("least", "most"), [(1, 1), (1, 50), (7, 50), (22, 88), (50, 50), (88, 4096)])
def test_it_is_the_first_that_holds_wherever_the_search_begins(first: int, least: int, most: int) -> None:
    asked: list[int] = []

    def holds(count: int) -> bool:
        asked.append(count)
        return count >= least

    assert fewest(holds, first, most) == least
    assert max(asked) <= most
    assert len(asked) == len(set(asked)) or len(asked) < 30


def test_where_the_most_that_there_may_be_fail_there_is_none() -> None:
    assert fewest(lambda count: count > 10, 4, 10) is None


def test_a_number_is_not_looked_for_once_more_cannot_help() -> None:
    asked: list[int] = []
    assert fewest(lambda count: bool(asked.append(count)), 4, 4096, lambda _, more: more < 11) is None
    assert asked == [4, 5, 7, 11, 55]  # far more, before none is said to hold
