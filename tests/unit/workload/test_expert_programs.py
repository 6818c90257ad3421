"""Experts as Megatron-LM and Transformer Engine run them."""

from __future__ import annotations

import pytest
from builders import MOE_MODEL, context

from costmodel.records import replace
from costmodel.workload.layers import model_work
from costmodel.workload.operators import Gemm
from costmodel.workload.training_program import TrainingProgram
from costmodel.workload.work import LayerWork


def experts_on(streams: float | None) -> LayerWork:
    """Return a layer of experts as a framework runs it in training."""
    seen = context(MOE_MODEL, new_tokens=1024.0)
    program = TrainingProgram(expert_streams=streams)
    return model_work(replace(seen, framework=replace(seen.framework, training=program))).layers[1]


@pytest.mark.parametrize(("streams", "side_by_side"), [(4.0, 4.0), (100.0, 64.0)])
def test_experts_on_streams_are_as_many_products_of_the_library_with_the_same_work(
    streams: float, side_by_side: float
) -> None:
    grouped, separate = experts_on(None), experts_on(streams)
    for name in ("forward", "input_gradient", "weight_gradient"):
        pairs = zip(getattr(grouped, name), getattr(separate, name), strict=True)
        for one, other in pairs:
            if isinstance(one, Gemm) and isinstance(other, Gemm) and one.is_of_experts:
                assert (one.family, other.family) == ("grouped_gemm", "gemm")
                assert other.groups == pytest.approx(min(side_by_side, float(one.groups)))
                assert other.groups * other.calls == pytest.approx(float(one.groups))
                assert (other.flop, other.traffic) == (pytest.approx(one.flop), pytest.approx(one.traffic))
