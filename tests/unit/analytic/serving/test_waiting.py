"""Waiting: the limits in which it is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from costmodel.analytic.serving.waiting import (
    busy_share,
    equivalent_load,
    queue_wait,
    residual_step,
    scheduled_step,
    steps_meanwhile,
    upper_tail,
    waiting_share,
)


def test_half_a_step_is_left_where_all_are_alike_and_more_of_longer_ones() -> None:
    assert residual_step(1.0, 4.0, 2.0, 0.0) == pytest.approx(1.0)
    assert residual_step(0.5, (16 + 1) / 2, 2.5, 0.1) == pytest.approx(0.5 * ((16 + 1) / 2 / (2 * 2.5) + 0.1))


@pytest.mark.parametrize(("work", "share"), [(0.5, 0.1), (3.0, 0.1), (8.0, 0.02), (15.0, 0.3), (60.0, 0.1)])
def test_steps_that_end_meanwhile_are_those_of_a_renewal_process(work: float, share: float) -> None:
    """Steps of 10 with prompts and of 2 without; the work of client and front end varies by one of these."""
    draw = np.random.default_rng(1)
    ends = np.cumsum(np.where(draw.random((20_000, 60)) < share, 10.0, 2.0), axis=1)
    met = (ends < work + 2.0 * (draw.random((20_000, 1)) - 0.5)).sum(axis=1).mean()
    assert steps_meanwhile(work, share, 10.0, 2.0) == pytest.approx(met, rel=0.1, abs=0.01)


def test_steps_of_one_length_end_meanwhile_as_often_as_they_fit_in_on_the_mean() -> None:
    assert steps_meanwhile(7.0, 0.0, 2.0, 2.0) == pytest.approx(3.0)
    assert steps_meanwhile(7.0, 1.0, 2.0, 5.0) == pytest.approx(3.0)


def test_an_idle_engine_is_found_as_often_as_a_poisson_number_is_zero() -> None:
    assert busy_share(0.5, 1.0) == pytest.approx(1 - math.exp(-0.5))
    assert busy_share(0.5, 0.0) == 0.5
    assert busy_share(3.0, 0.0) == 1


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("variability", "factor"), [(1.0, 0.5), (2.0, 1.0)])
def test_one_server_is_pollaczek_and_khinchine_s(load: float, variability: float, factor: float) -> None:
    """M/D/1: rho/(2*(1 - rho)) services; M/M/1: rho/(1 - rho)."""
    assert queue_wait(waiting_share(load, 1.0), variability, 3.0, 1.0, load) == pytest.approx(
        factor * load / (1 - load) * 3.0
    )


@pytest.mark.parametrize(("servers", "load"), [(2, 0.5), (2, 0.9), (8, 0.8), (8, 0.95), (64, 0.95)])
def test_several_servers_are_erlang_s_within_a_tenth(servers: int, load: float) -> None:
    """M/M/m: C(m, a)/(m*mu - lambda) with Erlang's C."""
    work = servers * load
    terms = [work**number / math.factorial(number) for number in range(servers)]
    last = work**servers / math.factorial(servers) / (1 - load)
    exact = last / (sum(terms) + last) / (servers * (1 - load))
    assert queue_wait(waiting_share(load, servers), 2.0, 1.0, servers, load) == pytest.approx(exact, rel=0.12)


def test_a_queue_of_more_than_can_be_served_has_no_end() -> None:
    loads = np.array([0.5, 1.0, 2.0])
    found = np.asarray(queue_wait(waiting_share(loads, 4.0), 1.0, 1.0, 4.0, loads))
    assert np.isfinite(found).tolist() == [True, False, False]
    assert waiting_share(2.0, 4.0) == 1.0


def test_seats_whose_speed_falls_wait_as_those_that_are_taken_as_often() -> None:
    assert equivalent_load(0.9, 0.9) == pytest.approx(0.9)  # one speed: taken as often as loaded
    assert equivalent_load(0.9, 0.7) < 0.9
    assert equivalent_load(1.0, 0.7) == 1.0


def test_scheduled_steps_add_their_time() -> None:
    assert scheduled_step(0.5, 0.1) == pytest.approx(0.05)


def test_a_tail_is_that_of_a_gamma_distribution() -> None:
    """Exponential: 99 of 100 are below ln(100) means; nothing varies: the mean."""
    assert upper_tail(2.0, 4.0, 2.3263478740408408) == pytest.approx(2.0 * math.log(100.0), rel=0.01)
    assert upper_tail(2.0, 0.0, 2.3263478740408408) == pytest.approx(2.0)
