"""Waiting: the limits in which it is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from costmodel.analytic.queueing import (
    Spread,
    batch_deviation,
    busy_share,
    prompt_wait,
    residual_step,
    seat_wait,
    waiting_share,
)


def test_one_seat_waits_as_pollaczek_and_khinchine_say() -> None:
    for load in (0.01, 0.3, 0.9):
        assert seat_wait(load, 1.0, 2.0, 1.0, 0.0) == pytest.approx(load / (2 * (1 - load)) * 2.0)  # M/D/1
        assert seat_wait(load, 1.0, 2.0, 1.0, 1.0) == pytest.approx(load / (1 - load) * 2.0)  # M/M/1


def test_even_arrivals_of_alike_requests_never_wait() -> None:
    assert seat_wait(0.9, 8.0, 1.0, 0.0, 0.0) == 0


def test_more_seats_share_the_queue() -> None:
    waits = [float(seat_wait(0.8, seats, 1.0, 1.0, 0.0)) for seats in (1.0, 4.0, 64.0)]
    assert waits == sorted(waits, reverse=True)
    assert float(seat_wait(0.999, 64.0, 1.0, 1.0, 0.0)) == pytest.approx(
        1 / (2 * 64 * 0.001), rel=0.02
    )  # heavy traffic
    assert waiting_share(1.0, 64.0) == 1


def test_a_full_engine_has_no_steady_state() -> None:
    assert math.isinf(seat_wait(1.0, 4.0, 1.0, 1.0, 0.0))
    found = seat_wait(np.array([0.5, 1.0, 2.0]), 4.0, 1.0, 1.0, 0.0)
    assert np.isinf(found).tolist() == [False, True, True]


def test_half_a_step_is_left_where_all_are_alike_and_more_of_longer_ones() -> None:
    assert residual_step(2.0, 2.0, 0.3) == pytest.approx(1.0)
    assert residual_step(4.0, 1.0, 0.5) == pytest.approx((16 + 1) / 2 / (2 * 2.5))


def test_an_idle_engine_is_found_as_often_as_a_poisson_number_is_zero() -> None:
    assert busy_share(0.5, 1.0) == pytest.approx(1 - math.exp(-0.5))
    assert busy_share(0.5, 0.0) == 0.5
    assert busy_share(3.0, 0.0) == 1


def test_prompts_wait_for_one_another_as_in_one_queue() -> None:
    assert prompt_wait(0.5, 0.1, 1.0) == pytest.approx(0.5 / (2 * 0.5) * 0.1)
    assert prompt_wait(0.5, 0.1, 0.0) == 0


def test_quantiles_of_the_first_token_grow_with_what_differs() -> None:
    alike = Spread(1.0, 0.0, 0.0, 0.0, 0.0)
    assert alike.first_token(0.99) == 1
    steps = Spread(1.0, 0.2, 0.0, 0.0, 0.0)
    assert steps.first_token(0.5) == pytest.approx(1.1)
    queue = Spread(1.0, 0.0, 0.1, 0.1, 0.0)  # a tenth waits, one second on average
    assert queue.first_token(0.9) == pytest.approx(1.0)
    assert queue.first_token(0.99) == pytest.approx(1.0 + math.log(10))


def test_the_mean_batch_of_a_life_differs_less_than_the_batch() -> None:
    """Number in an infinite server with lives of one length: its mean over a life, by simulation."""
    random, rate = np.random.default_rng(1), 30.0
    arrivals = np.cumsum(random.exponential(1 / rate, 60_000))
    window = np.arange(5.0, arrivals[-1] - 5.0, 0.05)
    number = np.searchsorted(arrivals, window) - np.searchsorted(arrivals, window - 1.0)
    means = np.convolve(number, np.full(20, 1 / 20), mode="valid")
    assert np.std(means) == pytest.approx(float(batch_deviation(rate, 1.0)), rel=0.05)
    assert batch_deviation(30.0, 0.0) == 0
