"""An engine at a rate of requests: its steps, the prompts that share them, and what a request waits for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.analytic.serving.nodes import NodePlace, last_node
from costmodel.analytic.serving.steady_state import SteadyState
from costmodel.analytic.serving.waiting import NEARLY, queue_wait, waiting_share
from costmodel.equations import equation
from costmodel.quantities import Array, Count, Joules, PerSecond, Quantity, Seconds, exp, minimum, sum_of
from costmodel.records import Record


class StepTable(Record):
    """Seconds of both kinds of steps at every node, the nodes along one axis before those of the grid."""

    with_prompts: Quantity
    decode_only: Quantity
    prompt_joules: Joules
    decode_joules: Joules


class Steps(Record, kw_only=True):
    """The steps of an engine with so many requests.

    running: requests in a step as one of them meets it, itself included.
    with_prompts, decode_only: of the two kinds [s].
    joules: of the work of the mean step.
    """

    running: Count
    state: SteadyState
    with_prompts: Seconds
    decode_only: Seconds
    joules: Joules

    @property
    @equation
    def own(self) -> Seconds:
        """Return the time of the steps with a request's prompt.

        own = state.first_token_steps * with_prompts
        """
        return self.state.first_token_steps * self.with_prompts

    @property
    def later(self) -> Seconds:
        """Return the time from a request's first token to its last."""
        return self.state.after_first(self.with_prompts, self.decode_only)

    @property
    def mean(self) -> Seconds:
        """Return the mean time of a step: E[T]."""
        return self.state.step(self.with_prompts, self.decode_only)


class PromptSteps(Record, kw_only=True):
    """The prompts that share steps. Those longer than a step's room are counted in chunks, of which one fits.

        square = f*T_p^2 + (1 - f)*T_d^2

    f: share of steps with prompts, which take T_p, the others T_d.
    started: x, prompts that start in a step on average.
    most: m, that fit into one.
    each: b, what one adds to a step [s].
    full: time of a step with m of them [s].
    square: E[T^2] of a step [s^2].
    """

    started: Count
    most: Count
    each: Seconds
    full: Seconds
    square: Quantity


class Solution(Record, kw_only=True):
    """An engine at a rate.

    in_system: mean number of requests that steps work on.
    capacity: highest rate [1/s].
    load: rate over that.
    terms: of each wait.
    waits: seconds of a request by cause, before its own steps.
    """

    steps: Steps
    prompts: PromptSteps
    in_system: Count
    capacity: PerSecond
    load: Quantity
    terms: Mapping[str, Mapping[str, Quantity]]
    waits: Mapping[str, Seconds]

    @property
    @equation
    def first(self) -> Seconds:
        """Return the time to first token.

        first = (steps.own + waits.client_and_front_end + waits.rest_of_the_running_step
                 + waits.step_scheduled_already + waits.waiting_for_a_seat + waits.behind_other_prompts)
        """
        return sum_of([self.steps.own, *self.waits.values()])


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
