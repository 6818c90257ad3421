"""An engine at a rate of requests: its steps, the prompts that share them, and what a request waits for."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.analytic.serving.steady_state import SteadyState
from costmodel.equations import equation
from costmodel.quantities import Count, Joules, PerSecond, Quantity, Seconds, sum_of
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
