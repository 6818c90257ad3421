"""Experts as Megatron-LM and Transformer Engine run them."""

from __future__ import annotations

import pytest
from builders import BF16, FP8, MOE, MOE_MODEL, context
from layer_facts import named, traffic

from costmodel.records import replace
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.framework_parts import TrainingProgram
from costmodel.workload.layers import model_work
from costmodel.workload.operators import Elementwise, Gemm, Operator
from costmodel.workload.scenario import Precision
from costmodel.workload.work import LayerWork

ROWS = 1024.0 * MOE.top_k  # of the one rank that has all experts
WIDTH = 2.0  # bytes of an element
MXFP8 = replace(BF16, linear="mxfp8", activations="fp8")
SEPARATE = TrainingProgram(expert_streams=4, casts_rows=True)
FUSED = replace(SEPARATE, fused_experts=("mxfp8",))


def experts_by(program: TrainingProgram, ffn: MoeFfn = MOE, precision: Precision = BF16) -> LayerWork:
    """Return a layer of experts as a framework runs it in training."""
    layers = tuple(replace(one, ffn=ffn) if isinstance(one.ffn, MoeFfn) else one for one in MOE_MODEL.layers)
    seen = context(replace(MOE_MODEL, layers=layers), new_tokens=1024.0)
    return model_work(replace(seen, framework=replace(seen.framework, training=program), precision=precision)).layers[1]


def names(work: LayerWork) -> set[str]:
    """Return the names of all kernels of routed experts that are no products of a layer."""
    every: list[Operator] = [*work.forward, *work.input_gradient, *work.weight_gradient]
    return {one.name for one in every if one.name.startswith(("expert ", "combine"))}


@pytest.mark.parametrize(("streams", "side_by_side"), [(4, 4.0), (100, 64.0)])
def test_experts_on_streams_are_as_many_products_of_the_library_with_the_same_work(
    streams: int, side_by_side: float
) -> None:
    grouped, separate = experts_by(TrainingProgram()), experts_by(TrainingProgram(expert_streams=streams))
    for name in ("forward", "input_gradient", "weight_gradient"):
        pairs = zip(getattr(grouped, name), getattr(separate, name), strict=True)
        for one, other in pairs:
            if isinstance(one, Gemm) and isinstance(other, Gemm) and one.is_of_experts:
                assert (one.family, other.family) == ("grouped_gemm", "gemm")
                assert other.groups == pytest.approx(min(side_by_side, float(one.groups)))
                assert other.groups * other.calls == pytest.approx(float(one.groups))
                assert (other.flop, other.traffic) == (pytest.approx(one.flop), pytest.approx(one.traffic))
                assert (one.starts, other.starts) == (1.0, pytest.approx(float(one.groups)))


def test_each_expert_s_rows_are_cast_by_a_kernel_where_it_has_a_product_of_its_own() -> None:
    grouped, separate = (
        experts_by(replace(SEPARATE, expert_streams=streams), precision=MXFP8) for streams in (None, 4)
    )
    for name, direction in (("expert up cast", "forward"), ("expert up gradient cast", "input_gradient")):
        one, other = (named(getattr(work, direction), name) for work in (grouped, separate))
        assert isinstance(one, Elementwise)
        assert isinstance(other, Elementwise)
        assert (one.calls, other.calls) == (1.0, 64.0)
        assert other.traffic == pytest.approx(one.traffic)


def test_biases_of_experts_are_added_as_pytorch_promotes_formats() -> None:
    """Operator by operator: (bytes read, bytes written) of an element."""
    f, e = 4.0, WIDTH
    work, elements = experts_by(SEPARATE, replace(MOE, bias=True)), ROWS * MOE_MODEL.hidden
    forward = f + (e + f + f) + (f + f) + (f + e)  # product, sum, joined, cast
    backward = (e + f) + (f + e) + (e + e) + (f + f + f) + (f + f + f)  # casts, joined, biases, weights
    assert traffic(named(work.forward, "expert bias")) == pytest.approx(elements * forward)
    assert traffic(named(work.input_gradient, "expert bias gradient")) == pytest.approx(elements * backward)


def test_clamps_pass_over_both_halves_of_an_activation_s_inputs() -> None:
    work = experts_by(SEPARATE, replace(MOE, clamped=True))
    both = ROWS * 2 * MOE.intermediate * WIDTH
    assert traffic(named(work.forward, "expert clamps")) == pytest.approx(both * 2 * 2)  # clamps, then one tensor again
    assert traffic(named(work.input_gradient, "expert clamps gradient")) == pytest.approx(both * (3 + 2))


def test_rows_are_cast_where_they_arrive_and_not_where_they_leave() -> None:
    early, late = experts_by(TrainingProgram(), precision=FP8), experts_by(SEPARATE, precision=FP8)
    cast = ROWS * MOE_MODEL.hidden * (WIDTH + 1.0 + 4.0 / 128)
    assert traffic(named(late.forward, "expert up cast")) == pytest.approx(cast)
    assert {"expert up cast", "expert down gradient cast"} <= names(late) - names(early)
    assert "combine gradient cast" in names(early) - names(late)


def test_fused_experts_are_grouped_products_and_one_cast_of_the_rows_a_way() -> None:
    odd = replace(MOE, bias=True, clamped=True)
    separate, fused = (experts_by(program, odd, MXFP8) for program in (SEPARATE, FUSED))
    gone = {"expert bias", "expert clamps", "expert down cast", "expert up gradient cast"}
    assert gone <= names(separate) - names(fused)
    assert {"expert up cast", "expert down gradient cast"} <= names(fused)
    kinds = {one.family for one in fused.forward if isinstance(one, Gemm) and one.is_of_experts}
    assert kinds == {"grouped_gemm"}


def test_what_is_not_fused_is_as_without_experts_that_are() -> None:
    for ffn, precision in ((MOE, FP8), (MOE, BF16), (replace(MOE, gated=False), MXFP8)):
        assert repr(experts_by(FUSED, ffn, precision)) == repr(experts_by(SEPARATE, ffn, precision))


def test_one_kernel_makes_both_copies_of_an_operand_in_blocks() -> None:
    work, plain = experts_by(SEPARATE, precision=MXFP8), experts_by(SEPARATE, precision=FP8)
    copies = 2 * ELEMENT_BYTES["mxfp8"]
    assert traffic(named(work.forward, "expert up cast")) == pytest.approx(ROWS * MOE_MODEL.hidden * (WIDTH + copies))
    assert "expert up transposed casts" in names(plain) - names(work)
