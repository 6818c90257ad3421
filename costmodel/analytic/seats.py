"""The queue in front of an engine whose seats are taken: in steady state, and over a run of so many requests."""

from __future__ import annotations

import math

import numpy as np

from costmodel.quantities import Array, Count, Quantity, Seconds, maximum, minimum, where
from costmodel.records import Record

STEADY = 1e-12  # variability below which a queue is that of its means
TIMES, WAITS = 64, 512  # points of a run, and of waits, at which their distribution is taken
SMALL = 0.05  # below which `run_average` is its series
DENSITY = 1.0 / math.sqrt(2.0 * math.pi)  # of the standard normal distribution at 0


def waiting_share(load: Quantity, seats: Count) -> Quantity:
    """Return the share of requests that wait for one of `seats` at a load of up to one [Sakasegawa, 1977]."""
    return load ** ((2.0 * (seats + 1.0)) ** 0.5 - 1.0)


class SeatQueue(Record, kw_only=True):
    """Requests that wait for one of m seats.

    load: rho = rate over the highest rate mu that can be served; seats: m; service: of a request, all seats taken [s],
        so that mu = m / service
    variability: v = c_a^2 + c_s^2, of the times between arrivals and of service
    taken: mean share of the seats that are taken below a load of one: the load itself where a request takes as long
        whoever is beside it, more where it takes longer among many
    requests: of a run that begins with an idle engine, null: of one without end
    """

    load: Quantity
    seats: Count
    service: Seconds
    variability: Quantity
    taken: Quantity | None = None
    requests: Count | None = None

    @property
    def waiting(self) -> Quantity:
        """Return the share of requests that wait in steady state, one from a load of one on.

        Seats whose speed falls with their number in use are taken as often as those of one speed with the same
        distance to the last one in standard deviations of the number taken, beta [Halfin and Whitt, Operations
        Research 29(3), 1981]. A number that returns to its mean m*taken at the mean speed between there and m has

            beta^2 = m (1 - taken)(1 - rho)/rho = m (1 - r)^2/r,    and waits as at the load r [Sakasegawa, 1977].
        """
        load = minimum(self.load, 1.0)
        if self.taken is not None:
            apart = (1.0 - minimum(self.taken, 1.0)) * (1.0 - load) / maximum(load, 1e-300)
            load = 1.0 / (1.0 + apart / 2.0 + (apart + apart * apart / 4.0) ** 0.5)
        return waiting_share(load, self.seats)

    @property
    def wait(self) -> Seconds:
        """Return the mean wait for a seat. From a load of one on, infinite in a run without end.

            W = P * v / (2 * mu * (1 - rho))                                       P: `waiting`
            W = P * (1 - m/N) * sqrt(v*t/mu) * F((rho - 1) * sqrt(mu*t/v))         F: `run_average`

        The first is exact for one seat and Poisson arrivals [Pollaczek and Khinchine]. For more of them Sakasegawa,
        Annals of the Institute of Statistical Mathematics 29 (1977), with Allen and Cunneen's variability. In a run of
        N requests the first m find a seat. After these, for t = (N - m)/rate, the queue is a Brownian motion from 0
        with drift rate - mu and variance v*mu that is reflected there [Abate and Whitt, Advances in Applied Probability
        19, 1987]. Limits: the first for long runs below a load of one. (rho - 1)*t/2 far above it.
        """
        if self.requests is None:
            free = maximum(1.0 - self.load, 0.0)
            finite = where(free > 0, free, 1.0)
            steady = self.waiting * self.variability / (2.0 * finite) * self._gap
            return where(free > 0, steady, np.inf)
        late, duration = self._late, self._duration
        variability, gap = maximum(self.variability, STEADY), self._gap
        grown = (variability * duration * gap) ** 0.5
        drift = (self.load - 1.0) * (duration / (variability * gap)) ** 0.5
        return self.waiting * late * grown * run_average(drift)

    def quantiles(self, shares: Array) -> Array:
        """Return quantiles of the wait at a single point, infinite where it has no steady state.

        In steady state those who wait do so for exponential times. In a run the queue at time t exceeds x with the
        probability of a reflected Brownian motion, averaged over the run.
        """
        if self.requests is None:
            mean = float(self.wait) / max(float(self.waiting), 1e-300)
            tail = np.maximum(float(self.waiting) / (1.0 - shares), 1.0)
            return np.where(tail > 1.0, mean * np.log(tail), 0.0)
        waits = np.linspace(0.0, 1.0, WAITS) ** 2 * self._longest
        exceeding = float(self.waiting) * float(self._late) * self._exceeding(waits)
        return np.interp(-np.log1p(-shares), -np.log(np.maximum(exceeding, 1e-300)), waits, left=0.0)

    @property
    def _gap(self) -> Seconds:
        """Return the mean time between ends of requests, all seats taken: 1/mu."""
        return self.service / self.seats

    @property
    def _late(self) -> Quantity:
        """Return the share of a run's requests that come after the first m."""
        assert self.requests is not None
        return maximum(1.0 - self.seats / self.requests, 0.0)

    @property
    def _duration(self) -> Seconds:
        """Return the time that these take to arrive."""
        assert self.requests is not None
        return maximum(self.requests - self.seats, 0.0) * self._gap / self.load

    @property
    def _longest(self) -> float:
        """Return a wait that a run hardly reaches: drift and eight standard deviations."""
        duration, gap = float(self._duration), float(self._gap)
        spread = 8.0 * math.sqrt(max(float(self.variability), STEADY) * duration * gap)
        return max(float(self.load) - 1.0, 0.0) * duration + spread

    def _exceeding(self, waits: Array) -> Array:
        """Return the probability of longer waits than these, averaged over the run.

        P(Q_t > x) = Phi((d*t - x)/s) + exp(2*d*x/(v*mu)) * Phi((-d*t - x)/s),   s^2 = v*mu*t    [Harrison, 1985]
        """
        from scipy.special import log_ndtr, ndtr

        steps = (np.arange(TIMES) + 0.5) / TIMES
        at = float(self._duration) * steps[:, np.newaxis] ** 2  # more of them early, when a queue grows like sqrt(t)
        gap, variability = float(self._gap), max(float(self.variability), STEADY)
        drift, spread = float(self.load) - 1.0, np.maximum((variability * gap * at) ** 0.5, 1e-300)
        above = ndtr((drift * at - waits) / spread)
        reflected = np.exp(2.0 * drift * waits / (variability * gap) + log_ndtr((-drift * at - waits) / spread))
        return np.asarray(np.minimum(above + reflected, 1.0).T @ steps / steps.sum())


def run_average(drift: Quantity) -> Quantity:
    """Return F(z): the mean over times 0 to 1 of a Brownian motion from 0 with drift z, reflected at 0.

        E[Q_t] = integral over s from 0 to t of E[B_s^+]/s     [Spitzer, Transactions of the AMS 82, 1956],  so that
        F(z) = z*Phi/2 + phi/2 + (Phi - 1/2)*(1/z - 1/(2*z^3)) + phi/(2*z^2)          Phi, phi: of the normal at z

    Limits: -1/(2*z) below, z/2 above, 4/(3*sqrt(2*pi)) at 0.
    """
    from scipy.special import ndtr

    near = np.abs(drift) < SMALL
    far = np.where(near, 1.0, drift)
    whole, density = ndtr(far), DENSITY * np.exp(-far * far / 2.0)
    exact = (
        far * whole / 2.0 + density / 2.0
        + (whole - 0.5) * (1.0 / far - 1.0 / (2.0 * far**3)) + density / (2.0 * far * far)
    )  # fmt: skip
    z = np.where(near, drift, 0.0)
    series = DENSITY * (4.0 / 3.0 + 2.0 / 15.0 * z * z - z**4 / 210.0) + z / 4.0
    found = np.where(near, series, exact)
    return found if isinstance(drift, np.ndarray) else float(found)
