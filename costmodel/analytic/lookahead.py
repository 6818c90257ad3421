"""What an engine's host starts of a step while the device still runs the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costmodel.quantities import Quantity, Seconds, floor, maximum, minimum, where
from costmodel.records import replace
from costmodel.workload.scenario import Scenario

if TYPE_CHECKING:
    from costmodel.analytic.inference import PassTimes
    from costmodel.analytic.steady_state import SteadyState
    from costmodel.workload.plans import Serving


def starts_ahead(scenario: Scenario, plan: Serving) -> Quantity:
    """Return whether the host starts kernels of a step with prompts while the one before runs (1 or 0).

    One loop of the host launches step i and then waits for step i - 1 [TensorRT-LLM documentation, Overlap Scheduler].
    Not where a time of a `layer` bounds the step: it was fitted to whole runs, so that what was hidden is not in it.
    """
    is_one_stage = where(scenario.parallel.pp > 1, 0.0, 1.0)
    eager = scenario.framework.eager_prompts
    starts_each = where(eager.operator > 0.0, 1.0, 0.0) * where(scenario.eager_layer > 0.0, 0.0, 1.0)
    return where(plan.scheduler.overlapped, is_one_stage * starts_each, 0.0)


def hidden_starts(share: Quantity, idle: Seconds, device: Seconds, before: Seconds) -> Seconds:
    """Return how much earlier a step with prompts ends on average, since the host began before the device did [s].

    share: f, of steps that have prompts, any step alike.
    idle: g = H - D >= 0, what the host takes longer than the device.
    device: D.
    before: D', of a step that only decodes, whose CUDA graph takes the host no time.

        h_i = max(h_(i-1), c_(i-2)) + H,   c_i = max(c_(i-1) + D, h_i)       h: the host's end, c: the device's
        a_1 = D',  a_2 = min(max(D' - g, 0), D),  a_(k+1) = max(a_k - g, 0)  head start of the k-th prompt step in a row
        sum over k of (1 - f) * f^(k-1) * min(a_k, g)
            = (1 - f) * min(D', g) + f*g * (1 - f^n + (1 - f) * f^n * (m - n)),     m = a_2/g,  n = floor(m)

    Nothing where all steps have prompts, or the device takes longer than the host.
    """
    left = minimum(maximum(before - idle, 0.0), device) / where(idle > 0.0, idle, 1.0)
    whole = floor(left)
    kept = share**whole
    later = share * idle * (1.0 - kept + (1.0 - share) * kept * (left - whole))
    return (1.0 - share) * minimum(before, idle) + where(idle > 0.0, later, 0.0)


def with_lookahead(
    scenario: Scenario, plan: Serving, state: SteadyState, ranks: Quantity, steps: tuple[PassTimes, PassTimes]
) -> tuple[PassTimes, PassTimes]:
    """Return the times of steps with prompts, less what the host starts ahead, and of those that only decode.

    A step before one with prompts decodes for others with a probability of at most their mean number [Markov]. Without
    it the device is idle and nothing hides. Ranks in lockstep have a prompt in some rank: 1 - (1 - f)^ranks.
    """
    prompts, decodes = steps
    share = state.prompt_steps / (state.prompt_steps + state.decode_only_steps)
    share = 1.0 - (1.0 - minimum(share, 1.0)) ** ranks
    others = minimum(maximum(state.active - state.prompts, 0.0), 1.0) * starts_ahead(scenario, plan)
    hidden = others * hidden_starts(share, prompts.host, prompts.latency - prompts.host, decodes.latency)
    shorter = replace(
        prompts, latency=prompts.latency - hidden, slowest=prompts.slowest - hidden, host=prompts.host - hidden
    )
    return shorter, decodes
