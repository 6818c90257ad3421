"""Waiting: the limits in which it is known exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from costmodel.analytic.gathering import Gathering
from costmodel.analytic.queueing import (
    Life,
    Spread,
    aligned_wait,
    busy_share,
    others_share,
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


NOBODY = SeatQueue(load=0.1, seats=64.0, service=1.0, variability=1.0)
ALONE = Gathering(
    rate=1e-9, chunks=1.0, most=4.0, with_prompts=0.2, decode_only=0.2, base=0.2, mean=0.2, prompts=1.0,
    arrival_scv=1.0,
)  # fmt: skip
SHORT = Life(mean=1.0, in_system=100.0, arrival_scv=1.0, slowing=0.0, prompts=0.0)


def spread(**changes: Any) -> Spread:
    known = {"fixed": 1.0, "own": 0.2, "busy": 0.0, "gathering": ALONE, "ahead": False, "seats": NOBODY, "life": SHORT}
    return Spread(**{**known, **changes})


def test_quantiles_of_the_first_token_grow_with_what_differs() -> None:
    first, whole = spread().quantiles(np.array([0.01, 0.99]))
    assert first == pytest.approx(1.2)  # an idle engine: the prompt's own step
    assert whole == pytest.approx(2.2)
    found, _ = spread(busy=1.0).quantiles(np.array([0.1, 0.5, 0.9]))
    assert found == pytest.approx([1.22, 1.3, 1.38], abs=0.01)  # and what is left of a step, any part of it
    found, _ = spread(busy=1.0, ahead=True).quantiles(np.array([0.5]))
    assert found == pytest.approx([1.5], abs=0.01)
    tenth = SeatQueue(load=0.1, seats=1.0, service=1.8, variability=1.0)  # waits, one second on average
    found, _ = spread(seats=tenth).quantiles(np.array([0.85, 0.99]))
    assert found == pytest.approx([1.2, 1.2 + math.log(10)], rel=0.02)
    varied = Life(mean=1.0, in_system=100.0, arrival_scv=1.0, slowing=0.5, prompts=0.5)
    _, whole = spread(life=varied).quantiles(np.array([0.5, 0.9]))
    assert whole[1] - whole[0] == pytest.approx(1.2816 * varied.deviation(), rel=0.01)


def test_the_mean_batch_of_a_life_differs_less_than_the_batch() -> None:
    """Number in an infinite server with lives of one length: its mean over a life, by simulation."""
    random, rate = np.random.default_rng(1), 30.0
    arrivals = np.cumsum(random.exponential(1 / rate, 60_000))
    window = np.arange(5.0, arrivals[-1] - 5.0, 0.05)
    number = np.searchsorted(arrivals, window) - np.searchsorted(arrivals, window - 1.0)
    means = np.convolve(number, np.full(20, 1 / 20), mode="valid")
    small = 1e-3  # a request more makes a life longer by small/30 of it
    life = Life(mean=1.0, in_system=rate, arrival_scv=1.0, slowing=small, prompts=0.0)
    assert np.std(means) * small / rate == pytest.approx(life.deviation(), rel=0.05)
    assert Life(mean=1.0, in_system=30.0, arrival_scv=0.0, slowing=0.5, prompts=0.1).deviation() == 0


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_prompts_of_others_delay_a_life_as_a_busy_period_does(share: float) -> None:
    """Work of one, interrupted for `share`/rate by each arrival: by simulation."""
    random, rate, samples = np.random.default_rng(1), 50.0, 4000
    number = random.poisson(rate, samples)
    waves, delayed = number, number.copy()
    while waves.any():
        waves = random.poisson(waves * share)
        delayed = delayed + waves
    lives = 1.0 + delayed * share / rate
    mean = 1.0 / (1.0 - share)
    found = Life(mean=mean, in_system=rate * mean, arrival_scv=1.0, slowing=share, prompts=share)
    assert lives.mean() == pytest.approx(mean, rel=0.01)
    assert found.deviation() == pytest.approx(lives.std(), rel=0.05)


def test_lives_follow_the_number_in_flight_and_the_prompts_together() -> None:
    """Requests as a fluid: each arrival stops all for tau, and those in flight slow each other down."""
    random, rate, tau, slope, step = np.random.default_rng(2), 40.0, 0.01, 0.01, 0.01
    arrived = random.poisson(rate * step, 200_000)
    progress, owed = 0.0, 0.0
    starts: list[tuple[float, float]] = []
    lives: list[float] = []
    for place, number in enumerate(arrived.tolist()):
        now, owed = place * step, owed + tau * number
        progress += max(step - owed, 0.0) / (1.0 + slope * len(starts))
        owed = max(owed - step, 0.0)
        while starts and progress - starts[0][1] >= 1.0:
            lives.append(now - starts.pop(0)[0])
        starts += [(now, progress)] * number
    mean = float(np.mean(lives[2000:]))
    prompts, running = rate * tau, rate * mean
    slowing = prompts + slope * running * (1.0 - prompts) / (1.0 + slope * running)
    life = Life(mean=mean, in_system=running, arrival_scv=1.0, slowing=slowing, prompts=prompts)
    assert life.deviation() == pytest.approx(float(np.std(lives[2000:])), rel=0.08)
