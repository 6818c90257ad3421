"""What `explain` shows of a line of serving in which no operator runs: a request's wait."""

from __future__ import annotations

from dataclasses import dataclass

from costmodel.analytic.evaluation import Evaluation
from costmodel.analytic.open_loop import OpenLoopEvaluation
from costmodel.analytic.serving import ServingEvaluation

SECTION = "docs/method.md, section 12.4"
RANKS = "prompts of other ranks"


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait: its equation, the module that computes it, and what it is."""

    equation: str
    file: str
    told: str


_QUEUE, _LOOP = "costmodel/analytic/queueing.py", "costmodel/analytic/steady_state.py"
WAITS = {
    RANKS: Wait(
        "steps * chance * max(prompt_step_time - decode_step_time, 0)", _QUEUE,
        "data-parallel ranks that share experts step together and pad their tokens to the most of any: a step that "
        "only decodes lasts as long as one with prompts where another rank has one",
    ),
    "client and front end": Wait(
        "request + request_token * input tokens", "costmodel/analytic/serving.py",
        "before and after the engine; what of it no queue hides",
    ),
    "rest of the running step": Wait(
        "busy * (E[T^2] / (2*E[T]) + looks not yet due)", _QUEUE, "a request that arrives waits for the step that runs"
    ),
    "step scheduled already": Wait(
        "busy * E[T]", _QUEUE, "an engine that schedules while it runs has the next step's requests chosen already"
    ),
    "waiting for a seat": Wait(
        "P_w * (c_a^2 + c_s^2) / (2*mu*(1 - rho))", "costmodel/analytic/seats.py",
        "all seats are taken: `max_num_seqs`, or the KV cache",
    ),
    "behind other prompts": Wait(
        "rho_p / (2*(1 - rho_p)) * c/C * T_m", _QUEUE, "chunks of prompts that came before fill the token budget"
    ),
    "waiting for memory": Wait("requests that wait / rate", _LOOP, "the KV cache of the others fills memory"),
    "waiting for a chunk": Wait("requests that wait / rate", _LOOP, "steps are full of prompts' tokens"),
    "steps under way": Wait(
        "arrival steps * E[T] + unseen steps * T_d", _LOOP, "a request follows one that ends with a step; the next runs"
    ),
}  # fmt: skip


def wait_terms(evaluation: Evaluation, name: str) -> dict[str, float]:
    """Return the terms of the equation of the wait for other ranks; none of another wait."""
    if name != RANKS or not isinstance(evaluation, OpenLoopEvaluation | ServingEvaluation):
        return {}
    steps, with_prompts, decode_only, behind = evaluation.steps_of_ranks()
    terms = {"steps": steps, "prompt_step_time": with_prompts, "decode_step_time": decode_only - behind}
    longer = with_prompts - terms["decode_step_time"]
    return {**terms, "chance": behind / longer if longer else 0.0}
