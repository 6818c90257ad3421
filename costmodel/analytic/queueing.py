"""Waiting in front of an engine: for the running step, for a seat, behind other prompts; and how far times spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from costmodel.quantities import Count, Quantity, Seconds, maximum, minimum, where


def exp(value: Quantity) -> Quantity:
    """Return e to the power of a number or an array."""
    return np.exp(value) if isinstance(value, np.ndarray) else math.exp(value)


def residual_step(with_prompts: Seconds, decode_only: Seconds, share: Quantity) -> Seconds:
    """Return what is left on average of the step that runs when a request arrives.

    E[T^2] / (2*E[T]), as of any renewal process that a random arrival looks into [Cox, Renewal Theory, 1962].
    share: of steps that carry prompts.
    """
    mean = share * with_prompts + (1.0 - share) * decode_only
    square = share * with_prompts * with_prompts + (1.0 - share) * decode_only * decode_only
    return square / (2.0 * mean)


def busy_share(in_system: Count, arrival_scv: Quantity) -> Quantity:
    """Return the share of arrivals that find the engine at work.

    1 - exp(-L) of L requests whose number is Poisson [M/G/infinity], min(L, 1) of evenly spaced ones, between these in
    proportion to the squared coefficient of variation.
    """
    poisson = minimum(arrival_scv, 1.0)
    return poisson * (1.0 - exp(-in_system)) + (1.0 - poisson) * minimum(in_system, 1.0)


def waiting_share(load: Quantity, seats: Count) -> Quantity:
    """Return the share of requests that wait for one of `seats` at a load below one [Sakasegawa, 1977]."""
    return load ** ((2.0 * (seats + 1.0)) ** 0.5 - 1.0)


def seat_wait(load: Quantity, seats: Count, service: Seconds, arrival_scv: Quantity, service_scv: Quantity) -> Seconds:
    """Return the mean wait for one of m seats, infinite from a load of one on.

        W = (c_a^2 + c_s^2)/2 * load^(sqrt(2*(m + 1)) - 1) / (m*(1 - load)) * S

    Exact for one seat and Poisson arrivals [Pollaczek and Khinchine]; for more seats Sakasegawa, Annals of the
    Institute of Statistical Mathematics 29 (1977), with Allen and Cunneen's variability. service: S, all seats taken.
    """
    free = maximum(1.0 - load, 0.0)
    finite = where(free > 0, free, 1.0)
    variability = (arrival_scv + service_scv) / 2.0
    wait = variability * waiting_share(minimum(load, 1.0), seats) / (seats * finite) * service
    return where(free > 0, wait, np.inf)


def prompt_wait(load: Quantity, service: Seconds, arrival_scv: Quantity) -> Seconds:
    """Return the mean wait behind other prompts in chunks: that of M/D/1, load/(2*(1 - load)) * service.

    load: share of all chunks' tokens that are filled; service: steps of a prompt's own chunks, in parts of a step [s].
    """
    filled = minimum(load, _FULL)
    return arrival_scv * filled / (2.0 * (1.0 - filled)) * service


_FULL = 1.0 - 1e-9  # full chunks mean full steps, where no seats are free either


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """What makes times of alike requests differ.

    fixed: part of the first token's time that all share [s]; step: of a step that arrivals find running, uniform [s];
    seat: mean wait for a seat [s], of the share `waiting` of requests; life: standard deviation of the time from the
    first token to the last [s].
    """

    fixed: Seconds
    step: Seconds
    seat: Seconds
    waiting: Quantity
    life: Seconds

    def first_token(self, quantile: float) -> Seconds:
        """Return a quantile of the time to first token: fixed + q*step, and an exponential wait of those who wait."""
        mean = self.seat / maximum(self.waiting, 1e-300)
        tail = maximum(self.waiting / (1.0 - quantile), 1.0)
        log = np.log(tail) if isinstance(tail, np.ndarray) else math.log(tail)
        return self.fixed + quantile * self.step + where(self.waiting > 0, mean * log, 0.0)


def batch_deviation(in_system: Count, arrival_scv: Quantity) -> Count:
    """Return the standard deviation of the mean batch that a request meets over its life: sqrt(2/3 * L * c_a^2).

    The number in an infinite server with lives of length R has covariance L*(1 - t/R) at lag t; its mean over R has the
    variance 2*L*integral of (1 - u)^2 = 2*L/3.
    """
    return (2.0 / 3.0 * in_system * minimum(arrival_scv, 1.0)) ** 0.5
