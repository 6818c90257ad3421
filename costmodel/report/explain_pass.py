"""What `explain --op step` shows of a prefill or a decoding step: what adds up, what overlaps, what bounds it."""

from __future__ import annotations

from costmodel.analytic.inference import PassTimes, StageTimes, pass_model, pass_times, prefill_passes, stage_times
from costmodel.cost.calibration import Calibration
from costmodel.report.explain_inputs import Inputs
from costmodel.workload.plans import Decode, Prefill, tokens_per_step
from costmodel.workload.scenario import Scenario

FILE = "costmodel/analytic/inference.py"
EQUATION = """\
ttft            = steps * (latency_time + (passes - 1) * longest stage_time)    of a prefill; steps of a diffusion model
tpot            = max(latency_time, stages * longest stage_time) / tokens of a step             of decoding
latency_time    = sum over stages of stage_time + (stages - 1) * p2p_time
stage_time      = span_time + contention_time
span_time       = max over segments e of finish(e)
finish(e)       = duration(e) + max(finish(previous of the stream), finish(previous of the micro-batch))
duration(e)     = alone(e) + sum over others of (1 - r) * m                     with copies: what shares links, and
                  kernels beside exchanges, whose sum is contention_time then
contention_time = max(0, overlap_time * (1 - 1/slowdown) - idle_time)                   slowdown = moe_comm_slowdown
overlap_time    = compute_time + all_to_all_time - span_time                            both streams run
idle_time       = span_time - compute_time                                              the compute stream waits"""


def pass_terms(
    scenario: Scenario, plan: Prefill | Decode, calibration: Calibration
) -> tuple[dict[str, float], Inputs, str]:
    """Return the terms of a pass [s], its sizes, and what bounds it. Those of a stage are those of the longest one."""
    model = pass_model(scenario, plan, calibration)
    times, stages = pass_times(model, None), stage_times(model, None)
    longest = max(stages, key=lambda stage: float(stage.span + stage.contention))
    span, compute, all_to_all = (float(time) for time in (longest.span, longest.compute, longest.all_to_all))
    terms = {
        _headline(plan): _headline_time(scenario, plan, times), "latency_time": float(times.latency),
        "p2p_time": float(model.send.time.seconds) if float(model.hops) else 0.0,
        "stage_time": span + float(longest.contention), "span_time": span,
        "contention_time": float(longest.contention), "compute_time": compute, "all_to_all_time": all_to_all,
        "overlap_time": max(compute + all_to_all - span, 0.0), "idle_time": max(span - compute, 0.0),
        "moe_comm_slowdown": float(model.moe_comm_slowdown),
    }  # fmt: skip
    sizes: Inputs = {
        "pipeline stages": (float(scenario.parallel.pp), "count"),
        "micro-batches of a stage": (float(model.micro_batches), "count"),
    }
    if isinstance(plan, Prefill):
        sizes["passes over the prompts"] = (float(prefill_passes(scenario, plan).count), "count")
    if isinstance(plan, Decode):
        sizes["tokens of a step"] = (float(tokens_per_step(plan.speculative)), "count")
    return terms, sizes, _bound(longest)


def _headline(plan: Prefill | Decode) -> str:
    return "ttft" if isinstance(plan, Prefill) else "tpot"


def _headline_time(scenario: Scenario, plan: Prefill | Decode, times: PassTimes) -> float:
    """Return the metric that the pass is asked for [s]."""
    if isinstance(plan, Prefill):
        return float(plan.steps * times.following(prefill_passes(scenario, plan).count))
    return float(times.round(scenario.parallel.pp) / tokens_per_step(plan.speculative))


def _bound(stage: StageTimes) -> str:
    """Return the stream that is busy longest, and for how much of the span."""
    busy = {"compute stream": float(stage.compute), "all-to-all stream": float(stage.all_to_all)}
    name = max(busy, key=lambda each: busy[each])
    return f"{name}, busy for {busy[name] / float(stage.span):.1%} of {float(stage.span):.4g} s"
