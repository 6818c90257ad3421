"""Prompts that gather while a step runs and share the next one: a queue that is served in batches.

A step of k prompts takes a + b*k, with at most m of them, and the prompts that arrive in it start together: a queue
served in bulk [Bailey, Journal of the Royal Statistical Society B 16(1), 1954] by an engine that never rests, since
requests decode.
"""

from __future__ import annotations

import math

import numpy as np

from costmodel.quantities import Array, Count, Quantity, Seconds, maximum, minimum
from costmodel.records import Record, replace

_TINY = 1e-12  # where no request ever comes
_FULL = 1.0 - 1e-6  # prompts that take all the time
_DEVIATIONS = 6.0  # of the prompts in a step, that the chain counts up to
_ITERATIONS = 6  # of Newton's method, on a concave function from its left
UNITS, STATES, PLACES = 8, 240, 12  # parts of a full step; counts of waiting ones; places of an arrival within a step


class Gathering(Record, kw_only=True):
    """Prompts that wait for one another.

    Prompts longer than a step's room are counted in chunks, of which one fits: r chunks a prompt, m = 1.

    rate: of requests [1/s].
    chunks: r, at least one.
    most: m, prompts (or chunks) that fit into a step.
    with_prompts, decode_only: seconds of both kinds of steps.
    mean: of any step.
    base: a, what a step with prompts takes beside them: that of decoding, nothing of prompts in steps of their own
    prompts: in a step with prompts, as the time of it has them.
    arrival_scv: 1 of Poisson arrivals, 0 of even ones.
    """

    rate: Quantity
    chunks: Count
    most: Count
    with_prompts: Seconds
    decode_only: Seconds
    base: Seconds
    mean: Seconds
    prompts: Count
    arrival_scv: Quantity

    @property
    def each(self) -> Seconds:
        """Return b: what a prompt, or a chunk, adds to a step."""
        return maximum(self.with_prompts - self.base, 0.0) / self.prompts

    @property
    def started(self) -> Count:
        """Return x: prompts, or chunks, that start in a step on average."""
        return minimum(self.rate * self.chunks * self.mean, self.most)

    @property
    def kept(self) -> Quantity:
        """Return the variance of a step's prompts over their mean where q of them or none start together: q - x."""
        return maximum(self.prompts - self.started, 0.0)

    @property
    def dispersion(self) -> Quantity:
        """Return V: the variance of the prompts in a step over their mean, x.

            1/V = 1/(m - x) + (1 - 1/m) * (1 - (rate*b)^2)

        Prompts of a step are those that came in the one before, of Poisson's law with the mean rate*(a + b*k): their
        variance is x/(1 - (rate*b)^2) where any number fits, x*(1 - x) where one does. Both are exact. Between them V
        is within 10 % of simulations where steps are less than two thirds full.
        """
        alone, load = self.kept, minimum(self.rate * self.chunks * self.each, _FULL)
        bound = 1.0 / maximum(self.most - self.started, _TINY)
        gathered = 1.0 / (bound + (1.0 - 1.0 / self.most) * (1.0 - load * load))
        return alone + minimum(self.arrival_scv, 1.0) * maximum(gathered - alone, 0.0)

    @property
    def longer(self) -> Seconds:
        """Return by how much more is left of the step that an arrival finds than of one with or without q prompts.

        b^2*x*V/(2*E[T]), less that of prompts one by one.
        """
        return self.each * self.each * self.started * (self.dispersion - self.kept) / (2.0 * self.mean)

    @property
    def beside(self) -> Seconds:
        """Return by how much a prompt's own step is longer than one of q prompts.

        A prompt is one of E[k^2]/E[k] = x + V of a step.
        """
        return self.each * maximum(self.started + self.dispersion - self.prompts, 0.0)

    def behind(self, rest: Seconds, share: Quantity) -> Seconds:
        """Return the mean wait for steps that are full of other prompts.

        A prompt waits W in all, `rest` for the step that runs; rate*W stand before it [Little, 1961; PASTA]. Of a
        number of geometric law with that mean, p = rate*W/(1 + rate*W), those of whole steps delay it:

            W = rest + R + S * p^m / (1 - p^m),     S = r*(a + b*m),    R = rate*S*(r - 1)*(a + b*m)/2

        R: the chunks that are left of the prompt which a step is in. Limits: for one prompt a step M/D/1 with vacations
        of a, W = rate*S^2/(2*(1 - rate*S)) + a/2 [Doshi, Queueing Systems 1, 1986]. No wait where any number fits.
        share: of arrivals that find the engine at work.
        """
        full = self.base + self.each * self.most
        service = self.chunks * full
        under_way = share * self.rate * service * (self.chunks - 1.0) * full / 2.0
        first = rest + under_way
        wait = first
        for _ in range(_ITERATIONS):
            number = self.rate * wait
            part = number / (1.0 + number)
            below = part ** (self.most - 1.0)
            whole = below * part
            free = maximum(1.0 - whole, _TINY)
            slope = service * self.most * below / (free * free) * self.rate / ((1.0 + number) * (1.0 + number))
            wait = wait + maximum(first + service * whole / free - wait, 0.0) / maximum(1.0 - slope, 1e-3)
        return minimum(self.arrival_scv, 1.0) * (under_way + wait - first)

    def times(self, *, ahead: bool) -> tuple[Array, Array]:
        """Return times from arrival to first token at a single point, and their chances: those of Poisson arrivals.

        The chain of prompts left before each step, k of them computed, solved for its steady state. An arrival finds a
        step by its length, its place in it even. ahead: a step that is scheduled already comes between.
        """
        started = float(self.started)
        if self.lump * (started + _DEVIATIONS * math.sqrt(started * float(self.dispersion))) > STATES:
            return self._many(ahead=ahead)
        return _Chain.of(self).times(ahead=ahead)

    @property
    def lump(self) -> int:
        """Return the units in which the chain counts a prompt."""
        most, chunks = float(self.most), float(self.chunks)
        return max(round(chunks), 1) if most <= 1.0 else max(math.ceil(UNITS / most), 1)

    def _many(self, *, ahead: bool) -> tuple[Array, Array]:
        """Return the same of more prompts a step than the chain counts, whose steps are hardly longer or shorter."""
        step = float(self.mean)
        own = float(self.base + self.each * (self.started + self.dispersion))
        place = (np.arange(PLACES) + 0.5) / PLACES
        return (1.0 - place) * step + own + ahead * step, np.full(PLACES, 1.0 / PLACES)


class _Chain(Record):
    """Steps as a Markov chain: its state is what is left to compute, in units, `lump` of a prompt, `room` of a step.

    rate: of prompts [1/s]; idle, base, unit: seconds of a step without prompts, of one with them beside these, and of a
        unit; chances: of the states before a step
    """

    rate: float
    lump: int
    room: int
    idle: float
    base: float
    unit: float
    chances: Array

    def steps(self, units: Array) -> Array:
        """Return the times of steps with so many units."""
        return np.where(units > 0, self.base + self.unit * units, self.idle)

    @classmethod
    def of(cls, prompts: Gathering) -> _Chain:
        """Return the chain in steady state."""
        most, chunks, rate = float(prompts.most), float(prompts.chunks), float(prompts.rate)
        lump = prompts.lump
        room = 1 if most <= 1.0 else min(round(lump * most), STATES)
        base, unit = float(prompts.base), float(prompts.each)
        if most <= 1.0:
            base, unit = base * chunks / lump, unit * chunks / lump
        else:
            unit /= lump
        chain = cls(rate, lump, room, float(prompts.decode_only), base, unit, np.empty(0))
        states = np.arange(STATES)
        computed = np.minimum(states, room)
        arrivals = _poisson(rate * chain.steps(computed), STATES // lump + 1)
        reached = np.minimum((states - computed)[:, np.newaxis] + lump * np.arange(arrivals.shape[1]), STATES - 1)
        places = (states[:, np.newaxis] * STATES + reached).ravel()
        moves = np.bincount(places, weights=arrivals.ravel(), minlength=STATES * STATES).reshape(STATES, STATES)
        balance = np.vstack([(moves.T - np.eye(STATES))[1:], np.ones(STATES)])
        chances = np.linalg.solve(balance, np.eye(STATES)[-1])
        return replace(chain, chances=np.maximum(chances, 0.0))

    def times(self, *, ahead: bool) -> tuple[Array, Array]:
        """Return times from arrival to first token, and their chances."""
        likely = np.flatnonzero(self.chances > 1e-7)
        computed = np.minimum(likely, self.room)
        steps = self.steps(computed)
        weights = self.chances[likely] * steps
        number = np.arange(max(int(self.rate * steps.max() + 6.0 * math.sqrt(self.rate * steps.max()) + 4.0), 4))
        others = _poisson(self.rate * steps, len(number))
        place = (np.arange(PLACES) + 0.5) / PLACES
        # axes: state, others that come in the step, place of the arrival in it
        before = np.rint(place * number[:, np.newaxis])
        left = (likely - computed)[:, np.newaxis, np.newaxis] + self.lump * before
        finished = np.ceil((left + self.lump) / self.room)  # the step in which its last unit is computed
        together = (likely - computed)[:, np.newaxis, np.newaxis] + self.lump * (number[:, np.newaxis] + 1.0)
        last = np.where(finished > 1.0, self.room, np.minimum(together, self.room))
        full = self.base + self.unit * self.room
        rest = (1.0 - place) * steps[:, np.newaxis, np.newaxis]
        waits = rest + (finished - 1.0) * full + self.base + self.unit * last
        chances = np.broadcast_to((weights[:, np.newaxis] * others)[:, :, np.newaxis], waits.shape)
        found, chance = waits.ravel(), chances.ravel() / chances.sum()
        if not ahead:
            return found, chance
        found, chance = _thinned(found, chance)
        between = self.chances[likely] / self.chances[likely].sum()
        return np.add.outer(found, steps).ravel(), np.outer(chance, between).ravel()


def _poisson(means: Array, count: int) -> Array:
    """Return the chances of 0 to count - 1 under Poisson's law of each mean, the last that of all above it."""
    numbers = np.arange(count)
    logarithms = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(numbers[1:], 1)))])
    mean = np.maximum(means, 1e-300)[:, np.newaxis]
    found = np.exp(numbers * np.log(mean) - mean - logarithms)
    found[:, -1] += np.maximum(1.0 - found.sum(axis=1), 0.0)
    return np.asarray(found)


def _thinned(values: Array, chances: Array, count: int = 512) -> tuple[Array, Array]:
    """Return a distribution as `count` quantiles at equal shares."""
    shares = (np.arange(count) + 0.5) / count
    return quantiles(values, chances, shares), np.full(count, 1.0 / count)


def quantiles(values: Array, chances: Array, shares: Array) -> Array:
    """Return quantiles of values with chances."""
    order = np.argsort(values)
    total = np.cumsum(chances[order])
    return np.asarray(values[order][np.minimum(np.searchsorted(total / total[-1], shares), len(values) - 1)])
