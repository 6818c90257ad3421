"""Expert load in results: load of the busiest rank, its active experts, dropped tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from costmodel.analytic.inference import inference_context
from costmodel.analytic.serving.engine_state import admission, engine_passes, full_state, steady_state
from costmodel.analytic.serving.generation import decode_pass
from costmodel.analytic.training.step_model import training_context
from costmodel.quantities import Quantity, sum_of
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.context import Context
from costmodel.workload.expert_load import expert_load
from costmodel.workload.passes import co_batched
from costmodel.workload.plans import Decode, ExpertBound, Generate, Prefill, Serving, Training
from costmodel.workload.pools import Pools
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.scenario import Disaggregated, Scenario


def routing_facts(scenario: Scenario) -> Mapping[str, Quantity] | None:
    """Return means over the model's expert layers, for one micro-batch, null without such layers and for a bound.

    Of a decoding pass where a phase has several kinds. Of passes with and without chunks of prompts the mean, each as
    often as it runs.

    expert_load: rows of the busiest rank over the mean
    experts_hit: active experts of such a rank
    experts_held: experts and replicas on a rank
    dropped_share: copies of tokens over capacity, over all
    """
    plan = scenario.plan
    kinds = scenario.architecture.kinds.items()
    layers = [(count, layer.ffn) for layer, count in kinds if isinstance(layer.ffn, MoeFfn)]
    if not layers or isinstance(plan, ExpertBound):
        return None
    loads = [
        (share * count, expert_load(context, ffn)) for share, context in _contexts(scenario) for count, ffn in layers
    ]
    total = sum(count for count, _ in layers)
    return {
        "expert_load": sum_of(count * load.load for count, load in loads) / total,
        "experts_hit": sum_of(count * load.active_experts for count, load in loads) / total,
        "experts_held": sum_of(count * load.local_experts for count, load in loads) / total,
        "dropped_share": sum_of(count * load.dropped for count, load in loads) / total,
    }


def _contexts(scenario: Scenario) -> list[tuple[Quantity, Context]]:
    """Return (share of the passes, one rank's view of a micro-batch) of the passes that the facts describe."""
    plan = scenario.plan
    if isinstance(plan, Training):
        return [(1.0, training_context(scenario, plan))]
    if isinstance(plan, Generate):
        return [(1.0, decode_pass(scenario, plan, plan.input_tokens + plan.output_tokens / 2).parts[0])]
    if isinstance(plan, Serving):
        if plan.rate is not None or plan.concurrency is None:  # of a full engine where a trace says what arrives
            return [(1.0, engine_passes(scenario, plan, full_state(scenario, plan))[1].parts[0])]
        state = steady_state(scenario, plan, admission(scenario, plan).admitted)
        with_prompts, decode_only = engine_passes(scenario, plan, state)
        if not plan.scheduler.mixes:
            return [(1.0, decode_only.parts[0])]
        mixed = co_batched(with_prompts.parts)[0]
        return [(state.prompt_steps, mixed), (state.decode_only_steps, decode_only.parts[0])]
    if isinstance(plan, Disaggregated):
        return _contexts(scenario.of_pool(plan.decode))
    if isinstance(plan, Pools):
        return _contexts(plan.decode)
    if isinstance(plan, Reinforcement):
        return _contexts(plan.train)
    assert isinstance(plan, Prefill | Decode)
    return [(1.0, inference_context(scenario, plan))]


@np.errstate(divide="ignore", invalid="ignore", over="ignore")  # points that are masked afterwards
def routing_grid(
    scenario: Scenario, shape: tuple[int, ...], layout: npt.NDArray[np.bool_]
) -> Mapping[str, Quantity] | None:
    """Return the facts over a grid of that shape, NaN where a degree does not divide."""
    facts = routing_facts(scenario)
    if facts is None:
        return None
    return {name: np.where(layout, np.broadcast_to(value, shape), np.nan) for name, value in facts.items()}
