"""The queue for a seat: the limits in which it is known exactly, and runs that were drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from costmodel.analytic.seats import SeatQueue, run_average, waiting_share
from costmodel.quantities import Array


def queue(load: float, seats: float, variability: float, requests: float | None = None) -> SeatQueue:
    return SeatQueue(load=load, seats=seats, service=2.0, variability=variability, requests=requests)


def test_one_seat_waits_as_pollaczek_and_khinchine_say() -> None:
    for load in (0.01, 0.3, 0.9):
        assert queue(load, 1.0, 1.0).wait == pytest.approx(load / (2 * (1 - load)) * 2.0)  # M/D/1
        assert queue(load, 1.0, 2.0).wait == pytest.approx(load / (1 - load) * 2.0)  # M/M/1


def test_even_arrivals_of_alike_requests_never_wait() -> None:
    assert queue(0.9, 8.0, 0.0).wait == 0


def test_more_seats_share_the_queue() -> None:
    waits = [float(queue(0.8, seats, 1.0).wait) for seats in (1.0, 4.0, 64.0)]
    assert waits == sorted(waits, reverse=True)
    assert float(queue(0.999, 64.0, 1.0).wait) == pytest.approx(2 / (2 * 64 * 0.001), rel=0.02)  # heavy traffic
    assert waiting_share(1.0, 64.0) == 1


def test_a_full_engine_has_no_steady_state() -> None:
    assert math.isinf(queue(1.0, 4.0, 1.0).wait)
    found = SeatQueue(load=np.array([0.5, 1.0, 2.0]), seats=4.0, service=1.0, variability=1.0).wait
    assert np.isinf(found).tolist() == [False, True, True]


def test_seats_that_slow_down_are_seldom_all_taken() -> None:
    """At the same load fewer are taken on average, so that fewer requests wait; of one speed, load of them are."""
    plain = SeatQueue(load=0.9, seats=64.0, service=1.0, variability=1.0)
    same = SeatQueue(load=0.9, seats=64.0, service=1.0, variability=1.0, taken=0.9)
    slowing = SeatQueue(load=0.9, seats=64.0, service=1.0, variability=1.0, taken=0.7)
    assert same.waiting == pytest.approx(plain.waiting)
    assert slowing.waiting < 0.6 * plain.waiting
    assert SeatQueue(load=1.0, seats=64.0, service=1.0, variability=1.0, taken=0.7).waiting == 1


@pytest.mark.parametrize("drift", [-30.0, -1.0, -0.04, 0.0, 0.04, 2.0, 30.0])
def test_a_run_averages_the_reflected_motion(drift: float) -> None:
    """F(z) = 2 * integral of (1 - u^2)*(z*u*Phi(z*u) + phi(z*u)) over u from 0 to 1, its limits and its growth."""
    u = (np.arange(200_000) + 0.5) / 200_000
    below = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in (drift * u[::100]).tolist()])
    below = np.interp(u, u[::100], below)
    density = np.exp(-((drift * u) ** 2) / 2) / math.sqrt(2 * math.pi)
    expected = 2 * np.mean((1 - u * u) * (drift * u * below + density))
    assert run_average(drift) == pytest.approx(float(expected), rel=2e-3)
    assert run_average(-1e6) == pytest.approx(0.5e-6, rel=1e-6)
    assert run_average(1e6) == pytest.approx(0.5e6, rel=1e-6)
    assert run_average(0.0499999) == pytest.approx(float(run_average(0.0500001)), rel=1e-6)
    grown = run_average(np.array([-1.0, 0.0, 1.0]))
    assert isinstance(grown, np.ndarray)
    assert (np.diff(grown) > 0).all()


def waits_of_runs(load: float, requests: int, runs: int) -> Array:
    """Return the waits of drawn runs of one seat: Lindley's recursion, exponential gaps, services of one length."""
    gaps = np.random.default_rng(0).exponential(1 / load, (runs, requests))
    growth = 1.0 - gaps[:, 1:]
    path = np.concatenate([np.zeros((runs, 1)), np.cumsum(growth, axis=1)], axis=1)
    return np.asarray(path - np.minimum.accumulate(path, axis=1))


@pytest.mark.parametrize("load", [0.5, 0.95, 1.0, 1.05, 1.5])
def test_a_run_waits_as_drawn_ones_do(load: float) -> None:
    drawn = waits_of_runs(load, 1000, 400)
    run = SeatQueue(load=load, seats=1.0, service=1.0, variability=1.0, requests=1000.0)
    assert run.wait == pytest.approx(float(drawn.mean()), rel=0.06)
    tail = float(run.quantiles(np.array([0.99]))[0])
    heavy = load > 0.9  # where waits are exponential; below, of services of one length, they are a little shorter
    assert tail == pytest.approx(float(np.quantile(drawn, 0.99)), rel=0.1 if heavy else 0.2)


def test_a_long_run_is_the_steady_state_and_a_short_one_has_a_seat_for_everybody() -> None:
    steady = SeatQueue(load=0.9, seats=8.0, service=1.0, variability=1.0)
    run = SeatQueue(load=0.9, seats=8.0, service=1.0, variability=1.0, requests=1e7)
    assert run.wait == pytest.approx(float(steady.wait), rel=1e-4)
    assert run.quantiles(np.array([0.5, 0.99])) == pytest.approx(steady.quantiles(np.array([0.5, 0.99])), rel=0.01)
    few = SeatQueue(load=3.0, seats=8.0, service=1.0, variability=1.0, requests=8.0)
    assert few.wait == 0
    assert few.quantiles(np.array([0.99]))[0] == 0
    waits = [float(queue(1.3, 8.0, 1.0, count).wait) for count in (10.0, 100.0, 1000.0)]
    assert waits == sorted(waits)
