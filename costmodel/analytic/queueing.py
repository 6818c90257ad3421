"""Waiting in front of an engine: for the running step, behind other prompts. And how far times spread."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from costmodel.analytic.gathering import Gathering, quantiles
from costmodel.analytic.seats import SeatQueue
from costmodel.quantities import Array, Count, Quantity, Seconds, maximum, minimum
from costmodel.records import Record

SHARES = 400  # of the distributions of first tokens and of lives, each with each


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

    rate: of requests at each rank [1/s].
    steps: t_prompts, t_decode [s].
    runs: r.
    """
    long, short = steps
    any_long, any_short = (busy_share(ranks * rate * step, arrival_scv) for step in (long, short))
    own_long, own_short = (busy_share(rate * step, arrival_scv) for step in (long, short))
    together = any_short / maximum(any_short + (1.0 - any_long) / runs, _TINY)
    own = (own_short + together * (own_long - own_short)) / maximum(own_long + (1.0 - own_long) / runs, _TINY)
    return maximum(together - own, 0.0) / maximum(1.0 - own, _TINY)


def aligned_wait(starts: Quantity, ranks: Count, most: Count) -> tuple[Count, Count]:
    """Return the mean wait of prompts that start together on all ranks, and the mean time between two starts, in steps.

    Prompts come to each of D ranks at random, x a step. They start once every rank has one, or T steps after the last
    start [TensorRT-LLM, PyExecutor._balance_adp_requests]. The ranks' first prompts come within t steps with the chance
    (1 - exp(-x t))^D. Those of one rank wait t more where another has none yet:

        cycle = integral from 0 to T of 1 - (1 - exp(-x t))^D dt
        wait  = integral from 0 to T of t * (1 - (1 - exp(-x t))^(D - 1)) dt / cycle

    starts: x.
    ranks: D.
    most: T. Limits: T/2 and T for few prompts. No wait for a single rank, or very many prompts.
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


class Life(Record, kw_only=True):
    """The time of a request from its first token to its last, as arrivals around it vary.

    mean: of that time [s].
    in_system: requests that steps work on, L.
    arrival_scv: c_a^2.
    slowing: k, d ln(life)/d ln(L).
    prompts: rho, the share of time in which prompts are computed.
    """

    mean: Seconds
    in_system: Count
    arrival_scv: Quantity
    slowing: Quantity
    prompts: Quantity

    def deviation(self) -> float:
        """Return the standard deviation at a single point [s].

            (s/R)^2 = c_a^2/L * integral over f of |H|^2 * |A + k_d*H*(1 + A*H)/(1 - k_d*H)|^2
            A = rho/(1 - rho),   k_d = (k - rho)/(1 - rho)

        H: the window of a life, f in 1/R. Arrivals are white noise. Prompts that come within a life delay it by rho/L
        of it each, and so do those that this delay lets in. What decoding takes longer follows from the number in
        flight, which is L*H of the noise and what longer lives add. Limits: for rho = 0 that number's mean over a life,
        whose variance is 2/3*L at k = 0. For k = rho the delay busy period of a life's prompts, of variance rho^2/(1 -
        rho)^2/L [Conway, Maxwell, Miller, Theory of Scheduling, 1967].
        """
        share = min(max(float(self.prompts), 0.0), _STEEP)
        decoding = min(max((float(self.slowing) - share) / (1.0 - share), 0.0), _STEEP)
        first, delay = _WINDOW, share / (1.0 - share)
        answer = delay + decoding * first * (1.0 + delay * first) / (1.0 - decoding * first)
        density = np.abs(first * answer) ** 2
        whole = float(np.trapezoid(density, _FREQUENCIES)) / math.pi
        scv = min(float(self.arrival_scv), 1.0)
        return float(self.mean) * math.sqrt(scv * whole / max(float(self.in_system), 1e-300))


_STEEP = 1.0 - 1e-3  # of a life's answer to the number in flight
_FREQUENCIES = np.linspace(1e-6, 200.0, 4_001)  # radians per life; 0.3 % of a window lies above
_WINDOW = (1.0 - np.exp(-1j * _FREQUENCIES)) / (1j * _FREQUENCIES)


class Spread(Record, kw_only=True):
    """What makes times of alike requests differ.

    fixed: part of the first token's time that all share [s]; own: of the steps with its prompt, and of one that is
        scheduled already, on the mean
    busy: share of arrivals that find the engine at work.
    gathering: the prompts that they wait for, or share steps with.
    ahead: whether a step is scheduled already.
    seats: the queue for a seat.
    life: the time after the first token.
    """

    fixed: Seconds
    own: Seconds
    busy: Quantity
    gathering: Gathering
    ahead: bool
    seats: SeatQueue
    life: Life

    def first_tokens(self) -> Array:
        """Return times to first token at a single point: quantiles at equal shares.

        Those who wait for a seat start when one is free. Of the others `busy` find a step and other prompts, the rest
        an idle engine.
        """
        shares = (np.arange(SHARES) + 0.5) / SHARES
        waits = self.seats.quantiles(shares)
        late = waits > 0.0
        at_once = self._without_seats()
        number = int((~late).sum())
        found = [float(self.fixed + self.own) + waits[late]]
        if number:
            found.append(np.quantile(at_once, (np.arange(number) + 0.5) / number, method="hazen"))
        return np.sort(np.concatenate(found))

    def _without_seats(self) -> Array:
        """Return times to first token of those who find a seat free, as many for each share of them."""
        times, chances = self.gathering.times(ahead=self.ahead)
        alone = float(self.gathering.chunks * self.gathering.with_prompts)
        busy = float(self.busy)
        values, weights = np.append(times, alone), np.append(busy * chances, 1.0 - busy)
        shares = (np.arange(SHARES) + 0.5) / SHARES
        return float(self.fixed) + quantiles(values, weights, shares)

    def quantiles(self, shares: Array) -> tuple[Array, Array]:
        """Return quantiles of the time to first token and of the latency at a single point [s].

        Both are taken as independent: quantiles of the sums of each with each, at equal shares.
        """
        first = self.first_tokens()
        lives = np.array([NormalDist().inv_cdf(share) for share in ((np.arange(SHARES) + 0.5) / SHARES).tolist()])
        whole = np.add.outer(first, float(self.life.mean) + self.life.deviation() * lives)
        return np.quantile(first, shares, method="hazen"), np.quantile(whole, shares)
