"""Waiting: the limits in which it is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from costmodel.analytic.queueing import (
    Spread,
    aligned_wait,
    batch_deviation,
    busy_share,
    others_share,
    prompt_wait,
    residual_step,
)
from costmodel.analytic.seats import SeatQueue


def test_half_a_step_is_left_where_all_are_alike_and_more_of_longer_ones() -> None:
    assert residual_step(2.0, 2.0, 0.3) == pytest.approx(1.0)
    assert residual_step(4.0, 1.0, 0.5) == pytest.approx((16 + 1) / 2 / (2 * 2.5))


def test_an_idle_engine_is_found_as_often_as_a_poisson_number_is_zero() -> None:
    assert busy_share(0.5, 1.0) == pytest.approx(1 - math.exp(-0.5))
    assert busy_share(0.5, 0.0) == 0.5
    assert busy_share(3.0, 0.0) == 1


def test_a_long_step_gathers_the_prompts_of_all_ranks() -> None:
    assert others_share(1.0, (0.5, 0.03), 1.0, 1.0, 1.0) == pytest.approx(0, abs=1e-12)  # there is no other
    assert others_share(1e-6, (0.5, 0.03), 1.0, 8.0, 1.0) == pytest.approx(7 * 1e-6 * 0.03, rel=1e-4)
    assert others_share(0.0, (0.5, 0.03), 1.0, 8.0, 1.0) == 0
    alike = others_share(0.5, (0.2, 0.2), 1.0, 8.0, 1.0)
    assert alike == pytest.approx(1 - math.exp(-7 * 0.5 * 0.2))  # independent where all steps are as long

    draw, step, any_steps, none_own, steps = np.random.default_rng(0), 0.03, 0, 0, 100_000
    for _ in range(steps):
        own, others = draw.poisson(0.25 * step), draw.poisson(7 * 0.25 * step)
        none_own += own == 0
        any_steps += own == 0 and others > 0
        step = 0.5 if own + others else 0.03
    assert others_share(0.25, (0.5, 0.03), 1.0, 8.0, 1.0) == pytest.approx(any_steps / none_own, rel=0.03)


def test_prompts_of_all_ranks_wait_for_the_last_of_them() -> None:
    assert aligned_wait(1e-9, 8.0, 60.0) == pytest.approx((30.0, 60.0))  # nobody else comes in time
    assert aligned_wait(0.1, 1.0, 60.0)[0] == pytest.approx(0.0)  # there is no other
    harmonic = sum(1 / each for each in range(1, 5))
    assert aligned_wait(2.0, 4.0, 1e6)[1] == pytest.approx(harmonic / 2.0, rel=1e-6)  # the longest of four gaps

    draw, waited, prompts, steps, rounds = np.random.default_rng(0), 0.0, 0, 0.0, 20_000
    for first in draw.exponential(1 / 0.05, (rounds, 3)):
        start = min(first.max(), 40.0)
        early = first[first < start]
        more = draw.poisson(0.05 * (start - early))  # come later, and wait half as long as the first one
        waited, prompts, steps = waited + np.sum((start - early) * (1 + more / 2)), prompts + more.sum(), steps + start
        prompts += len(early) + (start < 40.0)
    assert aligned_wait(0.05, 3.0, 40.0) == pytest.approx((waited / prompts, steps / rounds), rel=0.02)


def test_prompts_wait_for_one_another_as_in_one_queue() -> None:
    assert prompt_wait(0.5, 0.1, 1.0) == pytest.approx(0.5 / (2 * 0.5) * 0.1)
    assert prompt_wait(0.5, 0.1, 0.0) == 0


def test_quantiles_of_the_first_token_grow_with_what_differs() -> None:
    nobody = SeatQueue(load=0.1, seats=64.0, service=1.0, variability=1.0)
    alike = Spread(1.0, 0.0, nobody, 0.0)
    assert alike.first_token(0.99) == 1
    steps = Spread(1.0, 0.2, nobody, 0.0)
    assert steps.first_token(0.5) == pytest.approx(1.1)
    tenth = SeatQueue(load=0.1, seats=1.0, service=1.8, variability=1.0)  # waits, one second on average
    queue = Spread(1.0, 0.0, tenth, 0.5)
    assert queue.first_token(0.9) == pytest.approx(1.0)
    assert queue.first_token(0.99) == pytest.approx(1.0 + math.log(10))
    assert Spread(1.0, 0.0, nobody, 0.5).whole(0.9) == pytest.approx(0.5 * 1.2816, rel=0.01)
    assert queue.whole(0.99) > queue.first_token(0.99) - 1.0


def test_the_mean_batch_of_a_life_differs_less_than_the_batch() -> None:
    """Number in an infinite server with lives of one length: its mean over a life, by simulation."""
    random, rate = np.random.default_rng(1), 30.0
    arrivals = np.cumsum(random.exponential(1 / rate, 60_000))
    window = np.arange(5.0, arrivals[-1] - 5.0, 0.05)
    number = np.searchsorted(arrivals, window) - np.searchsorted(arrivals, window - 1.0)
    means = np.convolve(number, np.full(20, 1 / 20), mode="valid")
    assert np.std(means) == pytest.approx(float(batch_deviation(rate, 1.0)), rel=0.05)
    assert batch_deviation(30.0, 0.0) == 0


@pytest.mark.parametrize("slowing", [0.2, 0.5, 0.8])
def test_lives_that_are_longer_among_more_spread_more(slowing: float) -> None:
    """The integral of |H|^4/|1 - k*H|^2 over frequencies, H the window of a life: the closed form within 2 %."""
    frequency = np.linspace(1e-5, 200.0, 400_001)
    window = (1 - np.exp(-1j * frequency)) / (1j * frequency)
    density = np.abs(window) ** 4 / np.abs(1 - slowing * window) ** 2
    variance = float(np.trapezoid(density, frequency)) / math.pi
    assert batch_deviation(1.0, 1.0, slowing) == pytest.approx(math.sqrt(variance), rel=0.02)
