"""Waiting in front of an engine: for the running step, behind other prompts; and how far times spread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from costmodel.analytic.seats import SeatQueue
from costmodel.quantities import Count, Quantity, Seconds, maximum, minimum

SHARES = 200  # of the distributions of waits and of lives, each with each


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


def others_share(
    rate: Quantity, steps: tuple[Seconds, Seconds], runs: Count, ranks: Count, arrival_scv: Quantity
) -> Quantity:
    """Return the share of a rank's steps without prompts in which another of `ranks` that step together has some.

    Requests that arrive in a step start with the next one, so that a long step gathers the prompts of all ranks, and
    steps are a Markov chain of two states. a(T): chance that a time T brings any rank a request; F, f: shares of steps
    with prompts of any rank, and of one's own; r: steps that a prompt takes.

        F = a(t_decode) / (a(t_decode) + (1 - a(t_prompts))/r)
        f = (b_decode + F*(b_prompts - b_decode)) / (b_prompts + (1 - b_prompts)/r),    b: as a, of one rank
        (F - f) / (1 - f)

    rate: of requests at each rank [1/s]; steps: t_prompts, t_decode [s]; runs: r.
    """
    long, short = steps
    any_long, any_short = (busy_share(ranks * rate * step, arrival_scv) for step in (long, short))
    own_long, own_short = (busy_share(rate * step, arrival_scv) for step in (long, short))
    together = any_short / maximum(any_short + (1.0 - any_long) / runs, _TINY)
    own = (own_short + together * (own_long - own_short)) / maximum(own_long + (1.0 - own_long) / runs, _TINY)
    return maximum(together - own, 0.0) / maximum(1.0 - own, _TINY)


def prompt_wait(load: Quantity, service: Seconds, arrival_scv: Quantity) -> Seconds:
    """Return the mean wait behind other prompts in chunks: that of M/D/1, load/(2*(1 - load)) * service.

    load: share of all chunks' tokens that are filled; service: steps of a prompt's own chunks, in parts of a step [s].
    """
    filled = minimum(load, _FULL)
    return arrival_scv * filled / (2.0 * (1.0 - filled)) * service


def aligned_wait(starts: Quantity, ranks: Count, most: Count) -> tuple[Count, Count]:
    """Return the mean wait of prompts that start together on all ranks, and the mean time between two starts, in steps.

    Prompts come to each of D ranks at random, x a step. They start once every rank has one, or T steps after the last
    start [TensorRT-LLM, PyExecutor._balance_adp_requests]. The ranks' first prompts come within t steps with the chance
    (1 - exp(-x t))^D; those of one rank wait t more where another has none yet:

        cycle = integral from 0 to T of 1 - (1 - exp(-x t))^D dt
        wait  = integral from 0 to T of t * (1 - (1 - exp(-x t))^(D - 1)) dt / cycle

    starts: x; ranks: D; most: T. Limits: T/2 and T for few prompts; no wait for a single rank, or very many prompts.
    """
    within = minimum(most, _DECAYED / maximum(starts, _TINY))
    cycle: Quantity = 0.0 * within
    waited: Quantity = 0.0 * within
    for place, weight in zip(_PLACES, _WEIGHTS, strict=True):
        time = within * place
        come = 1.0 - exp(-starts * time)
        cycle = cycle + weight * within * (1.0 - come**ranks)
        waited = waited + weight * within * time * (1.0 - come ** (ranks - 1.0))
    return waited / maximum(cycle, _TINY), cycle


_DECAYED = 40.0  # of mean times between prompts, after which all ranks have one
_NODES, _LENGTHS = np.polynomial.legendre.leggauss(48)
_PLACES, _WEIGHTS = (0.5 + 0.5 * _NODES).tolist(), (0.5 * _LENGTHS).tolist()  # of Gauss and Legendre on [0, 1]
_TINY = 1e-12  # where no request ever comes
_FULL = 1.0 - 1e-9  # full chunks mean full steps, where no seats are free either


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """What makes times of alike requests differ.

    fixed: part of the first token's time that all share [s]; step: of a step that arrivals find running, uniform [s];
    seats: the queue for a seat; life: standard deviation of the time from the first token to the last [s].
    """

    fixed: Seconds
    step: Seconds
    seats: SeatQueue
    life: Seconds

    def first_token(self, quantile: float) -> float:
        """Return a quantile of the time to first token at a single point: fixed + q*step, and that of a seat."""
        wait = float(self.seats.quantiles(np.array([quantile]))[0])
        return float(self.fixed) + quantile * float(self.step) + wait

    def whole(self, quantile: float) -> float:
        """Return a quantile of what the wait for a seat and the normal spread of a life make of a latency [s].

        Both are taken as independent: the quantile of the sums of each with each, at equal shares.
        """
        shares = (np.arange(SHARES) + 0.5) / SHARES
        lives = float(self.life) * np.array([NormalDist().inv_cdf(share) for share in shares.tolist()])
        return float(np.quantile(np.add.outer(self.seats.quantiles(shares), lives), quantile))


def batch_deviation(in_system: Count, arrival_scv: Quantity, slowing: Quantity = 0.0) -> Count:
    """Return the standard deviation of the mean batch that a request meets over its life.

        sqrt((1/(1 - k) - 1/3) * L * c_a^2)

    k: `slowing`, d ln(life)/d ln(L): the share by which lives are longer among more requests. At k = 0 the number in
    an infinite server with lives of length R has covariance L*(1 - t/R) at lag t, and its mean over R the variance
    2*L*integral of (1 - u)^2 = 2*L/3. Else a request more makes lives longer, so that more are there: the number is
    L*H/(1 - k*H) of the noise of arrivals, H the window of a life, its variance L/(1 - k). Within 2 % of the integral
    of |H|^4/|1 - k*H|^2 for every k.
    """
    fed = 1.0 / maximum(1.0 - slowing, 1e-3) - 1.0 / 3.0
    return (fed * in_system * minimum(arrival_scv, 1.0)) ** 0.5
