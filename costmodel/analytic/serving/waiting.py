"""Mean waits of requests in front of an engine: for a running step, for a seat, behind the prompts of others.

Queues of servers that are alike, in steady state. What comes by chance is that requests arrive at random: steps and
service times are those of the mean request. Each wait is a function of the terms that `explain` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from costmodel.equations import equation
from costmodel.quantities import Count, Quantity, Seconds, exp, maximum, minimum, where

TINY = 1e-12  # where nothing ever comes
NEARLY = 1.0 - 1e-9  # of the highest rate, near which a wait has no end


@equation
def busy_share(in_system: Count, arrival_scv: Quantity) -> Quantity:
    """Return the share of arrivals that find the engine at work [-].

        busy = poisson * (1 - exp(-in_system)) + (1 - poisson) * min(in_system, 1)

    The first of requests whose number is Poisson [M/G/infinity], the second of evenly spaced ones.

    arrival_scv: squared coefficient of variation of the times between arrivals, between these in proportion to it.
    """
    poisson = minimum(arrival_scv, 1.0)
    return poisson * (1.0 - exp(-in_system)) + (1.0 - poisson) * minimum(in_system, 1.0)


@equation
def front_end_wait(front_end_time: Seconds) -> Seconds:
    """Return what client and front end take before and after the engine [s].

    client_and_front_end = front_end_time
    """
    return front_end_time


@equation
def steps_meanwhile(work: Seconds, share: Quantity, with_prompts: Seconds, decode_only: Seconds) -> Count:
    """Return the steps that end while client and front end work, which begin with the end of a step [-].

        meanwhile = where(work < with_prompts, until_prompts, max(until_prompts, renewals))
        until_prompts = (1 - share) * (1 - (1 - share) ** fitting) / share
        fitting = max(work / decode_only - 1/2, 0)                    now more of them and now less
        renewals = work / mean + square / (2 * mean**2) - 1           in the long run [Cox, Renewal Theory, 1962]

    share: of steps that have prompts. mean, square: E[T] and E[T^2] of a step.
    """
    share = maximum(share, 1e-9)  # at none, `fitting`
    mean = share * with_prompts + (1.0 - share) * decode_only
    square = share * with_prompts * with_prompts + (1.0 - share) * decode_only * decode_only
    fitting = maximum(work / decode_only - 0.5, 0.0)
    until_prompts = (1.0 - share) * (1.0 - (1.0 - share) ** fitting) / share
    renewals = work / mean + square / (2.0 * mean * mean) - 1.0
    return where(work < with_prompts, until_prompts, maximum(until_prompts, renewals))


@equation
def residual_step(seated: Quantity, square: Quantity, mean: Seconds, unseen: Seconds) -> Seconds:
    """Return the wait for the step that runs when a request arrives [s].

        rest_of_the_running_step = seated * (square / (2 * mean) + unseen)

    It is what is left of any renewal process that a random arrival looks into [Cox, 1962].

    seated: share of arrivals that find the engine at work and a seat free.
    square, mean: E[T^2] [s^2] and E[T] of a step.
    unseen: steps that go by until the engine looks for requests.
    """
    return seated * (square / (2.0 * mean) + unseen)


@equation
def scheduled_step(busy: Quantity, mean: Seconds) -> Seconds:
    """Return the wait for a step whose requests were chosen while the one before ran [s].

    step_scheduled_already = busy * mean
    """
    return busy * mean


@equation
def waiting_share(load: Quantity, servers: Count) -> Quantity:
    """Return the share of requests that wait for one of `servers` at a load of up to one [Sakasegawa, 1977].

    share_waiting = min(load, 1) ** (sqrt(2 * (servers + 1)) - 1)
    """
    return minimum(load, 1.0) ** ((2.0 * (servers + 1.0)) ** 0.5 - 1.0)


@equation
def queue_wait(
    share_waiting: Quantity, variability: Quantity, service: Seconds, servers: Count, load: Quantity
) -> Seconds:
    """Return the mean wait for one of m servers, infinite from a load of one on [s].

        waiting_for_a_seat = share_waiting * variability / 2 * service / (servers * free)
        behind_other_prompts = share_waiting * variability / 2 * service / (servers * free)
        free = max(1 - load, 0)

    Exact for one server and Poisson arrivals [Pollaczek and Khinchine], else Allen and Cunneen's formula with
    Sakasegawa's share of requests that wait [Annals of the Institute of Statistical Mathematics 29, 1977].

    share_waiting: of requests.
    variability: c_a^2 + c_s^2, of the times between arrivals and of service.
    """
    free = maximum(1.0 - load, 0.0)
    wait = share_waiting * variability / 2.0 * service / (servers * where(free > 0.0, free, 1.0))
    return where(free > 0.0, wait, np.inf)


@equation
def equivalent_load(offered: Quantity, taken: Quantity) -> Quantity:
    """Return the load of servers of one speed that are all taken as often as seats whose speed falls with their number.

        load = 1 / (1 + distance / 2 + sqrt(distance + distance**2 / 4))
        distance = (1 - min(taken, 1)) * (1 - min(offered, 1)) / max(min(offered, 1), TINY)

    The last seat is beta standard deviations of the number taken from its mean, m*taken [Halfin and Whitt, Operations
    Research 29(3), 1981]: beta^2 = m * (1 - taken) * (1 - rho)/rho = m * (1 - r)^2/r, solved for r.

    offered: load, rho. taken: share of the m seats.
    """
    offered = minimum(offered, 1.0)
    distance = (1.0 - minimum(taken, 1.0)) * (1.0 - offered) / maximum(offered, TINY)
    return 1.0 / (1.0 + distance / 2.0 + (distance + distance * distance / 4.0) ** 0.5)


def upper_tail(mean: Seconds, variance: Quantity, normal: float) -> Seconds:
    """Return a quantile of a time with these moments, as that of a gamma distribution [Wilson and Hilferty, 1931].

        q = mean * (1 - 1/(9k) + z/(3*sqrt(k)))^3,   k = mean^2/variance

    normal: z, the quantile of the standard normal distribution.
    """
    inverse = variance / maximum(mean * mean, TINY)
    return mean * maximum(1.0 - inverse / 9.0 + normal * inverse**0.5 / 3.0, 0.0) ** 3


CLIENT, REST, SCHEDULED, SEAT, PROMPTS = (
    "client and front end", "rest of the running step", "step scheduled already", "waiting for a seat",
    "behind other prompts",
)  # fmt: skip
"""Lines of a result: what a request waits for before its own steps."""
WAITS: Mapping[str, Callable[..., Seconds]] = {
    CLIENT: front_end_wait, REST: residual_step, SCHEDULED: scheduled_step, SEAT: queue_wait, PROMPTS: queue_wait,
}  # fmt: skip
"""What computes each wait from its terms."""
