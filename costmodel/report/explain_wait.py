"""What `explain` shows of a line of serving in which no operator runs: a request's wait.

An equation is an expression of its terms, whose values are those of the evaluation: they give the line's time.
"""

from __future__ import annotations

from costmodel.analytic.evaluation import Evaluation
from costmodel.analytic.open_loop import OpenLoopEvaluation
from costmodel.analytic.queueing import aligned_wait, busy_share, residual_step
from costmodel.analytic.seats import run_average
from costmodel.analytic.serving import ServingEvaluation, front_end, padded_ranks
from costmodel.quantities import Quantity
from costmodel.records import ValueRecord
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Scenario

SECTION = "docs/method.md, section 12.4"
RANKS, CLIENT, REST, SCHEDULED = (
    "prompts of other ranks", "client and front end", "rest of the running step", "step scheduled already",
)  # fmt: skip
SEAT, PROMPTS, ALIGNED = "waiting for a seat", "behind other prompts", "prompts that ranks align"
MEMORY, CHUNK, STEPS = "waiting for memory", "waiting for a chunk", "steps under way"
_QUEUE, _SEATS, _LOOP = (f"costmodel/analytic/{name}.py" for name in ("queueing", "seats", "serving"))


class Wait(ValueRecord):
    """A wait: its equation, the module that computes it, and what it is."""

    equation: str
    file: str
    told: str


WAITS = {
    RANKS: Wait(
        "steps * chance * max(prompt_step_time - decode_step_time, 0)", _QUEUE,
        "data-parallel ranks that share experts step together and pad their tokens to the most of any: a step that "
        "only decodes lasts as long as one with prompts where another rank has one",
    ),
    CLIENT: Wait(
        "max(front_end_time - hidden_time, 0)", _LOOP, "before and after the engine; what of it no queue hides"
    ),
    REST: Wait(
        "seated * (residual_time + gathered_time + look_time)", _QUEUE,
        "a request that arrives waits for the step that runs: residual_time is E[T^2]/(2*E[T]) of a step with or "
        "without prompts, gathered_time what prompts that start together add to it, look_time the steps until the "
        "engine looks; seated: the share of arrivals that find it at work and a seat free",
    ),
    SCHEDULED: Wait(
        "max(busy, waiting) * step_time", _QUEUE,
        "an engine that schedules while it runs has the next step's requests chosen already; busy: the share of "
        "arrivals that find it at work, waiting: that of those who wait for a seat",
    ),
    SEAT: Wait(
        "waiting * variability * gap_time / (2 * (1 - load))", _SEATS,
        "all seats are taken: `max_num_seqs`, or the KV cache; gap_time: between two that become free",
    ),
    PROMPTS: Wait(
        "full_steps_time + seated * beside_time", "costmodel/analytic/gathering.py",
        "full_steps_time: steps that are full of the prompts before it; beside_time: what those that start together "
        "with it add to its own step",
    ),
    ALIGNED: Wait(
        "busy * aligned_steps * decode_step_time", _QUEUE, "prompts start once every rank has one (`align_steps`)"
    ),
    MEMORY: Wait("not_admitted / rate", _LOOP, "the KV cache of the others fills memory"),
    CHUNK: Wait("queued / rate", "costmodel/analytic/steady_state.py", "steps are full of prompts' tokens"),
    STEPS: Wait(
        "arrival_steps * step_time + unseen_steps * decode_step_time", _LOOP,
        "a request follows one that ends with a step; the next one runs",
    ),
}  # fmt: skip
_RUN = Wait(
    "waiting * late * (variability * duration_time * gap_time)**0.5 * queue", _SEATS,
    "all seats are taken, in a run of so many requests: late ones come after the first that find a seat, and queue is "
    "the mean of a random walk that rests at zero (`run_average`)",
)  # fmt: skip


def explained(evaluation: Evaluation, scenario: Scenario, name: str) -> tuple[Wait, dict[str, float]]:
    """Return a wait, and the terms of its equation."""
    terms: dict[str, Quantity] = {}
    if isinstance(evaluation, OpenLoopEvaluation | ServingEvaluation) and name == RANKS:
        terms = _of_ranks(evaluation)
    elif isinstance(evaluation, OpenLoopEvaluation):
        terms = _at_a_rate(evaluation, scenario)[name]
    elif isinstance(evaluation, ServingEvaluation):
        terms = evaluation.wait_terms()[name]
    wait = _RUN if name == SEAT and "late" in terms else WAITS[name]
    return wait, {key: float(value) for key, value in terms.items()}


def _of_ranks(evaluation: OpenLoopEvaluation | ServingEvaluation) -> dict[str, Quantity]:
    steps, with_prompts, decode_only, behind = evaluation.steps_of_ranks()
    longer = with_prompts - (decode_only - behind)
    return {
        "steps": steps, "prompt_step_time": with_prompts, "decode_step_time": decode_only - behind,
        "chance": behind / longer if longer else 0.0,
    }  # fmt: skip


def _at_a_rate(evaluation: OpenLoopEvaluation, scenario: Scenario) -> dict[str, dict[str, Quantity]]:
    """Return the terms of every wait of an engine whose requests arrive at a rate."""
    plan, found = scenario.plan, evaluation.solution()
    assert isinstance(plan, Serving)
    queue, gathering, state = found.spread.seats, found.spread.gathering, found.state
    busy = busy_share(found.in_system * padded_ranks(scenario), plan.arrival_scv)
    seated = max(busy - queue.waiting, 0.0)
    alone = found.decode_only - found.behind_ranks
    share = state.prompt_steps / (state.prompt_steps + state.decode_only_steps)
    share += (1.0 - share) * found.behind_ranks / max(found.with_prompts - alone, 1e-12)
    aligned = aligned_wait(state.rate, scenario.parallel.lockstep, plan.scheduler.align_steps)[0]
    seat = {"waiting": queue.waiting, "variability": queue.variability, "gap_time": queue.service / queue.seats}
    if queue.requests is None:
        seat["load"] = queue.load
    else:
        late = max(1.0 - queue.seats / queue.requests, 0.0)
        duration = late * queue.requests * seat["gap_time"] / queue.load
        drift = (queue.load - 1.0) * (duration / (queue.variability * seat["gap_time"])) ** 0.5
        seat |= {"late": late, "duration_time": duration, "queue": run_average(drift)}
    return {
        CLIENT: {"front_end_time": front_end(scenario, plan), "hidden_time": 0.0},
        REST: {
            "seated": seated, "residual_time": residual_step(found.with_prompts, alone, share),
            "gathered_time": gathering.longer, "look_time": 0.5 * (plan.scheduler.look_steps - 1.0) * found.decode_only,
        },
        SCHEDULED: {"busy": busy, "waiting": queue.waiting, "step_time": gathering.mean},
        SEAT: seat,
        PROMPTS: {
            "full_steps_time": gathering.behind(found.waits[REST], seated), "seated": seated,
            "beside_time": gathering.beside,
        },
        ALIGNED: {"busy": busy, "aligned_steps": aligned, "decode_step_time": found.decode_only},
    }  # fmt: skip
