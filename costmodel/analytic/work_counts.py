"""What one pass of an inference scenario computes and moves, by line: counted, without any time."""

from __future__ import annotations

from collections import defaultdict

from costmodel.analytic.inference import inference_layout, plan_pass
from costmodel.errors import InputError
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, base_name
from costmodel.workload.passes import pass_work
from costmodel.workload.plans import Decode, Prefill
from costmodel.workload.scenario import Scenario

TOTAL, LAYERS = "total", "layers"  # all of the pass; without embedding and head


def counted_work(scenario: Scenario) -> dict[str, dict[str, float]]:
    """Return flop, traffic and pairs of every line of a prefill or decode pass on one rank, of all and of the layers.

    Over all layers of all pipeline stages, and all steps where sequences are denoised: flop [FLOP], traffic [B],
    pairs: (query, key) pairs of all heads and sequences. Raises InputError for other phases.
    """
    plan = scenario.plan
    if not isinstance(plan, Prefill | Decode):
        raise InputError.single("only a prefill or decode scenario counts its work by line", hint="change the phase")
    work, again = pass_work(plan_pass(scenario, plan)), float(plan.steps) if isinstance(plan, Prefill) else 1.0
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"flop": 0.0, "traffic": 0.0, "pairs": 0.0})
    for stage in inference_layout(scenario):
        for place, (times, kind) in enumerate(zip(work.repeats(stage), work.kinds, strict=True)):
            inner = (LAYERS,) if 0 < place <= len(work.body.layers) else ()
            for operator in kind.forward:
                if not isinstance(operator, Gemm | AttentionKernel | Elementwise):
                    continue
                pairs = 0.0
                if isinstance(operator, AttentionKernel):
                    pairs = float(operator.sequences * operator.heads * operator.qk_pairs)
                for name in (base_name(operator.name), TOTAL, *inner):
                    line = found[name]
                    line["flop"] += again * times * float(operator.flop)
                    line["traffic"] += again * times * float(operator.traffic)
                    line["pairs"] += again * times * pairs
    return dict(found)
