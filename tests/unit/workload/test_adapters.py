"""Adapters that requests ask for: which are different, which are missed, how many requests have theirs."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.records import replace
from costmodel.workload.adapters import ServedAdapters

SERVED = st.builds(
    lambda count, exponent, share: ServedAdapters(count, 16.0, (), exponent, max(1, int(share * count))),
    st.integers(2, 300), st.floats(0.0, 10.0), st.floats(0.0, 0.99),
)  # fmt: skip


@given(SERVED, st.floats(1.0, 1e6), st.floats(1.0, 10.0))
@settings(max_examples=30, deadline=None)
def test_no_more_are_different_than_there_are_and_are_asked_for(
    served: ServedAdapters, few: float, more: float
) -> None:
    distinct = served.distinct(few)
    assert 1.0 <= distinct <= min(served.count, few) * (1 + 1e-12)
    assert distinct <= served.distinct(few * more) * (1 + 1e-12)
    assert distinct <= replace(served, exponent=0.0).distinct(few) * (1 + 1e-12), "most where all are as popular"


@given(SERVED)
@settings(max_examples=30, deadline=None)
def test_fewer_are_missed_and_more_requests_run_the_more_are_in_memory(served: ServedAdapters) -> None:
    held = [replace(served, resident=number) for number in (1, served.held, served.count - 1, served.count)]
    missed = [each.missed for each in held]
    assert missed == sorted(missed, reverse=True)
    assert 0.0 <= served.missed <= (1.0 - served.held / served.count) * (1 + 1e-9)
    seats = [each.seats for each in held]
    assert seats[-1] is None
    assert seats[:-1] == sorted(seats[:-1])  # type: ignore[type-var]
    if (own := served.seats) is not None and own < 1e6:
        assert served.distinct(own) <= served.held * (1 + 1e-9) < served.distinct(own + 1.0) * (1 + 2e-9)


def test_of_equally_popular_adapters_the_share_that_is_not_held_is_missed() -> None:
    served = ServedAdapters(4, 16.0)
    assert served.distinct(2.0) == pytest.approx(4 * (1 - 0.75**2))
    assert served.distinct(np.array([0.5, 1e9])).tolist() == [1.0, 4.0]
    assert (served.missed, served.seats) == (0.0, None)
    assert replace(served, resident=3).missed == pytest.approx(0.25)
    hardly = ServedAdapters(1000, 16.0, (), 10.0, 900)  # the rarest one: p = 1e-30
    assert hardly.seats == pytest.approx(2.4e29, rel=0.02)
    assert hardly.distinct(1e31) == pytest.approx(1000, abs=1e-3)


def test_a_cache_of_those_used_last_misses_as_many() -> None:
    served, used, missed = ServedAdapters(100, 16.0, (), 1.0, 8), OrderedDict[int, None](), 0
    chance = 1.0 / np.arange(1.0, 101.0)
    asked = np.random.default_rng(0).choice(100, 30_000, p=chance / chance.sum())
    for each in asked.tolist():
        missed += each not in used
        used[each] = None
        used.move_to_end(each)
        if len(used) > 8:
            used.popitem(last=False)
    assert served.missed == pytest.approx(missed / len(asked), rel=0.02)
