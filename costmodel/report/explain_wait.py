"""What `explain` shows of a line of serving in which no operator runs: a request's wait.

An equation is an expression of its terms, whose values are those of the evaluation: they give the line's time.
"""

from __future__ import annotations

from costmodel.analytic.evaluation import Evaluation
from costmodel.analytic.open_loop import CLIENT, CROWD, PROMPTS, REST, SCHEDULED, SEAT, OpenLoopEvaluation
from costmodel.analytic.serving import ServingEvaluation
from costmodel.records import ValueRecord

SECTION = "docs/method.md, section 12.4"
MEMORY, CHUNK, STEPS = "waiting for memory", "waiting for a chunk", "steps under way"
_WAITING, _LOOP = (f"costmodel/analytic/{name}.py" for name in ("waiting", "serving"))


class Wait(ValueRecord):
    """A wait: its equation, the module that computes it, and what it is."""

    equation: str
    file: str
    told: str


WAITS = {
    CLIENT: Wait(
        "max(front_end_time - hidden_time, 0)", _LOOP, "before and after the engine; what of it no queue hides"
    ),
    REST: Wait(
        "seated * (square / (2 * mean) + unseen)", _WAITING,
        "a request that arrives waits for the step that runs: square is E[T^2] and mean E[T] of a step, with prompts "
        "or without, unseen the steps until the engine looks; seated: the share of arrivals that find it at work and "
        "a seat free",
    ),
    SCHEDULED: Wait(
        "busy * mean", _WAITING,
        "an engine that schedules while it runs has the next step's requests chosen already; busy: the share of "
        "arrivals that find it at work or wait for a seat, mean: of a step",
    ),
    SEAT: Wait(
        "waiting * variability * service / (2 * servers * (1 - load))", _WAITING,
        "all seats are taken: `max_num_seqs`, or the KV cache; waiting: the share of requests that find them so",
    ),
    PROMPTS: Wait(
        "waiting * variability * service / (2 * servers * (1 - load))", _WAITING,
        "steps are full of the prompts before it, which share their places as requests share seats: servers is how "
        "many fit into one, service how long they take",
    ),
    CROWD: Wait(
        "seated * crowd * prompt", _WAITING,
        "prompts that arrived in the same step start together: crowd is how many more a prompt starts with than a "
        "step with prompts has on average, prompt what each adds to it",
    ),
    MEMORY: Wait("not_admitted / rate", _LOOP, "the KV cache of the others fills memory"),
    CHUNK: Wait("queued / rate", "costmodel/analytic/steady_state.py", "steps are full of prompts' tokens"),
    STEPS: Wait(
        "arrival_steps * step_time + unseen_steps * decode_step_time", _LOOP,
        "a request follows one that ends with a step; the next one runs",
    ),
}  # fmt: skip


def explained(evaluation: Evaluation, name: str) -> tuple[Wait, dict[str, float]]:
    """Return a wait, and the terms of its equation."""
    assert isinstance(evaluation, OpenLoopEvaluation | ServingEvaluation), "engines that requests wait for"
    return WAITS[name], {key: float(value) for key, value in evaluation.wait_terms()[name].items()}
