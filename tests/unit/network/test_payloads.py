"""Formats of messages, and switches that copy and add up: what they change of an exchange, and who refuses them."""

from __future__ import annotations

import pytest

import costmodel
from costmodel.analytic.evaluation import evaluate
from costmodel.errors import InputError
from costmodel.workload.operators import ExpertAllToAll

TRAINING = "scenarios.training.communication"


def exchanges(**changes: object) -> dict[str, tuple[float, float]]:
    """Return name -> (bytes of a copy, seconds) of the exchanges of DeepSeek-V3's training step."""
    loaded = costmodel.load(
        "deepseek_v3", set={f"{TRAINING}.{name}": value for name, value in changes.items()}, scenarios=["training"]
    )
    scenario = loaded.scenario("training")
    found = evaluate(scenario, loaded.calibration(scenario)).operators()
    return {
        one.operator.name: (float(one.operator.token_bytes), float(one.time.seconds))
        for one in found if isinstance(one.operator, ExpertAllToAll)
    }  # fmt: skip


def test_logfmt_carries_its_bits_and_two_bounds_a_tile() -> None:
    plain, narrow = exchanges(), exchanges(combine="logfmt10")
    assert narrow["combine"][0] == pytest.approx(7168 * (10 / 8 + 8 / 128))
    assert narrow["combine"][1] < plain["combine"][1]
    assert narrow["dispatch"] == plain["dispatch"]


def test_kernels_that_encode_it_take_as_much_longer_and_nothing_else_does() -> None:
    unit, software = exchanges(combine="logfmt10"), exchanges(combine="logfmt10", codec="50 %")
    for name in ("combine", "dispatch gradient"):
        assert software[name][1] == pytest.approx(1.5 * unit[name][1], rel=1e-12)
    for name in ("dispatch", "combine gradient"):
        assert software[name] == unit[name]
    assert exchanges(codec="50 %") == exchanges()  # BF16 needs no codec


def test_the_narrower_direction_sends_one_copy_where_switches_copy_and_add_up() -> None:
    plain, network = exchanges(), exchanges(in_network=True)
    for name in ("dispatch", "combine gradient"):
        assert network[name][1] < plain[name][1]
    for name in ("combine", "dispatch gradient"):
        assert network[name] == plain[name]
    wide = exchanges(in_network=True, dispatch="bf16", combine="fp8")
    other = exchanges(dispatch="bf16", combine="fp8")
    assert wide["combine"][1] < other["combine"][1]
    assert wide["dispatch"] == other["dispatch"]


def test_copying_and_adding_up_relieve_each_other_and_neither_does_alone() -> None:
    """Of a multicast every receiver still takes all copies, of a reduction every sender still sends all."""
    assert exchanges(multicast=True) == exchanges() == exchanges(reduction=True)
    assert exchanges(multicast=True, reduction=True) == exchanges(in_network=True)


@pytest.mark.parametrize(("field", "value"), [("in_network", "true"), ("codec", "50 %")])
def test_the_bound_refuses_what_it_does_not_know(field: str, value: str) -> None:
    with pytest.raises(InputError, match="bound"):
        costmodel.load("deepseek_v3", set={f"scenarios.decode_ep_bound.communication.{field}": value})


def test_only_messages_are_in_logfmt() -> None:
    with pytest.raises(InputError, match="logfmt10"):
        costmodel.load("deepseek_v3", set={"scenarios.training.precision.kv_cache": "logfmt10"})
