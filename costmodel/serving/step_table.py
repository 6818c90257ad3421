"""Step times of an engine as a table for other simulators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.out_of_memory import too_much_for_a_device
from costmodel.cost.calibration import Calibration
from costmodel.errors import InfeasibleError, InputError
from costmodel.quantities import Array
from costmodel.serving.simulation import UNLIMITED_SEQUENCES
from costmodel.serving.step_times import Sizes, StepPricer, Steps, axis
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Scenario

RATIO = 2.0  # between neighbouring sizes


def serving_scenario(scenarios: Sequence[Scenario]) -> Scenario:
    """Return the only scenario of one serving engine. Raises InputError where there is none, or several."""
    serving = [scenario for scenario in scenarios if isinstance(scenario.plan, Serving)]
    if len(serving) != 1:
        listed = ", ".join(scenario.name for scenario in serving)
        message = f"has several serving scenarios: {listed}" if serving else "has no scenario of one serving engine"
        hint = "choose one with --scenario" if serving else "name a workload with the phase `serving`, or a model"
        raise InputError.single(message, field="scenarios", hint=hint)
    return serving[0]


def step_columns(scenario: Scenario, calibration: Calibration) -> dict[str, Array]:
    """Return steps of an engine, each priced directly: sizes and seconds, decoding alone and with one prompt chunk.

    longest: equals `keys`, as of equal contexts. Raises InfeasibleError where the model does not fit in memory.
    """
    plan, ledger = scenario.plan, ledger_of(scenario)
    assert isinstance(plan, Serving)
    assert ledger is not None, "an engine holds a model"
    if not ledger.total <= scenario.cluster.device.device_memory.capacity:
        raise InfeasibleError(too_much_for_a_device(scenario, ledger))
    pricer = StepPricer(scenario, plan, calibration)
    sizes = _sizes(plan)
    decodes, keys = axis(1, sizes.sequences, RATIO), axis(16, max(sizes.keys, 17), RATIO)
    rows = axis(16, max(sizes.tokens, 17), RATIO)
    alone = [size.ravel() for size in np.meshgrid(decodes, keys, indexing="ij")]
    mixed = np.meshgrid(decodes, keys, rows, keys, indexing="ij")
    with_chunk = [size[mixed[3] >= mixed[2]] for size in mixed]
    one, none = np.ones(len(with_chunk[0])), np.zeros(len(alone[0]))
    seconds = [
        pricer.time(pricer.decoding(*alone)),
        pricer.seconds(Steps(with_chunk[0], with_chunk[1], one, with_chunk[2], with_chunk[3])),
    ]
    return {
        "decodes": np.concatenate([alone[0], with_chunk[0]]),
        "keys": np.concatenate([alone[1], with_chunk[1]]),
        "longest": np.concatenate([alone[1], with_chunk[1]]),
        "chunks": np.concatenate([none, one]),
        "rows": np.concatenate([none, with_chunk[2]]),
        "chunk_keys": np.concatenate([none, with_chunk[3]]),
        "seconds": np.concatenate(seconds),
    }


def _sizes(plan: Serving) -> Sizes:
    longest = int(plan.input_tokens + plan.output_tokens)
    scheduler = plan.scheduler
    return Sizes(
        UNLIMITED_SEQUENCES if plan.seats is None else int(plan.seats),
        int(plan.input_tokens) if scheduler.token_budget is None else int(scheduler.token_budget),
        longest,
    )
