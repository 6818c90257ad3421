"""What a breakdown says of its operators' work, against counts made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

import costmodel
from costmodel.result import Entry

HIDDEN, EXPERT_WIDTH, TOP_K, MOE_LAYERS, LAYERS = 7168, 2048, 8, 58, 61  # DeepSeek-V3


@pytest.fixture(scope="module")
def document(v3: costmodel.Workload) -> dict[str, Any]:
    found: dict[str, Any] = v3.simulate()["scenarios"]
    return found


def line(scenario: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in scenario["breakdown"] if entry["name"] == name)


def test_the_work_of_a_training_step_s_lines_is_what_it_executes() -> None:
    even = costmodel.load("deepseek_v3", {"scenarios.training.communication.expert_load": 1.0}, scenarios=["training"])
    training = even.simulate()["scenarios"]["training"]
    executed = sum(entry["flop"] for entry in training["breakdown"])
    tokens = 15360 * 4096
    assert executed * training["devices"] / tokens == pytest.approx(training["metrics"]["flop_per_token"], rel=1e-9)


def test_the_experts_work_is_that_of_the_tokens_they_get(document: dict[str, Any]) -> None:
    """Gate and up projection of eight experts a token, 16,384 tokens a device, 58 layers."""
    up = line(document["prefill"], "expert up")
    assert up["flop"] == pytest.approx(16384 * TOP_K * MOE_LAYERS * 2 * HIDDEN * 2 * EXPERT_WIDTH, rel=1e-12)
    assert up["dtype"] == "fp8"


def test_an_operator_runs_once_a_layer_and_micro_batch(document: dict[str, Any]) -> None:
    decode = document["decode"]
    assert line(decode, "attention core")["count"] == LAYERS * 2
    assert line(decode, "dispatch")["count"] == MOE_LAYERS * 2
    assert line(decode, "vocabulary projection")["count"] == 2


def test_a_weight_that_is_read_once_is_most_of_a_small_batch_s_traffic(document: dict[str, Any]) -> None:
    """64 rows against a weight of 129,280 x 7,168 in BF16, read in each of two micro-batches."""
    head = line(document["decode"], "vocabulary projection")
    weight = 2 * 129280 * HIDDEN * 2.0
    assert weight < head["traffic"] < 1.02 * weight


def test_a_rate_is_below_the_peak_of_its_format_and_below_what_memory_feeds(document: dict[str, Any]) -> None:
    """What fits into L2 may come from there; a fitted kernel may run above the reference clock."""
    for name in ("training", "prefill", "decode"):
        offer = document[name]["hardware"]
        l2, hbm = offer["memory"][-2:]
        for entry in document[name]["breakdown"]:
            if entry["flop_rate"] is not None:
                cached = entry["traffic"] / entry["count"] < l2["capacity"] and entry["basis"] != "roofline"
                feeding = math.inf if cached else entry["arithmetic_intensity"] * hbm["bandwidth"]
                assert entry["flop_rate"] <= min(offer["peaks"][entry["dtype"]], feeding) * (1 + 1e-9), entry["name"]


def test_messages_have_no_device_memory_traffic_and_streams_no_rate(document: dict[str, Any]) -> None:
    dispatch, casts = (line(document["training"], name) for name in ("dispatch", "casts"))
    assert (dispatch["flop"], dispatch["traffic"], dispatch["arithmetic_intensity"]) == (0.0, None, None)
    assert casts["traffic"] > 0
    assert (casts["dtype"], casts["arithmetic_intensity"], casts["flop_rate"]) == (None, None, None)


def test_the_device_s_offer_is_its_datasheet(document: dict[str, Any]) -> None:
    offer = document["decode_ep_bound"]["hardware"]
    assert offer["device"] == "h800-sxm"
    assert offer["peaks"]["bf16"] == pytest.approx(989.4e12)
    assert [level["name"] for level in offer["memory"]] == ["smem", "l2", "hbm"]
    assert offer["memory"][-1]["bandwidth"] == pytest.approx(3.35e12)


def test_a_line_adds_up_runs_and_takes_the_format_of_most_products() -> None:
    entry = Entry("mixed")
    entry.add(2.0, 0.5, "compute", "roofline")
    entry.add_work(3, 10.0, 4.0, "bf16")
    entry.add_work(1, 50.0, 2.0, "fp8")
    entry.add_work(2, 0.0, None, None)
    assert (entry.count, entry.flop, entry.traffic, entry.dtype) == (6, 80.0, 14.0, "fp8")
    assert entry.arithmetic_intensity == pytest.approx(80 / 14)
    assert entry.flop_rate == pytest.approx(80 / 2.0)


def test_a_line_that_takes_longer_does_so_in_each_of_its_parts() -> None:
    entry = Entry("mixed")
    entry.add(2.0, 0.5, "compute", "roofline")
    longer = entry.scaled(3.0)
    assert (longer.time, longer.hidden) == (3.0, 3.0)
    assert (longer.by_bound, longer.by_basis) == ({"compute": 6.0}, {"roofline": 6.0})


@pytest.mark.parametrize("exposed", [0.0, 0.25, 1.0])
def test_what_is_exposed_and_what_is_hidden_are_the_whole_operator(exposed: float) -> None:
    entry = Entry("messages")
    entry.add(8.0, exposed, "network", "fitted")
    assert (entry.time, entry.hidden) == (8.0 * exposed, 8.0 - 8.0 * exposed)
    assert entry.by_bound == {"network": 8.0}


def test_a_line_has_the_bound_and_the_basis_of_most_of_its_time() -> None:
    entry = Entry("products")
    for seconds, bound, basis in ((3.0, "compute", "fitted"), (2.0, "memory", "roofline"), (2.0, "memory", "fitted")):
        entry.add(seconds, 1.0, bound, basis)
    assert (entry.bound, entry.basis) == ("memory", "fitted")
