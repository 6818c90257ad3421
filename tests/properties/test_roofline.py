"""Nothing beats its own roofline: no kernel, no message, no step."""

from __future__ import annotations

import pytest
from hypothesis import given
from strategies import few, scenarios

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.training.step_model import training_context
from costmodel.cost.calibration import Calibration
from costmodel.network.group_links import group_links
from costmodel.workload.architecture import stage_layout
from costmodel.workload.layers import model_work
from costmodel.workload.memory import stage_work
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise, ExpertAllToAll, Gemm
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Disaggregated, Scenario

SLACK = 1 - 1e-12


@few
@given(of=scenarios())
def test_no_kernel_is_faster_than_its_arithmetic_and_its_bytes(of: Scenario) -> None:
    device = of.cluster.device
    # Two pools have their own communication: there the bound is that of all processors.
    taken = 0.0 if isinstance(of.plan, Disaggregated) else of.communication.processors
    processors = device.processors - taken
    bandwidth = device.device_memory.bandwidth
    assert bandwidth is not None
    for priced in evaluate(of, Calibration()).operators():
        operator, seconds = priced.operator, priced.time.seconds
        if isinstance(operator, Gemm | AttentionKernel):
            assert seconds >= operator.flop / device.peak(operator.dtype, processors) * SLACK, operator.name
        if isinstance(operator, Gemm | AttentionKernel | Elementwise):
            launches = (1.0 if isinstance(operator, Gemm) else operator.calls) * of.framework.launch
            assert seconds >= (operator.traffic / bandwidth + launches) * SLACK, operator.name


@few
@given(of=scenarios())
def test_no_message_is_faster_than_its_links(of: Scenario) -> None:
    share = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}
    for priced in evaluate(of, Calibration()).operators():
        operator, seconds = priced.operator, float(priced.time.seconds)
        if isinstance(operator, Collective) and operator.kind in share:
            way = group_links(operator.group, of.cluster)
            size = float(operator.group.size)
            fastest = max(float(way.intra), float(way.inter)) + float(way.intra)
            assert seconds >= share[operator.kind] * (size - 1) / size * operator.size / fastest * SLACK
        if isinstance(operator, ExpertAllToAll) and operator.group.size > 1:
            way = group_links(operator.group, of.cluster)
            both = float(way.intra) + float(way.inter)
            assert seconds >= operator.tokens * operator.token_bytes * (1 - 1 / operator.group.size) / both * SLACK


@few
@given(of=scenarios())
def test_no_phase_is_faster_than_its_flop_at_the_peak_of_all_devices(of: Scenario) -> None:
    """The FLOP of each format over its peak on all processors, were they spread perfectly over pipeline ranks."""
    point = evaluate_point(of, Calibration())
    headline = point.metrics[point.headline]
    assert headline is not None
    if not isinstance(of.plan, Training):
        return
    plan, device = of.plan, of.cluster.device
    work = model_work(training_context(of, plan))
    seconds = 0.0
    for stage in stage_layout(of.architecture, int(of.parallel.pp)):
        for count, part in stage_work(work, stage):
            for operator in (*part.forward, *part.input_gradient, *part.weight_gradient):
                if isinstance(operator, Gemm | AttentionKernel):
                    seconds += count * float(operator.flop / device.peak(operator.dtype))
    micro_batches = plan.global_batch / (of.parallel.dp * plan.micro_batch)
    assert headline >= micro_batches * seconds / of.parallel.pp * SLACK


@few
@given(of=scenarios())
def test_a_step_is_no_better_than_its_utilisation_says(of: Scenario) -> None:
    point = evaluate_point(of, Calibration())
    utilisation = point.metrics.get("mfu")
    if utilisation is not None:
        fastest = max(unit.flop_per_cycle * unit.clock for unit in of.cluster.device.math.values())
        assert utilisation <= fastest / (
            of.cluster.device.math["bf16"].flop_per_cycle * of.cluster.device.math["bf16"].clock
        )


@few
@given(of=scenarios())
def test_parts_of_a_time_are_consistent(of: Scenario) -> None:
    for priced in evaluate(of, Calibration()).operators():
        time = priced.time
        parts = (float(time.compute), float(time.memory), float(time.network))
        assert min(*parts, float(time.fixed)) >= 0
        assert float(time.seconds) == pytest.approx(max(parts) + float(time.fixed), rel=1e-9)
