"""Fused layers of experts: what their streams move, and which kernels' streams are priced."""

from __future__ import annotations

import pytest
from builders import FP8, MOE_MODEL, context
from layer_facts import named

from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.records import replace
from costmodel.workload.expert_exchange import FusedExperts
from costmodel.workload.layers import model_work
from costmodel.workload.operators import Elementwise

KEY = "grouped_gemm/bf16"
FUSED = FusedExperts(
    KEY, tokens=64.0, rows=40.0, top_k=4, hidden=512.0, width=128.0, inputs=2.0, wide=2.0, narrow=1.0
)  # fmt: skip


def test_kernels_that_copy_move_the_rows_of_their_own_experts() -> None:
    first, activation, last = FUSED.streams(in_place=False)
    assert first.traffic == 40 * 512 * (2 + 1)
    assert activation.traffic == 40 * 128 * (2 * 2 + 1)
    assert last.traffic == (40 + 64) * 512 * 2
    assert {each.rows for each in (first, activation, last)} == {40.0}


def test_kernels_in_place_read_tokens_once_and_write_zeros_to_the_rows_of_others() -> None:
    first, activation, last = FUSED.streams(in_place=True)
    copies = 64 * 4
    assert first.traffic == 64 * 512 * (2 + 1) + (copies - 40) * (2 * 128 + 512) * 2
    assert activation.traffic == copies * 128 * (2 * 2 + 1)
    assert last.traffic == (copies + 64) * 512 * 2


@pytest.mark.parametrize("in_place", [False, True])
def test_streams_run_as_those_of_the_kernels_that_price_the_products(in_place: bool) -> None:
    beside, apart = FamilyFit(source="beside"), FamilyFit(source="apart")
    product = FamilyFit(in_place=in_place, companions={"elementwise/permute": beside})
    calibration = Calibration("chip", {KEY: product, "elementwise/permute": apart, "elementwise/activation": apart})
    for either, own in zip(FUSED.either(), FUSED.streams(in_place=in_place), strict=True):
        run = calibration.as_run(either)
        assert isinstance(run, Elementwise)
        assert (run.traffic, run.rows, run.in_place) == (own.traffic, own.rows, None)
        assert calibration.fit(run).source == ("beside" if own.kind == "permute" else "apart")
    assert calibration.fit(Elementwise("other", 1.0, kind="permute")).source == "apart"


def test_engines_sum_the_results_of_a_token_once_and_training_programs_order_them_back() -> None:
    seen = replace(context(MOE_MODEL, new_tokens=64.0), phase="prefill")
    gathers = replace(seen, communication=replace(seen.communication, exchange="gather"))
    fused, exchanged = (model_work(one).layers[1].forward for one in (gathers, seen))
    names = [operator.name for operator in fused]
    assert "expert unpermute" not in names
    assert "expert unpermute" in [operator.name for operator in exchanged]
    rows, tokens = named(fused, "expert sum").rows, 64.0
    assert named(fused, "expert sum").traffic == (rows + tokens) * MOE_MODEL.hidden * 2
    training = replace(gathers, phase="training")
    assert "expert unpermute" in [operator.name for operator in model_work(training).layers[1].forward]


def test_low_latency_messages_order_tokens_by_expert_themselves() -> None:
    seen = replace(context(MOE_MODEL, new_tokens=64.0), phase="decode")
    packed = replace(seen, communication=replace(seen.communication, mode="low_latency"))
    ordered, direct = ([each.name for each in model_work(one).layers[1].forward] for one in (seen, packed))
    assert [name for name in ordered if name not in direct] == ["expert permute", "expert unpermute"]
    assert set(direct) <= set(ordered)


def test_inputs_of_narrow_experts_are_cast_where_rows_are_ordered_and_activated() -> None:
    seen = replace(context(MOE_MODEL, new_tokens=64.0), phase="prefill", precision=FP8)
    gathers = replace(seen, communication=replace(seen.communication, exchange="gather"))
    fused, exchanged = (
        [each.name for each in model_work(one).layers[1].forward if isinstance(each, Elementwise)]
        for one in (gathers, seen)
    )
    assert "expert down cast" in exchanged
    assert "expert down cast" not in fused
