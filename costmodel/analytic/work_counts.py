"""FLOP and bytes of one pass of an inference scenario by line, without times."""

from __future__ import annotations

from collections import defaultdict

from costmodel.analytic.inference import inference_layout, plan_pass, prefill_passes
from costmodel.errors import InputError
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, base_name
from costmodel.workload.passes import pass_work
from costmodel.workload.plans import Decode, Prefill
from costmodel.workload.scenario import Scenario

TOTAL, LAYERS = "total", "layers"  # the whole pass; without embedding and head


def counted_work(scenario: Scenario) -> dict[str, dict[str, float]]:
    """Return flop, traffic and pairs of every line of a prefill or decode pass on one rank, `TOTAL` and `LAYERS`.

    Over all layers of all pipeline stages, and all steps where sequences are denoised. flop [FLOP]. Traffic [B]. Pairs:
    (query, key) pairs of all heads and sequences. Raises InputError for other phases.
    """
    plan = scenario.plan
    if not isinstance(plan, Prefill | Decode):
        raise InputError.single("only a prefill or decode scenario counts its work by line", hint="change the phase")
    work, steps = pass_work(plan_pass(scenario, plan)), 1.0
    if isinstance(plan, Prefill):
        steps = float(plan.steps * prefill_passes(scenario, plan).count)
    lines: dict[str, dict[str, float]] = defaultdict(lambda: {"flop": 0.0, "traffic": 0.0, "pairs": 0.0})
    for stage in inference_layout(scenario):
        for index, (times, kind) in enumerate(zip(work.repeats(stage), work.kinds, strict=True)):
            inner = (LAYERS,) if 0 < index <= len(work.body.layers) else ()
            for operator in kind.forward:
                if not isinstance(operator, Gemm | AttentionKernel | Elementwise):
                    continue
                pairs = 0.0
                if isinstance(operator, AttentionKernel):
                    pairs = float(operator.sequences * operator.heads * operator.qk_pairs)
                for name in (base_name(operator.name), TOTAL, *inner):
                    line = lines[name]
                    line["flop"] += steps * times * float(operator.flop)
                    line["traffic"] += steps * times * float(operator.traffic)
                    line["pairs"] += steps * times * pairs
    return dict(lines)
