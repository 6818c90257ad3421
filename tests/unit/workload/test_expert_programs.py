"""Experts as Megatron-LM and Transformer Engine run them."""

from __future__ import annotations

import pytest
from builders import BF16, FP8, MOE, MOE_MODEL, context
from layer_facts import kept, named, traffic

from costmodel.records import replace
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.expert_program import ExpertProgram
from costmodel.workload.layers import model_work
from costmodel.workload.operators import Gemm
from costmodel.workload.scenario import Precision
from costmodel.workload.work import LayerWork

ROWS = 1024.0 * MOE.top_k  # of the one rank that has all experts
WIDTH = 2.0  # bytes of an element


def experts_by(program: ExpertProgram, ffn: MoeFfn = MOE, precision: Precision = BF16) -> LayerWork:
    """Return a layer of experts as a framework runs it in training."""
    layers = tuple(replace(one, ffn=ffn) if isinstance(one.ffn, MoeFfn) else one for one in MOE_MODEL.layers)
    seen = context(replace(MOE_MODEL, layers=layers), new_tokens=1024.0)
    return model_work(replace(seen, framework=replace(seen.framework, experts=program), precision=precision)).layers[1]


@pytest.mark.parametrize(("streams", "side_by_side"), [(4.0, 4.0), (100.0, 64.0)])
def test_experts_on_streams_are_as_many_products_of_the_library_with_the_same_work(
    streams: float, side_by_side: float
) -> None:
    grouped, separate = experts_by(ExpertProgram()), experts_by(ExpertProgram(streams=streams))
    for name in ("forward", "input_gradient", "weight_gradient"):
        pairs = zip(getattr(grouped, name), getattr(separate, name), strict=True)
        for one, other in pairs:
            if isinstance(one, Gemm) and isinstance(other, Gemm) and one.is_of_experts:
                assert (one.family, other.family) == ("grouped_gemm", "gemm")
                assert other.groups == pytest.approx(min(side_by_side, float(one.groups)))
                assert other.groups * other.calls == pytest.approx(float(one.groups))
                assert (other.flop, other.traffic) == (pytest.approx(one.flop), pytest.approx(one.traffic))


def test_two_sorts_move_the_rows_twice_each_way() -> None:
    once, twice = experts_by(ExpertProgram()), experts_by(ExpertProgram(sorts=2.0))
    for name in ("expert permute", "expert unpermute"):
        assert traffic(named(twice.forward, name)) == 2 * traffic(named(once.forward, name))
        gradient = f"{name} gradient"
        assert traffic(named(twice.input_gradient, gradient)) == 2 * traffic(named(once.input_gradient, gradient))


@pytest.mark.parametrize(("router", "casts"), [("fp32", 1), ("bf16", 0)])
def test_biases_of_experts_are_added_as_pytorch_promotes_formats(router: str, casts: int) -> None:
    """Operator by operator: (bytes read, bytes written) of an element."""
    f, e = 4.0 if router == "fp32" else 2.0, WIDTH
    cast = [f + e] * casts
    product, addition, joined = f, e + f + f, f + f
    bias, weight = (f + f) + f, (f + f) + f
    work = experts_by(ExpertProgram(unfused=True), replace(MOE, bias=True), replace(BF16, router=router))
    elements = ROWS * MOE_MODEL.hidden
    forward, backward = sum([product, addition, joined, *cast]), sum([*cast, *cast, e + e, bias, weight])
    assert traffic(named(work.forward, "expert bias")) == pytest.approx(elements * forward)
    assert traffic(named(work.input_gradient, "expert bias gradient")) == pytest.approx(elements * backward)


def test_clamps_pass_over_both_halves_of_an_activation_s_inputs_and_keep_what_they_give() -> None:
    work, plain = (experts_by(ExpertProgram(unfused=True), replace(MOE, clamped=clamped)) for clamped in (True, False))
    both = ROWS * 2 * MOE.intermediate * WIDTH
    assert traffic(named(work.forward, "expert clamps")) == pytest.approx(both * 2 * 2)  # clamps, then one tensor again
    assert traffic(named(work.input_gradient, "expert clamps gradient")) == pytest.approx(both * (3 + 2))
    assert kept(work) - kept(plain) == pytest.approx(both)
    assert not [item for item in plain.forward if "clamp" in item.name]


def test_rows_of_narrow_products_are_padded_and_cast_behind_the_exchange() -> None:
    late, early = experts_by(ExpertProgram(unfused=True), precision=FP8), experts_by(ExpertProgram(), precision=FP8)
    elements = ROWS * MOE_MODEL.hidden
    for name in ("expert padding", "expert unpadding"):
        assert traffic(named(late.forward, name)) == pytest.approx(2 * WIDTH * elements)
        assert not [item for item in early.forward if item.name == name]
    cast = named(late.forward, "expert up cast")
    assert traffic(cast) == pytest.approx(elements * (WIDTH + traffic_of_element(FP8)))
    assert not [item for item in early.forward if item.name == "expert up cast"]
    assert not [item for item in experts_by(ExpertProgram(unfused=True)).forward if "padding" in item.name]


def traffic_of_element(precision: Precision) -> float:
    """Return the bytes of a narrow element and its share of a scale."""
    return 1.0 + 4.0 / float(precision.scale_block or 0.0)
