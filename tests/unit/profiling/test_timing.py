"""How often a kernel is run, and which time counts, with a clock that the test turns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from costmodel.profiling.timing import Call, Rule, Series, fixed_series, measure


class Clock:
    """A stopwatch whose times are given; it runs every call."""

    def __init__(self, *series: Sequence[float], waited: Sequence[int] = ()) -> None:
        self.waited = waited
        self.given = itertools.chain(series, itertools.repeat(series[-1]))
        self.asked: list[int] = []

    def series(self, calls: Sequence[Call]) -> Series:
        for call in calls:
            call()
        self.asked.append(len(calls))
        given = next(self.given)
        queued = len(self.asked) not in self.waited
        return Series([given[place % len(given)] for place in range(len(calls))], 1e-6, queued=queued)


def measured(clock: Clock, rule: Rule):
    made: list[int] = []

    def make():
        made.append(len(made))
        return lambda: None

    return measure(make, clock, rule), made


def test_the_warm_up_does_not_count():
    timing, _ = measured(Clock([9.0e-3], [5e-3], [1e-3]), Rule(seconds=0.02))
    assert timing.seconds == pytest.approx(1e-3)


def test_repeats_fill_the_series_within_their_bounds():
    rule = Rule(seconds=0.01, fewest=4, most=30)
    for each, repeats in ((1e-3, 10), (1e-6, 30), (5e-3, 4)):
        clock = Clock([each])
        timing, _ = measured(clock, rule)
        assert clock.asked == [1, rule.warm, repeats]
        assert timing.repeats == repeats


def test_a_kernel_longer_than_a_series_is_run_as_rarely_as_allowed():
    clock = Clock([0.5])
    timing, _ = measured(clock, Rule(seconds=0.01, fewest=4))
    assert clock.asked == [1, 4]
    assert timing.seconds == pytest.approx(0.5)


def test_a_noisy_series_is_taken_again_and_the_fastest_one_counts():
    noisy, quiet = [2e-3, 4e-3, 6e-3], [1e-3, 1.01e-3, 1.0e-3]
    clock = Clock([1e-3], [1e-3], noisy, quiet)
    timing, _ = measured(clock, Rule(seconds=0.009))
    assert timing.seconds == pytest.approx(1e-3)
    assert len(clock.asked) == 4  # the quiet one ends it
    assert timing.spread < 0.01


def test_a_series_in_which_the_device_waited_for_the_host_is_taken_again():
    clock = Clock([1e-3], [1e-3], [0.5e-3], [1e-3], waited=(3,))
    timing, _ = measured(clock, Rule(seconds=0.02))
    assert (timing.seconds, timing.queued) == (pytest.approx(1e-3), True)
    timing, _ = measured(Clock([1e-3], waited=range(9)), Rule(seconds=0.02))
    assert not timing.queued


def test_never_more_series_than_the_rule_has():
    clock = Clock([1e-3, 5e-3])
    timing, _ = measured(clock, Rule(seconds=0.02, series=3))
    assert len(clock.asked) == 2 + 3
    assert timing.spread > 0.05


def test_every_call_has_operands_of_its_own():
    clock = Clock([1e-3])
    _, made = measured(clock, Rule(seconds=0.01))
    assert len(made) == 1 + sum(clock.asked)  # and one that nobody times: it may compile


def test_a_group_runs_a_fixed_number_of_calls_whatever_they_take():
    for each in (1e-6, 1.0):
        clock = Clock([each])
        fixed_series(lambda: lambda: None, clock, 3, 20)
        assert clock.asked == [3, 20]
