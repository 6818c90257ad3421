"""The clock at which what a board does meets its power limit: by hand, at its ends, and as limits and work grow."""

from __future__ import annotations

import numpy as np
import pytest
from builders import CLUSTER, DEVICE, with_level
from hypothesis import given
from hypothesis import strategies as st

from costmodel.cost.power import LOWEST, Work, at_clock, clock_of, fastest, mean_power
from costmodel.hardware import Device, Power
from costmodel.records import replace

BOARD = Power(700.0, 100.0, busy=120.0, tensor=1e-12, memory=50e-12, link=10e-12, timed=700.0)
SECONDS = 2.0
SHARES = st.floats(0.0, 1.0)


def board(limit: float, timed: float = 700.0) -> Device:
    return replace(DEVICE, power=replace(BOARD, tdp=limit, timed=timed))


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Draw work that takes `SECONDS`: kernels in some of them, which go with the clock in some."""
    kernels = SECONDS * draw(SHARES)
    return Work(kernels, kernels * draw(SHARES), SECONDS * 1000.0 * draw(SHARES), SECONDS * 300.0 * draw(SHARES))


def test_switching_alone_runs_at_the_cube_root_of_its_power() -> None:
    """Kernels all the time that go with the clock, and no bytes: busy and multiply-adds a second both go with x^3."""
    work = Work(SECONDS, SECONDS, SECONDS * 480.0)
    assert clock_of(board(700.0), work, SECONDS).share == 1.0
    found = clock_of(board(400.0), work, SECONDS)
    assert found.share == pytest.approx((300.0 / 600.0) ** (1 / 3))
    assert found.ratio == found.share


def test_bytes_and_idle_power_leave_less_for_switching() -> None:
    """400 W of 500 are left by idle power; bytes take 100 W at any clock, and no kernel takes longer."""
    work = Work(0.0, 0.0, SECONDS * 480.0, SECONDS * 100.0)
    found = clock_of(board(500.0), work, SECONDS)
    assert found.share == pytest.approx((300.0 / 480.0) ** 0.5)


def test_kernels_timed_at_the_limit_have_the_clock_of_that_limit() -> None:
    """The board's own limit holds the work at a lower clock, which is in the times; another one counts from there."""
    work = Work(SECONDS, SECONDS, SECONDS * 1000.0)
    own, less, more = (clock_of(board(limit), work, SECONDS) for limit in (700.0, 500.0, 1e6))
    assert own.share < 1.0
    assert own.ratio == 1.0
    assert less.ratio == pytest.approx(less.share / own.share)
    assert (more.share, more.ratio) == (1.0, pytest.approx(1.0 / own.share))


@given(works(), st.floats(150.0, 2000.0))
def test_mean_power_meets_the_limit_or_the_clock_is_the_highest(work: Work, limit: float) -> None:
    device = board(limit)
    found = clock_of(device, work, SECONDS)
    timed = found.share / found.ratio
    watts = mean_power(device.power, work, SECONDS, timed, found.share)
    assert LOWEST <= found.share <= 1.0
    if found.share == 1.0:
        assert watts <= limit * (1 + 1e-9)
    elif found.share > LOWEST:
        assert watts == pytest.approx(limit, rel=1e-6)
    else:
        assert watts >= limit * (1 - 1e-9)


@given(works(), st.floats(150.0, 2000.0), st.floats(1.0, 3.0))
def test_more_watts_never_make_it_slower(work: Work, limit: float, factor: float) -> None:
    low, high = (clock_of(board(each), work, SECONDS).share for each in (limit, limit * factor))
    assert high >= low * (1 - 1e-9)


@given(works())
def test_limits_in_an_array_give_what_each_gives(work: Work) -> None:
    limits = np.array([200.0, 700.0, 900.0])
    device = replace(DEVICE, power=replace(BOARD, tdp=limits))
    together = clock_of(device, work, SECONDS)
    each = [clock_of(board(float(limit)), work, SECONDS) for limit in limits]
    np.testing.assert_allclose(together.share, [one.share for one in each], rtol=1e-9)
    np.testing.assert_allclose(together.ratio, [one.ratio for one in each], rtol=1e-9)


def test_a_clock_slows_processors_and_caches_only() -> None:
    cluster = replace(CLUSTER, node=replace(CLUSTER.node, device=with_level(board(500.0), "l2", 8e12)))
    clock = clock_of(board(500.0), Work(SECONDS, SECONDS, SECONDS * 480.0), SECONDS)
    slow, ratio = at_clock(cluster, clock).device, clock.ratio
    assert slow.peak("bf16") == pytest.approx(ratio * DEVICE.peak("bf16"))
    assert slow.clock_max == pytest.approx(ratio * DEVICE.clock_max)
    assert slow.device_memory == DEVICE.device_memory
    assert slow.links == DEVICE.links
    assert slow.power.tensor == pytest.approx(1e-12 * clock.share**2)
    assert slow.power.busy == pytest.approx(120.0 * clock.share**3)
    cache = slow.level("l2")
    assert cache is not None
    assert cache.bandwidth == pytest.approx(ratio * 8e12)
    assert ratio < 0.95


def test_a_board_whose_work_is_unknown_has_its_highest_clock() -> None:
    device = replace(DEVICE, power=Power(300.0, 100.0, timed=700.0))
    assert clock_of(device, Work(SECONDS, SECONDS, 1e9), SECONDS).share == 1.0


def test_no_limit_leaves_kernels_more_than_the_fastest_cluster_has() -> None:
    work = Work(SECONDS, SECONDS, SECONDS * 5000.0)
    for limit, factor in ((500.0, 1.0), (700.0, 1.0), (1e6, 1.0 / LOWEST)):
        cluster = replace(CLUSTER, node=replace(CLUSTER.node, device=board(limit)))
        assert fastest(cluster).device.peak("bf16") == pytest.approx(factor * DEVICE.peak("bf16"))
        assert clock_of(board(limit), work, SECONDS).ratio <= factor
