"""Engines that only compute prompts: which prompts share a pass, and how long one waits for its own."""

from __future__ import annotations

import numpy as np

from costmodel.analytic.serving.nodes import NodePlace, last_node
from costmodel.analytic.serving.waiting import NEARLY, queue_wait, waiting_share
from costmodel.equations import equation
from costmodel.quantities import Array, Count, PerSecond, Quantity, Seconds, exp, minimum
from costmodel.records import Record

MANY = 50.0  # prompts that come during a pass, from which on it is never the last


class PromptPasses(Record):
    """Passes over prompts of engines, by how many share one.

    engines: ranks that share no pass count as engines of their own.
    prompts: of a pass, at nodes along `axis`.
    latency: from the begin of a pass to its last prompt's cache [s]; period: between two passes [s].
    """

    engines: Count
    prompts: Array
    latency: Seconds
    period: Seconds
    axis: int

    @property
    @equation
    def highest_rate(self) -> PerSecond:
        """Return the rate of engines whose passes are full.

        highest_rate = engines * largest(prompts / period)
        """
        rates: Quantity = np.max(np.asarray(self.prompts / self.period), axis=self.axis)
        return self.engines * rates

    def read(self, seconds: Seconds, number: Count) -> Seconds:
        """Return a time at the nodes, of a pass over so many prompts."""
        return NodePlace.at(self.prompts, number, self.axis).read(seconds)

    def together(self, rate: PerSecond) -> Count:
        """Return the prompts of a pass: those that come during one of these, at least one, and as many as fit.

        engines * k / period(k) = rate
        """
        served = self.engines * self.prompts / self.period
        return NodePlace.at(served, rate, self.axis).read(self.prompts)

    @equation
    def busy(self, rate: PerSecond) -> Quantity:
        """Return the share of time in which an engine works.

            busy = started * exp(started) / (1 + started * exp(started))
            started = min(rate / engines * period, MANY)

        A pass follows another one while any prompt comes during one, with the chance 1 - exp(-started); prompts come at
        random.
        """
        period = self.read(self.period, self.together(rate))
        started = minimum(rate / self.engines * period, MANY)
        return started * exp(started) / (1.0 + started * exp(started))

    @equation
    def wait(self, rate: PerSecond, others: Quantity = 1.0) -> Seconds:
        """Return the time from a prompt's arrival to the begin of its pass [s].

            wait = others * busy * period / 2 + queued
            load = min(rate / highest_rate, NEARLY)

        queued: for one of `engines * most` places of a full pass.

        others: share of the requests in flight that an arriving one meets, all but itself.
        """
        most = last_node(self.prompts, self.axis)
        period, full = self.read(self.period, self.together(rate)), last_node(self.period, self.axis)
        busy = self.busy(rate)
        load = minimum(rate / self.highest_rate, NEARLY)
        places = self.engines * most
        queued: Quantity = queue_wait(waiting_share(load, places), 1.0, full, places, load)
        return others * busy * period / 2.0 + queued
